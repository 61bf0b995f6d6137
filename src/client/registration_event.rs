//! Events of a registration.

use std::{fmt, time::Duration};

use bytes::Bytes;

use super::ClientError;

/// Event of a registration. The last one is [`RegistrationEvent::Ended`]. `Debug` leaves out the lease id, which is a secret, so
/// that programs can log events.
#[derive(Clone)]
pub enum RegistrationEvent {
    /// The registry granted a new lease to the instance.
    Registered {
        /// Lease id: 16 random bytes. It authorizes writes to the registration.
        lease_id: Bytes,
        /// Time to live that was granted.
        ttl: Duration,
        /// Revision of the instance's last change.
        revision: u64,
        /// True if the registry had forgotten an earlier lease, because it restarted or because the lease expired.
        again: bool,
        /// Address of the replica. `None` on a connection that the program opened.
        server: Option<String>,
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
        /// Address of the replica. `None` on a connection that the program opened.
        server: Option<String>,
    },
    /// The registry still held the lease after an interruption.
    Resumed {
        /// Time left on the renewed lease.
        time_left: Duration,
        /// Address of the replica, perhaps another one than before. `None` on a connection that the program opened.
        server: Option<String>,
    },
    /// The registry answers, but cannot reach its store. It keeps the lease.
    Degraded,
    /// The registration has ended.
    Ended(RegistrationEnd),
}

impl fmt::Debug for RegistrationEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registered { lease_id: _, ttl, revision, again, server } => f
                .debug_struct("Registered")
                .field("ttl", ttl)
                .field("revision", revision)
                .field("again", again)
                .field("server", server)
                .finish_non_exhaustive(),
            Self::Updated { revision, starting, draining } => f
                .debug_struct("Updated")
                .field("revision", revision)
                .field("starting", starting)
                .field("draining", draining)
                .finish(),
            Self::Interrupted { error, retry_in, server } => f
                .debug_struct("Interrupted")
                .field("error", error)
                .field("retry_in", retry_in)
                .field("server", server)
                .finish(),
            Self::Resumed { time_left, server } => {
                f.debug_struct("Resumed").field("time_left", time_left).field("server", server).finish()
            }
            Self::Degraded => f.write_str("Degraded"),
            Self::Ended(end) => f.debug_tuple("Ended").field(end).finish(),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_an_event_has_no_lease_id() {
        let lease_id = Bytes::from_static(b"secret");
        let ttl = Duration::from_secs(15);
        let event = RegistrationEvent::Registered { lease_id, ttl, revision: 7, again: false, server: None };
        assert_eq!(format!("{event:?}"), "Registered { ttl: 15s, revision: 7, again: false, server: None, .. }");
    }
}
