//! Contents of a registry that moves: an instance that an operator drains, a node, a Consul registration with a check, policies.

use callboard::pb::callboard::v1::{InstanceStatus, LeaseState, RegisterRequest, UpdateInstanceRequest};
use serde_json::{Value, json};

use crate::{
    consul_replay::client::ask,
    harness::{Child, Ended, HeartbeatStream, ServerProcess, instance, seconds},
};

/// Contents that were registered.
#[derive(Debug)]
pub struct MovingContents {
    /// Lease of the instance `web/a`.
    pub lease: bytes::Bytes,
    policies: Value,
}

/// Runs a command that succeeds.
pub async fn run(arguments: &[&str]) -> Ended {
    let ended = Child::run(arguments).await;
    assert!(ended.status.success(), "{arguments:?}: {}", ended.stderr);
    ended
}

impl MovingContents {
    /// Registers everything.
    pub async fn register(server: &ServerProcess) -> Self {
        let client = server.client().await;
        let lease = client.register(registration()).await.unwrap().lease_id;
        let drain =
            UpdateInstanceRequest { service: "web".into(), id: "a".into(), draining: true, ..Default::default() };
        client.update(&["draining"], drain).await.unwrap();
        let cache = json!({"ID": "c1", "Name": "cache", "Port": 1,
            "Check": {"CheckID": "ttl", "TTL": "60s", "Status": "passing"}});
        let node = json!({"Node": "n2", "Address": "10.0.0.2"});
        for (path, body) in [("/v1/agent/service/register", cache), ("/v1/catalog/register", node)] {
            let answer = ask(server.http, "PUT", path, &body.to_string(), |text| text).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        for [flag, value] in [["--lb", "least_request"], ["--timeout", "2s"]] {
            run(&["policy", "set", "web", flag, value, "--server", &server.address()]).await;
        }
        let policies = policies(server).await;
        assert_eq!(policies.as_array().unwrap().len(), 2);
        Self { lease, policies }
    }

    /// Asserts that a registry has everything.
    pub async fn assert_present(&self, server: &ServerProcess) {
        let drained = server.client().await.get("web", "a").await.unwrap();
        assert_eq!((drained.status(), &*drained.tags), (InstanceStatus::Draining, &["blue".to_owned()][..]));
        let answer = ask(server.http, "GET", "/v1/health/service/cache", "", |text| text).await;
        assert_eq!(answer.body[0]["Service"]["ID"], "c1");
        let checks = answer.body[0]["Checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["CheckID"] == "ttl").unwrap();
        assert_eq!(check["Status"], "passing");
        let answer = ask(server.http, "GET", "/v1/catalog/node/n2", "", |text| text).await;
        assert_eq!(answer.body["Node"]["Address"], "10.0.0.2");
        assert_eq!(policies(server).await, self.policies);
    }

    /// Asserts that the lease of the instance is in this state.
    pub async fn assert_lease_is(&self, server: &ServerProcess, state: LeaseState) {
        assert_lease_is(&self.lease, server, state).await;
    }

    /// Asserts that the instance, whose lease is unknown, can register again with its boot id while it is registered.
    pub async fn assert_registers_again(&self, server: &ServerProcess) {
        let client = server.client().await;
        let lease = client.register(registration()).await.unwrap().lease_id;
        assert_ne!(lease, self.lease);
        assert_lease_is(&lease, server, LeaseState::Held).await;
        let still = client.get("web", "a").await.unwrap();
        assert_eq!(still.status(), InstanceStatus::Draining, "the mark of the operator stays");
    }
}

/// Asserts that a heartbeat finds a lease in this state.
pub async fn assert_lease_is(lease: &bytes::Bytes, server: &ServerProcess, state: LeaseState) {
    let mut beats = HeartbeatStream::open(&server.client().await).await;
    assert_eq!(beats.beat(&[lease]).await.unwrap().0, [state]);
}

fn registration() -> RegisterRequest {
    RegisterRequest { ttl: seconds(60.0), tags: vec!["blue".to_owned()], ..instance("web", "a") }
}

/// Returns the history of the policy, without revisions, which a store may renumber.
async fn policies(server: &ServerProcess) -> Value {
    let ended = run(&["policy", "history", "web", "-o", "json", "--server", &server.address()]).await;
    let mut history: Value = serde_json::from_str(&ended.stdout).unwrap();
    for revision in history.as_array_mut().unwrap() {
        revision.as_object_mut().unwrap().remove("revision");
    }
    history
}
