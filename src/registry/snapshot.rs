//! What readers take: all of a selection at one revision, or what happened to it since another.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use super::{
    Registry,
    event::{ClockReading, Event},
    event_log::{EventLog, GLANCE},
    instance_map::Chunks,
    service::ServiceState,
};
use crate::model::{Revision, Selector, ServiceName};

/// How often a cut is mended before writers are made to wait for it.
const TRIES: usize = 8;
/// Up to so many services a selection's events are taken from their own rings, rather than searched for among all.
const FEW: usize = 64;

/// All instances of a selection as they are at one revision.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// At which revision.
    pub revision: Revision,
    /// Those of each service.
    pub services: Vec<Chunks>,
}

/// What a reader has yet to be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PendingVisits {
    /// Instances in its selection that changed after its cursor, counted up to some thousands; where history no longer
    /// tells, all there are. Its filter may hide some.
    pub changes: usize,
    /// When the oldest of these changes happened; where history no longer tells, at the latest.
    pub oldest: Option<ClockReading>,
}

impl Registry {
    /// Takes a consistent cut without stopping writers: services are visited one by one; those that changed meanwhile are
    /// visited again, until none did. Each round is shorter than the one before; the last resort is to have writers wait for
    /// one of them.
    pub(super) fn cut(&self, selection: &Selector) -> Snapshot {
        let mut visited = BTreeMap::new();
        let mut from = self.applied();
        let mut newest = self.visit(self.selected(selection), &mut visited);
        for _ in 0..TRIES {
            let until = self.applied_from(newest);
            let changed = self.changed(selection, from, until, &visited);
            if changed.is_empty() {
                return Snapshot { revision: until, services: visited.into_values().collect() };
            }
            newest = self.visit(changed, &mut visited);
            from = until;
        }
        let _nobody_writes = self.order.lock();
        let until = self.applied();
        self.visit(self.changed(selection, from, until, &visited), &mut visited);
        Snapshot { revision: until, services: visited.into_values().collect() }
    }

    /// The events of a selection after `cursor`, the oldest first, and the revision up to which these are all. `None`: they
    /// are no longer all remembered.
    pub(super) fn since(&self, selection: &Selector, cursor: Revision) -> Option<(Vec<Arc<Event>>, Revision)> {
        let until = self.applied();
        if cursor >= until {
            return Some((Vec::new(), cursor));
        }
        if let Selector::Names(names) = selection
            && names.len() <= FEW
            && let Some(own) = self.since_of(names, cursor, until)
        {
            return Some(own);
        }
        glance(&self.history.read(), cursor, until, |service| selection.includes(service))
    }

    /// How much of a selection happened after `cursor`.
    #[must_use]
    pub fn pending(&self, selection: &Selector, cursor: Revision) -> PendingVisits {
        let Some((events, _)) = self.since(selection, cursor) else {
            let instances = |name: &ServiceName| self.summary(name).map_or(0, |summary| summary.instances);
            let changes = self.selected(selection).iter().map(instances).sum();
            return PendingVisits { changes, oldest: self.history.read().oldest().map(|event| event.at) };
        };
        let changed: HashSet<_> = events.iter().map(|event| (event.service(), event.id())).collect();
        PendingVisits { changes: changed.len(), oldest: events.first().map(|event| event.at) }
    }

    /// The same as [`Registry::since`], from the rings of these services. `None`: one of them does not reach back, or is
    /// not there to ask.
    fn since_of(
        &self,
        names: &[ServiceName],
        cursor: Revision,
        until: Revision,
    ) -> Option<(Vec<Arc<Event>>, Revision)> {
        let (mut merged, mut until) = (Vec::new(), until);
        for name in names {
            let (events, end) = self.read(name, |state| glance(state.ring(), cursor, until, |_| true))??;
            until = until.min(end);
            merged.extend(events);
        }
        if names.len() > 1 {
            merged.retain(|event| event.revision <= until);
            merged.sort_by_key(|event| event.revision);
        }
        Some((merged, until))
    }

    fn selected(&self, selection: &Selector) -> Vec<ServiceName> {
        match selection {
            Selector::Names(names) => names.to_vec(),
            Selector::Prefix(prefix) => self.names_from(prefix, "", usize::MAX),
            Selector::Everything => self.names_from("", "", usize::MAX),
        }
    }

    /// Takes the blocks of these services as they are now, and returns the newest revision among them.
    fn visit(&self, names: Vec<ServiceName>, visited: &mut BTreeMap<ServiceName, Chunks>) -> Revision {
        let mut newest = Revision::default();
        for name in names {
            if let Some((blocks, revision)) = self.read(&name, ServiceState::snapshot) {
                newest = newest.max(revision);
                visited.insert(name, blocks);
            } else {
                visited.remove(&name);
            }
        }
        newest
    }

    /// The newest revision, after a change that was seen half-way has been published.
    fn applied_from(&self, seen: Revision) -> Revision {
        if self.applied() < seen {
            drop(self.order.lock());
        }
        self.applied()
    }

    /// The selected services to which something happened; where history no longer tells, all that are or were there.
    fn changed(
        &self,
        selection: &Selector,
        from: Revision,
        until: Revision,
        visited: &BTreeMap<ServiceName, Chunks>,
    ) -> Vec<ServiceName> {
        let history = self.history.read();
        if !history.covers(from) {
            drop(history);
            return self.selected(selection).into_iter().chain(visited.keys().cloned()).collect();
        }
        let services = history.between(from, until).map(|event| event.service());
        let changed: BTreeSet<_> = services.filter(|service| selection.includes(service)).collect();
        changed.into_iter().cloned().collect()
    }
}

/// The wanted events in a part of a ring that can be looked at in one go, and where that part ends.
fn glance(
    ring: &EventLog,
    cursor: Revision,
    until: Revision,
    wanted: impl Fn(&ServiceName) -> bool,
) -> Option<(Vec<Arc<Event>>, Revision)> {
    if !ring.covers(cursor) {
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
        if wanted(event.service()) {
            selected.push(Arc::clone(event));
        }
    }
    Some((selected, until))
}
