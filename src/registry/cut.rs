//! What readers take: all of a selection at one revision, or what happened to it since another.

use std::sync::Arc;

use super::{
    Registry,
    event::{Event, Now},
    ring::Ring,
    roster::Blocks,
};
use crate::model::{Revision, Selection};

/// How often a cut is tried before writers are made to wait for it.
const TRIES: usize = 3;
/// Most events that a reader looks at while it holds a lock that writers want.
const GLANCE: usize = 4_096;

/// All instances of a selection as they are at one revision.
#[derive(Debug)]
pub(super) struct Cut {
    /// At which revision.
    pub revision: Revision,
    /// Those of each service.
    pub services: Vec<Blocks>,
}

/// What a reader has yet to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Changes in its selection after its cursor; counted up to some thousands. Its filter may hide some.
    pub changes: usize,
    /// When the oldest of them happened.
    pub oldest: Option<Now>,
}

impl Registry {
    /// Takes a consistent cut without stopping writers: services are visited one by one, and the visit counts if nothing
    /// happened to any of them meanwhile. After a few tries writers wait for one visit.
    pub(super) fn cut(&self, selection: &Selection) -> Cut {
        for _ in 0..TRIES {
            let before = self.applied();
            let (services, newest) = self.visit(selection);
            let revision = self.applied_from(newest);
            if self.is_quiet(selection, before, revision) {
                return Cut { revision, services };
            }
        }
        let _nobody_writes = self.order.lock();
        Cut { services: self.visit(selection).0, revision: self.applied() }
    }

    /// The events of a selection after `cursor`, the oldest first, and the revision up to which these are all. `None`: they
    /// are no longer all remembered.
    pub(super) fn since(&self, selection: &Selection, cursor: Revision) -> Option<(Vec<Arc<Event>>, Revision)> {
        let until = self.applied();
        if cursor >= until {
            return Some((Vec::new(), cursor));
        }
        if let Selection::Names(names) = selection
            && let [name] = &**names
        {
            let own = self.read(name, |state| glance(state.ring(), selection, cursor, until));
            if let Some(own) = own.flatten() {
                return Some(own);
            }
        }
        glance(&self.history.read(), selection, cursor, until)
    }

    /// How much of a selection happened after `cursor`.
    #[must_use]
    pub fn pending(&self, selection: &Selection, cursor: Revision) -> Pending {
        let events = self.since(selection, cursor).map(|(events, _)| events).unwrap_or_default();
        Pending { changes: events.len(), oldest: events.first().map(|event| event.at) }
    }

    /// The blocks of every selected service, and the newest revision among them.
    fn visit(&self, selection: &Selection) -> (Vec<Blocks>, Revision) {
        let names = match selection {
            Selection::Names(names) => names.to_vec(),
            Selection::Prefix(prefix) => self.names_from(prefix, "", usize::MAX),
            Selection::Everything => self.names_from("", "", usize::MAX),
        };
        let mut newest = Revision::default();
        let mut services = Vec::with_capacity(names.len());
        for name in &names {
            if let Some((blocks, revision)) = self.read(name, super::service::State::snapshot) {
                newest = newest.max(revision);
                services.push(blocks);
            }
        }
        (services, newest)
    }

    /// The newest revision, after a change that was seen half-way has been published.
    fn applied_from(&self, seen: Revision) -> Revision {
        if self.applied() < seen {
            drop(self.order.lock());
        }
        self.applied()
    }

    fn is_quiet(&self, selection: &Selection, from: Revision, until: Revision) -> bool {
        let history = self.history.read();
        history.reaches(from) && !history.between(from, until).any(|event| selection.includes(&event.service))
    }
}

/// The selected events in a part of a ring that can be looked at in one go, and where that part ends.
fn glance(
    ring: &Ring,
    selection: &Selection,
    cursor: Revision,
    until: Revision,
) -> Option<(Vec<Arc<Event>>, Revision)> {
    if !ring.reaches(cursor) {
        return None;
    }
    let mut selected = Vec::new();
    let mut last = cursor;
    for (seen, event) in ring.between(cursor, until).enumerate() {
        // What belongs to one revision stays together.
        if seen >= GLANCE && event.revision > last {
            return Some((selected, last));
        }
        last = event.revision;
        if selection.includes(&event.service) {
            selected.push(Arc::clone(event));
        }
    }
    Some((selected, until))
}
