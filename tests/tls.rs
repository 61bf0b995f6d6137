//! Certificates on both sides, their renewal, and peers without TLS.

mod command_line;
mod raw;

use std::{fs, net::SocketAddr};

use callboard::{
    client::{ClientError, Endpoint, TlsConfig, TlsConnectError},
    config::Config,
    pb::callboard::v1::{ListServicesRequest, ListWatchersRequest},
    server::Server,
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::harness::{CertFiles, Reader, TestCa, TestClient, TestServer, get, instance, within};

const ID: &str = "spiffe://test.example/ns/default/sa/web";

/// Configures TLS listeners on free ports.
fn listen(config: &mut Config, authority: &TestCa, server: &CertFiles, clients: bool) {
    let any = "127.0.0.1:0".parse().unwrap();
    config.grpc_tls = Some(any);
    config.http_tls = Some(any);
    config.tls = Some(authority.files(server, clients));
}

/// Starts a registry with TLS. `clients`: whether it requires certificates of clients.
fn start(authority: &TestCa, clients: bool) -> TestServer {
    TestServer::with(|config| listen(config, authority, &authority.server(), clients))
}

fn grpc_tls(registry: &TestServer) -> SocketAddr {
    registry.addresses().grpc_tls.unwrap()
}

fn connect_client(endpoint: &Endpoint) -> TestClient {
    TestClient::over(endpoint.channel())
}

/// Makes a call.
async fn call(endpoint: &Endpoint) -> Result<(), ClientError> {
    let mut discovery = connect_client(endpoint).discovery;
    let answer = within("an answer", discovery.list_services(ListServicesRequest::default())).await;
    answer.map(drop).map_err(|status| endpoint.explain(status.into()))
}

async fn tls_error(endpoint: &Endpoint) -> TlsConnectError {
    match call(endpoint).await.unwrap_err() {
        ClientError::Tls(problem) => problem,
        other => panic!("not an error of TLS: {other:?}"),
    }
}

/// Waits until the metrics have this line: a peer gets its answer before it is counted.
async fn counted(registry: &TestServer, line: &str) {
    let shown = async || get(registry.http(), "/metrics").await.1.lines().any(|shown| shown == line);
    within(line, async { while !shown().await {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_with_the_authority_is_served() {
    let authority = TestCa::open();
    let registry = start(&authority, false);
    call(&authority.endpoint(grpc_tls(&registry), None)).await.unwrap();
    let plain = registry.client().await;
    plain.register(instance("web", "a")).await.unwrap();
    let over_tls = connect_client(&authority.endpoint(grpc_tls(&registry), None));
    assert_eq!(over_tls.list("web").await.len(), 1, "both listeners open on one registry");
    counted(&registry, "callboard_tls_handshakes_total{result=\"ok\"} 2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_error_names_the_defect_of_the_registrys_certificate() {
    let (authority, stranger) = (TestCa::open(), TestCa::open());
    let expired =
        authority.issue("expired", &["localhost"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let elsewhere = authority.issue("elsewhere", &["registry.example"], |_| {});
    let yet = authority.issue("yet", &["localhost"], |params| params.not_before = rcgen::date_time_ymd(2999, 1, 1));
    let open = |files: &CertFiles| TestServer::with(|config| listen(config, &authority, files, false));
    let good = start(&authority, false);
    assert_eq!(tls_error(&stranger.endpoint(grpc_tls(&good), None)).await, TlsConnectError::UnknownAuthority);
    let registry = open(&expired);
    assert_eq!(tls_error(&authority.endpoint(grpc_tls(&registry), None)).await, TlsConnectError::Expired);
    let registry = open(&yet);
    assert_eq!(tls_error(&authority.endpoint(grpc_tls(&registry), None)).await, TlsConnectError::NotYetValid);
    let registry = open(&elsewhere);
    let endpoint = authority.endpoint(grpc_tls(&registry), None);
    assert!(matches!(tls_error(&endpoint).await, TlsConnectError::NameMismatch(_)));
    let named = TlsConfig::default().with_ca(authority.ca()).with_server_name("registry.example");
    call(&Endpoint::with_tls(&endpoint.to_string(), named).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_to_the_wrong_port_gets_the_reason() {
    let authority = TestCa::open();
    let registry = start(&authority, false);
    let plain: Endpoint = grpc_tls(&registry).to_string().parse().unwrap();
    assert_eq!(tls_error(&plain).await, TlsConnectError::TlsRequired);
    let without = tls_error(&authority.endpoint(registry.grpc(), None)).await;
    assert!(matches!(without, TlsConnectError::NoTls | TlsConnectError::ConnectionClosed), "{without}");
    counted(&registry, "callboard_tls_handshakes_total{result=\"plaintext\"} 1").await;
    let (status, page) = get(registry.addresses().http_tls.unwrap(), "/metrics").await;
    assert_eq!((status, page.contains("speaks TLS only")), (400, true), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_without_an_accepted_certificate_is_rejected() {
    let (authority, stranger) = (TestCa::open(), TestCa::open());
    let registry = start(&authority, true);
    let at = grpc_tls(&registry);
    let good = authority.workload(ID);
    call(&authority.endpoint(at, Some(&good))).await.unwrap();
    assert_eq!(tls_error(&authority.endpoint(at, None)).await, TlsConnectError::CertificateRequired);
    let refused = async |files: &CertFiles| match tls_error(&authority.endpoint(at, Some(files))).await {
        TlsConnectError::CertificateRejected(alert) => alert,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&stranger.workload(ID)).await, "UnknownCA");
    let expired = authority.issue("expired", &["web"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    assert_eq!(refused(&expired).await, "CertificateExpired");
    counted(&registry, "callboard_tls_handshakes_total{result=\"client_certificate\"} 3").await;
    registry.client().await.register(instance("web", "a")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificate_gives_the_connection_its_identity() {
    let authority = TestCa::open();
    let registry = start(&authority, true);
    let client = connect_client(&authority.endpoint(grpc_tls(&registry), Some(&authority.workload(ID))));
    let _watching = Reader::synced(&client, &["web"]).await;
    let _nameless = Reader::synced(&registry.client().await, &["web"]).await;
    let request = ListWatchersRequest::default();
    let listed = client.admin.clone().list_watchers(request).await.unwrap().into_inner().watchers;
    let names: Vec<_> = listed.iter().map(|watcher| watcher.identity.as_str()).collect();
    assert_eq!(names, [ID, ""]);

    let nobody = authority.issue("nobody", &[], |params| params.distinguished_name = rcgen::DistinguishedName::new());
    call(&authority.endpoint(grpc_tls(&registry), Some(&nobody))).await.unwrap_err();
    counted(&registry, "callboard_tls_handshakes_total{result=\"client_certificate\"} 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_certificate_is_used_for_new_connections() {
    let (authority, next) = (TestCa::open(), TestCa::open());
    let files = authority.server();
    let registry = TestServer::with(|config| listen(config, &authority, &files, false));
    let at = grpc_tls(&registry);
    let before = connect_client(&authority.endpoint(at, None));
    let mut watching = Reader::synced(&before, &["web"]).await;
    let renewed = next.server();
    fs::copy(&renewed.certificate, &files.certificate).unwrap();
    fs::copy(&renewed.key, &files.key).unwrap();
    within("the renewed certificate", async { while call(&next.endpoint(at, None)).await.is_err() {} }).await;
    assert_eq!(tls_error(&authority.endpoint(at, None)).await, TlsConnectError::UnknownAuthority);
    before.register(instance("web", "a")).await.unwrap();
    watching.until("a change on the stream of before", |view| view.get("web", "a").is_some()).await;
    counted(&registry, "callboard_tls_reloads_total{result=\"ok\"} 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_client_authority_is_used_for_new_connections() {
    let (authority, next) = (TestCa::open(), TestCa::open());
    let registry = start(&authority, true);
    let at = grpc_tls(&registry);
    let (old, new) = (authority.workload(ID), next.workload(ID));
    let before = connect_client(&authority.endpoint(at, Some(&old)));
    before.register(instance("web", "a")).await.unwrap();
    call(&authority.endpoint(at, Some(&new))).await.unwrap_err();
    // The server's own certificate stays: clients trust the authority that signed it.
    let trust = TlsConfig::default().with_ca(next.directory().join("server-ca.pem"));
    fs::copy(authority.ca(), next.directory().join("server-ca.pem")).unwrap();
    fs::copy(next.ca(), authority.ca()).unwrap();
    let endpoint = |files: &CertFiles| {
        let tls = trust.clone().with_certificate(&files.certificate, &files.key);
        Endpoint::with_tls(&format!("localhost:{}", at.port()), tls).unwrap()
    };
    within("the other authority", async { while call(&endpoint(&new)).await.is_err() {} }).await;
    assert!(
        matches!(tls_error(&endpoint(&old)).await, TlsConnectError::CertificateRejected(_)),
        "rejected, by a resumed session too"
    );
    assert_eq!(before.list("web").await.len(), 1, "the open connection stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_reads_its_renewed_certificate_for_the_next_connection() {
    let authority = TestCa::open();
    let registry = start(&authority, true);
    let expire = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let files = authority.issue("client", &["web"], expire);
    let endpoint = authority.endpoint(grpc_tls(&registry), Some(&files));
    call(&endpoint).await.unwrap_err();
    authority.issue("client", &["web"], |_| {});
    call(&endpoint).await.unwrap();
    fs::write(&files.key, "malformed").unwrap();
    call(&endpoint).await.unwrap_err();
}

#[tokio::test]
async fn tls_listener_without_certificate_does_not_start() {
    let any = Some("127.0.0.1:0".parse().unwrap());
    let config = Config { grpc: any, http: any, grpc_tls: any, tls: None, ..Config::default() };
    let refused = Server::start(&config).unwrap_err().to_string();
    assert!(refused.contains("gRPC with TLS needs a certificate"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_port_serves_the_health_of_the_registry_alone() {
    let registry = TestServer::with(|config| config.health = Some("127.0.0.1:0".parse().unwrap()));
    let full = registry.client().await;
    full.register(instance("web", "a")).await.unwrap();
    let probe = TestClient::connect(registry.addresses().health.unwrap()).await;
    let check = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let answer = probe.health.clone().check(check("")).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    let (known, unknown) = ("web", "nobody");
    for name in [known, unknown] {
        let status = probe.health.clone().check(check(name)).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().contains("ask the gRPC listener"), "{status}");
    }
    let mut client = probe.health.clone();
    let mut watch = client.watch(check("web")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    let status = probe.discovery.clone().list_services(ListServicesRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
    let status = probe.register(instance("web", "b")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status}");

    let mut own = client.watch(check("")).await.unwrap().into_inner();
    assert_eq!(own.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let shutdown = tokio::spawn(registry.leave());
    assert_eq!(within("news", own.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    shutdown.await.unwrap();
}
