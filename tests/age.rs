//! Connections at their maximum age: clients continue on another connection and lose nothing.

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
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::harness::{
    HeartbeatStream, Reader, TestClient, TestServer, instance, metric_becomes, seconds, wall, within,
};

/// Milliseconds for which a test observes.
const OBSERVED: u64 = 4_000;

/// Sets a short maximum age.
fn short_age(config: &mut Config) {
    config.max_connection_age = Some(Duration::from_millis(500));
    config.max_connection_age_grace = Duration::from_secs(3);
}

/// An instance that is removed at once when its heartbeat stream breaks.
fn without_grace() -> RegisterRequest {
    RegisterRequest { disconnect_grace: seconds(0.05), ..instance("web", "a") }
}

async fn removals(server: &TestServer) -> usize {
    let events = server.client().await.events().await;
    events.iter().filter(|event| event.kind() == EventKind::Removed).count()
}

/// Follows a watch of this crate's client to a weight. Returns the number of its resets.
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
async fn health_watch_at_maximum_age_ends_without_another_status() {
    let server = TestServer::with(short_age);
    let register = RegisterRequest { ttl: seconds(600.0), ..instance("web", "a") };
    server.client().await.register(register).await.unwrap();
    for service in ["", "web"] {
        let client = server.client().await;
        let request = HealthCheckRequest { service: service.to_owned() };
        let mut health = within("Health/Watch", client.health.clone().watch(request)).await.unwrap().into_inner();
        let first = within("the status", health.message()).await.unwrap().unwrap();
        assert_eq!(first.status(), ServingStatus::Serving, "{service:?}");
        let end = within("the end of the stream", health.message()).await.unwrap_err();
        assert_eq!(end.code(), Code::Unavailable, "{service:?}: {end}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_reconnects_at_maximum_age_without_loss() {
    let server = TestServer::with(short_age);
    let endpoint: Endpoint = server.grpc().to_string().parse().unwrap();
    let (on_event, mut events) = mpsc::unbounded_channel();
    let on_event = move |event| on_event.send(event).unwrap();
    let registration = Registration::start(&endpoint, without_grace(), on_event).unwrap();
    let first = within("the registration", events.recv()).await.unwrap();
    assert!(matches!(first, RegistrationEvent::Registered { again: false, .. }), "{first:?}");

    let until = wall() + OBSERVED;
    let watching = follow(&endpoint, 60_000);
    let client = server.client().await;
    let (mut pace, mut weight) = (interval(Duration::from_millis(20)), 1);
    while weight < 60_000 {
        pace.tick().await;
        weight = if wall() < until { weight + 1 } else { 60_000 };
        let (service, id) = ("web".to_owned(), "a".to_owned());
        let update = UpdateInstanceRequest { service, id, weight, ..Default::default() };
        // The instance is never absent.
        while let Err(status) = client.update(&["weight"], update.clone()).await {
            assert!(was_not_processed(&status), "{status:?}");
        }
    }
    assert_eq!(within("the last change", watching).await.unwrap(), 0, "it resumed by its token");
    let mut resumed = 0;
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, RegistrationEvent::Registered { .. }), "{event:?}");
        resumed += usize::from(matches!(event, RegistrationEvent::Resumed { .. }));
    }
    assert!(resumed >= 2, "it resumed {resumed} times");
    metric_becomes(server.http(), "callboard_max_age_connections_total", |number| number >= 4.0).await;
    assert_eq!(removals(&server).await, 0);
    registration.deregister().await;
}

/// Returns whether a call met the GOAWAY: its channel had not sent it yet, or its stream is one of those that the GOAWAY says were not processed. gRPC's own
/// channels retry such a call; hyper reports that it was canceled, or the GOAWAY.
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
async fn stock_channel_at_maximum_age_loses_no_processed_call() {
    let server = TestServer::with(short_age);
    let client = server.client().await;
    client.register(instance("web", "a")).await.unwrap();
    let until = wall() + OBSERVED;
    while wall() < until {
        let request = GetInstanceRequest { service: "web".to_owned(), id: "a".to_owned(), ..Default::default() };
        if let Err(status) = within("GetInstance", client.discovery.clone().get_instance(request)).await {
            assert!(was_not_processed(&status), "{status:?}");
        }
    }
    metric_becomes(server.http(), "callboard_max_age_connections_total", |number| number >= 4.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_at_maximum_age_get_a_notice_and_leases_stay_held() {
    let server = TestServer::with(short_age);
    let client = server.client().await;
    let lease = client.register(without_grace()).await.unwrap().lease_id;
    let mut heartbeats = HeartbeatStream::open(&client).await;
    heartbeats.beat(&[&lease]).await.unwrap();
    let mut reader = Reader::synced(&client, &["web"]).await;
    let notice = within("the notice", heartbeats.answers.message()).await.unwrap().unwrap();
    assert_eq!(notice.notice(), Notice::Reconnect);
    let ended = within("the end", heartbeats.answers.message()).await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    assert_eq!(reader.read_to_the_end().await.code(), Code::Unavailable);

    // A new stream on the same channel finds the lease held, long after the disconnect grace.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut again = HeartbeatStream::open(&client).await;
    let (states, _) = again.beat(&[&lease]).await.unwrap();
    assert_eq!(states, [LeaseState::Held]);
    reader.reopen().await.unwrap();
    reader.until("the resumed position", |view| view.revision > 0).await;
    assert_eq!(removals(&server).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_that_does_not_end_is_dropped_after_the_grace() {
    let server = TestServer::with(|config| {
        short_age(config);
        config.max_connection_age_grace = Duration::from_millis(1_500);
    });
    let closed = TestClient::connect_with(server.grpc(), |endpoint| endpoint.initial_stream_window_size(0)).await;
    let mut takes_nothing = Reader::of(&closed, &["web"]).await;
    let start = wall();
    takes_nothing.message().await.unwrap_err();
    assert!(wall() - start < 10_000, "long before it counts as stalled");
    metric_becomes(server.http(), "callboard_evicted_connections_total{reason=\"max_connection_age\"}", |n| n >= 1.0)
        .await;
}
