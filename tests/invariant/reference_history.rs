//! Reference history: the one order of all changes, from the registry's own log, and the contents of instances, from all
//! readers.

use std::collections::{BTreeMap, HashMap};

use callboard::pb::callboard::v1::{Event, EventKind, Instance, change::Change, watch_response::Message};

use crate::harness::{Key, Record, Scope, What, key};

/// All changes in order.
#[derive(Debug, Default)]
pub struct ReferenceHistory {
    /// Events, the oldest first; one for each revision.
    pub events: Vec<Event>,
    /// Instances by the revision of their last change.
    contents: HashMap<u64, Instance>,
}

/// Contradiction between the log and the readers.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Contradiction {
    #[error("two events in the log have revision {0}, or they are out of order")]
    Unordered(u64),
    #[error("at revision {0} two readers saw different instances")]
    TwoContents(u64),
    #[error("{reader} saw {instance:?} change at revision {revision}, which is not in the log")]
    NotInTheLog { reader: String, instance: Key, revision: u64 },
}

impl ReferenceHistory {
    /// Combines the log and all records. `seen`: instances from responses to calls.
    pub fn gather<'a>(
        events: Vec<Event>,
        records: impl IntoIterator<Item = &'a Record>,
        seen: impl IntoIterator<Item = Instance>,
    ) -> Result<Self, Contradiction> {
        if let Some(pair) = events.windows(2).find(|pair| pair[0].revision >= pair[1].revision) {
            return Err(Contradiction::Unordered(pair[1].revision));
        }
        let mut history = Self { events, contents: HashMap::new() };
        for instance in seen {
            history.learn("a call", &instance)?;
        }
        for record in records {
            for instance in record.observations.iter().flat_map(|observation| instances(&observation.what)) {
                history.learn(&record.reader, instance)?;
            }
        }
        Ok(history)
    }

    /// Returns the instance as of this revision, if a reader saw it.
    pub fn content(&self, revision: u64) -> Option<&Instance> {
        self.contents.get(&revision)
    }

    /// Returns the event of this revision.
    pub fn event(&self, revision: u64) -> Option<&Event> {
        let at = self.events.binary_search_by_key(&revision, |event| event.revision);
        at.ok().map(|at| &self.events[at])
    }

    /// Returns all events of an instance.
    pub fn of<'a>(&'a self, service: &'a str, id: &'a str) -> impl Iterator<Item = &'a Event> {
        self.events.iter().filter(move |event| event.service == service && event.instance_id == id)
    }

    /// Starts a replay from the beginning.
    pub fn replay(&self, scope: Scope) -> Replay<'_> {
        Replay { history: self, scope, next: 0, present: BTreeMap::new() }
    }

    fn learn(&mut self, reader: &str, instance: &Instance) -> Result<(), Contradiction> {
        let revision = instance.revision;
        let known = self.event(revision);
        if known.is_none_or(|event| event.service != instance.service || event.instance_id != instance.id) {
            let instance = key(&instance.service, &instance.id);
            return Err(Contradiction::NotInTheLog { reader: reader.to_owned(), instance, revision });
        }
        if self.contents.insert(revision, instance.clone()).is_some_and(|before| before != *instance) {
            return Err(Contradiction::TwoContents(revision));
        }
        Ok(())
    }
}

fn instances(what: &What) -> Vec<&Instance> {
    let What::Message(message) = what else { return Vec::new() };
    match &message.message {
        Some(Message::Snapshot(snapshot)) => snapshot.instances.iter().collect(),
        Some(Message::Changes(changes)) => {
            let changes = changes.changes.iter().filter_map(|change| change.change.as_ref());
            let updated = changes.filter_map(|change| match change {
                Change::Updated(instance) => Some(instance),
                Change::Removed(_) => None,
            });
            updated.collect()
        }
        _ => Vec::new(),
    }
}

