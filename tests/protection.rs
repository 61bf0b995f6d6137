//! Protection from mass expiry, over the gRPC door, with the clock in our hands; and the verb, on a real process.

use std::time::Duration;

use bytes::Bytes;
use callboard::pb::callboard::v1::{
    EventKind, InstanceStatus, LeaseState, ListProtectionsRequest, ProtectionEvent, ProtectionEventKind,
    RegisterRequest, RemovalReason, ResetProtectionRequest,
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
/// Milliseconds between two heartbeats.
const BEAT: u64 = TTL / 3;

/// Registered instances, and the stream that carries their heartbeats.
struct Cast {
    house: InMemory,
    peer: TestClient,
    beats: HeartbeatStream,
    leases: Vec<Bytes>,
}

fn request(service: &str, id: &str) -> RegisterRequest {
    RegisterRequest { ttl: seconds(15.0), ..instance(service, id) }
}

impl Cast {
    async fn of(house: InMemory, services: &[(&str, usize)]) -> Self {
        let peer = house.peer().await;
        let mut leases = Vec::new();
        for (service, many) in services {
            for number in 0..*many {
                leases.push(peer.register(request(service, &format!("i{number:02}"))).await.unwrap().lease_id);
            }
        }
        Self { beats: HeartbeatStream::open(&peer).await, house, peer, leases }
    }

    /// Time passes; of all instances, the first so many are not heard.
    async fn pass(&mut self, ms: u64, silent: usize) {
        let end = self.house.now() + ms;
        while self.house.now() < end {
            let heard: Vec<&Bytes> = self.leases[silent..].iter().collect();
            let (states, _) = self.beats.beat(&heard).await.unwrap();
            assert!(states.iter().all(|state| *state == LeaseState::Held), "{states:?}");
            sleep(Duration::from_millis(BEAT.min(end - self.house.now()))).await;
        }
    }
}

fn count(view: &View, status: InstanceStatus) -> usize {
    view.set.values().filter(|of| of.status() == status).count()
}

/// What a record and the log can be checked for.
async fn check(cast: &Cast, reader: &Reader) {
    let truth = ReferenceHistory::gather(cast.peer.events().await, [&reader.record], []).unwrap();
    invariant::check_record(&reader.record, &truth).unwrap();
}

#[tokio::test(start_paused = true)]
async fn most_heartbeats_are_lost_and_nobody_is_removed() {
    let mut cast = Cast::of(InMemory::open(), &[("web", 50)]).await;
    let mut reader = Reader::synced(&cast.peer, &["web"]).await;
    cast.pass(60_000, 0).await;
    cast.pass(2 * TTL, 30).await;
    reader.until("suspects", |view| count(view, InstanceStatus::Suspect) == 30).await;
    assert_eq!(reader.view.set.len(), 50, "still served");
    let shown = cast.peer.protection("web").await;
    assert_eq!((shown.instances, shown.as_good_as_dead, shown.suspects, shown.limit), (50, 30, 30, 10));
    assert!(shown.started_at.is_some() && shown.dead_go_at.is_some());
    let listed =
        cast.peer.admin.clone().list_protections(ListProtectionsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.protections, [shown]);
    assert!(listed.registry.unwrap().started_at.is_none(), "one service is not the registry");
    // The network is back.
    cast.pass(1_000, 0).await;
    reader.until("recovered", |view| count(view, InstanceStatus::Serving) == 50).await;
    let log = cast.peer.protection_events().await;
    let kinds: Vec<_> = log.iter().map(ProtectionEvent::kind).collect();
    assert_eq!(kinds, [ProtectionEventKind::Began, ProtectionEventKind::Ended]);
    assert!(cast.peer.events().await.iter().all(|event| event.kind() != EventKind::Removed));
    check(&cast, &reader).await;
}

#[tokio::test(start_paused = true)]
async fn who_never_comes_back_goes_after_ten_times_to_live_little_by_little() {
    let mut cast = Cast::of(InMemory::open(), &[("web", 20)]).await;
    let mut reader = Reader::synced(&cast.peer, &["web"]).await;
    cast.pass(11 * TTL, 12).await;
    assert_eq!(cast.peer.list("web").await.len(), 20);
    cast.pass(TTL, 12).await;
    let left = cast.peer.list("web").await.len();
    assert!((16..=18).contains(&left), "a fifth in a time to live: {left}");
    cast.pass(12 * TTL, 12).await;
    reader.until("the living", |view| view.set.len() == 8).await;
    assert_eq!(count(&reader.view, InstanceStatus::Serving), 8);
    assert!(cast.peer.protection("web").await.started_at.is_none());
    check(&cast, &reader).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_comes_back_and_none_of_many_goes_at_once() {
    let mut cast = Cast::of(InMemory::open(), &[("three", 3), ("ten", 10), ("pair", 2)]).await;
    let mut reader = Reader::synced(&cast.peer, &["three", "ten", "pair"]).await;
    cast.pass(2 * TTL, 15).await;
    reader.until("the pair is gone", |view| view.set.len() == 13).await;
    // Events carry the wall clock, which is not paused: when they happened is when they are heard.
    let mut heard = Vec::new();
    while !reader.view.set.is_empty() {
        let waiting = tokio::time::timeout(Duration::from_millis(60 * TTL), reader.message());
        waiting.await.expect("it does not hold for ever").unwrap();
        heard.push((reader.view.revision, cast.house.now()));
    }
    let mut truth = ReferenceHistory::gather(cast.peer.events().await, [&reader.record], []).unwrap();
    truth.events.retain(|event| event.service != "pair");
    for event in &mut truth.events {
        let millis = heard.iter().find(|(revision, _)| *revision >= event.revision).unwrap().1;
        let (seconds, rest) = (millis / 1_000, millis % 1_000 * 1_000_000);
        event.time = Some(Timestamp { seconds: seconds.try_into().unwrap(), nanos: rest.try_into().unwrap() });
    }
    invariant::never_empty_by_inference::check_by(|_| TTL, &truth, u64::MAX).unwrap();
    let in_longer = invariant::never_empty_by_inference::check_by(|_| 4 * TTL, &truth, u64::MAX);
    assert!(in_longer.is_err(), "they did go, and not much later than they had to");
}

#[tokio::test(start_paused = true)]
async fn goodbyes_and_other_boots_win_at_once() {
    let mut cast = Cast::of(InMemory::open(), &[("web", 20)]).await;
    let mut reader = Reader::synced(&cast.peer, &["web"]).await;
    cast.pass(2 * TTL, 12).await;
    reader.until("suspects", |view| count(view, InstanceStatus::Suspect) == 12).await;
    let now = cast.house.now();
    assert!(cast.peer.deregister("web", "i00", &cast.leases[0]).await.unwrap().is_some(), "its own goodbye");
    assert!(cast.peer.deregister("web", "i01", &Bytes::new()).await.unwrap().is_some(), "an operator's");
    let other = RegisterRequest { boot_id: "other".to_owned(), ..request("web", "i02") };
    cast.peer.register(other).await.expect("its heartbeat is missing: it need not insist");
    cast.peer.register(request("web", "i03")).await.expect("the boot itself");
    assert_eq!(cast.house.now(), now);
    reader.until("without them", |view| view.set.len() == 18 && count(view, InstanceStatus::Suspect) == 8).await;
    let why = cast.peer.events().await.into_iter().filter(|event| event.kind() == EventKind::Removed);
    assert!(why.map(|event| event.reason()).eq([RemovalReason::Deregistered; 2]));
    check(&cast, &reader).await;
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_heartbeats_was_never_gone() {
    let mut cast = Cast::of(InMemory::open(), &[("web", 10)]).await;
    cast.pass(2 * TTL, 6).await;
    assert_eq!(cast.peer.get("web", "i00").await.unwrap().status(), InstanceStatus::Suspect);
    let (states, _) = cast.beats.beat(&[&cast.leases[0]]).await.unwrap();
    assert_eq!(states, [LeaseState::Held]);
    sleep(Duration::from_millis(200)).await;
    let back = cast.peer.get("web", "i00").await.unwrap();
    assert_eq!((back.status(), back.registered_revision < back.revision), (InstanceStatus::Serving, true));
    assert_eq!(cast.peer.protection("web").await.suspects, 5);
}

#[tokio::test(start_paused = true)]
async fn an_operator_says_that_they_are_dead() {
    let mut cast = Cast::of(InMemory::open(), &[("web", 10), ("db", 3)]).await;
    let mut reader = Reader::synced(&cast.peer, &["web", "db"]).await;
    cast.pass(2 * TTL, 6).await;
    let refused = cast.peer.admin.clone().reset_protection(ResetProtectionRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(cast.peer.reset_protection(Some("db")).await, 0);
    assert_eq!(cast.peer.reset_protection(Some("web")).await, 6);
    let now = cast.house.now();
    reader.until("gone", |view| view.set.len() == 7).await;
    assert!(cast.house.now() <= now + 200);
    assert_eq!(cast.peer.protection_events().await.last().unwrap().kind(), ProtectionEventKind::Reset);
}

#[tokio::test(start_paused = true)]
async fn a_tenth_of_the_registry_is_too_much() {
    let services: Vec<String> = (0..12).map(|number| format!("pair{number:02}")).collect();
    let services: Vec<_> = services.iter().map(|service| (&**service, 2)).collect();
    let mut cast = Cast::of(InMemory::open(), &services).await;
    cast.pass(20_000, 0).await;
    cast.pass(2 * TTL, 3).await;
    assert_eq!(cast.house.leases(), 24, "three of 24 are more than a tenth");
    let shown = cast.peer.protection("").await;
    assert_eq!((shown.suspects, shown.limit, shown.started_at.is_some()), (3, 2, true));
    cast.pass(1_000, 0).await;
    assert_eq!(cast.peer.protection("").await.suspects, 0);
    // Two of them are believed, both of one service though they be.
    cast.pass(2 * TTL, 2).await;
    assert_eq!(cast.house.leases(), 22);
    assert!(cast.peer.list("pair00").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stalled_worker_makes_nobody_suspect() {
    let mut cast = Cast::of(InMemory::with_worker(), &[("web", 10), ("solo", 1)]).await;
    cast.pass(20_000, 0).await;
    cast.house.stall(true);
    // Heartbeats lie unread; nobody answers them.
    sleep(Duration::from_millis(3 * TTL)).await;
    cast.house.stall(false);
    cast.pass(20_000, 0).await;
    assert!(cast.peer.events().await.iter().all(|event| event.kind() == EventKind::Registered));
    assert!(cast.peer.protection_events().await.is_empty());
    // And its time goes on afterwards.
    cast.pass(2 * TTL, 1).await;
    assert_eq!(cast.peer.list("web").await.len(), 10 - 1);
}

async fn run(serve: &ServerProcess, arguments: &[&str]) -> (Option<i32>, String) {
    let ended = Child::run(&[arguments, &["--server", &serve.address()]].concat()).await;
    (ended.code(), ended.stdout + &ended.stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_verb_lists_and_resets() {
    let serve = ServerProcess::start(&[]).await;
    let (code, said) = run(&serve, &["self-preservation"]).await;
    assert_eq!((code, said.trim()), (Some(0), "nothing is protected"));
    let peer = serve.peer().await;
    for id in ["a", "b", "c", "d"] {
        peer.register(RegisterRequest { ttl: seconds(1.0), ..instance("web", id) }).await.unwrap();
    }
    let mut reader = Reader::synced(&peer, &["web"]).await;
    reader.until("suspects", |view| count(view, InstanceStatus::Suspect) == 4).await;
    let (code, said) = run(&serve, &["self-preservation", "-o", "json"]).await;
    let listed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &listed[0]["service"], &listed[0]["suspects"]), (Some(6), &"web".into(), &4.into()), "{said}");
    let (code, said) = run(&serve, &["self-preservation", "-o", "name"]).await;
    assert_eq!((code, &*said), (Some(6), "web\n"));
    let (_, metrics) = get(serve.http, "/metrics").await;
    for line in [
        "callboard_self_preservation_services 1",
        "callboard_suspect_instances 4",
        "callboard_self_preservation_starts_total 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    let (code, said) = run(&serve, &["self-preservation", "reset"]).await;
    assert_eq!(code, Some(2), "{said}");
    let (code, said) = run(&serve, &["self-preservation", "reset", "--all"]).await;
    assert!(code == Some(0) && said.ends_with(": 4\n"), "{said}");
    reader.until("gone", |view| view.set.is_empty()).await;
    let (code, said) = run(&serve, &["self-preservation", "events", "-o", "json"]).await;
    let events: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &events[0]["kind"], &events[1]["kind"]), (Some(0), &"began".into(), &"reset".into()), "{said}");
    serve.child.signal(rustix::process::Signal::TERM);
    let ended = within("its end", serve.child.ended()).await;
    assert!(ended.stderr.contains("too many instances are silent at once"), "{}", ended.stderr);
}
