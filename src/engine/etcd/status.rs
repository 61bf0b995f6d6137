//! Status of a replica that other threads read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::session_table::ReplicaNames;

/// Maximum time since etcd confirmed the session and the watch made progress for which a replica counts as connected.
const MAX_UNCONFIRMED: Duration = Duration::from_secs(4);

/// Status of a replica.
#[derive(Debug, Default)]
pub struct ReplicaStatus {
    /// Number of requests that wait.
    pub waiting: AtomicUsize,
    /// Time since the start of the process at which etcd last confirmed the session, in milliseconds.
    session_ms: AtomicU64,
    /// Time at which the watch last made progress.
    watch_ms: AtomicU64,
    /// Time from which on etcd counts as out of reach, plus 1 ms; 0 while etcd is in reach. Cleared once all leases have a full TTL.
    frozen_ms: AtomicU64,
    /// Names of the replicas by their sessions.
    pub replica_names: Arc<ReplicaNames>,
}

impl ReplicaStatus {
    /// Records that etcd had confirmed the session at this time.
    pub fn confirm_session(&self, at: Duration) {
        self.session_ms.fetch_max(millis(at), Ordering::Relaxed);
    }

    /// Records that the watch made progress.
    pub fn confirm_watch(&self, at: Duration) {
        self.watch_ms.fetch_max(millis(at), Ordering::Relaxed);
    }

    /// Returns the time since the watch last made progress.
    pub fn watch_age(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_millis(self.watch_ms.load(Ordering::Relaxed)))
    }

    /// Forgets that etcd confirmed the session, which was lost.
    pub fn session_lost(&self) {
        self.session_ms.store(0, Ordering::Relaxed);
    }

    /// Returns whether etcd has confirmed the session and the watch recently enough.
    pub fn is_confirmed(&self, now: Duration) -> bool {
        let oldest = self.session_ms.load(Ordering::Relaxed).min(self.watch_ms.load(Ordering::Relaxed));
        millis(now).saturating_sub(oldest) < millis(MAX_UNCONFIRMED)
    }

    /// Sets the time from which on etcd counts as out of reach, or clears it.
    pub fn freeze(&self, since: Option<Duration>) {
        self.frozen_ms.store(since.map_or(0, |since| millis(since) + 1), Ordering::Relaxed);
    }

    /// Returns the time from which on etcd counts as out of reach, if it does.
    pub fn frozen_since(&self) -> Option<Duration> {
        self.frozen_ms.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis)
    }

    /// Returns whether etcd counts as out of reach.
    pub fn is_frozen(&self) -> bool {
        self.frozen_since().is_some()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
