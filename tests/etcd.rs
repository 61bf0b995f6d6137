//! The client of etcd and replicas of a registry, against real clusters and their faults. `just etcd` runs these tests with a
//! released etcd, and `just etcd-old` those of the client with Debian's old one.

mod consul_agent;
mod cut_off;
mod failover;
mod held;
mod large;
mod migration;
mod other_boots;
mod outage;
mod reads;
mod replaced;
mod replicas;
mod secured_replicas;
mod security;
mod stale;
mod stopped;
mod together;
mod too_large;
mod transactions;
mod watching;

use std::collections::BTreeMap;

use callboard::etcd::{
    EtcdChange, EtcdClient, EtcdOperation, EtcdRange, EtcdRevisionBatch, EtcdTransaction, EtcdWatch, EtcdWatchEvent,
};

use crate::harness::within;

/// Sets a key, and returns the revision.
async fn put(client: &EtcdClient, key: &str, value: &str) -> u64 {
    let operation = EtcdOperation::put(key.to_owned(), value.to_owned());
    transact(client, vec![operation]).await
}

/// Deletes a key, and returns the revision.
async fn delete(client: &EtcdClient, key: &str) -> u64 {
    transact(client, vec![EtcdOperation::delete(key.to_owned())]).await
}

async fn transact(client: &EtcdClient, success: Vec<EtcdOperation>) -> u64 {
    let transaction = EtcdTransaction { success, ..EtcdTransaction::default() };
    client.transact(&transaction).await.unwrap().revision
}

/// Returns the keys with a prefix, and their values.
async fn entries(client: &EtcdClient, prefix: &'static str) -> BTreeMap<String, String> {
    let result = client.range(EtcdRange::prefix(prefix)).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    result.entries.into_iter().map(|entry| (text(entry.key), text(entry.value))).collect()
}

/// Returns the next batch of a watch.
async fn next_batch(watch: &mut EtcdWatch) -> EtcdRevisionBatch {
    within("a batch", async {
        loop {
            match watch.next().await.unwrap() {
                EtcdWatchEvent::Batch(batch) => return batch,
                EtcdWatchEvent::Progress { .. } => {}
            }
        }
    })
    .await
}

/// Returns the changes of a batch: `+key=value` and `-key`.
fn changes(batch: &EtcdRevisionBatch) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let change = |change: &EtcdChange| match change {
        EtcdChange::Put(entry) => format!("+{}={}", text(&entry.key), text(&entry.value)),
        EtcdChange::Delete { key } => format!("-{}", text(key)),
    };
    batch.changes.iter().map(change).collect()
}

/// Returns the error with which a watch ends.
async fn end_of(watch: &mut EtcdWatch) -> callboard::etcd::EtcdError {
    let end = async {
        loop {
            if let Err(error) = watch.next().await {
                return error;
            }
        }
    };
    within("the end of the watch", end).await
}
