//! Named parts of a service, and splits of calls between them.

use std::{fmt, sync::Arc};

use crate::model::InstanceFilter;

/// Name of a subset: 1 to 32 of `[a-z0-9-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubsetName(pub(super) Arc<str>);

impl SubsetName {
    /// Text of the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubsetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Named part of a service: the instances that a filter matches.
#[derive(Debug, Clone)]
pub struct Subset {
    /// Filter of the instances.
    pub filter: InstanceFilter,
}

impl PartialEq for Subset {
    fn eq(&self, other: &Self) -> bool {
        self.filter.as_str() == other.filter.as_str()
    }
}

/// Split of calls between subsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Subsets with the percentage of calls that each gets, in the order of the names. Each is 1 to 100, and their sum is 100.
    pub shares: Vec<(SubsetName, u8)>,
    /// Destination of the calls to a subset without routable instances.
    pub empty: EmptySubset,
}

/// Destination of the calls to a subset without routable instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum EmptySubset {
    /// The rest of the service, then its fallbacks.
    #[default]
    Spill,
    /// None: the calls fail.
    Fail,
}
