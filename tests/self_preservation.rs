//! Self-preservation over gRPC, with a paused clock; and the `callboard self-preservation` command, on a real process.

use std::time::Duration;

use bytes::Bytes;
use callboard::pb::callboard::v1::{
    CallerKind, EventKind, InstanceStatus, LeaseState, ListSelfPreservationRequest, RegisterRequest, RemovalReason,
    ResetSelfPreservationRequest, SelfPreservationEvent, SelfPreservationEventKind,
};
use prost_types::Timestamp;
use serde_json::Value;
use tokio::time::sleep;
use tonic::Code;

use crate::{
    harness::{
        Child, HeartbeatStream, InMemory, Reader, ServerProcess, TestClient, View, get, instance, seconds, within,
    },
    invariant::{self, ReferenceHistory},
};

const TTL: u64 = 15_000;
/// Interval of heartbeats, in milliseconds.
const HEARTBEAT_MS: u64 = TTL / 3;

/// Registered instances, and the stream of their heartbeats.
struct LeasedInstances {
    server: InMemory,
    client: TestClient,
    beats: HeartbeatStream,
    leases: Vec<Bytes>,
}

fn request(service: &str, id: &str) -> RegisterRequest {
    RegisterRequest { ttl: seconds(15.0), ..instance(service, id) }
}

impl LeasedInstances {
    async fn of(server: InMemory, services: &[(&str, usize)]) -> Self {
        let client = server.client().await;
        let mut leases = Vec::new();
        for (service, many) in services {
            for number in 0..*many {
                leases.push(client.register(request(service, &format!("i{number:02}"))).await.unwrap().lease_id);
            }
        }
        Self { beats: HeartbeatStream::open(&client).await, server, client, leases }
    }

    /// Lets time pass, during which all instances send heartbeats but the first `silent`.
    async fn pass(&mut self, ms: u64, silent: usize) {
        let end = self.server.now() + ms;
        while self.server.now() < end {
            let live: Vec<&Bytes> = self.leases[silent..].iter().collect();
            let (states, _) = self.beats.beat(&live).await.unwrap();
            assert!(states.iter().all(|state| *state == LeaseState::Held), "{states:?}");
            sleep(Duration::from_millis(HEARTBEAT_MS.min(end - self.server.now()))).await;
        }
    }
}

fn count(view: &View, status: InstanceStatus) -> usize {
    view.set.values().filter(|of| of.status() == status).count()
}

/// Checks the record of a reader against the events of the server.
async fn check(instances: &LeasedInstances, reader: &Reader) {
    let reference = ReferenceHistory::gather(instances.client.events().await, [&reader.record], []).unwrap();
    invariant::check_record(&reader.record, &reference).unwrap();
}

#[tokio::test(start_paused = true)]
async fn silent_majority_is_suspect_and_recovers_without_a_removal() {
    let mut instances = LeasedInstances::of(InMemory::open(), &[("web", 50)]).await;
    let mut reader = Reader::synced(&instances.client, &["web"]).await;
    instances.pass(60_000, 0).await;
    instances.pass(2 * TTL, 30).await;
    reader.until("suspects", |view| count(view, InstanceStatus::Suspect) == 30).await;
    assert_eq!(reader.view.set.len(), 50, "still served");
    let shown = instances.client.self_preservation("web").await;
    assert_eq!((shown.instances, shown.expiring_instances, shown.suspects, shown.limit), (50, 30, 30, 10));
    assert!(shown.started_at.is_some() && shown.first_release_at.is_some());
    let listed = instances
        .client
        .admin
        .clone()
        .list_self_preservation(ListSelfPreservationRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.services, [shown]);
    assert!(listed.registry.unwrap().started_at.is_none(), "one service is not the registry");
    // Heartbeats arrive again.
    instances.pass(1_000, 0).await;
    reader.until("recovered", |view| count(view, InstanceStatus::Serving) == 50).await;
    let log = instances.client.self_preservation_events().await;
    let kinds: Vec<_> = log.iter().map(SelfPreservationEvent::kind).collect();
    assert_eq!(kinds, [SelfPreservationEventKind::Began, SelfPreservationEventKind::Ended]);
    assert!(instances.client.events().await.iter().all(|event| event.kind() != EventKind::Removed));
    check(&instances, &reader).await;
}

#[tokio::test(start_paused = true)]
async fn suspects_are_released_in_small_steps_after_ten_ttls() {
    let mut instances = LeasedInstances::of(InMemory::open(), &[("web", 20)]).await;
    let mut reader = Reader::synced(&instances.client, &["web"]).await;
    instances.pass(11 * TTL, 12).await;
    assert_eq!(instances.client.list("web").await.len(), 20);
    instances.pass(TTL, 12).await;
    let left = instances.client.list("web").await.len();
    assert!((16..=18).contains(&left), "a fifth in a TTL: {left}");
    instances.pass(12 * TTL, 12).await;
    reader.until("the live instances", |view| view.set.len() == 8).await;
    assert_eq!(count(&reader.view, InstanceStatus::Serving), 8);
    assert!(instances.client.self_preservation("web").await.started_at.is_none());
    check(&instances, &reader).await;
}

