//! `ReadYourWrites`: after the response to a write, reads on that replica see it.

use callboard::pb::callboard::v1::EventKind;

use super::ReferenceHistory;
use crate::harness::Key;

/// Write that was answered, and a read after that.
#[derive(Debug, Clone)]
pub struct ReadBack {
    /// Method of the read.
    pub by: &'static str,
    pub instance: Key,
    /// Revision in the response to the write.
    pub wrote: u64,
    /// True if the write left the instance registered.
    pub present: bool,
    /// Revision of the instance that the read found.
    pub found: Option<u64>,
}

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Unread {
    #[error("{by} did not see {instance:?}, written at {wrote}, and nothing removed it")]
    Missing { by: &'static str, instance: Key, wrote: u64 },
    #[error("{by} saw {instance:?} as of {found}, before the write of {wrote}")]
    Stale { by: &'static str, instance: Key, wrote: u64, found: u64 },
    #[error("{by} saw {instance:?} as of {found}, though it was removed at {wrote}")]
    StillThere { by: &'static str, instance: Key, wrote: u64, found: u64 },
}

/// Checks all reads of a history.
pub fn check(reads: &[ReadBack], history: &ReferenceHistory) -> Result<(), Unread> {
    for read in reads {
        let ReadBack { by, instance, wrote, present, found } = read.clone();
        let removed_since = || {
            let mut events = history.of(&instance.0, &instance.1);
            events.any(|event| event.revision > wrote && event.kind() == EventKind::Removed)
        };
        match found {
            None if present && !removed_since() => return Err(Unread::Missing { by, instance, wrote }),
            Some(found) if present && found < wrote => return Err(Unread::Stale { by, instance, wrote, found }),
            Some(found) if !present && found <= wrote => {
                return Err(Unread::StillThere { by, instance, wrote, found });
            }
            _ => {}
        }
    }
    Ok(())
}

mod tests {
    use super::*;
    use crate::{harness::key, invariant::reference_history::made_up};

    fn checked(wrote: u64, present: bool, found: Option<u64>) -> Result<(), Unread> {
        let history = made_up::reference(&[(3, "a", true), (5, "a", true), (7, "a", false), (9, "a", true)]);
        check(&[ReadBack { by: "get", instance: key("web", "a"), wrote, present, found }], &history)
    }

    #[test]
    fn reads_of_the_write_or_a_later_one_pass() {
        assert_eq!(checked(3, true, Some(3)), Ok(()));
        assert_eq!(checked(3, true, Some(5)), Ok(()));
        assert_eq!(checked(5, true, None), Ok(()), "removed at 7");
        assert_eq!(checked(7, false, None), Ok(()));
        assert_eq!(checked(7, false, Some(9)), Ok(()));
    }

    #[test]
    fn each_violation_is_found() {
        let (by, instance) = ("get", key("web", "a"));
        let stale = Unread::Stale { by, instance: instance.clone(), wrote: 5, found: 3 };
        assert_eq!(checked(5, true, Some(3)), Err(stale));
        assert_eq!(checked(9, true, None), Err(Unread::Missing { by, instance: instance.clone(), wrote: 9 }));
        assert_eq!(checked(7, false, Some(5)), Err(Unread::StillThere { by, instance, wrote: 7, found: 5 }));
    }
}
