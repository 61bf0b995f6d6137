//! Export of a registry while it is served, whichever engine it has.
//!
//! The state at one revision is collected under the order lock, as pointers to what the registry has. It is encoded later, part by part, as the
//! reader takes the parts: a slow reader holds the pointers and one part.
//!
//! Lease ids authorize changes of registrations, so they do not leave the process: an exported lease has a new id and the same terms.
//! After an import, the next heartbeat of a program learns that its lease is unknown, and the program registers again with its boot id. The results of
//! checks are not part of the registry, and not of such an export.

use std::{io, mem, sync::Arc, vec};

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{
    disk::export,
    record::{StoredInstance, StoredLease, policy::StoredPolicy},
};
use crate::{
    model::{LeaseId, Revision},
    random,
    registry::{Chunks, Entry, Registry},
};

/// Size of a part in bytes; only the last one is smaller. Its encoding occupies a thread for a fraction of a millisecond.
const PART_BYTES: usize = 32 * 1024;

/// State of a registry at one revision, which is encoded part by part.
#[derive(Debug)]
pub struct LiveExport {
    revision: Revision,
    instances: usize,
    policies: usize,
    is_header_encoded: bool,
    unencoded_policies: vec::IntoIter<StoredPolicy>,
    unencoded_entries: EntryCursor,
    /// Encoded bytes that are not part of a part yet.
    encoded: BytesMut,
}

/// Entries of several services, in order.
#[derive(Debug)]
struct EntryCursor {
    services: vec::IntoIter<Chunks>,
    present: Chunks,
    /// Positions of the chunk and of the entry that come next in the present service.
    next: (usize, usize),
}

impl LiveExport {
    /// Collects the state of a registry. Writers wait meanwhile.
    #[must_use]
    pub fn collect(registry: &Registry) -> Self {
        let writers_wait = registry.order();
        let revision = registry.applied();
        let services = registry.all_chunks();
        let policies = registry.policies().all_revisions();
        drop(writers_wait);
        let policy = |(scope, revisions)| StoredPolicy { scope, revisions, skipped: Vec::new() };
        let policies: Vec<_> = policies.into_iter().map(policy).collect();
        let chunks = services.iter().flat_map(|chunks| chunks.iter());
        Self {
            revision,
            instances: chunks.map(|chunk| chunk.entries().len()).sum(),
            policies: policies.len(),
            is_header_encoded: false,
            unencoded_policies: policies.into_iter(),
            unencoded_entries: EntryCursor::new(services),
            encoded: BytesMut::new(),
        }
    }

    /// Revision of the state: it has all changes up to this one.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Number of instances, nodes included.
    #[must_use]
    pub fn instances(&self) -> usize {
        self.instances
    }

    /// Number of policies. Removed ones are counted while their revisions are kept.
    #[must_use]
    pub fn policies(&self) -> usize {
        self.policies
    }

    /// Encodes the next part. A line may continue in the next one. `None`: the export is complete.
    ///
    /// # Errors
    ///
    /// When a value has no encoding, which is a defect.
    pub fn next_part(&mut self) -> io::Result<Option<Bytes>> {
        while self.encoded.len() < PART_BYTES {
            let mut out = (&mut self.encoded).writer();
            if !mem::replace(&mut self.is_header_encoded, true) {
                export::write_header(self.revision, (self.instances, self.policies), &mut out)?;
            } else if let Some(policy) = self.unencoded_policies.next() {
                export::write_policy(&policy, &mut out)?;
            } else if let Some(entry) = self.unencoded_entries.next() {
                export::write_instance(&stored_without_secrets(&entry), &mut out)?;
            } else {
                break;
            }
        }
        let length = self.encoded.len().min(PART_BYTES);
        Ok((length > 0).then(|| self.encoded.split_to(length).freeze()))
    }
}

/// Returns an entry as a store has it, with a new id of its lease.
fn stored_without_secrets(entry: &Entry) -> StoredInstance {
    let lease = entry.lease.as_deref();
    let lease = lease.map(|lease| StoredLease { id: LeaseId(random::u128()), ..StoredLease::of(lease) });
    StoredInstance { instance: entry.instance.clone(), lease }
}

impl EntryCursor {
    fn new(services: Vec<Chunks>) -> Self {
        Self { services: services.into_iter(), present: Chunks::default(), next: (0, 0) }
    }
}

impl Iterator for EntryCursor {
    type Item = Arc<Entry>;

    fn next(&mut self) -> Option<Arc<Entry>> {
        loop {
            let (chunk, entry) = self.next;
            match self.present.get(chunk).map(|chunk| chunk.entries().get(entry)) {
                Some(Some(found)) => {
                    self.next = (chunk, entry + 1);
                    return Some(Arc::clone(found));
                }
                Some(None) => self.next = (chunk + 1, 0),
                None => (self.present, self.next) = (self.services.next()?, (0, 0)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
