//! Bytes that the native API has encoded of events and of snapshot chunks, once for all streams that send them.
//!
//! The bytes are attached to the event or the chunk itself, so they live as long as it does, and finding them needs no
//! lookup. The encoding belongs to the protocol.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::registry::{Chunk, Event};

/// Bytes that the native API has encoded of one event.
#[derive(Debug, Default)]
pub struct EncodedEvent {
    /// The change, as a part of any message.
    pub change: OnceLock<Bytes>,
    /// A complete message with this change alone, and the digest of the selection that its resume token belongs to.
    pub message: OnceLock<(u64, Bytes)>,
}

impl EncodedEvent {
    /// Returns the bytes of an event that have been encoded so far. `None` only if something else is attached to the
    /// event.
    #[must_use]
    pub fn of(event: &Event) -> Option<&Self> {
        event.attachment.get_or_init(Self::default)
    }
}

/// Instances of one snapshot chunk, encoded in pieces that fit a message.
#[derive(Debug)]
pub struct EncodedChunk(Box<[Bytes]>);

impl EncodedChunk {
    /// Returns the pieces of a chunk, encoded by the first caller. `None` only if something else is attached to the
    /// chunk.
    pub fn pieces(chunk: &Chunk, encode: impl FnOnce() -> Vec<Bytes>) -> Option<&[Bytes]> {
        let Self(pieces) = chunk.attachment.get_or_init(|| Self(encode().into()))?;
        Some(pieces)
    }
}
