//! A lease: until when a registration lives, and which stream speaks for it.
//!
//! A heartbeat is one compare-and-swap on one word: no lock, no search, no revision. The word holds the deadline and the
//! carrier together, because they must change together: a stream that breaks shortens the deadline only if no other
//! stream has carried a heartbeat since.

use std::time::Duration;

use parking_lot::Mutex;

use crate::{
    model::{BootId, InstanceId, LeaseId, LeaseTerms, LoadReport, ServiceName},
    sync::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};

/// Milliseconds of the lease clock ([`super::LeaseClock`]).
pub type LeaseTime = u64;

/// Identifies an open heartbeat stream among all that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatStreamId(u64);

impl HeartbeatStreamId {
    /// No stream has carried a heartbeat yet, or the one that did was closed by us.
    const NONE: u64 = 0;
    /// The stream that carried the last heartbeat broke.
    const BROKEN: u64 = 1;

    /// The `n`th stream. Numbers come round after 67 million streams.
    #[must_use]
    pub fn numbered(n: u64) -> Self {
        Self(n % (LeaseState::CARRIERS - 2) + 2)
    }
}

/// How a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// It ran out.
    Expired,
    /// Another boot took its instance over.
    Superseded,
    /// An operator removed its instance.
    Removed,
    /// Its holder said goodbye.
    Deregistered,
}

/// One registration's lease.
#[derive(Debug)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// The service of its instance.
    pub service: ServiceName,
    /// Its instance.
    pub instance: InstanceId,
    /// The start of the program that holds it.
    pub boot: BootId,
    /// [`LeaseTerms`], packed.
    terms: AtomicU64,
    /// [`LeaseState`], packed.
    state: AtomicU64,
    /// The tick at which the wheel looks at it next. An entry of the wheel for any other tick is stale.
    pub(super) due: AtomicU64,
    /// [`LeaseStanding`], as a number. Changes under the lock of protection.
    standing: AtomicU8,
    /// It counts among the leases of its service: from its beginning until it ends, whoever ends it.
    pub(super) counted: AtomicBool,
    /// What its holder last said of its load. Boxed: most say nothing.
    load: Mutex<Option<Box<LoadReport>>>,
}

/// How near its end a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeasePhase {
    /// A third of its time to live is left, at least.
    Steady,
    /// Less than that is left: a heartbeat is missing.
    Weak,
    /// Nothing is left.
    Overdue,
    /// It has ended.
    Ended,
}

/// What protection makes of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaseStanding {
    /// Nothing: heartbeats come.
    Trusted,
    /// It counts as good as dead.
    Doubted,
    /// It would be dead, did protection not hold it.
    Suspect,
    /// An operator has said that it is dead if it is silent.
    Condemned,
}

/// Deadline and carrier of a living lease; or, of one that ended, how, and until when that is remembered.
#[derive(Debug, Clone, Copy)]
enum LeaseState {
    Alive { deadline: LeaseTime, carrier: u64 },
    Ended { forget: LeaseTime, ending: EndReason },
}

impl LeaseState {
    /// Bits of the carrier, and of the time: 2^37 ms are four years of uptime.
    const CARRIER_BITS: u32 = 26;
    const CARRIERS: u64 = 1 << Self::CARRIER_BITS;
    const TIME_MASK: u64 = (1 << 37) - 1;
    const ENDED: u64 = 1 << 63;

    fn pack(self) -> u64 {
        let word = |time: LeaseTime, low: u64| time.min(Self::TIME_MASK) << Self::CARRIER_BITS | low;
        match self {
            Self::Alive { deadline, carrier } => word(deadline, carrier),
            Self::Ended { forget, ending } => Self::ENDED | word(forget, ending as u64),
        }
    }

    fn unpack(word: u64) -> Self {
        let time = word >> Self::CARRIER_BITS & Self::TIME_MASK;
        let low = word & (Self::CARRIERS - 1);
        if word & Self::ENDED == 0 {
            return Self::Alive { deadline: time, carrier: low };
        }
        let ending = [EndReason::Expired, EndReason::Superseded, EndReason::Removed]
            .into_iter()
            .find(|ending| *ending as u64 == low)
            .unwrap_or(EndReason::Deregistered);
        Self::Ended { forget: time, ending }
    }
}

