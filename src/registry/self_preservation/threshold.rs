//! What is protected: a service, or the registry as a whole. The rule is the same, its numbers differ.

use super::sliding_counter::SlidingCounter;
use crate::registry::{event::ClockReading, lease::LeaseTime};

/// After so many times to live protection lets go, little by little, of those who never came back.
const PATIENCE: LeaseTime = 10;
/// What may go in a time to live does not go at once: one part in so many does in the same part of the time.
const STEPS: usize = 20;

/// From when on so many silent instances are not believed to be dead.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThresholdRule {
    /// More than one in so many.
    pub share: usize,
    /// Where there are at least so many.
    pub fewest: usize,
}

/// A service: a fifth of it, from three on.
pub(super) const SERVICE: ThresholdRule = ThresholdRule { share: 5, fewest: 3 };
/// The registry: a tenth of it, from twenty on.
pub(super) const REGISTRY: ThresholdRule = ThresholdRule { share: 10, fewest: 20 };
/// And only where it has so many services.
pub(super) const FEWEST_SERVICES: usize = 3;

/// The numbers that the rule looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThresholdInput {
    /// Instances that have a lease now.
    pub instances: usize,
    /// The same, with those that were removed by inference in the last time to live. Who said goodbye is not in it.
    pub peak: usize,
    /// Of these instances, whose lease is overdue or has less than a third of its time left, the suspects among them.
    pub weak: usize,
    /// Instances that would have been removed.
    pub suspects: usize,
    /// Removed by inference in the last time to live.
    pub removals: usize,
    /// More than this many weak and removed ones are not believed.
    pub limit: usize,
}

/// A protection that holds somebody.
#[derive(Debug, Clone, Copy)]
pub(super) struct ActiveProtection {
    /// Since when.
    pub since: ClockReading,
    /// When there were last too many.
    pub storm: LeaseTime,
    /// The longest time to live of those it has held.
    pub span: LeaseTime,
    /// The first of those it has held goes, if it stays silent, not before this.
    pub dead_go: LeaseTime,
}

/// What is known of a service's, or the registry's, silent instances.
#[derive(Debug)]
pub(super) struct ThresholdState {
    pub rule: ThresholdRule,
    /// Leases that count as good as dead, suspects among them.
    pub weak: usize,
    pub suspects: usize,
    /// Removals by inference.
    pub removals: SlidingCounter,
    pub guard: Option<ActiveProtection>,
}

impl ThresholdState {
    pub(super) fn new(rule: ThresholdRule) -> Self {
        Self { rule, weak: 0, suspects: 0, removals: SlidingCounter::default(), guard: None }
    }

    pub(super) fn numbers(&self, instances: usize, now: LeaseTime, ttl: LeaseTime) -> ThresholdInput {
        let removals = self.removals.within(now, ttl);
        let peak = instances + removals;
        ThresholdInput {
            instances,
            peak,
            weak: self.weak,
            suspects: self.suspects,
            removals,
            limit: peak / self.rule.share,
        }
    }

    /// Whether more are silent than can be believed.
    pub(super) fn is_exceeded(&self, numbers: ThresholdInput) -> bool {
        numbers.peak >= self.rule.fewest && (numbers.weak + numbers.removals) * self.rule.share > numbers.peak
    }

    /// There are too many. Returns whether there were not before.
    pub(super) fn storm(&mut self, now: ClockReading, ttl: LeaseTime) -> bool {
        let begins = self.guard.is_none();
        let calm = ActiveProtection { since: now, storm: now.lease, span: ttl, dead_go: LeaseTime::MAX };
        let guard = self.guard.get_or_insert(calm);
        guard.storm = now.lease;
        guard.span = guard.span.max(ttl);
        begins
    }

    /// Whether it holds whose time to live is this: it does until there were not too many for as long as that.
    pub(super) fn holds(&self, now: LeaseTime, ttl: LeaseTime) -> bool {
        self.guard.is_some_and(|guard| now.saturating_sub(guard.storm) < ttl)
    }

    /// Whether one that has been silent for too long to be waited for may go, beside those that went lately.
    pub(super) fn releases(&self, numbers: ThresholdInput, now: LeaseTime, ttl: LeaseTime) -> bool {
        let step = ttl / STEPS as LeaseTime;
        numbers.removals < numbers.limit.max(1) && self.removals.within(now, step) < (numbers.limit / STEPS).max(1)
    }

    /// A suspect more, held until then at least.
    pub(super) fn hold(&mut self, until: LeaseTime) {
        self.suspects += 1;
        if let Some(guard) = &mut self.guard {
            guard.dead_go = guard.dead_go.min(until);
        }
    }

    /// Whether its guard has nobody left to hold, or no reason to.
    pub(super) fn is_over(&self, now: LeaseTime) -> bool {
        self.guard.is_some_and(|guard| self.suspects == 0 || !self.holds(now, guard.span))
    }
}

/// When a lease with this deadline is no longer waited for.
pub(super) fn patience(deadline: LeaseTime, ttl: LeaseTime) -> LeaseTime {
    deadline.saturating_add(PATIENCE * ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exceeded(rule: ThresholdRule, instances: usize, weak: usize, removed: usize) -> bool {
        let mut ward = ThresholdState { weak, ..ThresholdState::new(rule) };
        (0..removed).for_each(|_| ward.removals.add(1_000));
        ward.is_exceeded(ward.numbers(instances, 1_000, 15_000))
    }

    #[test]
    fn more_than_a_fifth_of_a_service_is_not_believed() {
        for (instances, weak, removed, not_believed) in [
            (100, 20, 0, false),
            (100, 21, 0, true),
            (80, 0, 20, false),
            (80, 1, 20, true),
            (10, 2, 0, false),
            (5, 1, 0, false),
            (4, 1, 0, true),
            (3, 1, 0, true),
            (2, 2, 0, false),
            (1, 1, 0, false),
            (2, 1, 1, true),
            (1, 1, 1, false),
        ] {
            assert_eq!(exceeded(SERVICE, instances, weak, removed), not_believed, "{instances} {weak} {removed}");
        }
    }

    #[test]
    fn more_than_a_tenth_of_a_registry_is_not_believed() {
        for (instances, weak, not_believed) in [(100, 10, false), (100, 11, true), (20, 3, true), (19, 19, false)] {
            assert_eq!(exceeded(REGISTRY, instances, weak, 0), not_believed, "{instances} {weak}");
        }
    }

    #[test]
    fn it_lets_go_of_a_fifth_in_a_time_to_live_little_by_little() {
        let (ttl, mut now, mut left) = (15_000, 0, 1_000);
        let mut ward = ThresholdState { weak: left, ..ThresholdState::new(SERVICE) };
        let mut went = Vec::new();
        while left > 0 && now < 3_600_000 {
            while left > 0 && ward.releases(ward.numbers(left, now, ttl), now, ttl) {
                ward.removals.add(now);
                left -= 1;
                went.push(now);
            }
            now += 100;
        }
        assert_eq!(left, 0, "it does not hold for ever");
        let within = |from: LeaseTime| went.iter().filter(|at| (from..from + ttl).contains(*at)).count();
        assert!((180..=200).contains(&within(0)), "{}", within(0));
        for at in &went {
            let there = 1_000 - went.partition_point(|other| other < at);
            assert!(within(*at) <= (there / 5).max(1), "{} of {there} within a time to live", within(*at));
            assert!(went.iter().filter(|other| (*at..*at + 750).contains(other)).count() <= (there / 80).max(1));
        }
    }
}
