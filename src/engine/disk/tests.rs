//! The store through restarts, crashes, damage and failing disks.

mod backend;
mod damage;
mod failing;
mod old_ids;
mod roundtrip;
mod saved;
mod unreadable;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    engine::Memory,
    metrics::Metrics,
    model::{Incarnation, Instance, LeaseTerms, Revision, ServerActor},
    registry::{
        Command, CommandError, CommandOutcome, Patch, Register,
        test_support::{NoListener, at, deregister, name, register, update},
    },
};

const LIFE: Incarnation = Incarnation(7);
const FRESH: StartPoint = StartPoint { incarnation: LIFE, revision: Revision(0) };

fn surroundings() -> DiskDependencies {
    DiskDependencies {
        clock: Arc::new(Clock::new(0)),
        audience: Arc::new(NoListener),
        metrics: Metrics::new().store.clone(),
        fresh: FRESH,
    }
}

fn never_fails() -> OnFailure {
    Box::new(|error| panic!("{error}"))
}

fn open(directory: &Path, durability: Durability) -> Disk {
    Disk::open(directory, durability, surroundings(), never_fails()).unwrap()
}

fn wait(submission: PendingCommand) -> Result<CommandOutcome, EngineError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(submission)
}

fn order(engine: &dyn Engine, command: Command) -> Result<CommandOutcome, EngineError> {
    wait(engine.submit(command, ServerActor::InProcess.caller(), at(0)))
}

fn sign_in(engine: &dyn Engine, service: &str, instance: &str, lease: u128) -> CommandOutcome {
    order(engine, Command::Register(register(service, instance, "boot", lease))).unwrap()
}

type Contents = BTreeMap<(String, String), (Instance, Option<(u128, LeaseTerms)>)>;

/// All instances with the ids of their leases, as readers find them. `registered_at` is left out: engines differ in it.
fn contents(engine: &dyn Engine) -> Contents {
    let registry = engine.registry();
    let (services, _) = registry.services("", "", usize::MAX);
    let entries = services.iter().flat_map(|service| registry.page(&service.name, "", usize::MAX));
    let row = |entry: Arc<crate::registry::Entry>| {
        let instance = Instance { registered_at: crate::model::UnixMillis(0), ..entry.instance.clone() };
        let key = (instance.service.to_string(), instance.id.to_string());
        (key, (instance, entry.lease.as_ref().map(|lease| (lease.id.0, lease.terms()))))
    };
    entries.map(row).collect()
}

#[test]
fn a_restart_forgets_nothing() {
    let directory = TempDir::new().unwrap();
    let first = open(directory.path(), Durability::Durable);
    sign_in(&first, "web", "a", 1);
    sign_in(&first, "web", "b", 2);
    sign_in(&first, "db", "a", 3);
    order(&first, deregister("web", "b", None)).unwrap();
    order(&first, update("db", "a", Patch { draining: Some(true), ..Patch::default() })).unwrap();
    let (before, revision) = (contents(&first), first.registry().applied());
    assert_eq!(before.len(), 2);
    first.close();

    let second = open(directory.path(), Durability::Durable);
    assert_eq!(contents(&second), before);
    assert_eq!((second.registry().applied(), second.registry().incarnation()), (revision, LIFE));
    assert_eq!(second.registry().instance_count(), 2);
    let entry = second.registry().get(&name("db"), "a").unwrap();
    assert!(entry.instance.conditions.operator_draining);
    let lease = second.registry().leases().get(crate::model::LeaseId(3)).unwrap();
    assert_eq!(lease.renew(0, None), Ok(std::time::Duration::from_secs(3)), "its holder's heartbeats go on");
    assert_eq!(sign_in(&second, "web", "c", 4).revision, revision.next());
}

