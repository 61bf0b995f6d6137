//! Watchers: one list of the readers of every protocol.

use std::{
    io::Write as _,
    net::{TcpStream, UdpSocket},
};

use callboard::pb::callboard::v1::{
    ListWatchersRequest, ListWatchersResponse, QueryRate, RegisterRequest, WatchProtocol, Watcher,
};
use serde_json::json;
use tonic_health::pb::HealthCheckRequest;

use crate::{
    consul_replay::client,
    harness::{Reader, TestClient, TestServer, instance, seconds, within},
};

async fn list(client: &TestClient, service: &str) -> ListWatchersResponse {
    let request = ListWatchersRequest { service: service.to_owned(), ..ListWatchersRequest::default() };
    within("ListWatchers", client.admin.clone().list_watchers(request)).await.unwrap().into_inner()
}

/// Asks until the list is as wanted.
async fn until(client: &TestClient, wanted: impl Fn(&[Watcher]) -> bool) -> Vec<Watcher> {
    within("the list of watchers", async {
        loop {
            let watchers = list(client, "").await.watchers;
            if wanted(&watchers) {
                return watchers;
            }
        }
    })
    .await
}

fn protocols(watchers: &[Watcher]) -> Vec<WatchProtocol> {
    let mut protocols: Vec<_> = watchers.iter().map(Watcher::protocol).collect();
    protocols.sort_unstable();
    protocols
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_of_watchers_shows_every_protocol_until_the_watch_ends() {
    let server = TestServer::open();
    let client = server.client().await;
    client.register(RegisterRequest { ttl: seconds(600.0), ..instance("web", "a") }).await.unwrap();
    let watch = Reader::synced(&client, &["web"]).await;
    let request = HealthCheckRequest { service: "web".to_owned() };
    let health = within("Health/Watch", client.health.clone().watch(request)).await.unwrap();
    let index = client::ask(server.http(), "GET", "/v1/health/service/web", "", |text| text).await;
    let index = index.headers.get("X-Consul-Index").unwrap().clone();
    let path = format!("/v1/health/service/web?index={index}&wait=60s");
    let address = server.http();
    let blocking = tokio::spawn(async move { client::ask(address, "GET", &path, "", |text| text).await });

    let watchers = until(&client, |watchers| watchers.len() == 3).await;
    assert_eq!(protocols(&watchers), [WatchProtocol::Grpc, WatchProtocol::GrpcHealth, WatchProtocol::Consul]);
    for watcher in &watchers {
        assert_eq!((&*watcher.services, watcher.pending_changes), (&["web".to_owned()][..], 0), "{watcher:?}");
        assert!(watcher.peer.starts_with("127.0.0.1:") && watcher.connected_at.is_some(), "{watcher:?}");
    }
    let query = watchers.iter().find(|watcher| watcher.protocol() == WatchProtocol::Consul).unwrap();
    assert_eq!(query.sent_revision.to_string(), index, "the index that it waits to be exceeded");
    assert_eq!(query.user_agent, client::USER_AGENT);
    assert_eq!(list(&client, "web").await.watchers.len(), 3);
    assert!(list(&client, "other").await.watchers.is_empty());

    client.deregister("web", "a", &[].as_slice().into()).await.unwrap();
    assert_eq!(within("the blocking query", blocking).await.unwrap().status, 200);
    drop((watch, health));
    until(&client, <[Watcher]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_query_is_listed_under_the_name_of_its_service_in_any_case() {
    let server = TestServer::open();
    let client = server.client().await;
    client.register(RegisterRequest { ttl: seconds(600.0), ..instance("Web", "a") }).await.unwrap();
    let index = client::ask(server.http(), "GET", "/v1/health/service/Web", "", |text| text).await;
    let path = format!("/v1/health/service/Web?index={}&wait=60s", index.headers.get("X-Consul-Index").unwrap());
    let address = server.http();
    let query = tokio::spawn(async move { client::ask(address, "GET", &path, "", |text| text).await });
    until(&client, |watchers| watchers.len() == 1).await;
    for (service, listed) in [("Web", 1), ("web", 1), ("WEB", 1), ("webs", 0)] {
        assert_eq!(list(&client, service).await.watchers.len(), listed, "{service}");
    }
    query.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_user_agent_of_a_blocking_query_is_cut() {
    let server = TestServer::open();
    let client = server.client().await;
    let agent = "x".repeat(10_000);
    // An index that is never reached while the test runs.
    let path = format!("/v1/catalog/nodes?index={}&wait=60s", u64::MAX >> 1);
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: {agent}\r\n\r\n");
    let mut stream = TcpStream::connect(server.http()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let watchers = until(&client, |watchers| !watchers.is_empty()).await;
    assert_eq!(watchers[0].user_agent, agent[..128]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_for_an_invalid_name_is_listed_as_one_that_reads_nothing() {
    let server = TestServer::open();
    let client = server.client().await;
    let request = HealthCheckRequest { service: "not a name".to_owned() };
    let _health = within("Health/Watch", client.health.clone().watch(request)).await.unwrap();
    let watchers = until(&client, |watchers| !watchers.is_empty()).await;
    assert_eq!((&*watchers[0].resource, &*watchers[0].services), ("nothing", &[][..]), "{watchers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_of_watchers_names_what_is_not_a_service() {
    let server = TestServer::open();
    let client = server.client().await;
    let node = json!({"Node": "n1", "Address": "10.0.0.1"}).to_string();
    assert_eq!(client::ask(server.http(), "PUT", "/v1/catalog/register", &node, |text| text).await.status, 200);
    let _process = within("Health/Watch", client.health.clone().watch(HealthCheckRequest::default())).await.unwrap();
    for (path, resource) in [("/v1/catalog/nodes", "nodes"), ("/v1/catalog/node/n1", "node n1")] {
        let answer = client::ask(server.http(), "GET", path, "", |text| text).await;
        let path = format!("{path}?index={}&wait=60s", answer.headers.get("X-Consul-Index").unwrap());
        let address = server.http();
        let query = tokio::spawn(async move { client::ask(address, "GET", &path, "", |text| text).await });
        let shows = |watchers: &[Watcher]| watchers.iter().any(|watcher| watcher.resource == resource);
        let watchers = until(&client, shows).await;
        assert!(watchers.iter().any(|watcher| watcher.resource == "process"), "{watchers:?}");
        query.abort();
        until(&client, |watchers| !shows(watchers)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_of_watchers_has_rates_of_dns_queries() {
    let server = TestServer::with(|config| config.dns = Some("127.0.0.1:0".parse().unwrap()));
    let client = server.client().await;
    let udp = |rates: &[QueryRate]| rates.iter().find(|rate| rate.transport == "udp").unwrap().per_second;
    assert!(udp(&list(&client, "").await.query_rates) < f64::EPSILON);
    // A query for `web.service.consul`, type A.
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x07service\x06consul\x00\x00\x01\x00\x01";
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server.addresses().dns.unwrap()).unwrap();
    for _ in 0..20 {
        socket.send(query).unwrap();
        let mut answer = [0; 512];
        assert!(socket.recv(&mut answer).unwrap() > 0);
    }
    within("the second of the queries is over", async { while udp(&list(&client, "").await.query_rates) < 2.0 {} })
        .await;
}
