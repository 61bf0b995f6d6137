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

/// Longer than a stalled reader is suffered, and than the time between two bookmarks.
const LONG: Duration = Duration::from_secs(40);

/// Watch of `web` with a resume token of another registry.
async fn remembers(peer: &TestClient) -> Streaming<WatchResponse> {
    let mut token = Reader::synced(peer, &["web"]).await.view.token.to_vec();
    // The second byte begins the incarnation.
    token[1] ^= 0xff;
    let resume_token = Bytes::from(token);
    let request = WatchRequest { services: vec!["web".to_owned()], resume_token, ..WatchRequest::default() };
    within("Watch", peer.discovery.clone().watch(request)).await.unwrap().into_inner()
}

async fn message(watch: &mut Streaming<WatchResponse>) -> Message {
    watch.message().await.unwrap().unwrap().message.unwrap()
}

async fn assert_waits(watch: &mut Streaming<WatchResponse>) {
    let said = message(watch).await;
    assert!(matches!(said, Message::Notice(notice) if notice == i32::from(Notice::Settling)), "{said:?}");
}

/// The watches that wait, and those that do not.
async fn watchers(peer: &TestClient) -> (Vec<Watcher>, Vec<Watcher>) {
    let mut admin = peer.admin.clone();
    let answer = within("ListWatchers", admin.list_watchers(ListWatchersRequest::default())).await;
    answer.unwrap().into_inner().watchers.into_iter().partition(|watcher| watcher.waiting)
}

#[tokio::test(start_paused = true)]
async fn who_remembers_hears_nothing_until_the_registry_has_settled() {
    let house = InMemory::settling(LONG);
    let peer = house.peer().await;
    let mut watch = remembers(&peer).await;
    assert_waits(&mut watch).await;
    for number in 0..35 {
        peer.register(instance("web", &format!("i{number}"))).await.unwrap();
        peer.register(instance("other", "a")).await.unwrap();
        timeout(Duration::from_secs(1), watch.message()).await.expect_err("it is told nothing, and not cut off");
    }
    let (waiting, rest) = watchers(&peer).await;
    assert!(rest.is_empty(), "{rest:?}");
    let [waiting] = &*waiting else { panic!("{waiting:?}") };
    assert!(waiting.synced_at.is_none() && waiting.pending_changes == 0 && waiting.sent_revision == 0, "{waiting:?}");
    let said = message(&mut watch).await;
    assert!(matches!(said, Message::Reset(_)), "{said:?}");
    assert!((40_000..40_300).contains(&house.now()), "{}", house.now());
    let Message::Snapshot(snapshot) = message(&mut watch).await else { panic!("no snapshot") };
    assert!(!snapshot.instances.is_empty());
    assert!(matches!(message(&mut watch).await, Message::Synced(_)));
    let (waiting, rest) = watchers(&peer).await;
    assert!(waiting.is_empty() && rest[0].resets == 1, "{waiting:?} {rest:?}");
}

