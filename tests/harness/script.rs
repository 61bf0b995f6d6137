//! Messages made by hand, for invalid histories that a checker has to find.

use bytes::Bytes;
use callboard::pb::callboard::v1::{
    self as pb, Bookmark, Changes, Instance, Removal, RemovalReason, Reset, ResetReason, Snapshot, Synced,
    WatchResponse, change::Change, watch_response::Message,
};

use super::{Observation, What};

/// Short ways to make a reader's messages.
pub mod message {
    use super::*;

    pub fn opened() -> Observation {
        observation(What::Opened { resumes: false })
    }

    pub fn resumed() -> Observation {
        observation(What::Opened { resumes: true })
    }

    pub fn reset() -> Observation {
        said(Message::Reset(Reset { reason: ResetReason::Compacted.into() }))
    }

    /// Instances of the service `web`, each with the revision of its last change.
    pub fn snapshot(instances: &[(&str, u64)]) -> Observation {
        said(Message::Snapshot(Snapshot { instances: instances.iter().map(|(id, at)| instance(id, *at)).collect() }))
    }

    pub fn synced(revision: u64) -> Observation {
        said(Message::Synced(Synced { revision, resume_token: token(revision) }))
    }

    pub fn bookmark(revision: u64) -> Observation {
        said(Message::Bookmark(Bookmark { revision, resume_token: token(revision), staleness: None }))
    }

    /// Message of changes; the last one of its step, unless the revision is 0.
    pub fn changes(changes: &[Change], revision: u64) -> Observation {
        let changes = changes.iter().map(|change| pb::Change { change: Some(change.clone()) }).collect();
        said(Message::Changes(Changes { changes, revision, resume_token: token(revision) }))
    }

    pub fn updated(id: &str, revision: u64) -> Change {
        Change::Updated(instance(id, revision))
    }

    pub fn removed(id: &str, revision: u64) -> Change {
        let (service, id) = ("web".to_owned(), id.to_owned());
        Change::Removed(Removal { service, id, revision, reason: RemovalReason::Deregistered.into() })
    }

    pub fn instance(id: &str, revision: u64) -> Instance {
        Instance { service: "web".to_owned(), id: id.to_owned(), revision, ..Instance::default() }
    }

    fn said(message: Message) -> Observation {
        observation(What::Message(WatchResponse { message: Some(message) }))
    }

    fn observation(what: What) -> Observation {
        Observation { at: 0, what }
    }

    fn token(revision: u64) -> Bytes {
        Bytes::copy_from_slice(&revision.to_be_bytes())
    }
}
