//! Tests with several replicas, which share a registry and each have a runner.

use super::*;
use crate::{
    engine::test_replicas::TestReplica,
    model::{Check, ProbeTarget, node_service},
    registry::test_support::description,
};

/// TTL of the check `c`.
const TTL: Duration = Duration::from_secs(10);
const PASSING: CheckStatus = CheckStatus::Passing;
const CRITICAL: CheckStatus = CheckStatus::Critical;

/// Replicas with a check runner each, and one instance `web/a`.
struct Replicas {
    engines: Vec<TestReplica>,
    runners: Vec<RunnerTest>,
    clock: Arc<Clock>,
    /// Index of the replica that held the instance when its holder was last seen to change, and the number of changes.
    holder: Option<usize>,
    moves: usize,
    /// Statuses of the check `c`, each time it changed.
    statuses: Vec<CheckStatus>,
}

impl Replicas {
    fn new(number: usize) -> Self {
        let clock = Arc::new(Clock::new(0));
        let queues: Vec<_> = (0..number).map(|_| Arc::new(ChangeQueue::default())).collect();
        let listeners = queues.iter().map(|queue| Arc::<ChangeQueue>::clone(queue) as Arc<dyn ChangeListener>);
        let engines = TestReplica::all(listeners, clock.now());
        let test = |(engine, queue): (&TestReplica, &Arc<ChangeQueue>)| {
            let engine: Arc<dyn Engine> = Arc::new(engine.clone());
            let mut test = RunnerTest::of(&engine, Arc::clone(&clock), Arc::clone(queue));
            test.runner.load_all();
            test
        };
        let runners = engines.iter().zip(&queues).map(test).collect();
        Self { engines, runners, clock, holder: None, moves: 0, statuses: Vec::new() }
    }

    fn checks(&self, replica: usize) -> &Arc<HealthChecks> {
        &self.runners[replica].checks
    }

    /// Registers the instance at a replica, as a program does through Consul's API.
    async fn register(&mut self, replica: usize, checks: Vec<NewCheck>) {
        let registration = RegisterWithoutLease {
            service: service(),
            id: instance(),
            description: description(&[], 1),
            consul_registration: ConsulRegistration { id: "a".into(), ..ConsulRegistration::default() },
            checks,
            replace_checks: true,
        };
        let commands = &self.checks(replica).commands;
        commands.on_behalf_of(caller()).register(vec![registration], ()).await.unwrap();
        self.apply_changes().await;
    }

    async fn report(&mut self, replica: usize, check: &str, status: CheckStatus) {
        let id = CheckId::parse(check).unwrap();
        self.checks(replica).report(&service(), &instance(), &id, status, "well", caller()).await.unwrap();
        self.apply_changes().await;
    }

    async fn submit(&mut self, replica: usize, command: Command) {
        self.runners[replica].submit(command).await;
        self.apply_changes().await;
    }

    async fn claim(&mut self, replica: usize) {
        let from = self.entry().unwrap().holder;
        self.submit(replica, Command::Claim { service: service(), id: instance(), lease: None, from }).await;
    }

    /// Has all runners take their changes, and waits for what they submit.
    async fn apply_changes(&mut self) {
        loop {
            let mut idle = true;
            for test in &mut self.runners {
                let none = Duration::from_nanos(1);
                while let Ok(changes) = tokio::time::timeout(none, test.changes.take_after(Duration::ZERO)).await {
                    test.runner.apply_changes(changes);
                    idle = false;
                }
                while test.runner.submissions.join_next().await.is_some() {
                    idle = false;
                }
            }
            self.observe();
            if idle {
                return;
            }
        }
    }

    fn observe(&mut self) {
        let Some(entry) = self.entry() else { return };
        let holder = self.engines.iter().position(|engine| engine.registry().holds(&entry));
        if self.holder.is_some() && self.holder != holder {
            self.moves += 1;
        }
        self.holder = holder;
        let status = entry.instance.checks.get("c").unwrap().status;
        if self.statuses.last() != Some(&status) {
            self.statuses.push(status);
        }
    }

    /// Lets time pass, with everything that the runners do meanwhile.
    async fn pass(&mut self, span: Duration) {
        for step in 1..=u32::try_from(span.as_millis() / 250).unwrap() {
            tokio::time::advance(Duration::from_millis(250)).await;
            self.clock.expiry();
            for test in &mut self.runners {
                test.runner.start_due();
                if step.is_multiple_of(4) {
                    test.runner.sweep();
                }
            }
            self.apply_changes().await;
        }
    }

