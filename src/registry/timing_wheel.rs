//! A lazy timing wheel: finds the leases that are due, without any work for heartbeats.
//!
//! After "Hashed and Hierarchical Timing Wheels" (Varghese and Lauck, 1987), scheme 6, with one difference: a renewal does not
//! move the entry. The wheel looks at a lease in the slot where it was last put; if the deadline has moved on, it puts the
//! lease into a later slot. So a heartbeat costs the wheel nothing.
//!
//! The wheel looks at a lease when a third of its TTL is left and, if no heartbeat has arrived by then, again at its
//! deadline. A lease with regular heartbeats is looked at about twice a TTL.

use std::{mem, sync::Arc};

use super::lease::{Lease, LeasePhase, LeaseTime};
use crate::sync::Ordering;

/// Length of a slot in milliseconds.
const TICK_MS: LeaseTime = 100;
/// Number of slots. A lease that is due later than all of them is looked at early and put into a later slot.
const SLOTS: u64 = 1024;

/// Leases that one tick of the wheel found.
#[derive(Debug, Default)]
pub struct TickResult {
    /// Leases with less than a third of their TTL left, some of which were found before.
    pub expiring: Vec<Arc<Lease>>,
    /// Leases whose deadline has passed. The wheel holds them no longer.
    pub overdue: Vec<Arc<Lease>>,
    /// Leases that ended long enough ago to be forgotten. The wheel holds them no longer.
    pub forgettable: Vec<Arc<Lease>>,
}

/// Leases in the order in which they are due.
#[derive(Debug)]
pub struct TimingWheel {
    slots: Box<[Vec<Arc<Lease>>]>,
    /// Last tick whose slot was looked at.
    tick: u64,
}

impl TimingWheel {
    /// Creates an empty wheel.
    #[must_use]
    pub fn new(now: LeaseTime) -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), tick: now / TICK_MS }
    }

    /// Schedules a lease for its next check. An earlier entry of the lease becomes stale.
    pub fn put(&mut self, lease: &Arc<Lease>) {
        self.put_after(lease, lease.next_check(self.tick * TICK_MS));
    }

    fn put_after(&mut self, lease: &Arc<Lease>, time: LeaseTime) {
        let due = (time / TICK_MS + 1).clamp(self.tick + 1, self.tick + SLOTS - 1);
        if lease.due.swap(due, Ordering::Relaxed) != due {
            self.slots[slot(due)].push(Arc::clone(lease));
        }
    }

    /// Looks at the leases that are due.
    pub fn tick(&mut self, now: LeaseTime) -> TickResult {
        let mut found = TickResult::default();
        let until = now / TICK_MS;
        // After a long pause, one round looks at every slot.
        self.tick = self.tick.max(until.saturating_sub(SLOTS));
        while self.tick < until {
            self.tick += 1;
            for lease in mem::take(&mut self.slots[slot(self.tick)]) {
                let due = lease.due.load(Ordering::Relaxed);
                if due == Lease::NOT_SCHEDULED || due > self.tick {
                    continue; // put elsewhere, or taken out, since
                }
                self.look_at(lease, now, &mut found);
            }
        }
        found
    }

    fn look_at(&mut self, lease: Arc<Lease>, now: LeaseTime, found: &mut TickResult) {
        let leases = match lease.phase(now) {
            LeasePhase::Expiring => {
                self.put_after(&lease, lease.deadline(now));
                found.expiring.push(lease);
                return;
            }
            LeasePhase::Overdue => &mut found.overdue,
            LeasePhase::Ended if lease.deadline(now) < now => &mut found.forgettable,
            LeasePhase::Fresh | LeasePhase::Ended => return self.put(&lease),
        };
        lease.due.store(Lease::NOT_SCHEDULED, Ordering::Relaxed);
        leases.push(lease);
    }
}

fn slot(tick: u64) -> usize {
    (tick % SLOTS) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        model::{BootId, InstanceId, LeaseId, LeaseTerms, ServiceName},
        registry::lease::HeartbeatStreamId,
    };

    fn lease(n: u128, ttl_ms: u64, now: LeaseTime) -> Arc<Lease> {
        let terms = LeaseTerms::grant(Some(Duration::from_millis(ttl_ms)), Some(Duration::from_millis(200)));
        let (service, id) = (ServiceName::parse("web").unwrap(), InstanceId::parse("a").unwrap());
        Arc::new(Lease::new(LeaseId(n), service, id, BootId::parse("b").unwrap(), terms, now))
    }

    /// Ticks the wheel every 100 ms until a lease is overdue, and returns that time.
    fn first_overdue(wheel: &mut TimingWheel, from: LeaseTime) -> LeaseTime {
        (from..from + 200_000_000).step_by(100).find(|now| !wheel.tick(*now).overdue.is_empty()).unwrap()
    }

    #[test]
    fn overdue_lease_is_found_within_two_ticks() {
        let wrap = 1 << 37;
        for (start, ttl) in
            [(0, 1_000), (77, 1_234), (5_000, 102_400), (999, 86_400_000), (wrap - 1_500, 3_000), (wrap * 9 - 7, 5_000)]
        {
            let mut wheel = TimingWheel::new(start);
            wheel.put(&lease(1, ttl, start));
            let found = first_overdue(&mut wheel, start);
            assert!(found > start + ttl && found <= start + ttl + 2 * TICK_MS, "{start} {ttl}: {found}");
        }
    }

    #[test]
    fn renewed_lease_is_found_after_its_last_deadline() {
        let mut wheel = TimingWheel::new(0);
        let lease = lease(1, 1_000, 0);
        wheel.put(&lease);
        for now in (0..60_000).step_by(300) {
            let found = wheel.tick(now);
            assert!(found.expiring.is_empty() && found.overdue.is_empty());
            lease.renew(now, None).unwrap();
        }
        assert!((60_700..61_000).contains(&first_overdue(&mut wheel, 60_000)));
    }

    #[test]
    fn lease_with_nearer_deadline_is_found_there_and_once() {
        let mut wheel = TimingWheel::new(0);
        let lease = lease(1, 60_000, 0);
        wheel.put(&lease);
        let stream = HeartbeatStreamId::numbered(1);
        lease.renew(0, Some(stream)).unwrap();
        lease.stream_broken(stream, 1_000).unwrap();
        wheel.put(&lease);
        assert!((1_200..=1_400).contains(&first_overdue(&mut wheel, 1_000)));
        assert!((1_400..90_000).step_by(100).all(|now| wheel.tick(now).overdue.is_empty()), "found twice");
    }

    #[test]
    fn pause_longer_than_the_wheel_loses_no_lease() {
        let mut wheel = TimingWheel::new(0);
        for n in 0..1_000_u64 {
            wheel.put(&lease(n.into(), 1_000 + n * 150, 0));
        }
        assert_eq!(wheel.tick(10_000_000).overdue.len(), 1_000);
    }

    #[test]
    fn million_leases_are_each_found_in_time() {
        let mut wheel = TimingWheel::new(0);
        for n in 0..1_000_000_u64 {
            wheel.put(&lease(n.into(), 1_000 + n % 29_000, 0));
        }
        let mut found = 0;
        for now in (0..=30_300).step_by(100) {
            for lease in wheel.tick(now).overdue {
                let deadline = lease.deadline(now);
                assert!(now > deadline && now <= deadline + 2 * TICK_MS, "{deadline} at {now}");
                found += 1;
            }
        }
        assert_eq!(found, 1_000_000);
    }
}
