//! View of a watch that follows the contract's rules: the reference client of these tests.

use std::collections::BTreeMap;

use bytes::Bytes;
use callboard::pb::callboard::v1::{Instance, WatchResponse, change::Change, watch_response::Message};

/// Service and id.
pub type Key = (String, String);

pub fn key(service: &str, id: &str) -> Key {
    (service.to_owned(), id.to_owned())
}

/// Instances and revision of a reader.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Instances of the view.
    pub set: BTreeMap<Key, Instance>,
    /// A snapshot that is not complete.
    coming: Option<BTreeMap<Key, Instance>>,
    /// Changes of a step that is not complete.
    step: Vec<Change>,
    /// Revision of the view. Zero: none yet.
    pub revision: u64,
    /// To go on from here.
    pub token: Bytes,
    /// Number of resets.
    pub resets: usize,
}

impl View {
    /// A stream begins; what the one before left unfinished will not be finished.
    pub fn open(&mut self) {
        self.coming = self.token.is_empty().then(BTreeMap::new);
        self.step.clear();
    }

    /// Applies a message. Returns whether the view is then complete at a revision.
    pub fn receive(&mut self, message: &WatchResponse) -> bool {
        match message.message.as_ref().expect("a message says something") {
            Message::Reset(_) => {
                self.coming = Some(BTreeMap::new());
                self.step.clear();
                self.resets += 1;
                false
            }
            Message::Snapshot(snapshot) => {
                let coming = self.coming.get_or_insert_default();
                for instance in &snapshot.instances {
                    coming.insert(key(&instance.service, &instance.id), instance.clone());
                }
                false
            }
            Message::Synced(synced) => {
                if let Some(complete) = self.coming.take() {
                    self.set = complete;
                }
                self.stand(synced.revision, &synced.resume_token)
            }
            Message::Changes(changes) => {
                self.step.extend(changes.changes.iter().filter_map(|change| change.change.clone()));
                if changes.revision == 0 {
                    return false;
                }
                for change in std::mem::take(&mut self.step) {
                    self.apply(change);
                }
                self.stand(changes.revision, &changes.resume_token)
            }
            Message::Bookmark(bookmark) => self.stand(bookmark.revision, &bookmark.resume_token),
            Message::Notice(_) | Message::Balancing(_) => false,
        }
    }

    pub fn get(&self, service: &str, id: &str) -> Option<&Instance> {
        self.set.get(&key(service, id))
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Updated(instance) => self.set.insert(key(&instance.service, &instance.id), instance),
            Change::Removed(gone) => self.set.remove(&(gone.service, gone.id)),
        };
    }

    fn stand(&mut self, revision: u64, token: &Bytes) -> bool {
        self.revision = revision;
        self.token = token.clone();
        true
    }
}
