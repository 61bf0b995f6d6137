//! Scripts of operations against a naive model, with readers of every kind. Fuzzing makes scripts, too.
#![cfg_attr(fuzzing, allow(dead_code, unused_imports, reason = "fuzzing takes the model without the tests"))]

mod reader;
#[cfg(test)]
mod reloaded;
#[cfg(test)]
mod replicas;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

#[cfg(test)]
use proptest::prelude::*;

use reader::{ModelReader, readers};

use super::{
    test_support::{at, deregister, description, id, name, register, update},
    *,
};
use crate::{
    engine::Memory,
    model::{Incarnation, ResumeToken, Selector, ServerActor, Weight},
};

pub(crate) const SERVICES: [&str; 3] = ["web", "web-api", "db"];

/// Operation of a script.
#[derive(Debug, Clone)]
pub(crate) enum RegistryStep {
    Register {
        service: usize,
        instance: u8,
        boot: u8,
        weight: u16,
        replace: bool,
    },
    Deregister {
        service: usize,
        instance: u8,
    },
    Drain {
        service: usize,
        instance: u8,
        draining: bool,
    },
    /// Time passes. Deadlines are at whole half seconds, so that the ticks of the wheel do not blur them.
    Wait {
        half_seconds: u64,
    },
    /// A reader takes all its steps.
    Read {
        reader: usize,
    },
    /// A reader resumes on a new stream with its token.
    Resume {
        reader: usize,
    },
}

#[cfg(test)]
fn operations() -> impl Strategy<Value = Vec<RegistryStep>> {
    let at = || (0..SERVICES.len(), 0..4_u8);
    let operation = prop_oneof![
        6 => (at(), 0..3_u8, 1..4_u16, any::<bool>()).prop_map(|((service, instance), boot, weight, replace)| {
            RegistryStep::Register { service, instance, boot, weight, replace }
        }),
        3 => at().prop_map(|(service, instance)| RegistryStep::Deregister { service, instance }),
        2 => (at(), any::<bool>())
            .prop_map(|((service, instance), draining)| RegistryStep::Drain { service, instance, draining }),
        3 => (0..5_u64).prop_map(|half_seconds| RegistryStep::Wait { half_seconds }),
        5 => (0..5_usize).prop_map(|reader| RegistryStep::Read { reader }),
        2 => (0..5_usize).prop_map(|reader| RegistryStep::Resume { reader }),
    ];
    prop::collection::vec(operation, 1..160)
}

/// Registry in the plainest form: a map of instances with their holder and their last renewal.
#[derive(Default)]
struct NaiveRegistry {
    present: BTreeMap<(String, String), NaiveEntry>,
}

#[derive(Clone, PartialEq, Debug)]
struct NaiveEntry {
    boot: u8,
    weight: u16,
    drained: bool,
    renewed: u64,
}

impl NaiveRegistry {
    const TTL: u64 = 3_000;

    fn register(&mut self, key: (String, String), boot: u8, weight: u16, replace: bool, now: u64) -> bool {
        if let Some(held) = self.present.get(&key)
            && held.boot != boot
            && !replace
            && now < held.renewed + Self::TTL / 2
        {
            return false;
        }
        let drained = self.present.get(&key).is_some_and(|held| held.drained);
        self.present.insert(key, NaiveEntry { boot, weight, drained, renewed: now });
        true
    }

    fn expire(&mut self, now: u64) {
        self.present.retain(|_, held| now <= held.renewed + Self::TTL);
    }

    /// Returns the instances that a reader should have: weight, and whether it drains.
    fn selected(&self, wanted: impl Fn(&str, &NaiveEntry) -> bool) -> BTreeMap<(String, String), (u16, bool)> {
        let entries = self.present.iter().filter(|((service, _), entry)| wanted(service, entry));
        entries.map(|(key, entry)| (key.clone(), (entry.weight, entry.drained))).collect()
    }
}

/// Returns the instances that the reader with this number should have.
fn expected(naive: &NaiveRegistry, reader: usize) -> BTreeMap<(String, String), (u16, bool)> {
    match reader {
        0 => naive.selected(|service, _| service == "web"),
        1 => naive.selected(|service, _| service == "web" || service == "db"),
        2 => naive.selected(|service, _| service.starts_with("web")),
        3 => naive.selected(|_, _| true),
        _ => naive.selected(|_, entry| entry.weight != 2 && !entry.drained),
    }
}

pub(crate) struct RegistryScript {
    engine: Memory,
    naive: NaiveRegistry,
    readers: Vec<ModelReader>,
    now: u64,
    leases: u128,
}

