//! Contents of etcd at one revision.

use super::{keys::KeySpace, registry_meta::RegistryMeta};
use crate::etcd::{EtcdChange, EtcdClient, EtcdEntry, EtcdError, EtcdRevisionBatch};

/// Number of keys that one request reads.
pub const PAGE_KEYS: usize = 2_000;

/// All keys of a registry at one revision of etcd.
#[derive(Debug)]
pub struct KeySnapshot {
    /// Revision of etcd.
    pub revision: u64,
    /// Keys, sorted.
    pub entries: Vec<EtcdEntry>,
}

impl KeySnapshot {
    /// Reads all keys at a revision, or at the newest one.
    pub async fn read(client: &EtcdClient, keys: &KeySpace, revision: Option<u64>) -> Result<Self, EtcdError> {
        let mut pages = client.pages(keys.prefix().to_owned(), PAGE_KEYS, revision);
        let mut entries = Vec::new();
        while let Some(page) = pages.next_page().await? {
            entries.extend(page);
        }
        Ok(Self { revision: pages.revision().unwrap_or_default(), entries })
    }

    /// Adds the offset of the incarnation to the revisions at which the keys were changed.
    pub fn with_offset(mut self, meta: RegistryMeta) -> Self {
        self.revision = meta.with_offset(self.revision);
        self.entries.iter_mut().for_each(|entry| entry.mod_revision = meta.with_offset(entry.mod_revision));
        self
    }
}

/// Adds the offset of the incarnation to the revisions of a batch.
pub fn batch_with_offset(mut batch: EtcdRevisionBatch, meta: RegistryMeta) -> EtcdRevisionBatch {
    batch.revision = meta.with_offset(batch.revision);
    for change in &mut batch.changes {
        if let EtcdChange::Put(entry) = change {
            entry.mod_revision = meta.with_offset(entry.mod_revision);
        }
    }
    batch
}
