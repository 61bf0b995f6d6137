//! Several replicas as one agent of Consul's API.

use serde_json::{Value, json};

use crate::{
    consul::{get, put, register, until},
    harness::{EtcdCluster, ServerProcess},
};

/// Starts a replica with this name.
async fn replica(etcd: &EtcdCluster, name: &str) -> ServerProcess {
    let (endpoints, node) = (etcd.endpoints(), "10.9.8.7");
    let agent = ["--etcd", &endpoints, "--dns", "off", "--cluster", "shop", "--replica", name, "--node-address", node];
    ServerProcess::start(&agent).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn replicas_are_one_agent_with_one_node() {
    let etcd = EtcdCluster::start(1).await;
    let (one, two) = (replica(&etcd, "r1").await, replica(&etcd, "r2").await);
    register(&one, json!({"Name": "web", "Port": 80, "Check": {"TTL": "30s", "CheckID": "c"}})).await;
    until(&two, "/v1/catalog/service/web", |services| services.as_array().is_some_and(|found| found.len() == 1)).await;
    for (serve, name) in [(&one, "r1"), (&two, "r2")] {
        let agent = get(serve, "/v1/agent/self").await.body;
        assert_eq!((&agent["Config"]["NodeName"], &agent["Member"]["Addr"]), (&json!("shop"), &json!("10.9.8.7")));
        assert_eq!(agent["Stats"]["callboard"]["replica"], name);
    }
    for path in ["/v1/agent/services", "/v1/catalog/nodes", "/v1/agent/self"] {
        let (mut first, mut second) = (get(&one, path).await.body, get(&two, path).await.body);
        for agent in [&mut first, &mut second] {
            if let Some(stats) = agent.get_mut("Stats") {
                *stats = Value::Null;
            }
            if let Some(nodes) = agent.as_array_mut() {
                // The indexes of the node are the revision at which the replica started.
                for node in nodes {
                    node["CreateIndex"] = Value::Null;
                    node["ModifyIndex"] = Value::Null;
                }
            }
        }
        assert_eq!(first, second, "{path}");
    }
    // Any replica takes reports for the check, and deregisters the service.
    assert_eq!(put(&two, "/v1/agent/check/pass/c", &Value::Null).await.status, 200);
    until(&one, "/v1/health/service/web?passing", |found| found.as_array().is_some_and(|found| found.len() == 1)).await;
    assert_eq!(put(&two, "/v1/agent/service/deregister/web", &Value::Null).await.status, 200);
    until(&one, "/v1/catalog/service/web", |services| services.as_array().is_some_and(Vec::is_empty)).await;
    assert_eq!(get(&one, "/v1/agent/services").await.body, json!({}));
}
