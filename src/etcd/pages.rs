//! Ranges that are read in pages.

use bytes::Bytes;

use super::{
    client::EtcdClient,
    error::EtcdError,
    request::{EtcdRange, prefix_range},
    response::EtcdEntry,
};

/// Keys with a prefix at one revision, read page by page.
#[derive(Debug)]
pub struct EtcdPages {
    client: EtcdClient,
    /// First key of the next page; `None` after the last page.
    next: Option<Bytes>,
    end: Bytes,
    page_keys: usize,
    revision: Option<u64>,
    is_keys_only: bool,
}

impl EtcdClient {
    /// Reads the keys with a prefix in pages of this number of keys. All pages show this revision, or the newest one at the
    /// time of the first page.
    #[must_use]
    pub fn pages(&self, prefix: impl Into<Bytes>, page_keys: usize, revision: Option<u64>) -> EtcdPages {
        let (first, end) = prefix_range(prefix.into());
        EtcdPages { client: self.clone(), next: Some(first), end, page_keys, revision, is_keys_only: false }
    }
}

impl EtcdPages {
    /// Reads keys with their revisions, without their values.
    #[must_use]
    pub fn keys_only(self) -> Self {
        Self { is_keys_only: true, ..self }
    }

    /// Returns the next page, or `None` after the last one. A page that failed can be read again.
    ///
    /// # Errors
    ///
    /// The error of the last member that was asked. [`Compacted`](super::EtcdErrorKind::Compacted) if the revision was
    /// compacted meanwhile.
    pub async fn next_page(&mut self) -> Result<Option<Vec<EtcdEntry>>, EtcdError> {
        let Some(first) = self.next.clone() else { return Ok(None) };
        let mut range = EtcdRange::from_to(first, self.end.clone()).with_limit(self.page_keys.max(1));
        if let Some(revision) = self.revision {
            range = range.at_revision(revision);
        }
        if self.is_keys_only {
            range = range.keys_only();
        }
        let page = self.client.range(range).await?;
        self.revision.get_or_insert(page.revision);
        self.next = page.entries.last().filter(|_| page.has_more).map(|last| {
            let mut next = last.key.clone();
            next.push(0);
            next.into()
        });
        Ok(Some(page.entries))
    }

    /// Revision that the pages show, once it is known.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        self.revision
    }
}
