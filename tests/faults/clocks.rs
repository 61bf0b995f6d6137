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

async fn register(peer: &TestClient, id: &str) -> (Bytes, u64) {
    let request = RegisterRequest { ttl: seconds(3.0), ..instance("web", id) };
    let answer = peer.register(request).await.unwrap();
    (answer.lease_id, answer.revision)
}

/// Waits until all instances are removed. Returns the time in milliseconds.
async fn until_gone(house: &InMemory, reader: &mut Reader) -> u64 {
    let from = house.now();
    reader.until("gone", |view| view.set.is_empty()).await;
    house.now() - from
}

#[tokio::test(start_paused = true)]
async fn jump_of_the_wall_clock_changes_only_displayed_times() {
    let house = InMemory::with_clock(Clock::with_wall(0, || UnixMillis(WALL.load(Ordering::Relaxed))));
    let peer = house.peer().await;
    let mut reader = Reader::synced(&peer, &["web"]).await;
    let (lease, mut newest) = register(&peer, "a").await;
    let mut beats = HeartbeatStream::open(&peer).await;
    for wall in [TODAY + DAY, TODAY - 3_650 * DAY, DAY, TODAY] {
        WALL.store(wall, Ordering::Relaxed);
        sleep(Duration::from_millis(TTL - 200)).await;
        assert_eq!(beats.beat(&[&lease]).await.unwrap().0, [LeaseState::Held]);
        let (other, revision) = register(&peer, "b").await;
        assert!(revision > newest, "revisions rise");
        newest = peer.deregister("web", "b", &other).await.unwrap().unwrap();
        let shown = peer.events().await.last().unwrap().time.unwrap();
        let shown = u64::try_from(shown.seconds * 1_000).unwrap();
        assert!(shown.abs_diff(wall) <= TTL + 1_000, "{shown} is shown, and it is {wall}");
    }
    reader.until("the last that was done", |view| view.revision >= newest).await;
    assert!(reader.view.get("web", "a").is_some() && reader.view.resets == 0);
    beats.beat(&[&lease]).await.unwrap();
    let lived = until_gone(&house, &mut reader).await;
    assert!(lived > TTL && lived <= TTL + MAX_REMOVAL_MS, "lived for {lived} ms");
}

#[tokio::test(start_paused = true)]
async fn jump_of_the_monotonic_clock_ends_no_lease() {
    let (seed, diary) = (Seed::from_environment(), StepLog::default());
    let mut random = seed.random(0);
    let house = InMemory::open();
    let peer = house.peer().await;
    let mut reader = Reader::synced(&peer, &["web"]).await;
    let (lease, _) = register(&peer, "a").await;
    for _ in 0..20 {
        let jump = random.millis(1_100, 60_000);
        diary.note(format!("jumps by {jump:?}"));
        advance(jump).await;
        // Connections may have been given up meanwhile, as on a machine that was suspended.
        let peer = house.peer().await;
        let (states, _) = HeartbeatStream::open(&peer).await.beat(&[&lease]).await.unwrap();
        assert_eq!(states, [LeaseState::Held]);
        // Time goes on in between.
        sleep(random.millis(100, TTL - 500)).await;
    }
    let peer = house.peer().await;
    reader.move_to(&peer);
    reader.reopen().await.unwrap();
    // The last jump may still leave clients time to come back; after that it may be gone, and is another then.
    sleep(Duration::from_secs(7)).await;
    let (lease, revision) = register(&peer, "a").await;
    HeartbeatStream::open(&peer).await.beat(&[&lease]).await.unwrap();
    reader.until("there", |view| view.revision >= revision && !view.set.is_empty()).await;
    let lived = until_gone(&house, &mut reader).await;
    assert!(lived > TTL && lived <= TTL + MAX_REMOVAL_MS, "lived for {lived} ms");
}
