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
    protocol::xds::XdsApi,
    registry::{ChangeListener, Event},
    transport::Notifier,
};
use tempfile::TempDir;
use tokio::{
    sync::Notify,
    time::{pause, resume},
};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use tower::Service;

use crate::harness::{InMemory, TestClient, instance, seconds};

/// Change listener that blocks the store's thread after a commit and before its responses, while `stalled` is set.
#[derive(Debug)]
struct Stall {
    notifier: Arc<Notifier>,
    stalled: Mutex<bool>,
    /// Notified when a write is committed and blocked.
    blocked: Notify,
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
        self.notifier.changed(event);
        let stalled = self.stalled.lock().unwrap();
        if *stalled {
            self.blocked.notify_one();
        }
        let _over = self.over.wait_while(stalled, |stalled| *stalled).unwrap();
    }
}

/// Registry on a data directory, whose store can be stalled.
struct Stored {
    server: InMemory,
    stall: Arc<Stall>,
    _data: TempDir,
}

impl Stored {
    fn open() -> Self {
        let (notifier, clock, data) = (Arc::new(Notifier::new(1)), Arc::new(Clock::new(0)), TempDir::new().unwrap());
        let stall = Arc::new(Stall {
            notifier: Arc::clone(&notifier),
            stalled: Mutex::new(false),
            blocked: Notify::new(),
            over: Condvar::new(),
        });
        let fresh = StartPoint::new(Incarnation(7), clock.now());
        let (listener, metrics) = (Arc::clone(&stall) as Arc<dyn ChangeListener>, Metrics::new().store.clone());
        let dependencies = DiskDependencies { clock: Arc::clone(&clock), listener, metrics, start: fresh };
        let failed = Box::new(|error| panic!("{error}"));
        let disk = Disk::open(data.path(), Durability::Durable, dependencies, failed).unwrap();
        let server = InMemory::over(Arc::new(disk), notifier, clock, Duration::ZERO);
        Self { server, stall, _data: data }
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

async fn register(client: &TestClient, id: &str) -> Result<(), Status> {
    let request = RegisterRequest { ttl: seconds(3_600.0), checks: vec![check()], ..instance("web", id) };
    client.register(request).await.map(drop)
}

async fn update(client: &TestClient) -> Result<(), Status> {
    let request = UpdateInstanceRequest { service: "web".into(), id: "there".into(), weight: 7, ..Default::default() };
    client.update(&["weight"], request).await.map(drop)
}

async fn report(client: &TestClient) -> Result<(), Status> {
    let (service, id, check_id) = ("web".into(), "there".into(), "ttl".into());
    let status = CheckStatus::Passing.into();
    client.report(ReportCheckRequest { service, id, check_id, status, ..Default::default() }).await
}

async fn deregister(client: &TestClient) -> Result<(), Status> {
    match client.deregister("web", "leaves", &Bytes::new()).await {
        // The call before this one removed it.
        Err(status) if status.code() == Code::NotFound => Ok(()),
        left => left.map(drop),
    }
}

/// Sends all kinds of writes at once. The first is blocked after its commit, and the others wait in the queue.
async fn write_all(client: &TestClient) -> Vec<Result<(), Status>> {
    let (first, second) = tokio::join!(register(client, "first"), register(client, "second"));
    let (updated, reported, left) = tokio::join!(update(client), report(client), deregister(client));
    vec![first, second, updated, reported, left]
}

#[tokio::test]
async fn write_on_stalled_store_fails_with_unknown_outcome() {
    let stored = Stored::open();
    let client = stored.server.client().await;
    register(&client, "there").await.unwrap();
    register(&client, "leaves").await.unwrap();
    stored.stall.set(true);
    // The clock is paused after the first commit: a paused clock skips to the deadlines of the writes while the disk works.
    let paused = async {
        stored.stall.blocked.notified().await;
        pause();
    };
    let (answers, ()) = tokio::join!(write_all(&client), paused);
    for answer in answers {
        assert_unknown(&answer.unwrap_err());
    }
    resume();
    // The first write is committed, although its client got no response. Either write may be the first.
    let committed = [client.get("web", "first").await, client.get("web", "second").await];
    assert!(committed.iter().any(Option::is_some));
    stored.stall.set(false);
    for answer in write_all(&client).await {
        answer.unwrap();
    }
    let there = client.get("web", "there").await.unwrap();
    assert_eq!((there.weight, there.status()), (7, InstanceStatus::Serving));
    assert!(client.get("web", "second").await.is_some() && client.get("web", "leaves").await.is_none());
    let changes: Vec<_> = client.events().await.into_iter().filter(|event| event.instance_id == "first").collect();
    assert_eq!(changes.len(), 1, "the same boot registers once: {changes:?}");
}

#[tokio::test]
async fn write_waits_as_long_as_the_deadline_of_its_client() {
    let stored = Stored::open();
    let client = stored.server.client().await;
    stored.stall.set(true);
    pause();
    for span in [2, 300] {
        let mut request = Request::new(instance("web", &format!("i{span}")));
        request.set_timeout(Duration::from_secs(span));
        let asked = stored.server.now();
        client.registry.clone().register(request).await.unwrap_err();
        let waited = stored.server.now() - asked;
        assert!((span * 1_000..span * 1_000 + 500).contains(&waited), "{span} s: {waited} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn request_that_does_not_arrive_times_out() {
    let server = InMemory::open();
    let mut request = connection_request(&server, "/callboard.v1.RegistryService/Register");
    *request.body_mut() = never();
    let answer = GrpcApi::routes(server.shared(), server.checks(), XdsApi::new(server.shared()).routes())
        .unwrap()
        .into_axum_router()
        .call(request)
        .await
        .unwrap();
    let status = Status::from_header_map(answer.headers()).unwrap();
    assert_eq!((status.code(), server.now() / 1_000), (Code::DeadlineExceeded, 30));
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "REQUEST_TIMEOUT");
}

/// Returns a body that does not arrive.
fn never() -> Body {
    Body::from_stream(tokio_stream::pending::<Result<Bytes, Infallible>>())
}

fn connection_request(server: &InMemory, path: &str) -> http::Request<Body> {
    let mut request = http::Request::new(Body::empty());
    *request.uri_mut() = path.parse().unwrap();
    request.extensions_mut().insert(server.http_connection());
    request
}

/// Sends a PUT request; returns the status and the body of the response.
async fn put(consul: &Arc<Consul>, server: &InMemory, path: &str, body: Body) -> (u16, String) {
    let mut request = connection_request(server, path);
    (*request.method_mut(), *request.body_mut()) = (http::Method::PUT, body);
    let answer = ConsulService(Arc::clone(consul)).call(request).await.unwrap();
    let status = answer.status().as_u16();
    (status, String::from_utf8(to_bytes(answer.into_body(), 1 << 20).await.unwrap().into()).unwrap())
}

#[tokio::test]
async fn http_write_on_stalled_store_fails_with_unknown_outcome() {
    let stored = Stored::open();
    let agent = AgentIdentity {
        datacenter: "dc1".into(),
        node: "n".into(),
        id: "00000000-0000-4000-8000-000000000000".into(),
        address: [127, 0, 0, 1].into(),
        meta: Metadata::default(),
    };
    let consul = Consul::new(stored.server.shared(), stored.server.checks(), agent, 10).unwrap();
    let register = || put(&consul, &stored.server, "/v1/agent/service/register", r#"{"Name": "web"}"#.into());
    stored.stall.set(true);
    pause();
    let (status, text) = register().await;
    assert_eq!(status, 504, "{text}");
    assert!(text.contains("send it again, which is safe"), "{text}");
    let (status, text) = put(&consul, &stored.server, "/v1/agent/service/register", never()).await;
    assert_eq!((status, text.contains("nothing was changed")), (408, true), "{text}");
    resume();
    stored.stall.set(false);
    assert_eq!(register().await.0, 200);
}
