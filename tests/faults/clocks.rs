//! Jumps of the clocks. The wall clock is for display, so its jumps move no lease and no revision. A jump of the monotonic clock is a
//! pause of the machine, which ends no lease.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use callboard::{
    clock::Clock,
    model::UnixMillis,
    pb::callboard::v1::{LeaseState, RegisterRequest},
};
use tokio::time::{advance, sleep};

use crate::harness::{HeartbeatStream, InMemory, Reader, Seed, StepLog, TestClient, instance, seconds};

const TTL: u64 = 3_000;
/// Maximum time from the end of a TTL to the removal, in milliseconds.
const MAX_REMOVAL_MS: u64 = 1_000;
/// 22 November 2026 in Unix milliseconds.
const TODAY: u64 = 1_795_305_600_000;
const DAY: u64 = 86_400_000;

static WALL: AtomicU64 = AtomicU64::new(TODAY);

async fn register(client: &TestClient, id: &str) -> (Bytes, u64) {
    let request = RegisterRequest { ttl: seconds(3.0), ..instance("web", id) };
    let answer = client.register(request).await.unwrap();
    (answer.lease_id, answer.revision)
}

/// Waits until all instances are removed. Returns the time in milliseconds.
async fn until_gone(server: &InMemory, reader: &mut Reader) -> u64 {
    let from = server.now();
    reader.until("gone", |view| view.set.is_empty()).await;
    server.now() - from
}

#[tokio::test(start_paused = true)]
async fn jump_of_the_wall_clock_changes_only_displayed_times() {
    let server = InMemory::with_clock(Clock::with_wall(0, || UnixMillis(WALL.load(Ordering::Relaxed))));
    let client = server.client().await;
    let mut reader = Reader::synced(&client, &["web"]).await;
    let (lease, mut newest) = register(&client, "a").await;
    let mut heartbeats = HeartbeatStream::open(&client).await;
    for wall in [TODAY + DAY, TODAY - 3_650 * DAY, DAY, TODAY] {
        WALL.store(wall, Ordering::Relaxed);
        sleep(Duration::from_millis(TTL - 200)).await;
        assert_eq!(heartbeats.beat(&[&lease]).await.unwrap().0, [LeaseState::Held]);
        let (other, revision) = register(&client, "b").await;
        assert!(revision > newest, "revisions rise");
        newest = client.deregister("web", "b", &other).await.unwrap().unwrap();
        let shown = client.events().await.last().unwrap().time.unwrap();
        let shown = u64::try_from(shown.seconds * 1_000).unwrap();
        assert!(shown.abs_diff(wall) <= TTL + 1_000, "{shown} is shown, and it is {wall}");
    }
    reader.until("the last that was done", |view| view.revision >= newest).await;
    assert!(reader.view.get("web", "a").is_some() && reader.view.resets == 0);
    heartbeats.beat(&[&lease]).await.unwrap();
    let lived = until_gone(&server, &mut reader).await;
    assert!(lived > TTL && lived <= TTL + MAX_REMOVAL_MS, "lived for {lived} ms");
}

#[tokio::test(start_paused = true)]
async fn jump_of_the_monotonic_clock_ends_no_lease() {
    let (seed, steps) = (Seed::from_environment(), StepLog::default());
    let mut random = seed.random(0);
    let server = InMemory::open();
    let client = server.client().await;
    let mut reader = Reader::synced(&client, &["web"]).await;
    let (lease, _) = register(&client, "a").await;
    for _ in 0..20 {
        let jump = random.millis(1_100, 60_000);
        steps.note(format!("jumps by {jump:?}"));
        advance(jump).await;
        // Connections may have been given up meanwhile, as on a machine that was suspended.
        let client = server.client().await;
        let (states, _) = HeartbeatStream::open(&client).await.beat(&[&lease]).await.unwrap();
        assert_eq!(states, [LeaseState::Held]);
        // Time passes between the jumps.
        sleep(random.millis(100, TTL - 500)).await;
    }
    let client = server.client().await;
    reader.move_to(&client);
    reader.reopen().await.unwrap();
    // After the last jump, clients may still have time to return. After that the instance may have expired, and registers anew.
    sleep(Duration::from_secs(7)).await;
    let (lease, revision) = register(&client, "a").await;
    HeartbeatStream::open(&client).await.beat(&[&lease]).await.unwrap();
    reader.until("there", |view| view.revision >= revision && !view.set.is_empty()).await;
    let lived = until_gone(&server, &mut reader).await;
    assert!(lived > TTL && lived <= TTL + MAX_REMOVAL_MS, "lived for {lived} ms");
}
