//! Tests of the write path.

#[path = "tests/replicas.rs"]
mod replicas;

use std::{
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
    time::Duration,
};

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::{
    engine::{Disk, Durability, Memory, StartPoint, disk::DiskDependencies},
    metrics::Metrics,
    model::{
        CallerProtocol, CheckDefinition, CheckId, CheckStatus, Conditions, ConsulRegistration, Incarnation, LeaseId,
        Probe, Revision, ServerActor, ServiceName, node_id, node_service,
    },
    registry::{
        CommandError, Entry, NewCheck, Patch,
        test_support::{NoListener, at, description, id, name},
    },
};

fn register_without_lease(
    service: ServiceName,
    id: InstanceId,
    consul_registration: ConsulRegistration,
) -> RegisterWithoutLease {
    let checks = Vec::new();
    RegisterWithoutLease {
        service,
        id,
        description: description(&[], 1),
        consul_registration,
        checks,
        replace_checks: false,
    }
}

fn at_node(name: &str) -> InstanceId {
    InstanceId::of_node(name)
}

fn node(name: &str, host: &str) -> RegisterWithoutLease {
    let mut node = register_without_lease(
        node_service(),
        at_node(name),
        ConsulRegistration { node: name.into(), address: host.into(), ..ConsulRegistration::default() },
    );
    node.description.addresses[0].host = host.into();
    node
}

/// A service on a node, without an address of its own.
fn on_node(node: &str, service: &str) -> RegisterWithoutLease {
    let consul_registration =
        ConsulRegistration { node: node.into(), id: service.into(), ..ConsulRegistration::default() };
    register_without_lease(name(service), InstanceId::on_node(node, service), consul_registration)
}

fn drain(node: &str, draining: bool) -> Command {
    let patch = Patch { draining: Some(draining), ..Patch::default() };
    Command::Update { service: node_service(), id: at_node(node), lease: None, patch }
}

fn boxed(register_without_lease: RegisterWithoutLease) -> Command {
    Command::RegisterWithoutLease(Box::new(register_without_lease))
}

fn memory() -> Arc<dyn Engine> {
    Arc::new(Memory::new(Incarnation(1), at(0), Arc::new(NoListener)))
}

fn disk(directory: &TempDir) -> Arc<dyn Engine> {
    let dependencies = DiskDependencies {
        clock: Arc::new(Clock::new(0)),
        listener: Arc::new(NoListener),
        metrics: Metrics::new().store.clone(),
        start: StartPoint { incarnation: Incarnation(1), revision: Revision(0) },
    };
    let failed = Box::new(|error| panic!("{error}"));
    Arc::new(Disk::open(directory.path(), Durability::Durable, dependencies, failed).unwrap())
}

fn commands_for(engine: &Arc<dyn Engine>) -> Commands {
    Commands::new(engine, &Arc::new(Clock::new(0)), Some(Handle::current()))
}

fn in_process(commands: &Commands) -> CallerCommands<'_> {
    commands.on_behalf_of(ServerActor::InProcess.caller())
}

/// A node `n` with five services, none of which names an address.
async fn register_node_with_services(commands: &Commands) {
    for n in 0..5 {
        let service = Some(on_node("n", &format!("s{n}")));
        let changes = vec![boxed(node("n", "10.0.0.1"))];
        let registration = NodeRegistration { service, ..NodeRegistration::of_node(at_node("n"), None, changes) };
        in_process(commands).register_on_node(registration).await.unwrap();
    }
}

fn conditions_and_hosts(commands: &Commands) -> Vec<(Conditions, String)> {
    let entries = commands.registry().entries_on_node(&node_id("n"));
    let of = |entry: &Arc<Entry>| (entry.instance.conditions, entry.instance.addresses[0].host.to_string());
    entries.iter().map(of).collect()
}

fn all_have_node_state(commands: &Commands) -> bool {
    let entries = commands.registry().entries_on_node(&node_id("n"));
    entries.len() == 5 && entries.iter().all(|entry| commands.registry().has_node_state(&entry.instance))
}

