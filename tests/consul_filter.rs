//! Filters over HTTP: every field that an answer shows can be asked for.
//!
//! The selectors are made from the answers themselves, so that a field which is shown, and which no filter knows, fails the test.

use std::collections::BTreeSet;

use callboard::pb::callboard::v1::RegisterRequest;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use crate::{
    consul_replay::client,
    harness::{ServerProcess, instance, seconds},
};

/// Objects that have fields, of which none may be shown. All other objects are maps, which can be asked for as a whole.
const RECORDS: &[&str] = &[
    "Connect",
    "Definition",
    "Expose",
    "Locality",
    "MeshGateway",
    "Proxy",
    "ServiceConnect",
    "ServiceLocality",
    "ServiceProxy",
];

/// Answers, and what leads to what a filter looks at.
const ANSWERS: &[(&str, &str)] = &[
    ("/v1/health/service/web", ""),
    ("/v1/health/service/native", ""),
    ("/v1/health/service/app", ""),
    ("/v1/catalog/service/web", ""),
    ("/v1/catalog/service/app", ""),
    ("/v1/health/checks/web", ""),
    ("/v1/health/node/edge", ""),
    ("/v1/health/state/any", ""),
    ("/v1/agent/services", ""),
    ("/v1/agent/checks", ""),
    ("/v1/catalog/nodes", ""),
    ("/v1/catalog/node/edge", "/Services"),
    ("/v1/catalog/node/n1", "/Services"),
    ("/v1/catalog/node-services/edge", "/Services"),
];

async fn get(serve: &ServerProcess, path: &str) -> Value {
    let answer = client::ask(serve.http, "GET", path, "", |text| text).await;
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.body
}

async fn put(serve: &ServerProcess, path: &str, body: &Value) {
    let answer = client::ask(serve.http, "PUT", path, &body.to_string(), |text| text).await;
    assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
}

/// A service with all that can be said of one.
fn service(id: &str, name: &str) -> Value {
    let proxy = json!({
        "DestinationServiceName": "db", "DestinationServiceID": "db1", "LocalServiceAddress": "127.0.0.1", "LocalServicePort": 80,
        "Mode": "transparent", "Config": {"protocol": "http", "retries": 3},
        "Upstreams": [{"DestinationName": "mq", "LocalBindPort": 9191, "Config": {"a": "b"}}],
        "MeshGateway": {"Mode": "local"},
        "Expose": {"Checks": true, "Paths": [{"Path": "/healthz", "LocalPathPort": 8080, "ListenerPort": 21500, "Protocol": "http"}]},
        "TransparentProxy": {"OutboundListenerPort": 15001, "DialedDirectly": true},
        "EnvoyExtensions": [{"Name": "builtin/lua", "Required": true, "Arguments": {"ProxyType": "connect-proxy"}}],
        "AccessLogs": {"Enabled": true, "Type": "file", "Path": "/var/log/proxy"}, "MutualTLSMode": "strict",
    });
    json!({
        "ID": id, "Kind": "connect-proxy", "Proxy": proxy, "Tags": ["blue", "v 2"], "Address": "203.0.113.7", "Port": 8080,
        "TaggedAddresses": {"lan": {"Address": "10.0.0.7", "Port": 80}, "wan": {"Address": "203.0.113.7", "Port": 8080}},
        "Meta": {"team": "checkout", "app-name": "shop"}, "Weights": {"Passing": 7, "Warning": 3},
        "EnableTagOverride": true, "Locality": {"Region": "eu", "Zone": "eu-1a"}, name: "web",
    })
}

