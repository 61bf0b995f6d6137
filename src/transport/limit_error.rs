//! Errors of calls that exceed a limit.

use std::{fmt, time::Duration};

/// Limit that a call exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Number of open calls and streams.
    #[error(
        "stream limit {1} reached for {0} (a tenth of it is kept for heartbeats): try again later, close some streams, or raise \
         {flag} where the registry runs",
        flag = flag(*.0)
    )]
    Streams(LimitLevel, usize),
    /// Bytes of answers that wait for their readers.
    #[error(
        "limit of {1} bytes of unread answers reached for {0}: read them before you request more, or raise --max-unread-responses where \
         the registry runs"
    )]
    Unread(LimitLevel, usize),
    /// Time for which a long answer waited for others.
    #[error(
        "this list waited {} behind other lists: try again later, or watch instead",
        humantime::format_duration(*.0)
    )]
    QueueTimeout(Duration),
}

impl LimitError {
    /// Returns whether the limit is the one for the whole registry.
    #[must_use]
    pub fn is_of_registry(&self) -> bool {
        match self {
            Self::Streams(level, _) | Self::Unread(level, _) => *level == LimitLevel::Registry,
            Self::QueueTimeout(_) => true,
        }
    }
}

/// Owner of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LimitLevel {
    Connection,
    Address,
    Identity,
    Registry,
}

impl fmt::Display for LimitLevel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Connection => "this connection",
            Self::Address => "this address",
            Self::Identity => "this identity",
            Self::Registry => "the registry",
        })
    }
}

fn flag(level: LimitLevel) -> &'static str {
    match level {
        LimitLevel::Registry => "--max-streams",
        LimitLevel::Connection => "--max-streams-per-connection",
        LimitLevel::Address | LimitLevel::Identity => "--max-streams-per-address",
    }
}
