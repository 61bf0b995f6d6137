//! Connections that are asked to come back as others: nothing is lost by it, and nobody is.

use std::{error::Error, time::Duration};

use callboard::{
    client::{Endpoint, Registration, RegistrationEvent, Watch, WatchEvent},
    config::Config,
    pb::callboard::v1::{
        EventKind, GetInstanceRequest, LeaseState, Notice, RegisterRequest, UpdateInstanceRequest, WatchRequest,
        change::Change,
    },
};
use tokio::{sync::mpsc, task::JoinHandle, time::interval};
use tonic::{Code, Status};

use crate::harness::{
    HeartbeatStream, Reader, TestClient, TestServer, instance, metric_becomes, seconds, wall, within,
};

/// How long the tests look on.
const LONG: u64 = 4_000;

/// Old soon.
fn young(config: &mut Config) {
    config.max_connection_age = Some(Duration::from_millis(500));
    config.max_connection_age_grace = Duration::from_secs(3);
}

/// Gone at once when its stream breaks.
fn fragile() -> RegisterRequest {
    RegisterRequest { disconnect_grace: seconds(0.05), ..instance("web", "a") }
}

async fn removals(house: &TestServer) -> usize {
    let events = house.peer().await.events().await;
    events.iter().filter(|event| event.kind() == EventKind::Removed).count()
}

/// Follows a watch of our client to this weight; how often it was told to start over.
fn follow(endpoint: &Endpoint, weight: u32) -> JoinHandle<usize> {
    let mut watch = Watch::new(endpoint, WatchRequest { services: vec!["web".to_owned()], ..WatchRequest::default() });
    tokio::spawn(async move {
        let mut resets = 0;
        loop {
            match watch.next().await.unwrap() {
                WatchEvent::Reset(_) => resets += 1,
                WatchEvent::Changes { changes, .. } => {
                    let reached = |change: &Change| matches!(change, Change::Updated(web) if web.weight == weight);
                    if changes.iter().any(reached) {
                        return resets;
                    }
                }
                _ => {}
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_comes_back_and_nothing_is_lost() {
    let house = TestServer::with(young);
    let endpoint: Endpoint = house.grpc().to_string().parse().unwrap();
    let (heard, mut events) = mpsc::unbounded_channel();
    let heard = move |event| heard.send(event).unwrap();
    let registration = Registration::start(&endpoint, fragile(), heard).unwrap();
    let first = within("the registration", events.recv()).await.unwrap();
    assert!(matches!(first, RegistrationEvent::Registered { again: false, .. }), "{first:?}");

    let until = wall() + LONG;
    let watching = follow(&endpoint, 60_000);
    let peer = house.peer().await;
    let (mut pace, mut weight) = (interval(Duration::from_millis(20)), 1);
    while weight < 60_000 {
        pace.tick().await;
        weight = if wall() < until { weight + 1 } else { 60_000 };
        let (service, id) = ("web".to_owned(), "a".to_owned());
        let update = UpdateInstanceRequest { service, id, weight, ..Default::default() };
        // It is there, every time.
        while let Err(status) = peer.update(&["weight"], update.clone()).await {
            assert!(was_not_processed(&status), "{status:?}");
        }
    }
    assert_eq!(within("the last change", watching).await.unwrap(), 0, "it went on from its token");
    let mut resumed = 0;
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, RegistrationEvent::Registered { .. }), "{event:?}");
        resumed += usize::from(matches!(event, RegistrationEvent::Resumed { .. }));
    }
    assert!(resumed >= 2, "it came back {resumed} times");
    metric_becomes(house.http(), "callboard_max_age_connections_total", |number| number >= 4.0).await;
    assert_eq!(removals(&house).await, 0);
    registration.deregister().await;
}

/// A call that met the GOAWAY: its channel had not sent it yet, or its stream is one of those that the GOAWAY says were not
/// looked at. gRPC's own channels send such a call again by themselves; hyper says that it was canceled, or what it met.
fn was_not_processed(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        let met = format!("{error:?}");
        let went_away = met.contains("GoAway") && met.contains("NO_ERROR, Remote");
        if went_away || error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        source = error.source();
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_channel_loses_no_call_that_was_processed() {
    let house = TestServer::with(young);
    let peer = house.peer().await;
    peer.register(instance("web", "a")).await.unwrap();
    let until = wall() + LONG;
    while wall() < until {
        let request = GetInstanceRequest { service: "web".to_owned(), id: "a".to_owned() };
        if let Err(status) = within("GetInstance", peer.discovery.clone().get_instance(request)).await {
            assert!(was_not_processed(&status), "{status:?}");
        }
    }
    metric_becomes(house.http(), "callboard_max_age_connections_total", |number| number >= 4.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_told_and_a_heartbeat_stream_counts_as_ended_by_us() {
    let house = TestServer::with(young);
    let peer = house.peer().await;
    let lease = peer.register(fragile()).await.unwrap().lease_id;
    let mut beats = HeartbeatStream::open(&peer).await;
    beats.beat(&[&lease]).await.unwrap();
    let mut reader = Reader::synced(&peer, &["web"]).await;
    let notice = within("the notice", beats.answers.message()).await.unwrap().unwrap();
    assert_eq!(notice.notice(), Notice::Reconnect);
    let ended = within("the end", beats.answers.message()).await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    assert_eq!(reader.read_to_the_end().await.code(), Code::Unavailable);

    // Whoever opens a stream again, on the same channel, finds that the lease is still held, long after the grace.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut again = HeartbeatStream::open(&peer).await;
    let (states, _) = again.beat(&[&lease]).await.unwrap();
    assert_eq!(states, [LeaseState::Held]);
    reader.reopen().await.unwrap();
    reader.until("its place", |view| view.revision > 0).await;
    assert_eq!(removals(&house).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_does_not_end_is_dropped_after_the_grace() {
    let house = TestServer::with(|config| {
        young(config);
        config.max_connection_age_grace = Duration::from_millis(1_500);
    });
    let closed = TestClient::connect_with(house.grpc(), |endpoint| endpoint.initial_stream_window_size(0)).await;
    let mut takes_nothing = Reader::of(&closed, &["web"]).await;
    let start = wall();
    takes_nothing.message().await.unwrap_err();
    assert!(wall() - start < 10_000, "long before it counts as stalled");
    metric_becomes(house.http(), "callboard_evicted_connections_total{reason=\"max_connection_age\"}", |n| n >= 1.0)
        .await;
}