#[test]
fn terms_of_a_lease_that_alone_changed_survive_a_restart() {
    let directory = TempDir::new().unwrap();
    let disk = open(directory.path(), Durability::Durable);
    let first = sign_in(&disk, "web", "a", 1);
    let terms = LeaseTerms::grant(Some(Duration::from_mins(10)), Some(Duration::from_secs(2)));
    let asked = || Command::Register(Register { terms, ..register("web", "a", "boot", 2) });
    let again = order(&disk, asked()).unwrap();
    assert!(again.changed && again.revision == first.revision.next());
    assert!(!order(&disk, asked()).unwrap().changed, "the same again is not written");
    // Whatever else is written of it keeps them.
    order(&disk, update("web", "a", Patch { draining: Some(true), ..Patch::default() })).unwrap();
    disk.close();
    let disk = open(directory.path(), Durability::Durable);
    let lease = disk.registry().leases().get(crate::model::LeaseId(1)).unwrap();
    assert_eq!(lease.terms(), terms);
    assert!(!order(&disk, asked()).unwrap().changed);
    disk.close();
}

#[test]
fn commands_together_are_all_done_or_none() {
    let directory = TempDir::new().unwrap();
    let together =
        |engine: &dyn Engine, commands| engine.submit_together(commands, ServerActor::InProcess.caller(), at(0)).wait();
    let sign_in = |id: &str, lease| Command::Register(register("web", id, "boot", lease));
    let memory = Memory::new(LIFE, at(0), Arc::new(NoListener));
    let disk = open(directory.path(), Durability::Durable);
    for engine in [&memory as &dyn Engine, &disk] {
        let before = engine.registry().applied();
        let refused = together(engine, vec![sign_in("a", 1), deregister("web", "gone", None)]);
        assert!(matches!(refused, Err(EngineError::Rejected(CommandError::NoSuchInstance { .. }))), "{refused:?}");
        assert_eq!((engine.registry().applied(), contents(engine).len()), (before, 0));
        let done = together(engine, vec![sign_in("a", 1), sign_in("b", 2), deregister("db", "x", Some(9))]).unwrap();
        let changed: Vec<_> = done.iter().map(|outcome| outcome.changed).collect();
        assert_eq!((changed, engine.registry().applied().0), (vec![true, true, false], before.0 + 2));
        let kept = together(engine, vec![deregister("db", "x", Some(9)), deregister("db", "y", Some(9))]).unwrap();
        assert!(kept.iter().all(|outcome| !outcome.changed && outcome.revision.0 == before.0 + 2));
    }
    let before = contents(&disk);
    assert_eq!(before.len(), 2);
    disk.close();
    assert!(matches!(together(&disk, vec![sign_in("c", 3)]), Err(EngineError::Stopped)));
    assert_eq!(contents(&open(directory.path(), Durability::Durable)), before);
}

#[test]
fn commands_together_keep_the_order_of_each_of_their_instances() {
    let directory = TempDir::new().unwrap();
    let disk = open(directory.path(), Durability::Durable);
    let weight = |id: &str, n: u32| {
        let weight = Some(crate::model::Weight::parse(n).unwrap());
        update("web", id, Patch { weight, ..Patch::default() })
    };
    for (lease, id) in ["a", "b", "c"].into_iter().enumerate() {
        sign_in(&disk, "web", id, lease as u128);
    }
    let mut sent = Vec::new();
    let mut batches = Vec::new();
    for n in 1..60 {
        sent.push(disk.submit(weight("a", 3 * n), ServerActor::InProcess.caller(), at(0)));
        batches.push(disk.submit_together(
            vec![weight("a", 3 * n + 1), weight("b", 3 * n + 1)],
            ServerActor::InProcess.caller(),
            at(0),
        ));
        sent.push(disk.submit(weight("b", 3 * n + 2), ServerActor::InProcess.caller(), at(0)));
        batches.push(disk.submit_together(
            vec![weight("b", 3 * n + 3), weight("c", 3 * n + 3)],
            ServerActor::InProcess.caller(),
            at(0),
        ));
    }
    assert!(sent.into_iter().all(|sent| sent.wait().is_ok()));
    assert!(batches.into_iter().all(|sent| sent.wait().is_ok()));
    let weight = |id: &str| disk.registry().get(&name("web"), id).unwrap().instance.weight.get();
    assert_eq!([weight("a"), weight("b"), weight("c")], [178, 180, 180]);
    assert_eq!(disk.waiting.load(Ordering::Relaxed), 0);
    disk.close();
}

