//! Unique: no change is delivered twice on a stream, and none again after the stream resumed.

use std::collections::HashSet;

use callboard::pb::callboard::v1::{change::Change, watch_response::Message};

use super::ordered::revision;
use crate::harness::{Key, Record, What, key};

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum NotUnique {
    #[error("{instance:?} was sent twice with its change at revision {revision}")]
    Change { instance: Key, revision: u64 },
    #[error("{0:?} is twice in one step: an instance has at most one difference")]
    Step(Key),
    #[error("{0:?} is twice in one snapshot")]
    Snapshot(Key),
}

/// Checks the record of one reader.
pub fn check(record: &Record) -> Result<(), NotUnique> {
    let (mut seen, mut step, mut snapshot) = (HashSet::new(), HashSet::new(), HashSet::new());
    // Changes of an incomplete step are sent again when the stream resumes: a reader does not apply them.
    let mut unfinished = Vec::new();
    for observation in &record.observations {
        let What::Message(message) = &observation.what else {
            step.clear();
            snapshot.clear();
            unfinished.clear();
            continue;
        };
        match message.message.as_ref() {
            Some(Message::Reset(_)) => {
                seen.clear();
                step.clear();
                snapshot.clear();
                unfinished.clear();
            }
            Some(Message::Snapshot(part)) => {
                for instance in &part.instances {
                    let instance = key(&instance.service, &instance.id);
                    if !snapshot.insert(instance.clone()) {
                        return Err(NotUnique::Snapshot(instance));
                    }
                }
            }
            Some(Message::Changes(changes)) => {
                for change in changes.changes.iter().filter_map(|change| change.change.as_ref()) {
                    if !step.insert(subject(change)) {
                        return Err(NotUnique::Step(subject(change)));
                    }
                    unfinished.push((subject(change), revision(change)));
                }
                if changes.revision != 0 {
                    step.clear();
                    for (instance, revision) in unfinished.drain(..) {
                        if !seen.insert((instance.clone(), revision)) {
                            return Err(NotUnique::Change { instance, revision });
                        }
                    }
                }
            }
            Some(Message::Synced(_) | Message::Bookmark(_) | Message::Notice(_) | Message::Balancing(_)) | None => {}
        }
    }
    Ok(())
}

fn subject(change: &Change) -> Key {
    match change {
        Change::Updated(instance) => key(&instance.service, &instance.id),
        Change::Removed(gone) => key(&gone.service, &gone.id),
    }
}

mod tests {
    use super::*;
    use crate::harness::{Filter, Observation, Scope, message::*};

    fn checked(observations: Vec<Observation>) -> Result<(), NotUnique> {
        check(&Record { observations, ..Record::new("r", Scope::Everything, Filter::NONE) })
    }

    #[test]
    fn each_change_once_passes() {
        let all = [opened(), synced(5), changes(&[updated("a", 6)], 6), changes(&[updated("a", 7)], 7)];
        assert_eq!(checked(all.to_vec()), Ok(()));
        let cut_short = [opened(), changes(&[updated("a", 6)], 0), resumed(), changes(&[updated("a", 6)], 6)];
        assert_eq!(checked(cut_short.to_vec()), Ok(()));
    }

    #[test]
    fn change_that_is_sent_twice_is_found() {
        let found = Err(NotUnique::Change { instance: key("web", "a"), revision: 6 });
        assert_eq!(checked(vec![opened(), changes(&[updated("a", 6)], 6), changes(&[updated("a", 6)], 7)]), found);
        let again = vec![opened(), changes(&[updated("a", 6)], 6), resumed(), changes(&[updated("a", 6)], 8)];
        assert_eq!(checked(again), found);
    }

    #[test]
    fn instance_twice_in_a_step_or_a_snapshot_is_found() {
        let step = vec![opened(), changes(&[updated("a", 6)], 0), changes(&[removed("a", 7)], 7)];
        assert_eq!(checked(step), Err(NotUnique::Step(key("web", "a"))));
        let parts = vec![opened(), snapshot(&[("a", 3)]), snapshot(&[("b", 3), ("a", 3)])];
        assert_eq!(checked(parts), Err(NotUnique::Snapshot(key("web", "a"))));
    }
}
