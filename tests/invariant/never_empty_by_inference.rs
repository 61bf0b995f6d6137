//! `NeverEmptyByInference`: a service of three or more instances never loses them all by expiry within the TTL of the last one.

use std::collections::{BTreeMap, BTreeSet};

use callboard::pb::callboard::v1::{Event, EventKind, RemovalReason};

use super::{InstanceLifetime, ReferenceHistory, instance_lifetime::time};
use crate::harness::Wall;

/// Services with fewer instances may lose them all at once.
const MIN_INSTANCES: usize = 3;

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("service {service} lost all of {instances:?} by expiry within {within} ms, at {at}")]
pub struct Emptied {
    pub service: String,
    pub instances: BTreeSet<String>,
    pub within: u64,
    pub at: Wall,
}

/// Checks events before `until`, when an operator began to reset self-preservation.
pub fn check(lifetimes: &[InstanceLifetime], history: &ReferenceHistory, until: Wall) -> Result<(), Emptied> {
    let ends = lifetimes
        .iter()
        .filter_map(|lifetime| lifetime.end_event(history).map(|(event, _)| (event.revision, lifetime.ttl)));
    let ttl: BTreeMap<u64, u64> = ends.collect();
    check_by(|event| ttl.get(&event.revision).copied().unwrap_or_default(), history, until)
}

/// Checks like [`check`]; `ttl` returns the TTL of the instance that an event removed, in milliseconds.
pub fn check_by(ttl: impl Fn(&Event) -> u64, history: &ReferenceHistory, until: Wall) -> Result<(), Emptied> {
    let mut present: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (index, event) in history.events.iter().enumerate().filter(|(_, event)| time(event) < until) {
        let there = present.entry(&event.service).or_default();
        if event.kind() != EventKind::Removed {
            there.insert(&event.instance_id);
            continue;
        }
        there.remove(&*event.instance_id);
        if event.reason() == RemovalReason::Expired && there.is_empty() {
            check_emptied(history, index, ttl(event))?;
        }
    }
    Ok(())
}

/// Goes back from the event that emptied a service through its other expirations.
fn check_emptied(history: &ReferenceHistory, emptied: usize, within: u64) -> Result<(), Emptied> {
    let last = &history.events[emptied];
    let mut instances = BTreeSet::new();
    for event in history.events[..=emptied].iter().rev().filter(|event| event.service == last.service) {
        if time(event) + within < time(last) {
            break;
        }
        match (event.kind(), event.reason()) {
            (EventKind::Removed, RemovalReason::Expired) => _ = instances.insert(event.instance_id.clone()),
            (EventKind::Removed, _) => break,
            (EventKind::Registered, _) => _ = instances.remove(&event.instance_id),
            _ => {}
        }
        if instances.len() >= MIN_INSTANCES {
            return Err(Emptied { service: last.service.clone(), instances, within, at: time(last) });
        }
    }
    Ok(())
}

mod tests {
    use super::*;
    use crate::invariant::{Stop, instance_lifetime::made_up::lifetime, reference_history::made_up};

    /// Checks three instances that were registered at revisions 1 to 3 and expired at 4 to 6, at these times. `deregistered` was
    /// deregistered instead.
    fn gone(times: [Wall; 3], deregistered: Option<usize>) -> Result<(), Emptied> {
        let ids = ["a", "b", "c"];
        let events: Vec<_> = (1..).zip(ids.iter().map(|id| (*id, true)).chain(ids.map(|id| (id, false)))).collect();
        let events: Vec<_> = events.into_iter().map(|(revision, (id, there))| (revision, id, there)).collect();
        let mut history = made_up::reference(&events);
        for (at, event) in history.events.iter_mut().enumerate() {
            let millis = at.checked_sub(3).map_or(1_000, |gone| times[gone]);
            event.time = Some(prost_types::Timestamp {
                seconds: (millis / 1_000).try_into().unwrap(),
                nanos: (millis % 1_000 * 1_000_000).try_into().unwrap(),
            });
        }
        if let Some(deregistered) = deregistered {
            history.events[3 + deregistered].reason = RemovalReason::Deregistered.into();
        }
        let lifetimes = (1..).zip(ids).map(|(revision, id)| InstanceLifetime {
            id: id.to_owned(),
            revision,
            ..lifetime(&[1_000], Stop::Silent)
        });
        check(&lifetimes.collect::<Vec<_>>(), &history, 90_000)
    }

    #[test]
    fn service_that_is_emptied_within_a_ttl_is_found() {
        let all = BTreeSet::from(["a", "b", "c"].map(str::to_owned));
        let emptied = Emptied { service: "web".to_owned(), instances: all, within: 3_000, at: 7_000 };
        assert_eq!(gone([4_000, 4_000, 7_000], None), Err(emptied));
        assert_eq!(gone([4_000, 4_000, 7_001], None), Ok(()), "in more than a TTL");
        assert_eq!(gone([4_000, 4_000, 4_000], Some(1)), Ok(()), "one was deregistered, two were left");
        assert_eq!(gone([99_000, 99_000, 99_000], None), Ok(()), "after an operator reset it");
    }
}
