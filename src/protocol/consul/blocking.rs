//! Blocking queries: an answer waits until the index of its subject is higher than the one that the client knows.
//!
//! A query registers for wake-ups as a watch does, so that only changes of its subject wake it, on its own thread and not on the
//! writer's. A client that knows an index of an earlier incarnation is not answered while the registry settles.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::sleep;

use super::{Consul, ConsulError, ConsulRequest, agent::CONSUL_SERVICE, query::Consistency};
use crate::{
    app::{ReaderMemory, ServerContext, WatchProtocol, WatchedResource, WatcherGuard},
    model::{Revision, Selector, ServiceName, node_service, topic_of_nodes},
    random,
    registry::ConsulIndex,
    transport::{Connection, Interest, Notifier, WakeRegistration},
};

/// Divisor of a wait that gives its maximum jitter. Jitter spreads the next queries of clients that started to wait at
/// the same time.
const JITTER_DIVISOR: u32 = 16;

/// Subject of an answer: the changes that wake a query.
#[derive(Debug, Clone)]
pub(super) enum QuerySubject {
    /// One service, and the nodes of its instances.
    Service(ServiceName),
    /// All nodes.
    Nodes,
    /// One node and its instances, by the stored name of the node: empty for the local one.
    Node(Box<str>),
    /// All services and all nodes.
    Everything,
    /// An answer that never changes.
    Nothing,
}

impl QuerySubject {
    /// Registers a query for changes of its subject.
    fn register(&self, notifier: &Arc<Notifier>, connection: &Arc<Connection>) -> WakeRegistration {
        let named = |names: &[ServiceName]| {
            let mut names = names.to_vec();
            names.sort_unstable();
            notifier.register(connection, Interest::Changes(Arc::new(Selector::Names(names.into()))))
        };
        match self {
            // The instance that stands for the registry itself is on the local node, and has no entry in the registry.
            Self::Service(name) if name.as_str().eq_ignore_ascii_case(CONSUL_SERVICE) => {
                named(&[name.clone(), node_service()])
            }
            Self::Service(name) => named(&[name.clone(), topic_of_nodes(name)]),
            Self::Nodes => named(&[node_service()]),
            Self::Node(node) => named(&[ConsulIndex::topic_of_node(node)]),
            Self::Everything => {
                let mut all = notifier.register(connection, Interest::Changes(Arc::new(Selector::Everything)));
                all.add(&node_service());
                all
            }
            Self::Nothing => notifier.register(connection, Interest::Nothing),
        }
    }

    /// Returns the subject as the list of watchers shows it.
    fn resource(&self) -> WatchedResource {
        match self {
            Self::Service(name) => WatchedResource::Services(Arc::new(Selector::Names([name.clone()].into()))),
            Self::Nodes => WatchedResource::Nodes,
            Self::Node(node) => WatchedResource::Node(node.clone()),
            Self::Everything => WatchedResource::Services(Arc::new(Selector::Everything)),
            Self::Nothing => WatchedResource::Nothing,
        }
    }
}

/// Index of an answer, and the contact with the store when it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerIndex {
    pub(super) index: u64,
    /// Set while the engine reaches its store, as a server of Consul does while it knows a leader.
    pub(super) has_leader: bool,
    /// Time since this process last had all changes for certain.
    pub(super) last_contact: Duration,
}

/// Waiting query. It counts as waiting until it is dropped.
struct BlockingQuery<'a> {
    consul: &'a Consul,
    wake: WakeRegistration,
    listed: WatcherGuard,
}

impl BlockingQuery<'_> {
    /// Returns whether the connection or the process is about to close.
    fn must_end(&self) -> bool {
        self.wake.must_end()
    }

    /// Waits until the subject has changed.
    async fn changed(&self) {
        poll_fn(|context| self.wake.poll_woken(context)).await;
    }
}

