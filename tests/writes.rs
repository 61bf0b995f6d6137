//! Writes that span several instances are whole: through clients that hang up at any moment, and through kills.

mod agreement;

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::sleep};

use crate::{
    consul_replay::client,
    harness::{ServerProcess, within},
};
use agreement::{disagreement, get};

/// Microseconds between a request and the reset of its connection, or the kill of the registry.
const DELAYS: [u64; 7] = [0, 200, 400, 700, 1_000, 1_500, 2_500];
/// Services on each node: a write that stops halfway has reached some of them.
const SERVICES: u16 = 5;

/// A write that spans several instances. Each has a node or an id of its own.
#[derive(Debug, Clone, Copy)]
enum Spanning {
    NodeMaintenance,
    AgentCheck,
    CatalogCheck,
    NodeAddress,
    NodeRemoval,
    NodeWithService,
    Move,
}

const ALL: [Spanning; 7] = [
    Spanning::NodeMaintenance,
    Spanning::AgentCheck,
    Spanning::CatalogCheck,
    Spanning::NodeAddress,
    Spanning::NodeRemoval,
    Spanning::NodeWithService,
    Spanning::Move,
];

impl Spanning {
    /// Services on the node that the write needs.
    async fn prepare(self, serve: &ServerProcess) {
        match self {
            Self::NodeMaintenance | Self::AgentCheck => {
                for n in 0..SERVICES {
                    let name = format!("own{n}");
                    let body = json!({"Name": name, "Port": 100 + n});
                    put(serve, "/v1/agent/service/register", &body).await;
                }
                let check = json!({"Name": "disk", "TTL": "1h", "Status": "passing"});
                put(serve, "/v1/agent/check/register", &check).await;
            }
            Self::CatalogCheck => services_on(serve, "checked", "10.0.1.1").await,
            Self::NodeAddress => services_on(serve, "moving", "10.0.2.1").await,
            Self::NodeRemoval => services_on(serve, "leaving", "10.0.3.1").await,
            Self::NodeWithService | Self::Move => {}
        }
    }

    /// Path and body of the request in this round.
    fn request(self, round: usize) -> (String, Value) {
        let even = round.is_multiple_of(2);
        match self {
            Self::NodeMaintenance => (format!("/v1/agent/maintenance?enable={even}"), Value::Null),
            Self::AgentCheck => (format!("/v1/agent/check/{}/disk", if even { "fail" } else { "pass" }), Value::Null),
            Self::CatalogCheck => {
                let status = if even { "critical" } else { "passing" };
                let check = json!({"CheckID": "c", "Name": "c", "Status": status});
                catalog(json!({"Node": "checked", "Address": "10.0.1.1", "Check": check}))
            }
            Self::NodeAddress => catalog(json!({"Node": "moving", "Address": format!("10.0.2.{}", 2 + round % 200)})),
            Self::NodeRemoval => ("/v1/catalog/deregister".to_owned(), json!({"Node": "leaving"})),
            Self::NodeWithService => {
                let service = json!({"Service": "pair", "ID": "pair", "Port": 500});
                catalog(json!({"Node": format!("pair{round}"), "Address": "10.0.4.1", "Service": service}))
            }
            Self::Move => {
                let body = json!({"Name": if even { "here" } else { "there" }, "ID": "mover", "Port": 600});
                ("/v1/agent/service/register".to_owned(), body)
            }
        }
    }
}

fn catalog(body: Value) -> (String, Value) {
    ("/v1/catalog/register".to_owned(), body)
}

async fn put(serve: &ServerProcess, path: &str, body: &Value) {
    let answer = client::ask(serve.http, "PUT", path, &body.to_string(), |text| text).await;
    assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
}

async fn services_on(serve: &ServerProcess, node: &str, address: &str) {
    for n in 0..SERVICES {
        let name = format!("{node}{n}");
        let body = json!({"Node": node, "Address": address, "Service": {"Service": name, "Port": 200 + n}});
        put(serve, "/v1/catalog/register", &body).await;
    }
}

