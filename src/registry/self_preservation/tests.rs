//! Whom a sweep believes: stories, and scripts against a naive model.

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

/// The time to live of [`register`], in milliseconds.
const TTL: u64 = 3_000;

/// A registry whose clock is in our hands: a sweep every 100 ms, a heartbeat every second for those who live.
struct TestRegistry {
    engine: Memory,
    now: u64,
    alive: Vec<(String, String)>,
}

impl TestRegistry {
    /// So many instances of each service, all of them alive.
    fn new(services: &[(&str, usize)]) -> Self {
        let mut stage =
            Self { engine: Memory::new(Incarnation(1), at(0), Arc::new(NoListener)), now: 0, alive: Vec::new() };
        for (service, many) in services {
            (0..*many).for_each(|number| stage.enter(service, &format!("i{number}")));
        }
        stage
    }

    fn enter(&mut self, service: &str, instance: &str) {
        let lease = self.engine.registry().applied().0.into();
        self.engine.submit(Command::Register(register(service, instance, "boot", lease)), at(self.now)).unwrap();
        self.alive.push((service.to_owned(), instance.to_owned()));
    }

    /// The first so many of a service fall silent.
    fn silence(&mut self, service: &str, many: usize) {
        let silent: Vec<_> = (0..many).map(|number| (service.to_owned(), format!("i{number}"))).collect();
        self.alive.retain(|key| !silent.contains(key));
    }