    fn entry(&self) -> Option<Arc<Entry>> {
        self.checks(0).commands.registry().get(&service(), "a")
    }

    fn check(&self, id: &str) -> Check {
        self.entry().unwrap().instance.checks.get(id).unwrap().clone()
    }

    /// Returns the output of the check `c` that a replica shows.
    fn output(&self, replica: usize) -> Option<String> {
        let check = CheckId::parse("c").unwrap();
        self.checks(replica).history(&service(), &instance(), &check).map(|history| history.output().to_string())
    }

    fn scheduled(&self) -> Vec<usize> {
        self.runners.iter().map(|test| test.runner.schedule.len()).collect()
    }
}

/// Returns a second less than a span.
fn just_before(span: Duration) -> Duration {
    span.saturating_sub(Duration::from_secs(1))
}

fn service() -> ServiceName {
    ServiceName::parse("web").unwrap()
}

fn instance() -> InstanceId {
    InstanceId::parse("a").unwrap()
}

/// Returns a check with an interval or a TTL.
fn check(id: &str, probe: Probe, interval: Duration, status: CheckStatus) -> NewCheck {
    let definition = CheckDefinition { interval, ..CheckDefinition::new(CheckId::parse(id).unwrap(), id, probe) };
    NewCheck { definition: definition.into(), status }
}

fn ttl_check(status: CheckStatus) -> Vec<NewCheck> {
    vec![check("c", Probe::Ttl, TTL, status)]
}

/// Returns a check that is critical, and has the instance removed after a minute.
fn removing(interval: Duration) -> Vec<NewCheck> {
    let mut check = check("c", Probe::Ttl, interval, CRITICAL);
    Arc::make_mut(&mut check.definition).deregister_after = Some(DEREGISTER_AFTER);
    vec![check]
}

#[tokio::test(start_paused = true)]
async fn only_the_holder_expires_a_ttl_and_a_claim_gives_a_full_one() {
    let mut replicas = Replicas::new(2);
    replicas.register(0, ttl_check(PASSING)).await;
    assert_eq!((replicas.scheduled(), replicas.checks(1).count()), (vec![1, 0], 0));
    replicas.pass(just_before(TTL)).await;
    replicas.claim(1).await;
    assert_eq!((replicas.scheduled(), replicas.checks(0).count()), (vec![0, 1], 0));
    replicas.pass(just_before(TTL)).await;
    assert_eq!(replicas.statuses, [PASSING]);
    replicas.pass(Duration::from_secs(2)).await;
    assert_eq!(replicas.statuses, [PASSING, CRITICAL]);
}

#[tokio::test(start_paused = true)]
async fn probes_run_at_the_holder_only_and_a_result_of_the_former_holder_does_not_count() {
    let mut replicas = Replicas::new(2);
    let target = ProbeTarget::parse("tcp", "127.0.0.1:1").unwrap();
    replicas.register(0, vec![check("c", Probe::Tcp { target, tls: None }, TTL, PASSING)]).await;
    let entry = replicas.entry().unwrap();
    assert_eq!(replicas.scheduled(), [1, 0]);
    replicas.claim(1).await;
    assert_eq!(replicas.scheduled(), [0, 1]);
    let late = FinishedProbe {
        key: (service(), instance(), CheckId::parse("c").unwrap()),
        definition_revision: entry.instance.checks.get("c").unwrap().definition_revision,
        status: CRITICAL,
        output: "refused".into(),
        took: Duration::ZERO,
    };
    replicas.runners[0].runner.finish_probe(late);
    replicas.apply_changes().await;
    assert_eq!(replicas.statuses, [PASSING]);
    assert_eq!(replicas.output(0), None);
}

#[tokio::test(start_paused = true)]
async fn instance_that_another_replica_holds_is_not_removed_here() {
    let mut replicas = Replicas::new(2);
    replicas.register(0, removing(TTL)).await;
    replicas.pass(DEREGISTER_AFTER / 2).await;
    replicas.claim(1).await;
    assert!(replicas.runners[0].runner.removal_candidates.is_empty());
    replicas.pass(just_before(DEREGISTER_AFTER)).await;
    assert!(replicas.entry().is_some(), "the new holder does not know since when it is critical");
    replicas.pass(Duration::from_secs(2)).await;
    assert!(replicas.entry().is_none());
}

