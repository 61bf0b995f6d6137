//! Tests of changes and sweeps.

#[path = "tests/replicas.rs"]
mod replicas;

use super::*;
use crate::{
    app::Commands,
    clock::Clock,
    engine::{Engine, EngineError, Memory},
    health_check::{ChangeQueue, ProbePolicy},
    model::{Caller, CheckDefinition, CheckId, ConsulRegistration, Incarnation, InstanceId, ServerActor, ServiceName},
    registry::{
        ChangeListener, Entry, NewCheck, Register, RegisterWithoutLease,
        test_support::{deregister, register},
    },
};

/// Time after which a critical check has its instance deregistered.
const DEREGISTER_AFTER: Duration = Duration::from_mins(1);

fn caller() -> &'static Arc<Caller> {
    ServerActor::InProcess.caller()
}

struct RunnerTest {
    clock: Arc<Clock>,
    changes: Arc<ChangeQueue>,
    checks: Arc<HealthChecks>,
    runner: CheckRunner,
}

impl RunnerTest {
    fn new() -> Self {
        let (clock, changes) = (Arc::new(Clock::new(0)), Arc::new(ChangeQueue::default()));
        let listener: Arc<dyn ChangeListener> = Arc::<ChangeQueue>::clone(&changes);
        let engine: Arc<dyn Engine> = Arc::new(Memory::new(Incarnation(1), clock.now(), listener));
        Self::of(&engine, clock, changes)
    }

    fn of(engine: &Arc<dyn Engine>, clock: Arc<Clock>, changes: Arc<ChangeQueue>) -> Self {
        let commands = Commands::new(engine, &clock, None);
        let checks =
            HealthChecks::new(&commands, &clock, Arc::clone(&changes), ProbePolicy::default(), Default::default());
        let runner = CheckRunner::new(Arc::clone(&checks));
        Self { clock, changes, checks, runner }
    }

    async fn submit(&self, command: Command) {
        self.checks.commands.on_behalf_of(caller()).submit(command).await.unwrap();
    }

    /// Registers an instance with a TTL check of this status.
    async fn register(&self, id: &str, status: CheckStatus) {
        let probe = Probe::Ttl;
        let definition = CheckDefinition {
            interval: DEREGISTER_AFTER * 60,
            deregister_after: Some(DEREGISTER_AFTER),
            ..CheckDefinition::new(CheckId::parse("c").unwrap(), "c", probe)
        };
        let checks = vec![NewCheck { definition: definition.into(), status }];
        self.submit(Command::Register(Register { checks, ..register("web", id, "boot", 1) })).await;
    }

    async fn report(&self, id: &str, status: CheckStatus) {
        let (service, id) = (ServiceName::parse("web").unwrap(), InstanceId::parse(id).unwrap());
        let check = CheckId::parse("c").unwrap();
        self.checks.report(&service, &id, &check, status, "", caller()).await.unwrap();
    }

    async fn apply_changes(&mut self) {
        let changes = self.changes.take_after(Duration::ZERO).await;
        self.runner.apply_changes(changes);
    }

