//! Shutdown with thousands of open streams, and a start on a port that is taken.

use std::{sync::Arc, time::Duration};

use callboard::{
    config::Config,
    pb::callboard::v1::{Notice, WatchResponse, watch_response::Message},
    server::Server,
};
use tokio::{sync::Barrier, task::JoinSet};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_types::StatusExt;

use crate::harness::{HeartbeatStream, Reader, Stalls, TestClient, TestServer, instance, wall, within};

const CONNECTIONS: usize = 10;
/// Streams of each kind on each connection.
const STREAMS: usize = 100;
/// Longest shutdown, in milliseconds.
const MAX_SHUTDOWN_MS: u64 = 5_000;

fn assert_shutting_down(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let retry = status.get_details_retry_info().expect("a retry delay");
    assert!(retry.retry_delay.is_some_and(|delay| delay < Duration::from_secs(5)));
}

/// A watch that is synced before the barrier, and gets the notice and the end after it.
async fn watch(client: TestClient, ready: Arc<Barrier>) {
    let mut reader = Reader::synced(&client, &["web"]).await;
    ready.wait().await;
    let mut noticed = false;
    let end = within("the end", async {
        loop {
            match reader.message().await {
                Ok(WatchResponse { message: Some(Message::Notice(notice)) }) => {
                    noticed |= notice == i32::from(Notice::Reconnect);
                }
                Ok(other) => assert!(!noticed, "after the notice: {other:?}"),
                Err(status) => return status,
            }
        }
    });
    assert_shutting_down(&end.await);
    assert!(noticed, "it got RECONNECT before it ended");
}

async fn keep_alive(client: TestClient, ready: Arc<Barrier>) {
    let mut heartbeats = HeartbeatStream::open(&client).await;
    ready.wait().await;
    let answer = within("the notice", heartbeats.answers.message()).await.unwrap().unwrap();
    assert_eq!(answer.notice(), Notice::Reconnect);
    assert_shutting_down(&within("the end", heartbeats.answers.message()).await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_with_thousands_of_streams_notifies_and_ends_each_in_time() {
    let stalls = Stalls::of_this_machine();
    let registry = TestServer::open();
    registry.client().await.register(instance("web", "a")).await.unwrap();
    let ready = Arc::new(Barrier::new(CONNECTIONS * STREAMS * 2 + 1));
    let mut streams = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let client = registry.client().await;
        for _ in 0..STREAMS {
            streams.spawn(watch(client.clone(), Arc::clone(&ready)));
            streams.spawn(keep_alive(client.clone(), Arc::clone(&ready)));
        }
    }
    ready.wait().await;
    let start = wall();
    registry.leave().await;
    let took = wall() - start;
    within("all streams", streams.join_all()).await;
    let excused = stalls.since(start);
    assert!(
        took <= MAX_SHUTDOWN_MS + excused,
        "the shutdown took {took} ms, of which the machine stalled for {excused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_without_window_does_not_delay_shutdown() {
    let stalls = Stalls::of_this_machine();
    let registry = TestServer::open();
    let closed = TestClient::connect_with(registry.grpc(), |endpoint| endpoint.initial_stream_window_size(0)).await;
    let _takes_nothing = Reader::of(&closed, &["web"]).await;
    let start = wall();
    registry.leave().await;
    let (took, excused) = (wall() - start, stalls.since(start));
    assert!(
        took <= MAX_SHUTDOWN_MS + excused,
        "the shutdown took {took} ms, of which the machine stalled for {excused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_turns_not_serving_before_the_shutdown_ends() {
    let registry = TestServer::open();
    let client = registry.client().await;
    let mut client = client.health.clone();
    let mut health = within("Watch", client.watch(HealthCheckRequest::default())).await.unwrap().into_inner();
    let mut status = async || within("health", health.message()).await.map(|answer| answer.unwrap().status());
    assert_eq!(status().await.unwrap(), ServingStatus::Serving);
    let shutdown = tokio::spawn(registry.leave());
    assert_eq!(status().await.unwrap(), ServingStatus::NotServing);
    assert_shutting_down(&status().await.unwrap_err());
    within("the end", shutdown).await.unwrap();
}

#[tokio::test]
async fn start_on_a_taken_port_names_the_port_and_the_flag() {
    let registry = TestServer::open();
    let free = "127.0.0.1:0".parse().unwrap();
    for (grpc, http, flag) in [(registry.grpc(), free, "--grpc"), (free, registry.http(), "--http")] {
        let error =
            Server::start(&Config { grpc: Some(grpc), http: Some(http), ..Config::default() }).unwrap_err().to_string();
        let taken = if flag == "--grpc" { grpc } else { http };
        for part in [&*taken.to_string(), "the port is taken", flag] {
            assert!(error.contains(part), "{error}");
        }
    }
}
