//! Restarts of a registry in memory: watches that remember more than is registered wait until the lost instances are back.

mod client_fleet;
mod scale;

use std::time::Duration;

use bytes::Bytes;
use callboard::pb::callboard::v1::{
    ListWatchersRequest, Notice, WatchRequest, WatchResponse, Watcher, watch_response::Message,
};
use rustix::process::Signal;
use tokio::time::{sleep, timeout};
use tonic::{Code, Streaming};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::harness::{
    Child, InMemory, Reader, Seed, ServerProcess, TestClient, TestServer, get, instance, wall, within,
};
use client_fleet::{ClientFleet, Size};

/// Longer than the limit for a stalled reader, and than the interval of bookmarks.
const LONG: Duration = Duration::from_secs(40);

/// Opens a watch of `web` with a resume token of another registry.
async fn watch_with_unknown_token(client: &TestClient) -> Streaming<WatchResponse> {
    let mut token = Reader::synced(client, &["web"]).await.view.token.to_vec();
    // The second byte begins the incarnation.
    token[1] ^= 0xff;
    let resume_token = Bytes::from(token);
    let request = WatchRequest { services: vec!["web".to_owned()], resume_token, ..WatchRequest::default() };
    within("Watch", client.discovery.clone().watch(request)).await.unwrap().into_inner()
}

async fn message(watch: &mut Streaming<WatchResponse>) -> Message {
    watch.message().await.unwrap().unwrap().message.unwrap()
}

async fn assert_waits(watch: &mut Streaming<WatchResponse>) {
    let received = message(watch).await;
    assert!(matches!(received, Message::Notice(notice) if notice == i32::from(Notice::Settling)), "{received:?}");
}

/// Returns the watches that wait, and those that do not.
async fn watchers(client: &TestClient) -> (Vec<Watcher>, Vec<Watcher>) {
    let mut admin = client.admin.clone();
    let answer = within("ListWatchers", admin.list_watchers(ListWatchersRequest::default())).await;
    answer.unwrap().into_inner().watchers.into_iter().partition(|watcher| watcher.waiting)
}

#[tokio::test(start_paused = true)]
async fn watch_with_unknown_token_receives_nothing_until_the_registry_has_settled() {
    let server = InMemory::settling(LONG);
    let client = server.client().await;
    let mut watch = watch_with_unknown_token(&client).await;
    assert_waits(&mut watch).await;
    for number in 0..35 {
        client.register(instance("web", &format!("i{number}"))).await.unwrap();
        client.register(instance("other", "a")).await.unwrap();
        timeout(Duration::from_secs(1), watch.message())
            .await
            .expect_err("the watch receives no message and stays open");
    }
    let (waiting, rest) = watchers(&client).await;
    assert!(rest.is_empty(), "{rest:?}");
    let [waiting] = &*waiting else { panic!("{waiting:?}") };
    assert!(waiting.synced_at.is_none() && waiting.pending_changes == 0 && waiting.sent_revision == 0, "{waiting:?}");
    let received = message(&mut watch).await;
    assert!(matches!(received, Message::Reset(_)), "{received:?}");
    assert!((40_000..40_300).contains(&server.now()), "{}", server.now());
    let Message::Snapshot(snapshot) = message(&mut watch).await else { panic!("no snapshot") };
    assert!(!snapshot.instances.is_empty());
    assert!(matches!(message(&mut watch).await, Message::Synced(_)));
    let (waiting, rest) = watchers(&client).await;
    assert!(waiting.is_empty() && rest[0].resets == 1, "{waiting:?} {rest:?}");
}

#[tokio::test(start_paused = true)]
async fn watch_without_token_is_answered_while_the_registry_settles() {
    let server = InMemory::settling(LONG);
    let client = server.client().await;
    client.register(instance("web", "a")).await.unwrap();
    let mut reader = Reader::synced(&client, &["web"]).await;
    assert!(reader.view.get("web", "a").is_some());
    reader.reopen().await.unwrap();
    client.register(instance("web", "b")).await.unwrap();
    reader.until("a change, with a token of this incarnation", |view| view.set.len() == 2).await;
    let own = HealthCheckRequest::default();
    let health = within("Check", client.health.clone().check(own)).await.unwrap();
    assert_eq!(health.get_ref().status(), ServingStatus::Serving);
    assert_eq!(client.list("web").await.len(), 2);
    assert!(server.now() < 1_000, "{}", server.now());
}

