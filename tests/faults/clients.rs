//! kill -9 of `callboard register` and `callboard run` at random times.

use std::time::Duration;

use callboard::pb::callboard::v1::EventKind;
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::{follow, last_renewal, wanted};
use crate::{
    harness::{Child, Filter, Random, Reader, Scope, Seed, ServerProcess, Span, Stalls, TestClient, key, wall, within},
    invariant::{self, Held, InstanceLifetime, ReferenceHistory, Stop, dead_goes, live_stays},
};

/// Number of services that lose instances at the same time. Each service has two instances, and the registry fewer than twenty in
/// all, so that self-preservation does not hold the killed ones.
const PARALLEL_SERVICES: u64 = 2;
/// Number of services one after the other in each of them.
const SERVICES: u64 = 3;
const TTL: u64 = 2_000;
const GRACE: u64 = 500;

/// Process of a registered program.
struct Program {
    child: Child,
    service: String,
    id: String,
    has_grace: bool,
}

impl Program {
    /// Starts `register` or `run`, with or without a grace, by the number.
    async fn start(serve: &str, client: &TestClient, service: &str, number: u64) -> Self {
        let (service, id, has_grace) = (service.to_owned(), format!("p{number}"), number % 4 > 1);
        let mut options = vec!["--server", serve, "--ttl", "2s", "--id", &id];
        if has_grace {
            options.extend(["--disconnect-grace", "500ms"]);
        }
        let child = if number.is_multiple_of(2) {
            Child::start(&[&["register", &service, "127.0.0.1:9001"], &options[..]].concat())
        } else {
            // The program ends by itself, because the test kills only its parent.
            let program = ["--", "sleep", "20"];
            Child::start(&[&["run", "--service", &service, "--port", "9002"], &options[..], &program].concat())
        };
        // Waits until the stream of the heartbeats is open.
        while !client.lease(&service, &id).await.is_some_and(|lease| lease.connected) {
            sleep(Duration::from_millis(10)).await;
        }
        Self { child, service, id, has_grace }
    }

    async fn kill(self, client: &TestClient) -> InstanceLifetime {
        let last = last_renewal(client, &self.service, &self.id).await;
        let from = wall();
        self.child.kill().await;
        let renewals = vec![Span { from: last, to: wall() }];
        let broke = self.has_grace.then(|| Span { from, to: wall() });
        lifetime(self.service, self.id, self.has_grace, renewals, broke)
    }

    fn lifetime(&self) -> InstanceLifetime {
        let renewals = vec![Span { from: wall(), to: wall() }];
        lifetime(self.service.clone(), self.id.clone(), self.has_grace, renewals, None)
    }
}

/// Makes a lifetime; its revision is set later.
fn lifetime(
    service: String,
    id: String,
    has_grace: bool,
    renewals: Vec<Span>,
    broke: Option<Span>,
) -> InstanceLifetime {
    InstanceLifetime {
        service,
        id,
        ttl: TTL,
        grace: has_grace.then_some(GRACE),
        revision: 0,
        renewals,
        broke,
        stop: Stop::Silent,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute: just faults"]
async fn killed_instances_expire_in_time_and_others_stay() {
    let (seed, stalls) = (Seed::from_environment(), Stalls::of_this_machine());
    for round in 0..wanted("CALLBOARD_TEST_ROUNDS", 2) {
        kill_instances(&seed, round, stalls).await;
    }
}

/// Runs a registry of its own, and verifies the invariants of its instances.
async fn kill_instances(seed: &Seed, round: u64, stalls: &Stalls) {
    let serve = ServerProcess::start(&[]).await;
    let client = serve.client().await;
    let everything = Reader::open(&client, "everything", Scope::Everything, Filter::NONE).await;
    let (goal, goals) = watch::channel(None);
    let reading = tokio::spawn(follow(everything, goals));
    let mut groups = JoinSet::new();
    for number in 0..PARALLEL_SERVICES {
        groups.spawn(kill_in_services(
            serve.address(),
            client.clone(),
            number,
            seed.random(round * PARALLEL_SERVICES + number),
        ));
    }
    let (mut lifetimes, mut running) = (Vec::new(), Vec::new());
    while let Some(group) = groups.join_next().await {
        let (killed, left) = group.unwrap();
        lifetimes.extend(killed);
        running.extend(left);
    }
    let killed = lifetimes.len();
    lifetimes.extend(running.iter().map(Program::lifetime));
    let events = client.events().await;
    goal.send_replace(events.last().map(|event| event.revision));
    let everything = within("the reader", reading).await.unwrap();
    let reference = ReferenceHistory::gather(events, [&everything.record], []).unwrap();
    for lifetime in &mut lifetimes {
        let registered =
            reference.of(&lifetime.service, &lifetime.id).find(|event| event.kind() == EventKind::Registered);
        lifetime.revision = registered.unwrap().revision;
    }
    invariant::check_record(&everything.record, &reference).unwrap();
    live_stays::check(&lifetimes, &reference).unwrap();
    dead_goes::check(&lifetimes, &reference, &Held::default(), wall(), |from| stalls.since(from)).unwrap();
    dead_goes::check_received(&everything.record, &lifetimes, &reference, &Held::default(), |from| stalls.since(from))
        .unwrap();
    println!("{killed} of {} programs were killed", lifetimes.len());
}

/// Starts two programs of each service, one service after the other, and kills one or both of them.
async fn kill_in_services(
    serve: String,
    client: TestClient,
    group: u64,
    mut random: Random,
) -> (Vec<InstanceLifetime>, Vec<Program>) {
    let (mut lifetimes, mut survivors, mut number) = (Vec::new(), Vec::new(), random.below(4));
    for service in 0..SERVICES {
        let service = format!("s{group}-{service}");
        let mut reader = Reader::of(&client, &[&service]).await;
        let mut running = Vec::new();
        for _ in 0..2 {
            running.push(Program::start(&serve, &client, &service, number).await);
            number += 1;
        }
        reader.until("both are there", |view| view.set.len() == running.len()).await;
        sleep(random.millis(0, 1_500)).await;
        for _ in 0..=random.below(2) {
            let program = running.remove(usize::try_from(random.below(running.len() as u64)).unwrap());
            lifetimes.push(program.kill(&client).await);
        }
        let left: Vec<_> = running.iter().map(|program| key(&program.service, &program.id)).collect();
        reader.until("the killed ones are removed", |view| view.set.keys().eq(left.iter())).await;
        survivors.extend(running);
    }
    (lifetimes, survivors)
}
