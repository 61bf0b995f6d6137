//! Tests of registrations against a fake registry, with tokio's clock paused.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    time::timeout,
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::{
    client::{
        fake::{FakeRegistry, KeepAlive},
        now,
    },
    pb::callboard::v1::{
        DeregisterResponse, KeepAliveResponse, LeaseReport, LeaseState, Notice, RegisterResponse,
        UpdateInstanceResponse,
    },
};

const TTL: Duration = Duration::from_secs(15);

/// Registration, and the fake registry that it uses.
struct Scene {
    fake: FakeRegistry,
    registration: Registration,
    events: UnboundedReceiver<RegistrationEvent>,
}

fn start(change: impl FnOnce(&mut RegisterRequest)) -> Scene {
    let fake = FakeRegistry::start();
    let (sender, events) = mpsc::unbounded_channel();
    let mut request = RegisterRequest {
        service: "web".to_owned(),
        id: "a".to_owned(),
        boot_id: "boot".to_owned(),
        ..RegisterRequest::default()
    };
    change(&mut request);
    let tell = move |event| drop(sender.send(event));
    let registration = Registration::start_over(fake.connect(), request, tell).unwrap();
    Scene { fake, registration, events }
}

impl Scene {
    /// Grants a lease, and returns the request.
    async fn grant(&mut self, lease: &'static str) -> RegisterRequest {
        let (request, reply) = self.fake.register().await;
        let granted = RegisterResponse {
            lease_id: Bytes::from_static(lease.as_bytes()),
            ttl: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
            revision: 7,
        };
        reply.send(Ok(granted)).unwrap();
        request
    }

    async fn event(&mut self) -> String {
        let event = timeout(Duration::from_mins(1), self.events.recv()).await.expect("an event in time");
        match event.expect("an event") {
            RegistrationEvent::Registered { again: false, .. } => "registered".to_owned(),
            RegistrationEvent::Registered { again: true, .. } => "registered again".to_owned(),
            RegistrationEvent::Updated { draining: true, .. } => "draining".to_owned(),
            RegistrationEvent::Updated { starting: true, .. } => "starting".to_owned(),
            RegistrationEvent::Updated { .. } => "ready".to_owned(),
            RegistrationEvent::Interrupted { error, .. } => format!("interrupted: {error}"),
            RegistrationEvent::Resumed { .. } => "resumed".to_owned(),
            RegistrationEvent::Degraded => "degraded".to_owned(),
            RegistrationEvent::Ended(end) => format!("{end:?}"),
        }
    }

    /// Registers, opens the heartbeat stream, and answers the first heartbeat.
    async fn establish(&mut self) -> KeepAlive {
        self.grant("one").await;
        assert_eq!(self.event().await, "registered");
        let mut stream = self.fake.keep_alive().await;
        assert_eq!(stream.lease().await, "one");
        stream.respond("one", LeaseState::Held).await;
        stream
    }
}

impl KeepAlive {
    async fn respond(&self, lease: &'static str, state: LeaseState) {
        let report = LeaseReport {
            lease_id: Bytes::from_static(lease.as_bytes()),
            state: state.into(),
            time_left: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
        };
        let response = KeepAliveResponse { leases: vec![report], notice: Notice::Unspecified.into() };
        self.responses.send(Ok(response)).await.unwrap();
    }

