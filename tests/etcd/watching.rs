//! Watches: batches, compaction, revisions in the future, and streams that stay open.

use std::time::{Duration, Instant};

use callboard::etcd::{EtcdErrorKind, EtcdOperation, EtcdWatchEvent};

use super::{changes, delete, end_of, entries, next_batch, put, transact};
use crate::harness::{EtcdCluster, within};

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn watch_sends_one_batch_for_each_revision() {
    let cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    let first = put(&client, "w/a", "1").await;
    put(&client, "other", "1").await;
    let batch = vec![EtcdOperation::delete("w/a"), EtcdOperation::put("w/b", "2"), EtcdOperation::put("x", "2")];
    let second = transact(&client, batch).await;
    // Catches up, then follows.
    let mut watch = client.watch("w/", first).await.unwrap();
    let batch = next_batch(&mut watch).await;
    assert_eq!((batch.revision, changes(&batch)), (first, vec!["+w/a=1".to_owned()]));
    let batch = next_batch(&mut watch).await;
    assert_eq!((batch.revision, changes(&batch)), (second, vec!["-w/a".to_owned(), "+w/b=2".to_owned()]));
    let third = put(&client, "w/b", "3").await;
    let fourth = delete(&client, "w/b").await;
    let batch = next_batch(&mut watch).await;
    assert_eq!((batch.revision, changes(&batch)), (third, vec!["+w/b=3".to_owned()]));
    let callboard::etcd::EtcdChange::Put(entry) = &batch.changes[0] else { panic!("{batch:?}") };
    assert_eq!((entry.create_revision, entry.mod_revision), (second, third));
    let batch = next_batch(&mut watch).await;
    assert_eq!((batch.revision, changes(&batch)), (fourth, vec!["-w/b".to_owned()]));
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn watch_that_is_dropped_while_it_waits_loses_nothing() {
    let cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    let mut watch = client.watch("w", 1).await.unwrap();
    let mut expected = Vec::new();
    let mut received = Vec::new();
    let writing = async {
        for number in 0..200 {
            expected.push(put(&client, "w", &number.to_string()).await);
        }
    };
    let reading = async {
        while received.len() < 200 {
            // Most of these are dropped before they are ready.
            let next = tokio::time::timeout(Duration::from_micros(300), watch.next()).await;
            if let Ok(EtcdWatchEvent::Batch(batch)) = next.map(Result::unwrap) {
                received.push(batch.revision);
            }
        }
    };
    within("all batches", async { tokio::join!(writing, reading) }).await;
    assert_eq!(received, expected);
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn watch_at_compacted_revision_names_oldest_revision() {
    let cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    let first = put(&client, "w", "1").await;
    let mut early = client.watch("w", first).await.unwrap();
    next_batch(&mut early).await;
    put(&client, "w", "2").await;
    let last = put(&client, "w", "3").await;
    client.compact(last).await.unwrap();
    let error = match client.watch("w", first).await {
        Ok(mut watch) => end_of(&mut watch).await,
        Err(error) => error,
    };
    assert_eq!(error.kind(), EtcdErrorKind::Compacted { compact_revision: Some(last) }, "{error}");
    let mut watch = client.watch("w", last).await.unwrap();
    assert_eq!(changes(&next_batch(&mut watch).await), ["+w=3"]);
    // A watch that has the compacted revisions already goes on.
    next_batch(&mut early).await;
    assert_eq!(next_batch(&mut early).await.revision, last);
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn watch_in_the_future_of_a_wiped_cluster_is_an_error() {
    let mut cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    for number in 0..5 {
        put(&client, "w", &number.to_string()).await;
    }
    let next = put(&client, "w", "last").await + 1;
    let mut watch = client.watch("w", next).await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), EtcdWatchEvent::Progress { .. }), "the next revision is no error");
    let error = client.watch("w", next + 1).await.unwrap_err();
    assert_eq!(error.kind(), EtcdErrorKind::FutureRevision { newest: Some(next - 1) }, "{error}");
    let id = cluster.status(0).await.cluster_id;
    cluster.wipe().await;
    assert_eq!(end_of(&mut watch).await.kind(), EtcdErrorKind::Disconnected);
    assert_eq!(cluster.status(0).await.cluster_id, id, "the id of the cluster does not tell");
    let error = client.watch("w", next).await.unwrap_err();
    assert_eq!(error.kind(), EtcdErrorKind::FutureRevision { newest: Some(1) }, "{error}");
    assert!(entries(&client, "w").await.is_empty());
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn idle_watch_stays_open_and_reports_progress_each_second() {
    let cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    let revision = put(&client, "other", "1").await;
    let mut watch = client.watch("w", revision + 1).await.unwrap();
    // etcd closes connections that it finds too busy with pings after 8 to 10 seconds.
    let answers = async {
        for _ in 0..12 {
            assert_eq!(watch.next().await.unwrap(), EtcdWatchEvent::Progress { revision });
        }
    };
    #[expect(clippy::disallowed_methods, reason = "the test measures from outside")]
    let started = Instant::now();
    within("progress", answers).await;
    assert!(started.elapsed() > Duration::from_secs(10), "{:?}", started.elapsed());
    put(&client, "w", "1").await;
    assert_eq!(changes(&next_batch(&mut watch).await), ["+w=1"]);
}
