//! Readers that wait for changes: one list for all protocols.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use dashmap::DashMap;

use super::{QueryRate, XdsWatch};
use crate::{
    model::{InstanceFilter, Revision, Selector, ServiceName, UnixMillis},
    registry::{ClockReading, PendingChanges, Registry},
    transport::Connection,
};

/// Maximum length of a stored `user-agent`, in characters.
const MAX_USER_AGENT_CHARS: usize = 128;

/// Open watches of all protocols. A watch adds itself once and updates its entry by atomics only, so waking a watch takes
/// no lock.
///
/// DNS queries are too short to be listed: they are counted as a rate for each transport.
#[derive(Debug, Default)]
pub struct Watchers {
    /// Rate of DNS queries over UDP.
    pub dns_udp: Arc<QueryRate>,
    /// Rate of DNS queries over TCP.
    pub dns_tcp: Arc<QueryRate>,
    open: Arc<OpenWatches>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct OpenWatches {
    by_id: DashMap<u64, Arc<Watcher>>,
    /// Number of them by protocol, in the order of [`WatchProtocol`].
    counts: [AtomicUsize; 4],
}

/// Protocol of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchProtocol {
    /// `DiscoveryService/Watch`.
    Grpc,
    /// `grpc.health.v1.Health/Watch`.
    GrpcHealth,
    /// Blocking query of Consul's HTTP API.
    Consul,
    /// xDS stream.
    Xds,
}

/// Part of the registry that a watch reads.
#[derive(Debug, Clone)]
pub enum WatchedResource {
    /// Instances of services.
    Services(Arc<Selector>),
    /// All nodes of Consul's catalog.
    Nodes,
    /// One node of Consul's catalog and the instances on it, by the name of the node. Empty: the local node.
    Node(Box<str>),
    /// Health of the process itself.
    Process,
    /// Resources that an xDS stream subscribes to.
    Xds(Arc<dyn XdsWatch>),
    /// Resource that never changes, such as a service whose name is invalid.
    Nothing,
}

/// `user-agent` of a client, cut to 128 characters, so that a watch keeps no more of a request than that.
#[derive(Debug, Clone, Default)]
pub struct UserAgent(Box<str>);

impl UserAgent {
    /// Cuts the text of the header.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.chars().take(MAX_USER_AGENT_CHARS).collect())
    }

    /// Text of the user agent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One open watch.
#[derive(Debug)]
pub struct Watcher {
    /// Protocol that it uses.
    pub protocol: WatchProtocol,
    /// Connection that carries it.
    pub connection: Arc<Connection>,
    /// `user-agent` of its client, truncated to 128 characters. Empty if the client sent none.
    pub user_agent: UserAgent,
    /// Part of the registry that it reads.
    pub resource: WatchedResource,
    /// Filter of its instances.
    pub filter: Option<Arc<InstanceFilter>>,
    /// Time at which it was opened.
    pub connected_at: UnixMillis,
    /// Revision that the client was last sent; for a blocking query, the index that the client knows.
    pub sent: AtomicU64,
    /// Time at which everything had last been sent, in milliseconds since 1970. Zero: never yet.
    pub synced_at: AtomicU64,
    /// Number of times that the watch had to start over with a snapshot.
    pub resets: AtomicU32,
    /// Set while the watch waits until the registry has settled.
    pub waiting: AtomicBool,
}

/// Entry of a watch in the list. Dropping it removes the watch.
#[derive(Debug)]
pub struct WatcherGuard {
    open: Arc<OpenWatches>,
    id: u64,
    /// State of the watch, as the list shows it.
    pub watcher: Arc<Watcher>,
}

impl Drop for WatcherGuard {
    fn drop(&mut self) {
        self.open.by_id.remove(&self.id);
        self.open.counts[self.watcher.protocol as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watchers {
    /// Adds a watch.
    pub fn enter(
        &self,
        protocol: WatchProtocol,
        connection: &Arc<Connection>,
        user_agent: UserAgent,
        (resource, filter): (WatchedResource, Option<&Arc<InstanceFilter>>),
        now: ClockReading,
    ) -> WatcherGuard {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let watcher = Arc::new(Watcher {
            protocol,
            connection: Arc::clone(connection),
            user_agent,
            resource,
            filter: filter.cloned(),
            connected_at: now.wall,
            sent: AtomicU64::new(0),
            synced_at: AtomicU64::new(0),
            resets: AtomicU32::new(0),
            waiting: AtomicBool::new(false),
        });
        self.open.counts[protocol as usize].fetch_add(1, Ordering::Relaxed);
        self.open.by_id.insert(id, Arc::clone(&watcher));
        WatcherGuard { open: Arc::clone(&self.open), id, watcher }
    }

    /// Returns the number of open watches of a protocol.
    #[must_use]
    pub fn count(&self, protocol: WatchProtocol) -> usize {
        self.open.counts[protocol as usize].load(Ordering::Relaxed)
    }

    /// Returns whether no watch of any protocol is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.by_id.is_empty()
    }

    /// Returns the number of watches that wait until the registry has settled.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.open.by_id.iter().filter(|watcher| watcher.waiting.load(Ordering::Relaxed)).count()
    }

    /// Returns up to `limit` watches with ids after this one that are wanted, by id.
    pub fn page(&self, after: u64, limit: usize, wanted: impl Fn(&Watcher) -> bool) -> Vec<(u64, Arc<Watcher>)> {
        let mut found: Vec<_> = self
            .open
            .by_id
            .iter()
            .filter(|watcher| *watcher.key() > after && wanted(watcher))
            .map(|watcher| (*watcher.key(), Arc::clone(watcher.value())))
            .collect();
        found.sort_unstable_by_key(|(id, _)| *id);
        found.truncate(limit);
        found
    }
}

impl Watcher {
    /// Returns the services that the watch reads. `None`: it reads something else.
    #[must_use]
    pub fn selector(&self) -> Option<&Selector> {
        match &self.resource {
            WatchedResource::Services(selector) => Some(selector),
            WatchedResource::Nodes
            | WatchedResource::Node(_)
            | WatchedResource::Process
            | WatchedResource::Xds(_)
            | WatchedResource::Nothing => None,
        }
    }

    /// Returns whether the watch reads the instances of this service. Consul's API ignores the case of names: a blocking query reads a
    /// service under its name in lower case.
    #[must_use]
    pub fn reads(&self, service: &ServiceName) -> bool {
        if let WatchedResource::Xds(stream) = &self.resource {
            return stream.reads(service);
        }
        let folded = || (self.protocol == WatchProtocol::Consul).then(|| service.folded()).flatten();
        self.selector().is_some_and(|selector| {
            selector.includes(service) || folded().is_some_and(|folded| selector.includes(&folded))
        })
    }

    /// Returns the changes that the watch has not been sent yet. There are none while the watch waits for settling, because it then gets
    /// a new snapshot, and none for a health watch or a blocking query, which are not sent changes.
    #[must_use]
    pub fn pending(&self, registry: &Registry) -> PendingChanges {
        let sent = Revision(self.sent.load(Ordering::Relaxed));
        match (self.protocol, self.selector()) {
            (WatchProtocol::Grpc, Some(selector)) if !self.waiting.load(Ordering::Relaxed) => {
                registry.pending(selector, sent)
            }
            _ => PendingChanges::default(),
        }
    }
}
