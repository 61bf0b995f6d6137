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
    invariant::fail_static::{self, ClientOutput, Served},
};

/// Starts `callboard register web 127.0.0.1:9001`, and waits until it is registered.
async fn register(serve: &ServerProcess, more: &[&str]) -> Child {
    let address = serve.address();
    let usual = ["register", "web", "127.0.0.1:9001", "--id", "a", "-o", "json", "--server", &address];
    let mut child = Child::start(&[&usual, more].concat());
    child.of_type("registered").await;
    child
}

async fn removal(client: &TestClient) -> RemovalReason {
    let events = client.events().await;
    let last = events.last().unwrap();
    assert_eq!(last.kind(), EventKind::Removed);
    last.reason()
}

/// Kills a registered process, and asserts that every open watch receives the removal within `allowed` milliseconds.
async fn assert_killed_instance_is_removed(more: &[&str], allowed: u64) {
    let stalls = Stalls::of_this_machine();
    let serve = ServerProcess::start(&[]).await;
    let mut readers =
        [Reader::of(&serve.client().await, &["web"]).await, Reader::of(&serve.client().await, &["web"]).await];
    let child = register(&serve, more).await;
    for reader in &mut readers {
        reader.until("there", |view| !view.set.is_empty()).await;
    }
    // The stream that carries the heartbeats is open once the registry says that it is.
    let connected = async || {
        let request = callboard::pb::callboard::v1::GetInstanceRequest {
            service: "web".into(),
            id: "a".into(),
            ..Default::default()
        };
        let answer = serve.client().await.discovery.get_instance(request).await.unwrap();
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
    assert_eq!(removal(&serve.client().await).await, RemovalReason::Expired);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_instance_is_removed_within_a_second_after_its_ttl() {
    assert_killed_instance_is_removed(&["--ttl", "2s"], 3_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_instance_with_grace_is_removed_half_a_second_after_it() {
    assert_killed_instance_is_removed(&["--ttl", "30s", "--disconnect-grace", "1s"], 1_500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interrupted_instance_deregisters() {
    let serve = ServerProcess::start(&[]).await;
    for signal in [Signal::INT, Signal::TERM] {
        let child = register(&serve, &["--ttl", "60s"]).await;
        child.signal(signal);
        let ended = child.ended().await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert!(ended.stdout.contains(r#""type":"deregistered""#), "{}", ended.stdout);
        assert_eq!(removal(&serve.client().await).await, RemovalReason::Deregistered);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn register_and_watch_continue_after_a_restart() {
    let serve = ServerProcess::start(&[]).await;
    let address = serve.address();
    let mut registered = register(&serve, &["--ttl", "5s"]).await;
    let mut watch = Child::start(&["watch", "web", "-o", "json", "--server", &address]);
    assert_eq!(watch.of_type("snapshot").await["instance"]["id"], "a");
    watch.of_type("synced").await;
    // The client sends heartbeats every 1.7 s, and its retry delays are no longer.
    let serve = serve.restart(&["--settle", "3s"]).await;
    let reset = watch.of_type("reset").await;
    assert_eq!(reset["reason"], "other_incarnation");
    let again = registered.of_type("registered").await;
    assert_eq!(again["again"], true, "{again}");
    let back = watch.line_where("its return", |line| line["instance"]["id"] == "a").await;
    assert_eq!(back["type"], "snapshot", "the instance returned before a removal was sent: {back}");
    registered.signal(Signal::INT);
    assert_eq!(watch.of_type("removed").await["reason"], "deregistered");
    assert_eq!(registered.ended().await.code(), Some(0));
    watch.signal(Signal::TERM);
    watch.ended().await;
    drop(serve);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_registry_removes_no_instance_when_it_continues() {
    const TTL: Duration = Duration::from_secs(2);
    let serve = ServerProcess::start(&[]).await;
    let client = serve.client().await;
    let mut leases = Vec::new();
    for number in 0..20 {
        let request = RegisterRequest { ttl: seconds(TTL.as_secs_f64()), ..instance("web", &format!("i{number}")) };
        leases.push(client.register(request).await.unwrap().lease_id);
    }
    let mut heartbeats = HeartbeatStream::open(&client).await;
    let all: Vec<_> = leases.iter().collect();
    heartbeats.beat(&all).await.unwrap();
    serve.child.signal(Signal::STOP);
    sleep(2 * TTL).await;
    serve.child.signal(Signal::CONT);
    // The next heartbeat may still be missing: the leases keep the time that was left when the registry stopped.
    sleep(TTL / 2).await;
    let (states, _) = heartbeats.beat(&all).await.unwrap();
    assert!(states.iter().all(|state| *state == LeaseState::Held), "{states:?}");
    assert!(
        client.events().await.iter().all(|event| event.kind() == EventKind::Registered),
        "no instance was removed or suspected"
    );
    assert!(client.self_preservation_events().await.is_empty());
    // Lease time continues: instances without heartbeats become suspect.
    let mut reader = Reader::synced(&client, &["web"]).await;
    let is_suspect = |view: &View| view.set.values().all(|of| of.status() == InstanceStatus::Suspect);
    reader.until("all suspected", is_suspect).await;
    assert_eq!(client.reset_self_preservation(Some("web")).await, 20);
    reader.until("all gone", |view| view.set.is_empty()).await;
}

/// Collects the events of a client up to the first for which `last` is true.
async fn until(watch: &mut Watch, outputs: &mut Vec<ClientOutput>, last: impl Fn(&WatchEvent) -> bool) {
    within("an event of the client", async {
        loop {
            match watch.next().await {
                Ok(event) => {
                    outputs.push(ClientOutput::Event(event.clone()));
                    if last(&event) {
                        return;
                    }
                }
                Err(error) => return outputs.push(ClientOutput::GaveUp(error.to_string())),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_keeps_its_instances_while_the_registry_is_down() {
    let serve = ServerProcess::start(&[]).await;
    for id in ["a", "b", "c"] {
        serve.client().await.register(instance("web", id)).await.unwrap();
    }
    let endpoint: Endpoint = serve.address().parse().unwrap();
    let request = WatchRequest { services: vec!["web".to_owned()], ..WatchRequest::default() };
    let (mut watch, mut outputs) = (Watch::new(&endpoint, request), Vec::new());
    until(&mut watch, &mut outputs, |event| matches!(event, WatchEvent::Synced { .. })).await;
    let address = serve.address();
    serve.child.kill().await;
    for _ in 0..4 {
        until(&mut watch, &mut outputs, |event| matches!(event, WatchEvent::Disconnected { .. })).await;
    }
    let mut served = Served::default();
    for output in &outputs {
        let ClientOutput::Event(event) = output else { panic!("{output:?}") };
        served.apply(event).unwrap();
    }
    assert!(served.set.keys().eq(&[key("web", "a"), key("web", "b"), key("web", "c")]), "the last good set");
    let serve = ServerProcess::start_at(&address, &["--settle", "1s"]).await;
    until(&mut watch, &mut outputs, |event| matches!(event, WatchEvent::Synced { .. })).await;
    serve.client().await.register(instance("web", "d")).await.unwrap();
    until(&mut watch, &mut outputs, |event| matches!(event, WatchEvent::Changes { .. })).await;
    fail_static::check(&outputs).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminated_registry_ends_streams_and_exits_with_0() {
    let stalls = Stalls::of_this_machine();
    let serve = ServerProcess::start(&[]).await;
    let mut reader = Reader::synced(&serve.client().await, &["web"]).await;
    let start = wall();
    serve.child.signal(Signal::TERM);
    assert_eq!(reader.read_to_the_end().await.code(), tonic::Code::Unavailable);
    let ended = serve.child.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let (took, excused) = (wall() - start, stalls.since(start));
    assert!(took <= 5_000 + excused, "it took {took} ms, {excused} of which were this machine's");
}