#[tokio::test(start_paused = true)]
async fn replica_that_holds_a_critical_instance_again_knows_since_when_and_gives_an_interval_and_a_timeout() {
    let mut replicas = Replicas::new(2);
    replicas.register(0, removing(TTL)).await;
    replicas.claim(1).await;
    replicas.pass(DEREGISTER_AFTER.saturating_sub(Duration::from_secs(2))).await;
    replicas.claim(0).await;
    let time_limit = replicas.check("c").definition.time_limit();
    replicas.pass(just_before(TTL + time_limit)).await;
    assert!(replicas.entry().is_some());
    replicas.pass(Duration::from_secs(2)).await;
    assert!(replicas.entry().is_none());
}

#[tokio::test(start_paused = true)]
async fn new_holder_runs_a_slow_check_before_it_removes_the_instance() {
    let mut replicas = Replicas::new(2);
    replicas.register(0, removing(DEREGISTER_AFTER * 2)).await;
    replicas.claim(1).await;
    replicas.pass(DEREGISTER_AFTER * 2).await;
    assert!(replicas.entry().is_some());
    replicas.pass(DEREGISTER_AFTER).await;
    assert!(replicas.entry().is_none());
}

#[tokio::test(start_paused = true)]
async fn report_at_another_replica_claims_the_instance_and_sets_the_status() {
    let mut replicas = Replicas::new(2);
    replicas.register(0, ttl_check(CRITICAL)).await;
    replicas.report(0, "c", PASSING).await;
    assert_eq!((replicas.output(0).as_deref(), replicas.output(1)), (Some("well"), None));
    replicas.pass(TTL / 2).await;
    replicas.report(1, "c", CheckStatus::Warning).await;
    assert_eq!((replicas.holder, replicas.moves), (Some(1), 1));
    assert_eq!(replicas.statuses, [CRITICAL, PASSING, CheckStatus::Warning]);
    assert_eq!((replicas.output(0), replicas.output(1).as_deref()), (None, Some("well")));
    replicas.pass(just_before(TTL)).await;
    assert_eq!(replicas.check("c").status, CheckStatus::Warning);
    replicas.pass(Duration::from_secs(2)).await;
    assert_eq!(replicas.check("c").status, CRITICAL);
}

#[tokio::test(start_paused = true)]
async fn reports_at_alternating_replicas_keep_a_check_passing_with_few_moves_and_announcements() {
    for period in [TTL / 5, TTL / 2, TTL * 9 / 10] {
        let mut replicas = Replicas::new(3);
        replicas.register(0, ttl_check(PASSING)).await;
        let reports = 120;
        for report in 0..reports {
            replicas.report(report % 3, "c", PASSING).await;
            replicas.pass(period).await;
        }
        assert_eq!(replicas.statuses, [PASSING], "reports every {period:?}");
        let ttls = period.as_millis() * u128::try_from(reports).unwrap() / TTL.as_millis();
        let (moves, ttls) = (replicas.moves, usize::try_from(ttls).unwrap());
        assert!((2..=ttls / 2 + 2).contains(&moves), "{moves} moves in {ttls} TTLs with reports every {period:?}");
        let announcements = replicas.check("c").announced_reports as usize;
        assert!(announcements <= ttls * 5 / 2 + 2, "{announcements} announcements in {ttls} TTLs");
        replicas.pass(TTL * 7 / 4 + Duration::from_secs(1)).await;
        assert_eq!(replicas.statuses, [PASSING, CRITICAL], "nothing keeps it passing without reports");
    }
}

#[tokio::test(start_paused = true)]
async fn check_without_reports_expires_although_reports_for_another_one_move_the_instance() {
    let mut replicas = Replicas::new(2);
    let checks = vec![check("other", Probe::Ttl, TTL / 2, PASSING), check("c", Probe::Ttl, TTL, PASSING)];
    replicas.register(0, checks).await;
    for report in 0..20 {
        replicas.report(report % 2, "other", PASSING).await;
        replicas.pass(TTL / 5).await;
    }
    assert_eq!(replicas.statuses, [PASSING, CRITICAL]);
    assert_eq!(replicas.check("other").status, PASSING);
}

#[tokio::test(start_paused = true)]
async fn reports_for_two_checks_at_one_replica_each_keep_both_passing() {
    let mut replicas = Replicas::new(2);
    replicas.register(0, vec![check("other", Probe::Ttl, TTL, PASSING), check("c", Probe::Ttl, TTL, PASSING)]).await;
    for _ in 0..60 {
        replicas.report(0, "other", PASSING).await;
        replicas.report(1, "c", PASSING).await;
        replicas.pass(TTL / 2).await;
        assert_eq!((replicas.check("other").status, replicas.check("c").status), (PASSING, PASSING));
    }
}

