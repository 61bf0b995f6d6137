//! What happened to one instance, as everybody hears of it.

use std::sync::Arc;

use super::{
    attachment::Attachment,
    lease::{Lease, LeaseTime},
};
use crate::model::{Caller, Instance, InstanceId, Revision, ServiceName, UnixMillis};

/// The reading of all clocks at which something happens. The registry never looks at a clock itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClockReading {
    /// Microseconds of a monotonic clock, to measure how long things take.
    pub monotonic_us: u64,
    /// Milliseconds of the lease clock, by which leases end.
    pub lease: LeaseTime,
    /// The wall clock, for people to read.
    pub wall: UnixMillis,
}

/// An instance and what keeps it registered.
#[derive(Debug)]
pub struct Entry {
    /// What readers see.
    pub instance: Instance,
    /// `None`: it stays until somebody removes it.
    pub lease: Option<Arc<Lease>>,
}

/// Why an instance is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalReason {
    /// It said goodbye, or an operator removed it.
    Deregistered,
    /// Its lease ran out.
    Expired,
    /// Its check was critical for too long.
    Reaped,
    /// Its identity was registered elsewhere.
    Superseded,
}

/// Bytes of an event and its entry whose texts are empty.
const OVERHEAD: usize = 512;

/// One change of one instance that readers can see.
#[derive(Debug)]
pub struct Event {
    /// Its place in the one order.
    pub revision: Revision,
    /// When it was ordered.
    pub at: ClockReading,
    /// What happened.
    pub change: Change,
    /// Originator of the command that caused it.
    pub caller: Arc<Caller>,
    /// What layers above derive from it, once for all readers.
    pub attachment: Attachment,
}

/// What can happen to an instance.
#[derive(Debug)]
pub enum Change {
    /// It is there.
    Added(Arc<Entry>),
    /// It is another: as it was before, and as it is now.
    Changed(Arc<Entry>, Arc<Entry>),
    /// It is gone: as it was, and why.
    Removed(Arc<Entry>, RemovalReason),
}

impl Event {
    /// The service.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        &self.entry().instance.service
    }

    /// The instance.
    #[must_use]
    pub fn id(&self) -> &InstanceId {
        &self.entry().instance.id
    }

    /// The entry before, where there was one.
    #[must_use]
    pub fn before(&self) -> Option<&Arc<Entry>> {
        match &self.change {
            Change::Added(_) => None,
            Change::Changed(before, _) | Change::Removed(before, _) => Some(before),
        }
    }

    /// The entry after, where there is one.
    #[must_use]
    pub fn after(&self) -> Option<&Arc<Entry>> {
        match &self.change {
            Change::Added(after) | Change::Changed(_, after) => Some(after),
            Change::Removed(..) => None,
        }
    }

    /// Bytes that it holds, by and large: itself, and what the instance says of itself, which is also what is encoded.
    #[must_use]
    pub fn size(&self) -> usize {
        let Instance { tags, metadata, addresses, .. } = &self.entry().instance;
        let tags: usize = tags.iter().map(str::len).sum();
        let metadata: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        let addresses: usize = addresses.iter().map(|address| address.host.len() + address.name.len()).sum();
        OVERHEAD + 2 * (tags + metadata + addresses)
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
