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
pub struct Chronicle<'a> {
    /// Registrations of which all are still there.
    pub lives: &'a [InstanceLifetime],
    pub writers: &'a [Writer],
    pub readers: &'a [Reader],
    /// The revision at which each life of the registry began, and that at which the last was found.
    pub bases: &'a [u64],
}

impl Chronicle<'_> {
    pub fn truth(&self) -> ReferenceHistory {
        let mut events = BTreeMap::new();
        for life in self.lives {
            put(&mut events, life.revision, &key(&life.service, &life.id), EventKind::Registered);
        }
        let done = || self.writers.iter().flat_map(|writer| &writer.done);
        for Done { instance, write, revision, .. } in done() {
            let kind = if *write == Write::Remove { EventKind::Removed } else { EventKind::Updated };
            if let Some(revision) = revision {
                put(&mut events, *revision, instance, kind);
            }
        }
        let mut unheard: Vec<Vec<&Key>> = vec![Vec::new(); self.bases.len() - 1];
        let heard: BTreeSet<(&str, &str, u64)> =
            self.readers.iter().flat_map(|reader| removals(&reader.record)).collect();
        for Done { instance, life, .. } in done().filter(|done| done.revision.is_none()) {
            let (from, to) = self.span(*life);
            let of = heard.range((&*instance.0, &*instance.1, from + 1)..=(&*instance.0, &*instance.1, to));
            match of.map(|(_, _, revision)| *revision).find(|revision| !events.contains_key(revision)) {
                Some(revision) => put(&mut events, revision, instance, EventKind::Removed),
                None => unheard[*life].push(instance),
            }
        }
        for (life, unheard) in unheard.into_iter().enumerate() {
            self.place(life, unheard, &mut events);
        }
        let records = self.readers.iter().map(|reader| &reader.record);
        ReferenceHistory::gather(events.into_values().collect(), records, []).unwrap()
    }

    /// Assigns the free revisions to removals without a known revision, each within the bounds that the records of readers leave.
    fn place(&self, life: usize, unheard: Vec<&Key>, events: &mut BTreeMap<u64, Event>) {
        let (from, to) = self.span(life);
        let mut unheard: Vec<_> =
            unheard.into_iter().map(|instance| (self.bounds(life, instance, events), instance)).collect();
        let free: Vec<u64> = (from + 1..=to).filter(|revision| !events.contains_key(revision)).collect();
        for revision in free {
            let waiting = unheard.iter().enumerate().filter(|(_, (bounds, _))| bounds.0 < revision);
            let Some((first, _)) = waiting.min_by_key(|(_, (bounds, _))| bounds.1) else { continue };
            let ((_, latest), instance) = unheard.swap_remove(first);
            assert!(revision <= latest, "{instance:?} was not there at {latest}, and was removed later");
            put(events, revision, instance, EventKind::Removed);
        }
        assert!(unheard.is_empty(), "no revision is left for removals: {unheard:?}");
    }

    /// Returns the bounds of the revision of a removal: after the newest view with the instance, and not after the first later view
    /// without it.
    fn bounds(&self, life: usize, instance: &Key, events: &BTreeMap<u64, Event>) -> (u64, u64) {
        let (from, to) = self.span(life);
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

    /// The revisions of a life: later than the first, up to the second.
    fn span(&self, life: usize) -> (u64, u64) {
        (self.bases[life], self.bases[life + 1])
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
    let messages = record.heard.iter().filter_map(|heard| match &heard.what {
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
    for heard in &record.heard {
        match &heard.what {
            What::Opened { .. } => view.open(),
            What::Message(message) if view.hear(message) => {
                stands.push((view.revision, view.set.contains_key(instance)));
            }
            What::Message(_) | What::Ended(_) => {}
        }
    }
    stands
}
