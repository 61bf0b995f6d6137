//! Kept: acknowledged writes survive a kill of the registry; other writes survive as a whole, or not at all. Part of
//! `ReadYourWrites` and `LiveStays` for the disk engine.

use callboard::pb::callboard::v1::Instance;

use crate::harness::{Key, Wall};

/// Write to an instance. Its writer sends the next one after the response to this one.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub write: Write,
    /// Time and revision of the acknowledgement. `None`: the registry was killed before it answered.
    pub acknowledged: Option<(Wall, u64)>,
}

/// State of an instance after a write.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Registered, with this first tag.
    Put(String),
    Remove,
}

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum NotKept {
    #[error("{instance:?}: {write:?} was acknowledged at revision {revision} and is lost; found is {found:?}")]
    Lost { instance: Key, write: Write, revision: u64, found: Write },
    #[error("{instance:?}: found is {found:?}, which was not written after the last known state")]
    OutOfThinAir { instance: Key, found: Write },
    #[error("{instance:?}: {write:?} was acknowledged at revision {acknowledged}, and is there as of {found}")]
    Renumbered { instance: Key, write: Write, acknowledged: u64, found: u64 },
    #[error("the write of revision {lost} is lost, and that of {kept} is not: what is lost is not what came last")]
    NotTheLast { lost: u64, kept: u64 },
}

/// Returns the index of the last write that took effect, by the state after a restart. The first of `asked` is the state before.
/// Writes that were acknowledged after `sure` may be lost.
pub fn check(instance: &Key, asked: &[Asked], found: Option<&Instance>, sure: Wall) -> Result<usize, NotKept> {
    let left = found.map_or(Write::Remove, |found| Write::Put(found.tags.first().cloned().unwrap_or_default()));
    let is_sure = |asked: &Asked| asked.acknowledged.is_some_and(|(at, _)| at <= sure);
    let must = asked.iter().rposition(is_sure).unwrap_or(0);
    let instance = || instance.clone();
    let Some(last) = asked.iter().rposition(|asked| asked.write == left).filter(|last| *last >= must) else {
        return Err(match &asked[must] {
            Asked { write, acknowledged: Some((_, revision)) } => {
                NotKept::Lost { instance: instance(), write: write.clone(), revision: *revision, found: left }
            }
            Asked { acknowledged: None, .. } => NotKept::OutOfThinAir { instance: instance(), found: left },
        });
    };
    match (asked[last].acknowledged, found) {
        (Some((_, acknowledged)), Some(found)) if found.revision != acknowledged => {
            Err(NotKept::Renumbered { instance: instance(), write: left, acknowledged, found: found.revision })
        }
        _ => Ok(last),
    }
}

/// Checks that the lost revisions are the last ones.
pub fn check_order(lost: &[u64], kept: &[u64]) -> Result<(), NotKept> {
    match (lost.iter().min(), kept.iter().max()) {
        (Some(&lost), Some(&kept)) if lost < kept => Err(NotKept::NotTheLast { lost, kept }),
        _ => Ok(()),
    }
}

mod tests {
    use super::*;
    use crate::harness::key;

    fn put(mark: &str, acknowledged: Option<(Wall, u64)>) -> Asked {
        Asked { write: Write::Put(mark.to_owned()), acknowledged }
    }

    fn gone(acknowledged: Option<(Wall, u64)>) -> Asked {
        Asked { write: Write::Remove, acknowledged }
    }

    fn found(mark: &str, revision: u64) -> Instance {
        Instance { tags: vec![mark.to_owned()], revision, ..Instance::default() }
    }

    fn checked(asked: &[Asked], found: Option<&Instance>) -> Result<usize, NotKept> {
        check(&key("web", "a"), asked, found, 100)
    }

    #[test]
    fn acknowledged_and_unanswered_writes_pass() {
        let asked = [gone(Some((1, 0))), put("one", Some((2, 5))), put("two", None)];
        assert_eq!(checked(&asked, Some(&found("one", 5))), Ok(1));
        assert_eq!(checked(&asked, Some(&found("two", 6))), Ok(2), "done, and never answered");
        let left = [put("one", Some((2, 5))), gone(None)];
        assert_eq!(checked(&left, None), Ok(1));
        let late = [put("one", Some((2, 5))), put("two", Some((101, 6)))];
        assert_eq!(checked(&late, Some(&found("one", 5))), Ok(0), "too late to be sure");
        assert_eq!(check_order(&[7, 8], &[5, 6]), Ok(()));
    }

    #[test]
    fn each_violation_is_found() {
        let instance = key("web", "a");
        let asked = [gone(Some((1, 0))), put("one", Some((2, 5))), put("two", Some((3, 6)))];
        let lost =
            |found| NotKept::Lost { instance: instance.clone(), write: asked[2].write.clone(), revision: 6, found };
        assert_eq!(checked(&asked, None), Err(lost(Write::Remove)));
        assert_eq!(checked(&asked, Some(&found("one", 5))), Err(lost(Write::Put("one".to_owned()))));
        let never = [put("zero", None), put("one", None)];
        let ghost = NotKept::OutOfThinAir { instance: instance.clone(), found: Write::Put("ghost".to_owned()) };
        assert_eq!(checked(&never, Some(&found("ghost", 9))), Err(ghost));
        let write = asked[2].write.clone();
        let renumbered = NotKept::Renumbered { instance: instance.clone(), write, acknowledged: 6, found: 7 };
        assert_eq!(checked(&asked, Some(&found("two", 7))), Err(renumbered));
        assert_eq!(check_order(&[5], &[6]), Err(NotKept::NotTheLast { lost: 5, kept: 6 }));
    }
}
