//! Blocking queries: an answer waits until what it is about is newer than the client knows.
//!
//! A query takes a seat, as a watch does: so it is woken by changes of what it asks about and nothing else, and its thread is not
//! the writer's. Whoever remembers an earlier life of the registry is not answered while it settles.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use tokio::time::sleep;

use super::{Consul, ConsulError, ConsulRequest, agent::CONSUL_SERVICE};
use crate::{
    engine::StartPoint,
    model::{Revision, Selector, ServiceName, node_service, topic_of_nodes},
    random,
    registry::ConsulIndex,
    transport::{Interest, WakeRegistration},
};

/// A wait is longer by a random part of this share of it, so that those who asked together do not ask together again.
const JITTER: u32 = 16;

/// What an answer is about.
#[derive(Debug, Clone)]
pub(super) enum QuerySubject {
    /// One service, and the nodes that it is on.
    Service(ServiceName),
    /// The nodes.
    Nodes,
    /// One node and all that is on it. Empty: the local node.
    Node(Box<str>),
    /// Every service, and the nodes.
    Everything,
    /// Nothing that changes.
    Nothing,
}

impl QuerySubject {
    fn interests(&self) -> Vec<Interest> {
        let named = |names: &[ServiceName]| {
            let mut names = names.to_vec();
            names.sort_unstable();
            Interest::Changes(Arc::new(Selector::Names(names.into())))
        };
        match self {
            // The service that stands for the registry itself is on the local node, whether anything is registered or not.
            Self::Service(name) if name.as_str().eq_ignore_ascii_case(CONSUL_SERVICE) => {
                vec![named(&[name.clone(), node_service()])]
            }
            Self::Service(name) => vec![named(&[name.clone(), topic_of_nodes(name)])],
            Self::Nodes => vec![named(&[node_service()])],
            Self::Node(node) => vec![named(&[ConsulIndex::topic_of_node(node)])],
            Self::Everything => vec![named(&[node_service()]), Interest::Changes(Arc::new(Selector::Everything))],
            Self::Nothing => vec![Interest::Nothing],
        }
    }
}

/// A query that waits: counted, and on its seats.
struct BlockingQuery<'a> {
    consul: &'a Consul,
    seats: Vec<WakeRegistration>,
}

impl BlockingQuery<'_> {
    /// Whether its connection, or the process, is going away.
    fn is_leaving(&self) -> bool {
        self.seats.iter().any(WakeRegistration::is_leaving)
    }

    /// Ready when something has happened to what it asks about.
    async fn rung(&self) {
        poll_fn(|context| {
            // All of them are asked, so that all of them know whom to wake.
            let rung = self.seats.iter().filter(|seat| seat.poll_rung(context).is_ready()).count();
            if rung > 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for BlockingQuery<'_> {
    fn drop(&mut self) {
        self.consul.parked.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Consul {
    /// Waits until the index is higher than the one that the client has, its time is over, or the connection has to end; then until
    /// there is room for an answer. Returns the index. `index` finds out how high it is.
    pub(super) async fn wait(
        &self,
        call: &ConsulRequest,
        subject: &QuerySubject,
        index: impl Fn() -> u64,
    ) -> Result<u64, ConsulError> {
        let index = self.wait_for_index(call, subject, index).await?;
        call.connection.wait_for_capacity().await?;
        Ok(index)
    }

    async fn wait_for_index(
        &self,
        call: &ConsulRequest,
        subject: &QuerySubject,
        index: impl Fn() -> u64,
    ) -> Result<u64, ConsulError> {
        let known = call.query.index;
        let newer = || Some(index()).filter(|index| *index > known);
        // Whoever knows nothing is answered at once, settling or not.
        if known == 0 {
            return Ok(index().max(1));
        }
        if !self.must_settle(known)
            && let Some(index) = newer()
        {
            return Ok(index);
        }
        let parked = self.park(call, subject)?;
        let mut over = std::pin::pin!(sleep(spread(call.query.wait)));
        loop {
            // Read after the seat was taken: a change in between has rung.
            let settling = self.must_settle(known);
            if let Some(index) = newer().filter(|_| !settling) {
                return Ok(index);
            }
            if parked.is_leaving() {
                return if settling { Err(ConsulError::Settling) } else { Ok(index().max(1)) };
            }
            tokio::select! {
                () = parked.rung() => {}
                () = &mut over => return if settling { Err(ConsulError::Settling) } else { Ok(index().max(1)) },
            }
        }
    }

    /// Has a query wait, unless too many do.
    fn park(&self, call: &ConsulRequest, subject: &QuerySubject) -> Result<BlockingQuery<'_>, ConsulError> {
        let before = self.parked.fetch_add(1, Ordering::Relaxed);
        let mut parked = BlockingQuery { consul: self, seats: Vec::new() };
        if before >= self.max_blocking_queries {
            return Err(ConsulError::TooManyBlockingQueries(self.max_blocking_queries));
        }
        let seat = |interest| self.shared.notifier.seat(&call.connection, interest);
        parked.seats = subject.interests().into_iter().map(seat).collect();
        Ok(parked)
    }

    /// Whether a client that knows this index has to wait until lost registrations are back: its index is of an earlier life, and
    /// what it knows may be better than what is here. An index that no life can have given is no memory.
    fn must_settle(&self, known: u64) -> bool {
        let registry = self.shared.engine.registry();
        registry.is_settling() && (StartPoint::MIN_REVISION..registry.start_revision()).contains(&Revision(known))
    }

    /// Waits as a query does whose state is told by a hash: until it is another, or the time is over.
    pub(super) async fn wait_for_other(
        &self,
        call: &ConsulRequest,
        subject: &QuerySubject,
        state: impl Fn() -> Option<String>,
    ) -> Result<(), ConsulError> {
        let Some(known) = call.query.get("hash").filter(|hash| !hash.is_empty()) else { return Ok(()) };
        let parked = self.park(call, subject)?;
        let mut over = std::pin::pin!(sleep(spread(call.query.wait)));
        while state().is_some_and(|state| state == known) && !parked.is_leaving() {
            tokio::select! {
                () = parked.rung() => {}
                () = &mut over => break,
            }
        }
        Ok(())
    }
}

/// A wait and a random part of a sixteenth of it: never more, for clients give up a tenth after it.
fn spread(wait: Duration) -> Duration {
    let share = u32::try_from(random::u64() >> 32).unwrap_or(0);
    wait + (wait / JITTER).mul_f64(f64::from(share) / f64::from(u32::MAX))
}
