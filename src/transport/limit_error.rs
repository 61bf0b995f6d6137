//! Why there is no room for a call.

use std::{fmt, time::Duration};

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// As many calls and streams are open as may be.
    #[error(
        "{0} may have {1} calls and streams open, a tenth of them heartbeats only, and has: try again later, close some, or \
         raise {flag} where the registry runs",
        flag = flag(*.0)
    )]
    Streams(LimitLevel, usize),
    /// As many bytes of answers as may be wait for their readers.
    #[error(
        "{0} has answers of more than {1} bytes that were not read: read them before asking for more, or raise \
         --max-unread-responses where the registry runs"
    )]
    Unread(LimitLevel, usize),
    /// So many long answers are wanted that this one was not made in time.
    #[error(
        "so many lists were asked for that this one waited {}: try again later, or watch instead",
        humantime::format_duration(*.0)
    )]
    Turn(Duration),
}

impl LimitError {
    /// Whether the registry itself is full, rather than whoever asks.
    #[must_use]
    pub fn is_of_all(&self) -> bool {
        match self {
            Self::Streams(level, _) | Self::Unread(level, _) => *level == LimitLevel::All,
            Self::Turn(_) => true,
        }
    }
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they say it")]
pub enum LimitLevel {
    Connection,
    Address,
    Identity,
    All,
}

impl fmt::Display for LimitLevel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Connection => "this connection",
            Self::Address => "this address",
            Self::Identity => "this identity",
            Self::All => "the registry",
        })
    }
}

fn flag(level: LimitLevel) -> &'static str {
    match level {
        LimitLevel::All => "--max-streams",
        LimitLevel::Connection => "--max-streams-per-connection",
        LimitLevel::Address | LimitLevel::Identity => "--max-streams-per-address",
    }
}
