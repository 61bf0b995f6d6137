//! Memory for answers that their readers have not taken.
//!
//! A buffer is counted while any part of it waits to be written, and once, however many readers it has: on the account of the connection, address and
//! identity that had it first, and in all. So the numbers are memory, and a list that a thousand clients request at once costs as much as for one of them.
//!
//! | level | limit | answers of unknown size | pages and watches |
//! |---|---|---|---|
//! | connection | a sixteenth of `--max-unread-responses` | up to that | up to that |
//! | address, identity | a quarter; for loopback, which is many programs, half | up to half of that | up to that |
//! | all | `--max-unread-responses` | up to half | up to three quarters; all for a connection that reads |
//!
//! A connection that reads has at most [`MAX_READING_BYTES`] bytes waiting; for it, an address may hold up to three quarters of all. Beyond half of a limit,
//! connections that hold more than that and take nothing are evicted after seconds, not half a minute.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use dashmap::DashMap;
use tokio::{sync::Notify, time::sleep};

use super::{Connection, LimitError, LimitLevel};

/// Bytes up to which a connection counts as one that reads.
const MAX_READING_BYTES: usize = 64 * 1024;
/// Bytes below which an answer is not counted.
pub(super) const MIN_COUNTED: usize = 1_024;
/// Time that an answer of unknown size waits while no answer is taken. Shorter than the time after which readers that keep memory from others are evicted.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that it waits at most.
const CAPACITY_TIMEOUT: Duration = Duration::from_secs(30);

/// Size of an answer that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSize {
    /// A page of bounded size.
    Page,
    /// A message of a stream, which can wait.
    Message,
    /// An answer as large as the data that was requested.
    Unknown,
}

/// Bytes that wait for readers, by owner.
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

    /// The first limit that leaves no memory for an answer of this size.
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
            (LimitLevel::All, unread.all, all),
        ];
        levels.into_iter().find(|(_, bytes, most)| bytes > most).map(|(level, _, most)| LimitError::Unread(level, most))
    }

    /// Returns whether a connection that takes nothing keeps memory from others.
    pub(super) fn are_pressed_by(self, unread: UnreadBytes) -> bool {
        let levels = [(unread.address, self.address), (unread.identity, self.address), (unread.all, self.all)];
        unread.connection > MAX_READING_BYTES && levels.into_iter().any(|(bytes, most)| bytes > most / 2)
    }
}

/// Start and length in memory: unique while the buffer lives.
type BufferId = (usize, usize);

/// Buffers that wait for readers.
#[derive(Debug, Default)]
pub(super) struct UnreadBuffers {
    readers: DashMap<BufferId, usize>,
    bytes: AtomicUsize,
    /// Buffers that were freed so far; may wrap around.
    freed_count: AtomicUsize,
    freed: Notify,
}

impl UnreadBuffers {
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    pub(super) fn freed_count(&self) -> usize {
        self.freed_count.load(Relaxed)
    }

    /// Adds a reader. Returns whether it is the first.
    fn hold(&self, id: BufferId) -> bool {
        let mut readers = self.readers.entry(id).or_default();
        *readers += 1;
        let first = *readers == 1;
        if first {
            self.bytes.fetch_add(id.1, Relaxed);
        }
        first
    }

    fn release(&self, id: BufferId) {
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

/// A buffer that waits for one reader. Dropping it counts it as taken.
#[derive(Debug)]
pub(super) struct UnreadAnswer {
    connection: Arc<Connection>,
    /// Kept until it is no longer counted, so that no other buffer has its address.
    data: Bytes,
    first: bool,
}

impl UnreadAnswer {
    pub(super) fn new(connection: &Arc<Connection>, data: Bytes) -> Arc<Self> {
        let first = connection.permit().limiter().unread_buffers().hold(id(&data));
        if first {
            connection.answer_made(data.len());
        }
        Arc::new(Self { connection: Arc::clone(connection), data, first })
    }

    /// A part of the buffer, which is counted until all parts are dropped.
    pub(super) fn part(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        Bytes::from_owner(AnswerPart { _answer: Arc::clone(self), bytes })
    }
}

impl Drop for UnreadAnswer {
    fn drop(&mut self) {
        let buffers = self.connection.permit().limiter().unread_buffers();
        buffers.release(id(&self.data));
        if self.first {
            self.connection.answer_taken(self.data.len());
        }
        buffers.freed.notify_waiters();
    }
}

fn id(data: &Bytes) -> BufferId {
    (data.as_ptr() as usize, data.len())
}

/// A part of an answer on its way to the socket.
struct AnswerPart {
    _answer: Arc<UnreadAnswer>,
    bytes: Bytes,
}

impl AsRef<[u8]> for AnswerPart {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Connection {
    /// Returns the same bytes, counted as unread until all parts of them are dropped. Fewer than 1 KiB are not counted.
    #[must_use]
    pub fn count_unread(self: &Arc<Self>, data: Bytes) -> Bytes {
        if data.len() < MIN_COUNTED { data } else { UnreadAnswer::new(self, data.clone()).part(data) }
    }

    /// The limit that leaves no memory for another answer of this size.
    #[must_use]
    pub fn exceeded_unread_limit(&self, size: AnswerSize) -> Option<LimitError> {
        self.permit().exceeded_unread_limit(self.peer_identity(), self.unread_bytes(), size)
    }

    /// Waits for memory for an answer of unknown size, for as long as other answers are taken, which frees theirs within milliseconds.
    ///
    /// # Errors
    ///
    /// The limit that leaves no memory after that wait.
    pub async fn wait_for_capacity(&self) -> Result<(), LimitError> {
        let Some(mut exceeded) = self.exceeded_unread_limit(AnswerSize::Unknown) else { return Ok(()) };
        let buffers = self.permit().limiter().unread_buffers();
        let mut taken = self.permit().answers_taken(exceeded);
        let (mut idle, mut over) = (pin!(sleep(IDLE_TIMEOUT)), pin!(sleep(CAPACITY_TIMEOUT)));
        loop {
            // Enabled before the look, so that no buffer that is freed after it is missed.
            let mut freed = pin!(buffers.freed.notified());
            freed.as_mut().enable();
            match self.exceeded_unread_limit(AnswerSize::Unknown) {
                None => return Ok(()),
                Some(still) => exceeded = still,
            }
            let now_taken = self.permit().answers_taken(exceeded);
            if now_taken != taken {
                taken = now_taken;
                idle.set(sleep(IDLE_TIMEOUT));
            }
            tokio::select! {
                () = freed => {}
                () = &mut idle => return Err(exceeded),
                () = &mut over => return Err(exceeded),
            }
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
        assert_eq!((exceeded(Unknown, at(0, 32)), exceeded(Unknown, at(0, 33))), (None, Some(LimitLevel::All)));
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
        assert_eq!(exceeded(AnswerSize::Page, UnreadBytes { all: 65 * MIB, ..NOTHING }), Some(LimitLevel::All));
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
