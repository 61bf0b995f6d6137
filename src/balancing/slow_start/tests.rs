use super::*;

const WINDOW: u64 = 60_000;

/// Phases of the instances of a service, all of which serve.
#[derive(Debug, Default)]
struct Service {
    slow_start: SlowStart,
    phases: Vec<StartPhase>,
}

impl Service {
    fn observe(&mut self, now: u64, window: u64, adopts: bool) -> Vec<f64> {
        let mut starting: Vec<_> = self
            .phases
            .iter_mut()
            .map(|phase| StartingInstance { phase, is_serving: true, is_suspect: false })
            .collect();
        self.slow_start.observe(now, StartConditions { window, adopts }, &mut starting);
        self.phases.iter().map(|phase| phase.factor().unwrap().get()).collect()
    }

    /// Observes the service each second in this span, and returns the times at which a factor changed, with the factors.
    fn changes(&mut self, span: std::ops::RangeInclusive<u64>) -> Vec<(u64, Vec<f64>)> {
        let mut changes: Vec<(u64, Vec<f64>)> = Vec::new();
        for second in span {
            let factors = self.observe(second * 1_000, WINDOW, false);
            if changes.last().is_none_or(|(_, last)| *last != factors) {
                changes.push((second, factors));
            }
        }
        changes
    }

    /// Returns a service with this number of instances that were there before.
    fn with_old_instances(number: usize) -> Self {
        let mut service = Self::default();
        service.phases.resize(number, StartPhase::NotServed);
        assert_eq!(service.observe(0, WINDOW, true), vec![1.0; number]);
        service
    }
}

#[test]
fn new_instance_rises_in_five_steps_within_the_window() {
    let mut service = Service::with_old_instances(1);
    service.phases.push(StartPhase::NotServed);
    let expected =
        [(1, 0.1), (16, 0.25), (31, 0.5), (46, 0.75), (61, 1.0)].map(|(second, factor)| (second, vec![1.0, factor]));
    assert_eq!(service.changes(1..=200), expected);
    assert!(service.slow_start.is_stable());
    assert_eq!(service.slow_start.newcomers(), WeightFactor::MIN);
}

#[test]
fn young_instances_of_a_service_step_together() {
    let mut service = Service::with_old_instances(1);
    let mut changes = Vec::new();
    for second in 1..=100 {
        // One starts each second for half a minute.
        if second <= 30 {
            service.phases.push(StartPhase::NotServed);
        }
        let before = service.phases.clone();
        service.observe(second * 1_000, WINDOW, false);
        let stepped = before
            .iter()
            .zip(&service.phases)
            .filter(|(before, after)| **before != StartPhase::NotServed && before.factor() != after.factor());
        if stepped.count() > 0 {
            changes.push(second);
        }
    }
    assert_eq!(changes, [16, 31, 46, 61, 76, 91]);
    assert!(service.phases.iter().all(|phase| phase.factor() == Some(WeightFactor::ONE)));
}

#[test]
fn service_whose_instances_are_all_young_is_not_slowed() {
    let mut service = Service { phases: vec![StartPhase::NotServed], ..Service::default() };
    assert_eq!(service.observe(1_000, WINDOW, false), [1.0]);
    service.phases.push(StartPhase::NotServed);
    assert_eq!(service.observe(31_000, WINDOW, false), [1.0, 1.0]);
    assert_eq!(service.slow_start.newcomers(), WeightFactor::ONE);
    assert!(!service.slow_start.is_stable(), "the first instance becomes mature by time alone");
    assert_eq!(service.observe(61_000, WINDOW, false), [1.0, 1.0], "and the other keeps its weight");
    service.phases.push(StartPhase::NotServed);
    assert_eq!(service.observe(62_000, WINDOW, false), [1.0, 1.0, 0.1]);
    assert!(!service.slow_start.is_stable());
}

#[test]
fn young_instances_get_their_full_weight_when_the_last_mature_one_leaves() {
    let mut service = Service::with_old_instances(1);
    service.phases.push(StartPhase::NotServed);
    assert_eq!(service.observe(1_000, WINDOW, false), [1.0, 0.1]);
    service.phases.remove(0);
    assert_eq!(service.observe(2_000, WINDOW, false), [1.0]);
    assert_eq!(service.changes(3..=100), [(3, vec![1.0])]);
}

#[test]
fn suspect_instance_and_change_of_the_status_start_nothing_anew() {
    let mut service = Service::with_old_instances(1);
    let mut phase = StartPhase::NotServed;
    let mut observe = |now, is_serving, is_suspect| {
        let mut starting = [
            StartingInstance { phase: &mut service.phases[0], is_serving: true, is_suspect: false },
            StartingInstance { phase: &mut phase, is_serving, is_suspect },
        ];
        service.slow_start.observe(now, StartConditions { window: WINDOW, adopts: false }, &mut starting);
        phase.factor().map(WeightFactor::get)
    };
    assert_eq!(observe(1_000, false, false), None, "it has not served yet");
    assert_eq!(observe(5_000, true, false), Some(0.1));
    assert_eq!(observe(20_000, true, false), Some(0.25));
    assert_eq!(observe(35_000, false, false), Some(0.5), "it ages while it is unhealthy");
    assert_eq!(observe(50_000, true, false), Some(0.75));
    assert_eq!(observe(65_000, false, true), Some(1.0));
    assert_eq!(observe(66_000, true, false), Some(1.0));
    phase = StartPhase::NotServed;
    let mut starting = [
        StartingInstance { phase: &mut service.phases[0], is_serving: true, is_suspect: false },
        StartingInstance { phase: &mut phase, is_serving: false, is_suspect: true },
    ];
    service.slow_start.observe(67_000, StartConditions { window: WINDOW, adopts: false }, &mut starting);
    assert_eq!(phase.factor(), Some(WeightFactor::ONE), "a suspect was there before");
}

#[test]
fn end_of_slow_start_gives_all_instances_their_full_weight() {
    let mut service = Service::with_old_instances(1);
    service.phases.push(StartPhase::NotServed);
    assert_eq!(service.observe(1_000, WINDOW, false), [1.0, 0.1]);
    assert_eq!(service.observe(2_000, 0, false), [1.0, 1.0]);
    assert_eq!(service.slow_start.newcomers(), WeightFactor::ONE);
}
