//! Watchers that answer pings and never open their windows.

use std::time::Duration;

use callboard::pb::callboard::v1::{RegisterRequest, UpdateInstanceRequest};
use tokio::task::JoinSet;

use crate::{
    harness::{Reader, ServerProcess, Stalls, TestClient, instance, seconds, wall},
    invariant::bounded_slow::{self, Stall},
};

const CONNECTIONS: usize = 10;
/// Watches on each of them.
const STREAMS: usize = 10;
/// Changes that no stalled watch takes. Kept for each of the watches they would take 170 MiB.
const CHANGES: u32 = 4_000;
const SIZE: usize = 450;
/// Memory that the changes may take, kept once for all watches, in KiB.
const MAX_GROWTH_KIB: u64 = 64 * 1024;

async fn change(client: &TestClient, weight: u32) -> u64 {
    let request = UpdateInstanceRequest {
        service: "web".to_owned(),
        id: "a".to_owned(),
        weight,
        ..UpdateInstanceRequest::default()
    };
    client.update(&["weight"], request).await.unwrap().revision
}

/// Makes a change. Returns the milliseconds until a reader has it.
async fn delay(client: &TestClient, reader: &mut Reader, weight: u32) -> u64 {
    let start = wall();
    let revision = change(client, weight).await;
    reader.until("the change", |view| view.revision >= revision).await;
    wall() - start
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_watches_are_evicted_in_time_with_bounded_memory() {
    let stalls = Stalls::of_this_machine();
    let serve = ServerProcess::start(&[]).await;
    let client = serve.client().await;
    let large = RegisterRequest {
        ttl: seconds(600.0),
        metadata: [("large".to_owned(), "x".repeat(SIZE))].into(),
        ..instance("web", "a")
    };
    client.register(large).await.unwrap();
    let mut stalled = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let closed = TestClient::connect_with(serve.grpc, |endpoint| endpoint.initial_stream_window_size(0)).await;
        for _ in 0..STREAMS {
            let mut reader = Reader::of(&closed, &["web"]).await;
            stalled.spawn(async move {
                reader.message().await.expect_err("there is no window for a message");
                wall()
            });
        }
    }
    let mut reader = Reader::synced(&client, &["web"]).await;
    let (began, before) = (wall(), serve.resident());
    let mut changes = 0;
    // A slow disk makes fewer in the time.
    while changes < CHANGES && wall() < began + 10_000 {
        change(&client, 1 + changes % 60_000).await;
        changes += 1;
    }
    let grew = serve.resident().saturating_sub(before);
    let (mut delays, mut evicted, mut weight) = (Vec::new(), Vec::new(), CHANGES);
    // A little longer than they may stay open.
    while !stalled.is_empty() && wall() < began + 35_000 + stalls.since(began) {
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        pace.tick().await;
        tokio::select! {
            Some(ended) = stalled.join_next() => evicted.push(Some(ended.unwrap())),
            _ = pace.tick() => {
                weight += 1;
                delays.push(delay(&client, &mut reader, weight).await);
            }
        }
    }
    evicted.resize(CONNECTIONS * STREAMS, None);
    println!("grew by {grew} KiB, {} delays of up to {:?} ms", delays.len(), delays.iter().max());
    assert!(delays.len() > 50, "changes went on meanwhile");
    let excused = stalls.since(began);
    bounded_slow::check(&Stall { began, cut_off: evicted, delays, grew, may_grow: MAX_GROWTH_KIB, excused }).unwrap();
}
