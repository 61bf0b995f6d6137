//! Counters of leases, of one service and of all. Kept up to date wherever a lease begins or ends, without a lock.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::registry::lease::{Lease, LeaseTime};

/// Counter of the leases of one service.
#[derive(Debug, Default)]
pub(in crate::registry) struct LeaseCounter {
    leases: AtomicUsize,
    /// Longest TTL that was ever granted, in milliseconds.
    longest_ttl: AtomicU64,
}

impl LeaseCounter {
    /// Notes a granted TTL, in milliseconds.
    pub(in crate::registry) fn grant(&self, ttl: LeaseTime) {
        self.longest_ttl.fetch_max(ttl, Ordering::Relaxed);
    }

    /// Number of leases that have not ended.
    pub(super) fn leases(&self) -> usize {
        self.leases.load(Ordering::Relaxed)
    }

    /// Longest TTL that was ever granted, in milliseconds: the time for which removals matter.
    pub(in crate::registry) fn longest_ttl(&self) -> LeaseTime {
        self.longest_ttl.load(Ordering::Relaxed)
    }
}

/// Counter of the leases of all services.
#[derive(Debug, Default)]
pub(super) struct TotalLeaseCounter {
    pub(super) leases: AtomicUsize,
    /// Number of services with leases.
    pub(super) services: AtomicUsize,
}

impl TotalLeaseCounter {
    /// Counts a lease that begins. A lease that is counted already counts once.
    pub(super) fn add(&self, lease: &Lease, counter: &LeaseCounter) {
        if !lease.counted.swap(true, Ordering::Relaxed) {
            counter.grant(lease.ttl_ms());
            self.leases.fetch_add(1, Ordering::Relaxed);
            if counter.leases.fetch_add(1, Ordering::Relaxed) == 0 {
                self.services.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Removes a lease that has ended. Only the first call for a lease has an effect.
    pub(super) fn remove(&self, lease: &Lease, counter: &LeaseCounter) {
        if lease.counted.swap(false, Ordering::Relaxed) {
            self.leases.fetch_sub(1, Ordering::Relaxed);
            if counter.leases.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.services.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