#[tokio::test(start_paused = true)]
async fn waiting_watch_is_asked_to_reconnect_when_the_server_leaves() {
    let server = InMemory::settling(LONG);
    let client = server.client().await;
    let mut watch = watch_with_unknown_token(&client).await;
    assert_waits(&mut watch).await;
    server.leave();
    let received = message(&mut watch).await;
    assert!(matches!(received, Message::Notice(notice) if notice == i32::from(Notice::Reconnect)), "{received:?}");
    assert_eq!(watch.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.stream_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settling_registry_says_so_in_readiness_and_metrics() {
    let server = TestServer::with(|config| config.settle = LONG);
    let mut watch = watch_with_unknown_token(&server.client().await).await;
    assert_waits(&mut watch).await;
    let ready = get(server.http(), "/readyz").await;
    assert_eq!(ready, (200, "ready, settling\n".to_owned()), "instances that register again have to reach it");
    let (_, metrics) = get(server.http(), "/metrics").await;
    for line in ["callboard_settling 1\n", "callboard_settling_watches 1\n"] {
        assert!(metrics.contains(line), "{metrics}");
    }
    server.leave().await;
}

/// Only a registry that starts without data has lost registrations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_that_loads_its_data_does_not_settle() {
    let directory = tempfile::tempdir().unwrap();
    let disk = ["--data-dir", directory.path().to_str().unwrap()];
    let ready = async |serve: &ServerProcess| get(serve.http, "/readyz").await.1;
    let serve = ServerProcess::start(&disk).await;
    assert_eq!(ready(&serve).await, "ready, settling\n", "a new directory may replace a lost one");
    let mut reader = Reader::synced(&serve.client().await, &["web"]).await;
    serve.client().await.register(instance("web", "a")).await.unwrap();
    let serve = serve.restart(&disk).await;
    assert_eq!(ready(&serve).await, "ready\n");
    reader.move_to(&serve.client().await);
    reader.reopen().await.unwrap();
    let received = reader.message().await.unwrap();
    assert!(!matches!(received.message, Some(Message::Notice(_))), "{received:?}");
    reader.until("what it missed", |view| view.get("web", "a").is_some()).await;
}

/// A pause right after the start that is longer than settling does not count, because no instance could register in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_process_does_not_settle_earlier() {
    const PAUSE: Duration = Duration::from_secs(3);
    let serve = ServerProcess::start(&["--settle", "2s"]).await;
    let mut watch = watch_with_unknown_token(&serve.client().await).await;
    assert_waits(&mut watch).await;
    let start = wall();
    serve.child.signal(Signal::STOP);
    sleep(PAUSE).await;
    serve.child.signal(Signal::CONT);
    let received = within("the end of settling", message(&mut watch)).await;
    assert!(matches!(received, Message::Reset(_)), "{received:?}");
    let took = wall() - start;
    assert!(took > 4_500, "{took} ms, of which 3,000 do not count");
}

/// The registry is killed while it settles, at about the end of settling, and after all clients are in sync.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_killed_several_times_causes_no_removal() {
    const SETTLE: &[&str] = &["--settle", "4s"];
    let mut random = Seed::from_environment().random(0);
    let mut serve = ServerProcess::start(SETTLE).await;
    let size = Size { services: 5, instances: 40, watches: 40, connections: 4, ttl: Duration::from_secs(6) };
    let mut fleet = ClientFleet::start(&serve.address(), size).await;
    for after in [random.below(3_500), 3_700 + random.below(600), 60_000] {
        let since = wall();
        serve = serve.restart(SETTLE).await;
        if timeout(Duration::from_millis(after), fleet.all_in_sync(since)).await.is_err() {
            let since = wall();
            serve = serve.restart(SETTLE).await;
            fleet.all_in_sync(since).await;
        }
    }
    fleet.shut_down().await;
    drop(serve);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_line_reports_a_waiting_watch() {
    let serve = ServerProcess::start(&[]).await;
    let address = serve.address();
    serve.client().await.register(instance("web", "a")).await.unwrap();
    let mut watch = Child::start(&["watch", "web", "-o", "json", "--server", &address]);
    watch.of_type("synced").await;
    let serve = serve.restart(&["--settle", "30s"]).await;
    let client = serve.client().await;
    let listed = async {
        while watchers(&client).await.0.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    within("it waits", listed).await;
    let shown = Child::run(&["clients", "--server", &address]).await;
    assert!(shown.stdout.contains("  waiting   -  "), "{}", shown.stdout);
    watch.signal(Signal::TERM);
    let ended = watch.ended().await;
    assert!(ended.stderr.contains("waits for instances to register again"), "{}", ended.stderr);
    assert!(!ended.stdout.contains("reset"), "{}", ended.stdout);
    drop(serve);
}
