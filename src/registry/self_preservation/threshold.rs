//! Threshold of self-preservation, for a service and for the registry as a whole. The rule is the same, its numbers differ.

use super::sliding_counter::SlidingCounter;
use crate::registry::{event::ClockReading, lease::LeaseTime};

/// Number of TTLs after which a silent suspect is released.
const MAX_SUSPECT_TTLS: LeaseTime = 10;
/// Number of equal steps of a TTL over which releases are spread, so that suspects are not released all at once.
const RELEASE_STEPS: usize = 20;

/// Rule that decides when too many instances are silent.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThresholdRule {
    /// The threshold is one part in this many.
    pub divisor: usize,
    /// Minimum number of instances for the rule to apply.
    pub min_instances: usize,
}

/// Rule of a service: a fifth, from three instances on.
pub(super) const SERVICE_RULE: ThresholdRule = ThresholdRule { divisor: 5, min_instances: 3 };
/// Rule of the registry: a tenth, from twenty instances on.
pub(super) const REGISTRY_RULE: ThresholdRule = ThresholdRule { divisor: 10, min_instances: 20 };
/// Minimum number of services for the rule of the registry to apply.
pub(super) const REGISTRY_MIN_SERVICES: usize = 3;

/// Numbers that the threshold is compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThresholdInput {
    /// Instances with a lease.
    pub instances: usize,
    /// Instances with a lease, and those that expired within the last TTL. Deregistered instances do not count.
    pub peak: usize,
    /// Instances whose lease is overdue or has less than a third of its TTL left, suspects included.
    pub expiring: usize,
    /// Suspects: instances that would have been removed without self-preservation.
    pub suspects: usize,
    /// Instances that expired within the last TTL.
    pub recent_expirations: usize,
    /// Threshold: more expiring and recently expired instances than this are too many.
    pub limit: usize,
}

/// Self-preservation that has begun and not ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Activation {
    /// Time at which it began.
    pub since: ClockReading,
    /// Time at which the threshold was last exceeded.
    pub last_exceeded: LeaseTime,
    /// Longest TTL of the leases that exceeded it.
    pub longest_ttl: LeaseTime,
    /// Time before which no suspect is released.
    pub first_release_at: LeaseTime,
}

/// Counts of a service's, or the registry's, silent instances.
#[derive(Debug)]
pub(super) struct ThresholdState {
    pub rule: ThresholdRule,
    /// Leases that count as expiring, suspects included.
    pub expiring: usize,
    pub suspects: usize,
    /// Removals of instances whose lease expired.
    pub expirations: SlidingCounter,
    pub activation: Option<Activation>,
}

impl ThresholdState {
    pub(super) fn new(rule: ThresholdRule) -> Self {
        Self { rule, expiring: 0, suspects: 0, expirations: SlidingCounter::default(), activation: None }
    }

    pub(super) fn input(&self, instances: usize, now: LeaseTime, ttl: LeaseTime) -> ThresholdInput {
        let recent_expirations = self.expirations.within(now, ttl);
        let peak = instances + recent_expirations;
        ThresholdInput {
            instances,
            peak,
            expiring: self.expiring,
            suspects: self.suspects,
            recent_expirations,
            limit: peak / self.rule.divisor,
        }
    }

    /// Returns whether too many instances are silent.
    pub(super) fn is_exceeded(&self, input: ThresholdInput) -> bool {
        let silent = input.expiring + input.recent_expirations;
        input.peak >= self.rule.min_instances && silent * self.rule.divisor > input.peak
    }

    /// Records that the threshold is exceeded. Returns whether self-preservation begins now.
    pub(super) fn activate(&mut self, now: ClockReading, ttl: LeaseTime) -> bool {
        let begins = self.activation.is_none();
        let activation = self.activation.get_or_insert(Activation {
            since: now,
            last_exceeded: now.lease,
            longest_ttl: ttl,
            first_release_at: LeaseTime::MAX,
        });
        activation.last_exceeded = now.lease;
        activation.longest_ttl = activation.longest_ttl.max(ttl);
        begins
    }

