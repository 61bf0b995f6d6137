//! The registry: a sharded map of services, one order of all changes, and reads at any revision.
//!
//! Pure: no clock, no IO, no runtime, no wire format. Callers pass a reading of the clocks ([`ClockReading`]).
//!
//! * A writer takes the order lock ([`Registry::order`]), has its command decided against the present state, and applies the
//!   change at the next revision. Only engines write.
//! * A reader has a cursor ([`Subscription`]): events after the cursor are taken from an event log or, where the log no longer
//!   reaches back, replaced by a new snapshot. Nothing is queued for a reader.
//! * A heartbeat changes its lease and nothing else ([`LeaseTable`]).
//! * A policy is changed like an instance: decided under the order lock and applied at the next revision ([`PolicyTable`]).
//!
//! Locks, in the order in which they may be taken: order, then one of: a service, the history, the names, the policies, the timing
//! wheel, self-preservation. None of the latter is held while another is taken, and no guard of a map outlives its statement.
//!
//! Not here: numbering and durability (`engine`), encoding (protocols), waking readers (`transport`).

mod apply;
mod attachment;
mod command;
mod consul_index;
mod context;
mod decide;
mod event;
mod event_log;
mod holder;
mod instance_map;
mod lease;
mod lease_clock;
mod lease_table;
mod name_index;
mod name_suffixes;
mod node_index;
mod node_table;
mod policy_table;
mod self_preservation;
mod service;
mod settling;
mod snapshot;
mod subscription;
mod timing_wheel;

#[cfg(test)]
#[cfg(loom)]
mod models;
#[cfg(any(test, fuzzing))]
#[expect(clippy::unwrap_used, reason = "as in any test")]
pub(crate) mod test_support;
#[cfg(any(test, fuzzing))]
#[expect(clippy::unwrap_used, reason = "as in any test")]
pub(crate) mod tests;

use std::{
    collections::BTreeSet,
    iter,
    net::IpAddr,
    ops::Bound,
    sync::{Arc, atomic::AtomicIsize},
};

pub use apply::WriteGuard;
pub use attachment::Attachment;
pub use command::{
    Command, CommandError, CommandOutcome, DeregisterGuard, InstanceDescription, NewCheck, Patch, Register,
    RegisterWithoutLease,
};
pub use consul_index::{ConsulIndex, TakenCheck};
pub use context::CheckSource;
pub use decide::{Decision, ProposedChange, StampedChange};
pub use event::{Change, ClockReading, Entry, Event, RemovalReason};
pub use holder::SessionEpoch;
pub use instance_map::{Chunk, Chunks};
pub use lease::{EndReason, HeartbeatStreamId, Lease, LeaseTime};
pub use lease_clock::LeaseClock;
pub use lease_table::{HashLease, LeaseTable};
pub use name_suffixes::NameSuffixes;
pub use node_index::node_name;
pub use policy_table::{
    MAX_POLICIES, MAX_POLICY_REVISIONS, PolicyChange, PolicyChanges, PolicyCommand, PolicyDecision, PolicyError,
    PolicyOutcome, PolicyRevision, PolicyTable, PolicyWithDefaults, ProposedPolicy, validate_policies,
};
pub use self_preservation::{EventKind, SelfPreservationEvent, SelfPreservationStatus, ThresholdInput};
pub use snapshot::PendingChanges;
pub use subscription::{Delta, DeltaKind, ResetReason, SnapshotChunk, Step, Subscription};

use crate::{
    model::{Incarnation, Instance, PolicyScope, Revision, ServiceName, node_id, node_service},
    sync::{AtomicU64, DashMap, Mutex, Ordering, RwLock},
};
use event_log::EventLog;
use name_index::{NameIndex, fold};
use node_index::NodeIndex;
use self_preservation::SelfPreservation;
use service::{Service, ServiceState};
use settling::Settling;

/// Minimum revision of what is configured. Consul shows a node as created one revision before it is described.
const MIN_CONFIGURED_REVISION: Revision = Revision(2);
/// Number of services that [`Registry::each_service`] reads at a time.
const SERVICES_PER_PAGE: usize = 1_000;
/// Maximum number of events in the history of all services.
pub const MAX_HISTORY_EVENTS: usize = 65_536;
/// Maximum size of the history of all services in bytes. Events of large instances leave it sooner.
pub const MAX_HISTORY_BYTES: usize = 64 * 1024 * 1024;

