//! Contents of etcd at one revision.

use super::keys::KeySpace;
use crate::etcd::{EtcdClient, EtcdEntry, EtcdError};

/// Number of keys that one request reads.
const PAGE_KEYS: usize = 2_000;

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
}
