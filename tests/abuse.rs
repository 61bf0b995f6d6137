//! Attacks, one kind after the other, beside honest clients: heartbeats are accepted and hardly slower, and soon after an attack all its resources are free.

mod attack;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use callboard::pb::callboard::v1::{EventKind, LeaseState, RegisterRequest};
use tokio::{task::JoinSet, time::interval};

use crate::harness::{HeartbeatStream, Reader, ServerProcess, TestClient, instance, metric, seconds, wall};
use attack::{ATTACKS, Attack, Target};

/// Honest instances, each on a connection of its own, with leases that a few lost heartbeats would end.
const HONEST: usize = 8;
const TTL: f64 = 6.0;
/// The time between two heartbeats of an instance.
const PACE: Duration = Duration::from_millis(20);
/// Milliseconds of measurement before and during an attack.
const CALM: u64 = 1_500;
const ATTACK: u64 = 3_000;
/// Number of threads that attack.
const ATTACKERS: usize = 2;
/// Milliseconds after which the resources of an attack are free.
const MAX_RECOVERY_MS: u64 = 10_000;
/// Largest 99th percentile of the heartbeats' round trips, in microseconds: well within a lease.
const MAX_P99_US: u128 = 2_000_000;
/// Memory that an attack may take, in KiB.
const MAX_GROWTH_KIB: u64 = 128 * 1024;

#[expect(clippy::disallowed_methods, reason = "a round trip is measured from outside")]
fn now() -> Instant {
    Instant::now()
}

/// Measures the heartbeats of honest instances, on a thread of their own, so that the server is measured and not this process.
async fn measure_heartbeats(server: SocketAddr, leases: Vec<Bytes>, millis: u64) -> Vec<u128> {
    let measuring = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut beating = JoinSet::new();
            for lease in leases {
                beating.spawn(beat(server, lease, millis));
            }
            beating.join_all().await.concat()
        })
    });
    let mut times = measuring.await.unwrap();
    times.sort_unstable();
    times
}

async fn beat(server: SocketAddr, lease: Bytes, millis: u64) -> Vec<u128> {
    let mut heartbeats = HeartbeatStream::open(&TestClient::connect(server).await).await;
    let (mut pace, mut times, until) = (interval(PACE), Vec::new(), wall() + millis);
    while wall() < until {
        pace.tick().await;
        let start = now();
        let (states, _) = heartbeats.beat(&[&lease]).await.unwrap();
        assert_eq!(states, [LeaseState::Held]);
        times.push(start.elapsed().as_micros());
    }
    times
}

fn p99(times: &[u128]) -> u128 {
    times[times.len() * 99 / 100]
}

/// Reads the numbers of open connections and streams of a server.
async fn open(serve: &ServerProcess) -> (f64, f64) {
    (serve.metric("callboard_open_connections").await, serve.metric("callboard_open_streams").await)
}

/// Figures of an attack.
struct Outcome {
    before: u128,
    /// The same while another registry on this machine is attacked, which has no honest clients and so uses more of the machine.
    beside: u128,
    during: u128,
    /// KiB.
    grew: u64,
    /// Of one core, in percent.
    cpu: u128,
    /// Milliseconds until its resources were free.
    recovered: u64,
}

/// Attacks a server for as long as a measurement lasts.
async fn under_attack<T>(target: Target, attack: &'static Attack, measurement: impl Future<Output = T>) -> T {
    let over = Arc::new(AtomicBool::new(false));
    let attackers: Vec<_> = (0..ATTACKERS)
        .map(|_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || attack.run(target, &over))
        })
        .collect();
    let result = measurement.await;
    over.store(true, Ordering::Relaxed);
    tokio::task::spawn_blocking(move || attackers.into_iter().for_each(|attacker| attacker.join().unwrap()))
        .await
        .unwrap();
    result
}

