//! What is heard, and what sweeps find.

use super::*;
use crate::{
    app::Commands,
    clock::Clock,
    engine::{Engine, EngineError, Memory},
    health_check::{ChangeQueue, ProbePolicy},
    model::{ConsulRegistration, Incarnation, InstanceId, ServerActor},
    registry::{
        ChangeListener, NewCheck, Register, RegisterWithoutLease,
        test_support::{deregister, register},
    },
};

const REPRIEVE: Duration = Duration::from_mins(1);

struct RunnerTest {
    clock: Arc<Clock>,
    inbox: Arc<ChangeQueue>,
    checks: Arc<HealthChecks>,
    runner: CheckRunner,
}

impl RunnerTest {
    fn new() -> Self {
        let (clock, inbox) = (Arc::new(Clock::new(0)), Arc::new(ChangeQueue::default()));
        let audience: Arc<dyn ChangeListener> = Arc::<ChangeQueue>::clone(&inbox);
        let engine: Arc<dyn Engine> = Arc::new(Memory::new(Incarnation(1), clock.now(), audience));
        let commands = Commands::new(&engine, &clock, None);
        let checks =
            HealthChecks::new(&commands, &clock, Arc::clone(&inbox), ProbePolicy::default(), Default::default());
        let runner = CheckRunner::new(Arc::clone(&checks));
        Self { clock, inbox, checks, runner }
    }

    async fn order(&self, command: Command) {
        self.checks.commands.on_behalf_of(ServerActor::InProcess.caller()).submit(command).await.unwrap();
    }

    /// Registers an instance with a check that is fed, and says this.
    async fn register(&self, id: &str, verdict: CheckStatus) {
        let probe = Probe::Ttl;
        let definition = CheckDefinition {
            interval: REPRIEVE * 60,
            deregister_after: Some(REPRIEVE),
            ..CheckDefinition::new(CheckId::parse("c").unwrap(), "c", probe)
        };
        let checks = vec![NewCheck { definition: definition.into(), verdict }];
        self.order(Command::Register(Register { checks, ..register("web", id, "boot", 1) })).await;
    }

    async fn report(&self, id: &str, verdict: CheckStatus) {
        let (service, id) = (ServiceName::parse("web").unwrap(), InstanceId::parse(id).unwrap());
        self.checks
            .report(&service, &id, &CheckId::parse("c").unwrap(), verdict, "", ServerActor::InProcess.caller())
            .await
            .unwrap();
    }

    async fn hear(&mut self) {
        let changed = self.inbox.changed_after(Duration::ZERO).await;
        self.runner.hear(changed);
    }

    /// Sweeps once a second for so long, and tells who is left.
    async fn sweep(&mut self, span: Duration) -> Vec<String> {
        for _ in 0..span.as_secs() {
            for _ in 0..2 {
                tokio::time::advance(Duration::from_millis(500)).await;
                self.clock.expiry();
            }
            self.runner.sweep();
            while self.runner.judging.join_next().await.is_some() {}
        }
        let left = self.checks.commands.registry().page(&ServiceName::parse("web").unwrap(), "", 10);
        left.iter().map(|entry| entry.instance.id.as_str().to_owned()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_reported_of_who_is_gone_is_forgotten() {
    let mut world = RunnerTest::new();
    world.register("a", CheckStatus::Passing).await;
    world.report("a", CheckStatus::Passing).await;
    world.sweep(Duration::from_secs(2)).await;
    assert_eq!(world.checks.count(), 1, "it is newer than what was heard");
    world.order(deregister("web", "a", None)).await;
    world.hear().await;
    world.sweep(Duration::from_secs(2)).await;
    assert_eq!(world.checks.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_stays_critical_goes_and_who_does_not_stays() {
    let mut world = RunnerTest::new();
    world.register("a", CheckStatus::Critical).await;
    world.register("b", CheckStatus::Critical).await;
    world.register("c", CheckStatus::Passing).await;
    world.hear().await;
    assert_eq!(world.sweep(REPRIEVE / 2).await, ["a", "b", "c"]);
    world.report("b", CheckStatus::Passing).await;
    world.report("c", CheckStatus::Critical).await;
    world.hear().await;
    assert_eq!(world.sweep(REPRIEVE / 2 + Duration::from_secs(2)).await, ["b", "c"]);
    assert_eq!(world.sweep(REPRIEVE / 2).await, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn news_that_come_late_are_looked_up() {
    let mut world = RunnerTest::new();
    world.register("a", CheckStatus::Passing).await;
    let late = world.inbox.changed_after(Duration::ZERO).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    world.order(deregister("web", "a", None)).await;
    world.hear().await;
    world.runner.hear(late);
    assert!(world.runner.known.is_empty() && world.checks.count() == 0);
}

#[tokio::test(start_paused = true)]
async fn registration_that_is_refused_leaves_the_times_of_its_checks_and_one_that_is_accepted_renews_them() {
    let mut world = RunnerTest::new();
    let check = |id: usize| {
        let ttl = CheckDefinition {
            interval: REPRIEVE,
            ..CheckDefinition::new(CheckId::parse("c").unwrap(), "c", Probe::Ttl)
        };
        let id = CheckId::parse(&if id == 0 { "c".to_owned() } else { format!("c{id}") }).unwrap();
        NewCheck { definition: Arc::new(CheckDefinition { id, ..ttl }), verdict: CheckStatus::Passing }
    };
    let asked = |checks: usize| {
        let Register { service, id, description, .. } = register("web", "a", "boot", 1);
        let listing = ConsulRegistration { id: "a".into(), ..ConsulRegistration::default() };
        let checks = (0..checks).map(check).collect();
        vec![RegisterWithoutLease { service, id, description, listing, checks, replace_checks: true }]
    };
    let left = |world: &RunnerTest| {
        let key = (ServiceName::parse("web").unwrap(), InstanceId::parse("a").unwrap(), CheckId::parse("c").unwrap());
        world.checks.record(&key.0, &key.1, &key.2).unwrap().time_left(world.clock.now())
    };
    world.checks.commands.on_behalf_of(ServerActor::InProcess.caller()).register(asked(1), ()).await.unwrap();
    world.hear().await;
    world.sweep(REPRIEVE / 2).await;
    let half = left(&world);
    assert!(half <= REPRIEVE / 2 + Duration::from_secs(1), "{half:?}");
    let refused = world.checks.commands.on_behalf_of(ServerActor::InProcess.caller()).register(asked(40), ()).await;
    assert!(matches!(refused, Err(EngineError::Rejected(_))), "{refused:?}");
    assert_eq!(left(&world), half);
    world.checks.commands.on_behalf_of(ServerActor::InProcess.caller()).register(asked(1), ()).await.unwrap();
    assert_eq!(left(&world), REPRIEVE);
}
