//! All leases: found by their names, looked at when their time comes.

use std::{
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use dashmap::DashMap;

use super::{
    lease::{EndReason, HeartbeatStreamId, Lease, LeaseTime},
    timing_wheel::{TickResult, TimingWheel},
};
use crate::{
    model::{LeaseId, LeaseTerms},
    sync::Mutex,
};

/// How long the holder of a lease that was ended by others can ask how: two times to live, within these bounds.
const SHORTEST_MEMORY: Duration = Duration::from_mins(1);
const LONGEST_MEMORY: Duration = Duration::from_mins(10);

/// Hashes lease ids, which are random already: a part of one is as good as a digest. Only our own are ever inserted, so that
/// nobody can choose them to collide.
#[derive(Debug, Default, Clone, Copy)]
pub struct LeaseHasher(u64);

impl Hasher for LeaseHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    #[expect(clippy::cast_possible_truncation, reason = "a part is enough")]
    fn write_u128(&mut self, id: u128) {
        self.0 = id as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

/// For maps of leases.
pub type HashLease = BuildHasherDefault<LeaseHasher>;

/// The leases of all registrations, and for a while those that others ended.
#[derive(Debug)]
pub struct LeaseTable {
    by_id: DashMap<LeaseId, Arc<Lease>, HashLease>,
    /// Touched when a lease begins, ends or comes nearer to its end; never by a heartbeat.
    wheel: Mutex<TimingWheel>,
    streams: AtomicU64,
}

impl LeaseTable {
    pub(super) fn new(now: LeaseTime) -> Self {
        Self { by_id: DashMap::default(), wheel: Mutex::new(TimingWheel::new(now)), streams: AtomicU64::new(0) }
    }

    /// A number for a new heartbeat stream.
    #[must_use]
    pub fn new_carrier(&self) -> HeartbeatStreamId {
        HeartbeatStreamId::numbered(self.streams.fetch_add(1, Ordering::Relaxed))
    }

    /// Finds a lease.
    #[must_use]
    pub fn get(&self, id: LeaseId) -> Option<Arc<Lease>> {
        self.by_id.get(&id).map(|found| Arc::clone(found.value()))
    }

    /// How many leases are known, with those that are only remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether no lease is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The stream broke that carried these heartbeats.
    pub fn broken(&self, lease: &Arc<Lease>, carrier: HeartbeatStreamId, now: LeaseTime) {
        if lease.broken(carrier, now).is_some() {
            self.wheel.lock().put(lease);
        }
    }

    /// A repeated registration: a sign of life, on terms that may be others.
    ///
    /// # Errors
    ///
    /// When the lease has ended meanwhile.
    pub fn renew(&self, lease: &Arc<Lease>, terms: LeaseTerms, now: LeaseTime) -> Result<(), EndReason> {
        let shorter = terms.ttl() < lease.terms().ttl();
        lease.set_terms(terms);
        lease.renew(now, None)?;
        if shorter {
            self.wheel.lock().put(lease);
        }
        Ok(())
    }

    pub(super) fn begin(&self, lease: &Arc<Lease>) {
        self.by_id.insert(lease.id, Arc::clone(lease));
        self.wheel.lock().put(lease);
    }

    pub(super) fn end(&self, lease: &Arc<Lease>, ending: EndReason, now: LeaseTime) {
        match ending {
            // Who was taken over or removed by others must hear of it with its next heartbeat.
            EndReason::Superseded | EndReason::Removed => {
                let memory = (lease.terms().ttl() * 2).clamp(SHORTEST_MEMORY, LONGEST_MEMORY);
                lease.end(ending, now, memory);
                self.wheel.lock().put(lease);
            }
            EndReason::Expired | EndReason::Deregistered => {
                lease.end(ending, now, Duration::ZERO);
                self.by_id.remove(&lease.id);
            }
        }
    }

    /// Looks at the leases whose time for that has come; those that can be forgotten are.
    pub(super) fn turn(&self, now: LeaseTime) -> TickResult {
        let turn = self.wheel.lock().turn(now);
        self.forget(&turn.forgotten);
        turn
    }

    /// Their holders need not be told more than that nobody knows them.
    pub(super) fn forget(&self, leases: &[Arc<Lease>]) {
        for lease in leases {
            self.by_id.remove(&lease.id);
        }
    }

    /// Has them looked at again, as heartbeats came.
    pub(super) fn put_back(&self, leases: &[Arc<Lease>]) {
        if !leases.is_empty() {
            let mut wheel = self.wheel.lock();
            for lease in leases {
                wheel.put(lease);
            }
        }
    }
}
