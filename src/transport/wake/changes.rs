//! Names of changed services on their way to a stream.

use std::{collections::BTreeSet, sync::Arc};

use crate::model::ServiceName;

/// Maximum number of names that a stream is given. With more, the stream checks everything that it watches, which costs
/// no more.
const MAX_CHANGED_NAMES: usize = 64;

/// Services that have changed since a stream last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangedServices {
    /// These services, sorted, each once. Empty for a wake-up with a different reason, such as a bookmark.
    Named(Arc<[ServiceName]>),
    /// More than 64 services, or an event that concerns all.
    All,
}

impl ChangedServices {
    /// Returns the changes of a wake-up that no change caused.
    pub(super) fn none() -> Self {
        Self::Named(Arc::new([]))
    }

    /// Collects the names of one round. One value is shared by all streams that the round wakes.
    pub(super) fn of_round(changed: &BTreeSet<ServiceName>) -> Self {
        if changed.len() > MAX_CHANGED_NAMES { Self::All } else { Self::Named(changed.iter().cloned().collect()) }
    }

    /// Adds the changes of a later round.
    pub(super) fn merge(&mut self, later: &Self) {
        *self = match (&*self, later) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (Self::Named(names), _) if names.is_empty() => later.clone(),
            (_, Self::Named(names)) if names.is_empty() => return,
            (Self::Named(names), Self::Named(more)) => Self::of_round(&names.iter().chain(&**more).cloned().collect()),
        };
    }

    /// Keeps the names that concern a stream.
    pub(super) fn retain(self, concerns: impl Fn(&ServiceName) -> bool) -> Self {
        match self {
            Self::Named(names) if !names.iter().all(&concerns) => {
                Self::Named(names.iter().filter(|name| concerns(name)).cloned().collect())
            }
            Self::Named(_) | Self::All => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(names: impl IntoIterator<Item = usize>) -> ChangedServices {
        let name = |number| ServiceName::parse(&format!("s{number:03}")).unwrap();
        ChangedServices::of_round(&names.into_iter().map(name).collect())
    }

    #[test]
    fn changes_of_two_rounds_are_merged_without_repetition_and_overflow_to_all() {
        let mut merged = changes([1, 2]);
        merged.merge(&changes([2, 3]));
        assert_eq!(merged, changes([1, 2, 3]));
        merged.merge(&ChangedServices::none());
        assert_eq!(merged, changes([1, 2, 3]));
        merged.merge(&changes(3..=MAX_CHANGED_NAMES));
        assert_eq!(merged, changes(1..=MAX_CHANGED_NAMES), "as many as fit");
        merged.merge(&changes([0]));
        assert_eq!(merged, ChangedServices::All, "one more");
        merged.merge(&changes([1]));
        assert_eq!(merged, ChangedServices::All);
    }

    #[test]
    fn changes_that_do_not_concern_a_stream_are_left_out() {
        let even = |name: &ServiceName| name.as_str().ends_with(['0', '2', '4', '6', '8']);
        assert_eq!(changes(0..5).retain(even), changes([0, 2, 4]));
        assert_eq!(ChangedServices::All.retain(even), ChangedServices::All);
    }
}
