//! State of the effective weights of one service.

use std::mem;

use super::{
    ServiceWeights, WeightFactor,
    response_time::{CallCounts, ReportedLoad, ResponseTimeRounds, WeighedInstance},
    slow_start::{SlowStart, StartConditions, StartPhase, StartingInstance},
    weight_factor::KnownFactor,
};
use crate::model::{EffectivePolicy, Instance, InstanceId, LoadReport, Revision, Status, WeightSource};

/// Part of a policy that effective weights depend on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WeightSettings {
    /// Window of slow start in milliseconds. 0: no slow start.
    slow_start: u64,
    response_time: bool,
}

impl WeightSettings {
    /// Returns the settings of a policy. `None`: clients get the configured weights.
    #[must_use]
    pub fn of(policy: &EffectivePolicy) -> Option<Self> {
        let slow_start = u64::try_from(policy.slow_start.as_millis()).unwrap_or(u64::MAX / 2);
        let response_time = policy.weights == WeightSource::ResponseTime;
        (slow_start > 0 || response_time).then_some(Self { slow_start, response_time })
    }

    /// Returns whether the weights depend on the calls that clients report.
    #[must_use]
    pub fn follows_calls(self) -> bool {
        self.response_time
    }
}

/// Instance of a service at the time of an update.
#[derive(Debug, Clone, Copy)]
pub struct ObservedInstance<'a> {
    /// Instance.
    pub instance: &'a Instance,
    /// Last load report, and its time.
    pub load: Option<(LoadReport, u64)>,
    /// Calls that clients have reported since the update before.
    pub calls: CallCounts,
}

/// Time and settings of an update.
#[derive(Debug, Clone, Copy)]
pub struct WeightConditions {
    /// Time.
    pub now: u64,
    /// Settings of the policy.
    pub settings: WeightSettings,
    /// Set if instances that are new to this update may have been there before.
    pub adopts: bool,
    /// Version of the weights if they change. It rises with each update that changes any weights.
    pub next_version: u64,
}

/// Result of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightUpdate {
    /// The weights are as before.
    Unchanged,
    /// The weights of all present routable instances are as before; those of others differ. Readers need not be woken.
    Replaced(Option<ServiceWeights>),
    /// The weight of a present routable instance has changed. `None`: all have their configured weights.
    Published(Option<ServiceWeights>),
}

/// State of the effective weights of one service. Its size is proportional to the number of instances.
#[derive(Debug, Default)]
pub struct WeightState {
    slow_start: SlowStart,
    rounds: ResponseTimeRounds,
    /// By instance id.
    instances: Vec<WeighedState>,
    published: Option<ServiceWeights>,
}

/// State of one registration of an instance.
#[derive(Debug)]
struct WeighedState {
    id: InstanceId,
    registration: Revision,
    phase: StartPhase,
    load: ReportedLoad,
}

impl WeighedState {
    fn new(instance: &Instance) -> Self {
        Self {
            id: instance.id.clone(),
            registration: instance.registered_revision,
            phase: StartPhase::default(),
            load: ReportedLoad::default(),
        }
    }

    fn is_of(&self, instance: &Instance) -> bool {
        self.id == instance.id && self.registration == instance.registered_revision
    }
}

impl WeightState {
    /// Returns whether an update without changes of instances has no effect.
    #[must_use]
    pub fn is_stable(&self, settings: WeightSettings) -> bool {
        !settings.response_time && self.slow_start.is_stable()
    }

    /// Returns whether an instance has another weight than the configured one.
    #[must_use]
    pub fn is_weighed(&self) -> bool {
        self.published.is_some()
    }

    /// Brings the state to this time, and returns the weights if they have changed. Called at most once a second, which bounds the
    /// number of publications. `observed`: all instances in the order of their ids.
    pub fn update(&mut self, conditions: WeightConditions, observed: &[ObservedInstance<'_>]) -> WeightUpdate {
        let WeightConditions { now, settings, adopts, next_version } = conditions;
        self.merge(observed);
        let conditions = StartConditions { window: settings.slow_start, adopts };
        let pairs = self.instances.iter_mut().zip(observed);
        let mut starting: Vec<_> = pairs
            .map(|(state, observed)| {
                let status = observed.instance.status();
                let (is_serving, is_suspect) = (status == Status::Serving, status == Status::Suspect);
                StartingInstance { phase: &mut state.phase, is_serving, is_suspect }
            })
            .collect();
        self.slow_start.observe(now, conditions, &mut starting);
        if settings.response_time {
            self.weigh(now, observed);
        } else {
            self.rounds.reset(self.instances.iter_mut().map(|state| &mut state.load));
        }
        self.publish(observed, next_version)
    }

    /// Makes the states those of the observed instances, in the same order.
    fn merge(&mut self, observed: &[ObservedInstance<'_>]) {
        let same = self.instances.len() == observed.len();
        if same && self.instances.iter().zip(observed).all(|(state, observed)| state.is_of(observed.instance)) {
            return;
        }
        let mut known = mem::take(&mut self.instances).into_iter().peekable();
        self.instances = observed
            .iter()
            .map(|observed| {
                let instance = observed.instance;
                while known.next_if(|state| state.id < instance.id).is_some() {}
                known.next_if(|state| state.is_of(instance)).unwrap_or_else(|| WeighedState::new(instance))
            })
            .collect();
    }

    /// Adds the load reports, and carries out a round if one is due.
    fn weigh(&mut self, now: u64, observed: &[ObservedInstance<'_>]) {
        let mut weighed = Vec::with_capacity(observed.len());
        for (state, observed) in self.instances.iter_mut().zip(observed) {
            if let Some((report, at)) = &observed.load {
                state.load.add(*at, report);
            }
            state.load.add_calls(now, observed.calls);
            if observed.instance.status().is_routable() {
                let weight = observed.instance.effective_weight().get().into();
                weighed.push(WeighedInstance { load: &mut state.load, weight });
            }
        }
        self.rounds.observe(now, &mut weighed);
    }

    /// Compares the present factors with the published ones.
    fn publish(&mut self, observed: &[ObservedInstance<'_>], next_version: u64) -> WeightUpdate {
        let newcomers = self.slow_start.newcomers();
        let known = self.instances.iter().filter_map(|state| {
            let factor = state.phase.factor()?.times(state.load.published());
            // An instance that is left out has the factor of newcomers.
            let known = KnownFactor { id: state.id.clone(), registration: state.registration, factor };
            (factor != newcomers).then_some(known)
        });
        let known: Vec<_> = known.collect();
        let is_configured = known.is_empty() && newcomers == WeightFactor::ONE;
        let present = (!is_configured).then(|| ServiceWeights::new(newcomers, known));
        let factor = |weights: Option<&ServiceWeights>, instance| {
            weights.map_or(WeightFactor::ONE, |weights| weights.factor(instance))
        };
        let changed = observed.iter().map(|observed| observed.instance).any(|instance| {
            instance.status().is_routable()
                && factor(present.as_ref(), instance) != factor(self.published.as_ref(), instance)
        });
        let version = self.published.as_ref().map(ServiceWeights::version).filter(|_| !changed);
        let present = present.map(|weights| weights.with_version(version.unwrap_or(next_version)));
        if present == self.published {
            return WeightUpdate::Unchanged;
        }
        self.published.clone_from(&present);
        if changed { WeightUpdate::Published(present) } else { WeightUpdate::Replaced(present) }
    }
}

#[cfg(test)]
#[path = "weight_state/tests.rs"]
mod tests;
