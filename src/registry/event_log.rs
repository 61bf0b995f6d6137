//! Recent events of one service, or of all, in order and bounded.

use std::{collections::VecDeque, sync::Arc};

use super::event::Event;
use crate::model::Revision;

/// Maximum number of events that a reader looks at while it holds a lock that writers need.
pub const MAX_EVENTS_PER_READ: usize = 4_096;

/// Events in the order of their revisions. The oldest are dropped.
#[derive(Debug)]
pub struct EventLog {
    /// Events with their sizes. Sizes are kept here because a dropped event is cold in the cache by then.
    events: VecDeque<(usize, Arc<Event>)>,
    /// Sum of the sizes, in bytes.
    size: usize,
    /// Every event after this revision is here. Events up to it may have been dropped.
    compacted_revision: Revision,
}

impl EventLog {
    /// Creates an empty log that covers everything after a revision.
    #[must_use]
    pub fn new(compacted_revision: Revision) -> Self {
        Self { events: VecDeque::new(), size: 0, compacted_revision }
    }

    /// Appends an event that is not older than the last, and drops the oldest beyond `max_events` or `max_bytes`.
    pub fn push(&mut self, event: Arc<Event>, max_events: usize, max_bytes: usize) {
        let size = event.size();
        self.size += size;
        self.events.push_back((size, event));
        while self.events.len() > max_events || self.size > max_bytes {
            let Some((size, oldest)) = self.events.pop_front() else { break };
            self.size -= size;
            self.compacted_revision = oldest.revision;
        }
    }

    /// Returns whether no event after `cursor` has been dropped.
    #[must_use]
    pub fn covers(&self, cursor: Revision) -> bool {
        cursor >= self.compacted_revision
    }

    /// Oldest event.
    #[must_use]
    pub fn oldest(&self) -> Option<&Arc<Event>> {
        self.events.front().map(|(_, event)| event)
    }

    /// Returns up to `limit` wanted events up to `until`, the newest first, among at most [`MAX_EVENTS_PER_READ`] events. The
    /// second value is the revision from which to continue, if there are more.
    #[must_use]
    pub fn newest(
        &self,
        until: Revision,
        limit: usize,
        is_wanted: impl Fn(&Event) -> bool,
    ) -> (Vec<Arc<Event>>, Option<Revision>) {
        let (mut found, mut last) = (Vec::new(), until);
        for (looked_at, event) in self.between(Revision(0), until).rev().enumerate() {
            // Events of one revision stay together.
            if event.revision < last && (looked_at >= MAX_EVENTS_PER_READ || found.len() >= limit) {
                return (found, Some(event.revision));
            }
            last = event.revision;
            if is_wanted(event) && found.len() < limit {
                found.push(Arc::clone(event));
            }
        }
        (found, None)
    }

    /// Iterates over the events after `cursor` up to and including `until`, the oldest first.
    pub fn between(&self, cursor: Revision, until: Revision) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        let from = self.events.partition_point(|(_, event)| event.revision <= cursor);
        let to = self.events.partition_point(|(_, event)| event.revision <= until);
        self.events.range(from..to.max(from)).map(|(_, event)| event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::ServerActor,
        registry::{
            attachment::Attachment,
            event::{Change, ClockReading},
            test_support::entry,
        },
    };

    fn event(revision: u64) -> Arc<Event> {
        let (revision, change) = (Revision(revision), Change::Added(entry("web", "a", 1)));
        Arc::new(Event {
            revision,
            at: ClockReading::default(),
            change,
            caller: Arc::clone(ServerActor::InProcess.caller()),
            attachment: Attachment::new(),
        })
    }

    fn between(log: &EventLog, cursor: u64, until: u64) -> Vec<u64> {
        log.between(Revision(cursor), Revision(until)).map(|event| event.revision.0).collect()
    }

    #[test]
    fn log_gives_events_after_the_cursor() {
        let mut log = EventLog::new(Revision(4));
        for revision in [5, 7, 7, 9] {
            log.push(event(revision), 10, usize::MAX);
        }
        assert_eq!(between(&log, 4, 99), [5, 7, 7, 9]);
        assert_eq!(between(&log, 5, 8), [7, 7]);
        assert_eq!(between(&log, 9, 9), [0; 0]);
        assert_eq!(between(&log, 9, 3), [0; 0]);
        assert!(log.covers(Revision(4)));
        assert!(!log.covers(Revision(3)));
    }

    #[test]
    fn log_of_large_events_holds_fewer() {
        let mut log = EventLog::new(Revision(0));
        let size = event(1).size();
        for revision in 1..=10 {
            log.push(event(revision), 100, 4 * size);
        }
        assert_eq!(between(&log, 6, 10), [7, 8, 9, 10]);
        assert!(log.covers(Revision(6)) && !log.covers(Revision(5)));
        log.push(event(11), 100, size - 1);
        assert!(!log.covers(Revision(10)), "an event that is too large by itself is not kept");
    }

    #[test]
    fn log_does_not_cover_dropped_events() {
        let mut log = EventLog::new(Revision(0));
        for revision in 1..=10 {
            log.push(event(revision), 3, usize::MAX);
        }
        assert!(log.covers(Revision(7)));
        assert!(!log.covers(Revision(6)));
        assert_eq!(between(&log, 7, 10), [8, 9, 10]);
    }
}
