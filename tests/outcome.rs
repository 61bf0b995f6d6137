//! Writes with an unknown outcome: a store that does not respond is not a rejection.

use std::{
    convert::Infallible,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use callboard::{
    clock::Clock,
    engine::{Disk, Durability, StartPoint, disk::DiskDependencies},
    metrics::Metrics,
    model::{Incarnation, Metadata},
    pb::callboard::v1::{
        Check, CheckStatus, InstanceStatus, RegisterRequest, ReportCheckRequest, TtlProbe, UpdateInstanceRequest,
        check::Probe,
    },
    protocol::consul::{AgentIdentity, Consul, ConsulService},
    protocol::grpc::GrpcApi,
    registry::{ChangeListener, Event},
    transport::Notifier,
};
use tempfile::TempDir;
use tokio::time::{pause, resume};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use tower::Service;

use crate::harness::{InMemory, TestClient, instance, seconds};

/// Holds up the thread of the store after a commit and before its answers, until it is let go.
#[derive(Debug)]
struct Stall {
    hubs: Arc<Notifier>,
    stalled: Mutex<bool>,
    over: Condvar,
}

impl Stall {
    fn set(&self, stalled: bool) {
        *self.stalled.lock().unwrap() = stalled;
        self.over.notify_all();
    }
}

impl ChangeListener for Stall {
    fn changed(&self, event: &Event) {
        self.hubs.changed(event);
        let _over = self.over.wait_while(self.stalled.lock().unwrap(), |stalled| *stalled).unwrap();
    }
}

/// A registry on a real store.
struct Stored {
    house: InMemory,
    stall: Arc<Stall>,
    _data: TempDir,
}

impl Stored {
    fn open() -> Self {
        let (hubs, clock, data) = (Arc::new(Notifier::new(1)), Arc::new(Clock::new(0)), TempDir::new().unwrap());
        let stall = Arc::new(Stall { hubs: Arc::clone(&hubs), stalled: Mutex::new(false), over: Condvar::new() });
        let fresh = StartPoint::new(Incarnation(7), clock.now());
        let (audience, metrics) = (Arc::clone(&stall) as Arc<dyn ChangeListener>, Metrics::new().store.clone());
        let surroundings = DiskDependencies { clock: Arc::clone(&clock), listener: audience, metrics, start: fresh };
        let failed = Box::new(|error| panic!("{error}"));
        let disk = Disk::open(data.path(), Durability::Durable, surroundings, failed).unwrap();
        let house = InMemory::over(Arc::new(disk), hubs, clock, Duration::ZERO);
        Self { house, stall, _data: data }
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.stall.set(false);
    }
}

fn assert_unknown(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "OUTCOME_UNKNOWN");
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    assert!(status.message().contains("repeat the call, which is safe"), "{status}");
}

fn check() -> Check {
    Check { probe: Some(Probe::Ttl(TtlProbe {})), interval: seconds(3_600.0), ..Check::default() }
}

async fn register(peer: &TestClient, id: &str) -> Result<(), Status> {
    let request = RegisterRequest { ttl: seconds(3_600.0), checks: vec![check()], ..instance("web", id) };
    peer.register(request).await.map(drop)
}

async fn update(peer: &TestClient) -> Result<(), Status> {
    let request = UpdateInstanceRequest { service: "web".into(), id: "there".into(), weight: 7, ..Default::default() };
    peer.update(&["weight"], request).await.map(drop)
}

async fn report(peer: &TestClient) -> Result<(), Status> {
    let (service, id, check_id) = ("web".into(), "there".into(), "ttl".into());
    let status = CheckStatus::Passing.into();
    peer.report(ReportCheckRequest { service, id, check_id, status, ..Default::default() }).await
}

async fn deregister(peer: &TestClient) -> Result<(), Status> {
    match peer.deregister("web", "leaves", &Bytes::new()).await {
        // It has left, by the call before this one.
        Err(status) if status.code() == Code::NotFound => Ok(()),
        left => left.map(drop),
    }
}

/// All kinds of writes at once. The first of them is held up after its commit, the others wait in the queue.
async fn write_all(peer: &TestClient) -> Vec<Result<(), Status>> {
    let (first, second) = tokio::join!(register(peer, "first"), register(peer, "second"));
    let (updated, reported, left) = tokio::join!(update(peer), report(peer), deregister(peer));
    vec![first, second, updated, reported, left]
}

