//! Holders of entries, in a registry that several replicas share.

use std::fmt;

/// Session of one replica. The replica that holds an entry ends its lease if heartbeats stay away, and runs its checks.
///
/// Zero stands for the only process of a registry that has no other replicas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionEpoch(pub u64);

impl fmt::Display for SessionEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
