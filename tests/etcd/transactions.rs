//! Ranges, transactions, leases and compaction.

use std::time::Duration;

use callboard::etcd::{
    EtcdCompare, EtcdErrorKind, EtcdOperation, EtcdRange, EtcdResponse, EtcdTransaction, MAX_TRANSACTION_OPERATIONS,
};

use super::{delete, entries, put, transact};
use crate::harness::{EtcdCluster, within};

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn range_reads_prefix_at_its_revision() {
    let cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    let first = put(&client, "a/1", "one").await;
    put(&client, "a/2", "two").await;
    put(&client, "b/1", "other").await;
    let last = put(&client, "a/1", "changed").await;

    let all = client.range(EtcdRange::prefix("a/")).await.unwrap();
    assert_eq!((all.revision, all.count, all.has_more), (last, 2, false));
    let [one, two] = &*all.entries else { panic!("{:?}", all.entries) };
    assert_eq!(
        (&*one.key, &*one.value, one.create_revision, one.mod_revision),
        (&b"a/1"[..], &b"changed"[..], first, last)
    );
    assert_eq!((&*two.key, &*two.value, two.lease), (&b"a/2"[..], &b"two"[..], None));

    let old = client.range(EtcdRange::prefix("a/").at_revision(first)).await.unwrap();
    assert_eq!(old.entries.iter().map(|entry| &*entry.value).collect::<Vec<_>>(), [b"one"]);
    let limited = client.range(EtcdRange::prefix("a/").with_limit(1)).await.unwrap();
    assert_eq!((limited.entries.len(), limited.has_more, limited.count), (1, true, 2));
    let counted = client.range(EtcdRange::prefix("").count_only().serializable()).await.unwrap();
    assert_eq!((counted.entries.len(), counted.count), (0, 3));
    assert!(client.range(EtcdRange::key("a/")).await.unwrap().entries.is_empty());
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn pages_show_one_revision_despite_changes() {
    let cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    for number in 0..25 {
        put(&client, &format!("p/{number:02}"), "before").await;
    }
    let mut pages = client.pages("p/", 10, None);
    let mut found = pages.next_page().await.unwrap().unwrap();
    let revision = pages.revision().unwrap();
    put(&client, "p/20", "after").await;
    delete(&client, "p/24").await;
    put(&client, "p/25", "after").await;
    while let Some(page) = pages.next_page().await.unwrap() {
        assert!(page.len() <= 10);
        found.extend(page);
    }
    assert_eq!(pages.revision(), Some(revision));
    assert_eq!(found.len(), 25);
    assert!(found.iter().all(|entry| entry.value == b"before"), "{found:?}");
    assert!(found.is_sorted_by(|a, b| a.key < b.key));
    let mut none = client.pages("q/", 10, None);
    assert_eq!(none.next_page().await.unwrap().map(|page| page.len()), Some(0));
    assert!(none.next_page().await.unwrap().is_none());
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn transaction_with_stale_comparison_changes_nothing() {
    let cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    let seen = put(&client, "k", "1").await;
    let delete_if = |revision| EtcdTransaction {
        compares: vec![EtcdCompare::mod_revision("k", revision)],
        success: vec![EtcdOperation::delete("k")],
        failure: vec![EtcdOperation::Range(EtcdRange::key("k"))],
    };
    let newer = put(&client, "k", "2").await;
    let stale = client.transact(&delete_if(seen)).await.unwrap();
    assert!(!stale.succeeded);
    let [EtcdResponse::Range(present)] = &*stale.responses else { panic!("{stale:?}") };
    assert_eq!((&*present.entries[0].value, present.entries[0].create_revision), (&b"2"[..], seen));
    let present = client.transact(&delete_if(newer)).await.unwrap();
    assert_eq!((present.succeeded, present.revision), (true, newer + 1));
    assert_eq!(present.responses, [EtcdResponse::Delete { deleted: 1 }]);

    let create = EtcdTransaction {
        compares: vec![EtcdCompare::absent("k")],
        success: vec![EtcdOperation::put("k", "3")],
        failure: vec![],
    };
    assert!(client.transact(&create).await.unwrap().succeeded);
    assert!(!client.transact(&create).await.unwrap().succeeded);
    let create_revision = client.range(EtcdRange::key("k")).await.unwrap().entries[0].create_revision;
    let fenced = |revision| EtcdTransaction {
        compares: vec![EtcdCompare::create_revision("k", revision)],
        ..EtcdTransaction::default()
    };
    assert!(client.transact(&fenced(create_revision)).await.unwrap().succeeded);
    assert!(!client.transact(&fenced(create_revision + 1)).await.unwrap().succeeded);
}

fn guarded_put(key: String, revision: u64) -> EtcdOperation {
    EtcdOperation::Nested(EtcdTransaction {
        compares: vec![EtcdCompare::mod_revision(key.clone(), revision)],
        success: vec![EtcdOperation::put(key, "new")],
        failure: vec![],
    })
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn nested_transactions_are_decided_each_for_itself() {
    let cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    let seen = put(&client, "n/0", "old").await;
    put(&client, "n/1", "old").await;
    let mut success = vec![EtcdOperation::put("note", "batch")];
    success.extend((0..3).map(|number| guarded_put(format!("n/{number}"), if number == 0 { seen } else { 0 })));
    let batch = EtcdTransaction { success, ..EtcdTransaction::default() };
    let result = client.transact(&batch).await.unwrap();
    assert!(result.succeeded);
    let nested = |response: &EtcdResponse| match response {
        EtcdResponse::Nested(result) => Some(result.succeeded),
        EtcdResponse::Put | EtcdResponse::Delete { .. } | EtcdResponse::Range(_) => None,
    };
    assert_eq!(result.responses.iter().map(nested).collect::<Vec<_>>(), [None, Some(true), Some(false), Some(true)]);
    let values: Vec<_> = entries(&client, "n/").await.into_values().collect();
    assert_eq!(values, ["new", "old", "new"]);
    let keys = client.range(EtcdRange::prefix("n")).await.unwrap().entries;
    let changed = keys.iter().filter(|entry| entry.mod_revision == result.revision).count();
    assert_eq!(changed, 3, "all changes have the revision of the transaction");
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn transaction_beyond_the_limits_is_rejected_unexecuted() {
    let cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    let nested = |count| EtcdTransaction {
        success: (0..count).map(|number| guarded_put(format!("m/{number}"), 0)).collect(),
        ..EtcdTransaction::default()
    };
    let error = client.transact(&nested(MAX_TRANSACTION_OPERATIONS)).await.unwrap_err();
    assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::TooLarge, true), "{error}");
    assert!(entries(&client, "m/").await.is_empty());
    assert!(client.transact(&nested(MAX_TRANSACTION_OPERATIONS - 1)).await.unwrap().succeeded);
    assert_eq!(entries(&client, "m/").await.len(), MAX_TRANSACTION_OPERATIONS - 1);

    let twice = EtcdTransaction {
        success: vec![EtcdOperation::put("d", "1"), guarded_put("d".to_owned(), 0)],
        ..EtcdTransaction::default()
    };
    let error = client.transact(&twice).await.unwrap_err();
    assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::Rejected, true), "{error}");
    let text = error.to_string();
    assert!(text.starts_with(&format!("etcd at {}: ", cluster.endpoint(0))), "{text}");
    assert!(text.contains("duplicate key given in txn request; check"), "{text}");
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn revoked_or_expired_lease_deletes_its_keys_and_is_not_found() {
    let cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    let lease = client.grant_lease(Duration::from_mins(1)).await.unwrap();
    let revision = transact(&client, vec![EtcdOperation::put_with_lease("s", "1", lease)]).await;
    let session = client.range(EtcdRange::key("s")).await.unwrap().entries.remove(0);
    assert_eq!((session.lease, session.create_revision), (Some(lease), revision));
    assert_eq!(client.keep_alive(lease).await.unwrap(), Duration::from_mins(1));
    client.revoke_lease(lease).await.unwrap();
    assert!(entries(&client, "s").await.is_empty());
    client.revoke_lease(lease).await.unwrap();
    let error = client.keep_alive(lease).await.unwrap_err();
    assert_eq!(error.kind(), EtcdErrorKind::LeaseNotFound, "{error}");
    let put =
        EtcdTransaction { success: vec![EtcdOperation::put_with_lease("s", "2", lease)], ..EtcdTransaction::default() };
    let error = client.transact(&put).await.unwrap_err();
    assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::LeaseNotFound, true), "{error}");

    // etcd raises short TTLs to the time of an election, about 2 seconds.
    let short = client.grant_lease(Duration::from_secs(1)).await.unwrap();
    let revision = transact(&client, vec![EtcdOperation::put_with_lease("s", "3", short)]).await;
    let mut watch = client.watch("s", revision + 1).await.unwrap();
    let expiry = within("the expiry", async {
        loop {
            if let callboard::etcd::EtcdWatchEvent::Batch(batch) = watch.next().await.unwrap() {
                return batch;
            }
        }
    });
    let batch = expiry.await;
    assert_eq!(batch.changes, [callboard::etcd::EtcdChange::Delete { key: b"s".to_vec() }]);
    let fenced = EtcdTransaction { compares: vec![EtcdCompare::create_revision("s", revision)], ..Default::default() };
    assert!(!client.transact(&fenced).await.unwrap().succeeded, "the session is gone");
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn compacted_and_future_revisions_cannot_be_read() {
    let cluster = EtcdCluster::start(1).await;
    let client = cluster.client();
    let first = put(&client, "k", "1").await;
    let last = put(&client, "k", "2").await;
    client.compact(last).await.unwrap();
    client.compact(last).await.unwrap();
    let error = client.range(EtcdRange::key("k").at_revision(first)).await.unwrap_err();
    assert_eq!(error.kind(), EtcdErrorKind::Compacted { compact_revision: None }, "{error}");
    assert_eq!(client.range(EtcdRange::key("k").at_revision(last)).await.unwrap().entries.len(), 1);
    let error = client.range(EtcdRange::key("k").at_revision(last + 1)).await.unwrap_err();
    assert_eq!(error.kind(), EtcdErrorKind::FutureRevision { newest: None }, "{error}");
    assert!(client.compact(last + 1).await.is_err());
}

#[tokio::test]
#[ignore = "needs etcd: just etcd"]
async fn status_names_version_leader_and_sizes() {
    let cluster = EtcdCluster::start(3).await;
    let leader = cluster.leader().await;
    let client = cluster.client();
    let revision = put(&client, "k", "1").await;
    let status = cluster.status(leader).await;
    assert!(status.version.starts_with("3."), "{status:?}");
    assert_eq!((status.leader, status.revision), (Some(status.member_id), revision));
    assert!(status.database_bytes >= status.database_bytes_in_use && status.database_bytes_in_use > 0, "{status:?}");
    assert!(!status.is_learner && status.errors.is_empty() && status.raft_term > 0, "{status:?}");
    let follower = cluster.status(cluster.follower().await).await;
    assert_eq!((follower.cluster_id, follower.leader), (status.cluster_id, status.leader));
    assert_ne!(follower.member_id, status.member_id);
    assert_eq!(client.status().await.unwrap().cluster_id, status.cluster_id);
}
