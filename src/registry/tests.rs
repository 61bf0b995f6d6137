//! Scripts of operations against a naive model, and readers of every kind beside them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use proptest::prelude::*;

use super::{
    test_support::{at, deregister, description, id, name, register, update},
    *,
};
use crate::{
    engine::Memory,
    model::{Incarnation, InstanceFilter, Selection, Token, Weight},
};

const SERVICES: [&str; 3] = ["web", "web-api", "db"];

/// One line of a script.
#[derive(Debug, Clone)]
enum Operation {
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
    /// So many half seconds pass: deadlines are on them, so that the wheel's ticks do not blur who is dead.
    Wait {
        halves: u64,
    },
    /// The reader with this number takes what there is for it.
    Read {
        reader: usize,
    },
    /// It comes back on a new stream with its token.
    Resume {
        reader: usize,
    },
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let at = || (0..SERVICES.len(), 0..4_u8);
    let operation = prop_oneof![
        6 => (at(), 0..3_u8, 1..4_u16, any::<bool>()).prop_map(|((service, instance), boot, weight, replace)| {
            Operation::Register { service, instance, boot, weight, replace }
        }),
        3 => at().prop_map(|(service, instance)| Operation::Deregister { service, instance }),
        2 => (at(), any::<bool>())
            .prop_map(|((service, instance), draining)| Operation::Drain { service, instance, draining }),
        3 => (0..5_u64).prop_map(|halves| Operation::Wait { halves }),
        5 => (0..5_usize).prop_map(|reader| Operation::Read { reader }),
        2 => (0..5_usize).prop_map(|reader| Operation::Resume { reader }),
    ];
    prop::collection::vec(operation, 1..160)
}

/// What a registry is, said in the plainest way: a map, and for each instance who holds it and until when.
#[derive(Default)]
struct Naive {
    present: BTreeMap<(String, String), NaiveEntry>,
}

#[derive(Clone, PartialEq, Debug)]
struct NaiveEntry {
    boot: u8,
    weight: u16,
    drained: bool,
    renewed: u64,
}

impl Naive {
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

    /// What a reader should see: weight and whether it drains.
    fn seen(&self, wanted: impl Fn(&str, &NaiveEntry) -> bool) -> BTreeMap<(String, String), (u16, bool)> {
        let entries = self.present.iter().filter(|((service, _), entry)| wanted(service, entry));
        entries.map(|(key, entry)| (key.clone(), (entry.weight, entry.drained))).collect()
    }
}

/// A reader, and what it believes.
struct Reader {
    selection: Selection,
    filter: &'static str,
    subscription: Subscription,
    believes: BTreeMap<(String, String), (u16, bool)>,
    stands_at: Revision,
    resets: usize,
}

impl Reader {
    fn new(selection: Selection, filter: &'static str) -> Self {
        let subscription = Self::subscribe(&selection, filter, None);
        Self { selection, filter, subscription, believes: BTreeMap::new(), stands_at: Revision(0), resets: 0 }
    }

    fn subscribe(selection: &Selection, filter: &str, token: Option<Token>) -> Subscription {
        let filter = InstanceFilter::parse(filter).unwrap().map(Arc::new);
        Subscription::new(Arc::new(selection.clone()), filter, token)
    }

    fn resume(&mut self, registry: &Registry) {
        let token = (self.stands_at > Revision(0)).then(|| self.subscription.token(registry, self.stands_at));
        self.subscription = Self::subscribe(&self.selection, self.filter, token);
        if token.is_none() {
            self.believes.clear();
        }
    }

    /// Takes steps until there is nothing more, and checks each against what was told before.
    fn read(&mut self, registry: &Registry) {
        loop {
            match self.subscription.next(registry) {
                Step::Reset(_) => {
                    self.resets += 1;
                    self.believes.clear();
                }
                Step::Snapshot(part) => {
                    let entries = match &part {
                        Part::Block(block) => block.entries(),
                        Part::Matching(entries) => entries,
                    };
                    for entry in entries {
                        assert!(self.believes.insert(key(entry), value(entry)).is_none(), "told twice in a snapshot");
                    }
                }
                Step::Synced(revision) => {
                    assert!(revision >= self.stands_at);
                    self.stands_at = revision;
                }
                Step::Changes(deltas, revision) => {
                    assert!(revision > self.stands_at, "revisions rise");
                    for delta in deltas {
                        assert!(delta.event.revision > self.stands_at && delta.event.revision <= revision);
                        self.apply(&delta);
                    }
                    self.stands_at = revision;
                }
                Step::Idle => return,
            }
        }
    }