#[tokio::test(start_paused = true)]
async fn service_whose_instances_all_stop_is_not_emptied_within_a_ttl() {
    let mut instances = LeasedInstances::of(InMemory::open(), &[("three", 3), ("ten", 10), ("pair", 2)]).await;
    let mut reader = Reader::synced(&instances.client, &["three", "ten", "pair"]).await;
    instances.pass(2 * TTL, 15).await;
    reader.until("the removal of the pair", |view| view.set.len() == 13).await;
    // Events have wall-clock times, but only the tokio clock is paused: their times are those at which they arrive.
    let mut arrivals = Vec::new();
    while !reader.view.set.is_empty() {
        let waiting = tokio::time::timeout(Duration::from_millis(60 * TTL), reader.message());
        waiting.await.expect("suspects are released in the end").unwrap();
        arrivals.push((reader.view.revision, instances.server.now()));
    }
    let mut reference = ReferenceHistory::gather(instances.client.events().await, [&reader.record], []).unwrap();
    reference.events.retain(|event| event.service != "pair");
    for event in &mut reference.events {
        let millis = arrivals.iter().find(|(revision, _)| *revision >= event.revision).unwrap().1;
        let (seconds, rest) = (millis / 1_000, millis % 1_000 * 1_000_000);
        event.time = Some(Timestamp { seconds: seconds.try_into().unwrap(), nanos: rest.try_into().unwrap() });
    }
    invariant::never_empty_by_inference::check_by(|_| TTL, &reference, u64::MAX).unwrap();
    let in_longer = invariant::never_empty_by_inference::check_by(|_| 4 * TTL, &reference, u64::MAX);
    assert!(in_longer.is_err(), "they are released, and not much later than they may be");
}

#[tokio::test(start_paused = true)]
async fn deregister_and_takeover_of_suspects_succeed_at_once() {
    let mut instances = LeasedInstances::of(InMemory::open(), &[("web", 20)]).await;
    let mut reader = Reader::synced(&instances.client, &["web"]).await;
    instances.pass(2 * TTL, 12).await;
    reader.until("suspects", |view| count(view, InstanceStatus::Suspect) == 12).await;
    let now = instances.server.now();
    assert!(instances.client.deregister("web", "i00", &instances.leases[0]).await.unwrap().is_some(), "by itself");
    assert!(instances.client.deregister("web", "i01", &Bytes::new()).await.unwrap().is_some(), "by an operator");
    let other = RegisterRequest { boot_id: "other".to_owned(), ..request("web", "i02") };
    instances.client.register(other).await.expect("a heartbeat is missing, so no replace is needed");
    instances.client.register(request("web", "i03")).await.expect("the same boot");
    assert_eq!(instances.server.now(), now);
    reader.until("without them", |view| view.set.len() == 18 && count(view, InstanceStatus::Suspect) == 8).await;
    let why = instances.client.events().await.into_iter().filter(|event| event.kind() == EventKind::Removed);
    assert!(why.map(|event| event.reason()).eq([RemovalReason::Deregistered; 2]));
    check(&instances, &reader).await;
}

#[tokio::test(start_paused = true)]
async fn suspect_with_heartbeat_recovers_and_keeps_its_registration() {
    let mut instances = LeasedInstances::of(InMemory::open(), &[("web", 10)]).await;
    instances.pass(2 * TTL, 6).await;
    assert_eq!(instances.client.get("web", "i00").await.unwrap().status(), InstanceStatus::Suspect);
    let (states, _) = instances.beats.beat(&[&instances.leases[0]]).await.unwrap();
    assert_eq!(states, [LeaseState::Held]);
    sleep(Duration::from_millis(200)).await;
    let recovered = instances.client.get("web", "i00").await.unwrap();
    assert_eq!(
        (recovered.status(), recovered.registered_revision < recovered.revision),
        (InstanceStatus::Serving, true)
    );
    assert_eq!(instances.client.self_preservation("web").await.suspects, 5);
}