impl RegistryScript {
    /// Number of readers.
    pub(crate) const READERS: usize = 5;

    pub(crate) fn new() -> Self {
        let engine = Memory::new(Incarnation(7), at(0), Arc::new(test_support::NoListener));
        Self { engine, naive: NaiveRegistry::default(), readers: readers(), now: 0, leases: 0 }
    }

    pub(crate) fn act(&mut self, operation: &RegistryStep) {
        match *operation {
            RegistryStep::Register { service, instance, boot, weight, replace } => {
                self.leases += 1;
                let (service, instance) = (SERVICES[service], format!("i{instance}"));
                let request = Register {
                    description: description(&[], weight.into()),
                    replace,
                    ..register(service, &instance, &format!("boot{boot}"), self.leases)
                };
                let done = self.engine.submit(Command::Register(request), at(self.now)).is_ok();
                let key = (service.to_owned(), instance);
                assert_eq!(done, self.naive.register(key, boot, weight, replace, self.now));
            }
            RegistryStep::Deregister { service, instance } => {
                let (service, instance) = (SERVICES[service], format!("i{instance}"));
                let done = self.engine.submit(deregister(service, &instance, None), at(self.now)).is_ok();
                assert_eq!(done, self.naive.present.remove(&(service.to_owned(), instance)).is_some());
            }
            RegistryStep::Drain { service, instance, draining } => {
                let (service, instance) = (SERVICES[service], format!("i{instance}"));
                let patch = Patch { draining: Some(draining), ..Patch::default() };
                let done = self.engine.submit(update(service, &instance, patch), at(self.now)).is_ok();
                let held = self.naive.present.get_mut(&(service.to_owned(), instance));
                assert_eq!(done, held.is_some());
                if let Some(held) = held {
                    held.drained = draining;
                }
            }
            RegistryStep::Wait { half_seconds } => {
                self.now += half_seconds * 500;
                self.naive.expire(self.now);
                // Expired instances are removed here; self-preservation has tests of its own.
                self.engine.expire(at(self.now));
                self.engine.registry().reset_self_preservation(None, ServerActor::InProcess.caller(), at(self.now));
                self.engine.expire(at(self.now));
            }
            RegistryStep::Read { reader } => self.read(reader),
            RegistryStep::Resume { reader } => self.readers[reader].resume(self.engine.registry()),
        }
    }

    fn read(&mut self, reader: usize) {
        self.readers[reader].read(self.engine.registry());
        assert_eq!(self.readers[reader].state, expected(&self.naive, reader), "reader {reader}");
    }

    /// All readers read to the end, and all counts agree.
    pub(crate) fn end(&mut self) {
        for reader in 0..self.readers.len() {
            self.read(reader);
            assert_eq!(self.readers[reader].resets, 0, "short histories are never lost");
        }
        let registry = self.engine.registry();
        let listed: usize = SERVICES.iter().map(|service| registry.page(&name(service), "", 99).len()).sum();
        assert_eq!(listed, self.naive.present.len());
        let (summaries, _) = registry.services("", "", 99);
        assert_eq!(registry.instance_count(), listed);
        assert_eq!(summaries.iter().map(|summary| summary.instances).sum::<usize>(), listed);
        assert!(summaries.iter().all(|summary| summary.instances > 0), "an empty service is dropped");
    }
}

#[cfg(test)]
proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Each reader that reads has exactly the instances of the naive model, by legal steps only.
    #[test]
    fn readers_agree_with_the_naive_model(script in operations()) {
        let mut run = RegistryScript::new();
        for operation in &script {
            run.act(operation);
        }
        run.end();
    }
}

/// Listener that records the changed instances.
#[derive(Debug, Default)]
struct RecordingListener(Mutex<Vec<String>>);

impl ChangeListener for RecordingListener {
    fn changed(&self, event: &Event) {
        self.0.lock().unwrap().push(format!("{}/{}", event.service(), event.id()));
    }
}

#[test]
fn command_without_effect_makes_no_revision_and_no_event() {
    let listener = Arc::new(RecordingListener::default());
    let engine = Memory::new(Incarnation(1), at(0), Arc::clone(&listener) as Arc<dyn ChangeListener>);
    let revision = || engine.registry().applied();
    engine.submit(Command::Register(register("web", "a", "boot", 1)), at(0)).unwrap();
    let first = revision();
    engine.submit(Command::Register(register("web", "a", "boot", 2)), at(10)).unwrap();
    engine.submit(update("web", "a", Patch { draining: Some(false), ..Patch::default() }), at(20)).unwrap();
    engine.submit(update("web", "a", Patch { weight: Some(Weight::DEFAULT), ..Patch::default() }), at(30)).unwrap();
    assert_eq!(revision(), first);
    assert_eq!(*listener.0.lock().unwrap(), ["web/a"]);
}