/// Callbacks for changes, called once every reader can see them.
pub trait ChangeListener: Send + Sync + std::fmt::Debug {
    /// Called with each visible event by the writer, which holds no lock: an implementation must be quick and must not block.
    fn changed(&self, event: &Event);
    /// Called after [`Self::changed`] with the topics that the same event concerns. They are computed on demand, because most
    /// events have no reader of a topic.
    fn topics_changed(&self, _topics: &dyn Fn() -> BTreeSet<ServiceName>) {}
    /// Called with each changed policy by the writer, which holds no lock: as for [`Self::changed`].
    fn policy_changed(&self, _scope: &PolicyScope) {}
    /// Called with each entry whose holder changed, and with each entry that changed in a way that readers do not see, by the writer,
    /// which holds no lock: as for [`Self::changed`]. A change that readers see, too, is passed to both.
    fn holder_changed(&self, _entry: &Arc<Entry>) {}
    /// Called when another incarnation has begun. The changes to its contents follow.
    fn incarnation_changed(&self) {}
}

/// Instance counts and newest revision of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Name of the service.
    pub name: ServiceName,
    /// Number of registered instances.
    pub instances: usize,
    /// Number of routable instances.
    pub available: usize,
    /// Revision of the last change that readers could see.
    pub revision: Revision,
}

/// Registry of one incarnation.
#[derive(Debug)]
pub struct Registry {
    /// Changes only if the contents of the store were replaced.
    incarnation: AtomicU64,
    /// Services that have instances.
    services: DashMap<ServiceName, Arc<Service>>,
    /// Names of the services in order, for pages and prefixes. Changes with the map, under the order lock.
    names: RwLock<BTreeSet<ServiceName>>,
    /// Names of the services that are not all in lower case.
    spellings: NameIndex,
    /// Suffixes of dotted service names.
    service_suffixes: RwLock<NameSuffixes>,
    /// Suffixes of `_service._tag` for the dotted tags of all instances.
    tag_suffixes: RwLock<NameSuffixes>,
    /// Nodes by address and by suffix.
    node_index: NodeIndex,
    /// Recent events of all services.
    history: RwLock<EventLog>,
    /// Newest revision whose changes readers can see.
    applied: AtomicU64,
    /// Held while a command is decided and applied, so that there is one order. A plain mutex: it is held for half a
    /// microsecond.
    order: Mutex<()>,
    /// Number of registered instances. Changes under the order lock.
    instances: AtomicIsize,
    /// Indexes for Consul's API.
    consul_index: ConsulIndex,
    policies: PolicyTable,
    /// Revision before the first one of this process, or of the incarnation if it began later.
    start_revision: AtomicU64,
    /// Revision up to which processes that share the registry may not know when something changed.
    index_floor: AtomicU64,
    /// Session of this process, by which it holds entries.
    session: AtomicU64,
    leases: LeaseTable,
    self_preservation: SelfPreservation,
    settling: Settling,
    listener: Arc<dyn ChangeListener>,
}

impl Registry {
    /// Creates an empty registry. Its first change has a revision after `start`.
    #[must_use]
    pub fn new(
        incarnation: Incarnation,
        start: Revision,
        now: ClockReading,
        listener: Arc<dyn ChangeListener>,
    ) -> Self {
        Self {
            incarnation: AtomicU64::new(incarnation.0),
            services: DashMap::new(),
            names: RwLock::default(),
            spellings: NameIndex::default(),
            service_suffixes: RwLock::default(),
            tag_suffixes: RwLock::default(),
            node_index: NodeIndex::default(),
            history: RwLock::new(EventLog::new(start)),
            applied: AtomicU64::new(start.0),
            order: Mutex::new(()),
            instances: AtomicIsize::new(0),
            consul_index: ConsulIndex::default(),
            policies: PolicyTable::default(),
            start_revision: AtomicU64::new(start.0),
            index_floor: AtomicU64::new(start.0),
            session: AtomicU64::new(SessionEpoch::default().0),
            leases: LeaseTable::new(now.lease),
            self_preservation: SelfPreservation::new(),
            settling: Settling::default(),
            listener,
        }
    }

