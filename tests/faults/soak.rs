//! Long run of all faults: writers whose services appear and disappear, watches and instances behind a faulty network, killed
//! programs. Memory must not grow, and streams, threads and descriptors must be as before once all clients are gone.

use std::time::Duration;

use callboard::{
    client::{Endpoint, Registration, Watch},
    pb::callboard::v1::{RegisterRequest, WatchRequest},
    registry::MAX_HISTORY_EVENTS,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::wanted;
use crate::harness::{Child, Proxy, Random, Seed, ServerProcess, TestClient, instance, seconds, wall, within};

const WRITERS: u64 = 4;
const WATCHES: u64 = 20;
const INSTANCES: u64 = 10;
const PROGRAMS: u64 = 2;
/// Default length of the run.
const DEFAULT_LENGTH: Duration = Duration::from_secs(30);
/// Maximum growth in KiB that is not a leak: memory that allocators keep, and noise of the measurement.
const MAX_GROWTH_KIB: f64 = 4.0 * 1_024.0;
/// Number of clients that fill the event log before memory is measured.
const FILLERS: usize = 32;
/// Maximum time until all state is gone. Ended leases are kept for their next heartbeats.
const MAX_CLEANUP_TIME: Duration = Duration::from_mins(3);
const SAMPLE: Duration = Duration::from_secs(1);

/// Resources of the process.
#[derive(Debug, Clone, Copy, PartialEq)]
struct ProcessResources {
    streams: u64,
    watches: u64,
    instances: u64,
    leases: u64,
    threads: u64,
    descriptors: usize,
}

impl ProcessResources {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the numbers are small")]
    async fn of(serve: &ServerProcess) -> Self {
        let metric = async |name| serve.metric(name).await as u64;
        Self {
            streams: metric("callboard_open_streams").await,
            watches: metric("callboard_watches").await,
            instances: metric("callboard_instances").await,
            leases: metric("callboard_leases").await,
            threads: serve.threads(),
            descriptors: serve.descriptors(),
        }
    }
}

impl ProcessResources {
    /// Give or take the descriptors of connections that ask for the page which tells of the rest.
    fn is_back_at(&self, baseline: &Self) -> bool {
        let Self { threads, descriptors, .. } = *baseline;
        self.threads <= threads
            && self.descriptors <= descriptors + 2
            && *self == Self { threads: self.threads, descriptors: self.descriptors, ..*baseline }
    }
}

type Over = watch::Receiver<bool>;

/// Seconds and KiB.
type Sample = (f64, f64);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute, or as many minutes as CALLBOARD_TEST_SOAK_MINUTES says: just soak"]
async fn long_run_of_all_faults_returns_to_the_baseline() {
    let seed = Seed::from_environment();
    let minutes = wanted("CALLBOARD_TEST_SOAK_MINUTES", 0);
    let lasts = if minutes == 0 { DEFAULT_LENGTH } else { Duration::from_secs(60 * minutes) };
    let serve = ServerProcess::start(&[]).await;
    if minutes > 0 {
        fill(&serve).await;
    }
    let baseline = ProcessResources::of(&serve).await;
    let proxy = Proxy::before(serve.grpc).await;
    let (over, is_over) = watch::channel(false);
    let mut actors = JoinSet::new();
    for number in 0..WRITERS {
        actors.spawn(write(serve.client().await, number, seed.random(number), is_over.clone()));
    }
    let (near, far): (Endpoint, Endpoint) =
        (serve.address().parse().unwrap(), proxy.address().to_string().parse().unwrap());
    for number in 0..WATCHES {
        let endpoint = if number % 2 == 0 { near.clone() } else { far.clone() };
        actors.spawn(watch_repeatedly(endpoint, seed.random(100 + number), is_over.clone()));
    }
    for number in 0..INSTANCES {
        actors.spawn(register_and_end(far.clone(), number, seed.random(200 + number), is_over.clone()));
    }
    for number in 0..PROGRAMS {
        actors.spawn(kill_programs(serve.address(), number, seed.random(300 + number), is_over.clone()));
    }
    actors.spawn(reset_connections(proxy, seed.random(400), is_over.clone()));

    let samples = sample(&serve, lasts).await;
    over.send_replace(true);
    while let Some(actor) = within("an actor leaves", actors.join_next()).await {
        actor.unwrap();
    }
    wait_for_baseline(&serve, &baseline).await;
    assert_no_growth(&samples, lasts);
}

/// Waits until the resources are those of the baseline.
async fn wait_for_baseline(serve: &ServerProcess, baseline: &ProcessResources) {
    let mut left = ProcessResources::of(serve).await;
    let leaving = async {
        while !left.is_back_at(baseline) {
            sleep(SAMPLE).await;
            left = ProcessResources::of(serve).await;
        }
    };
    let came = timeout(MAX_CLEANUP_TIME, leaving).await;
    assert!(came.is_ok(), "{left:?} is left after {MAX_CLEANUP_TIME:?}, {baseline:?} was there");
    println!("back at {left:?}");
}

/// Makes as many changes as the event log holds, so that it does not grow further. A watch runs meanwhile, because encoded bytes are
/// kept with the events.
async fn fill(serve: &ServerProcess) {
    let (over, is_over) = watch::channel(false);
    let watching = tokio::spawn(watch_repeatedly(serve.address().parse().unwrap(), Seed(0).random(0), is_over));
    let mut filling = JoinSet::new();
    for number in 0..FILLERS {
        let client = serve.client().await;
        filling.spawn(async move {
            let (service, id) = (format!("f{number}"), "i".to_owned());
            for count in 0..MAX_HISTORY_EVENTS / FILLERS {
                let tags = vec![format!("v{count}")];
                client.register(RegisterRequest { tags, ..instance(&service, &id) }).await.unwrap();
            }
            client.deregister(&service, &id, &bytes::Bytes::new()).await.unwrap();
        });
    }
    filling.join_all().await;
    over.send_replace(true);
    within("the watch leaves", watching).await.unwrap();
    let forgetting = async {
        while serve.metric("callboard_leases").await > 0.0 {
            sleep(SAMPLE).await;
        }
    };
    timeout(MAX_CLEANUP_TIME, forgetting).await.expect("nothing is remembered");
}

/// Resident memory, once a second.
async fn sample(serve: &ServerProcess, lasts: Duration) -> Vec<Sample> {
    let (from, mut samples) = (wall(), Vec::new());
    let until = from + u64::try_from(lasts.as_millis()).unwrap();
    while wall() < until {
        let seconds = Duration::from_millis(wall() - from).as_secs_f64();
        samples.push((seconds, f64::from(u32::try_from(serve.resident()).unwrap())));
        if samples.len().is_multiple_of(60) {
            let revision = serve.metric("callboard_revision").await;
            println!(
                "{seconds:.0} s: {} KiB, revision {revision}, {:?}",
                serve.resident(),
                ProcessResources::of(serve).await
            );
        }
        sleep(SAMPLE).await;
    }
    samples
}

/// Asserts that memory does not grow in the second half of the run. In the first half, buffers grow to their size.
fn assert_no_growth(samples: &[Sample], lasts: Duration) {
    let settled = &samples[samples.len() / 2..];
    let slope = slope(settled);
    let grown = slope * lasts.as_secs_f64() / 2.0;
    println!(
        "memory from {:.0} to {:.0} KiB in the second half of {lasts:?}: {:.3} MiB/h",
        settled[0].1,
        settled[settled.len() - 1].1,
        slope * 3_600.0 / 1_024.0
    );
    if lasts > DEFAULT_LENGTH {
        assert!(grown < MAX_GROWTH_KIB, "memory grew by {grown:.0} KiB in {:?}", lasts / 2);
    }
}

/// Returns the growth by least squares, in KiB per second.
fn slope(samples: &[Sample]) -> f64 {
    let count = f64::from(u32::try_from(samples.len()).unwrap());
    let mean = |of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let spread: f64 = samples.iter().map(|sample| (sample.0 - x).powi(2)).sum();
    samples.iter().map(|sample| (sample.0 - x) * (sample.1 - y)).sum::<f64>() / spread
}

/// Registers and deregisters instances in services, some of which are not used again.
async fn write(client: TestClient, number: u64, mut random: Random, over: Over) {
    let mut there = Vec::new();
    for count in 0_u64.. {
        if *over.borrow() {
            break;
        }
        let service = if random.one_in(2) { format!("w{number}") } else { format!("w{number}-{}", count / 100) };
        let id = format!("i{}", random.below(50));
        let tags = vec![format!("v{count}")];
        let request = RegisterRequest { tags, ..instance(&service, &id) };
        client.register(request).await.unwrap();
        there.push((service, id));
        if there.len() > 100 {
            let (service, id) = there.swap_remove(usize::try_from(random.below(100)).unwrap());
            // The list may name it twice.
            let _ = client.deregister(&service, &id, &bytes::Bytes::new()).await;
        }
        sleep(random.millis(2, 20)).await;
    }
    for (service, id) in there {
        let _ = client.deregister(&service, &id, &bytes::Bytes::new()).await;
    }
}

/// Opens one watch after the other.
async fn watch_repeatedly(endpoint: Endpoint, mut random: Random, over: Over) {
    while !*over.borrow() {
        let mut watch = Watch::new(&endpoint, WatchRequest { everything: true, ..WatchRequest::default() });
        let lasts = random.millis(100, 5_000);
        let listening = async {
            loop {
                watch.next().await.unwrap();
            }
        };
        let Err(_over) = timeout(lasts, listening).await;
    }
}

/// Registers, and ends each registration by a deregistration or by dropping the handle.
async fn register_and_end(endpoint: Endpoint, number: u64, mut random: Random, over: Over) {
    for round in 0_u64.. {
        if *over.borrow() {
            return;
        }
        let boot_id = format!("boot-{number}-{round}");
        let request = RegisterRequest {
            boot_id,
            replace: true,
            ttl: seconds(2.0),
            ..instance(&format!("r{}", number / 2), &format!("i{number}"))
        };
        let registration = Registration::start(&endpoint, request, |_| {}).unwrap();
        sleep(random.millis(100, 8_000)).await;
        if random.one_in(2) {
            registration.deregister().await;
        }
    }
}

/// Starts programs and kills them.
async fn kill_programs(server: String, number: u64, mut random: Random, over: Over) {
    let (service, id) = (format!("p{number}"), format!("i{number}"));
    while !*over.borrow() {
        let place = ["register", &service, "127.0.0.1:9001", "--id", &id, "--replace"];
        let child = Child::start(&[&place[..], &["--ttl", "1s", "--server", &server]].concat());
        sleep(random.millis(500, 8_000)).await;
        child.kill().await;
    }
}

/// Resets the connections every few seconds.
async fn reset_connections(proxy: Proxy, mut random: Random, over: Over) {
    while !*over.borrow() {
        sleep(random.millis(500, 5_000)).await;
        proxy.reset();
    }
}
