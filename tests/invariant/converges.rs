//! Converges: once changes stop, all readers of all protocols have the same set.

use std::collections::BTreeSet;

use crate::harness::Key;

/// Set that one reader shows, of a part of the registry or of all.
#[derive(Debug, Clone)]
pub struct Shown {
    pub origin: String,
    pub set: BTreeSet<Key>,
    /// Set that it should show.
    pub should: BTreeSet<Key>,
}

/// Violation of the invariant.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Divergence {
    #[error("{origin} does not show {instance:?}, which others do")]
    Lacks { origin: String, instance: Key },
    #[error("{origin} shows {instance:?}, which others do not")]
    Has { origin: String, instance: Key },
}

/// Checks the sets that are shown once nothing changes any more.
pub fn check(shown: &[Shown]) -> Result<(), Divergence> {
    for Shown { origin, set, should } in shown {
        if let Some(instance) = should.difference(set).next() {
            return Err(Divergence::Lacks { origin: origin.clone(), instance: instance.clone() });
        }
        if let Some(instance) = set.difference(should).next() {
            return Err(Divergence::Has { origin: origin.clone(), instance: instance.clone() });
        }
    }
    Ok(())
}

mod tests {
    use super::*;
    use crate::harness::key;

    fn checked(set: &[&str]) -> Result<(), Divergence> {
        let keys = |ids: &[&str]| ids.iter().map(|id| key("web", id)).collect();
        let agrees = Shown { origin: "list".to_owned(), set: keys(&["a", "b"]), should: keys(&["a", "b"]) };
        check(&[agrees.clone(), Shown { origin: "watch".to_owned(), set: keys(set), ..agrees }])
    }

    #[test]
    fn equal_sets_pass_and_missing_or_additional_instances_are_found() {
        assert_eq!(checked(&["b", "a"]), Ok(()));
        assert_eq!(checked(&["b"]), Err(Divergence::Lacks { origin: "watch".to_owned(), instance: key("web", "a") }));
        let more = checked(&["a", "b", "c"]);
        assert_eq!(more, Err(Divergence::Has { origin: "watch".to_owned(), instance: key("web", "c") }));
    }
}