impl Lease {
    /// A lease that begins now.
    #[must_use]
    pub fn new(
        id: LeaseId,
        service: ServiceName,
        instance: InstanceId,
        boot: BootId,
        terms: LeaseTerms,
        now: LeaseTime,
    ) -> Self {
        let state = LeaseState::Alive { deadline: now + millis(terms.ttl()), carrier: HeartbeatStreamId::NONE };
        Self {
            id,
            service,
            instance,
            boot,
            terms: AtomicU64::new(terms.pack()),
            state: AtomicU64::new(state.pack()),
            due: AtomicU64::new(super::timing_wheel::NOWHERE),
            standing: AtomicU8::new(LeaseStanding::Trusted as u8),
            counted: AtomicBool::new(false),
            load: Mutex::new(None),
        }
    }

    /// A sign of life: a full time to live from now, which is returned. `None` as carrier leaves the carrier as it is
    /// (the sign was a call, not a stream).
    ///
    /// # Errors
    ///
    /// When the lease has ended; it stays ended.
    pub fn renew(&self, now: LeaseTime, by: Option<HeartbeatStreamId>) -> Result<Duration, EndReason> {
        let ttl = self.terms().ttl();
        self.change(|state| match state {
            LeaseState::Alive { carrier, .. } => {
                let carrier = by.map_or(carrier, |by| by.0);
                Ok(LeaseState::Alive { deadline: now + millis(ttl), carrier })
            }
            LeaseState::Ended { ending, .. } => Err(ending),
        })?;
        Ok(ttl)
    }

    /// The stream broke. If it carried the last heartbeat, only the disconnect grace is left, where there is one;
    /// returns the deadline if it came nearer.
    pub fn broken(&self, by: HeartbeatStreamId, now: LeaseTime) -> Option<LeaseTime> {
        let grace = self.terms().disconnect_grace().map(millis);
        let mut nearer = None;
        let change = self.change(|state| match state {
            LeaseState::Alive { deadline, carrier } if carrier == by.0 => {
                let left = grace.map_or(deadline, |grace| deadline.min(now + grace));
                nearer = (left < deadline).then_some(left);
                Ok(LeaseState::Alive { deadline: left, carrier: HeartbeatStreamId::BROKEN })
            }
            _ => Err(()),
        });
        change.ok().and(nearer)
    }

    /// We closed the stream ourselves: its holder did nothing wrong, so only the lease's own clock runs on.
    pub fn released(&self, by: HeartbeatStreamId) {
        let _ = self.change(|state| match state {
            LeaseState::Alive { deadline, carrier } if carrier == by.0 => {
                Ok(LeaseState::Alive { deadline, carrier: HeartbeatStreamId::NONE })
            }
            _ => Err(()),
        });
    }

    /// Ends it if it is overdue: from then on every heartbeat is told so. Returns whether this call ended it.
    pub fn expire(&self, now: LeaseTime) -> bool {
        self.change(|state| match state {
            LeaseState::Alive { deadline, .. } if now > deadline => {
                Ok(LeaseState::Ended { forget: now, ending: EndReason::Expired })
            }
            _ => Err(()),
        })
        .is_ok()
    }

    /// Ends it. Its holder can ask how for `memory` from now on.
    pub fn end(&self, ending: EndReason, now: LeaseTime, memory: Duration) {
        let _ = self.change(|state| match state {
            LeaseState::Alive { .. } => Ok(LeaseState::Ended { forget: now + millis(memory), ending }),
            LeaseState::Ended { .. } => Err(()),
        });
    }

