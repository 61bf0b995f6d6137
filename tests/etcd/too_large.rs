//! Writes of a replica that are larger than etcd accepts.

use callboard::pb::callboard::v1::RegisterRequest;
use serde_json::json;
use tokio::task::JoinSet;

use super::replicas::replica;
use crate::{
    consul_replay::client::ask,
    harness::{EtcdCluster, instance, within},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: just etcd"]
async fn write_that_etcd_rejects_as_too_large_fails_alone() {
    // One registration fits, and several of them in a batch do not.
    let cluster = EtcdCluster::start_with(1, &["--max-request-bytes=12000"]).await;
    let one = replica(&cluster).await;
    let client = one.client().await;
    let tags: Vec<_> = (0..8).map(|tag| tag.to_string().repeat(2_000)).collect();
    let too_large = json!({"ID": "large", "Name": "web", "Tags": tags});
    let mut registering = JoinSet::new();
    for number in 0..40 {
        let client = client.clone();
        registering.spawn(async move {
            let metadata = (0..14).map(|key| (format!("k{key}"), "x".repeat(500))).collect();
            client.register(RegisterRequest { metadata, ..instance("web", &format!("i{number}")) }).await
        });
    }
    let rejected = ask(one.http, "PUT", "/v1/agent/service/register", &too_large.to_string(), |text| text).await;
    for registered in within("all registrations", registering.join_all()).await {
        registered.unwrap();
    }
    assert_eq!(rejected.status, 500, "{rejected:?}");
    let text = format!("{rejected:?}");
    assert!(text.contains("the request is too large") && text.contains("--max-request-bytes"), "{text}");
    assert_eq!(client.list("web").await.len(), 40);
}
