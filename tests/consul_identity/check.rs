//! A check id is one on its node: the instance that registers it last has it.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    consul::{ask, get, len, put, register, until},
    harness::{Child, ServerProcess},
};

/// Owners of a check, of which there should be one.
async fn owners(serve: &ServerProcess, check: &str) -> Vec<String> {
    let all = get(serve, "/v1/health/state/any").await.body;
    let of_check = all.as_array().unwrap().iter().filter(|one| one["CheckID"] == check);
    of_check.map(|one| one["ServiceID"].as_str().unwrap().to_owned()).collect()
}

fn service(id: &str, status: &str) -> Value {
    json!({"ID": id, "Name": id, "Check": {"CheckID": "beat", "TTL": "1h", "Status": status}})
}

async fn passing(serve: &ServerProcess, service: &str) -> usize {
    len(&get(serve, &format!("/v1/health/service/{service}?passing")).await.body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_id_of_two_services_belongs_to_the_later_one() {
    let data = TempDir::new().unwrap();
    let arguments = ["--data-dir", data.path().to_str().unwrap()];
    let serve = ServerProcess::start(&arguments).await;
    register(&serve, service("p1", "passing")).await;
    ask(&serve, "PUT", "/v1/agent/check/warn/beat?note=slow", "").await;
    register(&serve, service("p2", "critical")).await;
    let beat = get(&serve, "/v1/agent/checks").await.body["beat"].clone();
    assert_eq!(
        (&beat["ServiceID"], &beat["Status"], &beat["Output"]),
        (&"p2".into(), &"warning".into(), &"slow".into())
    );
    assert_eq!(owners(&serve, "beat").await, ["p2"]);
    assert_eq!(passing(&serve, "p1").await, 1, "without its check it works");

    let index = get(&serve, "/v1/health/service/p1").await.index;
    for status in ["fail", "pass", "fail"] {
        assert_eq!(ask(&serve, "PUT", &format!("/v1/agent/check/{status}/beat"), "").await.status, 200);
        assert_eq!(passing(&serve, "p2").await, usize::from(status == "pass"));
        assert_eq!((passing(&serve, "p1").await, owners(&serve, "beat").await), (1, vec!["p2".to_owned()]));
    }
    assert_eq!(get(&serve, "/v1/health/service/p1").await.index, index, "nothing flaps");

    register(&serve, service("p1", "passing")).await;
    assert_eq!(owners(&serve, "beat").await, ["p1"], "it is taken back");
    assert_eq!((passing(&serve, "p1").await, passing(&serve, "p2").await), (0, 1));
    let serve = serve.restart(&arguments).await;
    assert_eq!(ask(&serve, "PUT", "/v1/agent/check/pass/beat", "").await.status, 200);
    assert_eq!((passing(&serve, "p1").await, owners(&serve, "beat").await), (1, vec!["p1".to_owned()]));
    ask(&serve, "PUT", "/v1/agent/service/deregister/p1", "").await;
    assert_eq!(owners(&serve, "beat").await, Vec::<String>::new(), "it goes with the one that has it");
    assert_eq!(ask(&serve, "PUT", "/v1/agent/check/pass/beat", "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_id_moves_between_a_node_and_its_services_but_not_between_nodes() {
    let serve = ServerProcess::start(&["--node-name", "n1"]).await;
    register(&serve, service("a", "critical")).await;
    register(&serve, json!({"Name": "b", "ID": "b"})).await;
    let other = json!({"Node": "n2", "Address": "10.0.0.2", "Service": {"Service": "c", "ID": "c"},
        "Check": {"CheckID": "beat", "Name": "beat", "ServiceID": "c", "Status": "passing"}});
    put(&serve, "/v1/catalog/register", &other).await;
    let mut all = owners(&serve, "beat").await;
    all.sort();
    assert_eq!(all, ["a", "c"], "another node has its own");

    put(&serve, "/v1/agent/check/register", &json!({"ID": "beat", "Name": "beat", "TTL": "1h"})).await;
    let beat = get(&serve, "/v1/agent/checks").await.body["beat"].clone();
    assert_eq!((&beat["ServiceID"], &beat["Status"]), (&"".into(), &"critical".into()), "now it is the node's");
    assert_eq!(passing(&serve, "b").await, 0, "and applies to all instances on the node");
    put(&serve, "/v1/agent/check/register", &json!({"ID": "beat", "Name": "beat", "ServiceID": "b", "TTL": "1h"}))
        .await;
    assert_eq!((passing(&serve, "a").await, passing(&serve, "b").await), (1, 0), "now it is b's, and the node is well");
    let stated = json!({"Node": "N1", "Address": "10.0.0.1",
        "Check": {"CheckID": "beat", "Name": "beat", "ServiceID": "a", "Status": "passing"}});
    put(&serve, "/v1/catalog/register", &stated).await;
    assert_eq!(
        (passing(&serve, "a").await, passing(&serve, "b").await),
        (1, 0),
        "the agent keeps what it makes itself"
    );
    let mut all = owners(&serve, "beat").await;
    all.sort();
    assert_eq!(all, ["b", "c"]);
    put(&serve, "/v1/catalog/deregister", &json!({"Node": "n2", "CheckID": "beat"})).await;
    assert_eq!(owners(&serve, "beat").await, ["b"]);
    // One that only the catalog knows goes where the catalog says.
    for service in ["b", "a"] {
        let stated = json!({"Node": "n1", "SkipNodeUpdate": true,
            "Check": {"CheckID": "said", "Name": "said", "ServiceID": service, "Status": "passing"}});
        put(&serve, "/v1/catalog/register", &stated).await;
        assert_eq!(owners(&serve, "said").await, [service], "as is stated");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_id_registered_concurrently_has_one_owner() {
    let data = TempDir::new().unwrap();
    // Each takes its time to get to the disk.
    let serve = ServerProcess::start(&["--data-dir", data.path().to_str().unwrap()]).await;
    for _ in 0..10 {
        let bodies = ["a", "b", "c", "d"].map(|id| service(id, "passing"));
        let [a, b, c, d] = bodies.each_ref().map(|body| put(&serve, "/v1/agent/service/register", body));
        let (a, b, c, d) = tokio::join!(a, b, c, d);
        assert_eq!([a.status, b.status, c.status, d.status], [200; 4]);
        assert_eq!(owners(&serve, "beat").await.len(), 1);
        assert_eq!(ask(&serve, "PUT", "/v1/agent/check/pass/beat", "").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_id_that_moved_during_a_kill_has_the_later_owner() {
    let data = TempDir::new().unwrap();
    let place = |name: &str| data.path().join(name).to_str().unwrap().to_owned();
    let serve = ServerProcess::start(&["--data-dir", &place("one")]).await;
    let with = |id: &str, check: &str| json!({"ID": id, "Name": id, "Check": {"CheckID": check, "TTL": "1h"}});
    for (id, check) in [("b", "first"), ("a", "second"), ("c", "third")] {
        register(&serve, with(id, check)).await;
    }
    serve.child.kill().await;
    assert_eq!(Child::run(&["export", "--data-dir", &place("one"), &place("all")]).await.code(), Some(0));
    // As it is on the disk before the earlier ones have lost the check.
    let halves = std::fs::read_to_string(place("all")).unwrap().replace("\"first\"", "\"third\"");
    std::fs::write(place("all"), halves.replace("\"second\"", "\"third\"")).unwrap();
    assert_eq!(Child::run(&["import", "--data-dir", &place("two"), &place("all")]).await.code(), Some(0));
    let serve = ServerProcess::start(&["--data-dir", &place("two")]).await;
    until(&serve, "/v1/health/state/critical", |body| len(body) == 1).await;
    assert_eq!(owners(&serve, "third").await, ["c"]);
    assert_eq!(ask(&serve, "PUT", "/v1/agent/check/pass/third", "").await.status, 200);
    assert_eq!(len(&get(&serve, "/v1/health/state/critical").await.body), 0);
}
