//! Take-over keeps the status of an instance's checks, and the mark of an operator.

use std::time::Duration;

use bytes::Bytes;
use callboard::pb::callboard::v1::{
    GetInstanceRequest, Instance, InstanceStatus, RegisterRequest, UpdateInstanceRequest,
};
use serde_json::json;

use crate::{
    consul_replay::client::ask,
    harness::{EtcdCluster, HeartbeatStream, Reader, ServerProcess, TestClient, instance, seconds, within},
};

async fn replica(etcd: &EtcdCluster, name: &str) -> ServerProcess {
    ServerProcess::start(&["--etcd", &etcd.endpoints(), "--dns", "off", "--replica", name]).await
}

/// Returns the name of the replica that holds an instance, and the instance.
async fn held(client: &TestClient, id: &str) -> (String, Instance) {
    let request = GetInstanceRequest { service: "web".to_owned(), id: id.to_owned(), consistent: true };
    let got = within("GetInstance", client.discovery.clone().get_instance(request)).await.unwrap().into_inner();
    (got.holder, got.instance.unwrap())
}

/// Waits until a replica holds an instance.
async fn until_held_by(client: &TestClient, id: &str, holder: &str) {
    within("the next holder", async { while held(client, id).await.0 != holder {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn passing_check_of_a_killed_replica_stays_passing_at_the_next_one() {
    let etcd = EtcdCluster::start(1).await;
    let (one, two) = (replica(&etcd, "one").await, replica(&etcd, "two").await);
    let second = two.client().await;
    let check = |id: &str| json!({"CheckID": id, "HTTP": format!("http://{}/healthz", two.http), "Interval": "1s"});
    let registration = json!({"ID": "a", "Name": "web", "Port": 80, "Check": check("c")}).to_string();
    let answer = ask(one.http, "PUT", "/v1/agent/service/register", &registration, |text| text).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut reader = Reader::synced(&second, &["web"]).await;
    let is_serving =
        |instance: Option<&Instance>| instance.is_some_and(|found| found.status() == InstanceStatus::Serving);
    reader.until("the check passes", |view| is_serving(view.get("web", "a"))).await;
    assert_eq!(held(&second, "a").await.0, "one");
    one.kill().await;
    let watched = async {
        loop {
            reader.message().await.unwrap();
            assert!(is_serving(reader.view.get("web", "a")), "{:?}", reader.view.set);
        }
    };
    let run_here = async {
        until_held_by(&second, "a", "two").await;
        // The result of a probe is shown where the check runs.
        within("a result", async {
            while second.checks("web", "a").await.iter().all(|check| check.results.is_empty()) {}
        })
        .await;
        // As long as several probes take.
        let _elapsed = tokio::time::timeout(Duration::from_secs(3), std::future::pending::<()>()).await;
    };
    tokio::select! {
        () = watched => {}
        () = run_here => {}
    }
    assert!(is_serving(Some(&held(&second, "a").await.1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn drain_by_an_operator_holds_across_replicas_and_boots_until_it_is_cleared() {
    let etcd = EtcdCluster::start(1).await;
    let (one, two) = (replica(&etcd, "one").await, replica(&etcd, "two").await);
    let (first, second) = (one.client().await, two.client().await);
    let boot = |name: &str| RegisterRequest {
        boot_id: name.to_owned(),
        replace: true,
        ttl: seconds(5.0),
        ..instance("web", "a")
    };
    let drain = |draining: bool| UpdateInstanceRequest {
        service: "web".to_owned(),
        id: "a".to_owned(),
        draining,
        ..UpdateInstanceRequest::default()
    };
    let status = async |client: &TestClient| held(client, "a").await.1.status();
    first.register(boot("first")).await.unwrap();
    first.update(&["draining"], drain(true)).await.unwrap();
    assert_eq!(status(&second).await, InstanceStatus::Draining);
    first.register(boot("first")).await.unwrap();
    assert_eq!(status(&second).await, InstanceStatus::Draining, "the same boot has registered again");
    let lease = first.register(boot("second")).await.unwrap().lease_id;
    assert_eq!(status(&second).await, InstanceStatus::Draining, "another boot has registered");
    one.kill().await;
    let mut beats = HeartbeatStream::open(&second).await;
    within("the next holder", async {
        while held(&second, "a").await.0 != "two" {
            let _state = beats.beat(&[&lease]).await.unwrap();
        }
    })
    .await;
    assert_eq!(status(&second).await, InstanceStatus::Draining, "another replica holds it");
    second.update(&["draining"], drain(false)).await.unwrap();
    assert_eq!(status(&second).await, InstanceStatus::Serving);
    second.update(&["draining"], drain(true)).await.unwrap();
    // The mark is part of the registration.
    second.deregister("web", "a", &Bytes::new()).await.unwrap();
    second.register(boot("third")).await.unwrap();
    assert_eq!(status(&second).await, InstanceStatus::Serving);
}
