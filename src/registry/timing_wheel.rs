//! A lazy timing wheel: finds the leases whose time has come without being told of heartbeats.
//!
//! After "Hashed and Hierarchical Timing Wheels" (Varghese and Lauck, 1987), scheme 6, with one difference: a renewal
//! does not move the entry. The wheel looks at a lease in the slot where it was last put; if the deadline has moved on, it
//! puts the lease into a later slot. So a heartbeat costs the wheel nothing.
//!
//! A lease is looked at when a third of its time to live would be left, and, if no heartbeat has come, once more at its
//! deadline. Whose heartbeats come is looked at about twice in a time to live.

use std::{mem, sync::Arc};

use super::lease::{Lease, LeasePhase, LeaseTime};
use crate::sync::Ordering;

/// Milliseconds of a slot.
const TICK: LeaseTime = 100;
/// Slots. What is further away than all of them is looked at early and put on.
const SLOTS: u64 = 1024;
/// The tick of a lease that is not in the wheel.
pub(super) const NOWHERE: u64 = 0;

/// What a turn of the wheel finds.
#[derive(Debug, Default)]
pub struct TickResult {
    /// Less than a third of their time to live is left. Some were found so before.
    pub weak: Vec<Arc<Lease>>,
    /// Their time is over; the wheel has let go of them.
    pub overdue: Vec<Arc<Lease>>,
    /// They ended long enough ago to be forgotten; the wheel has let go of them.
    pub forgotten: Vec<Arc<Lease>>,
}

/// Leases in the order in which they have to be looked at.
#[derive(Debug)]
pub struct TimingWheel {
    slots: Box<[Vec<Arc<Lease>>]>,
    /// The last tick that was looked at.
    now: u64,
}

impl TimingWheel {
    /// An empty wheel.
    #[must_use]
    pub fn new(now: LeaseTime) -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), now: now / TICK }
    }

    /// Has the lease looked at when it wants to be. An earlier appointment is void.
    pub fn put(&mut self, lease: &Arc<Lease>) {
        self.put_after(lease, lease.next_check());
    }

    fn put_after(&mut self, lease: &Arc<Lease>, time: LeaseTime) {
        let due = (time / TICK + 1).clamp(self.now + 1, self.now + SLOTS - 1);
        if lease.due.swap(due, Ordering::Relaxed) != due {
            self.slots[slot(due)].push(Arc::clone(lease));
        }
    }

    /// Looks at the leases whose time for that has come.
    pub fn turn(&mut self, now: LeaseTime) -> TickResult {
        let mut turn = TickResult::default();
        let until = now / TICK;
        // After a long silence one round looks at every slot.
        self.now = self.now.max(until.saturating_sub(SLOTS));
        while self.now < until {
            self.now += 1;
            for lease in mem::take(&mut self.slots[slot(self.now)]) {
                let due = lease.due.load(Ordering::Relaxed);
                if due == NOWHERE || due > self.now {
                    continue; // put elsewhere, or taken out, since
                }
                self.look(lease, now, &mut turn);
            }
        }
        turn
    }

    fn look(&mut self, lease: Arc<Lease>, now: LeaseTime, turn: &mut TickResult) {
        let found = match lease.pulse(now) {
            LeasePhase::Weak => {
                self.put_after(&lease, lease.deadline());
                turn.weak.push(lease);
                return;
            }
            LeasePhase::Overdue => &mut turn.overdue,
            LeasePhase::Ended if lease.deadline() < now => &mut turn.forgotten,
            LeasePhase::Steady | LeasePhase::Ended => return self.put(&lease),
        };
        lease.due.store(NOWHERE, Ordering::Relaxed);
        found.push(lease);
    }
}

fn slot(tick: u64) -> usize {
    (tick % SLOTS) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{BootId, InstanceId, LeaseId, LeaseTerms, ServiceName};

    fn lease(n: u128, ttl_ms: u64, now: LeaseTime) -> Arc<Lease> {
        let terms = LeaseTerms::grant(Some(Duration::from_millis(ttl_ms)), Some(Duration::from_millis(200)));
        let (service, id) = (ServiceName::parse("web").unwrap(), InstanceId::parse("a").unwrap());
        Arc::new(Lease::new(LeaseId(n), service, id, BootId::parse("b").unwrap(), terms, now))
    }

    /// Turns the wheel every 100 ms until something passes, and says when.
    fn passes(wheel: &mut TimingWheel, from: LeaseTime) -> LeaseTime {
        (from..from + 200_000_000).step_by(100).find(|now| !wheel.turn(*now).overdue.is_empty()).unwrap()
    }

    #[test]
    fn looks_after_the_deadline_and_at_most_two_ticks_later() {
        for (start, ttl) in [(0, 1_000), (77, 1_234), (5_000, 102_400), (999, 86_400_000)] {
            let mut wheel = TimingWheel::new(start);
            wheel.put(&lease(1, ttl, start));
            let passed = passes(&mut wheel, start);
            assert!(passed > start + ttl && passed <= start + ttl + 2 * TICK, "{start} {ttl}: {passed}");
        }
    }

    #[test]
    fn a_renewed_lease_is_put_on() {
        let mut wheel = TimingWheel::new(0);
        let lease = lease(1, 1_000, 0);
        wheel.put(&lease);
        for now in (0..60_000).step_by(300) {
            let turn = wheel.turn(now);
            assert!(turn.weak.is_empty() && turn.overdue.is_empty());
            lease.renew(now, None).unwrap();
        }
        assert!((60_700..61_000).contains(&passes(&mut wheel, 60_000)));
    }

    #[test]
    fn a_nearer_deadline_is_kept_and_the_old_entry_is_void() {
        let mut wheel = TimingWheel::new(0);
        let lease = lease(1, 60_000, 0);
        wheel.put(&lease);
        let carrier = super::super::lease::HeartbeatStreamId::numbered(1);
        lease.renew(0, Some(carrier)).unwrap();
        lease.broken(carrier, 1_000).unwrap();
        wheel.put(&lease);
        assert!((1_200..=1_400).contains(&passes(&mut wheel, 1_000)));
        assert!((1_400..90_000).step_by(100).all(|now| wheel.turn(now).overdue.is_empty()), "looked at twice");
    }

    #[test]
    fn a_silence_longer_than_the_wheel_loses_nobody() {
        let mut wheel = TimingWheel::new(0);
        for n in 0..1_000_u64 {
            wheel.put(&lease(n.into(), 1_000 + n * 150, 0));
        }
        assert_eq!(wheel.turn(10_000_000).overdue.len(), 1_000);
    }

    #[test]
    fn a_million_leases_each_at_its_time() {
        let mut wheel = TimingWheel::new(0);
        for n in 0..1_000_000_u64 {
            wheel.put(&lease(n.into(), 1_000 + n % 29_000, 0));
        }
        let mut seen = 0;
        for now in (0..=30_300).step_by(100) {
            for lease in wheel.turn(now).overdue {
                let deadline = lease.deadline();
                assert!(now > deadline && now <= deadline + 2 * TICK, "{deadline} at {now}");
                seen += 1;
            }
        }
        assert_eq!(seen, 1_000_000);
    }
}
