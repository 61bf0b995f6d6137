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
struct RegistrationTest {
    fake: FakeRegistry,
    registration: Registration,
    events: UnboundedReceiver<RegistrationEvent>,
}

fn start(change: impl FnOnce(&mut RegisterRequest)) -> RegistrationTest {
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
    RegistrationTest { fake, registration, events }
}

impl RegistrationTest {
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
    let mut test = start(|_| {});
    let began = now();
    let mut stream = test.establish().await;
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
    let mut test = start(|request| request.replace = true);
    let mut stream = test.establish().await;
    stream.lease().await;
    stream.respond("one", LeaseState::Unknown).await;
    let again = test.grant("two").await;
    let answered = now();
    assert_eq!(
        (again.boot_id.as_str(), again.replace),
        ("boot", false),
        "only the first registration may take over the id"
    );
    assert_eq!(test.event().await, "registered again");
    assert_eq!(stream.lease().await, "two");
    assert!(answered.elapsed() < Duration::from_millis(100), "{:?}", answered.elapsed());
}

#[tokio::test(start_paused = true)]
async fn superseded_or_removed_lease_ends_the_registration() {
    for (state, end) in [(LeaseState::Superseded, "Superseded"), (LeaseState::Removed, "Removed")] {
        let mut test = start(|_| {});
        let stream = test.establish().await;
        stream.respond("one", state).await;
        assert_eq!(test.event().await, end);
        assert!(test.events.recv().await.is_none(), "nothing comes after the end");
        assert_eq!(format!("{:?}", test.registration.ended().await), end);
    }
}

#[tokio::test(start_paused = true)]
async fn unresponsive_stream_is_replaced_and_the_lease_kept() {
    let mut test = start(|_| {});
    let mut silent = test.establish().await;
    silent.lease().await;
    let sent = now();
    let mut stream = test.fake.keep_alive().await;
    let waited = sent.elapsed();
    assert!((TTL / 3..TTL / 3 + Duration::from_secs(1)).contains(&waited), "{waited:?}");
    assert_eq!(stream.lease().await, "one");
    stream.respond("one", LeaseState::Held).await;
    assert_eq!(test.event().await, "interrupted: no response within 5s");
    assert_eq!(test.event().await, "resumed");
}

#[tokio::test(start_paused = true)]
async fn reconnect_notice_opens_another_stream_within_200_ms() {
    let mut test = start(|_| {});
    let stream = test.establish().await;
    stream.notify(Notice::Degraded).await;
    stream.notify(Notice::Reconnect).await;
    let answered = now();
    let mut next = test.fake.keep_alive().await;
    assert!(answered.elapsed() <= Duration::from_millis(200), "{:?}", answered.elapsed());
    assert_eq!(next.lease().await, "one");
    assert_eq!(test.event().await, "degraded");
    assert_eq!(test.event().await, "interrupted: the server is shutting down");
}

#[tokio::test(start_paused = true)]
async fn unreachable_registry_is_retried_until_it_is_back() {
    let mut test = start(|_| {});
    let stream = test.establish().await;
    test.fake.set_down(true);
    drop(stream);
    assert_eq!(test.event().await, "interrupted: the server closed the stream");
    for _ in 0..20 {
        let before = now();
        assert_eq!(test.event().await, "interrupted: connection refused");
        assert!(before.elapsed() <= Duration::from_secs(5), "{:?}", before.elapsed());
    }
    test.fake.set_down(false);
    let mut stream = test.fake.keep_alive().await;
    stream.lease().await;
    stream.respond("one", LeaseState::Unknown).await;
    assert_eq!(test.grant("two").await.boot_id, "boot");
}

#[tokio::test(start_paused = true)]
async fn id_held_by_another_boot_is_retried_after_the_requested_delay() {
    let mut test = start(|_| {});
    let (_, reply) = test.fake.register().await;
    let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(4)));
    let taken = Status::with_error_details(Code::AlreadyExists, "another boot holds it", details);
    reply.send(Err(taken)).unwrap();
    let rejected = now();
    assert_eq!(test.event().await, "interrupted: another boot holds it");
    test.grant("one").await;
    assert!((3_900..4_200).contains(&rejected.elapsed().as_millis()), "{:?}", rejected.elapsed());
    assert_eq!(test.event().await, "registered");
}

#[tokio::test(start_paused = true)]
async fn permanent_rejection_ends_the_registration() {
    let mut test = start(|_| {});
    let (_, reply) = test.fake.register().await;
    reply.send(Err(Status::invalid_argument("`we b` is no service name"))).unwrap();
    assert!(test.event().await.starts_with("Rejected"));
}

#[tokio::test(start_paused = true)]
async fn desired_state_is_reported_again_to_a_registry_that_forgot_the_lease() {
    let mut test = start(|request| request.starting = true);
    assert!(test.grant("one").await.starting);
    assert_eq!(test.event().await, "registered");
    let mut stream = test.fake.keep_alive().await;
    stream.lease().await;
    test.registration.serving();
    assert!(!test.grant("one").await.starting);
    assert_eq!(test.event().await, "ready");
    let drained = test.registration.set_draining(true);
    let respond = async {
        let (request, reply) = test.fake.update().await;
        assert_eq!((request.lease_id.as_ref(), request.draining), (b"one".as_slice(), true));
        assert_eq!(request.update_mask.unwrap().paths, ["draining"]);
        reply.send(Ok(UpdateInstanceResponse::default())).unwrap();
    };
    tokio::join!(drained, respond);
    assert_eq!(test.event().await, "draining");
    stream.respond("one", LeaseState::Unknown).await;
    assert!(!test.grant("two").await.starting);
    let (request, _) = test.fake.update().await;
    assert_eq!((request.lease_id.as_ref(), request.draining), (b"two".as_slice(), true));
}

