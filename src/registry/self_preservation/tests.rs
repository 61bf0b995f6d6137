//! Sweeps: scenarios, and scripts against a naive model.

mod naive;
mod script;

use super::*;
use crate::{
    engine::Memory,
    model::{Incarnation, ServerActor, Status},
    registry::{
        HeartbeatStreamId, Patch, Register,
        test_support::{NoListener, at, deregister, id, name, register, update},
    },
};

/// TTL of [`register`], in milliseconds.
const TTL: u64 = 3_000;

/// Registry with a manual clock: a sweep every 100 ms, and a heartbeat every second for each live instance.
struct TestRegistry {
    engine: Memory,
    now: u64,
    alive: Vec<(String, String)>,
}

impl TestRegistry {
    /// Registers this number of live instances of each service.
    fn new(services: &[(&str, usize)]) -> Self {
        let mut test =
            Self { engine: Memory::new(Incarnation(1), at(0), Arc::new(NoListener)), now: 0, alive: Vec::new() };
        for (service, many) in services {
            (0..*many).for_each(|number| test.add(service, &format!("i{number}")));
        }
        test
    }

    fn add(&mut self, service: &str, instance: &str) {
        let lease = self.engine.registry().applied().0.into();
        self.engine.submit(Command::Register(register(service, instance, "boot", lease)), at(self.now)).unwrap();
        self.alive.push((service.to_owned(), instance.to_owned()));
    }

    /// Stops the heartbeats of the first `many` instances of a service.
    fn silence(&mut self, service: &str, many: usize) {
        let silent: Vec<_> = (0..many).map(|number| (service.to_owned(), format!("i{number}"))).collect();
        self.alive.retain(|key| !silent.contains(key));
    }

    fn resume(&mut self, service: &str, numbers: std::ops::Range<usize>) {
        self.alive.extend(numbers.map(|number| (service.to_owned(), format!("i{number}"))));
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now += 100;
            if self.now.is_multiple_of(1_000) {
                for (service, instance) in &self.alive {
                    let entry = self.engine.registry().get(&name(service), instance).unwrap();
                    entry.lease.as_ref().unwrap().renew(self.now, None).unwrap();
                }
            }
            self.engine.expire(at(self.now));
        }
    }

    /// Passes time until `left` instances of a service are left, and returns the milliseconds that it took.
    fn until_left(&mut self, service: &str, left: usize, limit: u64) -> u64 {
        let start = self.now;
        while self.count(service) > left {
            assert!(self.now - start < limit, "{} are left after {limit} ms", self.count(service));
            self.pass(100);
        }
        self.now - start
    }

    fn count(&self, service: &str) -> usize {
        self.engine.registry().summary(&name(service)).map_or(0, |summary| summary.instances)
    }

    fn suspects(&self, service: &str) -> usize {
        let page = self.engine.registry().page(&name(service), "", usize::MAX);
        page.iter().filter(|entry| entry.instance.status() == Status::Suspect).count()
    }

    fn is_preserved(&self, service: &str) -> bool {
        self.engine.registry().self_preservation_of(&name(service), self.now).since.is_some()
    }

    fn registry_status(&self) -> SelfPreservationStatus {
        self.engine.registry().self_preservation(self.now).0
    }

    fn log(&self) -> Vec<(String, EventKind)> {
        let service =
            |event: &SelfPreservationEvent| event.status.service.as_ref().map_or("*".to_owned(), ToString::to_string);
        self.engine.registry().self_preservation_events(0).iter().map(|event| (service(event), event.kind)).collect()
    }
}

fn logged(service: &str, kind: EventKind) -> (String, EventKind) {
    (service.to_owned(), kind)
}

#[test]
fn single_silent_instance_of_large_service_is_removed_within_a_second() {
    for many in [5, 10, 100, 3_000] {
        let mut test = TestRegistry::new(&[("web", many)]);
        test.pass(10_000);
        test.silence("web", 1);
        // The last heartbeat was at 10 s.
        let took = test.until_left("web", many - 1, TTL + 300);
        assert!(took > TTL, "{many}: {took}");
        assert_eq!((test.suspects("web"), test.log()), (0, vec![]), "{many}");
    }
}

#[test]
fn one_silent_instance_of_three_or_four_is_held_and_of_fewer_is_removed() {
    for (many, silent, held) in [(4, 1, 1), (3, 1, 1), (3, 3, 3), (2, 2, 0), (2, 1, 0), (1, 1, 0)] {
        let mut test = TestRegistry::new(&[("web", many)]);
        test.pass(10_000);
        test.silence("web", silent);
        test.pass(TTL + 1_000);
        assert_eq!((test.suspects("web"), test.count("web")), (held, many - silent + held), "{silent} of {many}");
    }
}