/// Sends a request without waiting for its answer.
async fn send(serve: &ServerProcess, (path, body): &(String, Value)) -> TcpStream {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = within("a connection", TcpStream::connect(serve.http)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (http, length) = (serve.http, body.len());
    let request = format!("PUT {path} HTTP/1.1\r\nHost: {http}\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn start(data: &TempDir) -> (ServerProcess, Vec<String>) {
    let directory = data.path().join("data");
    let arguments = ["--data-dir", directory.to_str().unwrap(), "--dns", "127.0.0.1:0", "--node-name", "n1"];
    (ServerProcess::start(&arguments).await, arguments.map(ToOwned::to_owned).to_vec())
}

/// Describes a violation: protocols differ, or a node is removed in part.
async fn wrong(serve: &ServerProcess) -> Option<String> {
    let leaving = get(serve, "/v1/catalog/node/leaving").await;
    let (known, left) = (!leaving.is_null(), leaving["Services"].as_object().map_or(0, serde_json::Map::len));
    if left != if known { usize::from(SERVICES) } else { 0 } {
        return Some(format!("{left} services are left on a node that is {}", if known { "there" } else { "gone" }));
    }
    disagreement(serve).await
}

/// Waits until all protocols agree: a write that is under way is whole a moment later.
async fn agreement(serve: &ServerProcess, what: &str) {
    let mut found = None;
    for _ in 0..200 {
        found = wrong(serve).await;
        if found.is_none() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: {found:?}");
}

async fn prepared(data: &TempDir) -> (ServerProcess, Vec<String>) {
    let (serve, arguments) = start(data).await;
    for write in ALL {
        write.prepare(&serve).await;
    }
    (serve, arguments)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_whose_client_resets_its_connection_is_whole() {
    let data = TempDir::new().unwrap();
    let (serve, _) = prepared(&data).await;
    for (round, delay) in DELAYS.into_iter().chain(DELAYS).enumerate() {
        for write in ALL {
            let stream = send(&serve, &write.request(round)).await;
            sleep(Duration::from_micros(delay)).await;
            stream.set_zero_linger().unwrap();
            drop(stream);
            // The response to a later request comes later: by then the write has begun, or never will.
            get(&serve, "/v1/agent/self").await;
            agreement(&serve, &format!("{write:?}, reset after {delay} µs")).await;
            if matches!(write, Spanning::NodeRemoval) {
                write.prepare(&serve).await;
            }
        }
    }
    let nodes = get(&serve, "/v1/catalog/nodes").await;
    let pairs = nodes.as_array().unwrap().iter().filter(|node| node["Node"].as_str().unwrap().starts_with("pair"));
    let pairs = pairs.count();
    assert!(pairs > 0, "no node with its service was registered");
    let services = get(&serve, "/v1/catalog/service/pair").await;
    assert_eq!(services.as_array().unwrap().len(), pairs, "each of those nodes has its service");
}

/// Repeating a call that was cut off is answered once all agree.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_that_is_repeated_after_a_reset_is_whole_when_it_is_answered() {
    let data = TempDir::new().unwrap();
    let (serve, _) = prepared(&data).await;
    for (round, delay) in DELAYS.into_iter().enumerate() {
        for write in ALL {
            let (path, body) = write.request(round);
            let stream = send(&serve, &(path.clone(), body.clone())).await;
            sleep(Duration::from_micros(delay)).await;
            stream.set_zero_linger().unwrap();
            drop(stream);
            put(&serve, &path, &body).await;
            assert_eq!(wrong(&serve).await, None, "{write:?}, repeated after {delay} µs");
            if matches!(write, Spanning::NodeRemoval) {
                assert_eq!(get(&serve, "/v1/catalog/node/leaving").await, Value::Null);
                write.prepare(&serve).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_that_a_kill_interrupts_is_whole_after_the_restart() {
    let data = TempDir::new().unwrap();
    let (mut serve, arguments) = prepared(&data).await;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    for (round, delay) in DELAYS.into_iter().enumerate() {
        let mut streams = Vec::new();
        for write in ALL {
            streams.push(send(&serve, &write.request(round)).await);
        }
        // Seven writes one after the other take the disk some milliseconds.
        sleep(Duration::from_micros(delay * 4)).await;
        serve.child.kill().await;
        serve = ServerProcess::start(&arguments).await;
        assert_eq!(wrong(&serve).await, None, "killed after {} µs", delay * 4);
        Spanning::NodeRemoval.prepare(&serve).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_many_clients_to_the_same_nodes_end_in_agreement() {
    let data = TempDir::new().unwrap();
    let (serve, _) = prepared(&data).await;
    for round in 0..8 {
        let mut streams = Vec::new();
        for write in ALL.into_iter().chain(ALL) {
            let (path, body) = write.request(round + streams.len() / ALL.len());
            streams.push((path.clone(), body.clone(), send(&serve, &(path, body)).await));
        }
        // The second half is answered, the first hangs up.
        for (at, (path, body, stream)) in streams.into_iter().enumerate() {
            if at < ALL.len() {
                stream.set_zero_linger().unwrap();
            } else {
                put(&serve, &path, &body).await;
            }
        }
        agreement(&serve, &format!("round {round}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn write_that_a_termination_interrupts_is_whole_and_was_finished_before_the_end() {
    let data = TempDir::new().unwrap();
    let (mut serve, arguments) = prepared(&data).await;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    for (round, delay) in [500, 1_500, 4_000].into_iter().enumerate() {
        let mut streams = Vec::new();
        for write in ALL {
            streams.push(send(&serve, &write.request(round)).await);
        }
        sleep(Duration::from_micros(delay)).await;
        let ServerProcess { child, .. } = serve;
        child.signal(Signal::TERM);
        drop(streams);
        let ended = child.ended().await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        serve = ServerProcess::start(&arguments).await;
        assert_eq!(wrong(&serve).await, None, "left after {delay} µs");
        let nodes = get(&serve, "/v1/catalog/nodes").await;
        let pairs = nodes.as_array().unwrap().iter().filter(|node| node["Node"].as_str().unwrap().starts_with("pair"));
        let services = get(&serve, "/v1/catalog/service/pair").await;
        assert_eq!(services.as_array().unwrap().len(), pairs.count(), "left after {delay} µs");
        Spanning::NodeRemoval.prepare(&serve).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_catalog_registration_registers_nothing_and_skipped_update_registers_an_unknown_node() {
    let data = TempDir::new().unwrap();
    let (serve, _) = start(&data).await;
    let ask = async |body: Value| {
        client::ask(serve.http, "PUT", "/v1/catalog/register", &body.to_string(), |text| text).await
    };
    let service = json!({"Service": "web", "Port": 1});
    let check = json!({"CheckID": "c", "Name": "c", "Status": "passing", "ServiceID": "missing"});
    let refused = ask(json!({"Node": "a", "Address": "10.0.0.1", "Service": service, "Check": check})).await;
    assert_eq!(refused.status, 500, "{refused:?}");
    assert!(get(&serve, "/v1/catalog/node/a").await.is_null());
    let unknown = ask(json!({"Node": "b", "SkipNodeUpdate": true, "Service": service})).await;
    assert_eq!(unknown.status, 500, "{unknown:?}");
    assert_eq!(get(&serve, "/v1/catalog/services").await, json!({"consul": []}));
    let new = ask(json!({"Node": "b", "Address": "10.0.0.2", "SkipNodeUpdate": true, "Service": service})).await;
    assert_eq!(new.status, 200, "{new:?}");
    let skipped = ask(json!({"Node": "b", "Address": "10.0.0.3", "SkipNodeUpdate": true, "Service": service})).await;
    assert_eq!(skipped.status, 200, "{skipped:?}");
    assert_eq!(get(&serve, "/v1/catalog/node/b").await["Node"]["Address"], "10.0.0.2");
    assert_eq!(disagreement(&serve).await, None);
}
