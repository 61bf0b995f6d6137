//! The one order of changes, through all lives of a registry: put together from what writers were told, what restarts have shown
//! and what readers heard.

use std::collections::{BTreeMap, BTreeSet};

use callboard::pb::callboard::v1::{Event, EventKind, RemovalReason, change::Change, watch_response::Message};

use super::writer::{Done, Writer};
use crate::{
    harness::{Key, Reader, Record, View, What, key},
    promise::{Life, Truth, kept::Write},
};

/// Who knows something.
#[derive(Debug)]
pub struct Chronicle<'a> {
    /// Registrations of which all are still there.
    pub lives: &'a [Life],
    pub writers: &'a [Writer],
    pub readers: &'a [Reader],
    /// For each life of the registry, the revision at which the next one began.
    pub bases: &'a [u64],
}

impl Chronicle<'_> {
    pub fn truth(&self) -> Truth {
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
        let mut unheard: Vec<Vec<&Key>> = vec![Vec::new(); self.bases.len()];
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
        Truth::gather(events.into_values().collect(), records, []).unwrap()
    }

    /// Removals that nobody was told of have the revisions that nothing else has: each a later one than those at which
    /// somebody stood who would have heard of it.
    fn place(&self, life: usize, unheard: Vec<&Key>, events: &mut BTreeMap<u64, Event>) {
        let (from, to) = self.span(life);
        let mut free =
            (from + 1..=to).filter(|revision| !events.contains_key(revision)).collect::<Vec<_>>().into_iter();
        let mut unheard: Vec<_> = unheard.into_iter().map(|instance| (self.stood(life, instance), instance)).collect();
        unheard.sort();
        for (stood, instance) in unheard {
            let revision = free.find(|revision| *revision > stood);
            let revision = revision.unwrap_or_else(|| panic!("no revision is left for the removal of {instance:?}"));
            put(events, revision, instance, EventKind::Removed);
        }
    }

    /// The highest revision at which somebody stood in that life who would have heard of this instance. Whoever stands where the
    /// life ended may have been told by the next.
    fn stood(&self, life: usize, instance: &Key) -> u64 {
        let (from, to) = self.span(life);
        let records = self.readers.iter().map(|reader| &reader.record);
        let stands = records.filter(|record| record.scope.includes(&instance.0)).flat_map(stands);
        stands.filter(|revision| (from..to).contains(revision)).max().unwrap_or(from)
    }

    /// The revisions of a life: later than the first, up to the second.
    fn span(&self, life: usize) -> (u64, u64) {
        let from = life.checked_sub(1).map_or(0, |before| self.bases[before]);
        (from, self.bases[life])
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

fn stands(record: &Record) -> Vec<u64> {
    let mut view = View::default();
    let mut stands = Vec::new();
    for heard in &record.heard {
        match &heard.what {
            What::Opened { .. } => view.open(),
            What::Message(message) if view.hear(message) => stands.push(view.revision),
            What::Message(_) | What::Ended(_) => {}
        }
    }
    stands
}
