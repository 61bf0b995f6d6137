//! The instances of one service, by id, in blocks that readers can hold on to.
//!
//! A sorted list of sorted blocks of at most 256 entries: the leaves of a B+ tree. A reader takes the whole list by
//! cloning one `Arc`; a writer copies the one block that it changes, and only if a reader still holds it. So a snapshot
//! of 100,000 instances costs the writer nothing, and what was encoded of the other blocks stays good.

use std::sync::Arc;

use super::{attachment::Attachment, event::Entry};

/// Most entries of a block.
const FULL: usize = 256;
/// Two neighbours that together have no more than this become one.
const SPARSE: usize = FULL / 2;

/// The instances of a service at one moment. It never changes.
pub type Chunks = Arc<Vec<Arc<Chunk>>>;

/// Neighbouring instances, by id.
#[derive(Debug, Default)]
pub struct Chunk {
    /// By id; at least one.
    entries: Vec<Arc<Entry>>,
    /// What layers above derive from these entries, once for all readers.
    pub attachment: Attachment,
}

impl Clone for Chunk {
    /// The same entries, about to be changed: nothing of them is encoded.
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone(), attachment: Attachment::new() }
    }
}

impl Chunk {
    /// The entries, by id.
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

/// The instances of a service.
#[derive(Debug, Default)]
pub struct InstanceMap {
    blocks: Chunks,
    len: usize,
    /// How many of them should be called.
    available: usize,
}

impl InstanceMap {
    /// All instances as of now.
    #[must_use]
    pub fn blocks(&self) -> Chunks {
        Arc::clone(&self.blocks)
    }

    /// How many instances there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// How many of them should be called.
    #[must_use]
    pub fn available(&self) -> usize {
        self.available
    }

    /// Finds an instance.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Entry>> {
        let block = self.blocks.get(self.block_of(id))?;
        block.find(id).ok().map(|at| &block.entries[at])
    }

    /// Up to `limit` instances whose ids come after this one.
    #[must_use]
    pub fn page(&self, after: &str, limit: usize) -> Vec<Arc<Entry>> {
        let first = self.block_of(after);
        let entries = self.blocks.iter().skip(first).flat_map(|block| &block.entries);
        entries.filter(|entry| entry.instance.id.as_str() > after).take(limit).cloned().collect()
    }

    /// Puts an entry in the place of what was there under its id, and returns that.
    pub fn put(&mut self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        self.available += usize::from(entry.instance.status().is_routable());
        let id = entry.instance.id.clone();
        let blocks = Arc::make_mut(&mut self.blocks);
        if blocks.is_empty() {
            blocks.push(Chunk::new(vec![entry]));
            self.len = 1;
            return None;
        }
        let at = block_of(blocks, id.as_str());
        let beyond = at == blocks.len();
        let at = at - usize::from(beyond);
        let entries = open(&mut blocks[at]);
        let place =
            if beyond { Err(entries.len()) } else { entries.binary_search_by(|known| known.instance.id.cmp(&id)) };
        match place {
            Ok(place) => {
                let before = std::mem::replace(&mut entries[place], entry);
                self.available -= usize::from(before.instance.status().is_routable());
                Some(before)
            }
            Err(place) => {
                entries.insert(place, entry);
                self.len += 1;
                if entries.len() > FULL {
                    // Ids often come in rising order: what comes next then finds room in the upper half.
                    let upper = entries.split_off(FULL / 2);
                    blocks.insert(at + 1, Chunk::new(upper));
                }
                None
            }
        }
    }

    /// Removes an instance and returns it.
    pub fn remove(&mut self, id: &str) -> Option<Arc<Entry>> {
        let at = self.block_of(id);
        let place = self.blocks.get(at)?.find(id).ok()?;
        let blocks = Arc::make_mut(&mut self.blocks);
        let entries = open(&mut blocks[at]);
        let before = entries.remove(place);
        self.len -= 1;
        self.available -= usize::from(before.instance.status().is_routable());
        let left = entries.len();
        if left == 0 {
            blocks.remove(at);
        } else if let Some(next) = blocks.get(at + 1)
            && left + next.entries.len() <= SPARSE
        {
            let next = blocks.remove(at + 1);
            open(&mut blocks[at]).extend(next.entries.iter().cloned());
        }
        Some(before)
    }

    fn block_of(&self, id: &str) -> usize {
        block_of(&self.blocks, id)
    }
}

/// The first block whose last id is not before this one.
fn block_of(blocks: &[Arc<Chunk>], id: &str) -> usize {
    let ends_before = |block: &Arc<Chunk>| block.entries.last().is_some_and(|last| last.instance.id.as_str() < id);
    // Ids often come in rising order, and each that is looked at for comparison is far away in memory.
    if blocks.last().is_some_and(ends_before) { blocks.len() } else { blocks.partition_point(ends_before) }
}

/// The entries of a block, to be changed: in place if no reader holds the block, in a copy otherwise. What was encoded
/// of it is forgotten.
fn open(block: &mut Arc<Chunk>) -> &mut Vec<Arc<Entry>> {
    let block = Arc::make_mut(block);
    block.attachment = Attachment::new();
    &mut block.entries
}

#[cfg(test)]
#[path = "instance_map/tests.rs"]
mod tests;
