//! Who is present: a sharded map of services, the one order of all changes to it, and views for readers.
//!
//! Pure: no clock, no IO, no runtime. Whoever calls hands in a reading of the clocks ([`ClockReading`]).
//!
//! * A writer takes the order lock ([`Registry::order`]), has its command decided against what is there, and applies the
//!   draft under the next revision. An engine does this.
//! * A reader has a cursor ([`Subscription`]): what came after the cursor is taken from a ring of recent events, or, where
//!   the ring no longer reaches back, from a new snapshot. Nothing is queued for a reader.
//! * A heartbeat touches its lease and nothing else ([`LeaseTable`]).
//!
//! Locks, in the order in which they may be taken: order → a service, or the history, or the names, or the wheel, or protection. None of
//! the latter is held while another is taken, and no guard of a map outlives its statement.
//!
//! What is not here: numbering and durability (engines), encoding (doors), waking (`transport`).

mod apply;
mod attachment;
mod command;
mod consul_index;
mod context;
mod decide;
mod event;
mod event_log;
mod instance_map;
mod lease;
mod lease_clock;
mod lease_table;
mod name_index;
mod name_suffixes;
mod node_index;
mod nodes;
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
pub use instance_map::{Chunk, Chunks};
pub use lease::{EndReason, HeartbeatStreamId, Lease, LeaseTime};
pub use lease_clock::LeaseClock;
pub use lease_table::{HashLease, LeaseTable};
pub use name_suffixes::NameSuffixes;
pub use node_index::node_name;
pub use self_preservation::{EventKind, SelfPreservationEvent, SelfPreservationStatus, ThresholdInput};
pub use snapshot::PendingVisits;
pub use subscription::{Delta, DeltaKind, ResetReason, SnapshotChunk, Step, Subscription};

use crate::{
    model::{Incarnation, Instance, Revision, ServiceName, node_id, node_service},
    sync::{AtomicU64, DashMap, Mutex, Ordering, RwLock},
};
use event_log::EventLog;
use name_index::{NameIndex, fold};
use node_index::NodeIndex;
use self_preservation::SelfPreservation;
use service::{Service, ServiceState};
use settling::Settling;

/// Services looked up at a time, where all are.
const PAGE: usize = 1_000;
/// Events that the registry remembers over all services.
pub const HISTORY: usize = 65_536;
/// Most bytes of them: large instances that change often push each other out sooner.
pub const HISTORY_BYTES: usize = 64 * 1024 * 1024;

/// Callbacks for changes, called once every reader can see them.
pub trait ChangeListener: Send + Sync + std::fmt::Debug {
    /// Called with each visible event by the writer, which holds no lock: an implementation must be quick and must not block.
    fn changed(&self, event: &Event);
    /// Called after [`Self::changed`] with the topics that the same event concerns. They are computed on demand, because most
    /// events have no reader of a topic.
    fn topics_changed(&self, _topics: &dyn Fn() -> BTreeSet<ServiceName>) {}
}

/// A service in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its name.
    pub name: ServiceName,
    /// How many instances are registered.
    pub instances: usize,
    /// How many of them should be called.
    pub available: usize,
    /// The revision of the last change that readers could see.
    pub revision: Revision,
}

/// The registry.
#[derive(Debug)]
pub struct Registry {
    incarnation: Incarnation,
    /// Services that have instances.
    services: DashMap<ServiceName, Arc<Service>>,
    /// Their names in order, for pages and prefixes. Changes with the map, under the order lock.
    names: RwLock<BTreeSet<ServiceName>>,
    /// Those of them that are not all in lower case.
    spellings: NameIndex,
    /// Suffixes of their dotted names.
    service_suffixes: RwLock<NameSuffixes>,
    /// Suffixes of `_service._tag` for the dotted tags of all instances.
    tag_suffixes: RwLock<NameSuffixes>,
    /// Nodes by what is not their name.
    node_index: NodeIndex,
    /// The recent events of all services.
    history: RwLock<EventLog>,
    /// The newest revision whose changes are all there for readers.
    applied: AtomicU64,
    /// Held while a command is decided and applied: there is one order. A plain mutex: it is held for half a microsecond.
    order: Mutex<()>,
    /// How many instances are registered. Changes under the order lock.
    instances: AtomicIsize,
    /// Who is known by another name than service and id.
    catalog: ConsulIndex,
    /// The revision before the first that this process has made.
    beginning: Revision,
    leases: LeaseTable,
    protection: SelfPreservation,
    settling: Settling,
    audience: Arc<dyn ChangeListener>,
}

