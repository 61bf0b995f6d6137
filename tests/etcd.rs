//! The client of etcd against real clusters, and their faults. `just etcd` runs these tests with a released etcd, and once more
//! with Debian's old one.

mod transactions;

use std::collections::BTreeMap;

use callboard::etcd::{EtcdClient, EtcdOperation, EtcdRange, EtcdTransaction};

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