#[tokio::test(start_paused = true)]
async fn reset_removes_the_suspects_of_one_service() {
    let mut instances = LeasedInstances::of(InMemory::open(), &[("web", 10), ("db", 3)]).await;
    let mut reader = Reader::synced(&instances.client, &["web", "db"]).await;
    instances.pass(2 * TTL, 6).await;
    let refused = instances.client.admin.clone().reset_self_preservation(ResetSelfPreservationRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(instances.client.reset_self_preservation(Some("db")).await, 0);
    assert_eq!(instances.client.reset_self_preservation(Some("web")).await, 6);
    let now = instances.server.now();
    reader.until("gone", |view| view.set.len() == 7).await;
    assert!(instances.server.now() <= now + 200);
    let events = instances.client.self_preservation_events().await;
    let callers: Vec<_> = events.iter().map(|event| event.caller.as_ref().unwrap().kind()).collect();
    assert_eq!(events.last().unwrap().kind(), SelfPreservationEventKind::Reset);
    assert_eq!(callers, [CallerKind::SelfPreservation, CallerKind::Grpc]);
}

#[tokio::test(start_paused = true)]
async fn more_than_a_tenth_of_the_registry_is_held() {
    let services: Vec<String> = (0..12).map(|number| format!("pair{number:02}")).collect();
    let services: Vec<_> = services.iter().map(|service| (&**service, 2)).collect();
    let mut instances = LeasedInstances::of(InMemory::open(), &services).await;
    instances.pass(20_000, 0).await;
    instances.pass(2 * TTL, 3).await;
    assert_eq!(instances.server.leases(), 24, "three of 24 are more than a tenth");
    let shown = instances.client.self_preservation("").await;
    assert_eq!((shown.suspects, shown.limit, shown.started_at.is_some()), (3, 2, true));
    instances.pass(1_000, 0).await;
    assert_eq!(instances.client.self_preservation("").await.suspects, 0);
    // Two are below the threshold, although both are of one service.
    instances.pass(2 * TTL, 2).await;
    assert_eq!(instances.server.leases(), 22);
    assert!(instances.client.list("pair00").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn stalled_worker_makes_no_suspects() {
    let mut instances = LeasedInstances::of(InMemory::with_worker(), &[("web", 10), ("solo", 1)]).await;
    instances.pass(20_000, 0).await;
    instances.server.stall(true);
    // Heartbeats are not read.
    sleep(Duration::from_millis(3 * TTL)).await;
    instances.server.stall(false);
    instances.pass(20_000, 0).await;
    assert!(instances.client.events().await.iter().all(|event| event.kind() == EventKind::Registered));
    assert!(instances.client.self_preservation_events().await.is_empty());
    // Leases expire again afterwards.
    instances.pass(2 * TTL, 1).await;
    assert_eq!(instances.client.list("web").await.len(), 10 - 1);
}

async fn run(serve: &ServerProcess, arguments: &[&str]) -> (Option<i32>, String) {
    let ended = Child::run(&[arguments, &["--server", &serve.address()]].concat()).await;
    (ended.code(), ended.stdout + &ended.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn command_lists_and_resets_self_preservation() {
    let serve = ServerProcess::start(&[]).await;
    let (code, output) = run(&serve, &["self-preservation"]).await;
    assert_eq!((code, output.trim()), (Some(0), "nothing is in self-preservation"));
    let client = serve.client().await;
    for id in ["a", "b", "c", "d"] {
        client.register(RegisterRequest { ttl: seconds(1.0), ..instance("web", id) }).await.unwrap();
    }
    let mut reader = Reader::synced(&client, &["web"]).await;
    reader.until("suspects", |view| count(view, InstanceStatus::Suspect) == 4).await;
    let (code, output) = run(&serve, &["self-preservation", "-o", "json"]).await;
    let listed: Value = serde_json::from_str(&output).unwrap();
    assert_eq!((code, &listed[0]["service"], &listed[0]["suspects"]), (Some(6), &"web".into(), &4.into()), "{output}");
    let (code, output) = run(&serve, &["self-preservation", "-o", "name"]).await;
    assert_eq!((code, &*output), (Some(6), "web\n"));
    let (_, metrics) = get(serve.http, "/metrics").await;
    for line in [
        "callboard_self_preservation_services 1",
        "callboard_suspect_instances 4",
        "callboard_self_preservation_starts_total 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    let (code, output) = run(&serve, &["self-preservation", "reset"]).await;
    assert_eq!(code, Some(2), "{output}");
    let (code, output) = run(&serve, &["self-preservation", "reset", "--all"]).await;
    assert!(code == Some(0) && output.ends_with(": 4\n"), "{output}");
    reader.until("gone", |view| view.set.is_empty()).await;
    let (code, output) = run(&serve, &["self-preservation", "events", "-o", "json"]).await;
    let events: Value = serde_json::from_str(&output).unwrap();
    assert_eq!((code, &events[0]["kind"], &events[1]["kind"]), (Some(0), &"began".into(), &"reset".into()), "{output}");
    serve.child.signal(rustix::process::Signal::TERM);
    let ended = within("its end", serve.child.ended()).await;
    assert!(ended.stderr.contains("too many instances are silent at once"), "{}", ended.stderr);
}