impl Registry {
    /// An empty registry whose next change comes after `start`.
    #[must_use]
    pub fn new(
        incarnation: Incarnation,
        start: Revision,
        now: ClockReading,
        audience: Arc<dyn ChangeListener>,
    ) -> Self {
        Self {
            incarnation,
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
            catalog: ConsulIndex::default(),
            beginning: start,
            leases: LeaseTable::new(now.lease),
            protection: SelfPreservation::new(),
            settling: Settling::default(),
            audience,
        }
    }

    /// The life of this registry.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The newest revision: whoever reads now sees all changes up to it.
    #[must_use]
    pub fn applied(&self) -> Revision {
        Revision(self.applied.load(Ordering::Acquire))
    }

    /// The leases of all registrations.
    #[must_use]
    pub fn leases(&self) -> &LeaseTable {
        &self.leases
    }

    /// One instance.
    #[must_use]
    pub fn get(&self, service: &ServiceName, id: &str) -> Option<Arc<Entry>> {
        self.read(service, |state| state.roster().get(id).cloned()).flatten()
    }

    /// Up to `limit` instances of a service whose ids come after this one, by id.
    #[must_use]
    pub fn page(&self, service: &ServiceName, after: &str, limit: usize) -> Vec<Arc<Entry>> {
        self.read(service, |state| state.roster().page(after, limit)).unwrap_or_default()
    }

    /// All instances of a service, to hold on to.
    #[must_use]
    pub fn blocks(&self, service: &ServiceName) -> Chunks {
        self.read(service, |state| state.snapshot().0).unwrap_or_default()
    }

    /// A service in a line. `None`: it has no instances.
    #[must_use]
    pub fn summary(&self, service: &ServiceName) -> Option<Summary> {
        self.read(service, |state| Summary {
            name: service.clone(),
            instances: state.roster().len(),
            available: state.roster().available(),
            revision: state.seen(),
        })
    }

    /// Revision of the last change of what is shown with a service: of its instances that readers could see, or of a node that some
    /// of them are on. `None`: it has no instances.
    #[must_use]
    pub fn shown(&self, service: &ServiceName) -> Option<Revision> {
        self.read(service, ServiceState::shown)
    }

    /// Up to `limit` services whose names start with `prefix` and come after this one, by name; and the name after which to
    /// go on, if there may be more.
    #[must_use]
    pub fn services(&self, prefix: &str, after: &str, limit: usize) -> (Vec<Summary>, Option<ServiceName>) {
        let mut names = self.names_from(prefix, after, limit.saturating_add(1));
        let more = names.len() > limit;
        names.truncate(limit);
        (names.iter().filter_map(|name| self.summary(name)).collect(), names.pop().filter(|_| more))
    }

    /// All services, by name. Nothing is held meanwhile: what comes or goes behind the page that is being read is seen, or not.
    pub fn each_service(&self) -> impl Iterator<Item = Summary> + Send {
        let mut after = Some(String::new());
        let pages = iter::from_fn(move || {
            let (page, next) = self.services("", &after.take()?, PAGE);
            after = next.map(|name| name.to_string());
            Some(page)
        });
        pages.flatten()
    }

