//! Leases over gRPC, with a paused clock: when instances are removed, and by what they are kept.

use std::time::Duration;

use bytes::Bytes;
use callboard::pb::callboard::v1::{InstanceStatus, LeaseState, RegisterRequest};
use tokio::time::sleep;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::harness::{HeartbeatStream, InMemory, Reader, TestClient, View, instance, seconds};

/// Maximum time from the end of the TTL to the removal, in milliseconds.
const MAX_DELAY_MS: u64 = 1_000;

fn with_ttl(id: &str, ttl: f64, grace: Option<f64>) -> RegisterRequest {
    let grace = grace.and_then(seconds);
    RegisterRequest { ttl: seconds(ttl), disconnect_grace: grace, ..instance("web", id) }
}

async fn lease(client: &TestClient, request: RegisterRequest) -> Bytes {
    client.register(request).await.unwrap().lease_id
}

/// Waits until the reader had an instance and has none, and returns that time.
async fn removed_at(server: &InMemory, reader: &mut Reader) -> u64 {
    reader.until("an instance", |view| !view.set.is_empty()).await;
    reader.until("its removal", |view| view.set.is_empty()).await;
    server.now()
}

fn assert_due(at: u64, since: u64, after: u64) {
    let lived = at - since;
    assert!(lived > after && lived <= after + MAX_DELAY_MS, "lived for {lived} ms, and should have for {after}");
}

async fn beat(beats: &mut HeartbeatStream, lease: &Bytes) -> LeaseState {
    beats.beat(&[lease]).await.unwrap().0[0]
}

#[tokio::test(start_paused = true)]
async fn silent_instance_is_removed_within_a_second_after_its_ttl() {
    let server = InMemory::open();
    let client = server.client().await;
    let mut reader = Reader::synced(&client, &["web"]).await;
    for ttl in [1_000, 1_234, 2_500, 15_000, 40_000] {
        let start = server.now();
        lease(&client, with_ttl("a", Duration::from_millis(ttl).as_secs_f64(), None)).await;
        assert_due(removed_at(&server, &mut reader).await, start, ttl);
    }
}

#[tokio::test(start_paused = true)]
async fn each_heartbeat_renews_for_a_full_ttl() {
    let server = InMemory::open();
    let client = server.client().await;
    let mut reader = Reader::synced(&client, &["web"]).await;
    let lease = lease(&client, with_ttl("a", 2.0, None)).await;
    let mut beats = HeartbeatStream::open(&client).await;
    for _ in 0..20 {
        sleep(Duration::from_millis(1_990)).await;
        assert_eq!(beat(&mut beats, &lease).await, LeaseState::Held);
    }
    let last = server.now();
    assert_due(removed_at(&server, &mut reader).await, last, 2_000);
    assert_eq!(beat(&mut beats, &lease).await, LeaseState::Unknown);
}

#[tokio::test(start_paused = true)]
async fn repeated_register_renews_the_lease() {
    let server = InMemory::open();
    let client = server.client().await;
    let mut reader = Reader::synced(&client, &["web"]).await;
    let first = lease(&client, with_ttl("a", 2.0, None)).await;
    for _ in 0..5 {
        sleep(Duration::from_millis(1_900)).await;
        assert_eq!(lease(&client, with_ttl("a", 2.0, None)).await, first, "the same boot keeps its lease");
    }
    let last = server.now();
    assert_due(removed_at(&server, &mut reader).await, last, 2_000);
}

#[tokio::test(start_paused = true)]
async fn broken_stream_leaves_the_disconnect_grace_if_there_is_one() {
    let server = InMemory::open();
    let client = server.client().await;
    let mut reader = Reader::synced(&client, &["web"]).await;
    for (grace, lives) in [(Some(0.7), 700), (Some(0.0), 0), (Some(99.0), 10_000), (None, 10_000)] {
        let lease = lease(&client, with_ttl("a", 10.0, grace)).await;
        let mut beats = HeartbeatStream::open(&client).await;
        assert_eq!(beat(&mut beats, &lease).await, LeaseState::Held);
        let broke = server.now();
        drop(beats);
        assert_due(removed_at(&server, &mut reader).await + u64::from(lives == 0), broke, lives);
    }
}

