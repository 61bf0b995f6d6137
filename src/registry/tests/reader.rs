//! A reader that checks each step against the earlier ones.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    model::{InstanceFilter, ResumeToken, Revision, Selector},
    registry::{Delta, DeltaKind, Entry, Registry, SnapshotChunk, Step, Subscription},
};

/// Reader with the state that its steps lead to.
pub(super) struct ModelReader {
    selector: Selector,
    filter: &'static str,
    subscription: Subscription,
    pub(super) state: BTreeMap<(String, String), (u16, bool)>,
    pub(super) revision: Revision,
    pub(super) resets: usize,
}

impl ModelReader {
    fn new(selector: Selector, filter: &'static str) -> Self {
        let subscription = Self::subscribe(&selector, filter, None);
        Self { selector, filter, subscription, state: BTreeMap::new(), revision: Revision(0), resets: 0 }
    }

    fn subscribe(selector: &Selector, filter: &str, token: Option<ResumeToken>) -> Subscription {
        let filter = InstanceFilter::parse(filter).unwrap().map(Arc::new);
        Subscription::new(Arc::new(selector.clone()), filter, token)
    }

    pub(super) fn resume(&mut self, registry: &Registry) {
        let token = (self.revision > Revision(0)).then(|| self.subscription.token(registry, self.revision));
        self.subscription = Self::subscribe(&self.selector, self.filter, token);
        if token.is_none() {
            self.state.clear();
        }
    }

    /// Takes steps until there are no more, and checks each against the earlier ones.
    pub(super) fn read(&mut self, registry: &Registry) {
        loop {
            match self.subscription.next(registry) {
                Step::Reset(_) => {
                    self.resets += 1;
                    self.state.clear();
                }
                Step::Snapshot(part) => {
                    let entries = match &part {
                        SnapshotChunk::Chunk(chunk) => chunk.entries(),
                        SnapshotChunk::Matching(entries) => entries,
                    };
                    for entry in entries {
                        assert!(self.state.insert(key(entry), value(entry)).is_none(), "twice in a snapshot");
                    }
                }
                Step::Synced(revision) => {
                    assert!(revision >= self.revision);
                    self.revision = revision;
                }
                Step::Changes(deltas, revision) => {
                    assert!(revision > self.revision, "revisions rise");
                    for delta in deltas {
                        assert!(delta.event.revision > self.revision && delta.event.revision <= revision);
                        self.apply(&delta);
                    }
                    self.revision = revision;
                }
                Step::Idle | Step::Settling | Step::Behind(_) => return,
            }
        }
    }

    fn apply(&mut self, delta: &Delta) {
        let instance = (delta.event.service().to_string(), delta.event.id().to_string());
        match delta.kind {
            DeltaKind::Updated => {
                self.state.insert(instance, value(delta.event.after().unwrap()));
            }
            DeltaKind::Removed | DeltaKind::NoLongerMatches => {
                assert!(self.state.remove(&instance).is_some(), "removed without having been sent");
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
