//! Blocking queries over HTTP: which change wakes which query, and that a query that was woken is answered as one that did not wait.
//!
//! Every change is made while one query of each kind waits. Queries that are to be woken are awaited; of the others the index
//! must not have risen, or else the query is not answered. A query whose answer differs after the change must be among the
//! first, whatever the table says.

use std::{collections::BTreeSet, net::SocketAddr};

use bytes::Bytes;
use callboard::pb::callboard::v1::RegisterRequest;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::{
    consul_replay::{client, recording::Answer},
    harness::{Engine, ServerProcess, TestClient, instance, metric_becomes, seconds, within},
};

const BLOCKING_QUERIES: &str = "callboard_blocking_queries";

/// Queries by names that the table of changes uses: `edge` is the node of `web`, `far` that of `db`; `app` is on the local node `n1`,
/// where an instance with a lease is shown, too.
const QUERIES: &[(&str, &str)] = &[
    ("web", "/v1/health/service/web"),
    ("web passing", "/v1/health/service/web?passing"),
    ("web tag", "/v1/health/service/web?tag=blue"),
    ("web meta", "/v1/health/service/web?node-meta=rack:b"),
    ("web filter", "/v1/health/service/web?filter=Node.Meta.rack%20==%20b%20or%20Checks.Status%20==%20critical"),
    ("web catalog", "/v1/catalog/service/web"),
    ("web catalog filter", "/v1/catalog/service/web?filter=NodeMeta.rack%20==%20b"),
    ("web checks", "/v1/health/checks/web"),
    ("db", "/v1/health/service/db"),
    ("app", "/v1/health/service/app"),
    ("native", "/v1/health/service/native"),
    ("none", "/v1/health/service/none"),
    ("consul", "/v1/health/service/consul"),
    ("services", "/v1/catalog/services"),
    ("services meta", "/v1/catalog/services?node-meta=rack:b"),
    ("services filter", "/v1/catalog/services?filter=ServiceMeta.k%20==%20v"),
    ("nodes", "/v1/catalog/nodes"),
    ("nodes filter", "/v1/catalog/nodes?filter=Meta.rack%20==%20b"),
    ("node edge", "/v1/catalog/node/edge"),
    ("list edge", "/v1/catalog/node-services/edge"),
    ("node far", "/v1/catalog/node/far"),
    ("node n1", "/v1/catalog/node/n1"),
    ("node ghost", "/v1/catalog/node/ghost"),
    ("checks edge", "/v1/health/node/edge"),
    ("checks far", "/v1/health/node/far"),
    ("checks n1", "/v1/health/node/n1"),
    ("any", "/v1/health/state/any"),
    ("critical", "/v1/health/state/critical"),
    ("any meta", "/v1/health/state/any?node-meta=rack:b"),
    ("agent app", "/v1/agent/service/a1"),
];

/// Queries of one service, which has one index.
const WEB: &[&str] =
    &["web", "web passing", "web tag", "web meta", "web filter", "web catalog", "web catalog filter", "web checks"];
/// The list of nodes, and lists that look at the metadata of nodes.
const NODES: &[&str] = &["nodes", "nodes filter", "services meta", "services filter", "any meta"];
const EDGE: &[&str] = &["node edge", "list edge"];
/// Lists that look at how instances are described.
const DESCRIBED: &[&str] = &["services meta", "services filter"];
const STATES: &[&str] = &["any", "critical", "any meta"];

/// Queries of a service without instances, and of a node that is not there. Their index is that of the last service, or node, that
/// went, as in Consul: it rises, and the query is not woken.
const ABSENT: &[&str] = &["none", "node ghost"];