#[test]
fn silent_majority_is_held_until_it_recovers() {
    let mut test = TestRegistry::new(&[("web", 100)]);
    test.pass(10_000);
    test.silence("web", 60);
    test.pass(TTL + 1_000);
    assert_eq!((test.count("web"), test.suspects("web")), (100, 60));
    let status = test.engine.registry().self_preservation_of(&name("web"), test.now);
    let input =
        ThresholdInput { instances: 100, peak: 100, expiring: 60, suspects: 60, recent_expirations: 0, limit: 20 };
    assert_eq!(status.input, input);
    assert_eq!(status.first_release_at, Some(10_000 + 11 * TTL));
    assert_eq!(test.log(), [logged("web", EventKind::Began)]);
    // Some recover, but too few; then enough for the rest to be removed, after a TTL in which they may recover, too.
    test.resume("web", 0..20);
    test.pass(1_200);
    assert_eq!((test.suspects("web"), test.count("web")), (40, 100));
    test.resume("web", 20..50);
    test.pass(1_000);
    assert_eq!((test.suspects("web"), test.count("web")), (10, 100));
    test.pass(TTL - 1_500);
    assert_eq!((test.suspects("web"), test.count("web")), (10, 100));
    test.pass(1_600);
    assert_eq!((test.suspects("web"), test.count("web")), (0, 90), "the rest is removed");
    assert_eq!(test.log(), [logged("web", EventKind::Began), logged("web", EventKind::Ended)]);
}

#[test]
fn all_expiring_leases_count_when_the_first_is_overdue() {
    // Ten stop in each tenth of a second: when the first are overdue, the others are not yet.
    let mut test = TestRegistry::new(&[]);
    for tenth in 0..10 {
        (0..10).for_each(|number| test.add("web", &format!("i{}", tenth * 10 + number)));
        test.alive.clear();
        test.pass(100);
    }
    test.pass(2_200);
    assert_eq!(test.count("web"), 100);
    assert!(test.suspects("web") > 0 && test.suspects("web") < 30, "{}", test.suspects("web"));
    test.pass(2_000);
    assert_eq!((test.count("web"), test.suspects("web")), (100, 100), "none was removed first");
}

#[test]
fn instances_that_stop_one_by_one_do_not_empty_a_service() {
    let mut test = TestRegistry::new(&[("web", 40)]);
    for number in 0..40 {
        test.alive.retain(|(_, instance)| *instance != format!("i{number}"));
        test.pass(1_000);
    }
    assert!(test.count("web") > 20, "{}", test.count("web"));
    assert!(test.suspects("web") > 10, "{}", test.suspects("web"));
}

#[test]
fn deregistered_suspects_are_removed_and_do_not_count() {
    let mut test = TestRegistry::new(&[("web", 10)]);
    test.silence("web", 6);
    test.pass(TTL + 1_000);
    assert_eq!(test.suspects("web"), 6);
    for number in 0..6 {
        test.engine.submit(deregister("web", &format!("i{number}"), None), at(test.now)).unwrap();
    }
    assert_eq!(test.count("web"), 4);
    test.pass(100);
    assert!(!test.is_preserved("web"));
    // They do not count in the peak either: two silent instances of the remaining four are half of it.
    test.alive.truncate(2);
    test.pass(TTL + 1_000);
    assert_eq!((test.suspects("web"), test.count("web")), (2, 4));
}

#[test]
fn replacing_all_instances_does_not_exceed_the_threshold() {
    let mut test = TestRegistry::new(&[("web", 10)]);
    for number in 0..10 {
        test.add("web", &format!("new{number}"));
        let old = format!("i{number}");
        test.alive.retain(|(_, instance)| *instance != old);
        test.engine.submit(deregister("web", &old, None), at(test.now)).unwrap();
        test.pass(100);
    }
    test.pass(TTL + 1_000);
    assert_eq!((test.count("web"), test.log()), (10, vec![]));
}

