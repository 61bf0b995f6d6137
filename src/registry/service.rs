//! One service: its instances and its recent events.

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

/// Maximum number of events in the log of a small service. The history of all services reaches further back.
const MIN_LOGGED_EVENTS: usize = 64;
/// Maximum number of events in the log of a large service.
const MAX_LOGGED_EVENTS: usize = 4_096;
/// Maximum size of the log of a service in bytes.
const MAX_LOG_BYTES: usize = 256 * 1024;

/// Service that has instances.
#[derive(Debug)]
pub struct Service {
    /// A mutex, because it is held for less than a microsecond; never together with that of another service.
    state: Mutex<ServiceState>,
    /// Counter of its leases, for self-preservation.
    lease_counter: Arc<LeaseCounter>,
}

/// State that the lock of a service guards.
#[derive(Debug)]
pub struct ServiceState {
    instances: InstanceMap,
    event_log: EventLog,
    /// Revision of the last change, visible or not.
    revision: Revision,
    /// Revision of the last change that readers could see.
    visible_revision: Revision,
    /// Revision of the last change of a node that instances are on.
    node_revision: Revision,
    /// The service lost its last instance and is about to leave the map. A writer that finds a retired service creates
    /// a new one.
    retired: bool,
}

impl Service {
    /// Creates a service without instances, whose log covers everything after a revision.
    #[must_use]
    pub fn new(compacted: Revision) -> Self {
        let state = ServiceState {
            instances: InstanceMap::default(),
            event_log: EventLog::new(compacted),
            revision: compacted,
            visible_revision: compacted,
            node_revision: compacted,
            retired: false,
        };
        Self { state: Mutex::new(state), lease_counter: Arc::default() }
    }

    /// Counter of its leases.
    #[must_use]
    pub(super) fn lease_counter(&self) -> &Arc<LeaseCounter> {
        &self.lease_counter
    }

    /// Locks the state. `None`: the service is retired.
    pub fn state(&self) -> Option<MutexGuard<'_, ServiceState>> {
        let state = self.state.lock();
        (!state.retired).then_some(state)
    }
}

impl ServiceState {
    /// Instances.
    #[must_use]
    pub fn instances(&self) -> &InstanceMap {
        &self.instances
    }

    /// Recent events.
    #[must_use]
    pub fn event_log(&self) -> &EventLog {
        &self.event_log
    }

    /// Returns the instances at this moment, and the revision of the last change.
    #[must_use]
    pub fn snapshot(&self) -> (Chunks, Revision) {
        (self.instances.chunks(), self.revision)
    }

    /// Revision of the last change that readers could see.
    #[must_use]
    pub fn visible_revision(&self) -> Revision {
        self.visible_revision
    }

    /// Revision of the last visible change of the instances, or of a node that they are on.
    #[must_use]
    pub fn view_revision(&self) -> Revision {
        self.visible_revision.max(self.node_revision)
    }

    /// Records that a node with instances of the service has changed.
    pub fn node_changed(&mut self, revision: Revision) {
        self.node_revision = revision;
    }

    /// Puts an entry in place of the one with its id.
    pub fn put(&mut self, entry: Arc<Entry>, revision: Revision) {
        self.instances.put(entry);
        self.revision = revision;
    }

    /// Restores an entry of an earlier process. The revision of the service stays: the revision of its last change is
    /// unknown, but not later.
    pub fn restore(&mut self, entry: Arc<Entry>) {
        self.instances.put(entry);
    }

    /// Removes an entry.
    pub fn remove(&mut self, id: &str, revision: Revision) {
        self.instances.remove(id);
        self.revision = revision;
    }

    /// Logs an event. The maximum length of the log grows with the number of instances, so that the log takes a
    /// fraction of their memory.
    pub fn log(&mut self, event: Arc<Event>) {
        self.visible_revision = event.revision;
        let max_events = (self.instances.len() / 4).clamp(MIN_LOGGED_EVENTS, MAX_LOGGED_EVENTS);
        self.event_log.push(event, max_events, MAX_LOG_BYTES);
    }

    /// Retires the service if it has no instances. Returns whether it is retired.
    pub fn retire_if_empty(&mut self) -> bool {
        self.retired = self.instances.len() == 0;
        self.retired
    }
}