/// Change of the registry.
enum Change {
    Put(&'static str, Value),
    Register,
    Deregister,
}

use Change::{Deregister, Put, Register};

fn catalog(body: Value) -> Change {
    Put("/v1/catalog/register", body)
}

fn gone(body: Value) -> Change {
    Put("/v1/catalog/deregister", body)
}

fn edge(rack: &str, address: &str, lan: &str) -> Value {
    json!({"Node": "edge", "Address": address, "TaggedAddresses": {"lan": lan}, "NodeMeta": {"rack": rack}})
}

fn spelled(name: &str) -> Value {
    json!({"Node": name, "Address": "198.51.100.9", "TaggedAddresses": {"lan": "10.0.0.9"}, "NodeMeta": {"rack": "a"}})
}

fn far(rack: &str) -> Value {
    json!({"Node": "far", "Address": "198.51.100.2", "NodeMeta": {"rack": rack}})
}

/// The service on `edge`, with one check.
fn web(tags: &[&str], meta: &str, status: &str) -> Value {
    let service = json!({"Service": "web", "ID": "w1", "Port": 80, "Tags": tags, "Meta": {"k": meta}});
    let check = json!({"CheckID": "disk", "Name": "disk", "ServiceID": "w1", "Status": status});
    json!({"Node": "edge", "SkipNodeUpdate": true, "Service": service, "Check": check})
}

fn node_check(status: &str) -> Value {
    json!({"Node": "edge", "SkipNodeUpdate": true, "Check": {"CheckID": "load", "Name": "load", "Status": status}})
}

fn app(tags: &[&str]) -> Value {
    json!({"Name": "app", "ID": "a1", "Tags": tags, "Check": {"CheckID": "beat", "TTL": "1h", "Status": "passing"}})
}

/// A change with its name, and the queries that it wakes.
type Row = (&'static str, Change, Vec<&'static [&'static str]>);

/// Changes of nodes other than the local one, in their order.
fn changes_of_nodes() -> Vec<Row> {
    let plain = edge("a", "198.51.100.1", "198.51.100.1");
    vec![
        ("nothing is another", catalog(plain.clone()), vec![]),
        ("metadata of the node", catalog(edge("b", "198.51.100.1", "198.51.100.1")), vec![WEB, NODES, EDGE]),
        ("and back", catalog(plain), vec![WEB, NODES, EDGE]),
        ("address of the node", catalog(edge("a", "198.51.100.9", "198.51.100.1")), vec![WEB, NODES, EDGE]),
        ("tagged address of the node", catalog(edge("a", "198.51.100.9", "10.0.0.9")), vec![WEB, NODES, EDGE]),
        ("spelling of the node", catalog(spelled("EDGE")), vec![WEB, NODES, EDGE, STATES, &["checks edge"]]),
        ("and back", catalog(spelled("edge")), vec![WEB, NODES, EDGE, STATES, &["checks edge"]]),
        ("metadata of another node", catalog(far("b")), vec![&["db", "node far"], NODES]),
        ("check of the node comes", catalog(node_check("passing")), vec![WEB, STATES, &["checks edge"]]),
        ("check of the node is critical", catalog(node_check("critical")), vec![WEB, STATES, &["checks edge"]]),
        ("check of the node is critical again", catalog(node_check("critical")), vec![]),
        (
            "check of the node goes",
            gone(json!({"Node": "edge", "CheckID": "load"})),
            vec![WEB, STATES, &["checks edge"]],
        ),
        ("node comes", catalog(json!({"Node": "ghost", "Address": "198.51.100.3"})), vec![NODES, &["node ghost"]]),
        ("node goes", gone(json!({"Node": "ghost"})), vec![NODES, &["node ghost"]]),
    ]
}

/// Changes of services on those nodes.
fn changes_of_services() -> Vec<Row> {
    vec![
        ("check of the instance", catalog(web(&["red"], "v", "critical")), vec![WEB, STATES, &["checks edge"]]),
        (
            "tag of the instance",
            catalog(web(&["red", "blue"], "v", "critical")),
            vec![WEB, EDGE, STATES, DESCRIBED, &["services", "checks edge"]],
        ),
        ("metadata of the instance", catalog(web(&["red", "blue"], "w", "critical")), vec![WEB, EDGE, DESCRIBED]),
        (
            "instance of the service comes",
            catalog(json!({"Node": "edge", "SkipNodeUpdate": true, "Service": {"Service": "web", "ID": "w2"}})),
            vec![WEB, EDGE, DESCRIBED, &["services"]],
        ),
        ("instance goes", gone(json!({"Node": "edge", "ServiceID": "w2"})), vec![WEB, EDGE, DESCRIBED, &["services"]]),
        (
            "another service comes on another node",
            catalog(json!({"Node": "far", "SkipNodeUpdate": true, "Service": {"Service": "other", "ID": "o1"}})),
            vec![DESCRIBED, &["services", "node far"]],
        ),
        (
            "service comes",
            catalog(json!({"Node": "far", "SkipNodeUpdate": true, "Service": {"Service": "none", "ID": "x"}})),
            vec![DESCRIBED, &["none", "services", "node far"]],
        ),
        (
            "service goes",
            gone(json!({"Node": "far", "ServiceID": "x"})),
            vec![DESCRIBED, &["none", "services", "node far"]],
        ),
        (
            "other spelling of the service comes",
            catalog(json!({"Node": "far", "SkipNodeUpdate": true, "Service": {"Service": "WEB", "ID": "W"}})),
            vec![WEB, DESCRIBED, &["services", "node far"]],
        ),
        ("metadata of its node", catalog(far("c")), vec![WEB, NODES, &["db", "node far"]]),
        (
            "other spelling of the service goes",
            gone(json!({"Node": "far", "ServiceID": "W"})),
            vec![WEB, DESCRIBED, &["services", "node far"]],
        ),
        ("metadata of a node that it has left", catalog(far("b")), vec![NODES, &["db", "node far"]]),
        (
            "node goes with all that is on it",
            gone(json!({"Node": "edge"})),
            vec![WEB, NODES, EDGE, STATES, &["services", "checks edge"]],
        ),
        (
            "all of it comes back",
            catalog(json!({"Node": "edge", "Address": "198.51.100.1", "NodeMeta": {"rack": "b"},
                "Service": {"Service": "web", "ID": "w1"}, "Check": {"Name": "load", "Status": "passing"}})),
            vec![WEB, NODES, EDGE, STATES, &["services", "checks edge"]],
        ),
    ]
}

/// Changes of the local node, and of what is on it.
fn changes_of_the_local_node() -> Vec<Row> {
    let nothing = json!(null);
    vec![
        (
            "maintenance of the local node",
            Put("/v1/agent/maintenance?enable=true&reason=why", nothing.clone()),
            vec![STATES, &["app", "consul", "checks n1"]],
        ),
        (
            "maintenance of a service of a node in maintenance",
            Put("/v1/agent/service/maintenance/a1?enable=true", nothing.clone()),
            vec![STATES, &["app", "checks n1"]],
        ),
        (
            "end of the maintenance of the service",
            Put("/v1/agent/service/maintenance/a1?enable=false", nothing.clone()),
            vec![STATES, &["app", "checks n1"]],
        ),
        (
            "end of the maintenance of the local node",
            Put("/v1/agent/maintenance?enable=false", nothing.clone()),
            vec![STATES, &["app", "consul", "checks n1"]],
        ),
        ("same word of a check", Put("/v1/agent/check/pass/beat", nothing.clone()), vec![]),
        ("other word of a check", Put("/v1/agent/check/warn/beat", nothing), vec![STATES, &["app", "checks n1"]]),
        (
            "service of the agent",
            Put("/v1/agent/service/register", app(&["t"])),
            vec![STATES, DESCRIBED, &["app", "services", "node n1", "checks n1", "agent app"]],
        ),
        (
            "instance with a lease comes",
            Register,
            vec![STATES, DESCRIBED, &["native", "services", "node n1", "checks n1"]],
        ),
        ("it goes", Deregister, vec![STATES, DESCRIBED, &["native", "services", "node n1", "checks n1"]]),
    ]
}

struct Bench {
    serve: ServerProcess,
    client: TestClient,
    lease: Bytes,
}

impl Bench {
    async fn begin() -> Self {
        Self::on(ServerProcess::start(&["--node-name", "n1"]).await).await
    }

    async fn on(serve: ServerProcess) -> Self {
        let bench = Self { client: serve.client().await, serve, lease: Bytes::new() };
        bench.put("/v1/catalog/register", &edge("a", "198.51.100.1", "198.51.100.1")).await;
        bench.put("/v1/catalog/register", &web(&["red"], "v", "passing")).await;
        let db =
            json!({"Node": "far", "Address": "198.51.100.2", "NodeMeta": {"rack": "a"}, "Service": {"Service": "db"}});
        bench.put("/v1/catalog/register", &db).await;
        bench.put("/v1/agent/service/register", &app(&[])).await;
        bench.client.register(leased("first")).await.unwrap();
        bench
    }

    async fn ask(&self, path: &str) -> Answer {
        client::ask(self.serve.http, "GET", path, "", |text| text).await
    }

    async fn put(&self, path: &str, body: &Value) {
        let answer = client::ask(self.serve.http, "PUT", path, &body.to_string(), |text| text).await;
        assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
    }

    /// Answers of all queries, without waiting.
    async fn ask_all(&self) -> Vec<Answer> {
        let mut all = Vec::new();
        for (_, path) in QUERIES {
            all.push(self.ask(path).await);
        }
        all
    }

    /// Lets each query wait for an index higher than that of its answer.
    async fn wait_all(&self, known: &[Answer]) -> Vec<JoinHandle<Answer>> {
        let http = self.serve.http;
        let waiting = QUERIES.iter().zip(known).map(|((_, path), known)| tokio::spawn(wait(http, path, known)));
        let waiting: Vec<_> = waiting.collect();
        #[expect(clippy::cast_precision_loss, reason = "there are a few")]
        let count = waiting.len() as f64;
        metric_becomes(self.serve.http, BLOCKING_QUERIES, |waiting| (waiting - count).abs() < 0.5).await;
        waiting
    }

    async fn make(&mut self, change: Change) {
        match change {
            Put(path, body) => self.put(path, &body).await,
            Register => {
                let registered = self.client.register(leased("second")).await.unwrap();
                self.lease = registered.lease_id;
            }
            Deregister => {
                self.client.deregister("native", "second", &self.lease).await.unwrap();
            }
        }
    }
}

/// Instance with a lease that outlives the test, even on a busy machine, since it is not renewed.
fn leased(id: &str) -> RegisterRequest {
    RegisterRequest { ttl: seconds(3_600.0), ..instance("native", id) }
}

/// Waits for something newer than an answer.
fn wait(http: SocketAddr, path: &str, known: &Answer) -> impl Future<Output = Answer> + use<> {
    let between = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{between}wait=120s&{}", mark(known));
    async move { client::ask(http, "GET", &path, "", |text| text).await }
}

/// Parameter by which a query says which state it knows: the index or the hash.
fn mark(answer: &Answer) -> String {
    match answer.header("X-Consul-Contenthash") {
        Some(hash) => format!("hash={hash}"),
        None => format!("index={}", answer.index().unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_query_is_woken_by_changes_of_its_answer_only() {
    let mut bench = Bench::begin().await;
    let mut known = bench.ask_all().await;
    let changes = [changes_of_nodes(), changes_of_services(), changes_of_the_local_node()];
    for (what, change, wakes) in changes.into_iter().flatten() {
        let mut expected: BTreeSet<&str> = wakes.concat().into_iter().collect();
        let waiting = bench.wait_all(&known).await;
        bench.make(change).await;
        let now = bench.ask_all().await;
        for ((((name, path), before), after), query) in QUERIES.iter().zip(&known).zip(&now).zip(waiting) {
            let is_expected = expected.remove(name);
            let is_other = before.body != after.body;
            assert!(!is_other || is_expected, "{what}: {path} shows it, and is not in the table: {before:?} {after:?}");
            if is_expected {
                let mut answer = within(&format!("{what}: {path} is woken"), query).await.unwrap();
                // A write of several steps, each of which is durable, may wake a query at the first: it is woken for the last, too.
                while answer.body != after.body {
                    let last =
                        format!("{what}: {path} is woken for what comes after {answer:?}, which ends with {after:?}");
                    answer = within(&last, wait(bench.serve.http, path, &answer)).await;
                }
                assert!(answer.index() >= before.index(), "{what}: {path}: {answer:?} after {before:?}");
                assert_ne!(mark(after), mark(before), "{what}: {path}");
            } else if *name == "consul" && Engine::usual() == Engine::Etcd {
                // With replicas, each change of the last service that went wakes it: another replica may have shown its instances.
                query.abort();
            } else {
                let same = mark(after) == mark(before) || ABSENT.contains(name) && after.index() > before.index();
                assert!(same, "{what}: {path} tells of nothing that it shows: {before:?} {after:?}");
                assert!(!query.is_finished(), "{what}: {path} is not woken");
                query.abort();
            }
        }
        assert!(expected.is_empty(), "{what}: no such queries: {expected:?}");
        metric_becomes(bench.serve.http, BLOCKING_QUERIES, |waiting| waiting < 0.5).await;
        known = now;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn index_of_every_query_survives_a_restart() {
    let directory = TempDir::new().unwrap();
    let arguments =
        ["--node-name", "n1", "--node-id", "a51aee3d-7c72-ddf7-58b1-6d63d89505d0", "--settle", "0", "--data-dir"];
    let arguments = [&arguments[..], &[directory.path().to_str().unwrap()]].concat();
    let bench = Bench::on(ServerProcess::start(&arguments).await).await;
    let one = json!({"Node": "far", "SkipNodeUpdate": true, "Service": {"Service": "none", "ID": "x"}});
    bench.put("/v1/catalog/register", &one).await;
    bench.put("/v1/catalog/register", &json!({"Node": "ghost", "Address": "198.51.100.3"})).await;
    bench.put("/v1/catalog/deregister", &json!({"Node": "ghost"})).await;
    bench.put("/v1/catalog/deregister", &json!({"Node": "far", "ServiceID": "x"})).await;
    let before = bench.ask_all().await;
    bench.serve.child.signal(Signal::TERM);
    within("the registry stops", bench.serve.child.ended()).await;

    let serve = ServerProcess::start(&arguments).await;
    let bench = Bench { client: serve.client().await, serve, lease: Bytes::new() };
    let after = bench.ask_all().await;
    for (((_, path), before), after) in QUERIES.iter().zip(&before).zip(&after) {
        assert!(after.index() >= before.index(), "{path}: {after:?} after {before:?}");
        assert_eq!(described(&after.body), described(&before.body), "{path}");
    }
}

/// An answer without the indexes of what every process makes anew.
fn described(body: &Value) -> Value {
    match body {
        Value::Array(all) => all.iter().map(described).collect(),
        Value::Object(all) => {
            let all = all.iter().filter(|(key, _)| !["CreateIndex", "ModifyIndex"].contains(&key.as_str()));
            all.map(|(key, value)| (key.clone(), described(value))).collect::<serde_json::Map<_, _>>().into()
        }
        other => other.clone(),
    }
}