#[tokio::test]
async fn write_on_stalled_store_is_told_that_its_outcome_is_unknown() {
    let stored = Stored::open();
    let peer = stored.house.peer().await;
    register(&peer, "there").await.unwrap();
    register(&peer, "leaves").await.unwrap();
    stored.stall.set(true);
    pause();
    for answer in write_all(&peer).await {
        assert_unknown(&answer.unwrap_err());
    }
    resume();
    // The one that came first is committed, though its client could not be told. Either may have come first.
    let committed = [peer.get("web", "first").await, peer.get("web", "second").await];
    assert!(committed.iter().any(Option::is_some));
    stored.stall.set(false);
    for answer in write_all(&peer).await {
        answer.unwrap();
    }
    let there = peer.get("web", "there").await.unwrap();
    assert_eq!((there.weight, there.status()), (7, InstanceStatus::Serving));
    assert!(peer.get("web", "second").await.is_some() && peer.get("web", "leaves").await.is_none());
    let changes: Vec<_> = peer.events().await.into_iter().filter(|event| event.instance_id == "first").collect();
    assert_eq!(changes.len(), 1, "the same boot registers once: {changes:?}");
}

#[tokio::test]
async fn write_waits_as_long_as_the_deadline_of_its_client() {
    let stored = Stored::open();
    let peer = stored.house.peer().await;
    stored.stall.set(true);
    pause();
    for span in [2, 300] {
        let mut request = Request::new(instance("web", &format!("i{span}")));
        request.set_timeout(Duration::from_secs(span));
        let asked = stored.house.now();
        peer.registry.clone().register(request).await.unwrap_err();
        let waited = stored.house.now() - asked;
        assert!((span * 1_000..span * 1_000 + 500).contains(&waited), "{span} s: {waited} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn request_that_does_not_arrive_is_refused() {
    let house = InMemory::open();
    let mut request = connection_request(&house, "/callboard.v1.RegistryService/Register");
    *request.body_mut() = never();
    let answer =
        GrpcApi::routes(house.shared(), house.checks()).unwrap().into_axum_router().call(request).await.unwrap();
    let status = Status::from_header_map(answer.headers()).unwrap();
    assert_eq!((status.code(), house.now() / 1_000), (Code::DeadlineExceeded, 30));
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "REQUEST_TIMEOUT");
}

/// A body that does not arrive.
fn never() -> Body {
    Body::from_stream(tokio_stream::pending::<Result<Bytes, Infallible>>())
}

fn connection_request(house: &InMemory, path: &str) -> http::Request<Body> {
    let mut request = http::Request::new(Body::empty());
    *request.uri_mut() = path.parse().unwrap();
    request.extensions_mut().insert(house.http_connection());
    request
}

/// Status, and what was said.
async fn put(consul: &Arc<Consul>, house: &InMemory, path: &str, body: Body) -> (u16, String) {
    let mut request = connection_request(house, path);
    (*request.method_mut(), *request.body_mut()) = (http::Method::PUT, body);
    let answer = ConsulService(Arc::clone(consul)).call(request).await.unwrap();
    let status = answer.status().as_u16();
    (status, String::from_utf8(to_bytes(answer.into_body(), 1 << 20).await.unwrap().into()).unwrap())
}

#[tokio::test]
async fn http_write_on_stalled_store_is_told_that_its_outcome_is_unknown() {
    let stored = Stored::open();
    let agent = AgentIdentity {
        datacenter: "dc1".into(),
        node: "n".into(),
        id: "00000000-0000-4000-8000-000000000000".into(),
        address: [127, 0, 0, 1].into(),
        meta: Metadata::default(),
    };
    let consul = Consul::new(stored.house.shared(), stored.house.checks(), agent, 10).unwrap();
    let register = || put(&consul, &stored.house, "/v1/agent/service/register", r#"{"Name": "web"}"#.into());
    stored.stall.set(true);
    pause();
    let (status, said) = register().await;
    assert_eq!(status, 504, "{said}");
    assert!(said.contains("send it again, which is safe"), "{said}");
    let (status, said) = put(&consul, &stored.house, "/v1/agent/service/register", never()).await;
    assert_eq!((status, said.contains("nothing was changed")), (408, true), "{said}");
    resume();
    stored.stall.set(false);
    assert_eq!(register().await.0, 200);
}
