//! Peers that mean harm, one kind after the other, beside honest ones: whoever heartbeats stays and hardly notices, and soon after
//! nothing is left of it.

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
const TTL: f64 = 3.0;
/// The time between two heartbeats of an instance.
const PACE: Duration = Duration::from_millis(20);
/// How long it is watched before, and while it lasts, in milliseconds.
const CALM: u64 = 1_500;
const RAGE: u64 = 3_000;
/// How many threads attack.
const ATTACKERS: usize = 2;
/// By when nothing is left of an attack, in milliseconds.
const RECOVERY: u64 = 5_000;
/// What the slowest hundredth of heartbeats may take at worst, in microseconds: well within what a lease allows.
const SLOWEST: u128 = 1_000_000;
/// How much memory an attack may take, in KiB.
const GROWTH: u64 = 128 * 1024;

#[expect(clippy::disallowed_methods, reason = "a round trip is measured from outside")]
fn now() -> Instant {
    Instant::now()
}

/// Honest instances, on a thread of their own: so that what is measured is the server and not this process.
async fn honest(server: SocketAddr, leases: Vec<Bytes>, millis: u64) -> Vec<u128> {
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
    let mut beats = HeartbeatStream::open(&TestClient::connect(server).await).await;
    let (mut pace, mut times, until) = (interval(PACE), Vec::new(), wall() + millis);
    while wall() < until {
        pace.tick().await;
        let start = now();
        let (states, _) = beats.beat(&[&lease]).await.unwrap();
        assert_eq!(states, [LeaseState::Held]);
        times.push(start.elapsed().as_micros());
    }
    times
}

fn p99(times: &[u128]) -> u128 {
    times[times.len() * 99 / 100]
}

/// What a server has open.
async fn open(serve: &ServerProcess) -> (f64, f64) {
    (serve.metric("callboard_open_connections").await, serve.metric("callboard_open_streams").await)
}

/// What came of an attack.
struct Outcome {
    before: u128,
    /// While another registry on this machine suffers it: one that has nobody to protect, and so takes more of the machine.
    beside: u128,
    during: u128,
    /// KiB.
    grew: u64,
    /// Of one core, in percent.
    cpu: u128,
    /// Milliseconds until nothing was left of it.
    recovered: u64,
}

/// Attacks a server for as long as something is watched.
async fn under_attack<T>(target: Target, attack: &'static Attack, watched: impl Future<Output = T>) -> T {
    let over = Arc::new(AtomicBool::new(false));
    let attackers: Vec<_> = (0..ATTACKERS)
        .map(|_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || attack.rage(target, &over))
        })
        .collect();
    let seen = watched.await;
    over.store(true, Ordering::Relaxed);
    tokio::task::spawn_blocking(move || attackers.into_iter().for_each(|attacker| attacker.join().unwrap()))
        .await
        .unwrap();
    seen
}

async fn suffer(serve: &ServerProcess, other: &ServerProcess, leases: &[Bytes], attack: &'static Attack) -> Outcome {
    let target = |serve: &ServerProcess| Target { grpc: serve.grpc, http: serve.http };
    let watch = |millis| honest(serve.grpc, leases.to_vec(), millis);
    let before = p99(&watch(CALM).await);
    let beside = p99(&under_attack(target(other), attack, watch(CALM)).await);
    let (level, resident, cpu) = (open(serve).await, serve.resident(), serve.cpu());
    let watched = async {
        let times = watch(RAGE).await;
        (times, serve.cpu().saturating_sub(cpu), serve.resident().saturating_sub(resident), wall())
    };
    let (times, cpu, grew, ended) = under_attack(target(serve), attack, watched).await;
    let mut pace = interval(Duration::from_millis(20));
    while wall() < ended + 2 * RECOVERY {
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
        cpu: cpu.as_millis() * 100 / u128::from(RAGE),
        recovered: wall() - ended,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "two minutes: just abuse"]
async fn honest_peers_hardly_notice_those_who_mean_harm() {
    let serve = ServerProcess::start(&["--handshake-timeout", "2s"]).await;
    // What attackers and attacked cost everybody else on this machine is no doing of the registry that is measured.
    let other = ServerProcess::start(&["--handshake-timeout", "2s"]).await;
    let peer = serve.peer().await;
    let mut leases = Vec::new();
    for number in 0..HONEST {
        let request = RegisterRequest { ttl: seconds(TTL), ..instance("honest", &format!("i{number}")) };
        leases.push(peer.register(request).await.unwrap().lease_id);
    }
    // They live on between two measurements as well.
    let keeping = tokio::spawn(keep(peer.clone(), leases.clone()));
    println!(
        "{:54} {:>10} {:>10} {:>10} {:>6} {:>9} {:>6} {:>10}",
        "attack", "p99 alone", "beside it", "under it", "ratio", "grew", "CPU", "recovered"
    );
    let mut wrong = Vec::new();
    for attack in ATTACKS {
        let Outcome { before, beside, during, grew, cpu, recovered } = suffer(&serve, &other, &leases, attack).await;
        println!(
            "{:54} {before:>7} µs {beside:>7} µs {during:>7} µs {:>5.1}x {grew:>5} KiB {cpu:>4} % {recovered:>7} ms",
            attack.name,
            // Figures of microseconds: what is lost is nothing.
            f64::from(u32::try_from(during).unwrap()) / f64::from(u32::try_from(before.max(beside)).unwrap())
        );
        for (bad, what) in [
            (during > SLOWEST, "heartbeats are slow"),
            (grew > GROWTH, "memory grows"),
            (recovered > RECOVERY, "it lasts"),
        ] {
            if bad {
                wrong.push(format!("{}: {what}", attack.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    keeping.abort();
    let events = peer.events().await;
    assert!(
        events.iter().all(|event| event.kind() == EventKind::Registered),
        "nobody was removed or suspected: {events:?}"
    );
    let mut reader = Reader::synced(&peer, &["honest"]).await;
    peer.register(instance("honest", "later")).await.unwrap();
    reader.until("a change, after all that", |view| view.set.len() > HONEST).await;
    assert!(metric(serve.http, "callboard_expired_instances_total").await < 1.0);
}

/// Heartbeats at their usual pace.
async fn keep(peer: TestClient, leases: Vec<Bytes>) {
    let mut beats = HeartbeatStream::open(&peer).await;
    let mut pace = interval(Duration::from_secs_f64(TTL / 6.0));
    loop {
        pace.tick().await;
        beats.beat(&leases.iter().collect::<Vec<_>>()).await.unwrap();
    }
}
