//! The lease of one registration: its deadline, and the heartbeat stream that last renewed it.
//!
//! A heartbeat is one compare-and-swap on one word: no lock, no lookup, no revision. The word holds the deadline and the
//! stream together, because a stream that breaks must shorten the deadline only if no other stream has renewed the lease
//! since.

mod state;

use std::time::Duration;

use parking_lot::Mutex;

use state::LeaseState;
pub use state::{EndReason, HeartbeatStreamId, LeaseTime};

use crate::{
    model::{BootId, InstanceId, LeaseId, LeaseTerms, LoadReport, ServiceName},
    sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
};

/// Lease of one registration.
///
/// One id stands for one lease: leases are compared by [`Lease::id`], never by address.
#[derive(Debug)]
pub struct Lease {
    /// Secret identifier, known to the holder.
    pub id: LeaseId,
    /// Service of the instance.
    pub service: ServiceName,
    /// Instance that the lease keeps registered.
    pub instance: InstanceId,
    /// Boot of the program that holds it.
    pub boot: BootId,
    /// [`LeaseTerms`], packed.
    terms: AtomicU64,
    /// [`LeaseState`], packed.
    state: AtomicU64,
    /// Tick at which the timing wheel looks at it next. A wheel entry for any other tick is stale.
    pub(super) due: AtomicU64,
    /// [`TrackingState`], as a number. Changes under the lock of self-preservation.
    tracking_state: AtomicU8,
    /// Set while the lease is counted for its service: from its beginning to its end.
    pub(super) counted: AtomicBool,
    /// [`LeaseDuty`], as a number. Changes under the order lock.
    duty: AtomicU8,
    /// Time at which the lease was orphaned last.
    orphaned_at: AtomicU64,
    /// Knowledge of the sweep that expired the lease: number of the last expiration of the service at another replica, or
    /// [`Self::RELEASED`].
    judged_by: AtomicU32,
    /// Last load report and its time. Boxed, because most holders send none.
    load: Mutex<Option<Box<(LoadReport, LeaseTime)>>>,
}

/// Phase of a lease's TTL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeasePhase {
    /// At least a third of the TTL is left.
    Fresh,
    /// Less than a third is left: a heartbeat is missing.
    Expiring,
    /// The deadline has passed.
    Overdue,
    /// The lease has ended.
    Ended,
}

/// Duty of this process towards a lease, in a registry that several replicas share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseDuty {
    /// Another replica holds the entry of the lease, and ends the lease when heartbeats stay away.
    None,
    /// The replica that held the entry is gone: any other one ends the lease when heartbeats stay away.
    Orphaned,
    /// This process holds the entry, and ends the lease when heartbeats stay away.
    Held,
}

/// State of a lease in self-preservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrackingState {
    /// Heartbeats arrive: the lease is not tracked, or the next sweep drops it from the list.
    Trusted,
    /// Counted as expiring.
    Expiring,
    /// Overdue, and held by self-preservation.
    Suspect,
    /// An operator ended self-preservation: the lease expires once it is overdue, regardless of the threshold.
    Released,
}

impl Lease {
    /// Creates a lease that begins now.
    #[must_use]
    pub fn new(
        id: LeaseId,
        service: ServiceName,
        instance: InstanceId,
        boot: BootId,
        terms: LeaseTerms,
        now: LeaseTime,
    ) -> Self {
        let state = LeaseState::Alive { deadline: now + millis(terms.ttl()), stream: HeartbeatStreamId::NONE };
        Self {
            id,
            service,
            instance,
            boot,
            terms: AtomicU64::new(terms.pack()),
            state: AtomicU64::new(state.pack()),
            due: AtomicU64::new(Self::NOT_SCHEDULED),
            tracking_state: AtomicU8::new(TrackingState::Trusted as u8),
            counted: AtomicBool::new(false),
            duty: AtomicU8::new(LeaseDuty::Held as u8),
            orphaned_at: AtomicU64::new(0),
            judged_by: AtomicU32::new(0),
            load: Mutex::new(None),
        }
    }

    /// Value of [`Lease::judged_by`] for a lease that an operator released.
    pub(super) const RELEASED: u32 = u32::MAX;