#[test]
fn loaded_leases_have_their_full_time() {
    let directory = TempDir::new().unwrap();
    let first = open(directory.path(), Durability::Durable);
    sign_in(&first, "web", "a", 1);
    drop(first);
    wait_for_unlock(directory.path());
    let second = open(directory.path(), Durability::Durable);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let expire = |lease| {
        let removals = crate::engine::expire(&second, ClockReading { lease, ..at(0) });
        runtime.block_on(crate::engine::count_changes(removals))
    };
    assert_eq!(expire(2_900), 0);
    assert_eq!(expire(3_300), 1);
    second.close();
    assert_eq!(contents(&open(directory.path(), Durability::Durable)).len(), 0, "an expiry is written, too");
}

/// A dropped engine closes its store on its own thread.
fn wait_for_unlock(directory: &Path) {
    while let Err(StoreError::InUse { .. }) = Store::read(directory) {
        thread::yield_now();
    }
}

#[test]
fn commands_for_one_instance_stay_in_order() {
    let directory = TempDir::new().unwrap();
    let disk = open(directory.path(), Durability::Durable);
    let weight = |weight| Patch { weight: Some(crate::model::Weight::parse(weight).unwrap()), ..Patch::default() };
    let mut sent =
        vec![disk.submit(Command::Register(register("web", "a", "boot", 1)), ServerActor::InProcess.caller(), at(0))];
    sent.extend((2..40).map(|n| disk.submit(update("web", "a", weight(n)), ServerActor::InProcess.caller(), at(0))));
    sent.push(disk.submit(deregister("web", "a", None), ServerActor::InProcess.caller(), at(0)));
    sent.push(disk.submit(deregister("web", "a", None), ServerActor::InProcess.caller(), at(0)));
    let mut outcomes: Vec<_> = sent.into_iter().map(wait).collect();
    let gone = outcomes.pop().unwrap();
    assert!(matches!(gone, Err(EngineError::Rejected(CommandError::NoSuchInstance { .. }))), "{gone:?}");
    let revisions: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().unwrap().revision.0).collect();
    assert_eq!(revisions, (1..=40).collect::<Vec<_>>());
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().unwrap().changed));
}

#[test]
fn one_directory_one_registry() {
    let directory = TempDir::new().unwrap();
    let first = open(directory.path(), Durability::Durable);
    let refused = Disk::open(directory.path(), Durability::Durable, surroundings(), never_fails()).unwrap_err();
    let said = refused.to_string();
    assert!(said.contains(&format!("in use by process {}", std::process::id())), "{said}");
    first.close();
    drop(first);
    open(directory.path(), Durability::Durable);
}

#[test]
fn a_relaxed_store_that_was_not_closed_begins_a_new_life() {
    let directory = TempDir::new().unwrap();
    let life = |fresh, durability| {
        let surroundings =
            DiskDependencies { fresh: StartPoint { incarnation: Incarnation(fresh), ..FRESH }, ..surroundings() };
        Disk::open(directory.path(), durability, surroundings, never_fails()).unwrap()
    };
    let closed = life(1, Durability::Relaxed);
    sign_in(&closed, "web", "a", 1);
    closed.close();
    drop(closed);
    let copy = TempDir::new().unwrap();
    let killed = life(2, Durability::Relaxed);
    assert_eq!((killed.registry().incarnation(), killed.is_lossy()), (Incarnation(1), false));
    let newest = sign_in(&killed, "web", "b", 2).revision;
    // What a crash would leave: the file as it is.
    std::fs::copy(directory.path().join("registry.redb"), copy.path().join("registry.redb")).unwrap();
    drop(killed);
    let surroundings =
        DiskDependencies { fresh: StartPoint { incarnation: Incarnation(3), ..FRESH }, ..surroundings() };
    let after = Disk::open(copy.path(), Durability::Durable, surroundings, never_fails()).unwrap();
    assert_eq!((after.registry().incarnation(), after.is_lossy()), (Incarnation(3), true));
    assert!(after.registry().applied() > newest);
    assert!(contents(&after).contains_key(&("web".into(), "a".into())), "what was flushed is there");
}

