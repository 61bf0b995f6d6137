//! Reads of a selection: all its instances at one revision, or its events since another revision.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use super::{
    Registry,
    event::{ClockReading, Event},
    event_log::{EventLog, MAX_EVENTS_PER_READ},
    instance_map::Chunks,
    service::ServiceState,
};
use crate::model::{Revision, Selector, ServiceName};

/// Number of rounds after which a snapshot makes writers wait.
const MAX_LOCK_FREE_ROUNDS: usize = 8;
/// Maximum number of selected services whose events are read from their own logs. For more, the history of all services
/// is searched.
const MAX_SERVICES_BY_OWN_LOG: usize = 64;

/// All instances of a selector at one revision.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// Revision.
    pub revision: Revision,
    /// Instances of each service.
    pub services: Vec<Chunks>,
}

/// Changes that a reader has not been sent yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PendingChanges {
    /// Number of instances in the selector that changed after the cursor, counted up to some thousands; all instances if the
    /// history no longer reaches back. The reader's filter may hide some of them.
    pub changes: usize,
    /// Time of the oldest of these changes; the time of the oldest logged event if the history no longer reaches back.
    pub oldest: Option<ClockReading>,
}

impl Registry {
    /// Takes a consistent snapshot without stopping writers: visits the services one by one, then those that changed meanwhile,
    /// until none did. Each round is shorter than the one before; as a last resort, writers wait for one of them.
    pub(super) fn snapshot(&self, selector: &Selector) -> Snapshot {
        let mut visited = BTreeMap::new();
        let mut from = self.applied();
        let mut newest = self.visit(self.selected(selector), &mut visited);
        for _ in 0..MAX_LOCK_FREE_ROUNDS {
            let until = self.applied_from(newest);
            let changed = self.changed(selector, from, until, &visited);
            if changed.is_empty() {
                return Snapshot { revision: until, services: visited.into_values().collect() };
            }
            newest = self.visit(changed, &mut visited);
            from = until;
        }
        let _writers_wait = self.order.lock();
        let until = self.applied();
        self.visit(self.changed(selector, from, until, &visited), &mut visited);
        Snapshot { revision: until, services: visited.into_values().collect() }
    }

    /// Returns the events of a selection after `cursor`, the oldest first, and the revision up to which they are complete.
    /// `None`: the logs no longer reach back to the cursor.
    pub(super) fn since(&self, selector: &Selector, cursor: Revision) -> Option<(Vec<Arc<Event>>, Revision)> {
        let until = self.applied();
        if cursor >= until {
            return Some((Vec::new(), cursor));
        }
        if let Selector::Names(names) = selector
            && names.len() <= MAX_SERVICES_BY_OWN_LOG
            && let Some(own) = self.since_of(names, cursor, until)
        {
            return Some(own);
        }
        read_log(&self.history.read(), cursor, until, |service| selector.includes(service))
    }

    /// Returns the changes of a selection after `cursor`.
    #[must_use]
    pub fn pending(&self, selector: &Selector, cursor: Revision) -> PendingChanges {
        let Some((events, _)) = self.since(selector, cursor) else {
            let instances = |name: &ServiceName| self.summary(name).map_or(0, |summary| summary.instances);
            let changes = self.selected(selector).iter().map(instances).sum();
            return PendingChanges { changes, oldest: self.history.read().oldest().map(|event| event.at) };
        };
        let changed: HashSet<_> = events.iter().map(|event| (event.service(), event.id())).collect();
        PendingChanges { changes: changed.len(), oldest: events.first().map(|event| event.at) }
    }

    /// Returns the result of [`Registry::since`] from the logs of these services. `None`: one of them does not reach back, or has no
    /// instances.
    fn since_of(
        &self,
        names: &[ServiceName],
        cursor: Revision,
        until: Revision,
    ) -> Option<(Vec<Arc<Event>>, Revision)> {
        let (mut merged, mut until) = (Vec::new(), until);
        for name in names {
            let (events, end) = self.read(name, |state| read_log(state.event_log(), cursor, until, |_| true))??;
            until = until.min(end);
            merged.extend(events);
        }
        if names.len() > 1 {
            merged.retain(|event| event.revision <= until);
            merged.sort_by_key(|event| event.revision);
        }
        Some((merged, until))
    }

    fn selected(&self, selector: &Selector) -> Vec<ServiceName> {
        match selector {
            Selector::Names(names) => names.to_vec(),
            Selector::Prefix(prefix) => self.names_from(prefix, "", usize::MAX),
            Selector::Everything => self.names_from("", "", usize::MAX),
        }
    }

    /// Takes the instances of these services at this moment, and returns the newest revision among them.
    fn visit(&self, names: Vec<ServiceName>, visited: &mut BTreeMap<ServiceName, Chunks>) -> Revision {
        let mut newest = Revision::default();
        for name in names {
            if let Some((chunks, revision)) = self.read(&name, ServiceState::snapshot) {
                newest = newest.max(revision);
                visited.insert(name, chunks);
            } else {
                visited.remove(&name);
            }
        }
        newest
    }

    /// Waits until the revision `seen` has been published, and returns the newest revision.
    fn applied_from(&self, seen: Revision) -> Revision {
        if self.applied() < seen {
            drop(self.order.lock());
        }
        self.applied()
    }

    /// Returns the selected services that changed; all that are or were selected if the history no longer reaches back.
    fn changed(
        &self,
        selector: &Selector,
        from: Revision,
        until: Revision,
        visited: &BTreeMap<ServiceName, Chunks>,
    ) -> Vec<ServiceName> {
        let history = self.history.read();
        if !history.covers(from) {
            drop(history);
            return self.selected(selector).into_iter().chain(visited.keys().cloned()).collect();
        }
        let services = history.between(from, until).map(|event| event.service());
        let changed: BTreeSet<_> = services.filter(|service| selector.includes(service)).collect();
        changed.into_iter().cloned().collect()
    }
}

/// Returns the wanted events in the part of a log that one read looks at, and the revision at which that part ends. `None`: the
/// log does not reach back to the cursor.
fn read_log(
    log: &EventLog,
    cursor: Revision,
    until: Revision,
    is_wanted: impl Fn(&ServiceName) -> bool,
) -> Option<(Vec<Arc<Event>>, Revision)> {
    if !log.covers(cursor) {
        return None;
    }
    let mut found = Vec::new();
    let mut last = cursor;
    for (looked_at, event) in log.between(cursor, until).enumerate() {
        // Events of one revision stay together.
        if looked_at >= MAX_EVENTS_PER_READ && event.revision > last {
            return Some((found, last));
        }
        last = event.revision;
        if is_wanted(event.service()) {
            found.push(Arc::clone(event));
        }
    }
    Some((found, until))
}
