//! What a server may say on a watch, right or wrong, and what the client's reader makes of it.

use bytes::Bytes;
use prost::Message as _;

use super::draw::InputCursor;
use crate::{
    client::{ResetCause, WatchEvent, WatchReader},
    pb::callboard::v1::{
        Bookmark, Change, Changes, Instance, Removal, Reset, Snapshot, Synced, WatchResponse, change,
        watch_response::Message,
    },
};

/// What the reader should stand at, said in the plainest way.
#[derive(Debug, Default)]
struct ExpectedReader {
    token: Bytes,
    step: usize,
    partial: bool,
}

/// Messages and reconnects, one after the other: the token is always that of the last thing told whole, and nothing of a
/// stream that broke is mixed into the next.
pub(super) fn run(input: &[u8]) {
    let (mut draw, mut reader, mut naive) =
        (InputCursor::new(input), WatchReader::default(), ExpectedReader::default());
    while !draw.is_empty() {
        match draw.below(8) {
            0 => naive.begins(reader.begin().as_ref()),
            1 => {
                if let Ok(message) = WatchResponse::decode(draw.bytes()) {
                    let said = message.message.clone();
                    naive.told(said, reader.read(message).as_ref());
                }
            }
            kind => {
                let said = message(kind, &mut draw);
                naive.told(Some(said.clone()), reader.read(WatchResponse { message: Some(said) }).as_ref());
            }
        }
        assert_eq!(*reader.token(), naive.token);
    }
}

fn message(kind: u8, draw: &mut InputCursor<'_>) -> Message {
    let token = |draw: &mut InputCursor<'_>| Bytes::copy_from_slice(&[draw.byte()]);
    let instance = |id: u8| Instance { service: "web".into(), id: id.to_string(), ..Instance::default() };
    match kind {
        2 => Message::Reset(Reset { reason: draw.byte().into() }),
        3 => Message::Snapshot(Snapshot { instances: (0..draw.below(4)).map(instance).collect() }),
        4 => Message::Synced(Synced { revision: draw.byte().into(), resume_token: token(draw) }),
        5 => Message::Bookmark(Bookmark { revision: draw.byte().into(), resume_token: token(draw) }),
        6 => Message::Notice(draw.byte().into()),
        _ => {
            let change = |id: u8| {
                let removal = Removal { id: id.to_string(), ..Removal::default() };
                Change { change: (id > 0).then_some(change::Change::Removed(removal)) }
            };
            let changes = (0..draw.below(4)).map(change).collect();
            Message::Changes(Changes { changes, revision: draw.below(3).into(), resume_token: token(draw) })
        }
    }
}

impl ExpectedReader {
    fn begins(&mut self, told: Option<&WatchEvent>) {
        self.step = 0;
        assert_eq!(matches!(told, Some(WatchEvent::Reset(ResetCause::Interrupted))), self.partial);
        assert_eq!(told.is_some(), self.partial);
        self.partial = false;
    }

    fn told(&mut self, said: Option<Message>, event: Option<&WatchEvent>) {
        match (said, event) {
            (Some(Message::Reset(_)), Some(WatchEvent::Reset(why))) => {
                assert_ne!(*why, ResetCause::Interrupted, "a server does not say that");
                // The token stays: what was told before is served from until there is a new set.
                (self.step, self.partial) = (0, false);
            }
            (Some(Message::Snapshot(said)), Some(WatchEvent::Snapshot(told))) => {
                assert_eq!(said.instances, *told);
                self.partial = true;
            }
            (Some(Message::Synced(said)), Some(WatchEvent::Synced { revision })) => {
                assert_eq!(said.revision, *revision);
                *self = Self { token: said.resume_token, partial: false, step: self.step };
            }
            (Some(Message::Bookmark(said)), Some(WatchEvent::Bookmark { revision })) => {
                assert_eq!(said.revision, *revision);
                self.token = said.resume_token;
            }
            (Some(Message::Changes(said)), told) => {
                self.step += said.changes.iter().filter(|change| change.change.is_some()).count();
                match told {
                    Some(WatchEvent::Changes { changes, revision }) => {
                        assert_eq!((changes.len(), *revision), (self.step, said.revision));
                        (self.step, self.token) = (0, said.resume_token);
                    }
                    None => assert_eq!(said.revision, 0, "the step was over"),
                    other => panic!("{other:?}"),
                }
            }
            (Some(Message::Notice(_)), None | Some(WatchEvent::Degraded | WatchEvent::Settling)) | (None, None) => {}
            (said, event) => panic!("{said:?} was told as {event:?}"),
        }
    }
}
