//! One service: its instances and what recently happened to them.

use std::sync::Arc;

use super::{
    event::{Entry, Event},
    event_log::EventLog,
    instance_map::{Chunks, InstanceMap},
    self_preservation::LeaseCounter,
};
use crate::{
    model::Revision,
    sync::{Mutex, MutexGuard},
};

/// Fewest events that a service remembers by itself: the history of all services reaches further back.
const SHORT_MEMORY: usize = 64;
/// Most events that a service remembers by itself.
const LONG_MEMORY: usize = 4_096;

/// Most bytes of them.
const MEMORY_BYTES: usize = 256 * 1024;

/// One service that has instances.
#[derive(Debug)]
pub struct Service {
    /// A mutex, as what is done under it takes less than a microsecond; never held together with that of another service.
    state: Mutex<ServiceState>,
    /// Its leases that hold, for protection.
    headcount: Arc<LeaseCounter>,
}

/// What the lock of a service guards.
#[derive(Debug)]
pub struct ServiceState {
    roster: InstanceMap,
    ring: EventLog,
    /// The revision of the last change, visible or not.
    revision: Revision,
    /// That of the last one that readers could see.
    visible_revision: Revision,
    /// That of the last change of a node that instances are on.
    nodes: Revision,
    /// It lost its last instance and is about to leave the map: whoever finds it so looks again.
    retired: bool,
}

impl Service {
    /// A service without instances that knows all that happens to it after `floor`.
    #[must_use]
    pub fn new(floor: Revision) -> Self {
        let (roster, ring) = (InstanceMap::default(), EventLog::new(floor));
        let state =
            ServiceState { roster, ring, revision: floor, visible_revision: floor, nodes: floor, retired: false };
        Self { state: Mutex::new(state), headcount: Arc::default() }
    }

    /// How many of its leases hold.
    #[must_use]
    pub(super) fn headcount(&self) -> &Arc<LeaseCounter> {
        &self.headcount
    }

    /// Its state, unless it is retired.
    pub fn state(&self) -> Option<MutexGuard<'_, ServiceState>> {
        let state = self.state.lock();
        (!state.retired).then_some(state)
    }
}

impl ServiceState {
    /// Its instances.
    #[must_use]
    pub fn roster(&self) -> &InstanceMap {
        &self.roster
    }

    /// Its recent events.
    #[must_use]
    pub fn ring(&self) -> &EventLog {
        &self.ring
    }

    /// Its instances, to hold on to, and the revision at which they are so.
    #[must_use]
    pub fn snapshot(&self) -> (Chunks, Revision) {
        (self.roster.blocks(), self.revision)
    }

    /// The revision of the last change that readers could see.
    #[must_use]
    pub fn seen(&self) -> Revision {
        self.visible_revision
    }

    /// The revision of the last change of what is shown with the service: of instances that readers could see, or of their nodes.
    #[must_use]
    pub fn shown(&self) -> Revision {
        self.visible_revision.max(self.nodes)
    }

    /// A node that instances are on has changed.
    pub fn node_changed(&mut self, revision: Revision) {
        self.nodes = revision;
    }

    /// Puts an entry in the place of what was there.
    pub fn put(&mut self, entry: Arc<Entry>, revision: Revision) {
        self.roster.put(entry);
        self.revision = revision;
    }

    /// Puts an entry in its place that was there before this process was. The revision stays: that of the last change is not
    /// known, but is not later.
    pub fn restore(&mut self, entry: Arc<Entry>) {
        self.roster.put(entry);
    }

    /// Removes an entry.
    pub fn remove(&mut self, id: &str, revision: Revision) {
        self.roster.remove(id);
        self.revision = revision;
    }

    /// Remembers an event: so many that they cost a fraction of what the instances do, within bounds.
    pub fn remember(&mut self, event: Arc<Event>) {
        self.visible_revision = event.revision;
        let limit = (self.roster.len() / 4).clamp(SHORT_MEMORY, LONG_MEMORY);
        self.ring.push(event, limit, MEMORY_BYTES);
    }

    /// Marks it as retired if nothing is left of it.
    pub fn retire_if_empty(&mut self) -> bool {
        self.retired = self.roster.len() == 0;
        self.retired
    }
}
