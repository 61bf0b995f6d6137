//! The state of a lease, in one word.
//!
//! The word has 37 bits for the time, which is kept modulo 2^37 ms (4.35 years) and read as the time nearest to the reader's
//! clock. Every deadline lies within days of that clock, so the lease clock may run for any length of time.

/// Milliseconds of the lease clock ([`crate::registry::LeaseClock`]).
pub type LeaseTime = u64;

/// Identifier of an open heartbeat stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatStreamId(pub(super) u64);

impl HeartbeatStreamId {
    /// No stream has renewed the lease yet, or the server itself closed the one that did.
    pub(super) const NONE: u64 = 0;
    /// The stream that last renewed the lease broke.
    pub(super) const BROKEN: u64 = 1;

    /// Returns the identifier of the `n`th stream. Identifiers repeat after 67 million streams.
    #[must_use]
    pub fn numbered(n: u64) -> Self {
        Self(n % (LeaseState::STREAMS - 2) + 2)
    }

    /// Number of the stream.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Reason for which a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Its deadline passed.
    Expired,
    /// Another boot took over its instance.
    Superseded,
    /// An operator removed its instance.
    Removed,
    /// Its holder deregistered.
    Deregistered,
}

/// Content of the state word.
#[derive(Debug, Clone, Copy)]
pub(super) enum LeaseState {
    Alive {
        deadline: LeaseTime,
        /// A [`HeartbeatStreamId`].
        stream: u64,
    },
    Ended {
        /// Time until which the table remembers the lease.
        forget_at: LeaseTime,
        reason: EndReason,
    },
}

impl LeaseState {
    const STREAM_BITS: u32 = 26;
    const STREAMS: u64 = 1 << Self::STREAM_BITS;
    /// Times are kept modulo this.
    pub(super) const PERIOD: LeaseTime = 1 << 37;
    const ENDED: u64 = 1 << 63;

    pub(super) fn pack(self) -> u64 {
        let word = |time: LeaseTime, low: u64| (time % Self::PERIOD) << Self::STREAM_BITS | low;
        match self {
            Self::Alive { deadline, stream } => word(deadline, stream),
            Self::Ended { forget_at, reason } => Self::ENDED | word(forget_at, reason as u64),
        }
    }

    /// Reads a word at a time that is within two years of the time in it.
    pub(super) fn unpack(word: u64, now: LeaseTime) -> Self {
        let time = Self::nearest(word >> Self::STREAM_BITS & (Self::PERIOD - 1), now);
        let low = word & (Self::STREAMS - 1);
        if word & Self::ENDED == 0 {
            return Self::Alive { deadline: time, stream: low };
        }
        let reason = [EndReason::Expired, EndReason::Superseded, EndReason::Removed]
            .into_iter()
            .find(|reason| *reason as u64 == low)
            .unwrap_or(EndReason::Deregistered);
        Self::Ended { forget_at: time, reason }
    }

    /// Returns the time nearest to `now` that is `kept` modulo the period. There is none before 0.
    fn nearest(kept: LeaseTime, now: LeaseTime) -> LeaseTime {
        let ahead = kept.wrapping_sub(now) % Self::PERIOD;
        let later = now.saturating_add(ahead);
        if ahead < Self::PERIOD / 2 { later } else { later.checked_sub(Self::PERIOD).unwrap_or(later) }
    }
}