#[tokio::test]
async fn node_change_reaches_all_instances_on_it_and_no_others() {
    let commands = commands_for(&memory());
    register_node_with_services(&commands).await;
    in_process(&commands).register(vec![on_node("", "other")], ()).await.unwrap();
    let before = commands.registry().applied();
    in_process(&commands).submit(drain("n", true)).await.unwrap();
    assert!(conditions_and_hosts(&commands).iter().all(|(conditions, _)| conditions.node_drained));
    assert_eq!(commands.registry().applied().0, before.0 + 6, "the node and five services, and no other");
    assert!(!in_process(&commands).submit(drain("n", true)).await.unwrap().changed);
    let moved = NodeRegistration::of_node(at_node("n"), None, vec![boxed(node("n", "10.0.0.2"))]);
    in_process(&commands).register_on_node(moved).await.unwrap();
    assert!(
        conditions_and_hosts(&commands).iter().all(|(conditions, host)| conditions.node_drained && host == "10.0.0.2")
    );
    let definition = CheckDefinition::new(CheckId::parse("c").unwrap(), "c", Probe::Static);
    let check = NewCheck { definition: definition.into(), status: CheckStatus::Critical };
    in_process(&commands).submit(Command::AddCheck { service: node_service(), id: at_node("n"), check }).await.unwrap();
    assert!(conditions_and_hosts(&commands).iter().all(|(conditions, _)| conditions.node_critical));
    let check = CheckId::parse("c").unwrap();
    in_process(&commands)
        .submit(Command::RemoveCheck { service: node_service(), id: at_node("n"), check, created: None })
        .await
        .unwrap();
    assert!(conditions_and_hosts(&commands).iter().all(|(conditions, _)| !conditions.node_critical));
}

