//! Gapless: a snapshot and the changes after it always are the state of the registry at that revision.

use std::collections::BTreeMap;

use super::{
    ReferenceHistory,
    fail_static::{self, ClientOutput, Served},
    reference_history::Replay,
};
use crate::harness::{Filter, Key, Record, Scope, View, What};

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Gap {
    #[error("at revision {at} {instance:?} was registered since {since}, and the reader does not have it")]
    Missing { at: u64, instance: Key, since: u64 },
    #[error("at revision {at} the reader has {instance:?}, which was not registered")]
    Ghost { at: u64, instance: Key },
    #[error("at revision {at} the reader has {instance:?} as of {has}, but it changed at {since}")]
    Stale { at: u64, instance: Key, has: u64, since: u64 },
}

/// Checks the record of one reader: at each of its revisions, it has the registered instances.
pub fn check(record: &Record, history: &ReferenceHistory) -> Result<(), Gap> {
    let mut view = View::default();
    let mut replay = history.replay(record.scope.clone());
    for observation in &record.observations {
        match &observation.what {
            What::Opened { .. } => view.open(),
            What::Message(message) if view.receive(message) => {
                let has = view.set.iter().map(|(key, instance)| (key, instance.revision)).collect();
                compare(record, history, &mut replay, view.revision, has)?;
            }
            What::Message(_) | What::Ended(_) => {}
        }
    }
    Ok(())
}

/// Checks the messages of the Rust client to its program, for a scope.
pub fn check_client(outputs: &[ClientOutput], history: &ReferenceHistory, scope: Scope) -> Result<(), Gap> {
    let record = Record::new("the client", scope, Filter::NONE);
    let (mut served, mut replay) = (Served::default(), history.replay(record.scope.clone()));
    for output in outputs {
        let ClientOutput::Event(event) = output else { continue };
        served.apply(event).expect("FailStatic is another check");
        if let Some(at) = fail_static::revision_after(event) {
            let has = served.set.iter().map(|(key, revision)| (key, *revision)).collect();
            compare(&record, history, &mut replay, at, has)?;
        }
    }
    Ok(())
}

fn compare(
    record: &Record,
    history: &ReferenceHistory,
    replay: &mut Replay<'_>,
    at: u64,
    has: BTreeMap<&Key, u64>,
) -> Result<(), Gap> {
    let there = replay.at(at);
    for (instance, since) in there {
        // The filter needs an instance that some reader saw. There is none if it was removed at once.
        let content = history.content(*since);
        let Some(wanted) = content.map_or(is_unfiltered(record), |content| Some((record.filter.matches)(content)))
        else {
            continue;
        };
        let (instance, since) = (instance.clone(), *since);
        match has.get(&instance) {
            None if wanted => return Err(Gap::Missing { at, instance, since }),
            Some(_) if !wanted => return Err(Gap::Ghost { at, instance }),
            Some(has) if *has != since => return Err(Gap::Stale { at, instance, has: *has, since }),
            _ => {}
        }
    }
    match has.into_keys().find(|instance| !there.contains_key(*instance)) {
        Some(ghost) => Err(Gap::Ghost { at, instance: ghost.clone() }),
        None => Ok(()),
    }
}

fn is_unfiltered(record: &Record) -> Option<bool> {
    record.filter.text.is_empty().then_some(true)
}

mod tests {
    use callboard::client::WatchEvent;

    use super::*;
    use crate::harness::{Observation, key, message::*};
    use crate::invariant::reference_history::made_up;

    const HEAVY: Filter = Filter { text: "weight == 9", matches: |instance| instance.weight == 9 };

    fn checked(filter: Filter, observations: Vec<Observation>) -> Result<(), Gap> {
        let record = Record { observations, ..Record::new("r", Scope::Everything, filter) };
        let made_up = made_up::reference(&[(3, "a", true), (5, "b", true), (6, "a", true), (8, "b", false)]);
        let seen = [instance("a", 3), instance("b", 5), instance("a", 6)];
        check(&record, &ReferenceHistory::gather(made_up.events, [], seen).unwrap())
    }

    fn all(observations: Vec<Observation>) -> Result<(), Gap> {
        checked(Filter::NONE, observations)
    }

    #[test]
    fn complete_reader_passes() {
        let first = vec![opened(), snapshot(&[("a", 3)]), synced(4), changes(&[updated("b", 5)], 5)];
        let second = vec![resumed(), changes(&[updated("a", 6)], 0), changes(&[removed("b", 8)], 8), synced(8)];
        assert_eq!(all([first, second, vec![bookmark(9)]].concat()), Ok(()));
        assert_eq!(checked(HEAVY, vec![opened(), synced(7), bookmark(9)]), Ok(()), "none of them is heavy");
    }

    #[test]
    fn missing_or_stale_instance_is_found() {
        let missed = Gap::Missing { at: 5, instance: key("web", "b"), since: 5 };
        assert_eq!(all(vec![opened(), snapshot(&[("a", 3)]), synced(5)]), Err(missed));
        let silence = vec![opened(), snapshot(&[("a", 3), ("b", 5)]), synced(5), bookmark(7)];
        let stale = Gap::Stale { at: 7, instance: key("web", "a"), has: 3, since: 6 };
        assert_eq!(all(silence), Err(stale));
    }

    #[test]
    fn instance_that_was_not_registered_is_found() {
        let ghost = Gap::Ghost { at: 9, instance: key("web", "b") };
        assert_eq!(all(vec![opened(), snapshot(&[("a", 6), ("b", 5)]), synced(9)]), Err(ghost));
        let unwanted = Gap::Ghost { at: 4, instance: key("web", "a") };
        assert_eq!(checked(HEAVY, vec![opened(), snapshot(&[("a", 3)]), synced(4)]), Err(unwanted));
    }

    #[test]
    fn instance_that_a_client_withheld_is_found() {
        let history = made_up::reference(&[(3, "a", true), (5, "b", true)]);
        let result = |at| {
            let events = [WatchEvent::Snapshot(vec![instance("a", 3)]), WatchEvent::Synced { revision: at }];
            check_client(&events.map(ClientOutput::Event), &history, Scope::Everything)
        };
        assert_eq!(result(4), Ok(()));
        assert_eq!(result(5), Err(Gap::Missing { at: 5, instance: key("web", "b"), since: 5 }));
    }
}