async fn attack_and_measure(
    serve: &ServerProcess,
    other: &ServerProcess,
    leases: &[Bytes],
    attack: &'static Attack,
) -> Outcome {
    let target = |serve: &ServerProcess| Target { grpc: serve.grpc, http: serve.http };
    let measure = |millis| measure_heartbeats(serve.grpc, leases.to_vec(), millis);
    let before = p99(&measure(CALM).await);
    let beside = p99(&under_attack(target(other), attack, measure(CALM)).await);
    let (level, resident, cpu) = (open(serve).await, serve.resident(), serve.cpu());
    let measurement = async {
        let times = measure(ATTACK).await;
        (times, serve.cpu().saturating_sub(cpu), serve.resident().saturating_sub(resident), wall())
    };
    let (times, cpu, grew, ended) = under_attack(target(serve), attack, measurement).await;
    let mut pace = interval(Duration::from_millis(20));
    while wall() < ended + 2 * MAX_RECOVERY_MS {
        let now = open(serve).await;
        if now.0 <= level.0 + 1.0 && now.1 <= level.1 {
            break;
        }
        pace.tick().await;
    }
    Outcome {
        before,
        beside,
        during: p99(&times),
        grew,
        cpu: cpu.as_millis() * 100 / u128::from(ATTACK),
        recovered: wall() - ended,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "two minutes: just abuse"]
async fn heartbeats_under_attack_are_accepted_in_time() {
    let serve = ServerProcess::start(&["--handshake-timeout", "2s"]).await;
    // The cost of an attack for all others on this machine is not that of the measured registry.
    let other = ServerProcess::start(&["--handshake-timeout", "2s"]).await;
    let client = serve.client().await;
    let mut leases = Vec::new();
    for number in 0..HONEST {
        let request = RegisterRequest { ttl: seconds(TTL), ..instance("honest", &format!("i{number}")) };
        leases.push(client.register(request).await.unwrap().lease_id);
    }
    // Keeps the leases between two measurements.
    let keeping = tokio::spawn(keep(client.clone(), leases.clone()));
    println!(
        "{:54} {:>10} {:>10} {:>10} {:>6} {:>9} {:>6} {:>10}",
        "attack", "p99 alone", "beside it", "under it", "ratio", "grew", "CPU", "recovered"
    );
    let mut wrong = Vec::new();
    for attack in ATTACKS {
        let Outcome { before, beside, during, grew, cpu, recovered } =
            attack_and_measure(&serve, &other, &leases, attack).await;
        println!(
            "{:54} {before:>7} µs {beside:>7} µs {during:>7} µs {:>5.1}x {grew:>5} KiB {cpu:>4} % {recovered:>7} ms",
            attack.name,
            // The figures are microseconds: nothing is lost.
            f64::from(u32::try_from(during).unwrap()) / f64::from(u32::try_from(before.max(beside)).unwrap())
        );
        for (bad, what) in [
            (during > MAX_P99_US, "heartbeats are slow"),
            (grew > MAX_GROWTH_KIB, "memory grows"),
            (recovered > MAX_RECOVERY_MS, "resources stay in use"),
        ] {
            if bad {
                wrong.push(format!("{}: {what}", attack.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    keeping.abort();
    let events = client.events().await;
    assert!(
        events.iter().all(|event| event.kind() == EventKind::Registered),
        "an instance was removed or suspected: {events:?}"
    );
    let mut reader = Reader::synced(&client, &["honest"]).await;
    client.register(instance("honest", "later")).await.unwrap();
    reader.until("a change, after all that", |view| view.set.len() > HONEST).await;
    assert!(metric(serve.http, "callboard_expired_instances_total").await < 1.0);
}

/// Sends heartbeats at the usual interval.
async fn keep(client: TestClient, leases: Vec<Bytes>) {
    let mut heartbeats = HeartbeatStream::open(&client).await;
    let mut pace = interval(Duration::from_secs_f64(TTL / 6.0));
    loop {
        pace.tick().await;
        heartbeats.beat(&leases.iter().collect::<Vec<_>>()).await.unwrap();
    }
}
