//! Messages of a server on a watch, valid and invalid, read by the watch reader of the client.

use bytes::Bytes;
use prost::Message as _;

use super::input_cursor::InputCursor;
use crate::{
    client::{ResetCause, WatchEvent, WatchReader},
    pb::callboard::v1::{
        Bookmark, Change, Changes, Instance, Removal, Reset, Snapshot, Staleness, Synced, WatchResponse, change,
        watch_response::Message,
    },
};

/// Naive model of the reader.
#[derive(Debug, Default)]
struct ExpectedReader {
    token: Bytes,
    step: usize,
    partial: bool,
}

/// Reads messages and reconnects in any order. The token must always be that of the last complete message, and no part of a broken
/// stream may appear in the next one.
pub(super) fn run(input: &[u8]) {
    let (mut input, mut reader, mut model) =
        (InputCursor::new(input), WatchReader::default(), ExpectedReader::default());
    while !input.is_empty() {
        match input.below(8) {
            0 => model.begin(reader.stream_opened().as_ref()),
            1 => {
                if let Ok(message) = WatchResponse::decode(input.bytes()) {
                    let content = message.message.clone();
                    model.read(content, reader.read(message).as_ref());
                }
            }
            kind => {
                let content = message(kind, &mut input);
                model.read(Some(content.clone()), reader.read(WatchResponse { message: Some(content) }).as_ref());
            }
        }
        assert_eq!(*reader.token(), model.token);
    }
}

fn message(kind: u8, input: &mut InputCursor<'_>) -> Message {
    let token = |input: &mut InputCursor<'_>| Bytes::copy_from_slice(&[input.byte()]);
    let instance = |id: u8| Instance { service: "web".into(), id: id.to_string(), ..Instance::default() };
    match kind {
        2 => Message::Reset(Reset { reason: input.byte().into() }),
        3 => Message::Snapshot(Snapshot { instances: (0..input.below(4)).map(instance).collect() }),
        4 => Message::Synced(Synced { revision: input.byte().into(), resume_token: token(input) }),
        5 => Message::Bookmark(Bookmark {
            revision: input.byte().into(),
            resume_token: token(input),
            staleness: input.flag().then(Staleness::default),
        }),
        6 => Message::Notice(input.byte().into()),
        _ => {
            let change = |id: u8| {
                let removal = Removal { id: id.to_string(), ..Removal::default() };
                Change { change: (id > 0).then_some(change::Change::Removed(removal)) }
            };
            let changes = (0..input.below(4)).map(change).collect();
            Message::Changes(Changes { changes, revision: input.below(3).into(), resume_token: token(input) })
        }
    }
}

impl ExpectedReader {
    fn begin(&mut self, event: Option<&WatchEvent>) {
        self.step = 0;
        assert_eq!(matches!(event, Some(WatchEvent::Reset(ResetCause::Interrupted))), self.partial);
        assert_eq!(event.is_some(), self.partial);
        self.partial = false;
    }

    fn read(&mut self, message: Option<Message>, event: Option<&WatchEvent>) {
        match (message, event) {
            (Some(Message::Reset(_)), Some(WatchEvent::Reset(why))) => {
                assert_ne!(*why, ResetCause::Interrupted, "a server does not send that reason");
                // The token stays, because the previous set is in use until the new one is complete.
                (self.step, self.partial) = (0, false);
            }
            (Some(Message::Snapshot(message)), Some(WatchEvent::Snapshot(instances))) => {
                assert_eq!(message.instances, *instances);
                self.partial = true;
            }
            (Some(Message::Synced(message)), Some(WatchEvent::Synced { revision })) => {
                assert_eq!(message.revision, *revision);
                *self = Self { token: message.resume_token, partial: false, step: self.step };
            }
            (
                Some(Message::Bookmark(message)),
                Some(event @ (WatchEvent::Bookmark { revision } | WatchEvent::Degraded { revision, .. })),
            ) => {
                assert_eq!(message.revision, *revision);
                assert_eq!(message.staleness.is_some(), matches!(event, WatchEvent::Degraded { .. }));
                self.token = message.resume_token;
            }
            (Some(Message::Changes(message)), event) => {
                self.step += message.changes.iter().filter(|change| change.change.is_some()).count();
                match event {
                    Some(WatchEvent::Changes { changes, revision }) => {
                        assert_eq!((changes.len(), *revision), (self.step, message.revision));
                        (self.step, self.token) = (0, message.resume_token);
                    }
                    None => assert_eq!(message.revision, 0, "the step was complete"),
                    other => panic!("{other:?}"),
                }
            }
            (Some(Message::Balancing(_)), Some(WatchEvent::Balancing(_)))
            | (Some(Message::Notice(_)), None | Some(WatchEvent::Settling))
            | (None, None) => {}
            (message, event) => panic!("{message:?} was read as {event:?}"),
        }
    }
}
