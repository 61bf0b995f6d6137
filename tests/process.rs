//! Kills, stops and restarts of real processes.

use std::time::Duration;

use callboard::{
    client::{Endpoint, Watch, WatchEvent},
    pb::callboard::v1::{EventKind, InstanceStatus, LeaseState, RegisterRequest, RemovalReason, WatchRequest},
};
use rustix::process::Signal;
use tokio::time::sleep;

use crate::{
    harness::{
        Child, HeartbeatStream, Reader, ServerProcess, Stalls, TestClient, View, instance, key, seconds, wall, within,
    },
    invariant::fail_static::{self, Served, Told},
};

/// `callboard register web 127.0.0.1:9001`, once it is registered.
async fn register(serve: &ServerProcess, more: &[&str]) -> Child {
    let address = serve.address();
    let usual = ["register", "web", "127.0.0.1:9001", "--id", "a", "-o", "json", "--server", &address];
    let mut child = Child::start(&[&usual, more].concat());
    child.of_type("registered").await;
    child
}

async fn removal(peer: &TestClient) -> RemovalReason {
    let events = peer.events().await;
    let last = events.last().unwrap();
    assert_eq!(last.kind(), EventKind::Removed);
    last.reason()
}

/// Kills a registered process; every open watch hears of it within this many milliseconds.
async fn killed_and_gone(more: &[&str], allowed: u64) {
    let stalls = Stalls::of_this_machine();
    let serve = ServerProcess::start(&[]).await;
    let mut readers =
        [Reader::of(&serve.peer().await, &["web"]).await, Reader::of(&serve.peer().await, &["web"]).await];
    let child = register(&serve, more).await;
    for reader in &mut readers {
        reader.until("there", |view| !view.set.is_empty()).await;
    }
    // The stream that carries the heartbeats is open once the registry says that it is.
    let connected = async || {
        let request = callboard::pb::callboard::v1::GetInstanceRequest { service: "web".into(), id: "a".into() };
        let answer = serve.peer().await.discovery.get_instance(request).await.unwrap();
        answer.into_inner().lease.unwrap().connected
    };
    while !connected().await {
        sleep(Duration::from_millis(10)).await;
    }
    let start = wall();
    child.kill().await;
    for reader in &mut readers {
        reader.until("gone", |view| view.set.is_empty()).await;
        let (took, excused) = (wall() - start, stalls.since(start));
        assert!(took <= allowed + excused, "gone after {took} ms, {excused} of which were this machine's");
    }
    assert_eq!(removal(&serve.peer().await).await, RemovalReason::Expired);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_instance_is_gone_a_second_after_its_time() {
    killed_and_gone(&["--ttl", "2s"], 3_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_instance_with_a_grace_is_gone_half_a_second_after_it() {
    killed_and_gone(&["--ttl", "30s", "--disconnect-grace", "1s"], 1_500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_instance_says_goodbye() {
    let serve = ServerProcess::start(&[]).await;
    for signal in [Signal::INT, Signal::TERM] {
        let child = register(&serve, &["--ttl", "60s"]).await;
        child.signal(signal);
        let ended = child.ended().await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert!(ended.stdout.contains(r#""type":"deregistered""#), "{}", ended.stdout);
        assert_eq!(removal(&serve.peer().await).await, RemovalReason::Deregistered);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn register_and_watch_outlive_the_registry() {
    let serve = ServerProcess::start(&[]).await;
    let address = serve.address();
    let mut registered = register(&serve, &["--ttl", "5s"]).await;
    let mut watch = Child::start(&["watch", "web", "-o", "json", "--server", &address]);
    assert_eq!(watch.of_type("snapshot").await["instance"]["id"], "a");
    watch.of_type("synced").await;
    // Its heartbeats come every 1.7 s, and no delay is longer.
    let serve = serve.restart(&["--settle", "3s"]).await;
    let reset = watch.of_type("reset").await;
    assert_eq!(reset["reason"], "other_incarnation");
    let again = registered.of_type("registered").await;
    assert_eq!(again["again"], true, "{again}");
    let back = watch.line_where("its return", |line| line["instance"]["id"] == "a").await;
    assert_eq!(back["type"], "snapshot", "it was back before anybody was told that it was gone: {back}");
    registered.signal(Signal::INT);
    assert_eq!(watch.of_type("removed").await["reason"], "deregistered");
    assert_eq!(registered.ended().await.code(), Some(0));
    watch.signal(Signal::TERM);
    watch.ended().await;
    drop(serve);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_stood_still_believes_nobody_dead() {
    const TTL: Duration = Duration::from_secs(2);
    let serve = ServerProcess::start(&[]).await;
    let peer = serve.peer().await;
    let mut leases = Vec::new();
    for number in 0..20 {
        let request = RegisterRequest { ttl: seconds(TTL.as_secs_f64()), ..instance("web", &format!("i{number}")) };
        leases.push(peer.register(request).await.unwrap().lease_id);
    }
    let mut beats = HeartbeatStream::open(&peer).await;
    let all: Vec<_> = leases.iter().collect();
    beats.beat(&all).await.unwrap();
    serve.child.signal(Signal::STOP);
    sleep(2 * TTL).await;
    serve.child.signal(Signal::CONT);
    // Their next heartbeat need not be there yet: the time that was left when the registry stopped is left still.
    sleep(TTL / 2).await;
    let (states, _) = beats.beat(&all).await.unwrap();
    assert!(states.iter().all(|state| *state == LeaseState::Held), "{states:?}");
    assert!(peer.events().await.iter().all(|event| event.kind() == EventKind::Registered), "gone or suspected");
    assert!(peer.protection_events().await.is_empty());
    // Time goes on: who says nothing more is missed.
    let mut reader = Reader::synced(&peer, &["web"]).await;
    let is_suspect = |view: &View| view.set.values().all(|of| of.status() == InstanceStatus::Suspect);
    reader.until("all suspected", is_suspect).await;
    assert_eq!(peer.reset_protection(Some("web")).await, 20);
    reader.until("all gone", |view| view.set.is_empty()).await;
}

/// What the client tells, up to an event.
async fn until(watch: &mut Watch, told: &mut Vec<Told>, last: impl Fn(&WatchEvent) -> bool) {
    within("an event of the client", async {
        loop {
            match watch.next().await {
                Ok(event) => {
                    told.push(Told::Event(event.clone()));
                    if last(&event) {
                        return;
                    }
                }
                Err(error) => return told.push(Told::GaveUp(error.to_string())),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fail_static() {
    let serve = ServerProcess::start(&[]).await;
    for id in ["a", "b", "c"] {
        serve.peer().await.register(instance("web", id)).await.unwrap();
    }
    let endpoint: Endpoint = serve.address().parse().unwrap();
    let request = WatchRequest { services: vec!["web".to_owned()], ..WatchRequest::default() };
    let (mut watch, mut told) = (Watch::new(&endpoint, request), Vec::new());
    until(&mut watch, &mut told, |event| matches!(event, WatchEvent::Synced { .. })).await;
    let address = serve.address();
    serve.child.kill().await;
    for _ in 0..4 {
        until(&mut watch, &mut told, |event| matches!(event, WatchEvent::Disconnected { .. })).await;
    }
    let mut served = Served::default();
    for told in &told {
        let Told::Event(event) = told else { panic!("{told:?}") };
        served.hear(event).unwrap();
    }
    assert!(served.set.keys().eq(&[key("web", "a"), key("web", "b"), key("web", "c")]), "the last good set");
    let serve = ServerProcess::start_at(&address, &["--settle", "1s"]).await;
    until(&mut watch, &mut told, |event| matches!(event, WatchEvent::Synced { .. })).await;
    serve.peer().await.register(instance("web", "d")).await.unwrap();
    until(&mut watch, &mut told, |event| matches!(event, WatchEvent::Changes { .. })).await;
    fail_static::check(&told).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_registry_leaves_in_order() {
    let stalls = Stalls::of_this_machine();
    let serve = ServerProcess::start(&[]).await;
    let mut reader = Reader::synced(&serve.peer().await, &["web"]).await;
    let start = wall();
    serve.child.signal(Signal::TERM);
    assert_eq!(reader.read_to_the_end().await.code(), tonic::Code::Unavailable);
    let ended = serve.child.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let (took, excused) = (wall() - start, stalls.since(start));
    assert!(took <= 5_000 + excused, "it took {took} ms, {excused} of which were this machine's");
}
