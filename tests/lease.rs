//! Who stays and who goes, and when: over the gRPC door, with the clock in our hands.

use std::time::Duration;

use bytes::Bytes;
use callboard::pb::callboard::v1::{InstanceStatus, LeaseState, RegisterRequest};
use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{HeartbeatStream, InMemory, Reader, TestClient, View, instance, seconds};

/// What is promised beyond the time to live, in milliseconds.
const ALLOWED: u64 = 1_000;

fn with_ttl(id: &str, ttl: f64, grace: Option<f64>) -> RegisterRequest {
    let grace = grace.and_then(seconds);
    RegisterRequest { ttl: seconds(ttl), disconnect_grace: grace, ..instance("web", id) }
}

async fn lease(peer: &TestClient, request: RegisterRequest) -> Bytes {
    peer.register(request).await.unwrap().lease_id
}

/// Waits until somebody was there and nobody is left, and says when that was.
async fn gone(house: &InMemory, reader: &mut Reader) -> u64 {
    reader.until("there", |view| !view.set.is_empty()).await;
    reader.until("gone", |view| view.set.is_empty()).await;
    house.now()
}

fn assert_due(at: u64, since: u64, after: u64) {
    let lived = at - since;
    assert!(lived > after && lived <= after + ALLOWED, "lived for {lived} ms, and should have for {after}");
}