    /// Incarnation of this registry.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation.load(Ordering::Acquire))
    }

    /// Newest revision: a reader sees all changes up to it.
    #[must_use]
    pub fn applied(&self) -> Revision {
        Revision(self.applied.load(Ordering::Acquire))
    }

    /// Session by which this process holds entries.
    #[must_use]
    pub fn session(&self) -> SessionEpoch {
        SessionEpoch(self.session.load(Ordering::Relaxed))
    }

    /// Returns whether several replicas share the registry.
    #[must_use]
    pub fn has_replicas(&self) -> bool {
        self.session() != SessionEpoch::default()
    }

    /// Returns whether this process holds an entry: it ends the lease of the entry if heartbeats stay away, and runs its checks.
    #[must_use]
    pub fn holds(&self, entry: &Entry) -> bool {
        entry.holder == self.session()
    }

    /// Leases of all registrations.
    #[must_use]
    pub fn leases(&self) -> &LeaseTable {
        &self.leases
    }

    /// Policies of the services.
    #[must_use]
    pub fn policies(&self) -> &PolicyTable {
        &self.policies
    }

    /// Returns one instance.
    #[must_use]
    pub fn get(&self, service: &ServiceName, id: &str) -> Option<Arc<Entry>> {
        self.read(service, |state| state.instances().get(id).cloned()).flatten()
    }

    /// Returns up to `limit` instances of a service with ids after `after`, by id.
    #[must_use]
    pub fn page(&self, service: &ServiceName, after: &str, limit: usize) -> Vec<Arc<Entry>> {
        self.read(service, |state| state.instances().page(after, limit)).unwrap_or_default()
    }

    /// Returns all instances of a service at one moment. Later changes do not show in them.
    #[must_use]
    pub fn chunks(&self, service: &ServiceName) -> Chunks {
        self.read(service, |state| state.snapshot().0).unwrap_or_default()
    }

    /// Returns the instances of all services, nodes included, by service. They are from one moment if the caller holds the order lock.
    #[must_use]
    pub fn all_chunks(&self) -> Vec<Chunks> {
        let mut names = self.names_from("", "", usize::MAX);
        names.push(node_service());
        names.sort_unstable();
        names.iter().map(|name| self.chunks(name)).collect()
    }

    /// Returns the summary of a service. `None`: it has no instances.
    #[must_use]
    pub fn summary(&self, service: &ServiceName) -> Option<Summary> {
        self.read(service, |state| Summary {
            name: service.clone(),
            instances: state.instances().len(),
            available: state.instances().available(),
            revision: state.visible_revision(),
        })
    }

    /// Revision of the last visible change of a service's instances, or of a node that some of them are on. `None`: the service
    /// has no instances.
    #[must_use]
    pub fn view_revision(&self, service: &ServiceName) -> Option<Revision> {
        self.read(service, ServiceState::view_revision)
    }

    /// Returns up to `limit` services with this prefix and names after `after`, by name. The second value is the name after
    /// which to continue, if there may be more.
    #[must_use]
    pub fn services(&self, prefix: &str, after: &str, limit: usize) -> (Vec<Summary>, Option<ServiceName>) {
        let mut names = self.names_from(prefix, after, limit.saturating_add(1));
        let more = names.len() > limit;
        names.truncate(limit);
        (names.iter().filter_map(|name| self.summary(name)).collect(), names.pop().filter(|_| more))
    }

    /// Iterates over all services, by name. No lock is held meanwhile: a service that is added or removed may be missing.
    pub fn each_service(&self) -> impl Iterator<Item = Summary> + Send {
        let mut after = Some(String::new());
        let pages = iter::from_fn(move || {
            let (page, next) = self.services("", &after.take()?, SERVICES_PER_PAGE);
            after = next.map(|name| name.to_string());
            Some(page)
        });
        pages.flatten()
    }

    /// Calls a function with each entry, nodes included. No lock is held meanwhile: an entry that is added or removed may be missing.
    pub fn for_each_entry(&self, mut visit: impl FnMut(&Arc<Entry>)) {
        for service in self.each_service().map(|summary| summary.name).chain([node_service()]) {
            for chunk in self.chunks(&service).iter() {
                chunk.entries().iter().for_each(&mut visit);
            }
        }
    }

    /// Returns whether a service has a name with this proper suffix: `web` where there is `v1.web`.
    #[must_use]
    pub fn is_service_suffix(&self, suffix: &str) -> bool {
        self.service_suffixes.read().contains(suffix)
    }

    /// Returns whether this is a proper suffix of `_service._tag` for some dotted tag: `_a.b` and `b` where there is `a.b`.
    #[must_use]
    pub fn is_tag_suffix(&self, suffix: &str) -> bool {
        self.tag_suffixes.read().contains(suffix)
    }

    /// Returns whether a node has a name with this proper suffix.
    #[must_use]
    pub fn is_node_suffix(&self, suffix: &str) -> bool {
        self.node_index.has_suffix(suffix)
    }

    /// Returns the nodes with this address, as instances.
    #[must_use]
    pub fn nodes_at(&self, address: IpAddr) -> Vec<Arc<Entry>> {
        let nodes = node_service();
        self.node_index.at(address).iter().filter_map(|id| self.get(&nodes, id.as_str())).collect()
    }

    /// Returns the services that have instances and whose names differ from this one in nothing but case, by name.
    #[must_use]
    pub fn spellings_of(&self, name: &str) -> Vec<ServiceName> {
        let folded = fold(name);
        let mut names = self.spellings.all(&folded);
        names.extend(self.services.get(&*folded).map(|found| found.key().clone()));
        names.retain(|name| !name.is_reserved());
        names.sort_unstable();
        names
    }

    /// Returns the revision at which one spelling of a name last lost its last instance while other spellings had some. 0: this
    /// never happened.
    #[must_use]
    pub fn last_spelling_removed(&self, name: &str) -> Revision {
        self.spellings.last_removed(&fold(name))
    }

    /// Number of registered instances.
    #[must_use]
    pub fn instance_count(&self) -> usize {
        usize::try_from(self.instances.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Number of services that have instances.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.names.read().len()
    }

    /// Indexes for Consul's API.
    #[must_use]
    pub fn consul_index(&self) -> &ConsulIndex {
        &self.consul_index
    }

    /// Revision before the first one of this process, or of the incarnation if that began later. A reader that remembers this revision or
    /// a lower one got it from an earlier process or incarnation.
    #[must_use]
    pub fn start_revision(&self) -> Revision {
        Revision(self.start_revision.load(Ordering::Acquire))
    }

    /// Revision up to which processes that share the registry may not know when something changed, because one of them started there. Indexes
    /// are not below it, so that all processes show the same.
    #[must_use]
    pub fn index_floor(&self) -> Revision {
        Revision(self.index_floor.load(Ordering::Acquire))
    }

    /// Revision of what is not registered but configured: the local node, and the service that stands for the registry itself. Replicas
    /// show the same.
    #[must_use]
    pub fn configured_revision(&self) -> Revision {
        if self.has_replicas() { MIN_CONFIGURED_REVISION } else { self.start_revision().max(MIN_CONFIGURED_REVISION) }
    }

    /// Returns a node, as an instance. Upper and lower case are the same in `name`; it is empty for the local node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Arc<Entry>> {
        self.get(&node_service(), &node_id(name))
    }

    /// Returns the entry that the id of a Consul registration stands for. While an instance moves to another service, that is
    /// the entry in the new service, even if `instance` is the one in the old service.
    #[must_use]
    pub fn entry_of_id(&self, instance: &Instance) -> Option<Arc<Entry>> {
        let id = instance.consul_registration.as_ref().map(|_| instance.id.as_str())?;
        self.get(&self.consul_index.service_of(id)?, id)
    }

    fn count(&self, service: &ServiceName, difference: isize) {
        if !service.is_reserved() {
            self.instances.fetch_add(difference, Ordering::Relaxed);
        }
    }

    /// Returns up to `limit` logged events before `before`, the newest first, of one service or of all.
    #[must_use]
    pub fn events(&self, service: Option<&ServiceName>, before: Revision, limit: usize) -> Vec<Arc<Event>> {
        let until = Revision(before.0.saturating_sub(1)).min(self.applied());
        let Some(service) = service else {
            return self.history.read().newest(until, limit, |_| true).0;
        };
        // The log of the service reaches further back than that of all, unless the service was removed and created
        // again.
        let own = self.read(service, |state| state.event_log().newest(until, limit, |_| true).0).unwrap_or_default();
        if own.len() == limit {
            return own;
        }
        let (mut found, mut position) = (Vec::new(), Some(until));
        while let Some(until) = position
            && found.len() < limit
        {
            // In batches, because writers want the lock.
            let (batch, next) =
                self.history.read().newest(until, limit - found.len(), |event| event.service() == service);
            found.extend(batch);
            position = next;
        }
        if own.len() > found.len() { own } else { found }
    }

    /// Returns the names with this prefix after `after`. They are copied, so that no lock is held while services are read.
    fn names_from(&self, prefix: &str, after: &str, limit: usize) -> Vec<ServiceName> {
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let names = self.names.read();
        let names = names.range::<str, _>((from, Bound::Unbounded));
        names.take_while(|name| name.as_str().starts_with(prefix)).take(limit).cloned().collect()
    }

    fn find(&self, service: &ServiceName) -> Option<Arc<Service>> {
        self.services.get(service).map(|found| Arc::clone(found.value()))
    }

    /// Reads the state of a service. `None`: it has no instances.
    fn read<T>(&self, service: &ServiceName, read: impl FnOnce(&ServiceState) -> T) -> Option<T> {
        self.find(service)?.state().map(|state| read(&state))
    }
}