    fn apply(&mut self, delta: &Delta) {
        let instance = (delta.event.service.to_string(), delta.event.id.to_string());
        match delta.effect {
            Effect::Updated => {
                self.believes.insert(instance, value(delta.event.entry_after().unwrap()));
            }
            Effect::Removed | Effect::NoLongerMatches => {
                assert!(self.believes.remove(&instance).is_some(), "removed what was never told");
            }
        }
    }
}

fn key(entry: &Entry) -> (String, String) {
    (entry.instance.service.to_string(), entry.instance.id.to_string())
}

fn value(entry: &Entry) -> (u16, bool) {
    (entry.instance.weight.get(), entry.instance.marks.drained)
}

fn readers() -> Vec<Reader> {
    let names =
        |names: &[&str]| Selection::parse(&names.iter().map(ToString::to_string).collect::<Vec<_>>(), "", false);
    vec![
        Reader::new(names(&["web"]).unwrap(), ""),
        Reader::new(names(&["web", "db", "none"]).unwrap(), ""),
        Reader::new(Selection::parse(&[], "web", false).unwrap(), ""),
        Reader::new(Selection::Everything, ""),
        Reader::new(Selection::Everything, "weight != 2 and status != DRAINING"),
    ]
}

/// What the reader with this number should see.
fn expected(naive: &Naive, reader: usize) -> BTreeMap<(String, String), (u16, bool)> {
    match reader {
        0 => naive.seen(|service, _| service == "web"),
        1 => naive.seen(|service, _| service == "web" || service == "db"),
        2 => naive.seen(|service, _| service.starts_with("web")),
        3 => naive.seen(|_, _| true),
        _ => naive.seen(|_, entry| entry.weight != 2 && !entry.drained),
    }
}

struct Play {
    engine: Memory,
    naive: Naive,
    readers: Vec<Reader>,
    now: u64,
    leases: u128,
}

impl Play {
    fn new() -> Self {
        let engine = Memory::new(Incarnation(7), at(0), Arc::new(test_support::Nobody));
        Self { engine, naive: Naive::default(), readers: readers(), now: 0, leases: 0 }
    }

    fn act(&mut self, operation: &Operation) {
        match *operation {
            Operation::Register { service, instance, boot, weight, replace } => {
                self.leases += 1;
                let (service, instance) = (SERVICES[service], format!("i{instance}"));
                let asked = Register {
                    description: description(&[], weight.into()),
                    replace,
                    ..register(service, &instance, &format!("boot{boot}"), self.leases)
                };
                let done = self.engine.submit(Command::Register(asked), at(self.now)).is_ok();
                let key = (service.to_owned(), instance);
                assert_eq!(done, self.naive.register(key, boot, weight, replace, self.now));
            }
            Operation::Deregister { service, instance } => {
                let (service, instance) = (SERVICES[service], format!("i{instance}"));
                let done = self.engine.submit(deregister(service, &instance, None), at(self.now)).is_ok();
                assert_eq!(done, self.naive.present.remove(&(service.to_owned(), instance)).is_some());
            }
            Operation::Drain { service, instance, draining } => {
                let (service, instance) = (SERVICES[service], format!("i{instance}"));
                let patch = Patch { draining: Some(draining), ..Patch::default() };
                let done = self.engine.submit(update(service, &instance, patch), at(self.now)).is_ok();
                let held = self.naive.present.get_mut(&(service.to_owned(), instance));
                assert_eq!(done, held.is_some());
                if let Some(held) = held {
                    held.drained = draining;
                }
            }
            Operation::Wait { halves } => {
                self.now += halves * 500;
                self.naive.expire(self.now);
                self.engine.expire(at(self.now));
            }
            Operation::Read { reader } => self.read(reader),
            Operation::Resume { reader } => self.readers[reader].resume(self.engine.registry()),
        }
    }

