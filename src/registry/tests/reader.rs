//! A reader that checks each step against what it was told before.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    model::{InstanceFilter, ResumeToken, Revision, Selector},
    registry::{Delta, DeltaKind, Entry, Registry, SnapshotChunk, Step, Subscription},
};

/// A reader, and what it believes.
pub(super) struct ModelReader {
    selection: Selector,
    filter: &'static str,
    subscription: Subscription,
    pub(super) believes: BTreeMap<(String, String), (u16, bool)>,
    pub(super) stands_at: Revision,
    pub(super) resets: usize,
}

impl ModelReader {
    fn new(selection: Selector, filter: &'static str) -> Self {
        let subscription = Self::subscribe(&selection, filter, None);
        Self { selection, filter, subscription, believes: BTreeMap::new(), stands_at: Revision(0), resets: 0 }
    }

    fn subscribe(selection: &Selector, filter: &str, token: Option<ResumeToken>) -> Subscription {
        let filter = InstanceFilter::parse(filter).unwrap().map(Arc::new);
        Subscription::new(Arc::new(selection.clone()), filter, token)
    }

    pub(super) fn resume(&mut self, registry: &Registry) {
        let token = (self.stands_at > Revision(0)).then(|| self.subscription.token(registry, self.stands_at));
        self.subscription = Self::subscribe(&self.selection, self.filter, token);
        if token.is_none() {
            self.believes.clear();
        }
    }

    /// Takes steps until there is nothing more, and checks each against what was told before.
    pub(super) fn read(&mut self, registry: &Registry) {
        loop {
            match self.subscription.next(registry) {
                Step::Reset(_) => {
                    self.resets += 1;
                    self.believes.clear();
                }
                Step::Snapshot(part) => {
                    let entries = match &part {
                        SnapshotChunk::Chunk(chunk) => chunk.entries(),
                        SnapshotChunk::Matching(entries) => entries,
                    };
                    for entry in entries {
                        assert!(self.believes.insert(key(entry), value(entry)).is_none(), "told twice in a snapshot");
                    }
                }
                Step::Synced(revision) => {
                    assert!(revision >= self.stands_at);
                    self.stands_at = revision;
                }
                Step::Changes(deltas, revision) => {
                    assert!(revision > self.stands_at, "revisions rise");
                    for delta in deltas {
                        assert!(delta.event.revision > self.stands_at && delta.event.revision <= revision);
                        self.apply(&delta);
                    }
                    self.stands_at = revision;
                }
                Step::Idle | Step::Settling => return,
            }
        }
    }

    fn apply(&mut self, delta: &Delta) {
        let instance = (delta.event.service().to_string(), delta.event.id().to_string());
        match delta.kind {
            DeltaKind::Updated => {
                self.believes.insert(instance, value(delta.event.after().unwrap()));
            }
            DeltaKind::Removed | DeltaKind::NoLongerMatches => {
                assert!(self.believes.remove(&instance).is_some(), "removed what was never told");
            }
        }
    }
}

fn key(entry: &Entry) -> (String, String) {
    (entry.instance.service.to_string(), entry.instance.id.to_string())
}

fn value(entry: &Entry) -> (u16, bool) {
    (entry.instance.weight.get(), entry.instance.conditions.operator_draining)
}

pub(super) fn readers() -> Vec<ModelReader> {
    let names = |names: &[&str]| Selector::parse(&names.iter().map(ToString::to_string).collect::<Vec<_>>(), "", false);
    vec![
        ModelReader::new(names(&["web"]).unwrap(), ""),
        ModelReader::new(names(&["web", "db", "none"]).unwrap(), ""),
        ModelReader::new(Selector::parse(&[], "web", false).unwrap(), ""),
        ModelReader::new(Selector::Everything, ""),
        ModelReader::new(Selector::Everything, "weight != 2 and status != DRAINING"),
    ]
}
