//! Slow start: the weight of a new instance rises from a tenth to its full value within a window.
//!
//! The factor is `max(10 %, age / window)`, at steps of 25 %. All young instances of a service step together, four times in a
//! window, so that a rolling restart of many instances causes no more changes than the start of one. The steps are counted from the
//! first young instance; the age of the others is rounded to the nearest step.
//!
//! An instance that starts while no other is older than the window is not slowed, because all would be slowed alike. Nor is one that
//! was there before: when the registry started, when the policy was set, or as a suspect.

use super::WeightFactor;

/// Number of steps in a window.
const STEPS: u64 = 4;

/// Slow start of one instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum StartPhase {
    /// The instance has not served yet.
    #[default]
    NotServed,
    /// The instance has served since this time, and its weight still rises.
    Rising {
        /// Time of its first serving.
        since: u64,
        /// Present factor.
        factor: WeightFactor,
    },
    /// The instance has its full weight.
    Full {
        /// Time of its first serving. `None`: before the first observation of the service.
        since: Option<u64>,
    },
}

impl StartPhase {
    /// Present factor. `None`: that of a newcomer.
    pub(super) fn factor(self) -> Option<WeightFactor> {
        match self {
            Self::NotServed => None,
            Self::Rising { factor, .. } => Some(factor),
            Self::Full { .. } => Some(WeightFactor::ONE),
        }
    }

    /// Returns whether the instance has served for the whole window.
    fn is_mature(self, now: u64, window: u64) -> bool {
        match self {
            Self::NotServed => false,
            Self::Rising { since, .. } | Self::Full { since: Some(since) } => now.saturating_sub(since) >= window,
            Self::Full { since: None } => true,
        }
    }
}

/// Instance in one observation.
#[derive(Debug)]
pub(super) struct StartingInstance<'a> {
    pub(super) phase: &'a mut StartPhase,
    pub(super) is_serving: bool,
    pub(super) is_suspect: bool,
}

/// Circumstances of an observation.
#[derive(Debug, Clone, Copy)]
pub(super) struct StartConditions {
    /// Window in milliseconds. 0: no slow start.
    pub(super) window: u64,
    /// Set if instances that are new to this observation may have been there before.
    pub(super) adopts: bool,
}

/// Slow start of the instances of a service.
#[derive(Debug, Default)]
pub(super) struct SlowStart {
    /// Time of the next step. `None`: no instance is rising.
    next_step: Option<u64>,
    /// Set if an instance that starts now is slowed.
    slows_newcomers: bool,
}

impl SlowStart {
    /// Factor of an instance that starts to serve now.
    pub(super) fn newcomers(&self) -> WeightFactor {
        if self.slows_newcomers { WeightFactor::MIN } else { WeightFactor::ONE }
    }

    /// Returns whether nothing changes with time alone: only instances that start or stop to serve make a difference.
    pub(super) fn is_stable(&self) -> bool {
        self.slows_newcomers && self.next_step.is_none()
    }

    /// Moves the phases of all instances on to this time.
    pub(super) fn observe(&mut self, now: u64, conditions: StartConditions, instances: &mut [StartingInstance<'_>]) {
        let StartConditions { window, adopts } = conditions;
        let is_routable = |instance: &StartingInstance<'_>| instance.is_serving || instance.is_suspect;
        let mut mature =
            instances.iter().any(|instance| is_routable(instance) && instance.phase.is_mature(now, window));
        for instance in instances.iter_mut().filter(|instance| is_routable(instance)) {
            if *instance.phase != StartPhase::NotServed {
                continue;
            }
            *instance.phase = if adopts || instance.is_suspect {
                mature = true;
                StartPhase::Full { since: None }
            } else if mature && window > 0 {
                self.next_step.get_or_insert(now + window / STEPS);
                StartPhase::Rising { since: now, factor: WeightFactor::MIN }
            } else {
                StartPhase::Full { since: Some(now) }
            };
        }
        self.slows_newcomers = mature && window > 0 && !adopts;
        let step_is_due = self.next_step.is_some_and(|next| next <= now);
        let mut rising = false;
        for instance in instances {
            let StartPhase::Rising { since, .. } = *instance.phase else { continue };
            let factor = if mature { nearest_step(now.saturating_sub(since), window) } else { WeightFactor::ONE };
            if factor == WeightFactor::ONE && (step_is_due || !mature || window == 0) {
                *instance.phase = StartPhase::Full { since: Some(since) };
                continue;
            }
            rising = true;
            if step_is_due {
                *instance.phase = StartPhase::Rising { since, factor };
            }
        }
        if !rising {
            self.next_step = None;
        } else if step_is_due {
            self.next_step = self.next_step.map(|next| next.max(now.saturating_sub(window / STEPS)) + window / STEPS);
        }
    }
}

/// Returns the factor at the step that is nearest to an age.
#[expect(clippy::cast_precision_loss, reason = "a handful of steps")]
fn nearest_step(age: u64, window: u64) -> WeightFactor {
    // Without a window, every age is beyond it.
    let step = (age.saturating_mul(STEPS).saturating_add(window / 2)).checked_div(window).unwrap_or(STEPS);
    WeightFactor::new(step.min(STEPS) as f64 / STEPS as f64)
}

#[cfg(test)]
#[path = "slow_start/tests.rs"]
mod tests;