#[test]
fn what_was_relaxed_is_on_the_disk_within_a_second() {
    let (backend, store) = backend::store();
    let surroundings = surroundings();
    let found = LoadedRecords::default();
    let disk = Disk::start(store, found, Durability::Relaxed, surroundings, never_fails()).unwrap();
    sign_in(&disk, "web", "a", 1);
    let unsynced = backend.clone();
    let clock = Clock::new(0);
    while backend::load(unsynced.synced()).is_ok_and(|(_, found)| found.instances.is_empty()) {
        assert!(clock.since_start() < Duration::from_secs(5), "not flushed");
        thread::yield_now();
    }
}

#[derive(Debug, Clone)]
enum EngineStep {
    Register { service: usize, instance: u8, boot: u8, weight: u16, replace: bool },
    Deregister { service: usize, instance: u8 },
    Drain { service: usize, instance: u8, draining: bool },
    Restart,
}

fn operation() -> impl Strategy<Value = EngineStep> {
    let at = || (0..3_usize, 0..4_u8);
    prop_oneof![
        6 => (at(), 0..3_u8, 1..4_u16, any::<bool>()).prop_map(|((service, instance), boot, weight, replace)| {
            EngineStep::Register { service, instance, boot, weight, replace }
        }),
        3 => at().prop_map(|(service, instance)| EngineStep::Deregister { service, instance }),
        2 => (at(), any::<bool>()).prop_map(|((service, instance), draining)| {
            EngineStep::Drain { service, instance, draining }
        }),
        1 => Just(EngineStep::Restart),
    ]
}

fn command(operation: &EngineStep, lease: u128) -> Option<Command> {
    const SERVICES: [&str; 3] = ["web", "web-api", "db"];
    Some(match *operation {
        EngineStep::Register { service, instance, boot, weight, replace } => {
            let asked = register(SERVICES[service], &format!("i{instance}"), &format!("b{boot}"), lease);
            let description = crate::registry::test_support::description(&[], weight.into());
            Command::Register(crate::registry::Register { description, replace, ..asked })
        }
        EngineStep::Deregister { service, instance } => deregister(SERVICES[service], &format!("i{instance}"), None),
        EngineStep::Drain { service, instance, draining } => {
            let patch = Patch { draining: Some(draining), ..Patch::default() };
            update(SERVICES[service], &format!("i{instance}"), patch)
        }
        EngineStep::Restart => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The same commands make the same registry, whatever engine orders them, and through restarts.
    #[test]
    fn both_engines_say_and_hold_the_same(script in prop::collection::vec(operation(), 1..60)) {
        let directory = TempDir::new().unwrap();
        // Revisions of both begin at 0.
        let beginning = ClockReading { wall: crate::model::UnixMillis(0), ..at(0) };
        let memory = Memory::new(LIFE, beginning, Arc::new(NoListener));
        let mut disk = open(directory.path(), Durability::Durable);
        for (lease, operation) in script.iter().enumerate() {
            let Some(wanted) = command(operation, lease as u128) else {
                disk.close();
                drop(disk);
                disk = open(directory.path(), Durability::Durable);
                prop_assert_eq!(contents(&disk), contents(&memory));
                continue;
            };
            let summary = |outcome: Result<CommandOutcome, EngineError>| outcome
                .map(|outcome| (outcome.changed, outcome.revision))
                .map_err(|error| match error {
                    // When to retry depends on clocks that differ.
                    EngineError::Rejected(CommandError::HeldByOther { service, id, .. }) => format!("{service}/{id} is held"),
                    other => other.to_string(),
                });
            let ours = summary(order(&disk, wanted.clone()));
            let theirs = summary(memory.submit(wanted, at(0)).map_err(Into::into));
            prop_assert_eq!(ours, theirs);
        }
        prop_assert_eq!(contents(&disk), contents(&memory));
        prop_assert_eq!(disk.registry().applied(), memory.registry().applied());
    }
}
