//! Responses that are larger than tonic and etcd expect.

use bytes::Bytes;
use callboard::etcd::{EtcdChange, EtcdErrorKind, EtcdOperation, EtcdRange, EtcdTransaction};

use super::{next_batch, put, transact};
use crate::harness::EtcdCluster;

/// Number of keys that a transaction sets.
const KEYS: usize = 100;
/// Size of a value. A transaction of [`KEYS`] values is nearly as large as etcd accepts, 1.5 MiB.
const VALUE_BYTES: usize = 10 << 10;

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn catch_up_in_fragments_has_each_revision_whole() {
    let cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
    let mut revisions = Vec::new();
    for _ in 0..20 {
        let puts = (0..KEYS).map(|key| EtcdOperation::put(format!("w/{key}"), value.clone())).collect();
        revisions.push(transact(&client, puts).await);
    }
    let cleared = transact(&client, vec![EtcdOperation::DeletePrefix { prefix: "w/".into() }]).await;
    // 20 MiB of changes, which etcd sends in fragments of 2 MiB. They end within revisions.
    let mut watch = client.watch("w/", revisions[0]).await.unwrap();
    for revision in revisions {
        let batch = next_batch(&mut watch).await;
        let bytes = |change: &EtcdChange| match change {
            EtcdChange::Put(entry) => entry.value.len(),
            EtcdChange::Delete { .. } => 0,
        };
        assert_eq!((batch.revision, batch.changes.len()), (revision, KEYS));
        assert_eq!(batch.changes.iter().map(bytes).sum::<usize>(), KEYS * VALUE_BYTES);
    }
    let batch = next_batch(&mut watch).await;
    assert_eq!((batch.revision, batch.changes.len()), (cleared, KEYS));
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn catch_up_of_many_small_changes_arrives() {
    let cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    let first = put(&client, "start", "").await + 1;
    let value = Bytes::from(vec![b'v'; 256]);
    for _ in 0..400 {
        let puts = (0..KEYS).map(|key| EtcdOperation::put(format!("w/{key}"), value.clone())).collect();
        transact(&client, puts).await;
    }
    let mut watch = client.watch("w/", first).await.unwrap();
    for revision in first..first + 400 {
        let batch = next_batch(&mut watch).await;
        assert_eq!((batch.revision, batch.changes.len()), (revision, KEYS));
    }
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn range_of_ten_mebibytes_is_read_and_too_large_transaction_is_rejected() {
    let cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    let value = Bytes::from(vec![b'v'; 1 << 20]);
    for key in 0..10 {
        transact(&client, vec![EtcdOperation::put(format!("r/{key}"), value.clone())]).await;
    }
    let range = client.range(EtcdRange::prefix("r/")).await.unwrap();
    assert_eq!(range.entries.iter().map(|entry| entry.value.len()).sum::<usize>(), 10 << 20);
    // etcd rejects what is larger than 1.5 MiB, and its gRPC server what is larger than 2 MiB.
    for (size, reason) in [(1800 << 10, "request is too large"), (3 << 20, "larger than max")] {
        let success = vec![EtcdOperation::put("r/0", vec![b'v'; size])];
        let error = client.transact(&EtcdTransaction { success, ..EtcdTransaction::default() }).await.unwrap_err();
        assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::TooLarge, true), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    assert_eq!(client.range(EtcdRange::prefix("r/")).await.unwrap(), range, "nothing was executed");
}