#[test]
fn suspect_can_be_updated_taken_over_and_registered_again() {
    let mut test = TestRegistry::new(&[("web", 10)]);
    test.silence("web", 6);
    test.pass(TTL + 1_000);
    let entry = |test: &TestRegistry, instance: &str| test.engine.registry().get(&name("web"), instance).unwrap();
    // An update leaves it suspect; a takeover, or a registration of its own boot, does not.
    let drain = Patch { draining: Some(true), ..Patch::default() };
    test.engine.submit(update("web", "i0", drain), at(test.now)).unwrap();
    assert_eq!(entry(&test, "i0").instance.status(), Status::Draining);
    assert!(entry(&test, "i0").instance.conditions.suspect);
    test.engine.submit(Command::Register(register("web", "i1", "other", 99)), at(test.now)).unwrap();
    assert_eq!(entry(&test, "i1").instance.status(), Status::Serving);
    test.engine.submit(Command::Register(register("web", "i2", "boot", 98)), at(test.now)).unwrap();
    assert_eq!(entry(&test, "i2").instance.status(), Status::Serving);
    test.pass(100);
    assert_eq!(test.suspects("web"), 3);
    let numbers = test.engine.registry().self_preservation_of(&name("web"), test.now).input;
    assert_eq!((numbers.expiring, numbers.suspects), (4, 4), "the draining one is held too");
}

#[test]
fn starting_suspect_is_held_and_not_available() {
    let mut test = TestRegistry::new(&[("web", 3)]);
    let starting = Register { starting: true, ..register("web", "s", "boot", 99) };
    test.engine.submit(Command::Register(starting), at(0)).unwrap();
    test.alive.clear();
    test.pass(TTL + 1_000);
    let summary = test.engine.registry().summary(&name("web")).unwrap();
    assert_eq!((summary.instances, summary.available, test.suspects("web")), (4, 3, 3));
}

#[test]
fn reset_removes_suspects_and_leases_that_were_expiring() {
    let mut test = TestRegistry::new(&[("web", 10), ("db", 5)]);
    test.silence("web", 6);
    test.silence("db", 5);
    test.pass(TTL - 500);
    // Two more stopped a moment ago and may not be expiring yet: the reset does not concern them then.
    test.silence("web", 8);
    test.pass(1_500);
    assert_eq!((test.suspects("web"), test.suspects("db")), (6, 5));
    let reset = |test: &TestRegistry, service: Option<&str>| {
        test.engine.registry().reset_self_preservation(
            service.map(name).as_ref(),
            ServerActor::InProcess.caller(),
            at(test.now),
        )
    };
    assert_eq!(reset(&test, Some("unknown")), 0);
    let released = reset(&test, Some("web"));
    assert!(released >= 6, "{released}");
    test.pass(100);
    assert_eq!(test.count("web"), 4);
    assert_eq!((test.count("db"), test.suspects("db")), (5, 5));
    assert_eq!(reset(&test, None), 5 + (8 - released));
    test.pass(100);
    assert_eq!(test.count("db"), 0);
    assert_eq!(test.log()[2..], [logged("web", EventKind::Reset), logged("db", EventKind::Reset)]);
}

#[test]
fn instance_that_recovers_after_a_reset_stays() {
    let mut test = TestRegistry::new(&[("web", 5)]);
    test.alive.clear();
    test.pass(TTL - 500);
    assert_eq!(test.engine.registry().reset_self_preservation(None, ServerActor::InProcess.caller(), at(test.now)), 5);
    test.resume("web", 0..4);
    test.pass(2_000);
    assert_eq!((test.count("web"), test.suspects("web")), (4, 0), "only the silent one is removed");
}

#[test]
fn suspects_are_released_in_small_steps_after_ten_ttls() {
    let mut test = TestRegistry::new(&[("web", 50), ("three", 3)]);
    test.alive.clear();
    test.pass(11 * TTL);
    assert_eq!((test.count("web"), test.suspects("web"), test.count("three")), (50, 50, 3));
    test.pass(TTL);
    assert!((40..48).contains(&test.count("web")), "{}", test.count("web"));
    assert_eq!(test.count("three"), 2);
    let took = test.until_left("web", 0, 60 * TTL);
    assert!(took > 9 * TTL, "a fifth at most in each TTL: {took}");
    test.until_left("three", 0, 0);
    assert!(test.registry_status().since.is_none() && !test.is_preserved("web"));
    test.pass(62_000);
    let kept = test.engine.registry().self_preservation.state.lock();
    assert_eq!((kept.records.len(), kept.tracked.len(), kept.all.expiring), (0, 0, 0), "nothing is left behind");
}

