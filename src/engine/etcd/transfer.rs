//! Export of a registry in etcd, and import into a new one.

use std::io;

use tokio::runtime;

use super::{
    instance_value::{InstanceValue, SessionHolder},
    keys::{KeySpace, RegistryKey},
    loading::{START_TIMEOUT, until_answered},
    policy_value::PolicyValue,
    position::{CommitPosition, CommitSlot},
    registry_meta::{MetaError, RegistryMeta},
    snapshot::KeySnapshot,
};
use crate::{
    engine::{
        disk::{LoadedRecords, RecordKey, UnreadableRecord},
        record::{
            DecodeError, StoredInstance,
            policy::{StoredPolicy, policy_key},
            unknown_fields::UnknownFields,
        },
    },
    etcd::{
        EtcdClient, EtcdCompare, EtcdError, EtcdOperation, EtcdOptions, EtcdOptionsError, EtcdRange, EtcdTransaction,
    },
    model::{Incarnation, Revision, UnixMillis},
    random,
    registry::{PolicyRevision, SessionEpoch},
};

/// Maximum number of keys that one transaction writes.
const BATCH_KEYS: usize = 100;
/// Maximum size of the values of a transaction, in bytes, unless it has only one.
const BATCH_BYTES: usize = 1 << 20;

/// Error of an export or an import.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The settings are invalid.
    #[error(transparent)]
    Options(#[from] EtcdOptionsError),
    /// etcd did not answer, or rejected a request.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// This version cannot read the registry.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Registry that does not exist.
    #[error("etcd has no registry named {0:?}: give its name with --cluster")]
    NoRegistry(String),
    /// Registry that exists, where a new one was to be created.
    #[error(
        "etcd has keys of a registry named {0:?} already: choose another name with --cluster, or stop its replicas and remove the keys below {1}"
    )]
    NotEmpty(String, String),
    /// A replica has started during the import.
    #[error(
        "a replica of the registry {0:?} has started meanwhile, and nothing was imported: stop all replicas, and import again"
    )]
    ReplicaStarted(String),
    /// The operating system could not start the runtime.
    #[error("the requests to etcd could not be started: {0}")]
    Runtime(#[from] io::Error),
}

/// Reads a registry at one revision, while replicas may run. Blocks.
///
/// # Errors
///
/// When etcd does not answer within 30 s, or has no registry with this name.
pub fn export(options: EtcdOptions, cluster: &str) -> Result<LoadedRecords, TransferError> {
    let (client, keys) = (EtcdClient::new(options)?, KeySpace::new(cluster));
    let reading = until_answered(START_TIMEOUT, || KeySnapshot::read(&client, &keys, None));
    let snapshot = blocking(reading)??;
    let meta = snapshot.entries.iter().find(|entry| matches!(keys.decode(&entry.key), Ok(RegistryKey::Meta)));
    let Some(meta) = meta.map(|entry| RegistryMeta::decode(&entry.value)).transpose()? else {
        return Err(TransferError::NoRegistry(cluster.to_owned()));
    };
    let snapshot = snapshot.with_offset(meta);
    let mut records =
        LoadedRecords { revision: CommitPosition::complete(snapshot.revision), ..LoadedRecords::default() };
    for entry in snapshot.entries {
        let unreadable = |key, error: DecodeError| UnreadableRecord { key, error };
        match keys.decode(&entry.key) {
            Ok(RegistryKey::Instance(service, id)) => {
                match InstanceValue::decode(&service, &id, &entry.value, entry.mod_revision) {
                    Ok(value) => records.instances.push(value.stored),
                    Err(error) => {
                        let key = RecordKey::Instance { service: service.to_string(), id: id.to_string() };
                        records.unreadable.push(unreadable(key, error));
                    }
                }
            }
            Ok(RegistryKey::Policy(scope)) => match PolicyValue::decode(&scope, &entry.value, entry.mod_revision) {
                Ok(value) => records.policies.push(value.stored),
                Err(error) => {
                    let key = RecordKey::Policy { service: policy_key(&scope).to_owned() };
                    records.unreadable.push(unreadable(key, error));
                }
            },
            // The rest belongs to running replicas, or to other programs.
            Ok(
                RegistryKey::Meta
                | RegistryKey::Session(_)
                | RegistryKey::BatchNote(..)
                | RegistryKey::ReleaseRequest(_)
                | RegistryKey::Expirations(_),
            )
            | Err(_) => {}
        }
    }
    records.instances.sort_unstable_by(|one, other| {
        let key = |stored: &StoredInstance| (stored.instance.service.clone(), stored.instance.id.clone());
        key(one).cmp(&key(other))
    });
    records.policies.sort_unstable_by(|one, other| one.scope.cmp(&other.scope));
    Ok(records)
}

