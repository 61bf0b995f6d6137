//! Ordered: revisions on a stream strictly rise within an incarnation.

use callboard::pb::callboard::v1::{ResetReason, change::Change, watch_response::Message};

use crate::harness::{Record, What};

/// How the promise is broken.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum NotOrdered {
    #[error("stood at {stood}, then at {then}: revisions must rise")]
    Fell { stood: u64, then: u64 },
    #[error("a change of revision {change} in the step from {stood} to {step}: it belongs to another step")]
    Misplaced { change: u64, stood: u64, step: u64 },
}

/// Checks one reader's record. A place once reached holds through reconnects; only another life of the
/// registry begins anew.
pub fn check(record: &Record) -> Result<(), NotOrdered> {
    let mut stood = 0;
    let mut step: Vec<u64> = Vec::new();
    for heard in &record.heard {
        let What::Message(message) = &heard.what else {
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
            // It marks an end, and may stand where the last step has led.
            Some(Message::Synced(synced)) if synced.revision >= stood => stood = synced.revision,
            Some(Message::Synced(synced)) => return Err(NotOrdered::Fell { stood, then: synced.revision }),
            Some(Message::Bookmark(bookmark)) => stood = risen(stood, bookmark.revision)?,
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
            Some(Message::Snapshot(_) | Message::Notice(_)) | None => {}
        }
    }
    Ok(())
}

/// The revision at which a change happened.
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
    use crate::harness::{Filter, Heard, Scope, message::*};

    fn checked(heard: Vec<Heard>) -> Result<(), NotOrdered> {
        check(&Record { heard, ..Record::new("r", Scope::Everything, Filter::NONE) })
    }

    #[test]
    fn rising_revisions_pass() {
        let all = vec![opened(), snapshot(&[("a", 3)]), synced(5), changes(&[updated("a", 6)], 7), bookmark(9)];
        let resumed = vec![resumed(), changes(&[removed("a", 10)], 10), synced(10)];
        assert_eq!(checked([all, resumed].concat()), Ok(()));
    }

    #[test]
    fn a_revision_that_falls_or_stays_is_found() {
        let stayed = checked(vec![opened(), synced(5), bookmark(5)]);
        assert_eq!(stayed, Err(NotOrdered::Fell { stood: 5, then: 5 }));
        let fell = checked(vec![opened(), synced(5), changes(&[updated("a", 4)], 4)]);
        assert_eq!(fell, Err(NotOrdered::Fell { stood: 5, then: 4 }));
        let resumed_behind = checked(vec![opened(), synced(5), resumed(), synced(4)]);
        assert_eq!(resumed_behind, Err(NotOrdered::Fell { stood: 5, then: 4 }));
        let reset_behind = checked(vec![opened(), synced(5), reset(), synced(4)]);
        assert_eq!(reset_behind, Err(NotOrdered::Fell { stood: 5, then: 4 }));
    }

    #[test]
    fn a_change_of_another_step_is_found() {
        for change in [5, 9] {
            let found = checked(vec![opened(), synced(5), changes(&[updated("a", change)], 0), changes(&[], 8)]);
            assert_eq!(found, Err(NotOrdered::Misplaced { change, stood: 5, step: 8 }));
        }
    }
}
