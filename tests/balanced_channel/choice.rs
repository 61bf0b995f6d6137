//! Choice of the instance: methods, weights, zones, filters.

use std::{collections::HashMap, time::Duration};

use callboard::client::{BalancedChannel, BalancingMethod};

use super::{
    backend::{Backend, BackendSettings, call},
    connected, discovery,
    load::{Load, Outcomes},
};
use crate::harness::{TestServer, within};

/// Makes calls one after the other.
async fn calls(channel: &BalancedChannel, count: u32) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for _ in 0..count {
        let id = within("a call", call(channel)).await.unwrap();
        *outcomes.by_instance.entry(id).or_default() += 1;
    }
    outcomes
}

async fn weighted(server: &TestServer, id: &str, weight: u32) -> Backend {
    let settings = BackendSettings { weight: Some(weight), ..BackendSettings::default() };
    Backend::start_with(&server.grpc(), id, settings).await
}

async fn in_zone(server: &TestServer, id: &str, zone: &'static str) -> Backend {
    let settings = BackendSettings { zone, ..BackendSettings::default() };
    Backend::start_with(&server.grpc(), id, settings).await
}

#[tokio::test]
async fn calls_follow_the_weights_unless_the_program_wants_none() {
    let server = TestServer::open();
    let _backends = (weighted(&server, "a", 3).await, weighted(&server, "b", 1).await);
    let channel = discovery(&server).channel("echo");
    connected(&channel, 2).await;
    let outcomes = calls(&channel, 400).await;
    assert!((299..=301).contains(&outcomes.of("a")), "{outcomes:?}");
    let channel = discovery(&server).builder("echo").method(BalancingMethod::RoundRobin).open();
    connected(&channel, 2).await;
    let outcomes = calls(&channel, 400).await;
    assert_eq!(outcomes.of("a"), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_instance_gets_fewer_calls_by_load_and_by_response_time() {
    let server = TestServer::open();
    let mut backends = Vec::new();
    for id in ["a", "b", "c", "d"] {
        backends.push(Backend::start(&server.grpc(), id).await);
        backends.last().unwrap().set_delay(Duration::from_millis(4));
    }
    backends[0].set_delay(Duration::from_millis(80));
    let (rr, lr, ewma) = (BalancingMethod::RoundRobin, BalancingMethod::LeastRequest, BalancingMethod::PeakEwma);
    for (method, share) in [(rr, 0.2..0.3), (lr, 0.0..0.2), (ewma, 0.0..0.1)] {
        let channel = discovery(&server).builder("echo").method(method).open();
        connected(&channel, 4).await;
        let load = Load::start(16, move || {
            let channel = channel.clone();
            async move { call(&channel).await }
        });
        load.more(800).await;
        let outcomes = load.stop().await;
        assert!(outcomes.failures.is_empty(), "{outcomes:?}");
        #[expect(clippy::cast_precision_loss, reason = "some hundred calls")]
        let slow = outcomes.of("a") as f64 / outcomes.calls() as f64;
        assert!(share.contains(&slow), "{method:?}: {outcomes:?}");
    }
}

#[tokio::test]
async fn zone_is_preferred_while_it_has_two_instances() {
    let server = TestServer::open();
    let near = [in_zone(&server, "near-1", "eu-1").await, in_zone(&server, "near-2", "eu-1").await];
    let _far = (in_zone(&server, "far-1", "eu-2").await, in_zone(&server, "far-2", "eu-2").await);
    let channel = discovery(&server).with_zone("", "eu-1").builder("echo").prefer_zone(true).open();
    connected(&channel, 4).await;
    let outcomes = calls(&channel, 100).await;
    assert_eq!((outcomes.of("near-1") + outcomes.of("near-2"), outcomes.calls()), (100, 100));
    assert_eq!(channel.status().local_share, Some(1.0));
    let [first, second] = near;
    first.shut_down().await;
    within("the removal", channel.wait_for(|channel| channel.instances().len() == 3)).await.unwrap();
    let outcomes = calls(&channel, 90).await;
    assert!((28..=32).contains(&outcomes.of("near-2")), "one instance is too few for a preference: {outcomes:?}");
    let _first = in_zone(&server, "near-3", "eu-1").await;
    connected(&channel, 4).await;
    let outcomes = calls(&channel, 100).await;
    assert_eq!(outcomes.of("near-2") + outcomes.of("near-3"), 100, "{outcomes:?}");
    drop(second);
}

#[tokio::test]
async fn filter_selects_the_instances() {
    let server = TestServer::open();
    let version = |version: &str| BackendSettings {
        metadata: HashMap::from([("version".to_owned(), version.to_owned())]),
        ..BackendSettings::default()
    };
    let _one = Backend::start_with(&server.grpc(), "one", version("1")).await;
    let _two = Backend::start_with(&server.grpc(), "two", version("2")).await;
    let channel = discovery(&server).builder("echo").filter("metadata.version == 2").open();
    let outcomes = calls(&channel, 20).await;
    assert_eq!(outcomes.of("two"), 20);
    assert_eq!(channel.instances().len(), 1);
}

#[tokio::test]
async fn number_of_connections_is_bounded() {
    let server = TestServer::open();
    let mut backends = Vec::new();
    for id in ["a", "b", "c", "d", "e"] {
        backends.push(Backend::start(&server.grpc(), id).await);
    }
    let channel = discovery(&server).builder("echo").max_connections(2).open();
    connected(&channel, 2).await;
    let outcomes = calls(&channel, 50).await;
    assert_eq!(outcomes.by_instance.len(), 2, "{outcomes:?}");
    let connections: u64 = backends.iter().map(Backend::connections).sum();
    assert_eq!(connections, 2);
}
