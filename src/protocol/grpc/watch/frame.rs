//! Wire format of a watch's messages, made of parts that are encoded once.
//!
//! A chunk of a snapshot and an event are encoded by the first watch that sends them; all others send the same bytes. Messages
//! with a repeated field concatenate, so a message is a short header followed by such parts. Small parts are copied into one
//! buffer, which all watches of the same selector share.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};

use crate::{
    app::{EncodedChunk, EncodedEvent},
    model::ResumeToken,
    pb::callboard::v1 as pb,
    protocol::grpc::encode,
    registry::{Change, Chunk, Delta, DeltaKind, Entry, Event, ResetReason},
    transport::put_message_prefix,
};

/// Bytes after which a piece of a snapshot ends, and approximately a message: large enough that the overhead does not matter, and
/// small enough that a watch with its own filter can hold one until it is read.
pub(super) const PIECE_BYTES: usize = 48 * 1024;
/// Largest message that is copied into one buffer instead of being sent as several frames.
const MAX_COPIED_BYTES: usize = 4 * 1024;
/// Bytes of gRPC's prefix of a message: a flag for compression and the length.
const PREFIX_BYTES: usize = 5;

/// Field numbers of a watch's messages.
mod field {
    pub(super) const SNAPSHOT: u32 = 2;
    pub(super) const SNAPSHOT_INSTANCES: u32 = 1;
    pub(super) const CHANGES: u32 = 4;
    pub(super) const CHANGES_CHANGES: u32 = 1;
}

/// One message with gRPC's prefix, as a list of buffers.
pub(super) type MessageChunks = Vec<Bytes>;

/// Returns the instances of a chunk as pieces of a snapshot, encoded at most once for all watches.
pub(super) fn chunk_pieces(chunk: &Chunk) -> Cow<'_, [Bytes]> {
    let encode = || pieces(chunk.entries().iter().map(|entry| &**entry));
    EncodedChunk::pieces(chunk, encode).map_or_else(|| encode().into(), Cow::Borrowed)
}

/// Encodes instances as pieces of a snapshot.
pub(super) fn pieces<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut piece = BytesMut::new();
    for entry in entries {
        put_message(field::SNAPSHOT_INSTANCES, &encode::instance(&entry.instance), &mut piece);
        if piece.len() >= PIECE_BYTES {
            pieces.push(piece.split().freeze());
        }
    }
    if !piece.is_empty() {
        // Copied to its exact size, because it may be kept for long.
        pieces.push(Bytes::copy_from_slice(&piece));
    }
    pieces
}

/// Returns a delta as a part of a step. It is encoded at most once for all watches, unless the watch's filter makes it another change.
pub(super) fn change(delta: &Delta) -> Bytes {
    let event = &delta.event;
    let change = match (delta.kind, &event.change) {
        (DeltaKind::NoLongerMatches, _) => return change_bytes(removed(event, pb::RemovalReason::NoLongerMatches)),
        (DeltaKind::Updated | DeltaKind::Removed, change) => change,
    };
    let encode = || match change {
        Change::Added(entry) | Change::Changed(_, entry) => {
            change_bytes(pb::change::Change::Updated(encode::instance(&entry.instance)))
        }
        Change::Removed(_, why) => change_bytes(removed(event, encode::reason(*why))),
    };
    match EncodedEvent::of(event) {
        Some(encoded) => encoded.change.get_or_init(encode).clone(),
        None => encode(),
    }
}

/// Returns a whole step of one delta, up to the revision of its event. All watches of the same selector share the bytes.
pub(super) fn step(delta: &Delta, token: ResumeToken) -> MessageChunks {
    let make = || changes(vec![change(delta)], Some(token));
    if delta.kind == DeltaKind::NoLongerMatches {
        return make();
    }
    let Some(encoded) = EncodedEvent::of(&delta.event) else { return make() };
    let (digest, whole) = encoded.message.get_or_init(|| (token.selector_digest, make().concat().into()));
    if *digest == token.selector_digest { vec![whole.clone()] } else { make() }
}

fn removed(event: &Event, reason: pb::RemovalReason) -> pb::change::Change {
    pb::change::Change::Removed(pb::Removal {
        service: event.service().to_string(),
        id: event.id().to_string(),
        reason: reason.into(),
        revision: event.revision.0,
    })
}

fn change_bytes(change: pb::change::Change) -> Bytes {
    let mut bytes = BytesMut::new();
    put_message(field::CHANGES_CHANGES, &pb::Change { change: Some(change) }, &mut bytes);
    bytes.freeze()
}

/// Builds a snapshot message from its pieces.
pub(super) fn snapshot(pieces: Vec<Bytes>) -> MessageChunks {
    wrap(field::SNAPSHOT, pieces)
}

/// Builds a message of a step from its parts. A token ends the step.
pub(super) fn changes(mut parts: Vec<Bytes>, token: Option<ResumeToken>) -> MessageChunks {
    if let Some(token) = token {
        let end = pb::Changes { changes: vec![], revision: token.revision.0, resume_token: token_bytes(token) };
        parts.push(end.encode_to_vec().into());
    }
    wrap(field::CHANGES, parts)
}

pub(super) fn synced(token: ResumeToken) -> MessageChunks {
    let (revision, resume_token) = (token.revision.0, token_bytes(token));
    whole(pb::watch_response::Message::Synced(pb::Synced { revision, resume_token }))
}