async fn fill(serve: &ServerProcess) {
    let check = json!({
        "CheckID": "c", "Name": "disk", "Status": "warning", "Notes": "look", "Output": "slow", "ServiceID": "w1", "Type": "http",
        "Definition": {"HTTP": "http://198.51.100.1/", "Interval": "10s", "Timeout": "2s", "Header": {"X-A": ["b"]}, "Method": "PUT"},
    });
    let of_node = json!({"CheckID": "load", "Name": "load", "Status": "passing"});
    let node = json!({
        "Node": "edge", "ID": "40e4a748-2192-161a-0510-9bf59fe950b5", "Address": "198.51.100.1",
        "TaggedAddresses": {"lan": "198.51.100.1", "wan": "203.0.113.1"}, "NodeMeta": {"rack": "a", "external-node": "true"},
        "Service": service("w1", "Service"), "Checks": [check, of_node],
    });
    put(serve, "/v1/catalog/register", &node).await;
    let mut app = service("a1", "Name");
    app["Name"] = json!("app");
    // It is not made while the test runs: at a random point of the first hour.
    app["Checks"] = json!([{"TCP": "127.0.0.1:9", "Interval": "1h", "Timeout": "2s", "Notes": "why"}, {"TTL": "1h"}]);
    put(serve, "/v1/agent/service/register", &app).await;
    put(serve, "/v1/agent/service/register", &json!({"Name": "native-too", "Port": 1, "Connect": {"Native": true}}))
        .await;
    put(serve, "/v1/agent/service/register", &json!({"Name": "plain", "SocketPath": "/run/plain.sock"})).await;
    put(serve, "/v1/agent/service/maintenance/plain?enable=true&reason=why", &Value::Null).await;
}

/// The records of an answer.
fn records<'a>(answer: &'a Value, at: &str) -> Vec<&'a Value> {
    match answer.pointer(at).unwrap() {
        Value::Array(all) => all.iter().collect(),
        Value::Object(all) => all.values().collect(),
        other => panic!("{other}"),
    }
}

/// Clauses that hold for a value, one for each field in it.
fn clauses(selector: &str, name: &str, value: &Value, found: &mut BTreeSet<String>) {
    let mut clause = |clause: String| {
        found.insert(clause);
    };
    match value {
        Value::String(text) => clause(format!("{selector} == {}", quoted(text))),
        Value::Number(_) | Value::Bool(_) => clause(format!("{selector} == {value}")),
        Value::Null if RECORDS.contains(&name) => {}
        Value::Null => clause(format!("{selector} is empty")),
        Value::Array(elements) => {
            clause(format!("{selector} is {}empty", if elements.is_empty() { "" } else { "not " }));
            for element in elements {
                match element {
                    Value::String(text) => {
                        found.insert(format!("{} in {selector}", quoted(text)));
                    }
                    other => clauses(selector, name, other, found),
                }
            }
        }
        Value::Object(fields) => object(selector, name, fields, found),
    }
}

fn object(selector: &str, name: &str, fields: &Map<String, Value>, found: &mut BTreeSet<String>) {
    if fields.is_empty() && !RECORDS.contains(&name) {
        found.insert(format!("{selector} is empty"));
    }
    for (field, value) in fields {
        let plain = field.starts_with(|first: char| first.is_ascii_alphabetic())
            && field.chars().all(|letter| letter.is_ascii_alphanumeric());
        let selector = match (selector, plain) {
            ("", _) => field.clone(),
            (selector, true) => format!("{selector}.{field}"),
            (selector, false) => format!("{selector}[{}]", quoted(field)),
        };
        clauses(&selector, field, value, found);
    }
}

fn quoted(text: &str) -> String {
    assert!(!text.contains('`'), "{text:?} is quoted otherwise");
    format!("`{text}`")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_field_of_an_answer_can_be_filtered() {
    let serve = ServerProcess::start(&["--node-name", "n1"]).await;
    fill(&serve).await;
    let native = RegisterRequest { ttl: seconds(600.0), ..instance("native", "one") };
    serve.client().await.register(native).await.unwrap();
    let mut count = 0;
    for (path, at) in ANSWERS {
        let answer = get(&serve, path).await;
        let all = records(&answer, at);
        assert!(!all.is_empty(), "{path}: {answer}");
        let mut known = BTreeSet::new();
        for record in all {
            let mut found = BTreeSet::new();
            object("", "", record.as_object().unwrap(), &mut found);
            for clause in found.difference(&known) {
                let filter = utf8_percent_encode(clause, NON_ALPHANUMERIC);
                let answer = get(&serve, &format!("{path}?filter={filter}")).await;
                assert!(records(&answer, at).contains(&record), "{path}: {clause}: {answer}");
                let filter = format!("not ({clause})");
                let filter = utf8_percent_encode(&filter, NON_ALPHANUMERIC);
                let answer = get(&serve, &format!("{path}?filter={filter}")).await;
                assert!(!records(&answer, at).contains(&record), "{path}: not ({clause}): {answer}");
                count += 1;
            }
            known.extend(found);
        }
    }
    assert!(count > 400, "there was something to ask for: {count}");
}