#[tokio::test(start_paused = true)]
async fn who_remembers_nothing_is_answered_at_once() {
    let house = InMemory::settling(LONG);
    let peer = house.peer().await;
    peer.register(instance("web", "a")).await.unwrap();
    let mut reader = Reader::synced(&peer, &["web"]).await;
    assert!(reader.view.get("web", "a").is_some());
    reader.reopen().await.unwrap();
    peer.register(instance("web", "b")).await.unwrap();
    reader.until("a change, with a token of this life", |view| view.set.len() == 2).await;
    let own = HealthCheckRequest::default();
    let health = within("Check", peer.health.clone().check(own)).await.unwrap();
    assert_eq!(health.get_ref().status(), ServingStatus::Serving);
    assert_eq!(peer.list("web").await.len(), 2);
    assert!(house.now() < 1_000, "{}", house.now());
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_of_a_goodbye() {
    let house = InMemory::settling(LONG);
    let peer = house.peer().await;
    let mut watch = remembers(&peer).await;
    assert_waits(&mut watch).await;
    house.leave();
    let said = message(&mut watch).await;
    assert!(matches!(said, Message::Notice(notice) if notice == i32::from(Notice::Reconnect)), "{said:?}");
    assert_eq!(watch.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(house.seats(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_that_it_settles() {
    let house = TestServer::with(|config| config.settle = LONG);
    let mut watch = remembers(&house.peer().await).await;
    assert_waits(&mut watch).await;
    let ready = get(house.http(), "/readyz").await;
    assert_eq!(ready, (200, "ready, settling\n".to_owned()), "who registers again has to get here");
    let (_, metrics) = get(house.http(), "/metrics").await;
    for line in ["callboard_settling 1\n", "callboard_settling_watches 1\n"] {
        assert!(metrics.contains(line), "{metrics}");
    }
    house.leave().await;
}

/// Only a life of the registry that begins has lost anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_finds_everything_again_does_not_settle() {
    let directory = tempfile::tempdir().unwrap();
    let disk = ["--data-dir", directory.path().to_str().unwrap()];
    let ready = async |serve: &ServerProcess| get(serve.http, "/readyz").await.1;
    let serve = ServerProcess::start(&disk).await;
    assert_eq!(ready(&serve).await, "ready, settling\n", "a new directory: perhaps the old one was lost");
    let mut reader = Reader::synced(&serve.peer().await, &["web"]).await;
    serve.peer().await.register(instance("web", "a")).await.unwrap();
    let serve = serve.restart(&disk).await;
    assert_eq!(ready(&serve).await, "ready\n");
    reader.move_to(&serve.peer().await);
    reader.reopen().await.unwrap();
    let said = reader.message().await.unwrap();
    assert!(!matches!(said.message, Some(Message::Notice(_))), "{said:?}");
    reader.until("what it missed", |view| view.get("web", "a").is_some()).await;
}

/// A pause right after the start that is longer than settling does not count, because no instance could register in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_does_not_cut_it_short() {
    const PAUSE: Duration = Duration::from_secs(3);
    let serve = ServerProcess::start(&["--settle", "2s"]).await;
    let mut watch = remembers(&serve.peer().await).await;
    assert_waits(&mut watch).await;
    let start = wall();
    serve.child.signal(Signal::STOP);
    sleep(PAUSE).await;
    serve.child.signal(Signal::CONT);
    let said = within("the end of settling", message(&mut watch)).await;
    assert!(matches!(said, Message::Reset(_)), "{said:?}");
    let took = wall() - start;
    assert!(took > 4_500, "{took} ms, of which 3,000 were no time");
}

/// Killed again and again: while it settles, about when it has settled, and once all is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_a_removal_however_often_the_registry_is_killed() {
    const SETTLE: &[&str] = &["--settle", "4s"];
    let mut random = Seed::from_environment().random(0);
    let mut serve = ServerProcess::start(SETTLE).await;
    let size = Size { services: 5, instances: 40, watches: 40, connections: 4, ttl: Duration::from_secs(6) };
    let mut crowd = ClientFleet::gather(&serve.address(), size).await;
    for after in [random.below(3_500), 3_700 + random.below(600), 60_000] {
        let since = wall();
        serve = serve.restart(SETTLE).await;
        if timeout(Duration::from_millis(after), crowd.all_in_sync(since)).await.is_err() {
            let since = wall();
            serve = serve.restart(SETTLE).await;
            crowd.all_in_sync(since).await;
        }
    }
    crowd.disperse().await;
    drop(serve);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_says_that_it_waits() {
    let serve = ServerProcess::start(&[]).await;
    let address = serve.address();
    serve.peer().await.register(instance("web", "a")).await.unwrap();
    let mut watch = Child::start(&["watch", "web", "-o", "json", "--server", &address]);
    watch.of_type("synced").await;
    let serve = serve.restart(&["--settle", "30s"]).await;
    let peer = serve.peer().await;
    let listed = async {
        while watchers(&peer).await.0.is_empty() {
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