    /// Sweeps once a second for a time, and returns the ids of the instances that are left.
    async fn sweep(&mut self, span: Duration) -> Vec<String> {
        for _ in 0..span.as_secs() {
            for _ in 0..2 {
                tokio::time::advance(Duration::from_millis(500)).await;
                self.clock.expiry();
            }
            self.runner.sweep();
            while self.runner.submissions.join_next().await.is_some() {}
        }
        let left = self.checks.commands.registry().page(&ServiceName::parse("web").unwrap(), "", 10);
        left.iter().map(|entry| entry.instance.id.as_str().to_owned()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn history_of_a_deregistered_instance_is_removed() {
    let mut test = RunnerTest::new();
    test.register("a", CheckStatus::Passing).await;
    test.report("a", CheckStatus::Passing).await;
    test.sweep(Duration::from_secs(2)).await;
    assert_eq!(test.checks.count(), 1, "the runner has not seen the registration yet");
    test.submit(deregister("web", "a", None)).await;
    test.apply_changes().await;
    test.sweep(Duration::from_secs(2)).await;
    assert_eq!(test.checks.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn instance_that_stays_critical_is_deregistered() {
    let mut test = RunnerTest::new();
    test.register("a", CheckStatus::Critical).await;
    test.register("b", CheckStatus::Critical).await;
    test.register("c", CheckStatus::Passing).await;
    test.apply_changes().await;
    assert_eq!(test.sweep(DEREGISTER_AFTER / 2).await, ["a", "b", "c"]);
    test.report("b", CheckStatus::Passing).await;
    test.report("c", CheckStatus::Critical).await;
    test.apply_changes().await;
    assert_eq!(test.sweep(DEREGISTER_AFTER / 2 + Duration::from_secs(2)).await, ["b", "c"]);
    assert_eq!(test.sweep(DEREGISTER_AFTER / 2).await, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn late_change_does_not_bring_a_removed_instance_back() {
    let mut test = RunnerTest::new();
    test.register("a", CheckStatus::Passing).await;
    let late = test.changes.take_after(Duration::ZERO).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    test.submit(deregister("web", "a", None)).await;
    test.apply_changes().await;
    test.runner.apply_changes(late);
    assert!(test.runner.known.is_empty() && test.checks.count() == 0);
}

#[tokio::test(start_paused = true)]
async fn accepted_registration_renews_the_times_of_its_checks_and_rejected_one_does_not() {
    let mut test = RunnerTest::new();
    let check = |id: usize| {
        let ttl = CheckDefinition {
            interval: DEREGISTER_AFTER,
            ..CheckDefinition::new(CheckId::parse("c").unwrap(), "c", Probe::Ttl)
        };
        let id = CheckId::parse(&if id == 0 { "c".to_owned() } else { format!("c{id}") }).unwrap();
        NewCheck { definition: Arc::new(CheckDefinition { id, ..ttl }), status: CheckStatus::Passing }
    };
    let registration = |checks: usize| {
        let Register { service, id, description, .. } = register("web", "a", "boot", 1);
        let consul_registration = ConsulRegistration { id: "a".into(), ..ConsulRegistration::default() };
        let checks = (0..checks).map(check).collect();
        vec![RegisterWithoutLease { service, id, description, consul_registration, checks, replace_checks: true }]
    };
    let ttl_left = |test: &RunnerTest| {
        let key = (ServiceName::parse("web").unwrap(), InstanceId::parse("a").unwrap(), CheckId::parse("c").unwrap());
        test.checks.history(&key.0, &key.1, &key.2).unwrap().ttl_left(test.clock.now())
    };
    test.checks.commands.on_behalf_of(caller()).register(registration(1), ()).await.unwrap();
    test.apply_changes().await;
    test.sweep(DEREGISTER_AFTER / 2).await;
    let half = ttl_left(&test);
    assert!(half <= DEREGISTER_AFTER / 2 + Duration::from_secs(1), "{half:?}");
    let rejected = test.checks.commands.on_behalf_of(caller()).register(registration(40), ()).await;
    assert!(matches!(rejected, Err(EngineError::Rejected(_))), "{rejected:?}");
    assert_eq!(ttl_left(&test), half);
    test.checks.commands.on_behalf_of(caller()).register(registration(1), ()).await.unwrap();
    assert_eq!(ttl_left(&test), DEREGISTER_AFTER);
}

/// The sweep of each second takes the lock that the test holds.
#[test]
fn thread_that_blocks_is_silent() {
    const SILENT: Duration = Duration::from_millis(800);
    let RunnerTest { clock, checks, .. } = RunnerTest::new();
    let thread = HealthCheckThread::start(&checks, || panic!("the thread ended")).unwrap();
    let wait = |silent: bool| {
        (0..6_000).any(|_| {
            std::thread::park_timeout(Duration::from_millis(5));
            let loops = clock.event_loops();
            loops.iter().any(|status| status.name == THREAD_NAME && (status.silent_for >= SILENT) == silent)
        })
    };
    assert!(wait(false), "it reports");
    let blocked = checks.unconfirmed.lock();
    assert!(wait(true), "it is silent while a lock blocks it");
    drop(blocked);
    assert!(wait(false), "it reports again");
    drop(thread);
    assert_eq!(clock.event_loops(), []);
}
