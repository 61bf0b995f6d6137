//! Consul's HTTP API beside the native one, on one registry: registration, checks, blocking queries, hostile clients.

use std::{net::SocketAddr, time::Duration};

use callboard::pb::callboard::v1::InstanceStatus;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    consul_replay::client,
    harness::{Child, Reader, ServerProcess, instance, metric, metric_becomes, wall, within},
};

/// Response of Consul's API.
#[derive(Debug)]
pub struct Said {
    pub status: u16,
    pub index: u64,
    pub body: Value,
}

pub async fn ask(serve: &ServerProcess, method: &str, path: &str, body: &str) -> Said {
    let answer = client::ask(serve.http, method, path, body, |text| text).await;
    let index = answer.headers.get("X-Consul-Index").map_or(0, |index| index.parse().unwrap());
    Said { status: answer.status, index, body: answer.body }
}

pub async fn get(serve: &ServerProcess, path: &str) -> Said {
    ask(serve, "GET", path, "").await
}

pub async fn put(serve: &ServerProcess, path: &str, body: &Value) -> Said {
    ask(serve, "PUT", path, &body.to_string()).await
}

/// Registers, which has to succeed.
pub async fn register(serve: &ServerProcess, body: Value) {
    let said = put(serve, "/v1/agent/service/register", &body).await;
    assert_eq!(said.status, 200, "{body}: {said:?}");
}

/// Asks until the answer is as wanted.
pub async fn until(serve: &ServerProcess, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    within(path, async {
        let mut index = 0;
        loop {
            let between = if path.contains('?') { '&' } else { '?' };
            let said = get(serve, &format!("{path}{between}index={index}&wait=1s")).await;
            if wanted(&said.body) {
                return said.body;
            }
            index = said.index;
        }
    })
    .await
}

pub fn len(body: &Value) -> usize {
    body.as_array().map_or(0, Vec::len)
}

/// A target of checks that answers each request with this.
async fn target(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 1024]).await;
                let _ = socket.write_all(answer).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_through_one_protocol_is_visible_through_the_other() {
    let serve = ServerProcess::start(&[]).await;
    let client = serve.client().await;
    let mut reader = Reader::synced(&client, &["web"]).await;
    register(
        &serve,
        json!({"Name": "web", "ID": "w1", "Address": "10.0.0.1", "Port": 80, "Tags": ["v1"], "Meta": {"k": "v"}}),
    )
    .await;
    reader.until("the Consul registration", |view| view.set.len() == 1).await;
    let found = reader.view.set.values().next().unwrap().clone();
    assert_eq!((found.addresses[0].host.as_str(), found.addresses[0].port), ("10.0.0.1", 80));
    assert_eq!(
        (found.tags, found.metadata["k"].as_str(), found.status),
        (vec!["v1".to_owned()], "v", InstanceStatus::Serving.into())
    );

    let lease = client.register(instance("web", "native")).await.unwrap().lease_id;
    let entries = until(&serve, "/v1/health/service/web?passing", |body| len(body) == 2).await;
    assert_eq!(entries[0]["Service"]["ID"], "native");
    assert_eq!(entries[0]["Checks"][1]["Name"], "Lease");
    let services = get(&serve, "/v1/catalog/services").await.body;
    assert_eq!(services, json!({"consul": [], "web": ["v1"]}));
    // Draining through one protocol shows in the other; then the instance deregisters.
    ask(&serve, "PUT", "/v1/agent/service/maintenance/w1?enable=true&reason=why", "").await;
    reader
        .until("maintenance", |view| view.set.values().any(|one| one.status == i32::from(InstanceStatus::Draining)))
        .await;
    client.deregister("web", "native", &lease).await.unwrap();
    until(&serve, "/v1/health/service/web", |body| len(body) == 1).await;
    assert_eq!(len(&get(&serve, "/v1/health/service/web?passing").await.body), 0);
    assert_eq!(ask(&serve, "PUT", "/v1/agent/service/deregister/w1", "").await.status, 200);
    reader.until("the goodbye", |view| view.set.is_empty()).await;
}