    fn read(&mut self, reader: usize) {
        self.readers[reader].read(self.engine.registry());
        assert_eq!(self.readers[reader].believes, expected(&self.naive, reader), "reader {reader}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever is done, every reader that reads sees exactly what the naive model has, by legal steps only.
    #[test]
    fn every_reader_sees_what_is_there(script in operations()) {
        let mut play = Play::new();
        for operation in &script {
            play.act(operation);
        }
        for reader in 0..play.readers.len() {
            play.read(reader);
            prop_assert_eq!(play.readers[reader].resets, 0, "short histories are never lost");
        }
        let listed: usize = SERVICES.iter().map(|service| play.engine.registry().page(&name(service), "", 99).len()).sum();
        prop_assert_eq!(listed, play.naive.present.len());
        let (summaries, _) = play.engine.registry().services("", "", 99);
        prop_assert_eq!(play.engine.registry().instance_count(), listed);
        prop_assert_eq!(summaries.iter().map(|summary| summary.instances).sum::<usize>(), listed);
        prop_assert!(summaries.iter().all(|summary| summary.instances > 0), "an empty service is dropped");
    }
}

/// Remembers the names of what changed.
#[derive(Debug, Default)]
struct Listening(Mutex<Vec<String>>);

impl Audience for Listening {
    fn changed(&self, event: &Event) {
        self.0.lock().unwrap().push(format!("{}/{}", event.service, event.id));
    }
}

#[test]
fn equal_means_quiet() {
    let audience = Arc::new(Listening::default());
    let engine = Memory::new(Incarnation(1), at(0), Arc::clone(&audience) as Arc<dyn Audience>);
    let revision = || engine.registry().applied();
    engine.submit(Command::Register(register("web", "a", "boot", 1)), at(0)).unwrap();
    let first = revision();
    engine.submit(Command::Register(register("web", "a", "boot", 2)), at(10)).unwrap();
    engine.submit(update("web", "a", Patch { draining: Some(false), ..Patch::default() }), at(20)).unwrap();
    engine.submit(update("web", "a", Patch { weight: Some(Weight::USUAL), ..Patch::default() }), at(30)).unwrap();
    assert_eq!(revision(), first);
    assert_eq!(*audience.0.lock().unwrap(), ["web/a"]);
}

#[test]
fn a_reader_that_fell_behind_gets_the_newest_state() {
    let engine = Memory::new(Incarnation(1), at(0), Arc::new(test_support::Nobody));
    let mut reader = readers().remove(0);
    reader.read(engine.registry());
    for n in 0..HISTORY as u128 + 2_000 {
        let asked =
            Register { description: description(&[], if n % 2 == 0 { 1 } else { 2 }), ..register("web", "a", "b", n) };
        engine.submit(Command::Register(asked), at(0)).unwrap();
    }
    reader.read(engine.registry());
    assert_eq!(reader.resets, 1);
    assert_eq!(reader.believes.len(), 1);
    assert_eq!(reader.stands_at, engine.registry().applied());
}

#[test]
fn tokens_that_do_not_fit_are_answered_with_the_reason() {
    let engine = Memory::new(Incarnation(1), at(0), Arc::new(test_support::Nobody));
    let registry = engine.registry();
    engine.submit(Command::Register(register("web", "a", "boot", 1)), at(0)).unwrap();
    let selection = Arc::new(Selection::parse(&["web".into()], "", false).unwrap());
    let good = Subscription::new(Arc::clone(&selection), None, None).token(registry, registry.applied());
    let first = |token| Subscription::new(Arc::clone(&selection), None, Some(token)).next(registry);
    assert!(matches!(first(good), Step::Synced(revision) if revision == registry.applied()));
    let other = Token { incarnation: Incarnation(2), ..good };
    assert!(matches!(first(other), Step::Reset(ResetReason::OtherIncarnation)));
    let other = Token { selection: 1, ..good };
    assert!(matches!(first(other), Step::Reset(ResetReason::OtherSelection)));
    let other = Token { revision: good.revision.next(), ..good };
    assert!(matches!(first(other), Step::Reset(ResetReason::FutureRevision)));
    let other = Token { revision: Revision(3), ..good };
    assert!(matches!(first(other), Step::Reset(ResetReason::HistoryLost)));
}

#[test]
fn a_service_that_comes_back_is_heard_of_without_a_reset() {
    let engine = Memory::new(Incarnation(1), at(0), Arc::new(test_support::Nobody));
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
            assert!(reader.believes.is_empty());
        }
    }
    assert_eq!(reader.resets, 0);
    assert_eq!(engine.registry().service_count(), 0);
}

/// Readers on threads of their own, while writers write: what each believes at a revision is what was so at it.
#[test]
fn cuts_are_consistent_under_concurrent_writers() {
    let engine = Memory::new(Incarnation(1), at(0), Arc::new(test_support::Nobody));
    std::thread::scope(|threads| {
        for writer in 0..2 {
            let engine = &engine;
            threads.spawn(move || {
                for n in 0..4_000_u128 {
                    let service = SERVICES[(n % 3) as usize];
                    let instance = format!("w{writer}-{}", n % 5);
                    let asked = register(service, &instance, "boot", writer << 64 | n);
                    let _ = engine.submit(Command::Register(asked), at(0));
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
    assert_eq!(all.believes.len(), listed);
    assert!(engine.registry().get(&name("web"), id("w9").as_str()).is_none());
}
