//! Events: changes of instances that readers can see.

use std::sync::Arc;

use super::{
    attachment::Attachment,
    holder::SessionEpoch,
    lease::{Lease, LeaseTime},
};
use crate::model::{Caller, Instance, InstanceId, Revision, ServiceName, UnixMillis};

/// Reading of all clocks at one moment. The registry never reads a clock itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClockReading {
    /// Microseconds of a monotonic clock, to measure durations.
    pub monotonic_us: u64,
    /// Milliseconds of the lease clock, by which leases expire.
    pub lease: LeaseTime,
    /// Wall-clock time, for people to read.
    pub wall: UnixMillis,
}

/// An instance, and the lease that keeps it registered.
#[derive(Debug)]
pub struct Entry {
    /// Instance, as readers see it.
    pub instance: Instance,
    /// Lease. `None`: the instance stays until it is deregistered or reaped.
    pub lease: Option<Arc<Lease>>,
    /// Revision of the last change of the entry, also of one that readers do not see. An engine that shares its state with other
    /// processes changes the entry only if it still has this revision.
    pub modified: Revision,
    /// Session of the replica that holds the entry.
    pub holder: SessionEpoch,
}

impl Entry {
    /// Creates an entry of a registry that has no other replicas, last changed at the revision of its instance.
    #[must_use]
    pub fn new(instance: Instance, lease: Option<Arc<Lease>>) -> Self {
        let modified = instance.revision;
        Self { instance, lease, modified, holder: SessionEpoch::default() }
    }

    /// Returns whether the entry has a lease that has not ended.
    #[must_use]
    pub fn lease_is_alive(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.is_alive())
    }
}

/// Reason for which an instance was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalReason {
    /// The instance or an operator deregistered it.
    Deregistered,
    /// Its lease expired.
    Expired,
    /// Its check was critical for too long.
    Reaped,
    /// Its identity was registered elsewhere.
    Superseded,
}

/// Approximate size of an event and its entry without their texts, in bytes.
const BASE_BYTES: usize = 512;

/// One change of one instance that readers can see.
#[derive(Debug)]
pub struct Event {
    /// Position in the one order of all changes.
    pub revision: Revision,
    /// Time at which the change was applied.
    pub at: ClockReading,
    /// Change.
    pub change: Change,
    /// Originator of the command that caused the event.
    pub caller: Arc<Caller>,
    /// Value that a layer above derives from the event, once for all readers.
    pub attachment: Attachment,
}

/// Kind of a change, with the entries before and after it.
#[derive(Debug)]
pub enum Change {
    /// The instance was registered.
    Added(Arc<Entry>),
    /// The instance changed: the entry before and the entry after.
    Changed(Arc<Entry>, Arc<Entry>),
    /// The instance was removed: the last entry, and the reason.
    Removed(Arc<Entry>, RemovalReason),
}

impl Event {
    /// Service of the instance.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        &self.entry().instance.service
    }

    /// Id of the instance.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        &self.entry().instance.id
    }

    /// Entry before the change, if the instance was registered.
    #[must_use]
    pub fn before(&self) -> Option<&Arc<Entry>> {
        match &self.change {
            Change::Added(_) => None,
            Change::Changed(before, _) | Change::Removed(before, _) => Some(before),
        }
    }

    /// Entry after the change, if the instance is registered.
    #[must_use]
    pub fn after(&self) -> Option<&Arc<Entry>> {
        match &self.change {
            Change::Added(after) | Change::Changed(_, after) => Some(after),
            Change::Removed(..) => None,
        }
    }

    /// Approximate number of bytes that the event holds: itself, the description of its instance, and the encoded description.
    #[must_use]
    pub fn size(&self) -> usize {
        let Instance { tags, metadata, addresses, .. } = &self.entry().instance;
        let tags: usize = tags.iter().map(str::len).sum();
        let metadata: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        let addresses: usize = addresses.iter().map(|address| address.host.len() + address.name.len()).sum();
        BASE_BYTES + 2 * (tags + metadata + addresses)
    }

    fn entry(&self) -> &Arc<Entry> {
        match &self.change {
            Change::Added(entry) | Change::Changed(_, entry) | Change::Removed(entry, _) => entry,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without its caller, an event has 80 bytes.
    #[test]
    fn event_grows_by_one_pointer_for_its_caller() {
        assert!(size_of::<Event>() <= 80 + size_of::<usize>(), "{}", size_of::<Event>());
    }
}