#[tokio::test(start_paused = true)]
async fn broken_stream_that_another_has_replaced_changes_nothing() {
    let server = InMemory::open();
    let (client, other) = (server.client().await, server.client().await);
    let mut reader = Reader::synced(&client, &["web"]).await;
    let lease = lease(&client, with_ttl("a", 9.0, Some(1.0))).await;
    let (mut older, mut newer) = (HeartbeatStream::open(&client).await, HeartbeatStream::open(&other).await);
    assert_eq!(beat(&mut older, &lease).await, LeaseState::Held);
    assert_eq!(beat(&mut newer, &lease).await, LeaseState::Held);
    drop(older);
    let last = server.now();
    sleep(Duration::from_secs(5)).await;
    assert!(client.get("web", "a").await.is_some(), "a newer stream has renewed it");
    drop(newer);
    let broke = server.now();
    assert_due(removed_at(&server, &mut reader).await, broke, 1_000);
    assert_due(broke, last, 4_999);
}

#[tokio::test(start_paused = true)]
async fn heartbeat_on_another_stream_ends_the_grace() {
    let server = InMemory::open();
    let client = server.client().await;
    let lease = lease(&client, with_ttl("a", 9.0, Some(2.0))).await;
    let mut first = HeartbeatStream::open(&client).await;
    assert_eq!(beat(&mut first, &lease).await, LeaseState::Held);
    drop(first);
    sleep(Duration::from_millis(1_500)).await;
    let mut second = HeartbeatStream::open(&client).await;
    assert_eq!(beat(&mut second, &lease).await, LeaseState::Held);
    sleep(Duration::from_millis(8_500)).await;
    assert_eq!(beat(&mut second, &lease).await, LeaseState::Held);
}

#[tokio::test(start_paused = true)]
async fn one_message_renews_many_leases() {
    const MANY: usize = 1_000;
    let server = InMemory::open();
    let client = server.client().await;
    let mut leases = Vec::new();
    for number in 0..MANY {
        leases.push(lease(&client, with_ttl(&format!("i{number}"), 3.0, None)).await);
    }
    let mut reader = Reader::synced(&client, &["web"]).await;
    let mut beats = HeartbeatStream::open(&client).await;
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
    // Half of them exceed the threshold of self-preservation, until an operator resets it.
    let suspect = |view: &View| view.set.values().filter(|of| of.status() == InstanceStatus::Suspect).count();
    reader.until("half of them", |view| suspect(view) == MANY / 2).await;
    beats.beat(half).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(client.reset_self_preservation(Some("web")).await, 500);
    reader.until("half of them", |view| view.set.len() == MANY / 2).await;
    assert!(half.len() == MANY / 2 && reader.view.get("web", "i0").is_some());
    let last = server.now();
    reader.until("the other half", |view| suspect(view) == MANY / 2).await;
    assert!(server.now() <= last + 3_000 + MAX_DELAY_MS);
    assert_eq!(client.reset_self_preservation(None).await, 500);
    removed_at(&server, &mut reader).await;
    assert_eq!(server.leases(), 0, "nothing is remembered of expired leases");
}

async fn rejected(client: &TestClient, request: RegisterRequest) -> Status {
    client.register(request).await.expect_err("another boot is alive")
}