pub(super) fn bookmark(token: ResumeToken, staleness: Option<pb::Staleness>) -> MessageChunks {
    let (revision, resume_token) = (token.revision.0, token_bytes(token));
    whole(pb::watch_response::Message::Bookmark(pb::Bookmark { revision, resume_token, staleness }))
}

pub(super) fn reset(why: ResetReason) -> MessageChunks {
    let reason = match why {
        ResetReason::OtherIncarnation => pb::ResetReason::OtherIncarnation,
        ResetReason::OtherSelector => pb::ResetReason::OtherSelector,
        ResetReason::Compacted => pb::ResetReason::Compacted,
        ResetReason::FutureRevision => pb::ResetReason::FutureRevision,
    };
    whole(pb::watch_response::Message::Reset(pb::Reset { reason: reason.into() }))
}

pub(super) fn notice(notice: pb::Notice) -> MessageChunks {
    whole(pb::watch_response::Message::Notice(notice.into()))
}

pub(super) fn balancing(balancing: pb::Balancing) -> Bytes {
    whole(pb::watch_response::Message::Balancing(balancing)).concat().into()
}

/// Decodes the message that [`balancing`] has made.
#[cfg(test)]
pub(super) fn decode_balancing(message: &Bytes) -> pb::Balancing {
    match pb::WatchResponse::decode(&message[PREFIX_BYTES..]).unwrap().message {
        Some(pb::watch_response::Message::Balancing(balancing)) => balancing,
        other => panic!("{other:?}"),
    }
}

fn token_bytes(token: ResumeToken) -> Bytes {
    Bytes::copy_from_slice(&token.to_bytes())
}

fn whole(message: pb::watch_response::Message) -> MessageChunks {
    let message = pb::WatchResponse { message: Some(message) };
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    put_message_prefix(message.encoded_len(), &mut bytes);
    bytes.put_slice(&message.encode_to_vec());
    vec![bytes.freeze()]
}

/// Wraps parts as the content of one field of a `WatchResponse`.
fn wrap(number: u32, mut parts: Vec<Bytes>) -> MessageChunks {
    let content: usize = parts.iter().map(Bytes::len).sum();
    let mut field = BytesMut::with_capacity(8);
    put_head(number, content, &mut field);
    let small = content <= MAX_COPIED_BYTES;
    let mut head = BytesMut::with_capacity(PREFIX_BYTES + field.len() + if small { content } else { 0 });
    put_message_prefix(field.len() + content, &mut head);
    head.put_slice(&field);
    if small {
        parts.drain(..).for_each(|part| head.put_slice(&part));
    }
    parts.insert(0, head.freeze());
    parts
}

fn put_message(number: u32, message: &impl Message, to: &mut BytesMut) {
    put_head(number, message.encoded_len(), to);
    to.put_slice(&message.encode_to_vec());
}

fn put_head(number: u32, length: usize, to: &mut BytesMut) {
    encode_key(number, WireType::LengthDelimited, to);
    encode_varint(length as u64, to);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{protocol::grpc::encode::instance, registry::test_support::entry};

    fn decode(framed: &MessageChunks) -> pb::watch_response::Message {
        let bytes: Vec<u8> = framed.concat();
        let (prefix, message) = bytes.split_at(PREFIX_BYTES);
        assert_eq!(prefix[1..], u32::try_from(message.len()).unwrap().to_be_bytes());
        pb::WatchResponse::decode(message).unwrap().message.unwrap()
    }

    #[test]
    fn concatenated_parts_decode_as_one_message() {
        let entries = [entry("web", "a", 1), entry("web", "b", 2)];
        let twice = [pieces(entries[..1].iter().map(|e| &**e)), pieces(entries[1..].iter().map(|e| &**e))].concat();
        let pb::watch_response::Message::Snapshot(snapshot) = decode(&snapshot(twice)) else { panic!() };
        let expected: Vec<_> = entries.iter().map(|entry| instance(&entry.instance)).collect();
        assert_eq!(snapshot.instances, expected);
    }

    #[test]
    fn step_ends_with_revision_and_token() {
        use crate::model::{Incarnation, Revision};
        let token = ResumeToken { incarnation: Incarnation(1), revision: Revision(9), selector_digest: 2 };
        let part = change_bytes(pb::change::Change::Updated(instance(&entry("web", "a", 1).instance)));
        let pb::watch_response::Message::Changes(open) = decode(&changes(vec![part.clone()], None)) else { panic!() };
        assert_eq!((open.changes.len(), open.revision), (1, 0));
        let pb::watch_response::Message::Changes(end) = decode(&changes(vec![part], Some(token))) else { panic!() };
        assert_eq!((end.changes.len(), end.revision), (1, 9));
        assert_eq!(ResumeToken::parse(&end.resume_token), Ok(token));
    }

    #[test]
    fn large_message_is_not_copied() {
        let piece = Bytes::from(vec![10; MAX_COPIED_BYTES + 1]);
        let framed = snapshot(vec![piece.clone()]);
        assert_eq!(framed.len(), 2);
        assert_eq!(framed[1].as_ptr(), piece.as_ptr());
    }

    #[test]
    fn pieces_of_many_instances_stay_within_their_size() {
        let entries: Vec<_> = (0..20_000).map(|n| entry("web", &format!("instance-{n}"), 1)).collect();
        let pieces = pieces(entries.iter().map(|entry| &**entry));
        assert!(pieces.len() > 1);
        assert!(pieces.iter().all(|piece| piece.len() < PIECE_BYTES + 64 * 1024));
    }
}