async fn beat(beats: &mut HeartbeatStream, lease: &Bytes) -> LeaseState {
    beats.beat(&[lease]).await.unwrap().0[0]
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_goes_after_its_time_and_at_most_a_second_later() {
    let house = InMemory::open();
    let peer = house.peer().await;
    let mut reader = Reader::synced(&peer, &["web"]).await;
    for ttl in [1_000, 1_234, 2_500, 15_000, 40_000] {
        let start = house.now();
        lease(&peer, with_ttl("a", Duration::from_millis(ttl).as_secs_f64(), None)).await;
        assert_due(gone(&house, &mut reader).await, start, ttl);
    }
}

#[tokio::test(start_paused = true)]
async fn each_heartbeat_gives_a_full_time_to_live() {
    let house = InMemory::open();
    let peer = house.peer().await;
    let mut reader = Reader::synced(&peer, &["web"]).await;
    let lease = lease(&peer, with_ttl("a", 2.0, None)).await;
    let mut beats = HeartbeatStream::open(&peer).await;
    for _ in 0..20 {
        sleep(Duration::from_millis(1_990)).await;
        assert_eq!(beat(&mut beats, &lease).await, LeaseState::Held);
    }
    let last = house.now();
    assert_due(gone(&house, &mut reader).await, last, 2_000);
    assert_eq!(beat(&mut beats, &lease).await, LeaseState::Unknown);
}

#[tokio::test(start_paused = true)]
async fn registering_again_is_a_sign_of_life() {
    let house = InMemory::open();
    let peer = house.peer().await;
    let mut reader = Reader::synced(&peer, &["web"]).await;
    let first = lease(&peer, with_ttl("a", 2.0, None)).await;
    for _ in 0..5 {
        sleep(Duration::from_millis(1_900)).await;
        assert_eq!(lease(&peer, with_ttl("a", 2.0, None)).await, first, "the same boot keeps its lease");
    }
    let last = house.now();
    assert_due(gone(&house, &mut reader).await, last, 2_000);
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_leaves_the_grace_where_one_was_asked_for() {
    let house = InMemory::open();
    let peer = house.peer().await;
    let mut reader = Reader::synced(&peer, &["web"]).await;
    for (grace, lives) in [(Some(0.7), 700), (Some(0.0), 0), (Some(99.0), 10_000), (None, 10_000)] {
        let lease = lease(&peer, with_ttl("a", 10.0, grace)).await;
        let mut beats = HeartbeatStream::open(&peer).await;
        assert_eq!(beat(&mut beats, &lease).await, LeaseState::Held);
        let broke = house.now();
        drop(beats);
        assert_due(gone(&house, &mut reader).await + u64::from(lives == 0), broke, lives);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_no_longer_carries_a_lease_may_break() {
    let house = InMemory::open();
    let (peer, other) = (house.peer().await, house.peer().await);
    let mut reader = Reader::synced(&peer, &["web"]).await;
    let lease = lease(&peer, with_ttl("a", 9.0, Some(1.0))).await;
    let (mut older, mut newer) = (HeartbeatStream::open(&peer).await, HeartbeatStream::open(&other).await);
    assert_eq!(beat(&mut older, &lease).await, LeaseState::Held);
    assert_eq!(beat(&mut newer, &lease).await, LeaseState::Held);
    drop(older);
    let last = house.now();
    sleep(Duration::from_secs(5)).await;
    assert!(peer.get("web", "a").await.is_some(), "a newer stream carries it");
    drop(newer);
    let broke = house.now();
    assert_due(gone(&house, &mut reader).await, broke, 1_000);
    assert_due(broke, last, 4_999);
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_on_another_stream_ends_the_grace() {
    let house = InMemory::open();
    let peer = house.peer().await;
    let lease = lease(&peer, with_ttl("a", 9.0, Some(2.0))).await;
    let mut first = HeartbeatStream::open(&peer).await;
    assert_eq!(beat(&mut first, &lease).await, LeaseState::Held);
    drop(first);
    sleep(Duration::from_millis(1_500)).await;
    let mut second = HeartbeatStream::open(&peer).await;
    assert_eq!(beat(&mut second, &lease).await, LeaseState::Held);
    sleep(Duration::from_millis(8_500)).await;
    assert_eq!(beat(&mut second, &lease).await, LeaseState::Held);
}

#[tokio::test(start_paused = true)]
async fn one_stream_and_one_message_carry_many_leases() {
    const MANY: usize = 1_000;
    let house = InMemory::open();
    let peer = house.peer().await;
    let mut leases = Vec::new();
    for number in 0..MANY {
        leases.push(lease(&peer, with_ttl(&format!("i{number}"), 3.0, None)).await);
    }
    let mut reader = Reader::synced(&peer, &["web"]).await;
    let mut beats = HeartbeatStream::open(&peer).await;
    let all: Vec<_> = leases.iter().collect();
    for _ in 0..10 {
        let (states, _) = beats.beat(&all).await.unwrap();
        assert!(states.iter().all(|state| *state == LeaseState::Held));
        sleep(Duration::from_millis(2_500)).await;
    }
    let (half, _) = all.split_at(MANY / 2);
    for _ in 0..3 {
        beats.beat(half).await.unwrap();
        sleep(Duration::from_millis(2_500)).await;
    }
    // A fifth at once is believed to be dead; half of them, or all, when an operator says so.
    let suspect = |view: &View| view.set.values().filter(|of| of.status() == InstanceStatus::Suspect).count();
    reader.until("half of them", |view| suspect(view) == MANY / 2).await;
    beats.beat(half).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(peer.reset_protection(Some("web")).await, 500);
    reader.until("half of them", |view| view.set.len() == MANY / 2).await;
    assert!(half.len() == MANY / 2 && reader.view.get("web", "i0").is_some());
    let last = house.now();
    reader.until("the others", |view| suspect(view) == MANY / 2).await;
    assert!(house.now() <= last + 3_000 + ALLOWED);
    assert_eq!(peer.reset_protection(None).await, 500);
    gone(&house, &mut reader).await;
    assert_eq!(house.leases(), 0, "nothing is remembered of who ran out");
}

async fn refused(peer: &TestClient, request: RegisterRequest) -> Status {
    peer.register(request).await.expect_err("another boot is alive")
}

#[tokio::test(start_paused = true)]
async fn another_boot_takes_over_once_a_heartbeat_is_missing() {
    let house = InMemory::open();
    let peer = house.peer().await;
    let first = lease(&peer, with_ttl("a", 6.0, None)).await;
    let other = RegisterRequest { boot_id: "other".to_owned(), ..with_ttl("a", 6.0, None) };
    let refusal = refused(&peer, other.clone()).await;
    assert_eq!(refusal.code(), Code::AlreadyExists);
    let retry = refusal.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(retry <= Duration::from_secs(3), "half of the time to live: {retry:?}");
    assert_eq!(refusal.get_details_resource_info().unwrap().resource_name, "web/a");
    sleep(retry).await;
    let second = lease(&peer, other).await;
    assert_ne!(second, first);
    let mut beats = HeartbeatStream::open(&peer).await;
    let (states, _) = beats.beat(&[&first, &second]).await.unwrap();
    assert_eq!(states, [LeaseState::Superseded, LeaseState::Held]);
    assert_eq!(peer.deregister("web", "a", &first).await.unwrap(), None, "a late goodbye");
    assert!(peer.get("web", "a").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn another_boot_takes_over_at_once_where_the_stream_broke_or_it_insists() {
    let house = InMemory::open();
    let peer = house.peer().await;
    let boot = |boot: &str| RegisterRequest { boot_id: boot.to_owned(), ..with_ttl("a", 60.0, None) };
    let first = lease(&peer, boot("first")).await;
    let mut beats = HeartbeatStream::open(&peer).await;
    assert_eq!(beat(&mut beats, &first).await, LeaseState::Held);
    assert_eq!(refused(&peer, boot("second")).await.code(), Code::AlreadyExists);
    drop(beats);
    // The registry hears of it with the next thing that the connection carries; no time passes.
    while peer.register(boot("second")).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(house.now() < 1_000);
    let insists = RegisterRequest { replace: true, ..boot("third") };
    let third = lease(&peer, insists).await;
    assert_eq!(refused(&peer, boot("second")).await.code(), Code::AlreadyExists);
    let mut beats = HeartbeatStream::open(&peer).await;
    assert_eq!(beat(&mut beats, &first).await, LeaseState::Superseded);
    assert_eq!(beat(&mut beats, &third).await, LeaseState::Held);
}

#[tokio::test(start_paused = true)]
async fn who_was_removed_by_an_operator_is_told_so() {
    let house = InMemory::open();
    let peer = house.peer().await;
    let lease = lease(&peer, with_ttl("a", 6.0, None)).await;
    assert!(peer.deregister("web", "a", &Bytes::new()).await.unwrap().is_some());
    let mut beats = HeartbeatStream::open(&peer).await;
    assert_eq!(beat(&mut beats, &lease).await, LeaseState::Removed);
    assert_eq!(house.leases(), 1);
    sleep(Duration::from_secs(62)).await;
    assert_eq!(house.leases(), 0, "not for ever");
    let mut beats = HeartbeatStream::open(&peer).await;
    assert_eq!(beat(&mut beats, &lease).await, LeaseState::Unknown);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_heartbeat_stream_ends() {
    let house = InMemory::open();
    let peer = house.peer().await;
    let mut silent = HeartbeatStream::open(&peer).await;
    assert_eq!(house.seats(), 1);
    let start = house.now();
    let status = silent.answers.message();
    let status = tokio::time::timeout(Duration::from_secs(100), status).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("send one every third"), "{status}");
    let after = house.now() - start;
    assert!((60_000..80_000).contains(&after), "{after}");
    assert_eq!(house.seats(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_carries_a_long_lease_may_be_silent_for_long() {
    let house = InMemory::open();
    let peer = house.peer().await;
    let lease = lease(&peer, with_ttl("a", 300.0, None)).await;
    let mut beats = HeartbeatStream::open(&peer).await;
    for _ in 0..4 {
        assert_eq!(beat(&mut beats, &lease).await, LeaseState::Held);
        sleep(Duration::from_secs(200)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_leaves_starts_no_grace() {
    let house = InMemory::open();
    let peer = house.peer().await;
    let lease = lease(&peer, with_ttl("a", 10.0, Some(0.5))).await;
    let mut beats = HeartbeatStream::open(&peer).await;
    assert_eq!(beat(&mut beats, &lease).await, LeaseState::Held);
    house.leave();
    while beats.answers.message().await.is_ok_and(|message| message.is_some()) {}
    assert_eq!(house.seats(), 0);
    sleep(Duration::from_secs(9)).await;
    assert_eq!(house.leases(), 1, "it did nothing wrong");
    sleep(Duration::from_millis(1_000 + ALLOWED)).await;
    assert_eq!(house.leases(), 0);
}

#[tokio::test(start_paused = true)]
async fn times_to_live_are_granted_within_bounds() {
    let house = InMemory::open();
    let peer = house.peer().await;
    for (asked, granted) in [(Some(0.0), 1), (Some(0.2), 1), (Some(7.0), 7), (Some(1e9), 86_400), (None, 15)] {
        let request = RegisterRequest { ttl: asked.and_then(seconds), replace: true, ..instance("web", "a") };
        let answer = peer.register(request).await.unwrap();
        assert_eq!(answer.ttl.unwrap().seconds, granted, "{asked:?}");
    }
}
