//! A goodbye to thousands of streams, and a start that is not possible.

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
/// Of each kind, on each connection.
const STREAMS: usize = 100;
/// What is promised, in milliseconds.
const ALLOWED: u64 = 5_000;

fn assert_leaving(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let retry = status.get_details_retry_info().expect("it says when to come back");
    assert!(retry.retry_delay.is_some_and(|delay| delay < Duration::from_secs(5)));
}

/// A watch that is synced before the barrier and hears the goodbye after it.
async fn watch(peer: TestClient, ready: Arc<Barrier>) {
    let mut reader = Reader::synced(&peer, &["web"]).await;
    ready.wait().await;
    let mut noticed = false;
    let end = within("the goodbye", async {
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
    assert_leaving(&end.await);
    assert!(noticed, "it was told to reconnect before it was cut off");
}

async fn keep_alive(peer: TestClient, ready: Arc<Barrier>) {
    let mut beats = HeartbeatStream::open(&peer).await;
    ready.wait().await;
    let answer = within("the notice", beats.answers.message()).await.unwrap().unwrap();
    assert_eq!(answer.notice(), Notice::Reconnect);
    assert_leaving(&within("the goodbye", beats.answers.message()).await.unwrap_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_streams_are_told_and_ended_in_time() {
    let stalls = Stalls::of_this_machine();
    let house = TestServer::open();
    house.peer().await.register(instance("web", "a")).await.unwrap();
    let ready = Arc::new(Barrier::new(CONNECTIONS * STREAMS * 2 + 1));
    let mut streams = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let peer = house.peer().await;
        for _ in 0..STREAMS {
            streams.spawn(watch(peer.clone(), Arc::clone(&ready)));
            streams.spawn(keep_alive(peer.clone(), Arc::clone(&ready)));
        }
    }
    ready.wait().await;
    let start = wall();
    house.leave().await;
    let took = wall() - start;
    within("all streams", streams.join_all()).await;
    let excused = stalls.since(start);
    assert!(took <= ALLOWED + excused, "it took {took} ms to leave, {excused} of which were this machine's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_takes_nothing_does_not_hold_up_the_goodbye() {
    let stalls = Stalls::of_this_machine();
    let house = TestServer::open();
    let closed = TestClient::connect_with(house.grpc(), |endpoint| endpoint.initial_stream_window_size(0)).await;
    let _takes_nothing = Reader::of(&closed, &["web"]).await;
    let start = wall();
    house.leave().await;
    let (took, excused) = (wall() - start, stalls.since(start));
    assert!(took <= ALLOWED + excused, "it took {took} ms to leave, {excused} of which were this machine's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_so_before_the_end() {
    let house = TestServer::open();
    let peer = house.peer().await;
    let mut client = peer.health.clone();
    let mut health = within("Watch", client.watch(HealthCheckRequest::default())).await.unwrap().into_inner();
    let mut status = async || within("health", health.message()).await.map(|answer| answer.unwrap().status());
    assert_eq!(status().await.unwrap(), ServingStatus::Serving);
    let leaving = tokio::spawn(house.leave());
    assert_eq!(status().await.unwrap(), ServingStatus::NotServing);
    assert_leaving(&status().await.unwrap_err());
    within("the end", leaving).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_remedy() {
    let house = TestServer::open();
    let free = "127.0.0.1:0".parse().unwrap();
    for (grpc, http, flag) in [(house.grpc(), free, "--grpc"), (free, house.http(), "--http")] {
        let error =
            Server::start(&Config { grpc: Some(grpc), http: Some(http), ..Config::default() }).unwrap_err().to_string();
        let taken = if flag == "--grpc" { grpc } else { http };
        for part in [&*taken.to_string(), "the port is taken", flag] {
            assert!(error.contains(part), "{error}");
        }
    }
}
