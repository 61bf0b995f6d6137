//! Members that are stopped with SIGSTOP, and clusters without a quorum.

use std::time::{Duration, Instant};

use callboard::etcd::{EtcdErrorKind, EtcdOperation, EtcdRange, EtcdTransaction};

use super::{changes, end_of, next_batch, put};
use crate::harness::{EtcdCluster, within};

#[expect(clippy::disallowed_methods, reason = "tests measure from outside")]
fn now() -> Instant {
    Instant::now()
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn watch_at_stopped_member_stalls_and_another_resumes_without_loss() {
    let cluster = EtcdCluster::start(3).await;
    let follower = cluster.follower().await;
    let mut options = cluster.options();
    options.endpoints.rotate_left(follower);
    let client = callboard::etcd::EtcdClient::new(options).unwrap();
    let writer = cluster.client_of((follower + 1) % 3);
    let first = put(&writer, "w", "1").await;
    let mut watch = client.watch("w", first).await.unwrap();
    assert_eq!(watch.endpoint(), cluster.endpoint(follower));
    let last = next_batch(&mut watch).await.revision;

    cluster.pause(follower);
    put(&writer, "w", "2").await;
    let stopped = now();
    let error = end_of(&mut watch).await;
    assert_eq!((error.kind(), error.endpoint()), (EtcdErrorKind::Stalled, cluster.endpoint(follower)), "{error}");
    let took = stopped.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&took), "found after {took:?}");
    let mut resumed = client.watch("w", last + 1).await.unwrap();
    assert_ne!(resumed.endpoint(), cluster.endpoint(follower));
    assert_eq!(changes(&next_batch(&mut resumed).await), ["+w=2"]);
    cluster.resume(follower);
    assert_eq!(watch.next().await.unwrap_err(), error, "a watch that has ended does not go on");
    put(&writer, "w", "3").await;
    assert_eq!(changes(&next_batch(&mut resumed).await), ["+w=3"]);
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn request_to_stopped_member_is_repeated_only_if_it_is_harmless() {
    let cluster = EtcdCluster::start(3).await;
    let follower = cluster.follower().await;
    let mut options = cluster.options();
    options.endpoints.rotate_left(follower);
    let client = callboard::etcd::EtcdClient::new(options.clone()).unwrap();
    let other = callboard::etcd::EtcdClient::new(options.clone()).unwrap();
    let lease = client.grant_lease(Duration::from_mins(1)).await.unwrap();
    put(&client, "k", "1").await;
    put(&other, "k", "2").await;

    cluster.pause(follower);
    let write = EtcdTransaction { success: vec![EtcdOperation::put("k", "3")], ..EtcdTransaction::default() };
    let error = client.transact(&write).await.unwrap_err();
    assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::TimedOut, false), "{error}");
    assert_ne!(client.current_endpoint(), cluster.endpoint(follower), "the next request is sent elsewhere");
    client.transact(&write).await.unwrap();
    // A read and a renewal are repeated at the next member.
    let read = other.range(EtcdRange::key("k")).await.unwrap();
    assert_eq!(read.entries[0].value, b"3");
    assert_ne!(other.current_endpoint(), cluster.endpoint(follower));
    assert_eq!(other.keep_alive(lease).await.unwrap(), Duration::from_mins(1));
    // A member that is found stopped when the connection opens costs a write nothing but time.
    let fresh = callboard::etcd::EtcdClient::new(options).unwrap();
    fresh.transact(&write).await.unwrap();
    assert_ne!(fresh.current_endpoint(), cluster.endpoint(follower));
    cluster.resume(follower);
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn member_without_quorum_ends_watches_and_rejects_requests_unexecuted() {
    let mut cluster = EtcdCluster::start(3).await;
    let client = cluster.client_of(0);
    let revision = put(&client, "k", "1").await;
    let mut watch = client.watch("k", revision + 1).await.unwrap();
    let lease = client.grant_lease(Duration::from_mins(1)).await.unwrap();
    cluster.kill(1).await;
    cluster.kill(2).await;
    let lost = now();
    let error = end_of(&mut watch).await;
    let took = lost.elapsed();
    assert_eq!(error.kind(), EtcdErrorKind::NoLeader, "{error}");
    assert!(took < Duration::from_secs(10), "found after {took:?}");

    let write = EtcdTransaction { success: vec![EtcdOperation::put("k", "2")], ..EtcdTransaction::default() };
    let asked = now();
    let error = client.transact(&write).await.unwrap_err();
    assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::NoLeader, true), "{error}");
    assert_eq!(client.watch("k", 1).await.unwrap_err().kind(), EtcdErrorKind::NoLeader);
    assert_eq!(client.keep_alive(lease).await.unwrap_err().kind(), EtcdErrorKind::NoLeader);
    assert_eq!(client.range(EtcdRange::key("k").serializable()).await.unwrap_err().kind(), EtcdErrorKind::NoLeader);
    assert!(asked.elapsed() < Duration::from_secs(1), "rejections took {:?}", asked.elapsed());
    assert_eq!(client.status().await.unwrap().leader, None);

    cluster.restart(1).await;
    cluster.leader().await;
    assert_eq!(client.range(EtcdRange::key("k")).await.unwrap().entries[0].value, b"1", "the write was not executed");
    within("a write", client.transact(&write)).await.unwrap();
}
