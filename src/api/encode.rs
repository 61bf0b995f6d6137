//! The model's types as the contract's messages, and the parts of a watch as bytes that are encoded once.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use prost_types::Timestamp;

use crate::{
    model::{Instance, LoadReport, Status, Token, WallTime},
    pb::{callboard::v1 as pb, codec::Encoded},
    registry::{After, Block, Delta, Effect, Entry, Event, Lease, LeaseTime, Now, RemovalReason, ResetReason},
};

/// Bytes of an encoded piece of a block, and about those of a message: enough that the rest costs nothing, and far
/// from the 1 MiB that a message may have even if the last instance in it is as large as they get.
pub(super) const PIECE: usize = 256 * 1024;

/// Numbers of the fields that hold a watch's parts.
mod field {
    pub const SNAPSHOT: u32 = 2;
    pub const SNAPSHOT_INSTANCES: u32 = 1;
    pub const CHANGES: u32 = 4;
    pub const CHANGES_CHANGES: u32 = 1;
}

pub(super) fn instance(instance: &Instance) -> pb::Instance {
    let addresses = instance.addresses.iter().map(|address| pb::Address {
        host: address.host.to_string(),
        port: address.port.into(),
        name: address.name.to_string(),
    });
    pb::Instance {
        service: instance.service.to_string(),
        id: instance.id.to_string(),
        addresses: addresses.collect(),
        tags: instance.tags.iter().map(str::to_owned).collect(),
        metadata: instance.metadata.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        weight: instance.weight.get().into(),
        locality: instance.locality.as_ref().map(|locality| pb::Locality {
            region: locality.region.to_string(),
            zone: locality.zone.to_string(),
            sub_zone: locality.sub_zone.to_string(),
        }),
        status: status(instance.status()).into(),
        registered_at: Some(timestamp(instance.registered_at)),
        registered_revision: instance.registered_revision.0,
        revision: instance.revision.0,
    }
}

pub(super) fn lease(lease: &Lease, now: LeaseTime) -> pb::Lease {
    let terms = lease.terms();
    pb::Lease {
        ttl: span(terms.ttl()),
        time_left: span(Duration::from_millis(lease.deadline().saturating_sub(now))),
        disconnect_grace: terms.disconnect_grace().and_then(span),
        connected: lease.is_connected(),
    }
}

pub(super) fn load(load: LoadReport) -> pb::LoadReport {
    pb::LoadReport {
        utilization: load.utilization,
        in_flight: load.in_flight,
        response_time: load.response_time.and_then(span),
        requests: load.requests,
        errors: load.errors,
    }
}

pub(super) fn event(event: &Event) -> pb::Event {
    let (before, after) = event.statuses();
    let numbered = |status: Option<Status>| status.map_or(pb::InstanceStatus::Unspecified, self::status).into();
    let (kind, why) = match (&event.before, &event.after) {
        (None, After::Present(_)) => (pb::EventKind::Registered, pb::RemovalReason::Unspecified),
        (Some(old), After::Present(new)) if old.instance.registered_revision != new.instance.registered_revision => {
            (pb::EventKind::TakenOver, pb::RemovalReason::Unspecified)
        }
        (Some(_), After::Present(_)) => (pb::EventKind::Updated, pb::RemovalReason::Unspecified),
        (_, After::Gone(why)) => (pb::EventKind::Removed, reason(*why)),
    };
    pb::Event {
        revision: event.revision.0,
        time: Some(timestamp(event.at.wall)),
        service: event.service.to_string(),
        instance_id: event.id.to_string(),
        kind: kind.into(),
        reason: why.into(),
        status_before: numbered(before),
        status_after: numbered(after),
    }
}

pub(super) fn timestamp(WallTime(millis): WallTime) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(millis / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1_000 * 1_000_000).unwrap_or(0),
    }
}

/// A length of time; `None` only beyond what the contract's type can hold.
pub(super) fn span(span: Duration) -> Option<prost_types::Duration> {
    span.try_into().ok()
}

/// How long ago that was.
pub(super) fn since(then: Now, now: Now) -> Duration {
    Duration::from_micros(now.monotonic_us.saturating_sub(then.monotonic_us))
}

fn status(status: Status) -> pb::InstanceStatus {
    match status {
        Status::Serving => pb::InstanceStatus::Serving,
        Status::Suspect => pb::InstanceStatus::Suspect,
        Status::Starting => pb::InstanceStatus::Starting,
        Status::Draining => pb::InstanceStatus::Draining,
        Status::Unhealthy => pb::InstanceStatus::Unhealthy,
    }
}

fn reason(reason: RemovalReason) -> pb::RemovalReason {
    match reason {
        RemovalReason::Deregistered => pb::RemovalReason::Deregistered,
        RemovalReason::Expired => pb::RemovalReason::Expired,
        RemovalReason::Reaped => pb::RemovalReason::Reaped,
        RemovalReason::Superseded => pb::RemovalReason::Superseded,
    }
}

/// A block's instances as pieces of a snapshot, encoded by the first who asks.
pub(super) fn block(block: &Block) -> &[Bytes] {
    block.native.get_or_init(|| pieces(block.entries().iter().map(|entry| &**entry)).into())
}

/// Instances as pieces of a snapshot.
pub(super) fn pieces<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut piece = BytesMut::new();
    for entry in entries {
        put_message(field::SNAPSHOT_INSTANCES, &instance(&entry.instance), &mut piece);
        if piece.len() >= PIECE {
            pieces.push(piece.split().freeze());
        }
    }
    if !piece.is_empty() {
        pieces.push(piece.freeze());
    }
    pieces
}

