use std::{sync::Weak, time::Duration};

use super::*;
use crate::{
    engine::{Engine, Memory},
    model::{Incarnation, LoadReport, PolicySettings, ServerActor, ServicePolicy, WeightSource},
    registry::{
        Command, PolicyCommand,
        test_support::{NoListener, at, deregister, name, register},
    },
};

/// Registry in memory with effective weights.
#[derive(Debug)]
struct Weighed {
    engine: Memory,
    notifier: Arc<Notifier>,
    weights: EffectiveWeights,
    seconds: u64,
    leases: u128,
}

impl Weighed {
    fn new() -> Self {
        Self {
            engine: Memory::new(Incarnation(1), at(0), Arc::new(NoListener)),
            notifier: Arc::new(Notifier::new(1)),
            weights: EffectiveWeights::default(),
            seconds: 0,
            leases: 0,
        }
    }

    fn submit(&self, command: Command) {
        self.engine.submit(command, at(self.seconds * 1_000)).unwrap();
    }

    fn register(&mut self, service: &str, id: &str) {
        self.leases += 1;
        self.submit(Command::Register(register(service, id, id, self.leases)));
    }

    fn set_policy(&self, scope: PolicyScope, settings: PolicySettings) {
        let policy = ServicePolicy { settings, ..ServicePolicy::default() };
        let command = PolicyCommand { scope, policy, expected_revision: None };
        drop(Engine::submit_policy(&self.engine, command, ServerActor::InProcess.caller(), at(self.seconds * 1_000)));
    }

    /// Updates the weights each second.
    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.seconds += 1;
            self.weights.update(self.engine.registry(), &self.notifier, self.seconds * 1_000);
        }
    }

    fn report(&self, service: &str, id: &str, millis: u64) {
        let entry = self.engine.registry().get(&name(service), id).unwrap();
        let load = LoadReport { response_time: Some(Duration::from_millis(millis)), ..LoadReport::default() };
        entry.lease.as_ref().unwrap().report_load(load, self.seconds * 1_000);
    }

    fn weight(&self, service: &str, id: &str) -> Option<u32> {
        let entry = self.engine.registry().get(&name(service), id).unwrap();
        self.weights.of(&name(service)).map(|weights| weights.of(&entry.instance))
    }
}

fn slow_start(seconds: u64) -> PolicySettings {
    PolicySettings { slow_start: Some(Duration::from_secs(seconds)), ..PolicySettings::default() }
}

fn by_response_time() -> PolicySettings {
    PolicySettings { weights: Some(WeightSource::ResponseTime), ..PolicySettings::default() }
}

fn service(service: &str) -> PolicyScope {
    PolicyScope::Service(name(service))
}

#[test]
fn slow_start_of_a_service_leaves_others_and_earlier_instances_as_they_are() {
    let mut weighed = Weighed::new();
    for service in ["db", "web"] {
        weighed.register(service, "a");
    }
    weighed.run(2);
    weighed.set_policy(service("web"), slow_start(60));
    weighed.run(2);
    for service in ["db", "web"] {
        weighed.register(service, "b");
    }
    assert_eq!((weighed.weight("web", "a"), weighed.weight("web", "b")), (Some(100), Some(10)), "at once");
    weighed.run(20);
    assert_eq!((weighed.weight("web", "a"), weighed.weight("web", "b")), (Some(100), Some(25)));
    assert_eq!(weighed.weight("db", "b"), None);
    assert_eq!(weighed.weights.calculation.lock().services.len(), 1, "others have no state");
    weighed.run(50);
    assert_eq!(weighed.weight("web", "b"), Some(100));
}

#[test]
fn instances_that_return_after_a_restart_are_not_slowed() {
    let mut weighed = Weighed::new();
    weighed.set_policy(PolicyScope::Defaults, slow_start(60));
    weighed.engine.registry().settle(0, Duration::from_secs(15));
    weighed.run(1);
    weighed.register("web", "a");
    weighed.run(5);
    weighed.register("web", "b");
    weighed.run(5);
    assert_eq!((weighed.weight("web", "a"), weighed.weight("web", "b")), (None, None));
    assert!(weighed.engine.registry().end_settling(15_000));
    weighed.run(5);
    weighed.register("web", "c");
    weighed.run(1);
    assert_eq!((weighed.weight("web", "a"), weighed.weight("web", "c")), (Some(100), Some(10)));
}

#[test]
fn response_time_changes_the_weights_and_the_end_of_the_policy_restores_them() {
    let mut weighed = Weighed::new();
    for id in ["a", "b", "c", "d"] {
        weighed.register("web", id);
    }
    weighed.set_policy(service("web"), by_response_time());
    let mut versions = Vec::new();
    for _ in 0..100 {
        weighed.run(1);
        for (id, millis) in [("a", 10), ("b", 10), ("c", 10), ("d", 40)] {
            weighed.report("web", id, millis);
        }
        let version = weighed.weights.of(&name("web")).map(|weights| weights.version());
        if version != versions.last().copied().flatten() || versions.is_empty() {
            versions.push(version);
        }
    }
    assert_eq!(weighed.weight("web", "a"), Some(100));
    assert!((50..=62).contains(&weighed.weight("web", "d").unwrap()), "{:?}", weighed.weight("web", "d"));
    assert!((3..=5).contains(&versions.len()) && versions.is_sorted(), "{versions:?}");
    weighed.set_policy(service("web"), PolicySettings::default());
    weighed.run(1);
    assert!(weighed.weights.of(&name("web")).is_none());
    assert!(weighed.weights.calculation.lock().services.is_empty());
}

#[test]
fn services_that_lose_their_instances_leave_no_state() {
    let mut weighed = Weighed::new();
    weighed.set_policy(PolicyScope::Defaults, slow_start(60));
    weighed.register("web", "a");
    weighed.run(2);
    let weights = Arc::downgrade(&weighed.weights.of(&name("web")).unwrap());
    weighed.submit(deregister("web", "a", Some(1)));
    weighed.run(1);
    assert!(weighed.weights.of(&name("web")).is_none());
    assert_eq!(Weak::strong_count(&weights), 0);
    assert!(weighed.weights.calculation.lock().services.is_empty());
}

#[test]
fn errors_that_clients_report_reduce_the_weight_of_their_instance() {
    let mut weighed = Weighed::new();
    weighed.set_policy(service("web"), by_response_time());
    for id in ["a", "b", "c"] {
        weighed.register("web", id);
    }
    weighed.run(1);
    let report = |weighed: &Weighed, errors| {
        let calls = ["a", "b", "c"].map(|id| {
            let hash = weighed.engine.registry().get(&name("web"), id).unwrap().instance.id.short_hash();
            (hash, CallCounts { ended: 100, errors: if id == "c" { errors } else { 0 } })
        });
        weighed.weights.report_calls(&name("web"), &calls);
        weighed.weights.report_calls(&name("other"), &calls);
    };
    for _ in 0..6 {
        report(&weighed, 80);
        weighed.run(10);
    }
    let configured = weighed.weight("web", "a").unwrap();
    assert!(
        weighed.weight("web", "c").unwrap() * 3 < configured * 2,
        "{:?} of {configured}",
        weighed.weight("web", "c")
    );
    weighed.set_policy(service("web"), PolicySettings::default());
    weighed.run(1);
    assert_eq!(weighed.weight("web", "c"), None);
}
