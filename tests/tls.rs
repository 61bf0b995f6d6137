//! Certificates on both sides, their renewal, and who comes without.

mod command_line;
mod raw;

use std::{fs, net::SocketAddr};

use callboard::{
    client::{ClientError, Endpoint, TlsConfig, TlsProblem},
    config::Config,
    pb::callboard::v1::{ListServicesRequest, ListSubscribersRequest},
    server::Server,
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::harness::{CertFiles, Reader, TestCa, TestClient, TestServer, get, instance, within};

const ID: &str = "spiffe://test.example/ns/default/sa/web";

/// Listens with TLS on ports of its own.
fn listen(config: &mut Config, office: &TestCa, server: &CertFiles, clients: bool) {
    let any = "127.0.0.1:0".parse().unwrap();
    config.grpc_tls = Some(any);
    config.http_tls = Some(any);
    config.tls = Some(office.files(server, clients));
}

/// A registry with TLS, which asks clients for certificates or does not.
fn house(office: &TestCa, clients: bool) -> TestServer {
    TestServer::with(|config| listen(config, office, &office.server(), clients))
}

fn grpc_tls(house: &TestServer) -> SocketAddr {
    house.addresses().grpc_tls.unwrap()
}

fn peer(endpoint: &Endpoint) -> TestClient {
    TestClient::over(endpoint.channel())
}

/// What comes of a call.
async fn call(endpoint: &Endpoint) -> Result<(), ClientError> {
    let mut discovery = peer(endpoint).discovery;
    let answer = within("an answer", discovery.list_services(ListServicesRequest::default())).await;
    answer.map(drop).map_err(|status| endpoint.explain(status.into()))
}

async fn problem(endpoint: &Endpoint) -> TlsProblem {
    match call(endpoint).await.unwrap_err() {
        ClientError::Tls(problem) => problem,
        other => panic!("not a problem of TLS: {other:?}"),
    }
}

/// Returns once the metrics have this line: what a peer is told comes before it is counted.
async fn counted(house: &TestServer, line: &str) {
    let shown = async || get(house.http(), "/metrics").await.1.lines().any(|shown| shown == line);
    within(line, async { while !shown().await {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_shows_its_certificate() {
    let office = TestCa::open();
    let house = house(&office, false);
    call(&office.endpoint(grpc_tls(&house), None)).await.unwrap();
    let plain = house.peer().await;
    plain.register(instance("web", "a")).await.unwrap();
    let over_tls = peer(&office.endpoint(grpc_tls(&house), None));
    assert_eq!(over_tls.list("web").await.len(), 1, "both listeners open on one registry");
    counted(&house, "callboard_tls_handshakes_total{result=\"ok\"} 2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_says_what_is_wrong_with_the_registrys_certificate() {
    let (office, stranger) = (TestCa::open(), TestCa::open());
    let expired = office.issue("expired", &["localhost"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let elsewhere = office.issue("elsewhere", &["registry.example"], |_| {});
    let yet = office.issue("yet", &["localhost"], |params| params.not_before = rcgen::date_time_ymd(2999, 1, 1));
    let open = |papers: &CertFiles| TestServer::with(|config| listen(config, &office, papers, false));
    let good = house(&office, false);
    assert_eq!(problem(&stranger.endpoint(grpc_tls(&good), None)).await, TlsProblem::Untrusted);
    let house = open(&expired);
    assert_eq!(problem(&office.endpoint(grpc_tls(&house), None)).await, TlsProblem::Expired);
    let house = open(&yet);
    assert_eq!(problem(&office.endpoint(grpc_tls(&house), None)).await, TlsProblem::NotYet);
    let house = open(&elsewhere);
    let endpoint = office.endpoint(grpc_tls(&house), None);
    assert!(matches!(problem(&endpoint).await, TlsProblem::OtherName(_)));
    let named = TlsConfig::default().with_ca(office.ca()).with_server_name("registry.example");
    call(&Endpoint::with_tls(&endpoint.to_string(), named).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_to_the_wrong_port_is_told() {
    let office = TestCa::open();
    let house = house(&office, false);
    let plain: Endpoint = grpc_tls(&house).to_string().parse().unwrap();
    assert_eq!(problem(&plain).await, TlsProblem::OnlyTls);
    let without = problem(&office.endpoint(house.grpc(), None)).await;
    assert!(matches!(without, TlsProblem::NoTls | TlsProblem::HungUp), "{without}");
    counted(&house, "callboard_tls_handshakes_total{result=\"plaintext\"} 1").await;
    let (status, page) = get(house.addresses().http_tls.unwrap(), "/metrics").await;
    assert_eq!((status, page.contains("speaks TLS only")), (400, true), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_have_to_show_a_certificate_that_is_accepted() {
    let (office, stranger) = (TestCa::open(), TestCa::open());
    let house = house(&office, true);
    let at = grpc_tls(&house);
    let good = office.workload(ID);
    call(&office.endpoint(at, Some(&good))).await.unwrap();
    assert_eq!(problem(&office.endpoint(at, None)).await, TlsProblem::CertificateWanted);
    let refused = async |papers: &CertFiles| match problem(&office.endpoint(at, Some(papers))).await {
        TlsProblem::CertificateRefused(alert) => alert,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&stranger.workload(ID)).await, "UnknownCA");
    let expired = office.issue("expired", &["web"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    assert_eq!(refused(&expired).await, "CertificateExpired");
    counted(&house, "callboard_tls_handshakes_total{result=\"client_certificate\"} 3").await;
    house.peer().await.register(instance("web", "a")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_gives_a_connection_its_name() {
    let office = TestCa::open();
    let house = house(&office, true);
    let client = peer(&office.endpoint(grpc_tls(&house), Some(&office.workload(ID))));
    let _watching = Reader::synced(&client, &["web"]).await;
    let _nameless = Reader::synced(&house.peer().await, &["web"]).await;
    let request = ListSubscribersRequest::default();
    let listed = client.admin.clone().list_subscribers(request).await.unwrap().into_inner().subscribers;
    let names: Vec<_> = listed.iter().map(|subscriber| subscriber.identity.as_str()).collect();
    assert_eq!(names, [ID, ""]);

    let nobody = office.issue("nobody", &[], |params| params.distinguished_name = rcgen::DistinguishedName::new());
    call(&office.endpoint(grpc_tls(&house), Some(&nobody))).await.unwrap_err();
    counted(&house, "callboard_tls_handshakes_total{result=\"client_certificate\"} 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_for_new_connections() {
    let (office, next) = (TestCa::open(), TestCa::open());
    let papers = office.server();
    let house = TestServer::with(|config| listen(config, &office, &papers, false));
    let at = grpc_tls(&house);
    let before = peer(&office.endpoint(at, None));
    let mut watching = Reader::synced(&before, &["web"]).await;
    let renewed = next.server();
    fs::copy(&renewed.certificate, &papers.certificate).unwrap();
    fs::copy(&renewed.key, &papers.key).unwrap();
    within("the renewed certificate", async { while call(&next.endpoint(at, None)).await.is_err() {} }).await;
    assert_eq!(problem(&office.endpoint(at, None)).await, TlsProblem::Untrusted);
    before.register(instance("web", "a")).await.unwrap();
    watching.until("a change on the stream of before", |view| view.get("web", "a").is_some()).await;
    counted(&house, "callboard_tls_reloads_total{result=\"ok\"} 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_authorities_for_clients_are_for_new_connections() {
    let (office, next) = (TestCa::open(), TestCa::open());
    let house = house(&office, true);
    let at = grpc_tls(&house);
    let (old, new) = (office.workload(ID), next.workload(ID));
    let before = peer(&office.endpoint(at, Some(&old)));
    before.register(instance("web", "a")).await.unwrap();
    call(&office.endpoint(at, Some(&new))).await.unwrap_err();
    // The server's own certificate stays: clients trust the office that signed it.
    let trust = TlsConfig::default().with_ca(next.directory().join("server-ca.pem"));
    fs::copy(office.ca(), next.directory().join("server-ca.pem")).unwrap();
    fs::copy(next.ca(), office.ca()).unwrap();
    let endpoint = |papers: &CertFiles| {
        let tls = trust.clone().with_certificate(&papers.certificate, &papers.key);
        Endpoint::with_tls(&format!("localhost:{}", at.port()), tls).unwrap()
    };
    within("the other authority", async { while call(&endpoint(&new)).await.is_err() {} }).await;
    assert!(matches!(problem(&endpoint(&old)).await, TlsProblem::CertificateRefused(_)), "no way back, resumed or not");
    assert_eq!(before.list("web").await.len(), 1, "who was let in stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_renews_its_certificate_without_being_told() {
    let office = TestCa::open();
    let house = house(&office, true);
    let expire = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let papers = office.issue("client", &["web"], expire);
    let endpoint = office.endpoint(grpc_tls(&house), Some(&papers));
    call(&endpoint).await.unwrap_err();
    office.issue("client", &["web"], |_| {});
    call(&endpoint).await.unwrap();
    fs::write(&papers.key, "broken").unwrap();
    call(&endpoint).await.unwrap_err();
}

#[tokio::test]
async fn what_is_to_speak_tls_is_not_served_without() {
    let any = Some("127.0.0.1:0".parse().unwrap());
    let config = Config { grpc: any, http: any, grpc_tls: any, tls: None, ..Config::default() };
    let refused = Server::start(&config).unwrap_err().to_string();
    assert!(refused.contains("gRPC with TLS needs a certificate"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_health_port_tells_of_the_registry_and_nothing_else() {
    let house = TestServer::with(|config| config.health = Some("127.0.0.1:0".parse().unwrap()));
    let full = house.peer().await;
    full.register(instance("web", "a")).await.unwrap();
    let probe = TestClient::connect(house.addresses().health.unwrap()).await;
    let check = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let answer = probe.health.clone().check(check("")).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    let (known, unknown) = ("web", "nobody");
    for name in [known, unknown] {
        let status = probe.health.clone().check(check(name)).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().contains("ask its gRPC port"), "{status}");
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
    let leaving = tokio::spawn(house.leave());
    assert_eq!(within("news", own.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    leaving.await.unwrap();
}