    async fn notify(&self, notice: Notice) {
        let response = KeepAliveResponse { leases: Vec::new(), notice: notice.into() };
        self.responses.send(Ok(response)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_sent_at_once_and_every_third_of_the_ttl() {
    let mut scene = start(|_| {});
    let began = now();
    let mut stream = scene.establish().await;
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    for count in 1..=6 {
        assert_eq!(stream.lease().await, "one");
        let due = count * TTL / 3;
        assert!((due..due + Duration::from_millis(100)).contains(&began.elapsed()), "{:?}", began.elapsed());
        stream.respond("one", LeaseState::Held).await;
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_lease_is_registered_again_and_heartbeats_follow_at_once() {
    let mut scene = start(|request| request.replace = true);
    let mut stream = scene.establish().await;
    stream.lease().await;
    stream.respond("one", LeaseState::Unknown).await;
    let again = scene.grant("two").await;
    let answered = now();
    assert_eq!(
        (again.boot_id.as_str(), again.replace),
        ("boot", false),
        "only the first registration may take over the id"
    );
    assert_eq!(scene.event().await, "registered again");
    assert_eq!(stream.lease().await, "two");
    assert!(answered.elapsed() < Duration::from_millis(100), "{:?}", answered.elapsed());
}

#[tokio::test(start_paused = true)]
async fn superseded_or_removed_lease_ends_the_registration() {
    for (state, end) in [(LeaseState::Superseded, "Superseded"), (LeaseState::Removed, "Removed")] {
        let mut scene = start(|_| {});
        let stream = scene.establish().await;
        stream.respond("one", state).await;
        assert_eq!(scene.event().await, end);
        assert!(scene.events.recv().await.is_none(), "nothing comes after the end");
        assert_eq!(format!("{:?}", scene.registration.ended().await), end);
    }
}

#[tokio::test(start_paused = true)]
async fn unresponsive_stream_is_replaced_and_the_lease_kept() {
    let mut scene = start(|_| {});
    let mut silent = scene.establish().await;
    silent.lease().await;
    let sent = now();
    let mut stream = scene.fake.keep_alive().await;
    let waited = sent.elapsed();
    assert!((TTL / 3..TTL / 3 + Duration::from_secs(1)).contains(&waited), "{waited:?}");
    assert_eq!(stream.lease().await, "one");
    stream.respond("one", LeaseState::Held).await;
    assert_eq!(scene.event().await, "interrupted: no response within 5s");
    assert_eq!(scene.event().await, "resumed");
}

#[tokio::test(start_paused = true)]
async fn reconnect_notice_opens_another_stream_within_200_ms() {
    let mut scene = start(|_| {});
    let stream = scene.establish().await;
    stream.notify(Notice::Degraded).await;
    stream.notify(Notice::Reconnect).await;
    let answered = now();
    let mut next = scene.fake.keep_alive().await;
    assert!(answered.elapsed() <= Duration::from_millis(200), "{:?}", answered.elapsed());
    assert_eq!(next.lease().await, "one");
    assert_eq!(scene.event().await, "degraded");
    assert_eq!(scene.event().await, "interrupted: the registry is shutting down");
}

#[tokio::test(start_paused = true)]
async fn unreachable_registry_is_retried_until_it_is_back() {
    let mut scene = start(|_| {});
    let stream = scene.establish().await;
    scene.fake.set_down(true);
    drop(stream);
    assert_eq!(scene.event().await, "interrupted: the registry closed the stream");
    for _ in 0..20 {
        let before = now();
        assert_eq!(scene.event().await, "interrupted: connection refused");
        assert!(before.elapsed() <= Duration::from_secs(5), "{:?}", before.elapsed());
    }
    scene.fake.set_down(false);
    let mut stream = scene.fake.keep_alive().await;
    stream.lease().await;
    stream.respond("one", LeaseState::Unknown).await;
    assert_eq!(scene.grant("two").await.boot_id, "boot");
}

#[tokio::test(start_paused = true)]
async fn id_held_by_another_boot_is_retried_after_the_requested_delay() {
    let mut scene = start(|_| {});
    let (_, reply) = scene.fake.register().await;
    let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(4)));
    let taken = Status::with_error_details(Code::AlreadyExists, "another boot holds it", details);
    reply.send(Err(taken)).unwrap();
    let rejected = now();
    assert_eq!(scene.event().await, "interrupted: another boot holds it");
    scene.grant("one").await;
    assert!((3_900..4_200).contains(&rejected.elapsed().as_millis()), "{:?}", rejected.elapsed());
    assert_eq!(scene.event().await, "registered");
}

#[tokio::test(start_paused = true)]
async fn permanent_rejection_ends_the_registration() {
    let mut scene = start(|_| {});
    let (_, reply) = scene.fake.register().await;
    reply.send(Err(Status::invalid_argument("`we b` is no service name"))).unwrap();
    assert!(scene.event().await.starts_with("Rejected"));
}

#[tokio::test(start_paused = true)]
async fn desired_state_is_reported_again_to_a_registry_that_forgot_the_lease() {
    let mut scene = start(|request| request.starting = true);
    assert!(scene.grant("one").await.starting);
    assert_eq!(scene.event().await, "registered");
    let mut stream = scene.fake.keep_alive().await;
    stream.lease().await;
    scene.registration.serving();
    assert!(!scene.grant("one").await.starting);
    assert_eq!(scene.event().await, "ready");
    let drained = scene.registration.set_draining(true);
    let respond = async {
        let (request, reply) = scene.fake.update().await;
        assert_eq!((request.lease_id.as_ref(), request.draining), (b"one".as_slice(), true));
        assert_eq!(request.update_mask.unwrap().paths, ["draining"]);
        reply.send(Ok(UpdateInstanceResponse::default())).unwrap();
    };
    tokio::join!(drained, respond);
    assert_eq!(scene.event().await, "draining");
    stream.respond("one", LeaseState::Unknown).await;
    assert!(!scene.grant("two").await.starting);
    let (request, _) = scene.fake.update().await;
    assert_eq!((request.lease_id.as_ref(), request.draining), (b"two".as_slice(), true));
}

#[tokio::test(start_paused = true)]
async fn deregister_names_the_lease() {
    let mut scene = start(|_| {});
    let _stream = scene.establish().await;
    scene.registration.leave();
    let (request, reply) = scene.fake.deregister().await;
    assert_eq!((request.lease_id.as_ref(), request.boot_id.as_str()), (b"one".as_slice(), ""));
    reply.send(Ok(DeregisterResponse { removed: true, revision: 8 })).unwrap();
    assert_eq!(scene.event().await, "Deregistered { removed: true }");
}

#[tokio::test(start_paused = true)]
async fn deregister_before_the_response_to_register_names_the_boot() {
    let mut scene = start(|_| {});
    let (_, _unanswered) = scene.fake.register().await;
    scene.registration.leave();
    let (request, _) = scene.fake.deregister().await;
    assert_eq!((request.lease_id.as_ref(), request.boot_id.as_str()), (b"".as_slice(), "boot"));
}

#[tokio::test(start_paused = true)]
async fn unanswered_deregister_times_out_after_two_seconds() {
    let mut scene = start(|_| {});
    let _stream = scene.establish().await;
    let left = now();
    scene.registration.leave();
    let (_, _unanswered) = scene.fake.deregister().await;
    assert_eq!(scene.event().await, "Unconfirmed(Timeout(2s))");
    assert!((2_000..2_200).contains(&left.elapsed().as_millis()), "{:?}", left.elapsed());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_handle_deregisters() {
    let mut scene = start(|_| {});
    let _stream = scene.establish().await;
    drop(scene.registration);
    assert_eq!(scene.fake.deregister().await.0.lease_id, "one");
}

#[test]
fn boot_id_is_the_same_throughout_the_process() {
    let boot = boot_id().unwrap();
    assert_eq!(boot.len(), 32);
    assert_eq!(boot, boot_id().unwrap());
}

#[tokio::test(start_paused = true)]
async fn register_with_unknown_outcome_is_repeated_with_the_same_boot() {
    let mut scene = start(|request| request.boot_id.clear());
    let (first, reply) = scene.fake.register().await;
    let mut details = ErrorDetails::with_error_info("OUTCOME_UNKNOWN", "callboard.dev", []);
    details.set_retry_info(Some(Duration::from_millis(500)));
    reply.send(Err(Status::with_error_details(Code::Unavailable, "no outcome within 30s", details))).unwrap();
    let event = scene.event().await;
    assert!(event.starts_with("interrupted: no outcome"), "{event}");
    let again = scene.grant("one").await;
    assert_eq!(
        (&again, again.boot_id.is_empty()),
        (&first, false),
        "the same boot, so that nothing is registered twice"
    );
    assert_eq!(scene.event().await, "registered");
}