/// Creates a registry with the contents of an export, and with a new incarnation. No replica may run meanwhile. Blocks.
///
/// # Errors
///
/// When etcd does not answer, or has keys of a registry with this name. Nothing is imported then.
pub fn import(
    options: EtcdOptions,
    cluster: &str,
    records: &LoadedRecords,
    now: UnixMillis,
) -> Result<(), TransferError> {
    let meta = RegistryMeta::new(Incarnation(random::u64()), now, None);
    let client = EtcdClient::new(options)?;
    let importing = async {
        let mut import = EtcdImport { client, keys: KeySpace::new(cluster), cluster, written: Vec::new() };
        let found = until_answered(START_TIMEOUT, || {
            import.client.range(EtcdRange::prefix(import.keys.prefix().to_owned()).with_limit(1))
        });
        if !found.await?.entries.is_empty() {
            return Err(TransferError::NotEmpty(cluster.to_owned(), import.keys.prefix().to_owned()));
        }
        let imported = import.write(records, meta).await;
        if imported.is_err() {
            import.undo().await;
        }
        imported
    };
    blocking(importing)?
}

/// Import into one registry.
struct EtcdImport<'a> {
    client: EtcdClient,
    keys: KeySpace,
    cluster: &'a str,
    /// Keys that were written, or may have been, with their revisions. `None`: the revision is unknown.
    written: Vec<(String, Option<u64>)>,
}