#[test]
fn reader_behind_the_history_gets_a_reset_and_the_newest_state() {
    let engine = Memory::new(Incarnation(1), at(0), Arc::new(test_support::NoListener));
    let mut reader = readers().remove(0);
    reader.read(engine.registry());
    for n in 0..MAX_HISTORY_EVENTS as u128 + 2_000 {
        let request =
            Register { description: description(&[], if n % 2 == 0 { 1 } else { 2 }), ..register("web", "a", "b", n) };
        engine.submit(Command::Register(request), at(0)).unwrap();
    }
    reader.read(engine.registry());
    assert_eq!(reader.resets, 1);
    assert_eq!(reader.state.len(), 1);
    assert_eq!(reader.revision, engine.registry().applied());
}

#[test]
fn token_that_does_not_fit_is_answered_with_reset_and_reason() {
    let engine = Memory::new(Incarnation(1), at(0), Arc::new(test_support::NoListener));
    let registry = engine.registry();
    engine.submit(Command::Register(register("web", "a", "boot", 1)), at(0)).unwrap();
    let selector = Arc::new(Selector::parse(&["web".into()], "", false).unwrap());
    let good = Subscription::new(Arc::clone(&selector), None, None).token(registry, registry.applied());
    let first = |token| Subscription::new(Arc::clone(&selector), None, Some(token)).next(registry);
    assert!(matches!(first(good), Step::Synced(revision) if revision == registry.applied()));
    let other = ResumeToken { incarnation: Incarnation(2), ..good };
    assert!(matches!(first(other), Step::Reset(ResetReason::OtherIncarnation)));
    let other = ResumeToken { selector_digest: 1, ..good };
    assert!(matches!(first(other), Step::Reset(ResetReason::OtherSelector)));
    let other = ResumeToken { revision: good.revision.next(), ..good };
    assert!(matches!(first(other), Step::Reset(ResetReason::FutureRevision)));
    let other = ResumeToken { revision: Revision(3), ..good };
    assert!(matches!(first(other), Step::Reset(ResetReason::Compacted)));
}

#[test]
fn reader_follows_a_service_that_is_removed_and_returns_without_reset() {
    let engine = Memory::new(Incarnation(1), at(0), Arc::new(test_support::NoListener));
    let mut reader = readers().remove(0);
    reader.read(engine.registry());
    for lease in 0..20 {
        engine.submit(Command::Register(register("web", "a", "boot", lease)), at(0)).unwrap();
        if lease % 3 == 0 {
            reader.read(engine.registry());
        }
        engine.submit(deregister("web", "a", None), at(0)).unwrap();
        if lease % 2 == 0 {
            reader.read(engine.registry());
            assert!(reader.state.is_empty());
        }
    }
    assert_eq!(reader.resets, 0);
    assert_eq!(engine.registry().service_count(), 0);
}

/// Readers on threads of their own, concurrent with writers: each has a consistent state at each revision.
#[test]
fn snapshots_are_consistent_under_concurrent_writers() {
    let engine = Memory::new(Incarnation(1), at(0), Arc::new(test_support::NoListener));
    std::thread::scope(|threads| {
        for writer in 0..2 {
            let engine = &engine;
            threads.spawn(move || {
                for n in 0..4_000_u128 {
                    let service = SERVICES[(n % 3) as usize];
                    let instance = format!("w{writer}-{}", n % 5);
                    let request = register(service, &instance, "boot", writer << 64 | n);
                    let _ = engine.submit(Command::Register(request), at(0));
                    if n % 4 == 0 {
                        let _ = engine.submit(deregister(service, &instance, None), at(0));
                    }
                }
            });
        }
        for _ in 0..2 {
            threads.spawn(|| {
                for _ in 0..300 {
                    for mut reader in readers() {
                        reader.read(engine.registry()); // asserts that no removal is of an unknown instance
                    }
                }
            });
        }
    });
    let mut all = readers().remove(3);
    all.read(engine.registry());
    let listed: usize = SERVICES.iter().map(|service| engine.registry().page(&name(service), "", 99).len()).sum();
    assert_eq!(all.state.len(), listed);
    assert!(engine.registry().get(&name("web"), id("w9").as_str()).is_none());
}