impl Drop for BlockingQuery<'_> {
    fn drop(&mut self) {
        self.consul.blocking_queries.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Consul {
    /// Waits until this process has everything, if the query is consistent or the state is older than its `max_stale`; until the index is
    /// higher than the one that the client knows, the wait is over, or the connection is about to close; then until the limits on unread
    /// answers allow one more. `index` reads the current index.
    pub(super) async fn wait_for_change(
        &self,
        request: &ConsulRequest,
        subject: &QuerySubject,
        index: impl Fn() -> u64,
    ) -> Result<AnswerIndex, ConsulError> {
        let (engine, query) = (&self.context.engine, &request.query);
        let is_too_old = !query.max_stale.is_zero() && engine.state_age() > query.max_stale;
        if query.consistency == Consistency::Consistent || is_too_old {
            engine.synchronize().await?;
        }
        let index = self.wait_for_index(request, subject, index).await?;
        request.connection.wait_for_capacity().await?;
        Ok(AnswerIndex { index, has_leader: engine.degraded_since().is_none(), last_contact: engine.state_age() })
    }

    async fn wait_for_index(
        &self,
        request: &ConsulRequest,
        subject: &QuerySubject,
        index: impl Fn() -> u64,
    ) -> Result<u64, ConsulError> {
        let known = request.query.index;
        let newer = || Some(index()).filter(|index| *index > known);
        // A client without an index is answered at once, even while the registry settles.
        if known == 0 {
            return Ok(index().max(1));
        }
        if !self.has_to_settle(known)
            && let Some(index) = newer()
        {
            return Ok(index);
        }
        let query = self.start_waiting(request, subject)?;
        let mut deadline = pin!(sleep(with_jitter(request.query.wait)));
        loop {
            // Read after the registration for wake-ups: a change in between wakes the query.
            let settling = self.has_to_settle(known);
            query.listed.watcher.waiting.store(settling, Ordering::Relaxed);
            if let Some(index) = newer().filter(|_| !settling) {
                return Ok(index);
            }
            if query.must_end() {
                return if settling { Err(ConsulError::Settling) } else { Ok(index().max(1)) };
            }
            tokio::select! {
                () = query.changed() => {}
                () = &mut deadline => return if settling { Err(ConsulError::Settling) } else { Ok(index().max(1)) },
            }
        }
    }

    /// Counts a query, lists it and registers it for wake-ups, unless too many wait.
    fn start_waiting(&self, request: &ConsulRequest, subject: &QuerySubject) -> Result<BlockingQuery<'_>, ConsulError> {
        if self.blocking_queries.fetch_add(1, Ordering::Relaxed) >= self.max_blocking_queries {
            self.blocking_queries.fetch_sub(1, Ordering::Relaxed);
            return Err(ConsulError::TooManyBlockingQueries(self.max_blocking_queries));
        }
        let ServerContext { notifier, watchers, clock, .. } = &*self.context;
        let (connection, resource) = (&request.connection, subject.resource());
        let listed = watchers.enter(
            WatchProtocol::Consul,
            connection,
            request.user_agent.clone(),
            (resource, None),
            clock.now(),
        );
        // A query that waits for another hash has no index: it counts as up to date.
        let known = if request.query.index > 0 { request.query.index } else { self.registry().applied().0 };
        listed.watcher.sent.store(known, Ordering::Relaxed);
        Ok(BlockingQuery { consul: self, wake: subject.register(notifier, connection), listed })
    }

    /// Returns whether a client that knows this index has to wait until the registry has settled.
    fn has_to_settle(&self, known: u64) -> bool {
        self.context.must_settle(ReaderMemory::Revision(Revision(known)))
    }

    /// Waits until the hash of the answer is not the one that the client knows, or the wait is over.
    pub(super) async fn wait_for_hash_change(
        &self,
        request: &ConsulRequest,
        subject: &QuerySubject,
        hash: impl Fn() -> Option<String>,
    ) -> Result<(), ConsulError> {
        let Some(known) = request.query.get("hash").filter(|hash| !hash.is_empty()) else { return Ok(()) };
        let query = self.start_waiting(request, subject)?;
        let mut deadline = pin!(sleep(with_jitter(request.query.wait)));
        while hash().is_some_and(|hash| hash == known) && !query.must_end() {
            tokio::select! {
                () = query.changed() => {}
                () = &mut deadline => break,
            }
        }
        Ok(())
    }
}

/// Returns a wait with a random addition of up to a sixteenth. Clients time out when the wait is exceeded by a tenth.
fn with_jitter(wait: Duration) -> Duration {
    let random = u32::try_from(random::u64() >> 32).unwrap_or(0);
    wait + (wait / JITTER_DIVISOR).mul_f64(f64::from(random) / f64::from(u32::MAX))
}