/// Without a filter, tags come from the cache of each service. With a filter that matches everything, they are collected anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_of_services_shows_each_change() {
    let serve = ServerProcess::start(&[]).await;
    let service = |name: &str, id: &str, tags: &[&str]| json!({"Name": name, "ID": id, "Tags": tags});
    let steps = [
        (service("web", "a", &["v1", "eu"]), json!({"consul": [], "web": ["eu", "v1"]})),
        (service("db", "c", &[]), json!({"consul": [], "db": [], "web": ["eu", "v1"]})),
        (service("web", "b", &["v2", "eu"]), json!({"consul": [], "db": [], "web": ["eu", "v1", "v2"]})),
        (service("web", "a", &["v2"]), json!({"consul": [], "db": [], "web": ["eu", "v2"]})),
        (service("db", "b", &["eu"]), json!({"consul": [], "db": ["eu"], "web": ["v2"]})),
        (service("consul", "x", &["own"]), json!({"consul": ["own"], "db": ["eu"], "web": ["v2"]})),
    ];
    for (body, wanted) in steps {
        register(&serve, body).await;
        assert_eq!(get(&serve, "/v1/catalog/services").await.body, wanted);
        assert_eq!(get(&serve, "/v1/catalog/services?filter=ServiceName+!=+%22%22").await.body, wanted);
    }
    for id in ["a", "b", "c", "x"] {
        put(&serve, &format!("/v1/agent/service/deregister/{id}"), &json!(null)).await;
    }
    assert_eq!(get(&serve, "/v1/catalog/services").await.body, json!({"consul": []}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_registered_under_another_name_moves_and_leased_id_is_rejected() {
    let serve = ServerProcess::start(&[]).await;
    register(&serve, json!({"Name": "web", "ID": "a", "Port": 1})).await;
    register(&serve, json!({"Name": "api", "ID": "a", "Port": 1})).await;
    assert_eq!(len(&get(&serve, "/v1/catalog/service/web").await.body), 0);
    assert_eq!(len(&get(&serve, "/v1/catalog/service/api").await.body), 1);
    let listed = get(&serve, "/v1/agent/services").await.body;
    assert_eq!(listed.as_object().unwrap().len(), 1);
    assert_eq!(listed["a"]["Service"], "api");
    serve.client().await.register(instance("db", "leased")).await.unwrap();
    let refused = put(&serve, "/v1/agent/service/register", &json!({"Name": "db", "ID": "leased", "Port": 1})).await;
    assert_eq!(refused.status, 409);
    assert!(refused.body.as_str().unwrap().contains("with a lease"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_registered_under_several_names_at_once_has_one() {
    let data = TempDir::new().unwrap();
    // Each takes its time to get to the disk.
    let serve = ServerProcess::start(&["--data-dir", data.path().to_str().unwrap()]).await;
    for n in 0..10 {
        let id = format!("i{n}");
        let bodies = ["a", "b", "c"].map(|name| json!({"Name": name, "ID": id}));
        let asked = bodies.each_ref().map(|body| put(&serve, "/v1/agent/service/register", body));
        let [a, b, c] = asked;
        let (a, b, c) = tokio::join!(a, b, c);
        assert_eq!([a.status, b.status, c.status], [200; 3]);
        let services = get(&serve, "/v1/catalog/services").await.body;
        assert_eq!(services.as_object().unwrap().len(), 2, "{services}");
        assert_eq!(ask(&serve, "PUT", &format!("/v1/agent/service/deregister/{id}"), "").await.status, 200);
        assert_eq!(get(&serve, "/v1/catalog/services").await.body, json!({"consul": []}));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn id_that_moved_during_a_kill_is_in_one_service_after_restart() {
    let data = TempDir::new().unwrap();
    let place = |name: &str| data.path().join(name).to_str().unwrap().to_owned();
    let serve = ServerProcess::start(&["--data-dir", &place("one")]).await;
    for (name, id) in [("b", "first"), ("a", "other"), ("c", "third")] {
        register(&serve, json!({"Name": name, "ID": id})).await;
    }
    serve.child.kill().await;
    assert_eq!(Child::run(&["export", "--data-dir", &place("one"), &place("all")]).await.code(), Some(0));
    // As it is on the disk between the two halves of each of two moves.
    let halves = std::fs::read_to_string(place("all")).unwrap().replace("\"first\"", "\"other\"");
    std::fs::write(place("all"), halves.replace("\"third\"", "\"other\"")).unwrap();
    assert_eq!(Child::run(&["import", "--data-dir", &place("two"), &place("all")]).await.code(), Some(0));
    let serve = ServerProcess::start(&["--data-dir", &place("two")]).await;
    until(&serve, "/v1/catalog/services", |body| *body == json!({"consul": [], "c": []})).await;
    assert_eq!(ask(&serve, "PUT", "/v1/agent/service/deregister/other", "").await.status, 200);
    until(&serve, "/v1/catalog/services", |body| *body == json!({"consul": []})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_survives_a_kill() {
    let data = TempDir::new().unwrap();
    let arguments = ["--data-dir", data.path().to_str().unwrap(), "--node-name", "n1"];
    let serve = ServerProcess::start(&arguments).await;
    let up = target(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let check = json!({"HTTP": format!("http://{up}/"), "Interval": "1s"});
    register(&serve, json!({"Name": "web", "ID": "a", "Port": 1, "Check": check})).await;
    register(&serve, json!({"Name": "web", "ID": "b", "Port": 2, "Check": {"TTL": "1h"}})).await;
    put(&serve, "/v1/catalog/register", &json!({"Node": "ext", "Address": "10.0.0.9", "Service": {"Service": "db"}}))
        .await;
    put(&serve, "/v1/agent/check/register", &json!({"Name": "mem", "TTL": "1h", "Status": "passing"})).await;
    ask(&serve, "PUT", "/v1/agent/check/pass/service:b", "").await;
    let before = until(&serve, "/v1/health/service/web?passing", |body| len(body) == 2).await;
    let id = get(&serve, "/v1/agent/self").await.body["Config"]["NodeID"].clone();

    let serve = serve.restart(&arguments).await;
    let after = get(&serve, "/v1/health/service/web?passing").await.body;
    for (before, after) in before.as_array().unwrap().iter().zip(after.as_array().unwrap()) {
        assert_eq!(before["Service"], after["Service"]);
    }
    assert_eq!(len(&after), 2, "statuses stay: {after}");
    assert_eq!(get(&serve, "/v1/agent/self").await.body["Config"]["NodeID"], id);
    assert_eq!(get(&serve, "/v1/catalog/node/ext").await.body["Services"]["db"]["Service"], "db");
    assert_eq!(get(&serve, "/v1/agent/checks").await.body["mem"]["Status"], "passing");
    assert_eq!(ask(&serve, "PUT", "/v1/agent/check/fail/service:b", "").await.status, 200);
    assert_eq!(len(&get(&serve, "/v1/health/service/web?passing").await.body), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_registration_renews_the_ttl_of_its_check() {
    let serve = ServerProcess::start(&[]).await;
    let reported = json!({"Name": "reported", "Check": {"TTL": "4s", "Status": "passing"}});
    register(&serve, reported.clone()).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    register(&serve, reported).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(len(&get(&serve, "/v1/health/service/reported?passing").await.body), 1);
    until(&serve, "/v1/health/service/reported?passing", |body| len(body) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instance_without_address_follows_its_node() {
    let serve = ServerProcess::start(&[]).await;
    let client = serve.client().await;
    let mut reader = Reader::synced(&client, &["db", "own"]).await;
    for (name, address) in [("db", ""), ("own", "10.0.0.5")] {
        let service = json!({"Service": name, "Port": 5, "Address": address});
        put(&serve, "/v1/catalog/register", &json!({"Node": "n", "Address": "10.0.0.1", "Service": service})).await;
    }
    let index = get(&serve, "/v1/health/service/db").await.index;
    put(&serve, "/v1/catalog/register", &json!({"Node": "n", "Address": "10.0.0.2"})).await;
    let hosts = ["10.0.0.2", "10.0.0.5"];
    reader.until("both", |view| view.set.values().map(|one| &*one.addresses[0].host).eq(hosts)).await;
    let woken = within("who waits", get(&serve, &format!("/v1/health/service/db?index={index}"))).await;
    assert_eq!(
        (&woken.body[0]["Node"]["Address"], &woken.body[0]["Service"]["Address"]),
        (&"10.0.0.2".into(), &"".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn report_at_the_end_of_the_ttl_counts() {
    let data = TempDir::new().unwrap();
    // Word that a check has run out takes its time to get to the disk.
    let serve = ServerProcess::start(&["--data-dir", data.path().to_str().unwrap()]).await;
    let http = serve.http;
    let mut programs = JoinSet::new();
    for n in 0..40 {
        programs.spawn(async move {
            let body = json!({"Name": "reported", "ID": n.to_string(), "Check": {"TTL": "2s", "Status": "passing"}});
            client::ask(http, "PUT", "/v1/agent/service/register", &body.to_string(), |text| text).await;
            tokio::time::sleep(Duration::from_millis(1_996 + n % 10)).await;
            client::ask(http, "PUT", &format!("/v1/agent/check/pass/service:{n}"), "", |text| text).await.status
        });
    }
    assert_eq!(programs.join_all().await, [200; 40]);
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(get(&serve, "/v1/health/state/critical").await.body, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_of_a_node_applies_to_all_its_instances() {
    let serve = ServerProcess::start(&["--node-name", "n1"]).await;
    let client = serve.client().await;
    let mut reader = Reader::synced(&client, &["web"]).await;
    register(&serve, json!({"Name": "web", "ID": "a", "Port": 1})).await;
    client.register(instance("web", "native")).await.unwrap();
    put(&serve, "/v1/agent/check/register", &json!({"Name": "disk", "TTL": "1h"})).await;
    let is = |status: InstanceStatus| {
        move |view: &crate::harness::View| view.set.values().any(|one| one.id == "a" && one.status == i32::from(status))
    };
    reader.until("a node that does not work", is(InstanceStatus::Unhealthy)).await;
    let passing = get(&serve, "/v1/health/service/web?passing").await.body;
    assert_eq!(passing[0]["Service"]["ID"], "native", "an instance with a lease does not depend on checks of its node");
    assert_eq!(len(&passing), 1);
    ask(&serve, "PUT", "/v1/agent/check/warn/disk", "").await;
    reader.until("a node that works, not well", is(InstanceStatus::Serving)).await;
    assert_eq!(len(&get(&serve, "/v1/health/service/web?passing").await.body), 1, "a warning does not pass");
    ask(&serve, "PUT", "/v1/agent/check/pass/disk", "").await;
    until(&serve, "/v1/health/service/web?passing", |body| len(body) == 2).await;
    ask(&serve, "PUT", "/v1/agent/maintenance?enable=true", "").await;
    reader.until("a node in maintenance", is(InstanceStatus::Draining)).await;
    ask(&serve, "PUT", "/v1/agent/maintenance?enable=false", "").await;
    reader.until("a node that is back", is(InstanceStatus::Serving)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_query_is_woken_by_its_service_only_and_limited() {
    let serve = ServerProcess::start(&["--max-blocking-queries", "20"]).await;
    register(&serve, json!({"Name": "web", "ID": "a", "Port": 1})).await;
    let index = get(&serve, "/v1/health/service/web").await.index;
    let mut waiting = JoinSet::new();
    for _ in 0..20 {
        let path = format!("/v1/health/service/web?index={index}&wait=60s");
        let http = serve.http;
        waiting.spawn(async move { client::ask(http, "GET", &path, "", |text| text).await });
    }
    metric_becomes(serve.http, "callboard_blocking_queries", |waiting| waiting >= 20.0).await;
    let refused = get(&serve, &format!("/v1/health/service/web?index={index}&wait=60s")).await;
    assert_eq!(refused.status, 429);
    assert!(refused.body.as_str().unwrap().contains("--max-blocking-queries"), "{refused:?}");
    assert_eq!(get(&serve, "/v1/health/service/web").await.status, 200, "a query that does not wait is answered");
    for n in 0..50 {
        register(&serve, json!({"Name": "other", "ID": format!("o{n}"), "Port": 1})).await;
    }
    assert!(metric(serve.http, "callboard_blocking_queries").await >= 20.0, "none was woken");
    register(&serve, json!({"Name": "web", "ID": "b", "Port": 1})).await;
    for answer in within("all of them", waiting.join_all()).await {
        assert_eq!((answer.status, len(&answer.body)), (200, 2));
        assert!(answer.headers["X-Consul-Index"].parse::<u64>().unwrap() > index);
    }
    metric_becomes(serve.http, "callboard_blocking_queries", |waiting| waiting < 1.0).await;
}

#[tokio::test]
async fn blocking_query_for_absent_subject_waits() {
    let serve = ServerProcess::start(&[]).await;
    register(&serve, json!({"Name": "web"})).await;
    for path in ["/v1/catalog/node/x", "/v1/catalog/node-services/x", "/v1/health/node/x", "/v1/connect/ca/roots"] {
        let mut index = get(&serve, path).await.index;
        // The second time at the latest: the first may tell how far the catalog is.
        index = get(&serve, &format!("{path}?index={index}&wait=10ms")).await.index;
        let began = wall();
        assert_eq!(get(&serve, &format!("{path}?index={index}&wait=300ms")).await.index, index, "{path}");
        assert!(wall() - began >= 290, "{path}");
    }
    let index = get(&serve, "/v1/catalog/node/x?index=1").await.index;
    put(&serve, "/v1/catalog/register", &json!({"Node": "x", "Address": "10.0.0.9"})).await;
    assert!(get(&serve, &format!("/v1/catalog/node/x?index={index}")).await.index > index);
}

/// Scripts send a request and close their side of the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_on_half_closed_connection_is_answered() {
    let directory = TempDir::new().unwrap();
    let serve = ServerProcess::start(&["--data-dir", directory.path().to_str().unwrap()]).await;
    let body = r#"{"Name": "web"}"#;
    let register = format!(
        "PUT /v1/agent/service/register HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let two = "GET /v1/status/leader HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2);
    for (question, answers) in [(register.as_str(), 1), (two.as_str(), 2), ("GET /metrics HTTP/1.0\r\n\r\n", 1)] {
        let mut socket = TcpStream::connect(serve.http).await.unwrap();
        socket.write_all(question.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut said = String::new();
        within(question, socket.read_to_string(&mut said)).await.unwrap();
        assert_eq!(said.matches(" 200 OK\r\n").count(), answers, "{said}");
    }
    assert_eq!(len(&get(&serve, "/v1/health/service/web").await.body), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_query_ends_when_its_client_disconnects() {
    let serve = ServerProcess::start(&[]).await;
    register(&serve, json!({"Name": "web", "ID": "a", "Port": 1})).await;
    let index = get(&serve, "/v1/health/service/web").await.index;
    let mut sockets = Vec::new();
    for _ in 0..50 {
        let mut socket = TcpStream::connect(serve.http).await.unwrap();
        let request = format!("GET /v1/health/service/web?index={index}&wait=10m HTTP/1.1\r\nHost: localhost\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        sockets.push(socket);
    }
    metric_becomes(serve.http, "callboard_blocking_queries", |waiting| waiting >= 50.0).await;
    drop(sockets);
    metric_becomes(serve.http, "callboard_blocking_queries", |waiting| waiting < 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_check_targets_delay_no_other_check() {
    let serve = ServerProcess::start(&[]).await;
    let up = target(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let redirecting =
        target(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/\r\nContent-Length: 0\r\n\r\n").await;
    // It takes the connection and says nothing, ever.
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = hanging.local_addr().unwrap();
    let flood = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let floods = flood.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = flood.accept().await {
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 1024]).await;
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                while socket.write_all(&[b'x'; 8_192]).await.is_ok() {}
            });
        }
    });
    for (id, address) in [("up", up), ("hangs", hangs), ("floods", floods), ("redirects", redirecting)] {
        let check = json!({"HTTP": format!("http://{address}/"), "Interval": "1s", "Timeout": "500ms"});
        register(&serve, json!({"Name": "web", "ID": id, "Port": 1, "Check": check})).await;
    }
    let checked = |body: &Value| {
        let checks = body.as_array().unwrap();
        checks.len() == 4 && checks.iter().all(|check| check["Output"] != "")
    };
    let checks = within("each was made", async {
        loop {
            let checks = get(&serve, "/v1/health/checks/web").await.body;
            if checked(&checks) {
                return checks;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let said = |id: &str| {
        let check = checks.as_array().unwrap().iter().find(|check| check["ServiceID"] == id).unwrap();
        (check["Status"].as_str().unwrap().to_owned(), check["Output"].as_str().unwrap().to_owned())
    };
    assert_eq!(said("up").0, "passing");
    assert!(said("hangs").1.contains("no answer within 500ms"), "{:?}", said("hangs"));
    let flood = said("floods").1.split_once("Output: ").map(|(_, body)| body.len());
    assert_eq!((said("floods").0.as_str(), flood), ("passing", Some(4_096)));
    assert!(said("redirects").1.contains("169.254.169.254 is not allowed for checks"), "{:?}", said("redirects"));
    let secret = json!({"Name": "x", "Check": {"HTTP": "http://169.254.169.254/latest/", "Interval": "10s"}});
    let refused = put(&serve, "/v1/agent/service/register", &secret).await;
    assert_eq!(refused.status, 400);
    assert!(refused.body.as_str().unwrap().contains("is not allowed for checks"), "{refused:?}");
    drop(hanging);
}

#[tokio::test]
async fn incomplete_body_is_rejected_after_its_timeout() {
    let serve = ServerProcess::start(&[]).await;
    let mut socket = TcpStream::connect(serve.http).await.unwrap();
    let request = "PUT /v1/agent/service/register HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{\"Na";
    socket.write_all(request.as_bytes()).await.unwrap();
    let (began, mut answer) = (wall(), String::new());
    within("an end", socket.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(wall() - began >= 9_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_request_is_rejected_and_changes_nothing() {
    let serve = ServerProcess::start(&[]).await;
    let large = json!({"Name": "x", "Meta": {"k": "v".repeat(300 * 1024)}}).to_string();
    let deep = "[".repeat(100_000);
    let many: Vec<Value> = (0..40).map(|n| json!({"TTL": "10s", "CheckID": n.to_string()})).collect();
    let cases = [
        ("PUT", "/v1/agent/service/register", large.as_str(), 413),
        ("PUT", "/v1/agent/service/register", deep.as_str(), 400),
        ("PUT", "/v1/agent/service/register", "\u{0}", 400),
        ("PUT", "/v1/agent/service/register", &json!({"Name": "x", "ID": "a\nb"}).to_string(), 400),
        ("PUT", "/v1/agent/service/register", &json!({"Name": "x", "Port": 70_000}).to_string(), 400),
        ("PUT", "/v1/agent/service/register", &json!({"Name": "x", "Checks": many}).to_string(), 400),
        ("PUT", "/v1/agent/service/register", &json!({"Name": "x", "Connect": {"Native": true}}).to_string(), 400),
        (
            "PUT",
            "/v1/agent/service/register",
            &json!({"Name": "x", "Check": {"HTTP": "http://x", "Interval": "1s", "Method": "PO ST"}}).to_string(),
            400,
        ),
        (
            "PUT",
            "/v1/agent/service/register",
            &json!({"Name": "x", "Check": {"DockerContainerID": "x", "Interval": "1s"}}).to_string(),
            400,
        ),
        ("GET", "/v1/health/service/web?ns=x", "", 400),
        ("GET", "/v1/health/service/web?index=-1", "", 400),
        ("GET", "/v1/health/service/web?index=1&wait=forever", "", 400),
        ("GET", "/v1/health/service/we%20b%ff%00", "", 200),
        ("GET", "/v1/health/service/web?filter=Service.ID%20matches%20%22(%22", "", 500),
        ("PATCH", "/v1/agent/services", "", 405),
        ("PUT", "/v1/kv/a", "x", 501),
        ("GET", "/v1/session/list", "", 501),
        ("GET", "/v1", "", 404),
    ];
    for (method, path, body, status) in cases {
        let said = ask(&serve, method, path, body).await;
        assert_eq!(said.status, status, "{method} {path}: {said:?}");
    }
    // A page of another site can make a browser send this.
    let mut socket = TcpStream::connect(serve.http).await.unwrap();
    let request = "PUT /v1/agent/service/register HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example:8500\r\n\
                   Connection: close\r\nContent-Length: 14\r\n\r\n{\"Name\":\"web\"}";
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("a refusal", socket.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(get(&serve, "/v1/catalog/services").await.body, json!({"consul": []}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_0_and_gzip_clients_are_served() {
    let serve = ServerProcess::start(&[]).await;
    for n in 0..20 {
        register(&serve, json!({"Name": "web", "ID": format!("w{n}"), "Address": "10.0.0.1", "Port": n + 1})).await;
    }
    let mut socket = TcpStream::connect(serve.http).await.unwrap();
    socket.write_all(b"GET /v1/health/service/web HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within("the answer and its end", socket.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{}", &answer[..100]);
    assert!(answer.contains("\r\nX-Consul-Index: ") && answer.contains("\r\nX-Consul-Knownleader: true"));
    assert!(!answer.contains("Transfer-Encoding"));

    let mut socket = TcpStream::connect(serve.http).await.unwrap();
    let request =
        b"GET /v1/health/service/web HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";
    socket.write_all(request).await.unwrap();
    let mut packed = Vec::new();
    within("the answer", socket.read_to_end(&mut packed)).await.unwrap();
    let head = packed.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    assert!(String::from_utf8_lossy(&packed[..head]).contains("Content-Encoding: gzip"));
    assert_eq!(packed[head + 4..head + 6], [0x1f, 0x8b]);
    assert!(packed.len() < answer.len() / 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn index_of_an_earlier_incarnation_waits_until_the_registry_has_settled() {
    let serve = ServerProcess::start(&["--settle", "2s"]).await;
    register(&serve, json!({"Name": "web", "ID": "a", "Port": 1})).await;
    let index = get(&serve, "/v1/health/service/web").await.index;
    // A life of the registry in memory begins at the second in which it does.
    let serve = within("another second", async {
        let second = wall() / 1_000;
        while wall() / 1_000 == second {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        serve.restart(&["--settle", "2s"]).await
    })
    .await;
    let from = wall();
    assert_eq!(get(&serve, "/v1/health/service/web").await.status, 200, "a query without an index is answered at once");
    let short = get(&serve, &format!("/v1/health/service/web?index={index}&wait=100ms")).await;
    assert_eq!(short.status, 503, "an error keeps what is known, an empty list would not: {short:?}");
    let said = get(&serve, &format!("/v1/health/service/web?index={index}&wait=30s")).await;
    assert_eq!((said.status, said.index > index), (200, true));
    assert!((1_500..6_000).contains(&(wall() - from)), "{}", wall() - from);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn index_below_every_incarnation_is_answered_at_once_while_settling() {
    let serve = ServerProcess::start(&["--settle", "60s"]).await;
    register(&serve, json!({"Name": "web", "ID": "a", "Port": 1})).await;
    let earliest = callboard::engine::StartPoint::MIN_REVISION.0;
    let paths =
        ["health/service/web", "health/service/absent", "health/state/any", "catalog/services", "catalog/nodes"];
    // An index of a Consul that was there before is one of the small ones.
    for index in [1, 2, 123_456_789, earliest - 1] {
        for path in paths {
            let from = wall();
            let said = get(&serve, &format!("/v1/{path}?index={index}&wait=30s")).await;
            assert_eq!((said.status, said.index > index), (200, true), "{path} {index}");
            assert!(wall() - from < 5_000, "{path} {index} took {} ms", wall() - from);
        }
    }
    for index in [earliest, earliest + (1 << 40)] {
        let said = get(&serve, &format!("/v1/health/service/web?index={index}&wait=100ms")).await;
        assert_eq!(said.status, 503, "an earlier life may have given {index}");
    }
}