#[tokio::test(start_paused = true)]
async fn register_of_another_boot_takes_over_once_a_heartbeat_is_missing() {
    let server = InMemory::open();
    let client = server.client().await;
    let first = lease(&client, with_ttl("a", 6.0, None)).await;
    let other = RegisterRequest { boot_id: "other".to_owned(), ..with_ttl("a", 6.0, None) };
    let error = rejected(&client, other.clone()).await;
    assert_eq!(error.code(), Code::AlreadyExists);
    let retry = error.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(retry <= Duration::from_secs(3), "half of the TTL: {retry:?}");
    assert_eq!(error.get_details_resource_info().unwrap().resource_name, "web/a");
    sleep(retry).await;
    let second = lease(&client, other).await;
    assert_ne!(second, first);
    let mut beats = HeartbeatStream::open(&client).await;
    let (states, _) = beats.beat(&[&first, &second]).await.unwrap();
    assert_eq!(states, [LeaseState::Superseded, LeaseState::Held]);
    assert_eq!(client.deregister("web", "a", &first).await.unwrap(), None, "a late deregistration");
    assert!(client.get("web", "a").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn register_of_another_boot_takes_over_after_a_broken_stream_or_with_replace() {
    let server = InMemory::open();
    let client = server.client().await;
    let boot = |boot: &str| RegisterRequest { boot_id: boot.to_owned(), ..with_ttl("a", 60.0, None) };
    let first = lease(&client, boot("first")).await;
    let mut beats = HeartbeatStream::open(&client).await;
    assert_eq!(beat(&mut beats, &first).await, LeaseState::Held);
    assert_eq!(rejected(&client, boot("second")).await.code(), Code::AlreadyExists);
    drop(beats);
    // The server notices it with the next frame of the connection; no time passes.
    while client.register(boot("second")).await.is_err() {
        tokio::task::yield_now().await;
    }
    assert!(server.now() < 1_000);
    let with_replace = RegisterRequest { replace: true, ..boot("third") };
    let third = lease(&client, with_replace).await;
    assert_eq!(rejected(&client, boot("second")).await.code(), Code::AlreadyExists);
    let mut beats = HeartbeatStream::open(&client).await;
    assert_eq!(beat(&mut beats, &first).await, LeaseState::Superseded);
    assert_eq!(beat(&mut beats, &third).await, LeaseState::Held);
}

#[tokio::test(start_paused = true)]
async fn heartbeat_for_instance_that_an_operator_removed_is_answered_with_removed() {
    let server = InMemory::open();
    let client = server.client().await;
    let lease = lease(&client, with_ttl("a", 6.0, None)).await;
    assert!(client.deregister("web", "a", &Bytes::new()).await.unwrap().is_some());
    let mut beats = HeartbeatStream::open(&client).await;
    assert_eq!(beat(&mut beats, &lease).await, LeaseState::Removed);
    assert_eq!(server.leases(), 1);
    sleep(Duration::from_secs(62)).await;
    assert_eq!(server.leases(), 0, "not for ever");
    let mut beats = HeartbeatStream::open(&client).await;
    assert_eq!(beat(&mut beats, &lease).await, LeaseState::Unknown);
}

#[tokio::test(start_paused = true)]
async fn heartbeat_stream_without_heartbeats_ends() {
    let server = InMemory::open();
    let client = server.client().await;
    let mut silent = HeartbeatStream::open(&client).await;
    assert_eq!(server.stream_count(), 1);
    let start = server.now();
    let status = silent.answers.message();
    let status = tokio::time::timeout(Duration::from_secs(100), status).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("send one every third"), "{status}");
    let after = server.now() - start;
    assert!((60_000..80_000).contains(&after), "{after}");
    assert_eq!(server.stream_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn heartbeat_stream_of_long_lease_may_be_silent_for_long() {
    let server = InMemory::open();
    let client = server.client().await;
    let lease = lease(&client, with_ttl("a", 300.0, None)).await;
    let mut beats = HeartbeatStream::open(&client).await;
    for _ in 0..4 {
        assert_eq!(beat(&mut beats, &lease).await, LeaseState::Held);
        sleep(Duration::from_secs(200)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_of_the_server_starts_no_grace() {
    let server = InMemory::open();
    let client = server.client().await;
    let lease = lease(&client, with_ttl("a", 10.0, Some(0.5))).await;
    let mut beats = HeartbeatStream::open(&client).await;
    assert_eq!(beat(&mut beats, &lease).await, LeaseState::Held);
    server.leave();
    while beats.answers.message().await.is_ok_and(|message| message.is_some()) {}
    assert_eq!(server.stream_count(), 0);
    sleep(Duration::from_secs(9)).await;
    assert_eq!(server.leases(), 1, "the client did not break the stream");
    sleep(Duration::from_millis(1_000 + MAX_DELAY_MS)).await;
    assert_eq!(server.leases(), 0);
}

#[tokio::test(start_paused = true)]
async fn ttl_is_granted_within_bounds() {
    let server = InMemory::open();
    let client = server.client().await;
    for (asked, granted) in [(Some(0.0), 1), (Some(0.2), 1), (Some(7.0), 7), (Some(1e9), 86_400), (None, 15)] {
        let request = RegisterRequest { ttl: asked.and_then(seconds), replace: true, ..instance("web", "a") };
        let answer = client.register(request).await.unwrap();
        assert_eq!(answer.ttl.unwrap().seconds, granted, "{asked:?}");
    }
}
