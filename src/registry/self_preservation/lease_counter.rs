//! How many leases hold: of a service and of all. Kept by whoever begins or ends one, without a lock.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::registry::lease::{Lease, LeaseTime};

/// The leases of one service that hold.
#[derive(Debug, Default)]
pub(in crate::registry) struct LeaseCounter {
    leases: AtomicUsize,
    /// The longest time to live of any that it had.
    longest: AtomicU64,
}

impl LeaseCounter {
    /// One of them is granted so much time to live, in milliseconds.
    pub(in crate::registry) fn grant(&self, ttl: LeaseTime) {
        self.longest.fetch_max(ttl, Ordering::Relaxed);
    }

    /// How many hold.
    pub(super) fn leases(&self) -> usize {
        self.leases.load(Ordering::Relaxed)
    }

    /// For how long removals matter to it, in milliseconds.
    pub(super) fn longest(&self) -> LeaseTime {
        self.longest.load(Ordering::Relaxed)
    }
}

/// The leases of all services that hold.
#[derive(Debug, Default)]
pub(super) struct TotalLeaseCounter {
    pub(super) leases: AtomicUsize,
    /// Services that have any.
    pub(super) services: AtomicUsize,
}

impl TotalLeaseCounter {
    /// A lease begins to hold.
    pub(super) fn begins(&self, lease: &Lease, of: &LeaseCounter) {
        if !lease.counted.swap(true, Ordering::Relaxed) {
            of.grant(lease.ttl_ms());
            self.leases.fetch_add(1, Ordering::Relaxed);
            if of.leases.fetch_add(1, Ordering::Relaxed) == 0 {
                self.services.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A lease has ended, whoever ended it: it counts once.
    pub(super) fn ends(&self, lease: &Lease, of: &LeaseCounter) {
        if lease.counted.swap(false, Ordering::Relaxed) {
            self.leases.fetch_sub(1, Ordering::Relaxed);
            if of.leases.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.services.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
