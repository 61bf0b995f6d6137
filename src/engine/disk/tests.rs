//! The store through restarts, crashes, damage and failures of the disk.

mod backend;
mod damage;
mod errors;
mod failing;
mod old_ids;
mod policies;
mod roundtrip;
mod saved;
mod signer;
mod unreadable;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    engine::{Memory, record::StoredInstance},
    metrics::Metrics,
    model::{Incarnation, Instance, LeaseTerms, Revision, ServerActor},
    registry::{
        Command, CommandError, CommandOutcome, Patch, Register,
        test_support::{NoListener, at, deregister, name, register, update},
    },
};

const INCARNATION: Incarnation = Incarnation(7);
const START: StartPoint = StartPoint { incarnation: INCARNATION, revision: Revision(0) };

fn dependencies() -> DiskDependencies {
    DiskDependencies {
        clock: Arc::new(Clock::new(0)),
        listener: Arc::new(NoListener),
        metrics: Metrics::new().store.clone(),
        start: START,
    }
}

fn never_fails() -> OnFailure {
    Box::new(|error| panic!("{error}"))
}

fn open(directory: &Path, durability: Durability) -> Disk {
    Disk::open(directory, durability, dependencies(), never_fails()).unwrap()
}

fn wait(submission: PendingCommand) -> Result<CommandOutcome, EngineError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(submission)
}

fn submit(engine: &dyn Engine, command: Command) -> Result<CommandOutcome, EngineError> {
    wait(engine.submit(command, ServerActor::InProcess.caller(), at(0)))
}

fn register_instance(engine: &dyn Engine, service: &str, instance: &str, lease: u128) -> CommandOutcome {
    submit(engine, Command::Register(register(service, instance, "boot", lease))).unwrap()
}

type Contents = BTreeMap<(String, String), (Instance, Option<(u128, LeaseTerms)>)>;

/// Returns all instances with their lease ids, as readers see them, but without `registered_at`, in which engines differ.
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
fn restart_loads_all_instances_and_leases() {
    let directory = TempDir::new().unwrap();
    let first = open(directory.path(), Durability::Durable);
    register_instance(&first, "web", "a", 1);
    register_instance(&first, "web", "b", 2);
    register_instance(&first, "db", "a", 3);
    submit(&first, deregister("web", "b", None)).unwrap();
    submit(&first, update("db", "a", Patch { draining: Some(true), ..Patch::default() })).unwrap();
    let (before, revision) = (contents(&first), first.registry().applied());
    assert_eq!(before.len(), 2);
    first.close();

    let second = open(directory.path(), Durability::Durable);
    assert_eq!(contents(&second), before);
    assert_eq!((second.registry().applied(), second.registry().incarnation()), (revision, INCARNATION));
    assert_eq!(second.registry().instance_count(), 2);
    let entry = second.registry().get(&name("db"), "a").unwrap();
    assert!(entry.instance.conditions.operator_draining);
    let lease = second.registry().leases().get(crate::model::LeaseId(3)).unwrap();
    assert_eq!(lease.renew(0, None), Ok(std::time::Duration::from_secs(3)), "its heartbeats continue");
    assert_eq!(register_instance(&second, "web", "c", 4).revision, revision.next());
}

#[test]
fn lease_terms_that_changed_alone_survive_a_restart() {
    let directory = TempDir::new().unwrap();
    let disk = open(directory.path(), Durability::Durable);
    let first = register_instance(&disk, "web", "a", 1);
    let terms = LeaseTerms::grant(Some(Duration::from_mins(10)), Some(Duration::from_secs(2)));
    let registration = || Command::Register(Register { terms, ..register("web", "a", "boot", 2) });
    let again = submit(&disk, registration()).unwrap();
    assert!(again.changed && again.revision == first.revision.next());
    assert!(!submit(&disk, registration()).unwrap().changed, "equal terms are not written");
    // Other changes keep them.
    submit(&disk, update("web", "a", Patch { draining: Some(true), ..Patch::default() })).unwrap();
    disk.close();
    let disk = open(directory.path(), Durability::Durable);
    let lease = disk.registry().leases().get(crate::model::LeaseId(1)).unwrap();
    assert_eq!(lease.terms(), terms);
    assert!(!submit(&disk, registration()).unwrap().changed);
    disk.close();
}