#[tokio::test(start_paused = true)]
async fn holder_does_not_undo_a_status_that_another_replica_reports() {
    let mut replicas = Replicas::new(2);
    replicas.register(0, ttl_check(CRITICAL)).await;
    replicas.report(1, "c", PASSING).await;
    replicas.report(0, "c", PASSING).await;
    assert_eq!(replicas.moves, 1, "it has just moved");
    replicas.report(1, "c", PASSING).await;
    replicas.report(0, "c", CRITICAL).await;
    assert_eq!((replicas.moves, replicas.check("c").status), (1, CRITICAL));
    replicas.pass(TTL / 2).await;
    assert_eq!(replicas.statuses, [CRITICAL, PASSING, CRITICAL]);
}

#[tokio::test(start_paused = true)]
async fn report_for_an_instance_with_a_lease_does_not_move_it() {
    let mut replicas = Replicas::new(2);
    let registration = Register { checks: ttl_check(PASSING), ..register("web", "a", "boot", 1) };
    replicas.submit(0, Command::Register(registration)).await;
    for _ in 0..20 {
        replicas.report(1, "c", PASSING).await;
        replicas.pass(TTL / 2).await;
    }
    assert_eq!((replicas.moves, replicas.holder), (0, Some(0)));
    assert_eq!(replicas.statuses, [PASSING]);
}

#[tokio::test(start_paused = true)]
async fn repeated_registration_at_another_replica_moves_the_instance_and_renews_its_times() {
    let mut replicas = Replicas::new(2);
    replicas.register(0, ttl_check(PASSING)).await;
    replicas.pass(just_before(TTL)).await;
    replicas.register(1, ttl_check(PASSING)).await;
    assert_eq!(replicas.holder, Some(1));
    replicas.pass(just_before(TTL)).await;
    assert_eq!(replicas.statuses, [PASSING]);
}

#[tokio::test(start_paused = true)]
async fn nothing_expires_while_the_engine_pauses_and_then_checks_have_full_times() {
    let mut replicas = Replicas::new(1);
    replicas.register(0, ttl_check(PASSING)).await;
    replicas.engines[0].set_may_expire(false);
    replicas.pass(TTL * 5 / 2).await;
    replicas.engines[0].set_may_expire(true);
    replicas.pass(just_before(TTL)).await;
    assert_eq!(replicas.statuses, [PASSING]);
    replicas.pass(Duration::from_secs(3)).await;
    assert_eq!(replicas.statuses, [PASSING, CRITICAL]);
}

#[tokio::test(start_paused = true)]
async fn instance_is_not_removed_right_after_a_pause_of_the_engine() {
    let mut replicas = Replicas::new(1);
    replicas.register(0, removing(TTL)).await;
    replicas.engines[0].set_may_expire(false);
    replicas.pass(DEREGISTER_AFTER * 2).await;
    replicas.engines[0].set_may_expire(true);
    let time_limit = replicas.check("c").definition.time_limit();
    replicas.pass(just_before(TTL + time_limit)).await;
    assert!(replicas.entry().is_some());
    replicas.pass(Duration::from_secs(3)).await;
    assert!(replicas.entry().is_none());
}

#[tokio::test(start_paused = true)]
async fn replica_with_a_new_session_runs_no_checks_that_it_held_before() {
    let mut replicas = Replicas::new(2);
    replicas.register(0, ttl_check(PASSING)).await;
    replicas.engines[0].begin_session(SessionEpoch(9));
    replicas.pass(TTL * 2).await;
    assert_eq!((replicas.scheduled(), &*replicas.statuses), (vec![0, 0], &[PASSING][..]));
    replicas.claim(0).await;
    assert_eq!(replicas.scheduled(), [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn checks_of_a_node_run_at_its_holder_only() {
    let mut replicas = Replicas::new(2);
    let node = node_service();
    let registration = RegisterWithoutLease {
        service: node.clone(),
        id: InstanceId::of_node("n"),
        description: description(&[], 1),
        consul_registration: ConsulRegistration { node: "n".into(), ..ConsulRegistration::default() },
        checks: ttl_check(PASSING),
        replace_checks: true,
    };
    replicas.submit(0, Command::RegisterWithoutLease(Box::new(registration))).await;
    assert_eq!(replicas.scheduled(), [1, 0]);
    let from = replicas.engines[0].registry().session();
    replicas.submit(1, Command::Claim { service: node, id: InstanceId::of_node("n"), lease: None, from }).await;
    assert_eq!(replicas.scheduled(), [0, 1]);
}
