//! Clients that never accept, reject everything, subscribe and unsubscribe in a loop, or send a request without an end.

use std::time::Duration;

use callboard::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use tokio::{task::JoinHandle, time::interval};

use super::super::{
    ads_client::{AdsClient, BOTH, Delta, Eds},
    register, set_weight,
};
use crate::harness::{
    PREFACE, Raw, ServerProcess, Stalls, TestClient, wall,
    wire::{DATA, END_HEADERS, HEADERS, call_headers, put},
    within,
};

/// Time for which a flood lasts.
const FLOOD: Duration = Duration::from_secs(4);
/// Longest delay of a change to a client that behaves, in milliseconds. A client that waits for the end of a flood waits longer.
const MAX_DELAY_MS: u64 = 3_000;
/// Growth of the server in a flood, in KiB.
const MAX_GROWTH_KIB: u64 = 48 * 1024;

/// Changes a service during a flood. Returns the longest delay until a client that behaves has a change, in milliseconds.
async fn longest_delay(client: &TestClient, service: &str) -> u64 {
    let mut ads = AdsClient::open(client, Delta).await;
    ads.subscribe(Eds, &[service]);
    ads.accepted(Eds).await;
    register(client, service, 1).await;
    ads.accepted(Eds).await;
    let (mut pace, mut longest, mut weight) = (interval(Duration::from_millis(50)), 0, 1);
    let until = wall() + u64::try_from(FLOOD.as_millis()).unwrap();
    while wall() < until {
        pace.tick().await;
        weight += 1;
        let start = wall();
        set_weight(client, service, 1, weight).await;
        ads.accepted(Eds).await;
        longest = longest.max(wall() - start);
    }
    longest
}

/// Measures a server while these tasks flood it. They end with the server.
async fn assert_bystander_is_served(serve: &ServerProcess, floods: Vec<JoinHandle<()>>) {
    let stalls = Stalls::of_this_machine();
    let client = serve.client().await;
    // Buffers of the first requests.
    longest_delay_of_one(&client).await;
    let (start, before) = (wall(), serve.resident());
    let longest = longest_delay(&client, "bystander").await;
    let grew = serve.resident().saturating_sub(before);
    println!("grew by {grew} KiB; changes took up to {longest} ms");
    assert!(longest <= MAX_DELAY_MS + stalls.since(start), "a change took {longest} ms");
    assert!(grew <= MAX_GROWTH_KIB, "the server grew by {grew} KiB");
    for flood in floods {
        assert!(!flood.is_finished(), "the flood lasts");
        flood.abort();
    }
}

async fn longest_delay_of_one(client: &TestClient) {
    register(client, "first", 1).await;
    let mut ads = AdsClient::open(client, Delta).await;
    ads.subscribe(Eds, &["first"]);
    ads.accepted(Eds).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_accept_take_no_memory_for_changes() {
    let serve = ServerProcess::start(&["--settle", "0"]).await;
    let client = serve.client().await;
    register(&client, "a", 1).await;
    let mut open = Vec::new();
    for protocol in BOTH {
        for _ in 0..50 {
            let mut ads = AdsClient::open(&client, protocol).await;
            ads.subscribe(Eds, &["a"]);
            ads.next(Eds).await;
            open.push(ads);
        }
    }
    let before = serve.resident();
    for weight in 2..3_000 {
        set_weight(&client, "a", 1, weight).await;
    }
    let grew = serve.resident().saturating_sub(before);
    assert!(grew <= MAX_GROWTH_KIB, "the server grew by {grew} KiB");
    let responses = serve.metric("callboard_xds_responses_total").await;
    assert!(responses <= 100.0, "{responses} responses to 100 streams");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_subscribes_and_unsubscribes_in_a_loop_delays_no_other() {
    let serve = ServerProcess::start(&["--settle", "0"]).await;
    let mut floods = Vec::new();
    for _ in 0..2 {
        let client = serve.client().await;
        floods.push(tokio::spawn(async move {
            let names: Vec<_> = (0..500).map(|number| format!("s{number}")).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let mut ads = AdsClient::open(&client, Delta).await;
            loop {
                for _ in 0..10 {
                    ads.subscribe(Eds, &names);
                    ads.unsubscribe(Eds, &names);
                }
                // A request with another name is answered after all of these.
                ads.subscribe(Eds, &["last"]);
                while !ads.message().await.unwrap().names().ends_with("last") && ads.message().await.is_ok() {}
                ads.unsubscribe(Eds, &["last"]);
            }
        }));
    }
    assert_bystander_is_served(&serve, floods).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_rejects_everything_in_a_loop_delays_no_other() {
    let serve = ServerProcess::start(&["--settle", "0"]).await;
    let mut floods = Vec::new();
    for protocol in BOTH {
        let client = serve.client().await;
        floods.push(tokio::spawn(async move {
            let text = "no ".repeat(1_000);
            let mut ads = AdsClient::open(&client, protocol).await;
            loop {
                ads.subscribe(Eds, &["a", "b"]);
                let response = ads.message().await.unwrap();
                ads.reject(&response, &text);
                ads.unsubscribe(Eds, &["a", "b"]);
            }
        }));
    }
    assert_bystander_is_served(&serve, floods).await;
}

/// A message that is declared with 4 MiB and sent byte by byte holds only what has arrived.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_end_take_little_memory() {
    let serve = ServerProcess::start(&["--settle", "0"]).await;
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
    let mut endless = PREFACE.to_vec();
    for stream in 0..10 {
        put(&mut endless, HEADERS, END_HEADERS, 2 * stream + 1, &call_headers(path));
        put(&mut endless, DATA, 0, 2 * stream + 1, &[&[0, 0, 0x40, 0, 0][..], &[0x0a, 0xff, 0xff, 0xff, 1]].concat());
    }
    let before = serve.resident();
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(Raw::saying(serve.grpc, &endless).await);
    }
    within("all streams", async { while serve.metric("callboard_xds_streams").await < 200.0 {} }).await;
    let client = serve.client().await;
    assert!(longest_delay(&client, "bystander").await <= MAX_DELAY_MS);
    let grew = serve.resident().saturating_sub(before);
    assert!(grew <= MAX_GROWTH_KIB, "200 requests took {grew} KiB");
    drop(open);
}

/// Versions of an earlier stream that are sent again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_sent_again_and_again_take_no_memory() {
    let serve = ServerProcess::start(&["--settle", "0"]).await;
    let client = serve.client().await;
    let mut ads = AdsClient::open(&client, Delta).await;
    let url = super::super::ads_client::Cds.url();
    ads.subscribe(super::super::ads_client::Cds, &[]);
    ads.accepted(super::super::ads_client::Cds).await;
    let before = serve.resident();
    for round in 0..100 {
        let version = |number| (format!("r{round}-s{number}"), "1".to_owned());
        let initial_resource_versions = (0..5_000).map(version).collect();
        let type_url = url.to_owned();
        ads.send_delta(DeltaDiscoveryRequest { type_url, initial_resource_versions, ..Default::default() });
    }
    ads.subscribe(Eds, &["last"]);
    ads.accepted(Eds).await;
    let grew = serve.resident().saturating_sub(before);
    assert!(grew <= MAX_GROWTH_KIB, "the server grew by {grew} KiB");
}
