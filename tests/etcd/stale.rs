//! Requests that a replica would decide wrongly by its own state, because it has not yet received the changes of another one.

use std::time::Duration;

use bytes::Bytes;
use callboard::etcd::{EtcdOperation, EtcdRange};
use serde_json::json;
use tokio::time::timeout;
use tonic::Code;

use super::{
    replicas::{register, replica, replicas},
    transact,
};
use crate::{
    consul_replay::client::ask,
    harness::{EtcdCluster, ServerProcess, within},
    policy::{request as policy_request, send as send_policy},
};

/// Number of tries.
const TRIES: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn deregistration_at_another_replica_removes_what_was_just_registered() {
    let etcd = EtcdCluster::start(1).await;
    let [one, two] = replicas(&etcd).await;
    let (first, second) = (one.client().await, two.client().await);
    for number in 0..TRIES {
        let id = format!("i{number}");
        register(&first, &id).await;
        let removed = second.deregister("web", &id, &Bytes::new()).await.unwrap();
        assert!(removed.is_some(), "{id} was registered before");
    }
    let unknown = async || {
        let answer = timeout(Duration::from_secs(4), second.deregister("web", "none", &Bytes::new())).await;
        answer.unwrap().unwrap_err().code()
    };
    assert_eq!(unknown().await, Code::NotFound);
    etcd.pause(0);
    assert_eq!(unknown().await, Code::Unavailable, "another replica may know it");
    etcd.resume(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn consul_deregistration_at_another_replica_removes_what_was_just_registered() {
    let etcd = EtcdCluster::start(1).await;
    let [one, two] = replicas(&etcd).await;
    let put = async |replica: &ServerProcess, path: &str, body: &str| {
        ask(replica.http, "PUT", &format!("/v1/agent/service/{path}"), body, |text| text).await.status
    };
    for number in 0..TRIES {
        let registration = json!({"ID": format!("i{number}"), "Name": "web", "Port": 80}).to_string();
        assert_eq!(put(&one, "register", &registration).await, 200);
        assert_eq!(put(&two, &format!("deregister/i{number}"), "").await, 200, "i{number} was registered before");
    }
    assert_eq!(put(&two, "deregister/none", "").await, 404);
    etcd.pause(0);
    assert_eq!(put(&two, "deregister/none", "").await, 500, "another replica may know it");
    etcd.resume(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn of_two_policies_that_exclude_each_other_one_is_rejected() {
    let etcd = EtcdCluster::start(1).await;
    let [one, two] = replicas(&etcd).await;
    let (first, second) = (one.client().await, two.client().await);
    for number in 0..TRIES {
        let (a, b) = (format!("a{number}"), format!("b{number}"));
        // Each service would take over from the other one.
        let (to_b, to_a) =
            (policy_request(&a, &json!({"fallback": [b]})), policy_request(&b, &json!({"fallback": [a]})));
        let (set_first, set_second) = tokio::join!(send_policy(&first, to_b), send_policy(&second, to_a));
        let rejected: Vec<_> = [set_first, set_second].into_iter().filter_map(Result::err).collect();
        assert_eq!(rejected.len(), 1, "{rejected:?}");
        assert_eq!(rejected[0].code(), Code::InvalidArgument, "{rejected:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn replica_starts_on_a_registry_that_replaces_a_removed_one() {
    let etcd = EtcdCluster::start(1).await;
    let one = replica(&etcd).await;
    register(&one.client().await, "a").await;
    one.kill().await;
    let client = etcd.client();
    let keys = client.range(EtcdRange::prefix("/callboard/")).await.unwrap().entries;
    transact(&client, keys.into_iter().map(|entry| EtcdOperation::delete(entry.key)).collect()).await;
    // The history of etcd has the removed registry, too.
    let two = replica(&etcd).await;
    let second = two.client().await;
    assert!(second.list("web").await.is_empty());
    register(&second, "b").await;
    let three = replica(&etcd).await;
    within("the instance", async { while three.client().await.get("web", "b").await.is_none() {} }).await;
}
