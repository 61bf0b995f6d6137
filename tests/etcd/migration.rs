//! A registry that moves between stores: from disk to etcd, within etcd, and back to disk.

use callboard::pb::callboard::v1::{InstanceStatus, LeaseState, RegisterRequest, UpdateInstanceRequest};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    consul_replay::client::ask,
    harness::{Child, Ended, EtcdCluster, HeartbeatStream, ServerProcess, instance, seconds},
};

async fn run(arguments: &[&str]) -> Ended {
    let ended = Child::run(arguments).await;
    assert!(ended.status.success(), "{arguments:?}: {}", ended.stderr);
    ended
}

/// Returns the policy of the service with its history, without revisions and times.
async fn policies(server: &ServerProcess) -> Value {
    let ended = run(&["policy", "history", "web", "-o", "json", "--server", &server.address()]).await;
    let mut history: Value = serde_json::from_str(&ended.stdout).unwrap();
    for revision in history.as_array_mut().unwrap() {
        revision.as_object_mut().unwrap().remove("revision");
    }
    history
}

/// Asserts that a registry has everything that was registered, and that the heartbeats of the first lease continue.
async fn assert_moved(server: &ServerProcess, lease: &bytes::Bytes, expected_policies: &Value) {
    let client = server.client().await;
    let mut beats = HeartbeatStream::open(&client).await;
    assert_eq!(beats.beat(&[lease]).await.unwrap().0, [LeaseState::Held]);
    let drained = client.get("web", "a").await.unwrap();
    assert_eq!((drained.status(), &*drained.tags), (InstanceStatus::Draining, &["blue".to_owned()][..]));
    let answer = ask(server.http, "GET", "/v1/health/service/cache", "", |text| text).await;
    assert_eq!(answer.body[0]["Service"]["ID"], "c1");
    let checks = answer.body[0]["Checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["CheckID"] == "ttl").unwrap();
    assert_eq!(check["Status"], "passing");
    assert_eq!(policies(server).await, *expected_policies);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn registry_moves_from_disk_to_etcd_and_back_with_leases_policies_and_checks() {
    let (etcd, files) = (EtcdCluster::start(1).await, TempDir::new().unwrap());
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let endpoints = etcd.endpoints();
    let (disk, exported) = (path("disk"), path("first.jsonl"));
    let server = ServerProcess::start(&["--data-dir", &disk]).await;
    let client = server.client().await;
    let registration = RegisterRequest { ttl: seconds(60.0), tags: vec!["blue".to_owned()], ..instance("web", "a") };
    let lease = client.register(registration).await.unwrap().lease_id;
    let drain = UpdateInstanceRequest { service: "web".into(), id: "a".into(), draining: true, ..Default::default() };
    client.update(&["draining"], drain).await.unwrap();
    let cache = json!({"ID": "c1", "Name": "cache", "Port": 1,
        "Check": {"CheckID": "ttl", "TTL": "60s", "Status": "passing"}});
    let answer = ask(server.http, "PUT", "/v1/agent/service/register", &cache.to_string(), |text| text).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    for [flag, value] in [["--lb", "least_request"], ["--timeout", "2s"]] {
        run(&["policy", "set", "web", flag, value, "--server", &server.address()]).await;
    }
    let expected = policies(&server).await;
    assert_eq!(expected.as_array().unwrap().len(), 2);
    server.kill().await;

    // From disk to etcd, where replicas run during the next export.
    run(&["export", "--data-dir", &disk, &exported]).await;
    let import = ["import", "--etcd", &endpoints, "--cluster", "one", &exported];
    run(&import).await;
    let again = Child::run(&import).await;
    assert!(
        !again.status.success() && again.stderr.contains("has keys of a registry named \"one\""),
        "{}",
        again.stderr
    );
    let one = ServerProcess::start(&["--etcd", &endpoints, "--cluster", "one"]).await;
    assert_moved(&one, &lease, &expected).await;

    // Within etcd, where the revisions are higher than those of the new registry's history, and lower.
    let second = path("second.jsonl");
    run(&["export", "--etcd", &endpoints, "--cluster", "one", &second]).await;
    run(&["import", "--etcd", &endpoints, "--cluster", "two", &second]).await;
    one.kill().await;
    let two = ServerProcess::start(&["--etcd", &endpoints, "--cluster", "two"]).await;
    assert_moved(&two, &lease, &expected).await;
    two.kill().await;

    // And back to disk.
    let (third, back) = (path("third.jsonl"), path("back"));
    run(&["export", "--etcd", &endpoints, "--cluster", "two", &third]).await;
    run(&["import", "--data-dir", &back, &third]).await;
    let server = ServerProcess::start(&["--data-dir", &back]).await;
    assert_moved(&server, &lease, &expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn export_of_a_registry_that_does_not_exist_fails() {
    let etcd = EtcdCluster::start(1).await;
    let ended = Child::run(&["export", "--etcd", &etcd.endpoints(), "--cluster", "none"]).await;
    assert!(!ended.status.success() && ended.stderr.contains("no registry named \"none\""), "{}", ended.stderr);
}