    /// Value of [`Lease::due`] for a lease that is not in the timing wheel.
    pub(super) const NOT_SCHEDULED: u64 = 0;

    /// Renews the lease for a full TTL from now, and returns the TTL. `by`: the heartbeat stream that renews it; `None` for
    /// a request that is not a heartbeat, which leaves the stream of the lease as it is.
    ///
    /// # Errors
    ///
    /// When the lease has ended; it stays ended.
    pub fn renew(&self, now: LeaseTime, by: Option<HeartbeatStreamId>) -> Result<Duration, EndReason> {
        let ttl = self.terms().ttl();
        self.change(now, |state| match state {
            LeaseState::Alive { stream, .. } => {
                let stream = by.map_or(stream, |by| by.0);
                Ok(LeaseState::Alive { deadline: now + millis(ttl), stream })
            }
            LeaseState::Ended { reason, .. } => Err(reason),
        })?;
        Ok(ttl)
    }

    /// Records that a stream broke. If that stream was the last to renew the lease and the terms have a disconnect grace,
    /// only the grace is left. Returns the new deadline if it is earlier than before.
    pub fn stream_broken(&self, by: HeartbeatStreamId, now: LeaseTime) -> Option<LeaseTime> {
        let grace = self.terms().disconnect_grace().map(millis);
        let mut nearer = None;
        let change = self.change(now, |state| match state {
            LeaseState::Alive { deadline, stream } if stream == by.0 => {
                let left = grace.map_or(deadline, |grace| deadline.min(now + grace));
                nearer = (left < deadline).then_some(left);
                Ok(LeaseState::Alive { deadline: left, stream: HeartbeatStreamId::BROKEN })
            }
            LeaseState::Alive { .. } | LeaseState::Ended { .. } => Err(()),
        });
        change.ok().and(nearer)
    }

    /// Records that the server itself closed a stream. The holder is not the cause, so the deadline stays.
    pub fn stream_released(&self, by: HeartbeatStreamId) {
        // The time is written back as it was read, so that any clock will do.
        let _ = self.change(0, |state| match state {
            LeaseState::Alive { deadline, stream } if stream == by.0 => {
                Ok(LeaseState::Alive { deadline, stream: HeartbeatStreamId::NONE })
            }
            LeaseState::Alive { .. } | LeaseState::Ended { .. } => Err(()),
        });
    }

    /// Records that the last stream of the lease broke at another replica, which was the holder.
    pub fn stream_broke_elsewhere(&self) {
        // As in `stream_released`.
        let _ = self.change(0, |state| match state {
            LeaseState::Alive { deadline, stream: HeartbeatStreamId::NONE } => {
                Ok(LeaseState::Alive { deadline, stream: HeartbeatStreamId::BROKEN })
            }
            LeaseState::Alive { .. } | LeaseState::Ended { .. } => Err(()),
        });
    }

    /// Gives the lease a full TTL from now on, because this process begins to end it. A stream that broke here before says nothing
    /// about the holder, which has renewed the lease at another replica since.
    pub(super) fn begin_duty(&self, now: LeaseTime) {
        // A lease that has ended stays ended: its removal is under way.
        let _ = self.change(now, |state| match state {
            LeaseState::Alive { stream, .. } => {
                let stream = if stream == HeartbeatStreamId::BROKEN { HeartbeatStreamId::NONE } else { stream };
                Ok(LeaseState::Alive { deadline: now + self.ttl_ms(), stream })
            }
            LeaseState::Ended { .. } => Err(()),
        });
    }

    /// Ends the lease if it is overdue, so that every later heartbeat is answered that it has expired. Returns whether
    /// this call ended it.
    pub fn expire(&self, now: LeaseTime) -> bool {
        self.change(now, |state| match state {
            LeaseState::Alive { deadline, .. } if now > deadline => {
                Ok(LeaseState::Ended { forget_at: now, reason: EndReason::Expired })
            }
            LeaseState::Alive { .. } | LeaseState::Ended { .. } => Err(()),
        })
        .is_ok()
    }

    /// Returns whether no heartbeat has renewed the lease for half of its TTL. Heartbeats are sent every third of the TTL.
    #[must_use]
    pub fn misses_heartbeat(&self, now: LeaseTime) -> bool {
        self.deadline(now) < now + self.ttl_ms() / 2
    }