    /// Returns whether an instance with this TTL is held: the threshold was exceeded within the TTL.
    pub(super) fn holds(&self, now: LeaseTime, ttl: LeaseTime) -> bool {
        self.activation.is_some_and(|activation| now.saturating_sub(activation.last_exceeded) < ttl)
    }

    /// Returns whether a suspect that has been silent for too long may be removed now, in addition to those that were removed
    /// recently.
    pub(super) fn permits_release(&self, input: ThresholdInput, now: LeaseTime, ttl: LeaseTime) -> bool {
        let step = ttl / RELEASE_STEPS as LeaseTime;
        input.recent_expirations < input.limit.max(1)
            && self.expirations.within(now, step) < (input.limit / RELEASE_STEPS).max(1)
    }

    /// Counts one more suspect, which is not released before `until`.
    pub(super) fn add_suspect(&mut self, until: LeaseTime) {
        self.suspects += 1;
        if let Some(activation) = &mut self.activation {
            activation.first_release_at = activation.first_release_at.min(until);
        }
    }

    /// Returns whether self-preservation ends: there are no suspects, or it holds none of them any more.
    pub(super) fn is_over(&self, now: LeaseTime) -> bool {
        self.activation.is_some_and(|activation| self.suspects == 0 || !self.holds(now, activation.longest_ttl))
    }
}

/// Returns the time after which a suspect with this deadline may be released.
pub(super) fn release_time(deadline: LeaseTime, ttl: LeaseTime) -> LeaseTime {
    deadline.saturating_add(MAX_SUSPECT_TTLS * ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_exceeded(rule: ThresholdRule, instances: usize, expiring: usize, expired: usize) -> bool {
        let mut threshold = ThresholdState { expiring, ..ThresholdState::new(rule) };
        (0..expired).for_each(|_| threshold.expirations.add(1_000));
        threshold.is_exceeded(threshold.input(instances, 1_000, 15_000))
    }

    #[test]
    fn threshold_of_a_service_is_a_fifth() {
        for (instances, expiring, expired, exceeded) in [
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
            let found = is_exceeded(SERVICE_RULE, instances, expiring, expired);
            assert_eq!(found, exceeded, "{instances} {expiring} {expired}");
        }
    }

    #[test]
    fn threshold_of_a_registry_is_a_tenth() {
        for (instances, expiring, exceeded) in [(100, 10, false), (100, 11, true), (20, 3, true), (19, 19, false)] {
            assert_eq!(is_exceeded(REGISTRY_RULE, instances, expiring, 0), exceeded, "{instances} {expiring}");
        }
    }

    #[test]
    fn suspects_are_released_by_a_fifth_per_ttl_and_in_small_steps() {
        let (ttl, mut now, mut left) = (15_000, 0, 1_000);
        let mut threshold = ThresholdState { expiring: left, ..ThresholdState::new(SERVICE_RULE) };
        let mut releases = Vec::new();
        while left > 0 && now < 3_600_000 {
            while left > 0 && threshold.permits_release(threshold.input(left, now, ttl), now, ttl) {
                threshold.expirations.add(now);
                left -= 1;
                releases.push(now);
            }
            now += 100;
        }
        assert_eq!(left, 0, "all are released in the end");
        let within = |from: LeaseTime| releases.iter().filter(|at| (from..from + ttl).contains(*at)).count();
        assert!((180..=200).contains(&within(0)), "{}", within(0));
        for at in &releases {
            let present = 1_000 - releases.partition_point(|other| other < at);
            assert!(within(*at) <= (present / 5).max(1), "{} of {present} within a TTL", within(*at));
            let in_step = releases.iter().filter(|other| (*at..*at + 750).contains(other)).count();
            assert!(in_step <= (present / 80).max(1));
        }
    }
}
