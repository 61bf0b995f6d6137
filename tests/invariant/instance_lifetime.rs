//! Lifetime of one registration as its holder knows it: its renewals, and how it stopped.

use callboard::pb::callboard::v1::{Event, EventKind};

use super::ReferenceHistory;
use crate::harness::{Span, Wall, key};

/// Renewal that was answered: from sending to the answer.
pub type Renewal = Span;

/// Milliseconds by which a deadline may seem early by another clock.
pub const BLUR: u64 = 5;

/// End of a registration, by its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The holder stopped its heartbeats.
    Silent,
    /// The holder or an operator deregistered it, or another boot took over.
    Deregistered,
}

/// Lifetime of one registration.
#[derive(Debug, Clone)]
pub struct InstanceLifetime {
    pub service: String,
    pub id: String,
    /// Milliseconds.
    pub ttl: u64,
    /// Milliseconds.
    pub grace: Option<u64>,
    /// Revision in the response to Register.
    pub revision: u64,
    /// Renewals; the first is Register itself.
    pub renewals: Vec<Renewal>,
    /// Time at which the holder broke the stream of its last heartbeat.
    pub broke: Option<Span>,
    pub stop: Stop,
}

impl InstanceLifetime {
    /// Earliest time at which it may be removed.
    pub fn due(&self) -> Wall {
        self.end(|span| span.from)
    }

    /// Time after which it is overdue.
    pub fn overdue(&self) -> Wall {
        self.end(|span| span.to)
    }

    /// Event that ended it, with its time.
    pub fn end_event<'a>(&'a self, history: &'a ReferenceHistory) -> Option<(&'a Event, Wall)> {
        let ends = |event: &&Event| matches!(event.kind(), EventKind::Removed | EventKind::TakenOver);
        let mut later = history.of(&self.service, &self.id).filter(|event| event.revision > self.revision);
        later.find(ends).map(|event| (event, time(event)))
    }

    pub fn name(&self) -> String {
        let (service, id) = key(&self.service, &self.id);
        format!("{service}/{id} of revision {}", self.revision)
    }

    fn end(&self, side: fn(&Span) -> Wall) -> Wall {
        let last = self.renewals.iter().map(side).max().expect("a lifetime has a renewal") + self.ttl;
        match (&self.broke, self.grace) {
            (Some(broke), Some(grace)) => last.min(side(broke) + grace),
            _ => last,
        }
    }
}

/// Milliseconds since 1970.
pub fn time(event: &Event) -> Wall {
    let time = event.time.expect("an event has a time");
    u64::try_from(time.seconds).unwrap() * 1_000 + u64::try_from(time.nanos).unwrap() / 1_000_000
}

#[cfg(test)]
pub mod made_up {
    use super::*;
    use callboard::pb::callboard::v1::RemovalReason;

    /// Lifetime from revision 1 with renewals at these times, each answered 2 ms later, and a TTL of three seconds.
    pub fn lifetime(renewals: &[Wall], stop: Stop) -> InstanceLifetime {
        let renewals = renewals.iter().map(|at| Span { from: *at, to: *at + 2 }).collect();
        let (service, id) = key("web", "a");
        InstanceLifetime { service, id, ttl: 3_000, grace: None, revision: 1, renewals, broke: None, stop }
    }

    /// History of an instance that was registered at revision 1 and removed at revision 2.
    pub fn gone(at: Wall, reason: RemovalReason) -> ReferenceHistory {
        let mut history = crate::invariant::reference_history::made_up::reference(&[(1, "a", true), (2, "a", false)]);
        history.events[1].time = Some(prost_types::Timestamp {
            seconds: (at / 1_000).try_into().unwrap(),
            nanos: (at % 1_000 * 1_000_000).try_into().unwrap(),
        });
        history.events[1].reason = reason.into();
        history
    }
}