    /// Postpones the deadline to a time, unless it is later already.
    pub(super) fn postpone(&self, until: LeaseTime, now: LeaseTime) {
        let _ = self.change(now, |state| match state {
            LeaseState::Alive { deadline, stream } => Ok(LeaseState::Alive { deadline: deadline.max(until), stream }),
            LeaseState::Ended { .. } => Err(()),
        });
    }

    /// Makes the lease overdue from now on, unless a heartbeat arrives.
    pub(super) fn make_overdue(&self, now: LeaseTime) {
        let _ = self.change(now, |state| match state {
            LeaseState::Alive { deadline, stream } => {
                Ok(LeaseState::Alive { deadline: deadline.min(now.saturating_sub(1)), stream })
            }
            LeaseState::Ended { .. } => Err(()),
        });
    }

    /// Returns whether the expiration of the lease counts for self-preservation: an operator did not release it.
    #[must_use]
    pub fn counts_as_expiration(&self) -> bool {
        self.judged_by() != Self::RELEASED
    }

    pub(super) fn judged_by(&self) -> u32 {
        self.judged_by.load(Ordering::Relaxed)
    }

    pub(super) fn set_judged_by(&self, knowledge: u32) {
        self.judged_by.store(knowledge, Ordering::Relaxed);
    }

    /// Ends the lease. The reason is remembered for `memory` from now on, for the holder's next heartbeat.
    pub fn end(&self, reason: EndReason, now: LeaseTime, memory: Duration) {
        let _ = self.change(now, |state| match state {
            LeaseState::Alive { .. } => Ok(LeaseState::Ended { forget_at: now + millis(memory), reason }),
            LeaseState::Ended { .. } => Err(()),
        });
    }

    /// Checks whether another boot may take over the instance: the lease has ended, its stream broke, or a heartbeat is
    /// missing.
    ///
    /// Heartbeats are sent every third of the TTL, so one is missing after half of the TTL. When the replica that held the lease is
    /// gone, one is missing here after half of the TTL from then on, because the holder sends its heartbeats to the other replicas.
    ///
    /// # Errors
    ///
    /// When the holder is alive: the time after which a heartbeat would be missing. A lease that expires at another replica counts
    /// as alive.
    pub fn can_be_taken_over(&self, now: LeaseTime) -> Result<(), Duration> {
        match self.state(now) {
            LeaseState::Alive { .. } if !self.expires_here() => Err(self.terms().ttl() / 2),
            LeaseState::Ended { .. } | LeaseState::Alive { stream: HeartbeatStreamId::BROKEN, .. } => Ok(()),
            LeaseState::Alive { deadline, stream } => {
                let half = millis(self.terms().ttl() / 2);
                let missing_from = if stream == HeartbeatStreamId::NONE && !self.is_held_here() {
                    self.orphaned_at.load(Ordering::Relaxed) + half
                } else {
                    deadline.saturating_sub(half)
                };
                match missing_from.saturating_sub(now) {
                    0 => Ok(()),
                    wait => Err(Duration::from_millis(wait)),
                }
            }
        }
    }

    /// Returns whether this process holds the entry of the lease. Otherwise it has to claim the entry when a heartbeat arrives.
    #[must_use]
    pub fn is_held_here(&self) -> bool {
        self.duty.load(Ordering::Relaxed) == LeaseDuty::Held as u8
    }

    /// Returns whether this process ends the lease when heartbeats stay away. Otherwise another replica does, which receives the
    /// heartbeats: then the deadline of the lease means nothing here.
    #[must_use]
    pub fn expires_here(&self) -> bool {
        self.duty.load(Ordering::Relaxed) != LeaseDuty::None as u8
    }

    /// Returns whether this process ends the lease because the replica that held its entry is gone.
    pub(super) fn is_orphaned(&self) -> bool {
        self.duty.load(Ordering::Relaxed) == LeaseDuty::Orphaned as u8
    }

    /// Records the time at which the replica that held the lease was gone.
    pub(super) fn set_orphaned_at(&self, now: LeaseTime) {
        self.orphaned_at.store(now, Ordering::Relaxed);
    }

    pub(super) fn set_duty(&self, duty: LeaseDuty) {
        self.duty.store(duty as u8, Ordering::Relaxed);
    }

