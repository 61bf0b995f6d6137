//! Reading of the registry: at the start of a replica, and after the contents of etcd were replaced. Reading of its newest revision.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{
    keys::{KeySpace, RegistryKey},
    registry_meta::{MetaError, RegistryMeta},
    snapshot::KeySnapshot,
};
use crate::{
    etcd::{
        EtcdClient, EtcdCompare, EtcdError, EtcdErrorKind, EtcdOperation, EtcdRange, EtcdResponse, EtcdTransaction,
    },
    model::{Incarnation, UnixMillis},
    random,
    registry::SessionEpoch,
};

/// Time in which etcd has to answer at the start of a replica.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Number of revisions of etcd that a starting replica replays.
const REPLAYED_REVISIONS: u64 = 4_096;
/// Maximum time of a read of etcd's newest revision.
const NEWEST_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two attempts to reach etcd.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Reads all keys at a revision before the beginning of the session, so that the watch fills the event logs and readers can resume. Reads
/// the newest revision if etcd no longer has the earlier one. `written`: revision at which the meta value was written; the contents before
/// may be those of a registry that was removed.
pub async fn read_earlier(
    client: &EtcdClient,
    keys: &KeySpace,
    session: SessionEpoch,
    written: u64,
) -> Result<KeySnapshot, EtcdError> {
    let earlier = session.0.saturating_sub(REPLAYED_REVISIONS).max(written);
    match KeySnapshot::read(client, keys, Some(earlier)).await {
        Err(error) if matches!(error.kind(), EtcdErrorKind::Compacted { .. }) => {
            // All replicas know all changes since the beginning of the session.
            match KeySnapshot::read(client, keys, Some(session.0)).await {
                Err(error) if matches!(error.kind(), EtcdErrorKind::Compacted { .. }) => {
                    KeySnapshot::read(client, keys, None).await
                }
                read => read,
            }
        }
        read => read,
    }
}

/// Reads the newest revision of etcd, which most members have confirmed. `None`: etcd did not answer or no longer has this registry, and
/// another attempt may be made now.
pub async fn newest_revision(client: EtcdClient, keys: KeySpace, meta: RegistryMeta) -> Option<u64> {
    let range = EtcdRange::key(keys.encode(&RegistryKey::Meta));
    let found = timeout(NEWEST_TIMEOUT, client.range(range)).await.ok().and_then(Result::ok);
    let newest = found.filter(|found| {
        let present = found.entries.first().map(|entry| RegistryMeta::decode(&entry.value));
        present.is_some_and(|present| present == Ok(meta))
    });
    if newest.is_none() {
        sleep(RETRY_DELAY).await;
    }
    newest.map(|newest| newest.revision)
}

/// Reads the meta value, and writes it if this is the first replica. Returns it with the revision of etcd at which it was written. `None`:
/// an import is writing the registry.
pub async fn read_meta(
    client: &EtcdClient,
    keys: &KeySpace,
    first: RegistryMeta,
) -> Result<Option<(Vec<u8>, u64)>, EtcdError> {
    let key = keys.encode(&RegistryKey::Meta);
    let value = first.encode();
    let transaction = EtcdTransaction {
        compares: vec![EtcdCompare::absent(key.clone()), EtcdCompare::absent(keys.import_mark())],
        success: vec![EtcdOperation::put(key.clone(), value.clone())],
        failure: vec![EtcdOperation::Range(EtcdRange::key(key))],
    };
    let result = client.transact(&transaction).await?;
    if result.succeeded {
        return Ok(Some((value, result.revision)));
    }
    Ok(result.responses.into_iter().find_map(|response| match response {
        EtcdResponse::Range(found) => found.entries.into_iter().next().map(|entry| (entry.value, entry.mod_revision)),
        EtcdResponse::Put | EtcdResponse::Delete { .. } | EtcdResponse::Nested(_) => None,
    }))
}

/// Error of reading the contents that have replaced those of etcd.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// etcd did not answer, or rejected a request.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// This version cannot use the registry.
    #[error(transparent)]
    Meta(#[from] MetaError),
}

/// Agrees with the other replicas on the incarnation of replaced contents, and returns its meta value. The first replica that finds out
/// writes it. `known`: value before. `last`: last revision of etcd that this replica has applied, with its offset.
pub async fn agree_on_incarnation(
    client: &EtcdClient,
    keys: &KeySpace,
    (known, last): (RegistryMeta, u64),
    now: UnixMillis,
) -> Result<RegistryMeta, ReloadError> {
    let key = keys.encode(&RegistryKey::Meta);
    loop {
        let found = client.range(EtcdRange::key(key.clone())).await?.entries.into_iter().next();
        let meta = found.as_ref().map(|entry| RegistryMeta::decode(&entry.value)).transpose()?;
        // That of an old backup would let revisions go back.
        if let Some(meta) = meta.filter(|meta| meta.incarnation != known.incarnation && meta.revision_offset > last) {
            return Ok(meta);
        }
        let meta = RegistryMeta::new(Incarnation(random::u64()), now, Some(last));
        let guard = found.map_or(0, |entry| entry.mod_revision);
        let transaction = EtcdTransaction {
            compares: vec![EtcdCompare::mod_revision(key.clone(), guard)],
            success: vec![EtcdOperation::put(key.clone(), meta.encode())],
            failure: vec![],
        };
        if client.transact(&transaction).await?.succeeded {
            return Ok(meta);
        }
    }
}

/// Repeats an operation until it succeeds, fails with an error that every member would return, or the time is over.
pub async fn until_answered<T, F: Future<Output = Result<T, EtcdError>>>(
    limit: Duration,
    mut operation: impl FnMut() -> F,
) -> Result<T, EtcdError> {
    let mut last = None;
    let answered = timeout(limit, async {
        loop {
            match operation().await {
                Err(error) if error.concerns_member() => {
                    if last.is_none() {
                        tracing::warn!(%error, "waiting for etcd");
                    }
                    last = Some(error);
                    sleep(RETRY_DELAY).await;
                }
                done => return done,
            }
        }
    });
    match (answered.await, last) {
        (Ok(done), _) => done,
        (Err(_), Some(error)) => Err(error),
        (Err(_), None) => operation().await,
    }
}