    /// Returns whether a service has a name of which this is a proper suffix: `web` where there is `v1.web`.
    #[must_use]
    pub fn is_service_suffix(&self, suffix: &str) -> bool {
        self.service_suffixes.read().contains(suffix)
    }

    /// Returns whether this is a proper suffix of `_service._tag` for some dotted tag: `_a.b` and `b` where there is `a.b`.
    #[must_use]
    pub fn is_tag_suffix(&self, suffix: &str) -> bool {
        self.tag_suffixes.read().contains(suffix)
    }

    /// Returns whether a node has a name of which this is a proper suffix.
    #[must_use]
    pub fn is_node_suffix(&self, suffix: &str) -> bool {
        self.node_index.has_suffix(suffix)
    }

    /// The nodes with this address, as instances.
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

    /// Returns the revision at which one spelling of a name last lost its last instance, while other spellings had some. 0: none
    /// has.
    #[must_use]
    pub fn spelling_lost(&self, name: &str) -> Revision {
        self.spellings.lost(&fold(name))
    }

    /// How many instances are registered.
    #[must_use]
    pub fn instance_count(&self) -> usize {
        usize::try_from(self.instances.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// How many services have instances.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.names.read().len()
    }

    /// Who is known by another name than service and id.
    #[must_use]
    pub fn catalog(&self) -> &ConsulIndex {
        &self.catalog
    }

    /// The revision before the first that this process has made: what a reader knows up to there, it knows from an earlier one.
    #[must_use]
    pub fn beginning(&self) -> Revision {
        self.beginning
    }

    /// A node, as an instance; its name is found in any case. `name`: empty for the local node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Arc<Entry>> {
        self.get(&node_service(), &node_id(name))
    }

    /// Who is meant by the id of an instance with a listing. Not the instance itself, if it has moved to another service, and has not been
    /// taken away there.
    #[must_use]
    pub fn listed_as(&self, instance: &Instance) -> Option<Arc<Entry>> {
        let service =
            instance.consul_registration.as_ref().and_then(|_| self.catalog.service_of(instance.id.as_str()))?;
        self.get(&service, instance.id.as_str())
    }

    fn count(&self, service: &ServiceName, more: isize) {
        if !service.is_reserved() {
            self.instances.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// Up to `limit` remembered events before `before`, the newest first, of one service or of all.
    #[must_use]
    pub fn events(&self, service: Option<&ServiceName>, before: Revision, limit: usize) -> Vec<Arc<Event>> {
        let until = Revision(before.0.saturating_sub(1)).min(self.applied());
        let Some(service) = service else {
            return self.history.read().newest(until, limit, |_| true).0;
        };
        // Its own ring reaches further back than that of all, unless it is a new entry under an old name.
        let own = self.read(service, |state| state.ring().newest(until, limit, |_| true).0).unwrap_or_default();
        if own.len() == limit {
            return own;
        }
        let (mut found, mut place) = (Vec::new(), Some(until));
        while let Some(until) = place
            && found.len() < limit
        {
            // A glance at a time: writers want the lock.
            let (some, next) =
                self.history.read().newest(until, limit - found.len(), |event| event.service() == service);
            found.extend(some);
            place = next;
        }
        if own.len() > found.len() { own } else { found }
    }

    /// The names that start with `prefix` and come after `after`. Copied: no lock is held while services are read.
    fn names_from(&self, prefix: &str, after: &str, limit: usize) -> Vec<ServiceName> {
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let names = self.names.read();
        let names = names.range::<str, _>((from, Bound::Unbounded));
        names.take_while(|name| name.as_str().starts_with(prefix)).take(limit).cloned().collect()
    }

    fn find(&self, service: &ServiceName) -> Option<Arc<Service>> {
        self.services.get(service).map(|found| Arc::clone(found.value()))
    }

    /// Reads a service, if it has instances.
    fn read<T>(&self, service: &ServiceName, read: impl FnOnce(&ServiceState) -> T) -> Option<T> {
        self.find(service)?.state().map(|state| read(&state))
    }
}
