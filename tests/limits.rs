//! Limits on connections and streams, and what is still served at a limit.

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

/// Reads the first frames of a connection. Returns code and text of its GOAWAY; `None`: it was admitted.
async fn rejection(raw: &mut Raw) -> Option<(u32, String)> {
    // SETTINGS come first in any case. An admitted connection then gets the acknowledgement of its own.
    let settings = within("SETTINGS", Frame::read(&mut raw.0)).await.expect("SETTINGS");
    assert_eq!(settings.kind, SETTINGS);
    let next = within("a frame", Frame::read(&mut raw.0)).await.expect("a second frame");
    next.go_away().map(|(last, code, reason)| {
        assert_eq!(last, 0, "no call was processed");
        (code, reason)
    })
}

/// Opens connections until one is rejected. Returns the admitted ones, with code and text of the rejection.
async fn open_connections(server: &TestServer) -> (Vec<Raw>, (u32, String)) {
    let mut open = Vec::new();
    loop {
        let mut raw = Raw::saying(server.grpc(), PREFACE).await;
        match rejection(&mut raw).await {
            None => open.push(raw),
            Some(rejection) => {
                assert!(raw.hear_the_end().await.is_empty());
                return (open, rejection);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_over_a_limit_is_rejected_until_others_close() {
    for (config, number, reason) in [
        (|config: &mut Config| config.max_connections = Some(limit(64)), 56, "max_connections"),
        (|config| config.max_connections_per_address = Some(limit(5)), 5, "max_connections_per_address"),
    ] as [(fn(&mut Config), usize, &str); 2]
    {
        let server = TestServer::with(config);
        let (open, (code, text)) = open_connections(&server).await;
        assert_eq!((open.len(), code), (number, ENHANCE_YOUR_CALM), "{reason}");
        assert!(text.contains(&reason.replace('_', "-")), "{text}");
        // Connections are reserved for HTTP.
        if reason == "max_connections" {
            assert_eq!(get(server.http(), "/healthz").await.0, 200);
        }
        drop(open);
        no_connections(server.http()).await;
        let refused = format!("callboard_rejected_connections_total{{reason=\"{reason}\"}}");
        metric_becomes(server.http(), &refused, |number| number >= 1.0).await;
        server.client().await.register(instance("web", "a")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_connection_over_the_limit_gets_the_reason() {
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
        let server = TestServer::with(config);
        let mut open = Vec::new();
        for _ in 0..number {
            let mut raw = Raw::saying(server.http(), b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            assert!(raw.hears_something().await);
            open.push(raw);
        }
        // A request in two pieces, and one longer than what is read: both are answered, and not reset.
        let long =
            format!("PUT /v1/agent/service/register HTTP/1.1\r\nContent-Length: 200000\r\n\r\n{}", "x".repeat(200_000));
        for request in ["GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &long] {
            let mut raw = Raw::connect(server.http()).await;
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
        metric_becomes(server.http(), &refused, |number| number >= 2.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_connections_get_the_reason_up_to_a_number_at_a_time() {
    let server = TestServer::with(|config| config.max_connections_per_address = Some(limit(1)));
    let mut open = Raw::saying(server.grpc(), PREFACE).await;
    assert!(within("SETTINGS", Frame::read(&mut open.0)).await.is_some());
    // They send nothing, so each keeps its permit for seconds.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(Raw::connect(server.grpc()).await);
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
async fn loopback_is_exempt_from_the_default_limit_per_address() {
    let server = TestServer::open();
    let mut open = Vec::new();
    for _ in 0..250 {
        let mut raw = Raw::saying(server.grpc(), PREFACE).await;
        assert!(raw.hears_something().await);
        open.push(raw);
    }
}

async fn watch(client: &TestClient) -> Result<Streaming<WatchResponse>, Status> {
    let request = WatchRequest { services: vec!["web".to_owned()], ..WatchRequest::default() };
    within("Watch", client.discovery.clone().watch(request)).await.map(tonic::Response::into_inner)
}

fn assert_rejected(status: &Status, flag: &str) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains(flag), "{status}");
    let details = status.get_error_details();
    assert!(details.retry_info().unwrap().retry_delay.is_some(), "{status}");
    assert_eq!(details.error_info().unwrap().reason, "TOO_MANY_STREAMS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_are_accepted_when_watches_and_lists_are_rejected() {
    for (config, flag) in [
        (|config: &mut Config| config.max_streams = limit(20), "--max-streams"),
        (|config| config.max_streams_per_address = Some(limit(20)), "--max-streams-per-address"),
    ] as [(fn(&mut Config), &str); 2]
    {
        let server = TestServer::with(config);
        let (client, other) = (server.client().await, server.client().await);
        let mut watches = Vec::new();
        let refused = loop {
            match watch(&client).await {
                Ok(watch) => watches.push(watch),
                Err(status) => break status,
            }
        };
        assert_eq!(watches.len(), 18, "nine tenths");
        assert_rejected(&refused, flag);
        let request = ListInstancesRequest { service: "web".to_owned(), ..ListInstancesRequest::default() };
        assert_rejected(&other.discovery.clone().list_instances(request).await.unwrap_err(), flag);

        let lease = other.register(instance("web", "a")).await.unwrap().lease_id;
        let mut heartbeats = HeartbeatStream::open(&other).await;
        heartbeats.beat(&[&lease]).await.unwrap();
        other.health.clone().check(HealthCheckRequest::default()).await.unwrap();
        other.deregister("web", "a", &lease).await.unwrap();
        // Those have a limit as well.
        let mut more = Vec::new();
        while let Ok(stream) = other.registry.clone().keep_alive(tokio_stream::pending()).await {
            more.push(stream);
            assert!(more.len() < 20);
        }
        metric_becomes(server.http(), "callboard_rejected_streams_total", |number| number >= 3.0).await;
        drop((watches, more));
        metric_becomes(server.http(), "callboard_watches", |open| open < 1.0).await;
        watch(&client).await.unwrap();
    }
}
