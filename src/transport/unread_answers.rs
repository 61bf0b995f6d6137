//! Answers that clients have not read yet.
//!
//! A buffer is counted while any part of it waits to be written. It is counted only once, even if it has many readers: for the connection, address and
//! identity that had it first, and in the total. So the numbers are bytes of memory, and a list that a thousand clients request at the same time counts as
//! much as for one of them.

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::sleep;

use super::{AnswerSize, Connection, LimitError, unread_limits::BufferId};

/// Bytes below which an answer is not counted.
pub(super) const MIN_COUNTED: usize = 1_024;
/// Maximum time that an answer of unknown size waits while no other answer is read. Shorter than the time after which stalled readers are evicted that use
/// memory which others need.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum time that an answer of unknown size waits in total.
const CAPACITY_TIMEOUT: Duration = Duration::from_secs(30);

/// Buffer that waits for one reader. Dropping it counts the buffer as read.
#[derive(Debug)]
pub(super) struct UnreadAnswer {
    connection: Arc<Connection>,
    /// Kept until the buffer is no longer counted, so that no other buffer has its address.
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

    /// Returns a part of the buffer. The buffer is counted until all parts are dropped.
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

    /// Returns the limit that leaves no memory for another answer of this size.
    #[must_use]
    pub fn exceeded_unread_limit(&self, size: AnswerSize) -> Option<LimitError> {
        self.permit().exceeded_unread_limit(self.peer_identity(), self.unread_bytes(), size)
    }

    /// Waits for memory for an answer of unknown size while other answers are read, which usually frees memory within milliseconds.
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
            // Enabled before the check, so that a buffer that is freed after the check is not missed.
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
