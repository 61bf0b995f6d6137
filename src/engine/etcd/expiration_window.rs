//! Expired leases of a service, counted over all replicas.
//!
//! Each expiration compares and rewrites this value, so that the replicas together expire no more leases of the service than
//! self-preservation permits: an expiration that was decided without knowledge of one at another replica is decided again. A replica that
//! starts learns from the value how many leases have expired recently.

use std::time::Duration;

use prost::Message;

use crate::{
    engine::record::{
        DecodeError,
        unknown_fields::{KnownFields, UnknownFields},
    },
    model::UnixMillis,
};

const KNOWN: KnownFields = KnownFields { numbers: &[1..=2], messages: &[] };

/// Number of expired leases of a service since the start of a window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExpirationWindow {
    /// Number of expired leases.
    pub count: u64,
    /// Start of the window, by the wall clock of the replica that started it.
    pub start: UnixMillis,
    /// Fields that this version does not know.
    pub unknown: UnknownFields,
}

// Field numbers never change.

#[derive(Clone, PartialEq, Message)]
struct ExpirationMessage {
    #[prost(uint64, tag = "1")]
    count: u64,
    #[prost(uint64, tag = "2")]
    start_ms: u64,
}

impl ExpirationWindow {
    /// Returns the value after further expirations. A window that is longer than `length` ends, and another one starts.
    #[must_use]
    pub fn after(&self, expirations: u64, now: UnixMillis, length: Duration) -> Self {
        let is_over = self.age(now) > length;
        let (count, start) = if is_over { (0, now) } else { (self.count, self.start) };
        Self { count: count.saturating_add(expirations), start, unknown: self.unknown.clone() }
    }

    /// Returns the time since the start of the window.
    #[must_use]
    pub fn age(&self, now: UnixMillis) -> Duration {
        Duration::from_millis(now.0.saturating_sub(self.start.0))
    }

    /// Encodes the value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let message = ExpirationMessage { count: self.count, start_ms: self.start.0 };
        self.unknown.add_to(message.encode_to_vec(), &KNOWN)
    }

    /// Decodes the value.
    ///
    /// # Errors
    ///
    /// When the bytes are not a message of this kind.
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let ExpirationMessage { count, start_ms } =
            ExpirationMessage::decode(value).map_err(|_| DecodeError::Message)?;
        Ok(Self { count, start: UnixMillis(start_ms), unknown: UnknownFields::of(value, &KNOWN, 0) })
    }
}
