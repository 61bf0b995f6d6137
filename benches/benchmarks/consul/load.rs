//! Calls to Consul's API, one after the other on each of many connections.

use std::{cell::Cell, rc::Rc, time::Duration};

use anyhow::{Result, ensure};
use serde_json::Value;
use tokio::{task::JoinSet, time::sleep};

use super::{
    Outcome,
    http_connection::HttpConnection,
    requests::{pass_check, read_passing, register, ttl_check},
};
use crate::{now, processes::Server};

const SERVICES: usize = 100;
const WARM_UP: Duration = Duration::from_millis(500);
const RUN: Duration = Duration::from_millis(2_500);

/// Kind of call.
#[derive(Debug, Clone, Copy)]
pub enum Calls {
    /// Registrations of new instances, with or without a TTL check.
    Register { checked: bool },
    /// Reports that a check passes, one check for each connection.
    Pass,
    /// Reads of the passing instances of a service.
    Read { gzip: bool },
}

impl Calls {
    /// Returns the number of connections, each with one call in flight.
    pub fn lanes(self) -> usize {
        match self {
            Self::Register { .. } => 16,
            Self::Pass | Self::Read { .. } => 64,
        }
    }

    fn request(self, lane: usize, id: usize) -> Vec<u8> {
        match self {
            Self::Register { checked } => {
                register(id % SERVICES, id, 0, if checked { ttl_check() } else { Value::Null })
            }
            Self::Pass => pass_check(lane),
            Self::Read { gzip } => read_passing(0, gzip),
        }
    }

    /// Loads a prepared server, on the thread's `LocalSet`.
    pub async fn run(self, server: &Server) -> Result<Outcome> {
        let (done, next) = (Rc::new(Cell::new(0_u32)), Rc::new(Cell::new(0)));
        let mut tasks = JoinSet::new();
        for (lane, mut connection) in
            HttpConnection::open_all(server.http()?, self.lanes()).await?.into_iter().enumerate()
        {
            let (done, next) = (Rc::clone(&done), Rc::clone(&next));
            tasks.spawn_local(async move {
                let mut request = self.request(lane, next.replace(next.get() + 1));
                loop {
                    connection.ask(&request).await?;
                    done.set(done.get() + 1);
                    if matches!(self, Self::Register { .. }) {
                        request = self.request(lane, next.replace(next.get() + 1));
                    }
                }
            });
        }
        self.measure(server, &done, &mut tasks).await
    }

    async fn measure(self, server: &Server, done: &Cell<u32>, tasks: &mut JoinSet<Result<()>>) -> Result<Outcome> {
        sleep(WARM_UP).await;
        let (count, cpu, start) = (done.get(), server.cpu()?, now());
        tokio::select! {
            () = sleep(RUN) => {}
            Some(failed) = tasks.join_next() => failed??,
        }
        let count = f64::from(done.get() - count);
        let seconds = start.elapsed().as_secs_f64();
        let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64();
        ensure!(count > 0.0, "{self:?}: no call was answered in {seconds} s");
        Ok(vec![("rate", "/s", count / seconds), ("cpu", "µs", cpu * 1e6 / count)])
    }
}
