//! The recent events of a service, or of all, in order and bounded.

use std::{collections::VecDeque, sync::Arc};

use super::event::Event;
use crate::model::Revision;

/// Most events that a reader looks at while it holds a lock that writers want.
pub const GLANCE: usize = 4_096;

/// Events in the order of their revisions; the oldest fall out.
#[derive(Debug)]
pub struct EventLog {
    /// With their sizes: what falls out has not been touched for long, and need not be looked through.
    events: VecDeque<(usize, Arc<Event>)>,
    /// What they hold in all, in bytes.
    size: usize,
    /// Every event after this is here. Events up to it may have fallen out.
    compacted_revision: Revision,
}

impl EventLog {
    /// An empty ring that knows all that happens after `floor`.
    #[must_use]
    pub fn new(floor: Revision) -> Self {
        Self { events: VecDeque::new(), size: 0, compacted_revision: floor }
    }

    /// Appends an event, not older than the last, and lets the oldest fall out beyond `most` events or `bytes`.
    pub fn push(&mut self, event: Arc<Event>, most: usize, bytes: usize) {
        let size = event.size();
        self.size += size;
        self.events.push_back((size, event));
        while self.events.len() > most || self.size > bytes {
            let Some((size, oldest)) = self.events.pop_front() else { break };
            self.size -= size;
            self.compacted_revision = oldest.revision;
        }
    }

    /// Whether nothing after `cursor` has fallen out.
    #[must_use]
    pub fn covers(&self, cursor: Revision) -> bool {
        cursor >= self.compacted_revision
    }

    /// The oldest event that is remembered.
    #[must_use]
    pub fn oldest(&self) -> Option<&Arc<Event>> {
        self.events.front().map(|(_, event)| event)
    }

    /// Up to `limit` wanted events up to `until`, the newest first, as far as one glance goes; and where to look on, if there is
    /// more.
    #[must_use]
    pub fn newest(
        &self,
        until: Revision,
        limit: usize,
        wanted: impl Fn(&Event) -> bool,
    ) -> (Vec<Arc<Event>>, Option<Revision>) {
        let (mut found, mut last) = (Vec::new(), until);
        for (seen, event) in self.between(Revision(0), until).rev().enumerate() {
            // What belongs to one revision stays together.
            if event.revision < last && (seen >= GLANCE || found.len() >= limit) {
                return (found, Some(event.revision));
            }
            last = event.revision;
            if wanted(event) && found.len() < limit {
                found.push(Arc::clone(event));
            }
        }
        (found, None)
    }

    /// The events after `cursor` up to and including `until`, the oldest first.
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

    fn between(ring: &EventLog, cursor: u64, until: u64) -> Vec<u64> {
        ring.between(Revision(cursor), Revision(until)).map(|event| event.revision.0).collect()
    }

    #[test]
    fn gives_what_is_after_the_cursor() {
        let mut ring = EventLog::new(Revision(4));
        for revision in [5, 7, 7, 9] {
            ring.push(event(revision), 10, usize::MAX);
        }
        assert_eq!(between(&ring, 4, 99), [5, 7, 7, 9]);
        assert_eq!(between(&ring, 5, 8), [7, 7]);
        assert_eq!(between(&ring, 9, 9), [0; 0]);
        assert_eq!(between(&ring, 9, 3), [0; 0]);
        assert!(ring.covers(Revision(4)));
        assert!(!ring.covers(Revision(3)));
    }

    #[test]
    fn large_events_push_out_more() {
        let mut ring = EventLog::new(Revision(0));
        let size = event(1).size();
        for revision in 1..=10 {
            ring.push(event(revision), 100, 4 * size);
        }
        assert_eq!(between(&ring, 6, 10), [7, 8, 9, 10]);
        assert!(ring.covers(Revision(6)) && !ring.covers(Revision(5)));
        ring.push(event(11), 100, size - 1);
        assert!(!ring.covers(Revision(10)), "one that is too large by itself is not kept");
    }

    #[test]
    fn knows_what_fell_out() {
        let mut ring = EventLog::new(Revision(0));
        for revision in 1..=10 {
            ring.push(event(revision), 3, usize::MAX);
        }
        assert!(ring.covers(Revision(7)));
        assert!(!ring.covers(Revision(6)));
        assert_eq!(between(&ring, 7, 10), [8, 9, 10]);
    }
}