#[tokio::test]
async fn write_dropped_after_its_first_command_runs_to_its_end() {
    let directory = TempDir::new().unwrap();
    let engine = disk(&directory);
    let commands = commands_for(&engine);
    register_node_with_services(&commands).await;
    {
        let mut write = pin!(in_process(&commands).submit(drain("n", true)));
        poll_fn(|context| {
            assert!(write.as_mut().poll(context).is_pending(), "the disk takes its time");
            Poll::Ready(())
        })
        .await;
    }
    commands.finish().await;
    assert!(all_have_node_state(&commands));
    assert!(conditions_and_hosts(&commands).iter().all(|(conditions, _)| conditions.node_drained));
    {
        let mut write = pin!(in_process(&commands).remove_node(at_node("n")));
        poll_fn(|context| {
            assert!(write.as_mut().poll(context).is_pending(), "the disk takes its time");
            Poll::Ready(())
        })
        .await;
    }
    commands.finish().await;
    assert!(commands.registry().entries_on_node(&node_id("n")).is_empty() && commands.registry().node("n").is_none());
    engine.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_of_one_node_leave_all_instances_with_its_state() {
    let directory = TempDir::new().unwrap();
    let engine = disk(&directory);
    let commands = commands_for(&engine);
    register_node_with_services(&commands).await;
    let mut writers = JoinSet::new();
    for writer in 0..8_u8 {
        let commands = commands.clone();
        writers.spawn(async move {
            for round in 0..6_u8 {
                let host = format!("10.0.{writer}.{}", round + 1);
                let changes = vec![boxed(node("n", &host)), drain("n", (writer + round) % 2 == 0)];
                let service = Some(on_node("n", &format!("s{}", round % 5)));
                let registration =
                    NodeRegistration { service, ..NodeRegistration::of_node(at_node("n"), None, changes) };
                in_process(&commands).register_on_node(registration).await.unwrap();
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    assert!(all_have_node_state(&commands), "{:?}", conditions_and_hosts(&commands));
    engine.close();
}

#[tokio::test]
async fn move_leaves_nothing_in_the_old_service_and_a_rejected_move_changes_nothing() {
    let commands = commands_for(&memory());
    let mut first = on_node("", "a");
    first.id = id("mover");
    in_process(&commands).register(vec![first.clone()], ()).await.unwrap();
    let check = |n: usize| {
        let definition = CheckDefinition::new(CheckId::parse(&n.to_string()).unwrap(), "c", Probe::Static);
        NewCheck { definition: definition.into(), status: CheckStatus::Passing }
    };
    let invalid = RegisterWithoutLease { service: name("b"), checks: (0..33).map(check).collect(), ..first.clone() };
    let before = commands.registry().applied();
    assert!(matches!(
        in_process(&commands).register(vec![invalid], ()).await,
        Err(EngineError::Rejected(CommandError::Invalid(_)))
    ));
    assert_eq!(commands.registry().applied(), before);
    assert!(commands.registry().get(&name("a"), "mover").is_some());
    in_process(&commands).register(vec![RegisterWithoutLease { service: name("b"), ..first }], ()).await.unwrap();
    assert!(commands.registry().get(&name("a"), "mover").is_none());
    assert!(commands.registry().get(&name("b"), "mover").is_some());
    assert!(in_process(&commands).deregister_consul(vec![id("mover")]).await.unwrap());
    assert!(!in_process(&commands).deregister_consul(vec![id("mover")]).await.unwrap(), "the instance is removed");
}

/// Engine that does not accept some of its commands.
#[derive(Debug)]
struct FaultyEngine {
    engine: Arc<dyn Engine>,
    /// Number of submitted commands.
    submitted: AtomicUsize,
    /// Numbers of the commands that fail, from 0.
    failing: std::ops::Range<usize>,
    /// Error of the commands that fail.
    error: fn() -> EngineError,
}

impl FaultyEngine {
    fn of(engine: Arc<dyn Engine>, failing: std::ops::Range<usize>, error: fn() -> EngineError) -> Arc<dyn Engine> {
        Arc::new(Self { engine, submitted: AtomicUsize::new(0), failing, error })
    }

    fn next_fails(&self) -> bool {
        self.failing.contains(&self.submitted.fetch_add(1, Ordering::Relaxed))
    }
}

impl Engine for FaultyEngine {
    fn registry(&self) -> &Registry {
        self.engine.registry()
    }

    fn submit(&self, command: Command, caller: &Arc<Caller>, now: ClockReading) -> PendingCommand {
        if self.next_fails() {
            return PendingCommand::done(Err((self.error)()));
        }
        self.engine.submit(command, caller, now)
    }

    fn submit_together(
        &self,
        commands: Vec<Command>,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> PendingCommand<Vec<CommandOutcome>> {
        if self.next_fails() {
            return PendingCommand::done(Err((self.error)()));
        }
        self.engine.submit_together(commands, caller, now)
    }

    fn submit_policy(
        &self,
        command: PolicyCommand,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> PendingCommand<PolicyOutcome> {
        if self.next_fails() {
            return PendingCommand::done(Err((self.error)()));
        }
        self.engine.submit_policy(command, caller, now)
    }

    fn save_checks(&self, states: Vec<(CheckKey, Option<SavedCheck>)>) {
        self.engine.save_checks(states);
    }

    fn take_saved_checks(&self) -> Option<SavedChecks> {
        self.engine.take_saved_checks()
    }

    fn claim(&self, _: &ServiceName, _: &InstanceId, _: Option<LeaseId>) {}

    fn may_expire(&self) -> bool {
        true
    }

    fn degraded_since(&self) -> Option<Duration> {
        None
    }

    fn close(&self) {}
}

#[tokio::test(start_paused = true)]
async fn engine_overloaded_halfway_is_retried_and_at_the_first_command_is_not() {
    for failing in [0..1, 1..2, 2..5, 4..40] {
        let engine = memory();
        register_node_with_services(&commands_for(&engine)).await;
        let first = failing.start == 0;
        let overloaded = || EngineError::Overloaded { waiting: 1, retry: Duration::from_secs(1) };
        let commands = commands_for(&FaultyEngine::of(engine, failing, overloaded));
        let done = in_process(&commands).submit(drain("n", true)).await;
        assert_eq!(matches!(done, Err(EngineError::Overloaded { .. })), first, "{done:?}");
        assert!(all_have_node_state(&commands), "{:?}", conditions_and_hosts(&commands));
        assert_eq!(conditions_and_hosts(&commands)[0].0.node_drained, !first);
    }
}

#[tokio::test]
async fn interrupted_propagation_is_continued_on_behalf_of_the_caller_that_changed_the_node() {
    let engine = memory();
    register_node_with_services(&commands_for(&engine)).await;
    let services_registered_at = engine.registry().applied();
    let commands = commands_for(&FaultyEngine::of(engine, 2..3, || EngineError::OutcomeUnknown));
    let client = |port: u16| {
        let (protocol, peer) = (CallerProtocol::Consul, ([127, 0, 0, 1], port).into());
        Arc::new(Caller::Client { protocol, peer, identity: None })
    };
    let (first, second) = (client(1), client(2));
    let done = commands.on_behalf_of(&first).submit(drain("n", true)).await;
    assert!(matches!(done, Err(EngineError::OutcomeUnknown)) && !all_have_node_state(&commands), "{done:?}");
    assert!(!commands.on_behalf_of(&second).submit(drain("n", true)).await.unwrap().changed);
    assert!(all_have_node_state(&commands));
    let events = commands.registry().events(None, Revision(u64::MAX), 100);
    let callers: Vec<_> =
        events.iter().filter(|event| event.revision > services_registered_at).map(|event| &event.caller).collect();
    assert_eq!(callers, [&first; 5], "the services on the node");
}

#[tokio::test]
async fn recovery_completes_what_was_stored_halfway_and_then_finds_nothing() {
    for directory in [None, Some(TempDir::new().unwrap())] {
        let engine = directory.as_ref().map_or_else(memory, disk);
        let commands = commands_for(&engine);
        register_node_with_services(&commands).await;
        // A node changed in every way, and no instance has its state yet.
        engine.submit(boxed(node("n", "10.0.0.7")), ServerActor::InProcess.caller(), at(0)).await.unwrap();
        engine.submit(drain("n", true), ServerActor::InProcess.caller(), at(0)).await.unwrap();
        // An id that moved and is still in its old service, as earlier versions stored it.
        let mover = |service: &str| RegisterWithoutLease { id: id("mover"), ..on_node("", service) };
        engine.submit(boxed(mover("a")), ServerActor::InProcess.caller(), at(0)).await.unwrap();
        engine.submit(boxed(mover("b")), ServerActor::InProcess.caller(), at(0)).await.unwrap();
        // A check that two instances of the node have: the later one keeps it.
        let definition = CheckDefinition::new(CheckId::parse("taken").unwrap(), "c", Probe::Static);
        for n in 0..2 {
            let check = NewCheck { definition: definition.clone().into(), status: CheckStatus::Passing };
            let (service, id) = (name(&format!("s{n}")), InstanceId::on_node("n", &format!("s{n}")));
            engine
                .submit(Command::AddCheck { service, id, check }, ServerActor::InProcess.caller(), at(0))
                .await
                .unwrap();
        }
        // An instance on an unregistered node does not change.
        in_process(&commands).register(vec![on_node("unknown", "stays")], ()).await.unwrap();
        assert!(!all_have_node_state(&commands));
        commands.recover().unwrap();
        assert!(all_have_node_state(&commands));
        assert!(
            conditions_and_hosts(&commands)
                .iter()
                .all(|(conditions, host)| conditions.node_drained && host == "10.0.0.7")
        );
        assert!(commands.registry().get(&name("a"), "mover").is_none());
        assert!(commands.registry().get(&name("b"), "mover").is_some());
        let checks = |service: &str| {
            let id = InstanceId::on_node("n", service);
            commands.registry().get(&name(service), id.as_str()).unwrap().instance.checks.len()
        };
        assert_eq!((checks("s0"), checks("s1")), (0, 1));
        assert!(commands.registry().get(&name("stays"), InstanceId::on_node("unknown", "stays").as_str()).is_some());
        let recovered = commands.registry().applied();
        commands.recover().unwrap();
        assert_eq!(commands.registry().applied(), recovered);
        engine.close();
    }
}
