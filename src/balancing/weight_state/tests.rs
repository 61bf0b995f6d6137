use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::registry::{Entry, test_support::entry};

const BOTH: WeightSettings = WeightSettings { slow_start: 60_000, response_time: true };
const SLOW_START: WeightSettings = WeightSettings { slow_start: 60_000, response_time: false };

/// Instance, and its last load report with the time of it.
type ObservedEntry = (Arc<Entry>, Option<(LoadReport, u64)>);

/// Service whose state is updated each second.
#[derive(Debug, Default)]
struct Service {
    state: WeightState,
    entries: BTreeMap<String, ObservedEntry>,
    published: Option<ServiceWeights>,
    versions: u64,
}

impl Service {
    fn with(ids: &[&str]) -> Self {
        let mut service = Self::default();
        for id in ids {
            service.add(id);
        }
        service
    }

    fn add(&mut self, id: &str) {
        self.entries.insert(id.to_owned(), (entry("web", id, 2), None));
    }

    /// Adds a later registration under the same id.
    fn replace(&mut self, id: &str) {
        let (entry, load) = self.entries.get_mut(id).unwrap();
        let mut instance = entry.instance.clone();
        instance.registered_revision = instance.registered_revision.next();
        (*entry, *load) = (Arc::new(Entry::new(instance, None)), None);
    }

    fn update(&mut self, now: u64, settings: WeightSettings, adopts: bool) -> WeightUpdate {
        let observed: Vec<_> = self
            .entries
            .values()
            .map(|(entry, load)| ObservedInstance {
                instance: &entry.instance,
                load: *load,
                calls: CallCounts::default(),
            })
            .collect();
        let conditions = WeightConditions { now, settings, adopts, next_version: self.versions + 1 };
        let update = self.state.update(conditions, &observed);
        match &update {
            WeightUpdate::Unchanged => {}
            WeightUpdate::Replaced(weights) | WeightUpdate::Published(weights) => {
                self.versions += 1;
                self.published.clone_from(weights);
            }
        }
        update
    }

    fn weight(&self, id: &str) -> u32 {
        let instance = &self.entries[id].0.instance;
        self.published.as_ref().map_or(u32::from(instance.weight.get()) * 100, |weights| weights.of(instance))
    }

    fn version(&self) -> Option<u64> {
        self.published.as_ref().map(ServiceWeights::version)
    }
}

#[test]
fn instance_that_starts_between_two_updates_is_slowed_at_once() {
    let mut service = Service::with(&["b", "d"]);
    assert_eq!(service.update(0, SLOW_START, true), WeightUpdate::Unchanged, "all have their configured weights");
    assert!(matches!(service.update(1_000, SLOW_START, false), WeightUpdate::Replaced(Some(_))));
    let version = service.version();
    service.add("c");
    assert_eq!((service.weight("b"), service.weight("c")), (200, 20), "before the update that sees it");
    assert_eq!(service.update(2_000, SLOW_START, false), WeightUpdate::Unchanged);
    assert_eq!((service.weight("b"), service.weight("c")), (200, 20));
    assert!(matches!(service.update(17_000, SLOW_START, false), WeightUpdate::Published(_)));
    assert_eq!((service.weight("b"), service.weight("c"), service.weight("d")), (200, 50, 200));
    assert!(service.version() > version);
}

#[test]
fn later_registration_under_the_same_id_starts_anew() {
    let mut service = Service::with(&["a", "b"]);
    service.update(0, SLOW_START, true);
    service.update(1_000, SLOW_START, false);
    service.replace("a");
    assert_eq!((service.weight("a"), service.weight("b")), (20, 200));
    service.update(2_000, SLOW_START, false);
    assert_eq!((service.weight("a"), service.weight("b")), (20, 200));
}

#[test]
fn removed_instances_leave_the_state_and_the_weights() {
    let mut service = Service::with(&["a", "b", "c"]);
    service.update(0, SLOW_START, true);
    service.update(1_000, SLOW_START, false);
    let version = service.version();
    service.entries.remove("a");
    service.entries.remove("c");
    assert!(matches!(service.update(2_000, SLOW_START, false), WeightUpdate::Replaced(Some(_))));
    assert_eq!(
        (service.state.instances.len(), service.version()),
        (1, version),
        "no weight of a present instance changed"
    );
    service.entries.clear();
    assert_eq!(service.update(3_000, SLOW_START, false), WeightUpdate::Replaced(None));
    assert!(service.state.instances.is_empty());
}

#[test]
fn factors_of_slow_start_and_response_time_are_multiplied_down_to_a_tenth() {
    let mut service = Service::with(&["a", "b", "c", "d"]);
    let report = |millis| LoadReport { response_time: Some(Duration::from_millis(millis)), ..LoadReport::default() };
    service.update(0, BOTH, true);
    for second in 1..=200 {
        if second == 150 {
            service.replace("d");
        }
        for (id, (_, load)) in &mut service.entries {
            *load = Some((report(if id == "d" { 40 } else { 10 }), second * 1_000));
        }
        service.update(second * 1_000, BOTH, false);
        let weight = service.weight("d");
        assert!(weight >= 20, "at least a tenth, but {weight} at {second}");
        if second == 149 {
            assert!((100..=125).contains(&weight), "half for its response time, but {weight}");
        }
    }
    let weight = service.weight("d");
    assert!((75..=95).contains(&weight), "three quarters of half, or a little more: {weight}");
    let off = WeightSettings { response_time: false, ..BOTH };
    service.update(300_000, off, false);
    assert_eq!(service.weight("d"), 200);
}

#[test]
fn settings_are_those_of_the_policy() {
    let policy = EffectivePolicy::default();
    assert_eq!(WeightSettings::of(&policy), None);
    let slow = EffectivePolicy { slow_start: Duration::from_mins(1), ..EffectivePolicy::default() };
    assert_eq!(WeightSettings::of(&slow), Some(SLOW_START));
    let weighed = EffectivePolicy { weights: WeightSource::ResponseTime, ..slow };
    assert_eq!(WeightSettings::of(&weighed), Some(BOTH));
}

proptest! {
    /// Random starts and removals: weights stay within their bounds, at most one publication each step of the window besides
    /// those of starts, and all end at their configured weights.
    #[test]
    fn slow_start_ends_at_configured_weights(steps in prop::collection::vec((0..10_u8, any::<bool>()), 0..60)) {
        let mut service = Service::with(&["old"]);
        service.update(0, SLOW_START, true);
        let mut second = 0;
        let mut publications = 0;
        for (number, starts) in steps {
            second += 1;
            let id = format!("i{number}");
            if starts {
                service.add(&id);
            } else {
                service.entries.remove(&id);
            }
            let published = matches!(service.update(second * 1_000, SLOW_START, false), WeightUpdate::Published(_));
            publications += usize::from(published);
            for id in service.entries.keys() {
                prop_assert!((20..=200).contains(&service.weight(id)));
            }
        }
        let windows = usize::try_from(second / 60).unwrap() + 1;
        prop_assert!(publications <= 5 * windows, "{} publications in {} s", publications, second);
        for second in second..second + 80 {
            service.update(second * 1_000, SLOW_START, false);
        }
        for id in service.entries.keys() {
            prop_assert_eq!(service.weight(id), 200);
        }
    }
}