#[tokio::test(start_paused = true)]
async fn deregister_names_the_lease() {
    let mut test = start(|_| {});
    let _stream = test.establish().await;
    test.registration.leave();
    let (request, reply) = test.fake.deregister().await;
    assert_eq!((request.lease_id.as_ref(), request.boot_id.as_str()), (b"one".as_slice(), ""));
    reply.send(Ok(DeregisterResponse { removed: true, revision: 8 })).unwrap();
    assert_eq!(test.event().await, "Deregistered { removed: true }");
}

#[tokio::test(start_paused = true)]
async fn deregister_before_the_response_to_register_names_the_boot() {
    let mut test = start(|_| {});
    let (_, _unanswered) = test.fake.register().await;
    test.registration.leave();
    let (request, _) = test.fake.deregister().await;
    assert_eq!((request.lease_id.as_ref(), request.boot_id.as_str()), (b"".as_slice(), "boot"));
}

#[tokio::test(start_paused = true)]
async fn unanswered_deregister_times_out_after_two_seconds() {
    let mut test = start(|_| {});
    let _stream = test.establish().await;
    let left = now();
    test.registration.leave();
    let (_, _unanswered) = test.fake.deregister().await;
    assert_eq!(test.event().await, "Unconfirmed(Timeout(2s))");
    assert!((2_000..2_200).contains(&left.elapsed().as_millis()), "{:?}", left.elapsed());
}

#[tokio::test(start_paused = true)]
async fn dropping_the_handle_deregisters() {
    let mut test = start(|_| {});
    let _stream = test.establish().await;
    drop(test.registration);
    assert_eq!(test.fake.deregister().await.0.lease_id, "one");
}

#[test]
fn boot_id_is_the_same_throughout_the_process() {
    let boot = boot_id().unwrap();
    assert_eq!(boot.len(), 32);
    assert_eq!(boot, boot_id().unwrap());
}

#[tokio::test(start_paused = true)]
async fn register_with_unknown_outcome_is_repeated_with_the_same_boot() {
    let mut test = start(|request| request.boot_id.clear());
    let (first, reply) = test.fake.register().await;
    let mut details = ErrorDetails::with_error_info("OUTCOME_UNKNOWN", "callboard.dev", []);
    details.set_retry_info(Some(Duration::from_millis(500)));
    reply.send(Err(Status::with_error_details(Code::Unavailable, "no outcome within 30s", details))).unwrap();
    let event = test.event().await;
    assert!(event.starts_with("interrupted: no outcome"), "{event}");
    let again = test.grant("one").await;
    assert_eq!(
        (&again, again.boot_id.is_empty()),
        (&first, false),
        "the same boot, so that nothing is registered twice"
    );
    assert_eq!(test.event().await, "registered");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_carry_the_load_that_the_layer_measures() {
    let mut test = start(|_| {});
    let mut stream = test.establish().await;
    assert!(stream.load().await.is_none(), "there is no layer");
    stream.respond("one", LeaseState::Held).await;
    let layer = test.registration.load_layer();
    let mut service =
        tower::ServiceBuilder::new().layer(layer).service(tower::service_fn(async |_: http::Request<()>| {
            Ok::<_, ClientError>(http::Response::new(String::new()))
        }));
    let request = http::Request::builder().uri("/pay.v1.Payments/Pay").body(()).unwrap();
    drop(tower::Service::call(&mut service, request).await.unwrap());
    assert_eq!(stream.load().await.unwrap().requests, 1);
    stream.respond("one", LeaseState::Held).await;
    assert_eq!(stream.load().await.unwrap().requests, 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_drains_and_waits_for_calls_before_it_deregisters() {
    let mut test = start(|_| {});
    let _stream = test.establish().await;
    let mut service = tower::ServiceBuilder::new().layer(test.registration.load_layer()).service(tower::service_fn(
        async |_: http::Request<()>| Ok::<_, ClientError>(http::Response::new(String::new())),
    ));
    let request = http::Request::builder().uri("/pay.v1.Payments/Pay").body(()).unwrap();
    let open = tower::Service::call(&mut service, request).await.unwrap();
    let began = now();
    let shutdown = tokio::spawn(test.registration.shutdown(Duration::from_mins(1)));
    let (update, reply) = test.fake.update().await;
    assert!(update.draining);
    reply.send(Ok(UpdateInstanceResponse::default())).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(open);
    let (_, reply) = test.fake.deregister().await;
    assert!((2..3).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    reply.send(Ok(DeregisterResponse { removed: true, revision: 8 })).unwrap();
    assert!(matches!(shutdown.await.unwrap(), RegistrationEnd::Deregistered { removed: true }));
}
