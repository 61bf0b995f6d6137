//! How many connections and streams there may be, and who is still served when there are as many.

use std::num::NonZeroU32;

use callboard::{
    config::Config,
    pb::callboard::v1::{ListInstancesRequest, WatchRequest, WatchResponse},
};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_types::StatusExt;

use crate::harness::{Beats, House, PREFACE, Peer, Raw, get, instance, metric_becomes, no_connections, within};

fn limit(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

/// Connections that have shaken hands, until one is not let in.
async fn connections(house: &House) -> Vec<Raw> {
    let mut open = Vec::new();
    loop {
        let mut raw = Raw::saying(house.grpc(), PREFACE).await;
        // Its SETTINGS, or the end.
        if raw.hears_something().await {
            open.push(raw);
        } else {
            return open;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_limited_and_room_comes_back() {
    for (config, number, reason) in [
        (|config: &mut Config| config.max_connections = Some(limit(64)), 56, "max_connections"),
        (|config| config.max_connections_per_address = Some(limit(5)), 5, "max_connections_per_address"),
    ] as [(fn(&mut Config), usize, &str); 2]
    {
        let house = House::with(config);
        let open = connections(&house).await;
        assert_eq!(open.len(), number, "{reason}");
        // HTTP keeps a connection to itself when all are taken.
        if reason == "max_connections" {
            assert_eq!(get(house.http(), "/healthz").await.0, 200);
        }
        drop(open);
        no_connections(house.http()).await;
        let refused = format!("callboard_refused_connections_total{{reason=\"{reason}\"}}");
        metric_becomes(house.http(), &refused, |number| number >= 1.0).await;
        house.peer().await.register(instance("web", "a")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_machine_may_have_more_connections_than_others_unless_told() {
    let house = House::open();
    let mut open = Vec::new();
    for _ in 0..250 {
        let mut raw = Raw::saying(house.grpc(), PREFACE).await;
        assert!(raw.hears_something().await);
        open.push(raw);
    }
}

async fn watch(peer: &Peer) -> Result<Streaming<WatchResponse>, Status> {
    let request = WatchRequest { services: vec!["web".to_owned()], ..WatchRequest::default() };
    within("Watch", peer.discovery.clone().watch(request)).await.map(tonic::Response::into_inner)
}

fn assert_no_room(status: &Status, flag: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains(flag), "{status}");
    let details = status.get_error_details();
    assert!(details.retry_info().unwrap().retry_delay.is_some(), "{status}");
    assert_eq!(details.error_info().unwrap().reason, "TOO_MANY_STREAMS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_are_taken_when_watches_and_lists_are_not() {
    for (config, flag) in [
        (|config: &mut Config| config.max_streams = limit(20), "--max-streams"),
        (|config| config.max_streams_per_address = Some(limit(20)), "--max-streams-per-address"),
    ] as [(fn(&mut Config), &str); 2]
    {
        let house = House::with(config);
        let (peer, other) = (house.peer().await, house.peer().await);
        let mut watches = Vec::new();
        let refused = loop {
            match watch(&peer).await {
                Ok(watch) => watches.push(watch),
                Err(status) => break status,
            }
        };
        assert_eq!(watches.len(), 18, "nine tenths");
        assert_no_room(&refused, flag);
        let request = ListInstancesRequest { service: "web".to_owned(), ..ListInstancesRequest::default() };
        assert_no_room(&other.discovery.clone().list_instances(request).await.unwrap_err(), flag);

        let lease = other.register(instance("web", "a")).await.unwrap().lease_id;
        let mut beats = Beats::open(&other).await;
        beats.beat(&[&lease]).await.unwrap();
        other.health.clone().check(HealthCheckRequest::default()).await.unwrap();
        other.deregister("web", "a", &lease).await.unwrap();
        // Even those have an end.
        let mut more = Vec::new();
        while let Ok(stream) = other.registry.clone().keep_alive(tokio_stream::pending()).await {
            more.push(stream);
            assert!(more.len() < 20);
        }
        metric_becomes(house.http(), "callboard_refused_streams_total", |number| number >= 3.0).await;
        drop((watches, more));
        metric_becomes(house.http(), "callboard_watches", |open| open < 1.0).await;
        watch(&peer).await.unwrap();
    }
}