    /// Whether another boot may take the instance over: the lease ended, its stream broke, or a heartbeat is missing.
    ///
    /// Heartbeats come every third of the time to live; after half of it without one, one is missing.
    ///
    /// # Errors
    ///
    /// When its holder is alive: how long until a missing heartbeat would tell otherwise.
    pub fn can_be_taken_over(&self, now: LeaseTime) -> Result<(), Duration> {
        match self.state() {
            LeaseState::Ended { .. } | LeaseState::Alive { carrier: HeartbeatStreamId::BROKEN, .. } => Ok(()),
            LeaseState::Alive { deadline, .. } => {
                let missing_from = deadline.saturating_sub(millis(self.terms().ttl() / 2));
                match missing_from.saturating_sub(now) {
                    0 => Ok(()),
                    wait => Err(Duration::from_millis(wait)),
                }
            }
        }
    }

    /// Whether it still holds.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self.state(), LeaseState::Alive { .. })
    }

    /// Whether the stream that carried its last heartbeat is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.state(), LeaseState::Alive { carrier, .. } if carrier != HeartbeatStreamId::NONE && carrier != HeartbeatStreamId::BROKEN)
    }

    /// When it wants to be looked at: at its deadline, or, once ended, when it can be forgotten.
    #[must_use]
    pub fn deadline(&self) -> LeaseTime {
        match self.state() {
            LeaseState::Alive { deadline, .. } => deadline,
            LeaseState::Ended { forget, .. } => forget,
        }
    }

    /// Whether it is alive, though its time is over.
    #[must_use]
    pub fn is_overdue(&self, now: LeaseTime) -> bool {
        self.pulse(now) == LeasePhase::Overdue
    }

    /// How near its end it is.
    pub(super) fn pulse(&self, now: LeaseTime) -> LeasePhase {
        match self.state() {
            LeaseState::Ended { .. } => LeasePhase::Ended,
            LeaseState::Alive { deadline, .. } if now > deadline => LeasePhase::Overdue,
            LeaseState::Alive { deadline, .. } if now > deadline.saturating_sub(self.ttl_ms() / 3) => LeasePhase::Weak,
            LeaseState::Alive { .. } => LeasePhase::Steady,
        }
    }

    /// After when it has to be looked at: when its pulse may be weak, or, once it has ended, when it can be forgotten.
    pub(super) fn next_check(&self) -> LeaseTime {
        match self.state() {
            LeaseState::Alive { deadline, .. } => deadline.saturating_sub(self.ttl_ms() / 3),
            LeaseState::Ended { forget, .. } => forget,
        }
    }

    /// Its time to live in milliseconds.
    pub(super) fn ttl_ms(&self) -> LeaseTime {
        millis(self.terms().ttl())
    }

    pub(super) fn standing(&self) -> LeaseStanding {
        let known = self.standing.load(Ordering::Relaxed);
        [LeaseStanding::Trusted, LeaseStanding::Doubted, LeaseStanding::Suspect]
            .into_iter()
            .find(|standing| *standing as u8 == known)
            .unwrap_or(LeaseStanding::Condemned)
    }

    pub(super) fn stand(&self, standing: LeaseStanding) {
        self.standing.store(standing as u8, Ordering::Relaxed);
    }

    /// Its terms.
    #[must_use]
    pub fn terms(&self) -> LeaseTerms {
        LeaseTerms::unpack(self.terms.load(Ordering::Relaxed))
    }

    /// Grants other terms, from the next sign of life on.
    pub fn set_terms(&self, terms: LeaseTerms) {
        self.terms.store(terms.pack(), Ordering::Relaxed);
    }

    /// What its holder last said of its load.
    #[must_use]
    pub fn load(&self) -> Option<LoadReport> {
        self.load.lock().as_deref().copied()
    }

    /// Its holder says how busy it is.
    pub fn report(&self, load: LoadReport) {
        *self.load.lock() = Some(Box::new(load));
    }

    fn state(&self) -> LeaseState {
        LeaseState::unpack(self.state.load(Ordering::Acquire))
    }

    fn change<E>(&self, mut change: impl FnMut(LeaseState) -> Result<LeaseState, E>) -> Result<(), E> {
        let mut word = self.state.load(Ordering::Acquire);
        loop {
            let next = change(LeaseState::unpack(word))?.pack();
            match self.state.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
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