#[test]
fn commands_together_are_all_executed_or_none() {
    let directory = TempDir::new().unwrap();
    let together =
        |engine: &dyn Engine, commands| engine.submit_together(commands, ServerActor::InProcess.caller(), at(0)).wait();
    let register_instance = |id: &str, lease| Command::Register(register("web", id, "boot", lease));
    let memory = Memory::new(INCARNATION, at(0), Arc::new(NoListener));
    let disk = open(directory.path(), Durability::Durable);
    for engine in [&memory as &dyn Engine, &disk] {
        let before = engine.registry().applied();
        let rejected = together(engine, vec![register_instance("a", 1), deregister("web", "gone", None)]);
        assert!(matches!(rejected, Err(EngineError::Rejected(CommandError::NoSuchInstance { .. }))), "{rejected:?}");
        assert_eq!((engine.registry().applied(), contents(engine).len()), (before, 0));
        let outcomes = together(
            engine,
            vec![register_instance("a", 1), register_instance("b", 2), deregister("db", "x", Some(9))],
        )
        .unwrap();
        let changed: Vec<_> = outcomes.iter().map(|outcome| outcome.changed).collect();
        assert_eq!((changed, engine.registry().applied().0), (vec![true, true, false], before.0 + 2));
        let unchanged = together(engine, vec![deregister("db", "x", Some(9)), deregister("db", "y", Some(9))]).unwrap();
        assert!(unchanged.iter().all(|outcome| !outcome.changed && outcome.revision.0 == before.0 + 2));
    }
    let before = contents(&disk);
    assert_eq!(before.len(), 2);
    disk.close();
    assert!(matches!(together(&disk, vec![register_instance("c", 3)]), Err(EngineError::Stopped)));
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
        register_instance(&disk, "web", id, lease as u128);
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
    assert_eq!(disk.queues.waiting.load(Ordering::Relaxed), 0);
    disk.close();
}

#[test]
fn loaded_lease_has_its_full_ttl() {
    let directory = TempDir::new().unwrap();
    let first = open(directory.path(), Durability::Durable);
    register_instance(&first, "web", "a", 1);
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
fn commands_for_one_instance_are_executed_in_order() {
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
fn directory_in_use_is_rejected_with_the_process_id() {
    let directory = TempDir::new().unwrap();
    let first = open(directory.path(), Durability::Durable);
    let error = Disk::open(directory.path(), Durability::Durable, dependencies(), never_fails()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(&format!("in use by process {}", std::process::id())), "{message}");
    first.close();
    drop(first);
    open(directory.path(), Durability::Durable);
}

#[test]
fn relaxed_store_that_was_not_closed_begins_a_new_incarnation() {
    let directory = TempDir::new().unwrap();
    let start = |incarnation, durability| {
        let dependencies =
            DiskDependencies { start: StartPoint { incarnation: Incarnation(incarnation), ..START }, ..dependencies() };
        Disk::open(directory.path(), durability, dependencies, never_fails()).unwrap()
    };
    let closed = start(1, Durability::Relaxed);
    register_instance(&closed, "web", "a", 1);
    closed.close();
    drop(closed);
    let copy = TempDir::new().unwrap();
    let killed = start(2, Durability::Relaxed);
    assert_eq!((killed.registry().incarnation(), killed.is_lossy()), (Incarnation(1), false));
    let newest = register_instance(&killed, "web", "b", 2).revision;
    // A crash leaves the file as it is.
    std::fs::copy(directory.path().join("registry.redb"), copy.path().join("registry.redb")).unwrap();
    drop(killed);
    let dependencies =
        DiskDependencies { start: StartPoint { incarnation: Incarnation(3), ..START }, ..dependencies() };
    let after = Disk::open(copy.path(), Durability::Durable, dependencies, never_fails()).unwrap();
    assert_eq!((after.registry().incarnation(), after.is_lossy()), (Incarnation(3), true));
    assert!(after.registry().applied() > newest);
    assert!(contents(&after).contains_key(&("web".into(), "a".into())), "flushed changes are loaded");
}

#[test]
fn relaxed_change_is_on_the_disk_within_a_second() {
    let (backend, store) = backend::store();
    let dependencies = dependencies();
    let found = LoadedRecords::default();
    let disk = Disk::start(store, found, Durability::Relaxed, dependencies, never_fails()).unwrap();
    register_instance(&disk, "web", "a", 1);
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

fn step() -> impl Strategy<Value = EngineStep> {
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

fn command(step: &EngineStep, lease: u128) -> Option<Command> {
    const SERVICES: [&str; 3] = ["web", "web-api", "db"];
    Some(match *step {
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

    /// The same commands yield the same registry in both engines, and through restarts.
    #[test]
    fn both_engines_have_the_same_outcomes_and_contents(script in prop::collection::vec(step(), 1..60)) {
        let directory = TempDir::new().unwrap();
        // Revisions of both engines start at 0.
        let start = ClockReading { wall: crate::model::UnixMillis(0), ..at(0) };
        let memory = Memory::new(INCARNATION, start, Arc::new(NoListener));
        let mut disk = open(directory.path(), Durability::Durable);
        for (lease, step) in script.iter().enumerate() {
            let Some(command) = command(step, lease as u128) else {
                disk.close();
                drop(disk);
                disk = open(directory.path(), Durability::Durable);
                prop_assert_eq!(contents(&disk), contents(&memory));
                continue;
            };
            let summary = |outcome: Result<CommandOutcome, EngineError>| outcome
                .map(|outcome| (outcome.changed, outcome.revision))
                .map_err(|error| match error {
                    // The time to retry depends on the clocks, which differ.
                    EngineError::Rejected(CommandError::HeldByOther { service, id, .. }) => format!("{service}/{id} is held"),
                    other => other.to_string(),
                });
            let from_disk = summary(submit(&disk, command.clone()));
            let from_memory = summary(memory.submit(command, at(0)).map_err(Into::into));
            prop_assert_eq!(from_disk, from_memory);
        }
        prop_assert_eq!(contents(&disk), contents(&memory));
        prop_assert_eq!(disk.registry().applied(), memory.registry().applied());
    }
}
