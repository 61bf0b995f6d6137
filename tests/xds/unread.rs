//! Clients that do not read what they subscribed to: `BoundedSlow` for xDS streams.

use std::time::Duration;

use tokio::task::JoinSet;

use super::{
    ads_client::{AdsClient, BOTH, Delta, Eds},
    at, register, set_weight,
};
use crate::{
    harness::{ServerProcess, Stalls, TestClient, wall, within},
    invariant::bounded_slow::{self, Stall},
};

const CONNECTIONS: usize = 5;
/// Streams of each protocol on each connection.
const STREAMS: usize = 10;
/// Instances of the service. A response has 10 KiB.
const INSTANCES: u8 = 250;
/// Changes that no stalled stream takes. Kept for each of the streams, they would take 1 GiB.
const CHANGES: u32 = 1_000;
/// Memory that the streams may take, in KiB.
const MAX_GROWTH_KIB: u64 = 64 * 1024;

/// Opens streams of clients that have no window for a response. Each ends with the time at which it was evicted.
async fn open_stalled(serve: &ServerProcess) -> JoinSet<u64> {
    let mut stalled = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let closed = TestClient::connect_with(serve.grpc, |endpoint| endpoint.initial_stream_window_size(0)).await;
        for protocol in BOTH {
            for _ in 0..STREAMS {
                let mut ads = AdsClient::open(&closed, protocol).await;
                ads.subscribe(Eds, &["web"]);
                stalled.spawn(async move {
                    ads.message().await.expect_err("there is no window for a response");
                    wall()
                });
            }
        }
    }
    stalled
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_streams_are_evicted_in_time_with_bounded_memory() {
    let stalls = Stalls::of_this_machine();
    let serve = ServerProcess::start(&["--settle", "0"]).await;
    let client = serve.client().await;
    for number in 0..INSTANCES {
        client.register(at("web", number)).await.unwrap();
    }
    let mut reader = AdsClient::open(&client, Delta).await;
    reader.subscribe(Eds, &["web"]);
    reader.accepted(Eds).await;
    let mut stalled = open_stalled(&serve).await;
    let total = stalled.len();
    let (began, before) = (wall(), serve.resident());
    let mut changes = 0;
    // A slow disk makes fewer in the time.
    while changes < CHANGES && wall() < began + 10_000 {
        changes += 1;
        set_weight(&client, "web", 7, 1 + changes).await;
        reader.accepted(Eds).await;
    }
    let grew = serve.resident().saturating_sub(before);
    let (mut delays, mut evicted, mut weight) = (Vec::new(), Vec::new(), CHANGES);
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    while !stalled.is_empty() && wall() < began + 36_000 + stalls.since(began) {
        tokio::select! {
            Some(ended) = stalled.join_next() => evicted.push(Some(ended.unwrap())),
            _ = pace.tick() => {
                weight += 1;
                let start = wall();
                set_weight(&client, "web", 7, 1 + weight).await;
                reader.accepted(Eds).await;
                delays.push(wall() - start);
            }
        }
    }
    evicted.resize(total, None);
    println!(
        "grew by {grew} KiB after {changes} changes, {} delays of up to {:?} ms",
        delays.len(),
        delays.iter().max()
    );
    assert!(delays.len() > 50, "changes went on meanwhile");
    let excused = stalls.since(began);
    bounded_slow::check(&Stall { began, cut_off: evicted, delays, grew, may_grow: MAX_GROWTH_KIB, excused }).unwrap();
    within("only the reader is left", async { while serve.metric("callboard_xds_streams").await > 1.0 {} }).await;
    register(&client, "web", 251).await;
    reader.accepted(Eds).await;
}
