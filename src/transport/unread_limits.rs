//! Limits on the memory of unread answers.
//!
//! | level | limit | answers of unknown size | pages and watches |
//! |---|---|---|---|
//! | connection | a sixteenth of `--max-unread-responses` | up to that | up to that |
//! | address, identity | a quarter; for loopback, which is many programs, half | up to half of that | up to that |
//! | all | `--max-unread-responses` | up to half | up to three quarters; all for a connection that reads |
//!
//! A connection that reads has at most [`MAX_READING_BYTES`] bytes waiting; for it, an address may hold up to three quarters of all. Beyond half of a limit,
//! connections with more unread bytes that read nothing are evicted after seconds instead of half a minute.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use dashmap::DashMap;
use tokio::sync::Notify;

use super::{LimitError, LimitLevel};

/// Maximum unread bytes of a connection that counts as reading.
const MAX_READING_BYTES: usize = 64 * 1024;

/// Size of an answer before it is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSize {
    /// A page of bounded size.
    Page,
    /// A message of a stream, which can wait.
    Message,
    /// An answer as large as the data that was requested.
    Unknown,
}

/// Unread bytes by owner.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnreadBytes {
    pub(super) connection: usize,
    pub(super) address: usize,
    pub(super) identity: usize,
    pub(super) all: usize,
}

/// Limits on unread answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnreadLimits {
    connection: usize,
    address: usize,
    all: usize,
}

impl UnreadLimits {
    pub(super) fn new(all: usize, loopback: bool) -> Self {
        Self { connection: all / 16, address: if loopback { all / 2 } else { all / 4 }, all }
    }

    /// Returns the first limit that leaves no memory for an answer of this size.
    pub(super) fn exceeded(self, size: AnswerSize, unread: UnreadBytes) -> Option<LimitError> {
        let Self { connection, address, all } = self;
        let reads = unread.connection <= MAX_READING_BYTES;
        let (address, all) = match size {
            AnswerSize::Unknown => (address / 2, all / 2),
            AnswerSize::Page if reads => (all / 4 * 3, all),
            AnswerSize::Message if reads => return None,
            AnswerSize::Page | AnswerSize::Message => (address, all / 4 * 3),
        };
        let levels = [
            (LimitLevel::Connection, unread.connection, connection),
            (LimitLevel::Address, unread.address, address),
            (LimitLevel::Identity, unread.identity, address),
            (LimitLevel::Registry, unread.all, all),
        ];
        levels.into_iter().find(|(_, bytes, most)| bytes > most).map(|(level, _, most)| LimitError::Unread(level, most))
    }

    /// Returns whether a connection that reads nothing uses memory that others need.
    pub(super) fn are_pressed_by(self, unread: UnreadBytes) -> bool {
        let levels = [(unread.address, self.address), (unread.identity, self.address), (unread.all, self.all)];
        unread.connection > MAX_READING_BYTES && levels.into_iter().any(|(bytes, most)| bytes > most / 2)
    }
}

/// Start and length of a buffer in memory: unique while the buffer exists.
pub(super) type BufferId = (usize, usize);

/// Unread buffers.
#[derive(Debug, Default)]
pub(super) struct UnreadBuffers {
    readers: DashMap<BufferId, usize>,
    bytes: AtomicUsize,
    /// Number of buffers that were freed so far; may wrap around.
    freed_count: AtomicUsize,
    pub(super) freed: Notify,
}

impl UnreadBuffers {
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    pub(super) fn freed_count(&self) -> usize {
        self.freed_count.load(Relaxed)
    }

    /// Adds a reader. Returns whether it is the first.
    pub(super) fn hold(&self, id: BufferId) -> bool {
        let mut readers = self.readers.entry(id).or_default();
        *readers += 1;
        let first = *readers == 1;
        if first {
            self.bytes.fetch_add(id.1, Relaxed);
        }
        first
    }

    pub(super) fn release(&self, id: BufferId) {
        let last = |readers: &mut usize| {
            *readers -= 1;
            *readers == 0
        };
        if self.readers.remove_if_mut(&id, |_, readers| last(readers)).is_some() {
            self.bytes.fetch_sub(id.1, Relaxed);
            self.freed_count.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;
    const NOTHING: UnreadBytes = UnreadBytes { connection: 0, address: 0, identity: 0, all: 0 };

    fn exceeded(size: AnswerSize, unread: UnreadBytes) -> Option<LimitLevel> {
        match UnreadLimits::new(64 * MIB, false).exceeded(size, unread) {
            Some(LimitError::Unread(level, _)) => Some(level),
            None => None,
            Some(other) => panic!("{other}"),
        }
    }

    #[test]
    fn answer_over_a_limit_is_rejected_at_the_level_that_causes_it() {
        use AnswerSize::{Page, Unknown};
        let at = |address, all| UnreadBytes { address: address * MIB, all: all * MIB, ..NOTHING };
        assert_eq!(exceeded(Page, UnreadBytes { connection: 4 * MIB + 1, ..NOTHING }), Some(LimitLevel::Connection));
        assert_eq!((exceeded(Unknown, at(8, 8)), exceeded(Unknown, at(9, 9))), (None, Some(LimitLevel::Address)));
        assert_eq!((exceeded(Unknown, at(0, 32)), exceeded(Unknown, at(0, 33))), (None, Some(LimitLevel::Registry)));
        assert_eq!(exceeded(Unknown, UnreadBytes { identity: 9 * MIB, ..NOTHING }), Some(LimitLevel::Identity));
    }

    #[test]
    fn page_for_a_connection_that_reads_has_memory_where_others_have_none() {
        let crowded = UnreadBytes { address: 17 * MIB, all: 63 * MIB, ..NOTHING };
        assert_eq!(exceeded(AnswerSize::Page, crowded), None);
        let stalled = UnreadBytes { connection: MAX_READING_BYTES + 1, ..crowded };
        assert_eq!(exceeded(AnswerSize::Page, stalled), Some(LimitLevel::Address));
        assert_eq!(exceeded(AnswerSize::Message, stalled), Some(LimitLevel::Address), "a watch waits");
        assert_eq!(exceeded(AnswerSize::Message, crowded), None);
        assert_eq!(exceeded(AnswerSize::Page, UnreadBytes { all: 65 * MIB, ..NOTHING }), Some(LimitLevel::Registry));
        assert_eq!(exceeded(AnswerSize::Page, UnreadBytes { address: 49 * MIB, ..NOTHING }), Some(LimitLevel::Address));
    }

    #[test]
    fn connection_that_takes_nothing_keeps_memory_from_others_only_beyond_half() {
        let limits = UnreadLimits::new(64 * MIB, true);
        let unread = UnreadBytes { connection: MIB, address: 17 * MIB, ..NOTHING };
        assert!(limits.are_pressed_by(unread));
        assert!(!limits.are_pressed_by(UnreadBytes { connection: MAX_READING_BYTES, ..unread }), "it reads");
        assert!(!limits.are_pressed_by(UnreadBytes { address: 16 * MIB, ..unread }));
    }

    #[test]
    fn buffer_of_many_readers_counts_once() {
        let buffers = UnreadBuffers::default();
        let (one, other) = ((4096, 100), (8192, 50));
        assert!(buffers.hold(one) && !buffers.hold(one) && buffers.hold(other));
        assert_eq!(buffers.bytes(), 150);
        buffers.release(one);
        assert_eq!(buffers.bytes(), 150);
        buffers.release(one);
        buffers.release(other);
        assert_eq!((buffers.bytes(), buffers.readers.len()), (0, 0));
    }
}
