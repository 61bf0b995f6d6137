//! Callers: every event names the client or the part of the server that caused it.

use std::net::SocketAddr;

use callboard::pb::callboard::v1::{
    Caller, CallerKind, Check, CheckStatus, EventKind, InstanceStatus, ReportCheckRequest, TtlProbe, check::Probe,
};
use serde_json::json;

use crate::{
    consul_replay::client,
    harness::{Engine, Reader, TestCa, TestClient, TestServer, instance, seconds},
};

const SPIFFE_ID: &str = "spiffe://test.example/ns/default/sa/web";

async fn put(server: &TestServer, path: &str, body: &str) {
    let answer = client::ask(server.http(), "PUT", path, body, |text| text).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
}

/// Returns the callers of all events, the oldest first, each with what happened to which instance.
async fn callers(client: &TestClient) -> Vec<(String, EventKind, Caller)> {
    let events = client.events().await.into_iter();
    events.map(|event| (event.instance_id.clone(), event.kind(), event.caller.unwrap())).collect()
}

async fn kinds(client: &TestClient) -> Vec<(EventKind, CallerKind)> {
    callers(client).await.into_iter().map(|(_, kind, caller)| (kind, caller.kind())).collect()
}

fn is_loopback(peer: &str) -> bool {
    peer.parse::<SocketAddr>().is_ok_and(|peer| peer.ip().is_loopback())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_of_write_over_grpc_names_the_connection_on_every_engine() {
    for engine in Engine::all() {
        let server = TestServer::on(engine, |_| {});
        let (one, other) = (server.client().await, server.client().await);
        one.register(instance("web", "a")).await.unwrap();
        other.deregister("web", "a", &[].as_slice().into()).await.unwrap();
        let callers = callers(&one).await;
        let [(_, EventKind::Registered, registered), (_, EventKind::Removed, removed)] = &*callers else {
            panic!("{engine:?}: {callers:?}");
        };
        for caller in [registered, removed] {
            assert_eq!((caller.kind(), &*caller.identity), (CallerKind::Grpc, ""), "{engine:?}");
            assert!(is_loopback(&caller.peer), "{engine:?}: {caller:?}");
        }
        assert_ne!(registered.peer, removed.peer, "{engine:?}: two connections");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_of_write_over_consul_names_its_client_also_for_propagated_node_status() {
    let server = TestServer::open();
    put(&server, "/v1/agent/service/register", &json!({"Name": "web", "ID": "a", "Port": 80}).to_string()).await;
    put(&server, "/v1/agent/maintenance?enable=true", "").await;
    put(&server, "/v1/agent/service/deregister/a", "").await;
    let client = server.client().await;
    let callers: Vec<_> = callers(&client).await.into_iter().filter(|(id, ..)| id == "a").collect();
    let happened: Vec<_> = callers.iter().map(|(_, kind, _)| *kind).collect();
    assert_eq!(happened, [EventKind::Registered, EventKind::Updated, EventKind::Removed], "{callers:?}");
    for (.., caller) in callers {
        assert_eq!(caller.kind(), CallerKind::Consul);
        assert!(is_loopback(&caller.peer), "{caller:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_of_client_with_certificate_names_its_identity() {
    let ca = TestCa::open();
    let server = TestServer::with(|config| {
        config.grpc_tls = Some("127.0.0.1:0".parse().unwrap());
        config.tls = Some(ca.files(&ca.server(), true));
    });
    let endpoint = ca.endpoint(server.addresses().grpc_tls.unwrap(), Some(&ca.workload(SPIFFE_ID)));
    let client = TestClient::over(endpoint.channel());
    client.register(instance("web", "a")).await.unwrap();
    let callers = callers(&client).await;
    let [(_, EventKind::Registered, caller)] = &*callers else { panic!("{callers:?}") };
    assert_eq!((caller.kind(), &*caller.identity), (CallerKind::Grpc, SPIFFE_ID));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_of_expired_lease_names_expiry() {
    let server = TestServer::open();
    let client = server.client().await;
    let mut reader = Reader::synced(&client, &["web"]).await;
    client
        .register(callboard::pb::callboard::v1::RegisterRequest { ttl: seconds(1.0), ..instance("web", "a") })
        .await
        .unwrap();
    reader.until("a is registered", |view| view.get("web", "a").is_some()).await;
    reader.until("a has expired", |view| view.get("web", "a").is_none()).await;
    assert_eq!(
        kinds(&client).await,
        [(EventKind::Registered, CallerKind::Grpc), (EventKind::Removed, CallerKind::Expiry)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_of_check_names_its_reporter_or_the_health_checks() {
    let server = TestServer::open();
    let client = server.client().await;
    let mut reader = Reader::synced(&client, &["web"]).await;
    let check = Check { probe: Some(Probe::Ttl(TtlProbe {})), interval: seconds(1.0), ..Check::default() };
    let mut request = instance("web", "a");
    (request.ttl, request.checks) = (seconds(600.0), vec![check]);
    client.register(request).await.unwrap();
    let report = ReportCheckRequest {
        service: "web".to_owned(),
        id: "a".to_owned(),
        check_id: "ttl".to_owned(),
        status: CheckStatus::Passing.into(),
        output: String::new(),
    };
    client.report(report).await.unwrap();
    let status = |status| move |view: &crate::harness::View| view.get("web", "a").is_some_and(|a| a.status() == status);
    reader.until("the report", status(InstanceStatus::Serving)).await;
    reader.until("the end of the check's TTL", status(InstanceStatus::Unhealthy)).await;
    assert_eq!(
        kinds(&client).await,
        [
            (EventKind::Registered, CallerKind::Grpc),
            (EventKind::Updated, CallerKind::Grpc),
            (EventKind::Updated, CallerKind::HealthCheck)
        ]
    );
}