    /// Returns whether the lease has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self.state(0), LeaseState::Alive { .. })
    }

    /// Returns whether the stream that last renewed the lease is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let closed = [HeartbeatStreamId::NONE, HeartbeatStreamId::BROKEN];
        matches!(self.state(0), LeaseState::Alive { stream, .. } if !closed.contains(&stream))
    }

    /// Returns the time after which the lease is overdue or, once it has ended, may be forgotten.
    #[must_use]
    pub fn deadline(&self, now: LeaseTime) -> LeaseTime {
        match self.state(now) {
            LeaseState::Alive { deadline, .. } => deadline,
            LeaseState::Ended { forget_at, .. } => forget_at,
        }
    }

    /// Returns whether the lease is alive although its deadline has passed.
    #[must_use]
    pub fn is_overdue(&self, now: LeaseTime) -> bool {
        self.phase(now) == LeasePhase::Overdue
    }

    /// Returns the phase of the lease.
    pub(super) fn phase(&self, now: LeaseTime) -> LeasePhase {
        match self.state(now) {
            LeaseState::Ended { .. } => LeasePhase::Ended,
            LeaseState::Alive { deadline, .. } if now > deadline => LeasePhase::Overdue,
            LeaseState::Alive { deadline, .. } if now > deadline.saturating_sub(self.ttl_ms() / 3) => {
                LeasePhase::Expiring
            }
            LeaseState::Alive { .. } => LeasePhase::Fresh,
        }
    }

    /// Returns the time after which the phase may have changed: when a third of the TTL is left or, once the lease has ended,
    /// when it may be forgotten.
    pub(super) fn next_check(&self, now: LeaseTime) -> LeaseTime {
        match self.state(now) {
            LeaseState::Alive { deadline, .. } => deadline.saturating_sub(self.ttl_ms() / 3),
            LeaseState::Ended { forget_at, .. } => forget_at,
        }
    }

    /// TTL in milliseconds.
    pub(super) fn ttl_ms(&self) -> LeaseTime {
        millis(self.terms().ttl())
    }

    pub(super) fn tracking_state(&self) -> TrackingState {
        let known = self.tracking_state.load(Ordering::Relaxed);
        [TrackingState::Trusted, TrackingState::Expiring, TrackingState::Suspect]
            .into_iter()
            .find(|tracking_state| *tracking_state as u8 == known)
            .unwrap_or(TrackingState::Released)
    }

    pub(super) fn set_tracking_state(&self, tracking_state: TrackingState) {
        self.tracking_state.store(tracking_state as u8, Ordering::Relaxed);
    }

    /// Terms that were granted last.
    #[must_use]
    pub fn terms(&self) -> LeaseTerms {
        LeaseTerms::unpack(self.terms.load(Ordering::Relaxed))
    }

    /// Grants other terms, which hold from the next renewal on.
    pub fn set_terms(&self, terms: LeaseTerms) {
        self.terms.store(terms.pack(), Ordering::Relaxed);
    }

    /// Last load report of the holder, and its time.
    #[must_use]
    pub fn load(&self) -> Option<(LoadReport, LeaseTime)> {
        self.load.lock().as_deref().copied()
    }

    /// Stores a load report.
    pub fn report_load(&self, load: LoadReport, now: LeaseTime) {
        *self.load.lock() = Some(Box::new((load, now)));
    }

    fn state(&self, now: LeaseTime) -> LeaseState {
        LeaseState::unpack(self.state.load(Ordering::Acquire), now)
    }

    fn change<E>(&self, now: LeaseTime, mut change: impl FnMut(LeaseState) -> Result<LeaseState, E>) -> Result<(), E> {
        let mut word = self.state.load(Ordering::Acquire);
        loop {
            let next = change(LeaseState::unpack(word, now))?.pack();
            match self.state.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(current) => word = current,
            }
        }
    }
}

pub(super) fn millis(span: Duration) -> LeaseTime {
    LeaseTime::try_from(span.as_millis()).unwrap_or(LeaseTime::MAX)
}

#[cfg(test)]
#[cfg(loom)]
#[path = "lease/models.rs"]
mod models;
#[cfg(test)]
#[path = "lease/tests.rs"]
mod tests;
