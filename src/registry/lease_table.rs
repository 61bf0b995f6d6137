//! All leases, by id, and the timing wheel that finds those that are due.

use std::{
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use dashmap::DashMap;

use super::{
    lease::{EndReason, HeartbeatStreamId, Lease, LeaseDuty, LeaseTime},
    timing_wheel::{TickResult, TimingWheel},
};
use crate::{
    model::{LeaseId, LeaseTerms},
    sync::Mutex,
};

/// Minimum time for which the reason of an ended lease is remembered for its holder, which otherwise is two TTLs.
const MIN_MEMORY: Duration = Duration::from_mins(1);
/// Maximum time for which the reason of an ended lease is remembered for its holder.
const MAX_MEMORY: Duration = Duration::from_mins(10);

/// Hasher for lease ids. They are random, so a part of an id serves as its hash. Only ids that the registry made itself are
/// inserted, so no client can choose ids that collide.
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

/// `LeaseHasher` as a parameter of a map.
pub type HashLease = BuildHasherDefault<LeaseHasher>;

/// Leases of all registrations, and for some time the ended leases whose holders do not know of the end.
#[derive(Debug)]
pub struct LeaseTable {
    by_id: DashMap<LeaseId, Arc<Lease>, HashLease>,
    /// Locked when a lease begins or ends and when a deadline becomes earlier; never by a heartbeat.
    wheel: Mutex<TimingWheel>,
    streams: AtomicU64,
}

impl LeaseTable {
    pub(super) fn new(now: LeaseTime) -> Self {
        Self { by_id: DashMap::default(), wheel: Mutex::new(TimingWheel::new(now)), streams: AtomicU64::new(0) }
    }

    /// Returns an identifier for a new heartbeat stream.
    #[must_use]
    pub fn new_stream_id(&self) -> HeartbeatStreamId {
        HeartbeatStreamId::numbered(self.streams.fetch_add(1, Ordering::Relaxed))
    }

    /// Finds a lease.
    #[must_use]
    pub fn get(&self, id: LeaseId) -> Option<Arc<Lease>> {
        self.by_id.get(&id).map(|found| Arc::clone(found.value()))
    }

    /// Number of leases, including ended ones that are still remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Returns whether the table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Records that a stream that renewed this lease broke.
    pub fn stream_broken(&self, lease: &Arc<Lease>, stream: HeartbeatStreamId, now: LeaseTime) {
        if lease.stream_broken(stream, now).is_some() && lease.expires_here() {
            self.wheel.lock().put(lease);
        }
    }

    /// Renews a lease on terms that may be new, for a repeated registration.
    ///
    /// # Errors
    ///
    /// When the lease has ended meanwhile.
    pub fn renew(&self, lease: &Arc<Lease>, terms: LeaseTerms, now: LeaseTime) -> Result<(), EndReason> {
        let is_shorter = terms.ttl() < lease.terms().ttl();
        lease.set_terms(terms);
        lease.renew(now, None)?;
        if is_shorter && lease.expires_here() {
            self.wheel.lock().put(lease);
        }
        Ok(())
    }

    /// Adds a lease. The timing wheel looks at it only if it expires here.
    pub(super) fn begin(&self, lease: &Arc<Lease>) {
        self.by_id.insert(lease.id, Arc::clone(lease));
        if lease.expires_here() {
            self.wheel.lock().put(lease);
        }
    }

    /// Changes the duty of this process towards a lease. The lease has its full TTL from `now` on.
    pub(super) fn set_duty(&self, lease: &Arc<Lease>, duty: LeaseDuty, now: LeaseTime) {
        lease.set_duty(duty);
        let mut wheel = self.wheel.lock();
        match duty {
            LeaseDuty::Held | LeaseDuty::Orphaned => {
                lease.begin_duty(now);
                wheel.put(lease);
            }
            LeaseDuty::None => lease.due.store(Lease::NOT_SCHEDULED, Ordering::Relaxed),
        }
    }

    /// Gives all leases that expire here a full TTL from `now` on, because heartbeats may have been lost. Leases of which no heartbeat has
    /// arrived here lately get two: their programs may have gone to another replica, which has to claim all of them.
    pub(super) fn renew_all(&self, now: LeaseTime) {
        for lease in self.by_id.iter().filter(|lease| lease.expires_here()) {
            let is_elsewhere = lease.is_orphaned() || lease.misses_heartbeat(now);
            let ttls = if is_elsewhere { 2 } else { 1 };
            lease.postpone(now + ttls * lease.ttl_ms(), now);
        }
    }

    pub(super) fn end(&self, lease: &Arc<Lease>, reason: EndReason, now: LeaseTime) {
        match reason {
            // The holder does not know yet: its next heartbeat is answered with the reason.
            EndReason::Superseded | EndReason::Removed => {
                let memory = (lease.terms().ttl() * 2).clamp(MIN_MEMORY, MAX_MEMORY);
                lease.end(reason, now, memory);
                self.wheel.lock().put(lease);
            }
            EndReason::Expired | EndReason::Deregistered => {
                lease.end(reason, now, Duration::ZERO);
                self.forget(&[Arc::clone(lease)]);
            }
        }
    }

    /// Ticks the wheel, and forgets the leases that it finds forgettable.
    pub(super) fn tick(&self, now: LeaseTime) -> TickResult {
        let found = self.wheel.lock().tick(now);
        self.forget(&found.forgettable);
        found
    }

    /// Removes ended leases. Their holders' heartbeats are answered with `UNKNOWN` from now on.
    ///
    /// A lease that has begun again under the same id stays.
    pub(super) fn forget(&self, leases: &[Arc<Lease>]) {
        for lease in leases {
            self.by_id.remove_if(&lease.id, |_, known| !known.is_alive());
        }
    }

    /// Puts leases back into the wheel after heartbeats have arrived.
    pub(super) fn put_back(&self, leases: &[Arc<Lease>]) {
        if !leases.is_empty() {
            let mut wheel = self.wheel.lock();
            for lease in leases.iter().filter(|lease| lease.expires_here()) {
                wheel.put(lease);
            }
        }
    }
}