/// One difference as a part of a step, encoded by the first who asks, save where it means something else to this reader.
pub(super) fn change(delta: &Delta) -> Bytes {
    let event = &delta.event;
    match (delta.effect, &event.after) {
        (Effect::NoLongerMatches, _) => change_bytes(removed(event, pb::RemovalReason::NoLongerMatches)),
        (Effect::Updated | Effect::Removed, After::Present(entry)) => {
            let updated = || pb::change::Change::Updated(instance(&entry.instance));
            event.native.get_or_init(|| change_bytes(updated())).clone()
        }
        (Effect::Updated | Effect::Removed, After::Gone(why)) => {
            event.native.get_or_init(|| change_bytes(removed(event, reason(*why)))).clone()
        }
    }
}

fn removed(event: &Event, reason: pb::RemovalReason) -> pb::change::Change {
    pb::change::Change::Removed(pb::Removal {
        service: event.service.to_string(),
        id: event.id.to_string(),
        reason: reason.into(),
        revision: event.revision.0,
    })
}

fn change_bytes(change: pb::change::Change) -> Bytes {
    let mut bytes = BytesMut::new();
    put_message(field::CHANGES_CHANGES, &pb::Change { change: Some(change) }, &mut bytes);
    bytes.freeze()
}

/// A message of a snapshot, from its pieces.
pub(super) fn snapshot(pieces: Vec<Bytes>) -> Encoded {
    wrap(field::SNAPSHOT, pieces)
}

/// A message of a step, from its parts. `token` ends the step.
pub(super) fn changes(mut parts: Vec<Bytes>, token: Option<Token>) -> Encoded {
    if let Some(token) = token {
        let end = pb::Changes { changes: vec![], revision: token.revision.0, resume_token: token_bytes(token) };
        parts.push(end.encode_to_vec().into());
    }
    wrap(field::CHANGES, parts)
}

pub(super) fn synced(token: Token) -> Encoded {
    let (revision, resume_token) = (token.revision.0, token_bytes(token));
    whole(pb::watch_response::Message::Synced(pb::Synced { revision, resume_token }))
}

pub(super) fn bookmark(token: Token) -> Encoded {
    let (revision, resume_token) = (token.revision.0, token_bytes(token));
    whole(pb::watch_response::Message::Bookmark(pb::Bookmark { revision, resume_token }))
}

pub(super) fn reset(why: ResetReason) -> Encoded {
    let reason = match why {
        ResetReason::OtherIncarnation => pb::ResetReason::OtherIncarnation,
        ResetReason::OtherSelection => pb::ResetReason::OtherSelection,
        ResetReason::HistoryLost => pb::ResetReason::HistoryLost,
        ResetReason::FutureRevision => pb::ResetReason::FutureRevision,
    };
    whole(pb::watch_response::Message::Reset(pb::Reset { reason: reason.into() }))
}

pub(super) fn reconnect() -> Encoded {
    whole(pb::watch_response::Message::Notice(pb::Notice::Reconnect.into()))
}

fn token_bytes(token: Token) -> Bytes {
    Bytes::copy_from_slice(&token.to_bytes())
}

fn whole(message: pb::watch_response::Message) -> Encoded {
    Encoded(vec![pb::WatchResponse { message: Some(message) }.encode_to_vec().into()])
}

/// Parts as the content of one field of a `WatchResponse`: messages with a repeated field concatenate.
fn wrap(number: u32, mut parts: Vec<Bytes>) -> Encoded {
    let mut head = BytesMut::with_capacity(8);
    put_head(number, parts.iter().map(Bytes::len).sum(), &mut head);
    parts.insert(0, head.freeze());
    Encoded(parts)
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
    use crate::registry::test_support::entry;

    fn decode(encoded: &Encoded) -> pb::watch_response::Message {
        let bytes: Vec<u8> = encoded.0.concat();
        pb::WatchResponse::decode(&*bytes).unwrap().message.unwrap()
    }

    #[test]
    fn concatenated_parts_are_the_message() {
        let entries = [entry("web", "a", 1), entry("web", "b", 2)];
        let twice = [pieces(entries[..1].iter().map(|e| &**e)), pieces(entries[1..].iter().map(|e| &**e))].concat();
        let pb::watch_response::Message::Snapshot(snapshot) = decode(&snapshot(twice)) else { panic!() };
        let expected: Vec<_> = entries.iter().map(|entry| instance(&entry.instance)).collect();
        assert_eq!(snapshot.instances, expected);
    }

    #[test]
    fn a_step_ends_with_revision_and_token() {
        use crate::model::{Incarnation, Revision};
        let token = Token { incarnation: Incarnation(1), revision: Revision(9), selection: 2 };
        let part = change_bytes(pb::change::Change::Updated(instance(&entry("web", "a", 1).instance)));
        let pb::watch_response::Message::Changes(open) = decode(&changes(vec![part.clone()], None)) else { panic!() };
        assert_eq!((open.changes.len(), open.revision), (1, 0));
        let pb::watch_response::Message::Changes(end) = decode(&changes(vec![part], Some(token))) else { panic!() };
        assert_eq!((end.changes.len(), end.revision), (1, 9));
        assert_eq!(Token::parse(&end.resume_token), Ok(token));
    }

    #[test]
    fn pieces_fit_a_message() {
        let entries: Vec<_> = (0..20_000).map(|n| entry("web", &format!("instance-{n}"), 1)).collect();
        let pieces = pieces(entries.iter().map(|entry| &**entry));
        assert!(pieces.len() > 1);
        assert!(pieces.iter().all(|piece| piece.len() < PIECE + 64 * 1024));
    }
}
