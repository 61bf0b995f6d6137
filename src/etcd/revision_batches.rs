//! Division of a watch's responses into revisions of etcd.
//!
//! A response has the changes of several revisions while the watch catches up, and a large response arrives in fragments,
//! which may divide a revision.

use std::collections::VecDeque;

use crate::pb::mvccpb::{Event, event::EventType};

use super::response::{EtcdEntry, revision};

/// All changes of one revision of etcd to the watched keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdRevisionBatch {
    /// Revision.
    pub revision: u64,
    /// Changes, in the order of their operations.
    pub changes: Vec<EtcdChange>,
}

/// Change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EtcdChange {
    /// The key was set.
    Put(EtcdEntry),
    /// The key was deleted, or its lease expired.
    Delete {
        /// Deleted key.
        key: Vec<u8>,
    },
}

/// Changes that have arrived, divided into revisions.
#[derive(Debug)]
pub(super) struct RevisionBatches {
    complete: VecDeque<EtcdRevisionBatch>,
    /// Batch whose revision may continue in the next fragment.
    open: Option<EtcdRevisionBatch>,
    /// First revision that is wanted.
    first: u64,
    /// Newest complete revision.
    last: u64,
}

impl RevisionBatches {
    /// Skips changes before this revision.
    pub(super) fn starting_at(revision: u64) -> Self {
        Self { complete: VecDeque::new(), open: None, first: revision, last: 0 }
    }

    /// Returns the next complete batch.
    pub(super) fn next(&mut self) -> Option<EtcdRevisionBatch> {
        self.complete.pop_front()
    }

    /// Adds the changes of a response. `continues`: the response is a fragment, and another one follows.
    pub(super) fn push(&mut self, events: Vec<Event>, continues: bool) -> Result<(), String> {
        for event in events {
            self.push_event(event)?;
        }
        if !continues {
            self.close();
        }
        Ok(())
    }

    fn push_event(&mut self, event: Event) -> Result<(), String> {
        let kind = event.r#type();
        let entry = event.kv.ok_or("an event has no key")?;
        let revision = revision(entry.mod_revision);
        if revision < self.first && self.last == 0 {
            return Ok(());
        }
        if self.open.as_ref().is_some_and(|open| open.revision != revision) {
            self.close();
        }
        if revision <= self.last {
            return Err(format!("an event of revision {revision} arrived after revision {}", self.last));
        }
        let change = match kind {
            EventType::Put => EtcdChange::Put(entry.into()),
            EventType::Delete => EtcdChange::Delete { key: entry.key },
        };
        let open = self.open.get_or_insert_with(|| EtcdRevisionBatch { revision, changes: Vec::new() });
        open.changes.push(change);
        Ok(())
    }

    fn close(&mut self) {
        if let Some(batch) = self.open.take() {
            self.last = batch.revision;
            self.complete.push_back(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::mvccpb::KeyValue;

    fn put(key: &str, revision: i64) -> Event {
        let entry = KeyValue { key: key.into(), mod_revision: revision, ..KeyValue::default() };
        Event { r#type: EventType::Put.into(), kv: Some(entry), prev_kv: None }
    }

    fn delete(key: &str, revision: i64) -> Event {
        Event { r#type: EventType::Delete.into(), ..put(key, revision) }
    }

    fn drain(batches: &mut RevisionBatches) -> Vec<(u64, Vec<String>)> {
        let text = |change: &EtcdChange| match change {
            EtcdChange::Put(entry) => format!("+{}", String::from_utf8_lossy(&entry.key)),
            EtcdChange::Delete { key } => format!("-{}", String::from_utf8_lossy(key)),
        };
        let next = || batches.next().map(|batch| (batch.revision, batch.changes.iter().map(text).collect()));
        std::iter::from_fn(next).collect()
    }

    fn batch(revision: u64, changes: &[&str]) -> (u64, Vec<String>) {
        (revision, changes.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn response_with_several_revisions_is_divided() {
        let mut batches = RevisionBatches::starting_at(5);
        batches.push(vec![put("a", 5), delete("b", 5), put("a", 7)], false).unwrap();
        assert_eq!(drain(&mut batches), [batch(5, &["+a", "-b"]), batch(7, &["+a"])]);
    }

    #[test]
    fn revision_that_continues_in_next_fragment_is_not_returned_before() {
        let mut batches = RevisionBatches::starting_at(1);
        batches.push(vec![put("a", 1), put("b", 2)], true).unwrap();
        assert_eq!(drain(&mut batches), [batch(1, &["+a"])]);
        batches.push(vec![put("c", 2)], true).unwrap();
        assert_eq!(drain(&mut batches), []);
        batches.push(vec![put("d", 2), put("a", 3)], false).unwrap();
        assert_eq!(drain(&mut batches), [batch(2, &["+b", "+c", "+d"]), batch(3, &["+a"])]);
    }

    #[test]
    fn changes_before_the_start_are_skipped() {
        let mut batches = RevisionBatches::starting_at(5);
        batches.push(vec![put("a", 4), put("b", 4), put("a", 5)], false).unwrap();
        assert_eq!(drain(&mut batches), [batch(5, &["+a"])]);
        assert!(batches.push(vec![put("a", 4)], false).is_err(), "after the start");
    }

    #[test]
    fn revision_that_goes_back_is_an_error() {
        let mut batches = RevisionBatches::starting_at(5);
        batches.push(vec![put("a", 5), put("a", 6)], false).unwrap();
        assert!(batches.push(vec![put("b", 6)], false).is_err(), "the revision was complete");
        assert!(RevisionBatches::starting_at(5).push(vec![put("a", 7), put("a", 6)], false).is_err());
    }
}