impl EtcdImport<'_> {
    async fn write(&mut self, records: &LoadedRecords, meta: RegistryMeta) -> Result<(), TransferError> {
        self.begin().await?;
        let policies = records.policies.iter().map(TransferredRecord::Policy);
        let instances = records.instances.iter().map(TransferredRecord::Instance);
        let mut batch = Vec::new();
        let (mut bytes, mut slot) = (0, CommitSlot::FIRST);
        for record in policies.chain(instances) {
            let (mut key, mut value) = record.encode(slot);
            if batch.len() == BATCH_KEYS || bytes + value.len() > BATCH_BYTES && !batch.is_empty() {
                self.put(std::mem::take(&mut batch)).await?;
                (bytes, slot) = (0, CommitSlot::FIRST);
                (key, value) = record.encode(slot);
            }
            bytes += value.len();
            slot = slot.next().unwrap_or(CommitSlot::LAST);
            batch.push((self.keys.encode(&key), value));
        }
        if !batch.is_empty() {
            self.put(batch).await?;
        }
        self.complete(meta).await
    }

    /// Marks the registry as incomplete, so that no replica starts with a part of it.
    async fn begin(&mut self) -> Result<(), TransferError> {
        let (mark, meta) = (self.keys.import_mark(), self.keys.encode(&RegistryKey::Meta));
        self.written.push((mark.clone(), None));
        let transaction = EtcdTransaction {
            compares: vec![EtcdCompare::absent(meta), EtcdCompare::absent(mark.clone())],
            success: vec![EtcdOperation::put(mark, Vec::new())],
            failure: Vec::new(),
        };
        let result = self.client.transact(&transaction).await?;
        if !result.succeeded {
            self.written.clear(); // another import has begun
            return Err(TransferError::NotEmpty(self.cluster.to_owned(), self.keys.prefix().to_owned()));
        }
        self.written = vec![(self.keys.import_mark(), Some(result.revision))];
        Ok(())
    }

    /// Writes the meta key in place of the mark: replicas use the keys from here on.
    async fn complete(&self, meta: RegistryMeta) -> Result<(), TransferError> {
        let key = self.keys.encode(&RegistryKey::Meta);
        let transaction = EtcdTransaction {
            compares: vec![EtcdCompare::absent(key.clone())],
            success: vec![
                EtcdOperation::put(key.clone(), meta.encode()),
                EtcdOperation::delete(self.keys.import_mark()),
            ],
            failure: Vec::new(),
        };
        let completed = self.client.transact(&transaction).await;
        if completed.as_ref().is_ok_and(|result| result.succeeded) {
            return Ok(());
        }
        // The reply to an earlier attempt may have been lost.
        let range = || self.client.range(EtcdRange::key(key.clone()));
        let found = until_answered(START_TIMEOUT, range).await?;
        if found.entries.first().is_some_and(|entry| entry.value == meta.encode()) {
            return Ok(());
        }
        completed.map_err(TransferError::from).and(Err(TransferError::ReplicaStarted(self.cluster.to_owned())))
    }

    /// Writes keys, unless a replica has started.
    async fn put(&mut self, batch: Vec<(String, Vec<u8>)>) -> Result<(), TransferError> {
        let begin = self.written.len();
        self.written.extend(batch.iter().map(|(key, _)| (key.clone(), None)));
        let transaction = EtcdTransaction {
            compares: vec![EtcdCompare::absent(self.keys.encode(&RegistryKey::Meta))],
            success: batch.into_iter().map(|(key, value)| EtcdOperation::put(key, value)).collect(),
            failure: Vec::new(),
        };
        let result = self.client.transact(&transaction).await?;
        if !result.succeeded {
            self.written.truncate(begin);
            return Err(TransferError::ReplicaStarted(self.cluster.to_owned()));
        }
        for (_, revision) in &mut self.written[begin..] {
            *revision = Some(result.revision);
        }
        Ok(())
    }

    /// Removes the keys that were written and have not changed since, the mark last.
    async fn undo(&self) {
        for (key, revision) in self.written.iter().rev() {
            let compare = match revision {
                Some(revision) => EtcdCompare::mod_revision(key.clone(), *revision),
                // The reply was lost. A replica that had started meanwhile could have written the key.
                None => EtcdCompare::absent(self.keys.encode(&RegistryKey::Meta)),
            };
            let transaction = EtcdTransaction {
                compares: vec![compare],
                success: vec![EtcdOperation::delete(key.clone())],
                failure: Vec::new(),
            };
            if let Err(error) = self.client.transact(&transaction).await {
                tracing::warn!(%error, "an incomplete import could not be removed: remove the keys below {}", self.keys.prefix());
                return;
            }
        }
    }
}

/// Record of an export.
#[derive(Debug, Clone, Copy)]
enum TransferredRecord<'a> {
    Policy(&'a StoredPolicy),
    Instance(&'a StoredInstance),
}

impl TransferredRecord<'_> {
    /// Returns the key and the value for a slot of a batch, without the revisions of the other registry.
    fn encode(self, slot: CommitSlot) -> (RegistryKey, Vec<u8>) {
        match self {
            Self::Instance(StoredInstance { instance, lease }) => {
                let instance = instance.clone().without_revisions();
                // The first heartbeat makes a replica the holder.
                let holder = SessionHolder { epoch: SessionEpoch::default(), replica: "".into() };
                let value = InstanceValue::encode(&instance, *lease, &holder, slot, &UnknownFields::default());
                (RegistryKey::Instance(instance.service, instance.id), value)
            }
            Self::Policy(StoredPolicy { scope, revisions, .. }) => {
                let newest = revisions.len().saturating_sub(1);
                let renumbered = revisions.iter().enumerate().zip(1..).map(|((at, revision), number)| {
                    // Earlier revisions get numbers from 1 on, which no change in etcd has.
                    let number = Revision(if at == newest { 0 } else { number });
                    PolicyRevision { revision: number, ..PolicyRevision::clone(revision) }.into()
                });
                let revisions: Vec<_> = renumbered.collect();
                let value = PolicyValue::encode(&revisions, None, slot, &UnknownFields::default());
                (RegistryKey::Policy(scope.clone()), value)
            }
        }
    }
}

fn blocking<T>(work: impl Future<Output = T>) -> io::Result<T> {
    Ok(runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
}
