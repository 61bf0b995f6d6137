//! One registration's life, from its holder's side: when it gave signs, and how it stopped.

use callboard::pb::callboard::v1::{Event, EventKind};

use super::ReferenceHistory;
use crate::harness::{Span, Wall, key};

/// A sign of life that was answered: sent at the earliest, answered at the latest.
pub type Sign = Span;

/// Milliseconds by which a deadline in whole milliseconds may seem early, seen through another clock.
pub const BLUR: u64 = 5;

/// How a holder stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Without a word.
    Silent,
    /// It, or an operator, said goodbye, or another boot replaced it.
    Told,
}

/// What its holder knows of one registration.
#[derive(Debug, Clone)]
pub struct InstanceLifetime {
    pub service: String,
    pub id: String,
    /// Milliseconds.
    pub ttl: u64,
    /// Milliseconds.
    pub grace: Option<u64>,
    /// The revision that Register was answered with.
    pub revision: u64,
    /// At least one: Register itself.
    pub signs: Vec<Sign>,
    /// When its holder broke the stream that carried its last heartbeat.
    pub broke: Option<Span>,
    pub stop: Stop,
}

impl InstanceLifetime {
    /// The earliest time at which it may be believed dead.
    pub fn due(&self) -> Wall {
        self.end(|span| span.from)
    }

    /// The time at which it must be believed dead, apart from what the promise allows.
    pub fn overdue(&self) -> Wall {
        self.end(|span| span.to)
    }

    /// The event that ended it, with its time.
    pub fn end_event<'a>(&'a self, truth: &'a ReferenceHistory) -> Option<(&'a Event, Wall)> {
        let ends = |event: &&Event| matches!(event.kind(), EventKind::Removed | EventKind::TakenOver);
        let mut later = truth.of(&self.service, &self.id).filter(|event| event.revision > self.revision);
        later.find(ends).map(|event| (event, time(event)))
    }

    pub fn name(&self) -> String {
        let (service, id) = key(&self.service, &self.id);
        format!("{service}/{id} of revision {}", self.revision)
    }

    fn end(&self, side: fn(&Span) -> Wall) -> Wall {
        let last = self.signs.iter().map(side).max().expect("a life has a sign") + self.ttl;
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

    /// Born at revision 1, with signs at these times, each answered 2 ms later; three seconds to live.
    pub fn life(signs: &[Wall], stop: Stop) -> InstanceLifetime {
        let signs = signs.iter().map(|at| Span { from: *at, to: *at + 2 }).collect();
        let (service, id) = key("web", "a");
        InstanceLifetime { service, id, ttl: 3_000, grace: None, revision: 1, signs, broke: None, stop }
    }

    /// Born at revision 1; gone at revision 2, for this reason, at this time.
    pub fn gone(at: Wall, reason: RemovalReason) -> ReferenceHistory {
        let mut truth = crate::invariant::reference_history::made_up::truth(&[(1, "a", true), (2, "a", false)]);
        truth.events[1].time = Some(prost_types::Timestamp {
            seconds: (at / 1_000).try_into().unwrap(),
            nanos: (at % 1_000 * 1_000_000).try_into().unwrap(),
        });
        truth.events[1].reason = reason.into();
        truth
    }
}
