//! Reference history through all restarts of a registry, made of the answers to writers, the audits after restarts and the messages
//! to readers.

use std::collections::{BTreeMap, BTreeSet};

use callboard::pb::callboard::v1::{Event, EventKind, RemovalReason, change::Change, watch_response::Message};

use super::writer::{Done, Writer};
use crate::{
    harness::{Key, Reader, Record, View, What, key},
    invariant::{InstanceLifetime, ReferenceHistory, kept::Write},
};

/// Sources of the reference history.
#[derive(Debug)]
pub struct HistoryBuilder<'a> {
    /// Lifetimes of registrations that are never removed.
    pub lifetimes: &'a [InstanceLifetime],
    pub writers: &'a [Writer],
    pub readers: &'a [Reader],
    /// Revision at which each process of the registry began, and the last revision.
    pub bases: &'a [u64],
}

impl HistoryBuilder<'_> {
    pub fn reference(&self) -> ReferenceHistory {
        let mut events = BTreeMap::new();
        for lifetime in self.lifetimes {
            put(&mut events, lifetime.revision, &key(&lifetime.service, &lifetime.id), EventKind::Registered);
        }
        let done = || self.writers.iter().flat_map(|writer| &writer.done);
        for Done { instance, write, revision, .. } in done() {
            let kind = if *write == Write::Remove { EventKind::Removed } else { EventKind::Updated };
            if let Some(revision) = revision {
                put(&mut events, *revision, instance, kind);
            }
        }
        let mut unseen: Vec<Vec<&Key>> = vec![Vec::new(); self.bases.len() - 1];
        let removed: BTreeSet<(&str, &str, u64)> =
            self.readers.iter().flat_map(|reader| removals(&reader.record)).collect();
        for Done { instance, incarnation, .. } in done().filter(|done| done.revision.is_none()) {
            let (from, to) = self.span(*incarnation);
            let of = removed.range((&*instance.0, &*instance.1, from + 1)..=(&*instance.0, &*instance.1, to));
            match of.map(|(_, _, revision)| *revision).find(|revision| !events.contains_key(revision)) {
                Some(revision) => put(&mut events, revision, instance, EventKind::Removed),
                None => unseen[*incarnation].push(instance),
            }
        }
        for (incarnation, unseen) in unseen.into_iter().enumerate() {
            self.place(incarnation, unseen, &mut events);
        }
        let records = self.readers.iter().map(|reader| &reader.record);
        ReferenceHistory::gather(events.into_values().collect(), records, []).unwrap()
    }

    /// Assigns the free revisions to removals without a known revision, each within the bounds that the records of readers leave.
    fn place(&self, incarnation: usize, unseen: Vec<&Key>, events: &mut BTreeMap<u64, Event>) {
        let (from, to) = self.span(incarnation);
        let mut unseen: Vec<_> =
            unseen.into_iter().map(|instance| (self.bounds(incarnation, instance, events), instance)).collect();
        let free: Vec<u64> = (from + 1..=to).filter(|revision| !events.contains_key(revision)).collect();
        for revision in free {
            let waiting = unseen.iter().enumerate().filter(|(_, (bounds, _))| bounds.0 < revision);
            let Some((first, _)) = waiting.min_by_key(|(_, (bounds, _))| bounds.1) else { continue };
            let ((_, latest), instance) = unseen.swap_remove(first);
            assert!(revision <= latest, "{instance:?} was not there at {latest}, and was removed later");
            put(events, revision, instance, EventKind::Removed);
        }
        assert!(unseen.is_empty(), "no revision is left for removals: {unseen:?}");
    }

    /// Returns the bounds of the revision of a removal: after the newest view with the instance, and not after the first later view
    /// without it.
    fn bounds(&self, incarnation: usize, instance: &Key, events: &BTreeMap<u64, Event>) -> (u64, u64) {
        let (from, to) = self.span(incarnation);
        let of = |event: &&Event| (&event.service, &event.instance_id) == (&instance.0, &instance.1);
        let written = events.range(..=to).rev().map(|(_, event)| event).find(of).map_or(from, |event| event.revision);
        let mut bounds = (written.max(from), to);
        let records = self.readers.iter().map(|reader| &reader.record);
        for record in records.filter(|record| record.scope.includes(&instance.0)) {
            for (revision, has) in stands(record, instance) {
                if has && (from..to).contains(&revision) {
                    bounds.0 = bounds.0.max(revision);
                } else if !has && record.filter.text.is_empty() && revision >= written {
                    bounds.1 = bounds.1.min(revision);
                }
            }
        }
        bounds
    }

    /// Returns the revisions of a process: later than the first, up to the second.
    fn span(&self, incarnation: usize) -> (u64, u64) {
        (self.bases[incarnation], self.bases[incarnation + 1])
    }
}

fn put(events: &mut BTreeMap<u64, Event>, revision: u64, instance: &Key, kind: EventKind) {
    let (service, instance_id) = instance.clone();
    let mut event = Event { revision, service, instance_id, kind: kind.into(), ..Event::default() };
    if kind == EventKind::Removed {
        event.set_reason(RemovalReason::Deregistered);
    }
    event.time = Some(prost_types::Timestamp::default());
    if let Some(before) = events.insert(revision, event) {
        panic!("revision {revision} was given to {instance:?} and to {before:?}");
    }
}

fn removals(record: &Record) -> Vec<(&str, &str, u64)> {
    let messages = record.observations.iter().filter_map(|observation| match &observation.what {
        What::Message(message) => message.message.as_ref(),
        _ => None,
    });
    let changes = messages.filter_map(|message| match message {
        Message::Changes(changes) => Some(&changes.changes),
        _ => None,
    });
    let removed = changes.flatten().filter_map(|change| match &change.change {
        Some(Change::Removed(gone)) => Some((&*gone.service, &*gone.id, gone.revision)),
        _ => None,
    });
    removed.collect()
}

/// Returns the revisions of a reader, each with whether its view had the instance.
fn stands(record: &Record, instance: &Key) -> Vec<(u64, bool)> {
    let mut view = View::default();
    let mut stands = Vec::new();
    for observation in &record.observations {
        match &observation.what {
            What::Opened { .. } => view.open(),
            What::Message(message) if view.receive(message) => {
                stands.push((view.revision, view.set.contains_key(instance)));
            }
            What::Message(_) | What::Ended(_) => {}
        }
    }
    stands
}
