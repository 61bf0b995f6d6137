//! Instances of one service, by id, in chunks that readers can hold.
//!
//! A sorted list of sorted chunks of at most 256 entries: the leaves of a B+ tree. A reader takes the whole list by cloning one
//! `Arc`; a writer copies the one chunk that it changes, and only if a reader still holds it. So a snapshot of 100,000 instances
//! costs the writer nothing, and values that are attached to the other chunks stay valid.

use std::sync::Arc;

use super::{attachment::Attachment, event::Entry};

/// Maximum number of entries in a chunk.
const MAX_CHUNK_ENTRIES: usize = 256;
/// Adjacent chunks that together have no more entries than this are merged.
const MERGED_ENTRIES: usize = MAX_CHUNK_ENTRIES / 2;

/// Instances of a service at one moment. They never change.
pub type Chunks = Arc<Vec<Arc<Chunk>>>;

/// Consecutive instances of a service, by id.
#[derive(Debug, Default)]
pub struct Chunk {
    /// At least one entry, by id.
    entries: Vec<Arc<Entry>>,
    /// Value that a layer above derives from these entries, once for all readers.
    pub attachment: Attachment,
}

impl Clone for Chunk {
    /// Copies the entries, to change them. The attachment does not fit the copy.
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone(), attachment: Attachment::new() }
    }
}

impl Chunk {
    /// Entries, by id.
    #[must_use]
    pub fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    fn new(entries: Vec<Arc<Entry>>) -> Arc<Self> {
        Arc::new(Self { entries, attachment: Attachment::new() })
    }

    fn find(&self, id: &str) -> Result<usize, usize> {
        self.entries.binary_search_by(|entry| entry.instance.id.as_str().cmp(id))
    }
}

/// Instances of a service.
#[derive(Debug, Default)]
pub struct InstanceMap {
    chunks: Chunks,
    len: usize,
    /// Number of routable instances.
    available: usize,
}

impl InstanceMap {
    /// Returns all instances at this moment.
    #[must_use]
    pub fn chunks(&self) -> Chunks {
        Arc::clone(&self.chunks)
    }

    /// Number of instances.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Number of instances that calls may go to.
    #[must_use]
    pub fn available(&self) -> usize {
        self.available
    }

    /// Finds an instance.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Entry>> {
        let chunk = self.chunks.get(self.chunk_of(id))?;
        chunk.find(id).ok().map(|index| &chunk.entries[index])
    }

    /// Returns up to `limit` instances with ids after `after`.
    #[must_use]
    pub fn page(&self, after: &str, limit: usize) -> Vec<Arc<Entry>> {
        let first = self.chunk_of(after);
        let entries = self.chunks.iter().skip(first).flat_map(|chunk| &chunk.entries);
        entries.filter(|entry| entry.instance.id.as_str() > after).take(limit).cloned().collect()
    }

    /// Puts an entry in place of the one with its id, and returns the one that it replaces.
    pub fn put(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        self.available += usize::from(entry.instance.status().is_routable());
        let id = entry.instance.id.clone();
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.is_empty() {
            chunks.push(Chunk::new(vec![entry]));
            self.len = 1;
            return None;
        }
        let at = chunk_of(chunks, id.as_str());
        let is_last = at == chunks.len();
        let at = at - usize::from(is_last);
        let entries = entries_mut(&mut chunks[at]);
        let found =
            if is_last { Err(entries.len()) } else { entries.binary_search_by(|known| known.instance.id.cmp(&id)) };
        match found {
            Ok(index) => {
                let before = std::mem::replace(&mut entries[index], entry);
                self.available -= usize::from(before.instance.status().is_routable());
                Some(before)
            }
            Err(index) => {
                entries.insert(index, entry);
                self.len += 1;
                if entries.len() > MAX_CHUNK_ENTRIES {
                    // Instances often register in the order of their ids: the upper half then has space for the next
                    // ones.
                    let upper = entries.split_off(MAX_CHUNK_ENTRIES / 2);
                    chunks.insert(at + 1, Chunk::new(upper));
                }
                None
            }
        }
    }

    /// Removes an instance and returns it.
    pub fn remove(&mut self, id: &str) -> Option<Arc<Entry>> {
        let at = self.chunk_of(id);
        let index = self.chunks.get(at)?.find(id).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let entries = entries_mut(&mut chunks[at]);
        let before = entries.remove(index);
        self.len -= 1;
        self.available -= usize::from(before.instance.status().is_routable());
        let left = entries.len();
        if left == 0 {
            chunks.remove(at);
        } else if let Some(next) = chunks.get(at + 1)
            && left + next.entries.len() <= MERGED_ENTRIES
        {
            let next = chunks.remove(at + 1);
            entries_mut(&mut chunks[at]).extend(next.entries.iter().cloned());
        }
        Some(before)
    }

    fn chunk_of(&self, id: &str) -> usize {
        chunk_of(&self.chunks, id)
    }
}

/// Returns the index of the first chunk whose last id is not before `id`.
fn chunk_of(chunks: &[Arc<Chunk>], id: &str) -> usize {
    let ends_before = |chunk: &Arc<Chunk>| chunk.entries.last().is_some_and(|last| last.instance.id.as_str() < id);
    // Instances often register in the order of their ids, and each comparison reads an entry that is far away in
    // memory.
    if chunks.last().is_some_and(ends_before) { chunks.len() } else { chunks.partition_point(ends_before) }
}

/// Returns the entries of a chunk, to change them: in place if no reader holds the chunk, in a copy otherwise. The attachment is
/// dropped.
fn entries_mut(chunk: &mut Arc<Chunk>) -> &mut Vec<Arc<Entry>> {
    let chunk = Arc::make_mut(chunk);
    chunk.attachment = Attachment::new();
    &mut chunk.entries
}

#[cfg(test)]
#[path = "instance_map/tests.rs"]
mod tests;
