//! `NeverEmptyByInference`: a service of three or more instances never loses them all by inferred deaths within a time to
//! live: that of the one which goes last.

use std::collections::{BTreeMap, BTreeSet};

use callboard::pb::callboard::v1::{Event, EventKind, RemovalReason};

use super::{InstanceLifetime, ReferenceHistory, instance_lifetime::time};
use crate::harness::Wall;

/// Who is fewer than these may all go at once.
const FEWEST: usize = 3;

/// How the promise is broken.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("service {service} lost all of {instances:?} by inference within {within} ms, at {at}")]
pub struct Emptied {
    pub service: String,
    pub instances: BTreeSet<String>,
    pub within: u64,
    pub at: Wall,
}

/// Checks what happened before `until`, when an operator began to say who is dead.
pub fn check(lives: &[InstanceLifetime], truth: &ReferenceHistory, until: Wall) -> Result<(), Emptied> {
    let ends = lives.iter().filter_map(|life| life.end_event(truth).map(|(event, _)| (event.revision, life.ttl)));
    let ttl: BTreeMap<u64, u64> = ends.collect();
    check_by(|event| ttl.get(&event.revision).copied().unwrap_or_default(), truth, until)
}

/// The same, where `ttl` tells the time to live, in milliseconds, of whose end an event is.
pub fn check_by(ttl: impl Fn(&Event) -> u64, truth: &ReferenceHistory, until: Wall) -> Result<(), Emptied> {
    let mut present: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (index, event) in truth.events.iter().enumerate().filter(|(_, event)| time(event) < until) {
        let there = present.entry(&event.service).or_default();
        if event.kind() != EventKind::Removed {
            there.insert(&event.instance_id);
            continue;
        }
        there.remove(&*event.instance_id);
        if event.reason() == RemovalReason::Expired && there.is_empty() {
            judge(truth, index, ttl(event))?;
        }
    }
    Ok(())
}

/// Goes back from the event that emptied a service, through those who went for the same reason, to when it was largest.
fn judge(truth: &ReferenceHistory, emptied: usize, within: u64) -> Result<(), Emptied> {
    let last = &truth.events[emptied];
    let mut instances = BTreeSet::new();
    for event in truth.events[..=emptied].iter().rev().filter(|event| event.service == last.service) {
        if time(event) + within < time(last) {
            break;
        }
        match (event.kind(), event.reason()) {
            (EventKind::Removed, RemovalReason::Expired) => _ = instances.insert(event.instance_id.clone()),
            (EventKind::Removed, _) => break,
            (EventKind::Registered, _) => _ = instances.remove(&event.instance_id),
            _ => {}
        }
        if instances.len() >= FEWEST {
            return Err(Emptied { service: last.service.clone(), instances, within, at: time(last) });
        }
    }
    Ok(())
}

mod tests {
    use super::*;
    use crate::invariant::{Stop, instance_lifetime::made_up::life, reference_history::made_up};

    /// Three registered at revisions 1 to 3 and gone at 4 to 6, at these times; `told` said goodbye.
    fn gone(times: [Wall; 3], told: Option<usize>) -> Result<(), Emptied> {
        let ids = ["a", "b", "c"];
        let events: Vec<_> = (1..).zip(ids.iter().map(|id| (*id, true)).chain(ids.map(|id| (id, false)))).collect();
        let events: Vec<_> = events.into_iter().map(|(revision, (id, there))| (revision, id, there)).collect();
        let mut truth = made_up::truth(&events);
        for (at, event) in truth.events.iter_mut().enumerate() {
            let millis = at.checked_sub(3).map_or(1_000, |gone| times[gone]);
            event.time = Some(prost_types::Timestamp {
                seconds: (millis / 1_000).try_into().unwrap(),
                nanos: (millis % 1_000 * 1_000_000).try_into().unwrap(),
            });
        }
        if let Some(told) = told {
            truth.events[3 + told].reason = RemovalReason::Deregistered.into();
        }
        let lives = (1..).zip(ids).map(|(revision, id)| InstanceLifetime {
            id: id.to_owned(),
            revision,
            ..life(&[1_000], Stop::Silent)
        });
        check(&lives.collect::<Vec<_>>(), &truth, 90_000)
    }

    #[test]
    fn a_service_that_is_emptied_at_once_is_found() {
        let all = BTreeSet::from(["a", "b", "c"].map(str::to_owned));
        let emptied = Emptied { service: "web".to_owned(), instances: all, within: 3_000, at: 7_000 };
        assert_eq!(gone([4_000, 4_000, 7_000], None), Err(emptied));
        assert_eq!(gone([4_000, 4_000, 7_001], None), Ok(()), "in more than a time to live");
        assert_eq!(gone([4_000, 4_000, 4_000], Some(1)), Ok(()), "one said goodbye, two were left");
        assert_eq!(gone([99_000, 99_000, 99_000], None), Ok(()), "an operator had said so");
    }
}