    fn awake(&mut self, service: &str, numbers: std::ops::Range<usize>) {
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

    /// Passes time until so many are left of a service, and says how long that took.
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

    fn is_protected(&self, service: &str) -> bool {
        self.engine.registry().protection_of(&name(service), self.now).since.is_some()
    }

    fn whole(&self) -> SelfPreservationStatus {
        self.engine.registry().protection(self.now).0
    }

    fn turned(&self) -> Vec<(String, EventKind)> {
        let service =
            |notice: &SelfPreservationEvent| notice.what.service.as_ref().map_or("*".to_owned(), ToString::to_string);
        self.engine.registry().notices(0).iter().map(|notice| (service(notice), notice.turned)).collect()
    }
}

fn turn(service: &str, turned: EventKind) -> (String, EventKind) {
    (service.to_owned(), turned)
}

#[test]
fn single_dead_of_large_services_go_within_a_second() {
    for many in [5, 10, 100, 3_000] {
        let mut stage = TestRegistry::new(&[("web", many)]);
        stage.pass(10_000);
        stage.silence("web", 1);
        // Their last heartbeat was at 10 s.
        let took = stage.until_left("web", many - 1, TTL + 300);
        assert!(took > TTL, "{many}: {took}");
        assert_eq!((stage.suspects("web"), stage.turned()), (0, vec![]), "{many}");
    }
}

#[test]
fn one_of_three_or_four_is_held_and_one_or_two_go_at_once() {
    for (many, silent, held) in [(4, 1, 1), (3, 1, 1), (3, 3, 3), (2, 2, 0), (2, 1, 0), (1, 1, 0)] {
        let mut stage = TestRegistry::new(&[("web", many)]);
        stage.pass(10_000);
        stage.silence("web", silent);
        stage.pass(TTL + 1_000);
        assert_eq!((stage.suspects("web"), stage.count("web")), (held, many - silent + held), "{silent} of {many}");
    }
}

#[test]
fn most_of_a_service_is_held_and_comes_back() {
    let mut stage = TestRegistry::new(&[("web", 100)]);
    stage.pass(10_000);
    stage.silence("web", 60);
    stage.pass(TTL + 1_000);
    assert_eq!((stage.count("web"), stage.suspects("web")), (100, 60));
    let shown = stage.engine.registry().protection_of(&name("web"), stage.now);
    let numbers = ThresholdInput { instances: 100, peak: 100, weak: 60, suspects: 60, removals: 0, limit: 20 };
    assert_eq!(shown.numbers, numbers);
    assert_eq!(shown.dead_go, Some(10_000 + 11 * TTL));
    assert_eq!(stage.turned(), [turn("web", EventKind::Began)]);
    // Some come back, though not enough; then so many that the rest would be believed. They have a time to live to come.
    stage.awake("web", 0..20);
    stage.pass(1_200);
    assert_eq!((stage.suspects("web"), stage.count("web")), (40, 100));
    stage.awake("web", 20..50);
    stage.pass(1_000);
    assert_eq!((stage.suspects("web"), stage.count("web")), (10, 100));
    stage.pass(TTL - 1_500);
    assert_eq!((stage.suspects("web"), stage.count("web")), (10, 100));
    stage.pass(1_600);
    assert_eq!((stage.suspects("web"), stage.count("web")), (0, 90), "the rest is dead");
    assert_eq!(stage.turned(), [turn("web", EventKind::Began), turn("web", EventKind::Ended)]);
}

#[test]
fn all_that_is_weak_counts_when_the_first_is_overdue() {
    // Ten fall silent in each tenth of a second: when the first run out, the others have yet to.
    let mut stage = TestRegistry::new(&[]);
    for tenth in 0..10 {
        (0..10).for_each(|number| stage.enter("web", &format!("i{}", tenth * 10 + number)));
        stage.alive.clear();
        stage.pass(100);
    }
    stage.pass(2_200);
    assert_eq!(stage.count("web"), 100);
    assert!(stage.suspects("web") > 0 && stage.suspects("web") < 30, "{}", stage.suspects("web"));
    stage.pass(2_000);
    assert_eq!((stage.count("web"), stage.suspects("web")), (100, 100), "nobody went first");
}

#[test]
fn a_trickle_does_not_empty_a_service() {
    let mut stage = TestRegistry::new(&[("web", 40)]);
    for number in 0..40 {
        stage.alive.retain(|(_, instance)| *instance != format!("i{number}"));
        stage.pass(1_000);
    }
    assert!(stage.count("web") > 20, "{}", stage.count("web"));
    assert!(stage.suspects("web") > 10, "{}", stage.suspects("web"));
}

#[test]
fn goodbyes_win_and_do_not_count() {
    let mut stage = TestRegistry::new(&[("web", 10)]);
    stage.silence("web", 6);
    stage.pass(TTL + 1_000);
    assert_eq!(stage.suspects("web"), 6);
    for number in 0..6 {
        stage.engine.submit(deregister("web", &format!("i{number}"), None), at(stage.now)).unwrap();
    }
    assert_eq!(stage.count("web"), 4);
    stage.pass(100);
    assert!(!stage.is_protected("web"));
    // Nor do they make silent peers look few: two of the four that are left are half of it.
    stage.alive.truncate(2);
    stage.pass(TTL + 1_000);
    assert_eq!((stage.suspects("web"), stage.count("web")), (2, 4));
}

#[test]
fn replacing_instances_by_others_is_no_mass_expiry() {
    let mut stage = TestRegistry::new(&[("web", 10)]);
    for number in 0..10 {
        stage.enter("web", &format!("new{number}"));
        let old = format!("i{number}");
        stage.alive.retain(|(_, instance)| *instance != old);
        stage.engine.submit(deregister("web", &old, None), at(stage.now)).unwrap();
        stage.pass(100);
    }
    stage.pass(TTL + 1_000);
    assert_eq!((stage.count("web"), stage.turned()), (10, vec![]));
}

#[test]
fn a_suspect_is_an_instance_like_any() {
    let mut stage = TestRegistry::new(&[("web", 10)]);
    stage.silence("web", 6);
    stage.pass(TTL + 1_000);
    let entry = |stage: &TestRegistry, instance: &str| stage.engine.registry().get(&name("web"), instance).unwrap();
    // Updated, it stays a suspect; taken over, it is none; nor when its own boot registers again.
    let drain = Patch { draining: Some(true), ..Patch::default() };
    stage.engine.submit(update("web", "i0", drain), at(stage.now)).unwrap();
    assert_eq!(entry(&stage, "i0").instance.status(), Status::Draining);
    assert!(entry(&stage, "i0").instance.conditions.suspect);
    stage.engine.submit(Command::Register(register("web", "i1", "other", 99)), at(stage.now)).unwrap();
    assert_eq!(entry(&stage, "i1").instance.status(), Status::Serving);
    stage.engine.submit(Command::Register(register("web", "i2", "boot", 98)), at(stage.now)).unwrap();
    assert_eq!(entry(&stage, "i2").instance.status(), Status::Serving);
    stage.pass(100);
    assert_eq!(stage.suspects("web"), 3);
    let numbers = stage.engine.registry().protection_of(&name("web"), stage.now).numbers;
    assert_eq!((numbers.weak, numbers.suspects), (4, 4), "the draining one is held too");
}

#[test]
fn what_is_starting_is_held_and_not_called() {
    let mut stage = TestRegistry::new(&[("web", 3)]);
    let starting = Register { starting: true, ..register("web", "s", "boot", 99) };
    stage.engine.submit(Command::Register(starting), at(0)).unwrap();
    stage.alive.clear();
    stage.pass(TTL + 1_000);
    let summary = stage.engine.registry().summary(&name("web")).unwrap();
    assert_eq!((summary.instances, summary.available, stage.suspects("web")), (4, 3, 3));
}

#[test]
fn an_operator_ends_it() {
    let mut stage = TestRegistry::new(&[("web", 10), ("db", 5)]);
    stage.silence("web", 6);
    stage.silence("db", 5);
    stage.pass(TTL - 500);
    // Two more have been silent for a moment, and are weak only later: of them nothing is said.
    stage.silence("web", 8);
    stage.pass(1_500);
    assert_eq!((stage.suspects("web"), stage.suspects("db")), (6, 5));
    let reset = |stage: &TestRegistry, service: Option<&str>| {
        stage.engine.registry().reset_protection(service.map(name).as_ref(), at(stage.now))
    };
    assert_eq!(reset(&stage, Some("nobody")), 0);
    let meant = reset(&stage, Some("web"));
    assert!(meant >= 6, "{meant}");
    stage.pass(100);
    assert_eq!(stage.count("web"), 4);
    assert_eq!((stage.count("db"), stage.suspects("db")), (5, 5));
    assert_eq!(reset(&stage, None), 5 + (8 - meant));
    stage.pass(100);
    assert_eq!(stage.count("db"), 0);
    assert_eq!(stage.turned()[2..], [turn("web", EventKind::Reset), turn("db", EventKind::Reset)]);
}

#[test]
fn who_comes_back_after_a_reset_and_before_its_end_stays() {
    let mut stage = TestRegistry::new(&[("web", 5)]);
    stage.alive.clear();
    stage.pass(TTL - 500);
    assert_eq!(stage.engine.registry().reset_protection(None, at(stage.now)), 5);
    stage.awake("web", 0..4);
    stage.pass(2_000);
    assert_eq!((stage.count("web"), stage.suspects("web")), (4, 0), "the silent one went, though one of five is");
}

#[test]
fn after_ten_times_to_live_the_dead_go_little_by_little() {
    let mut stage = TestRegistry::new(&[("web", 50), ("three", 3)]);
    stage.alive.clear();
    stage.pass(11 * TTL);
    assert_eq!((stage.count("web"), stage.suspects("web"), stage.count("three")), (50, 50, 3));
    stage.pass(TTL);
    assert!((40..48).contains(&stage.count("web")), "{}", stage.count("web"));
    assert_eq!(stage.count("three"), 2);
    let took = stage.until_left("web", 0, 60 * TTL);
    assert!(took > 9 * TTL, "a fifth at most in each time to live: {took}");
    stage.until_left("three", 0, 0);
    assert!(stage.whole().since.is_none() && !stage.is_protected("web"));
    stage.pass(62_000);
    let kept = stage.engine.registry().protection.state.lock();
    assert_eq!((kept.records.len(), kept.tracked.len(), kept.all.weak), (0, 0, 0), "nothing is kept");
}

#[test]
fn a_tenth_of_the_registry_is_held_wherever_it_is() {
    let pairs: Vec<String> = (0..15).map(|number| format!("pair{number}")).collect();
    let services: Vec<_> = pairs.iter().map(|pair| (&**pair, 2)).collect();
    let mut stage = TestRegistry::new(&services);
    stage.pass(5_000);
    pairs[..3].iter().for_each(|pair| stage.silence(pair, 1));
    stage.pass(TTL + 1_000);
    assert_eq!(stage.engine.registry().instance_count(), 27, "a tenth is believed");
    pairs[3..7].iter().for_each(|pair| stage.silence(pair, 1));
    stage.pass(TTL + 1_000);
    assert_eq!(stage.engine.registry().instance_count(), 27);
    assert_eq!(pairs.iter().map(|pair| stage.suspects(pair)).sum::<usize>(), 4);
    assert_eq!((stage.whole().numbers.suspects, stage.whole().numbers.limit), (4, 2));
    assert_eq!(stage.turned(), [turn("*", EventKind::Began)], "none of its services by itself");
    assert_eq!(stage.engine.registry().reset_protection(None, at(stage.now)), 4);
    stage.pass(100);
    assert_eq!(stage.engine.registry().instance_count(), 23);
    assert!(stage.whole().since.is_none());
}

#[test]
fn a_registry_of_two_services_is_not_held_as_a_whole() {
    let mut stage = TestRegistry::new(&[("one", 30), ("two", 30)]);
    stage.pass(5_000);
    stage.silence("one", 6);
    stage.silence("two", 6);
    stage.pass(TTL + 1_000);
    assert_eq!((stage.count("one"), stage.count("two"), stage.turned()), (24, 24, vec![]));
}

#[test]
fn a_short_and_a_long_time_to_live_in_one_service() {
    let mut stage = TestRegistry::new(&[("web", 3)]);
    for number in 3..6 {
        let terms = crate::model::LeaseTerms::grant(Some(std::time::Duration::from_mins(1)), None);
        let asked = Register { terms, ..register("web", &format!("i{number}"), "boot", 100 + number) };
        stage.engine.submit(Command::Register(asked), at(0)).unwrap();
    }
    stage.alive.clear();
    stage.pass(60_000);
    // The short ones have been released, one in a (short) time to live; the last three are held in their own time.
    let left = stage.count("web");
    assert!((3..=4).contains(&left), "{left}");
    stage.pass(60_000);
    assert_eq!((stage.count("web"), stage.suspects("web")), (3, 3));
    stage.until_left("web", 0, 2_000_000);
}

#[test]
fn a_marked_instance_that_is_loaded_is_believed_again() {
    let mut stage = TestRegistry::new(&[("web", 3)]);
    let entry = stage.engine.registry().get(&name("web"), "i0").unwrap();
    // As an engine with a store does it: what was stored is put, with a new lease that has all its time.
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
    let draft = crate::registry::ProposedChange::Put {
        instance,
        lease: Some(Arc::new(lease)),
        is_new: false,
        terms: None,
        ending: crate::registry::EndReason::Superseded,
    };
    let registry = stage.engine.registry();
    let revision = registry.applied().next();
    registry.order().apply(draft.at(revision, None), None, revision, at(0), ServerActor::InProcess.caller());
    assert_eq!(stage.suspects("db"), 1);
    stage.pass(100);
    assert_eq!((stage.suspects("db"), stage.count("db")), (0, 1));
    stage.pass(TTL + 200);
    assert_eq!(stage.count("db"), 0, "and its time goes on");
}

#[test]
fn a_grace_that_ends_counts_like_any_silence() {
    let mut stage = TestRegistry::new(&[]);
    let carrier = HeartbeatStreamId::numbered(1);
    for number in 0..10 {
        let terms = crate::model::LeaseTerms::grant(
            Some(std::time::Duration::from_mins(1)),
            Some(std::time::Duration::from_secs(1)),
        );
        let asked = Register { terms, ..register("web", &format!("i{number}"), "boot", number) };
        let entry = stage.engine.submit(Command::Register(asked), at(0)).unwrap().entry.unwrap();
        entry.lease.as_ref().unwrap().renew(0, Some(carrier)).unwrap();
    }
    let registry = stage.engine.registry();
    for number in 0..10 {
        let entry = registry.get(&name("web"), &format!("i{number}")).unwrap();
        registry.leases().broken(entry.lease.as_ref().unwrap(), carrier, 0);
    }
    stage.pass(2_000);
    assert_eq!((stage.count("web"), stage.suspects("web")), (10, 10));
}
