//! What happened to one instance, as everybody hears of it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::lease::{Lease, LeaseTime};
use crate::model::{Instance, InstanceId, Revision, ServiceName, Status, WallTime};

/// The reading of all clocks at which something happens. The registry never looks at a clock itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Microseconds of a monotonic clock, to measure how long things take.
    pub monotonic_us: u64,
    /// Milliseconds of the lease clock, by which leases end.
    pub lease: LeaseTime,
    /// The wall clock, for people to read.
    pub wall: WallTime,
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

/// One change of one instance that readers can see.
#[derive(Debug)]
pub struct Event {
    /// Its place in the one order.
    pub revision: Revision,
    /// When it was ordered.
    pub at: Now,
    /// The service.
    pub service: ServiceName,
    /// The instance.
    pub id: InstanceId,
    /// The entry before. `None`: it was not there.
    pub before: Option<Arc<Entry>>,
    /// What came of it.
    pub after: After,
    /// What the native door has encoded of it.
    pub native: Encoded,
}

/// What a door has encoded of an event, once for all who are sent it.
#[derive(Debug, Default)]
pub struct Encoded {
    /// The change.
    pub change: OnceLock<Bytes>,
    /// A whole message that tells only this change, and the digest of the selection that it is for.
    pub step: OnceLock<(u64, Bytes)>,
}

/// What came of an event.
#[derive(Debug, Clone)]
pub enum After {
    /// The entry as it is now.
    Present(Arc<Entry>),
    /// It is gone.
    Gone(RemovalReason),
}

impl Event {
    /// The entry after, where there is one.
    #[must_use]
    pub fn entry_after(&self) -> Option<&Arc<Entry>> {
        match &self.after {
            After::Present(entry) => Some(entry),
            After::Gone(_) => None,
        }
    }

    /// The status before and after; `None` where it was not there.
    #[must_use]
    pub fn statuses(&self) -> (Option<Status>, Option<Status>) {
        let status = |entry: &Arc<Entry>| entry.instance.status();
        (self.before.as_ref().map(status), self.entry_after().map(status))
    }
}
