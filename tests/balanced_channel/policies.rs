//! Policies that change while calls run: the channel follows them, unless the program overrides them.

use std::{collections::HashMap, time::Duration};

use callboard::client::{BalancedChannel, BalancingMethod};
use serde_json::json;
use tonic::Code;

use super::{
    backend::{Backend, BackendSettings, call},
    connected, discovery,
    load::Load,
};
use crate::{
    harness::{TestClient, TestServer, within},
    policy::set,
};

/// Sets the policy of the service, and waits until the channel has it.
async fn follow(client: &TestClient, channel: &BalancedChannel, policy: &serde_json::Value) {
    let revision = set(client, "echo", policy).await;
    let arrived = channel.wait_for(|channel| channel.status().policy_revision == revision);
    within("the policy", arrived).await.unwrap();
}

async fn version(server: &TestServer, id: &str, version: &str) -> Backend {
    let metadata = HashMap::from([("version".to_owned(), version.to_owned())]);
    Backend::start_with(&server.grpc(), id, BackendSettings { metadata, ..BackendSettings::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn method_follows_the_policy_without_a_failed_call() {
    let server = TestServer::open();
    let client = server.client().await;
    let (a, b) = (Backend::start(&server.grpc(), "a").await, Backend::start(&server.grpc(), "b").await);
    a.set_delay(Duration::from_millis(40));
    let channel = discovery(&server).channel("echo");
    let fixed = discovery(&server).builder("echo").method(BalancingMethod::PeakEwma).open();
    connected(&channel, 2).await;
    let load = Load::start(8, {
        let channel = channel.clone();
        move || {
            let channel = channel.clone();
            async move { call(&channel).await }
        }
    });
    load.more(100).await;
    assert_eq!(channel.status().method, Some(BalancingMethod::WeightedRoundRobin));
    let even = load.take();
    for (lb, method) in [
        ("least_request", BalancingMethod::LeastRequest),
        ("round_robin", BalancingMethod::WeightedRoundRobin),
        ("least_request", BalancingMethod::LeastRequest),
    ] {
        follow(&client, &channel, &json!({ "lb": lb })).await;
        assert_eq!(channel.status().method, Some(method));
        load.more(50).await;
    }
    let _before = load.take();
    load.more(200).await;
    let outcomes = load.stop().await;
    assert!(outcomes.failures.is_empty() && even.failures.is_empty(), "{outcomes:?}");
    assert!(even.of("a").abs_diff(even.of("b")) <= 8, "{even:?}");
    assert!(outcomes.of("a") * 3 < outcomes.of("b"), "{outcomes:?}");
    assert_eq!(fixed.status().method, Some(BalancingMethod::PeakEwma), "the program's method holds");
    assert_eq!((a.connections(), b.connections()), (2, 2), "a change of policy costs no connection");
}

#[tokio::test]
async fn timeout_follows_the_policy() {
    let server = TestServer::open();
    let client = server.client().await;
    let backend = Backend::start(&server.grpc(), "a").await;
    backend.set_delay(Duration::from_mins(1));
    let channel = discovery(&server).channel("echo");
    connected(&channel, 1).await;
    follow(&client, &channel, &json!({ "timeout": "200ms" })).await;
    assert_eq!(channel.status().timeout, Some(Duration::from_millis(200)));
    let status = within("a call", call(&channel)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn zone_follows_the_policy() {
    let server = TestServer::open();
    let client = server.client().await;
    let mut backends = Vec::new();
    for (id, zone) in [("near-1", "eu-1"), ("near-2", "eu-1"), ("far-1", "eu-2"), ("far-2", "eu-2")] {
        let settings = BackendSettings { zone, ..BackendSettings::default() };
        backends.push(Backend::start_with(&server.grpc(), id, settings).await);
    }
    let channel = discovery(&server).with_zone("", "eu-1").channel("echo");
    connected(&channel, 4).await;
    assert_eq!(channel.status().local_share, None);
    follow(&client, &channel, &json!({ "zone": "prefer" })).await;
    for _ in 0..50 {
        let id = within("a call", call(&channel)).await.unwrap();
        assert!(id.starts_with("near"), "{id}");
    }
    follow(&client, &channel, &json!({ "zone": "off" })).await;
    assert_eq!(channel.status().local_share, None);
    let far: usize = backends[2..].iter().map(|backend| usize::try_from(backend.calls()).unwrap()).sum();
    assert_eq!(far, 0);
    for _ in 0..8 {
        within("a call", call(&channel)).await.unwrap();
    }
    assert!(backends[2..].iter().any(|backend| backend.calls() > 0));
}

#[tokio::test]
async fn subset_of_the_policy_selects_the_instances() {
    let server = TestServer::open();
    let client = server.client().await;
    let (one, two) = (version(&server, "one", "1").await, version(&server, "two", "2").await);
    let subsets = |v2: &str| json!({ "subsets": { "v2": format!("metadata[\"version\"] == \"{v2}\"") } });
    set(&client, "echo", &subsets("2")).await;
    let channel = discovery(&server).builder("echo").subset("v2").open();
    for _ in 0..20 {
        assert_eq!(within("a call", call(&channel)).await.unwrap(), "two");
    }
    assert_eq!((one.calls(), two.calls()), (0, 20));
    // A new definition of the subset selects others, without a new channel.
    set(&client, "echo", &subsets("1")).await;
    let moved = |channel: &BalancedChannel| channel.instances().iter().all(|instance| instance.instance.id == "one");
    within("the new subset", channel.wait_for(|channel| moved(channel) && !channel.instances().is_empty()))
        .await
        .unwrap();
    assert_eq!(within("a call", call(&channel)).await.unwrap(), "one");
}