#[test]
fn threshold_of_the_registry_counts_all_services() {
    let pairs: Vec<String> = (0..15).map(|number| format!("pair{number}")).collect();
    let services: Vec<_> = pairs.iter().map(|pair| (&**pair, 2)).collect();
    let mut test = TestRegistry::new(&services);
    test.pass(5_000);
    pairs[..3].iter().for_each(|pair| test.silence(pair, 1));
    test.pass(TTL + 1_000);
    assert_eq!(test.engine.registry().instance_count(), 27, "a tenth is below the threshold");
    pairs[3..7].iter().for_each(|pair| test.silence(pair, 1));
    test.pass(TTL + 1_000);
    assert_eq!(test.engine.registry().instance_count(), 27);
    assert_eq!(pairs.iter().map(|pair| test.suspects(pair)).sum::<usize>(), 4);
    assert_eq!((test.registry_status().input.suspects, test.registry_status().input.limit), (4, 2));
    assert_eq!(test.log(), [logged("*", EventKind::Began)], "no service by itself");
    assert_eq!(test.engine.registry().reset_self_preservation(None, ServerActor::InProcess.caller(), at(test.now)), 4);
    test.pass(100);
    assert_eq!(test.engine.registry().instance_count(), 23);
    assert!(test.registry_status().since.is_none());
}

#[test]
fn threshold_of_the_registry_does_not_apply_to_two_services() {
    let mut test = TestRegistry::new(&[("one", 30), ("two", 30)]);
    test.pass(5_000);
    test.silence("one", 6);
    test.silence("two", 6);
    test.pass(TTL + 1_000);
    assert_eq!((test.count("one"), test.count("two"), test.log()), (24, 24, vec![]));
}

#[test]
fn service_with_short_and_long_ttls_holds_each_by_its_own() {
    let mut test = TestRegistry::new(&[("web", 3)]);
    for number in 3..6 {
        let terms = crate::model::LeaseTerms::grant(Some(std::time::Duration::from_mins(1)), None);
        let request = Register { terms, ..register("web", &format!("i{number}"), "boot", 100 + number) };
        test.engine.submit(Command::Register(request), at(0)).unwrap();
    }
    test.alive.clear();
    test.pass(60_000);
    // Those with the short TTL have been released, one in each TTL; the last three are held for their own TTL.
    let left = test.count("web");
    assert!((3..=4).contains(&left), "{left}");
    test.pass(60_000);
    assert_eq!((test.count("web"), test.suspects("web")), (3, 3));
    test.until_left("web", 0, 2_000_000);
}

#[test]
fn suspect_that_was_stored_recovers_with_its_new_lease() {
    let mut test = TestRegistry::new(&[("web", 3)]);
    let entry = test.engine.registry().get(&name("web"), "i0").unwrap();
    // An engine with a store loads it like this: with a new lease that has its full TTL.
    let lease = Lease::new(
        crate::model::LeaseId(77),
        name("db"),
        id("a"),
        entry.lease.as_ref().unwrap().boot,
        entry.lease.as_ref().unwrap().terms(),
        0,
    );
    let mut instance = entry.instance.clone();
    (instance.service, instance.id, instance.conditions.suspect) = (name("db"), id("a"), true);
    let change = crate::registry::ProposedChange::Put {
        instance,
        lease: Some(Arc::new(lease)),
        is_new: false,
        terms: None,
        end_reason: crate::registry::EndReason::Superseded,
    };
    let registry = test.engine.registry();
    let revision = registry.applied().next();
    registry.order().apply(change.at(revision, None), None, revision, at(0), ServerActor::InProcess.caller());
    assert_eq!(test.suspects("db"), 1);
    test.pass(100);
    assert_eq!((test.suspects("db"), test.count("db")), (0, 1));
    test.pass(TTL + 200);
    assert_eq!(test.count("db"), 0, "and its TTL goes on");
}

#[test]
fn instances_after_their_grace_count_as_silent() {
    let mut test = TestRegistry::new(&[]);
    let stream = HeartbeatStreamId::numbered(1);
    for number in 0..10 {
        let terms = crate::model::LeaseTerms::grant(
            Some(std::time::Duration::from_mins(1)),
            Some(std::time::Duration::from_secs(1)),
        );
        let request = Register { terms, ..register("web", &format!("i{number}"), "boot", number) };
        let entry = test.engine.submit(Command::Register(request), at(0)).unwrap().entry.unwrap();
        entry.lease.as_ref().unwrap().renew(0, Some(stream)).unwrap();
    }
    let registry = test.engine.registry();
    for number in 0..10 {
        let entry = registry.get(&name("web"), &format!("i{number}")).unwrap();
        registry.leases().stream_broken(entry.lease.as_ref().unwrap(), stream, 0);
    }
    test.pass(2_000);
    assert_eq!((test.count("web"), test.suspects("web")), (10, 10));
}
