//! How many connections and streams there may be, and who is still served when there are as many.

use std::{num::NonZeroU32, time::Duration};

use callboard::{
    config::Config,
    pb::callboard::v1::{ListInstancesRequest, WatchRequest, WatchResponse},
};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_types::StatusExt;

use tokio::io::AsyncReadExt;

use crate::harness::{
    HeartbeatStream, PREFACE, Raw, TestClient, TestServer, get, instance, metric_becomes, no_connections,
    wire::{ENHANCE_YOUR_CALM, Frame, SETTINGS},
    within,
};

fn limit(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

/// What a connection is told before anything else: nothing, if it is let in.
async fn told(raw: &mut Raw) -> Option<(u32, String)> {
    // SETTINGS come first in any case; whoever is let in hears that its own have come.
    let settings = within("SETTINGS", Frame::read(&mut raw.0)).await.expect("SETTINGS");
    assert_eq!(settings.kind, SETTINGS);
    let next = within("a frame", Frame::read(&mut raw.0)).await.expect("a second frame");
    next.go_away().map(|(last, code, reason)| {
        assert_eq!(last, 0, "no call was taken");
        (code, reason)
    })
}

/// Connections that have shaken hands, until one is not let in; and what that one is told.
async fn connections(house: &TestServer) -> (Vec<Raw>, (u32, String)) {
    let mut open = Vec::new();
    loop {
        let mut raw = Raw::saying(house.grpc(), PREFACE).await;
        match told(&mut raw).await {
            None => open.push(raw),
            Some(refusal) => {
                assert!(raw.hear_the_end().await.is_empty());
                return (open, refusal);
            }
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
        let house = TestServer::with(config);
        let (open, (code, told)) = connections(&house).await;
        assert_eq!((open.len(), code), (number, ENHANCE_YOUR_CALM), "{reason}");
        assert!(told.contains(&reason.replace('_', "-")), "{told}");
        // HTTP keeps a connection to itself when all are taken.
        if reason == "max_connections" {
            assert_eq!(get(house.http(), "/healthz").await.0, 200);
        }
        drop(open);
        no_connections(house.http()).await;
        let refused = format!("callboard_rejected_connections_total{{reason=\"{reason}\"}}");
        metric_becomes(house.http(), &refused, |number| number >= 1.0).await;
        house.peer().await.register(instance("web", "a")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_connection_over_the_limit_is_told_why() {
    for (config, number, status, flag) in [
        (
            |config: &mut Config| config.max_connections_per_address = Some(limit(3)),
            3,
            "429 Too Many Requests",
            "--max-connections-per-address",
        ),
        (|config| config.max_connections = Some(limit(8)), 6, "503 Service Unavailable", "--max-connections"),
    ] as [(fn(&mut Config), usize, &str, &str); 2]
    {
        let house = TestServer::with(config);
        let mut open = Vec::new();
        for _ in 0..number {
            let mut raw = Raw::saying(house.http(), b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            assert!(raw.hears_something().await);
            open.push(raw);
        }
        // In one piece, in two, and more than is looked at: it is answered all the same, and not reset.
        let long =
            format!("PUT /v1/agent/service/register HTTP/1.1\r\nContent-Length: 200000\r\n\r\n{}", "x".repeat(200_000));
        for request in ["GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &long] {
            let mut raw = Raw::connect(house.http()).await;
            let (head, rest) = request.as_bytes().split_at(10);
            raw.say(head).await;
            raw.say(rest).await;
            let mut answer = String::new();
            within("the answer and its end", raw.0.read_to_string(&mut answer)).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
            assert!(
                answer.contains("\r\nConnection: close\r\n") && answer.contains("\r\nRetry-After: 1\r\n"),
                "{answer}"
            );
            assert!(answer.contains(flag), "{answer}");
        }
        drop(open);
        let refused = format!("callboard_rejected_connections_total{{reason=\"{}\"}}", &flag[2..].replace('-', "_"));
        metric_becomes(house.http(), &refused, |number| number >= 2.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connections_are_told_only_as_many_at_once_as_cost_little() {
    let house = TestServer::with(|config| config.max_connections_per_address = Some(limit(1)));
    let mut open = Raw::saying(house.grpc(), PREFACE).await;
    assert!(within("SETTINGS", Frame::read(&mut open.0)).await.is_some());
    // They say nothing, so each holds what it is given for seconds.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(Raw::connect(house.grpc()).await);
    }
    let mut closed = 0;
    for raw in &mut silent {
        closed += usize::from(!raw.stays_open(Duration::from_millis(5)).await);
    }
    assert!((136..=200).contains(&closed), "{closed} were closed at once");
    for raw in &mut silent {
        raw.hear_the_end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_machine_may_have_more_connections_than_others_unless_told() {
    let house = TestServer::open();
    let mut open = Vec::new();
    for _ in 0..250 {
        let mut raw = Raw::saying(house.grpc(), PREFACE).await;
        assert!(raw.hears_something().await);
        open.push(raw);
    }
}

async fn watch(peer: &TestClient) -> Result<Streaming<WatchResponse>, Status> {
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
        let house = TestServer::with(config);
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
        let mut beats = HeartbeatStream::open(&other).await;
        beats.beat(&[&lease]).await.unwrap();
        other.health.clone().check(HealthCheckRequest::default()).await.unwrap();
        other.deregister("web", "a", &lease).await.unwrap();
        // Even those have an end.
        let mut more = Vec::new();
        while let Ok(stream) = other.registry.clone().keep_alive(tokio_stream::pending()).await {
            more.push(stream);
            assert!(more.len() < 20);
        }
        metric_becomes(house.http(), "callboard_rejected_streams_total", |number| number >= 3.0).await;
        drop((watches, more));
        metric_becomes(house.http(), "callboard_watches", |open| open < 1.0).await;
        watch(&peer).await.unwrap();
    }
}
