//! Calls, one after the other on each of many connections.

use std::{cell::Cell, rc::Rc, time::Duration};

use anyhow::{Result, ensure};
use serde_json::Value;
use tokio::{task::JoinSet, time::sleep};

use super::{
    Outcome,
    ask::{fed, pass, passing, register},
    line::Line,
};
use crate::{children::Server, now};

const SERVICES: usize = 100;
const WARM_UP: Duration = Duration::from_millis(500);
const RUN: Duration = Duration::from_millis(2_500);

/// What is asked for, again and again.
#[derive(Debug, Clone, Copy)]
pub enum Calls {
    /// Registrations of ever new instances, with a check that is fed, or without.
    Register { checked: bool },
    /// A check of each connection's own passes.
    Pass,
    /// Who works of a service?
    Read { gzip: bool },
}

impl Calls {
    /// As many connections as there are calls in flight.
    pub fn lanes(self) -> usize {
        match self {
            Self::Register { .. } => 16,
            Self::Pass | Self::Read { .. } => 64,
        }
    }

    fn request(self, lane: usize, id: usize) -> Vec<u8> {
        match self {
            Self::Register { checked } => register(id % SERVICES, id, 0, if checked { fed() } else { Value::Null }),
            Self::Pass => pass(lane),
            Self::Read { gzip } => passing(0, gzip),
        }
    }

    /// Keeps a server that has what it needs busy, on the thread's `LocalSet`.
    pub async fn run(self, server: &Server) -> Result<Outcome> {
        let (done, next) = (Rc::new(Cell::new(0_u32)), Rc::new(Cell::new(0)));
        let mut tasks = JoinSet::new();
        for (lane, mut line) in Line::open_all(server.http()?, self.lanes()).await?.into_iter().enumerate() {
            let (done, next) = (Rc::clone(&done), Rc::clone(&next));
            tasks.spawn_local(async move {
                let mut request = self.request(lane, next.replace(next.get() + 1));
                loop {
                    line.ask(&request).await?;
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
        ensure!(count > 0.0, "{self:?}: nothing was done in {seconds} s");
        Ok(vec![("rate", "/s", count / seconds), ("cpu", "µs", cpu * 1e6 / count)])
    }
}