/// State of a scope, which advances from revision to revision.
#[derive(Debug)]
pub struct Replay<'a> {
    history: &'a ReferenceHistory,
    scope: Scope,
    next: usize,
    /// Registered instances with the revision of their last change.
    present: BTreeMap<Key, u64>,
}

impl Replay<'_> {
    /// Returns the registered instances at a revision, which must not be older than that of the last call.
    pub fn at(&mut self, revision: u64) -> &BTreeMap<Key, u64> {
        while let Some(event) = self.history.events.get(self.next)
            && event.revision <= revision
        {
            self.next += 1;
            if !self.scope.includes(&event.service) {
                continue;
            }
            let instance = key(&event.service, &event.instance_id);
            if event.kind() == EventKind::Removed {
                self.present.remove(&instance);
            } else {
                self.present.insert(instance, event.revision);
            }
        }
        &self.present
    }
}

/// Histories for unit tests.
#[cfg(test)]
pub mod made_up {
    use super::*;
    use callboard::pb::callboard::v1::RemovalReason;

    /// Makes a history. Each event has a revision, an id in the service `web`, and true if the instance is registered after it.
    pub fn reference(events: &[(u64, &str, bool)]) -> ReferenceHistory {
        let mut known = std::collections::HashSet::new();
        let events = events.iter().map(|(revision, id, present)| {
            let kind = match (present, known.contains(id)) {
                (false, _) => EventKind::Removed,
                (true, false) => EventKind::Registered,
                (true, true) => EventKind::Updated,
            };
            if *present {
                known.insert(*id)
            } else {
                known.remove(id)
            };
            let reason = if *present { RemovalReason::Unspecified } else { RemovalReason::Expired };
            Event {
                revision: *revision,
                service: "web".to_owned(),
                instance_id: (*id).to_owned(),
                kind: kind.into(),
                reason: reason.into(),
                ..Event::default()
            }
        });
        ReferenceHistory { events: events.collect(), contents: HashMap::new() }
    }
}

mod tests {
    use super::*;
    use crate::harness::{Filter, message};

    fn gather(observations: Vec<crate::harness::Observation>) -> Result<ReferenceHistory, Contradiction> {
        let record = Record { observations, ..Record::new("r", Scope::Everything, Filter::NONE) };
        ReferenceHistory::gather(made_up::reference(&[(5, "a", true), (7, "a", true)]).events, [&record], [])
    }

    #[test]
    fn contradictions_between_readers_and_the_log_are_found() {
        assert!(gather(vec![message::snapshot(&[("a", 5)]), message::snapshot(&[("a", 7)])]).is_ok());
        let unknown = gather(vec![message::snapshot(&[("a", 6)])]).unwrap_err();
        assert!(matches!(unknown, Contradiction::NotInTheLog { revision: 6, .. }));
        let other = gather(vec![message::snapshot(&[("b", 5)])]).unwrap_err();
        assert!(matches!(other, Contradiction::NotInTheLog { revision: 5, .. }));
        let mut heavier = message::instance("a", 5);
        heavier.weight = 9;
        let twice = message::changes(&[Change::Updated(heavier)], 5);
        assert_eq!(gather(vec![message::snapshot(&[("a", 5)]), twice]).unwrap_err(), Contradiction::TwoContents(5));
        let events = made_up::reference(&[(7, "a", true), (7, "b", true)]).events;
        assert_eq!(ReferenceHistory::gather(events, [], []).unwrap_err(), Contradiction::Unordered(7));
    }

    #[test]
    fn replay_has_the_registered_instances() {
        let history = made_up::reference(&[(1, "a", true), (2, "b", true), (3, "a", false), (4, "b", true)]);
        let mut replay = history.replay(Scope::Everything);
        assert_eq!(replay.at(2).len(), 2);
        assert_eq!(replay.at(9), &BTreeMap::from([(key("web", "b"), 4)]));
        assert!(history.replay(Scope::names(&["db"])).at(9).is_empty());
    }
}
