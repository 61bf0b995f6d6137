//! Events of a registration.

use std::time::Duration;

use bytes::Bytes;

use super::ClientError;

/// Event of a registration. The last one is [`RegistrationEvent::Ended`].
#[derive(Debug, Clone)]
pub enum RegistrationEvent {
    /// The registry granted a new lease to the instance.
    Registered {
        /// Lease id: 16 random bytes.
        lease_id: Bytes,
        /// Time to live that was granted.
        ttl: Duration,
        /// Revision of the instance's last change.
        revision: u64,
        /// True if the registry had forgotten an earlier lease, because it restarted or because the lease expired.
        again: bool,
    },
    /// The registry changed the instance under the lease that it already had.
    Updated {
        /// Revision of the instance's last change.
        revision: u64,
        /// The instance is listed as STARTING.
        starting: bool,
        /// The instance is listed as DRAINING.
        draining: bool,
    },
    /// The registry cannot be reached, or rejects the registration for now: another boot may hold the id.
    Interrupted {
        /// Error of the last attempt.
        error: ClientError,
        /// Delay until the next attempt.
        retry_in: Duration,
    },
    /// The registry still held the lease after an interruption.
    Resumed {
        /// Time left on the renewed lease.
        time_left: Duration,
    },
    /// The registry answers, but cannot reach its store. It keeps the lease.
    Degraded,
    /// The registration has ended.
    Ended(RegistrationEnd),
}

/// Outcome of a registration.
#[derive(Debug, Clone)]
pub enum RegistrationEnd {
    /// The handle deregistered the instance.
    Deregistered {
        /// False if the registry did not have the instance.
        removed: bool,
    },
    /// The handle asked to deregister, but the registry did not confirm it. The instance expires with its lease.
    Unconfirmed(ClientError),
    /// Another boot took over the id.
    Superseded,
    /// An operator removed the instance.
    Removed,
    /// The registry rejected the registration, and would reject it again.
    Rejected(ClientError),
}
