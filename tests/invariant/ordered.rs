//! Ordered: revisions on a stream strictly rise within an incarnation.

use callboard::pb::callboard::v1::{self as pb, ResetReason, change::Change, watch_response::Message};

use crate::harness::{Record, What};

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum NotOrdered {
    #[error("revision {then} after {stood}: revisions must rise")]
    Fell { stood: u64, then: u64 },
    #[error("a change of revision {change} in the step from {stood} to {step}: it belongs to another step")]
    Misplaced { change: u64, stood: u64, step: u64 },
}

/// Checks the record of one reader. Its revision holds through reconnects; only another incarnation of the registry starts
/// again.
pub fn check(record: &Record) -> Result<(), NotOrdered> {
    let mut stood = 0;
    let mut step: Vec<u64> = Vec::new();
    for observation in &record.observations {
        let What::Message(message) = &observation.what else {
            step.clear();
            continue;
        };
        match message.message.as_ref() {
            Some(Message::Reset(reset)) => {
                step.clear();
                if reset.reason() == ResetReason::OtherIncarnation {
                    stood = 0;
                }
            }
            // Both may have the revision of the last step: a bookmark also tells that the registry has lost contact with its store.
            Some(Message::Synced(pb::Synced { revision, .. }) | Message::Bookmark(pb::Bookmark { revision, .. })) => {
                if *revision < stood {
                    return Err(NotOrdered::Fell { stood, then: *revision });
                }
                stood = *revision;
            }
            Some(Message::Changes(changes)) => {
                step.extend(changes.changes.iter().filter_map(|change| change.change.as_ref()).map(revision));
                if changes.revision != 0 {
                    let then = risen(stood, changes.revision)?;
                    for change in step.drain(..) {
                        if change <= stood || change > then {
                            return Err(NotOrdered::Misplaced { change, stood, step: then });
                        }
                    }
                    stood = then;
                }
            }
            Some(Message::Snapshot(_) | Message::Notice(_) | Message::Balancing(_)) | None => {}
        }
    }
    Ok(())
}

/// Revision of a change.
pub fn revision(change: &Change) -> u64 {
    match change {
        Change::Updated(instance) => instance.revision,
        Change::Removed(gone) => gone.revision,
    }
}

fn risen(stood: u64, then: u64) -> Result<u64, NotOrdered> {
    if then > stood { Ok(then) } else { Err(NotOrdered::Fell { stood, then }) }
}

mod tests {
    use super::*;
    use crate::harness::{Filter, Observation, Scope, message::*};

    fn checked(observations: Vec<Observation>) -> Result<(), NotOrdered> {
        check(&Record { observations, ..Record::new("r", Scope::Everything, Filter::NONE) })
    }

    #[test]
    fn rising_revisions_pass() {
        let all = vec![opened(), snapshot(&[("a", 3)]), synced(5), changes(&[updated("a", 6)], 7), bookmark(9)];
        let resumed = vec![resumed(), changes(&[removed("a", 10)], 10), synced(10)];
        assert_eq!(checked([all, resumed].concat()), Ok(()));
    }

    #[test]
    fn revision_that_does_not_rise_is_found() {
        let stayed = checked(vec![opened(), synced(5), changes(&[], 5)]);
        assert_eq!(stayed, Err(NotOrdered::Fell { stood: 5, then: 5 }));
        let bookmarked_behind = checked(vec![opened(), synced(5), bookmark(4)]);
        assert_eq!(bookmarked_behind, Err(NotOrdered::Fell { stood: 5, then: 4 }));
        let fell = checked(vec![opened(), synced(5), changes(&[updated("a", 4)], 4)]);
        assert_eq!(fell, Err(NotOrdered::Fell { stood: 5, then: 4 }));
        let resumed_behind = checked(vec![opened(), synced(5), resumed(), synced(4)]);
        assert_eq!(resumed_behind, Err(NotOrdered::Fell { stood: 5, then: 4 }));
        let reset_behind = checked(vec![opened(), synced(5), reset(), synced(4)]);
        assert_eq!(reset_behind, Err(NotOrdered::Fell { stood: 5, then: 4 }));
    }

    #[test]
    fn change_outside_its_step_is_found() {
        for change in [5, 9] {
            let found = checked(vec![opened(), synced(5), changes(&[updated("a", change)], 0), changes(&[], 8)]);
            assert_eq!(found, Err(NotOrdered::Misplaced { change, stood: 5, step: 8 }));
        }
    }
}
