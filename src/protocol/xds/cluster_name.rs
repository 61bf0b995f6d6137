//! Names of clusters and assignments: `payments` for a whole service, `payments|v2` for its subset `v2`.
//!
//! If some splits with a subset let its calls fail while it is empty, and others do not, the former have a cluster of their own,
//! `payments|v2|fail`: the clients of a cluster have one assignment.

use std::{collections::BTreeSet, sync::Arc};

use crate::model::{EffectivePolicy, EmptySubset, Split, SubsetName};

/// Character between service and subset. No service has it in its name.
const SEPARATOR: char = '|';
/// Suffix of the cluster for the calls that fail while the subset is empty, if others do not.
const FAIL_SUFFIX: &str = "|fail";

/// Destination of the calls of a subset while it has no routable instances, by the splits that name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EmptyModes {
    /// The subset gets no calls.
    NoCalls,
    /// All splits say the same.
    Same(EmptySubset),
    /// Some let the calls fail, and others do not.
    Both,
}

impl EmptyModes {
    /// Returns the modes of a subset.
    pub(super) fn of(policy: &EffectivePolicy, subset: &SubsetName) -> Self {
        let naming = policy.splits().flatten().filter(|split| split.shares.iter().any(|(name, _)| name == subset));
        let modes = naming.map(|split| Self::Same(split.empty));
        modes.reduce(|one, other| if one == other { one } else { Self::Both }).unwrap_or(Self::NoCalls)
    }
}

/// Returns the name of the cluster of a service, or of one of its subsets.
pub(super) fn cluster_name(service: &str, subset: Option<&SubsetName>) -> Arc<str> {
    match subset {
        Some(subset) => format!("{service}{SEPARATOR}{subset}").into(),
        None => service.into(),
    }
}

/// Returns what the names of the clusters of all subsets of a service begin with.
pub(super) fn cluster_prefix(service: &str) -> String {
    format!("{service}{SEPARATOR}")
}

/// Splits the name of a cluster into the names of the service and of the subset.
pub(super) fn split_cluster_name(cluster: &str) -> (&str, Option<&str>) {
    match cluster.split_once(SEPARATOR) {
        Some((service, subset)) => (service, Some(subset.strip_suffix(FAIL_SUFFIX).unwrap_or(subset))),
        None => (cluster, None),
    }
}

/// Returns whether a cluster is for the calls that fail while its subset is empty, beside another one of the same subset.
pub(super) fn is_failing_cluster(cluster: &str) -> bool {
    // A subset may have the name `fail`.
    cluster.split_once(SEPARATOR).is_some_and(|(_, subset)| subset.ends_with(FAIL_SUFFIX))
}

/// Returns the name of the cluster for the calls that fail while a subset is empty, beside another one of the same subset.
pub(super) fn failing_cluster_name(service: &str, subset: &SubsetName) -> Arc<str> {
    format!("{service}{SEPARATOR}{subset}{FAIL_SUFFIX}").into()
}

/// Returns the clusters of a split of a policy with their percentages. `None`: the whole service.
pub(super) fn clusters_of_split(
    service: &str,
    policy: &EffectivePolicy,
    split: Option<&Split>,
) -> Vec<(Arc<str>, u32)> {
    let Some(split) = split else { return vec![(cluster_name(service, None), 100)] };
    let name = |subset: &SubsetName| {
        if split.empty == EmptySubset::Fail && EmptyModes::of(policy, subset) == EmptyModes::Both {
            failing_cluster_name(service, subset)
        } else {
            cluster_name(service, Some(subset))
        }
    };
    split.shares.iter().map(|(subset, share)| (name(subset), u32::from(*share))).collect()
}

/// Returns the clusters that clients of a service subscribe to: all subsets, and the whole service if calls go to it.
pub(super) fn clusters_of(service: &str, policy: &EffectivePolicy) -> BTreeSet<Arc<str>> {
    let whole = policy.splits().any(|split| split.is_none());
    let subsets = policy.subsets.keys();
    let failing = subsets.clone().filter(|subset| EmptyModes::of(policy, subset) == EmptyModes::Both);
    let failing = failing.map(|subset| failing_cluster_name(service, subset));
    let clusters = subsets.map(|subset| cluster_name(service, Some(subset))).chain(failing);
    clusters.chain(whole.then(|| cluster_name(service, None))).collect()
}

/// Returns whether a policy sends calls to a cluster of its service.
pub(super) fn selects(service: &str, policy: &EffectivePolicy, cluster: &str) -> bool {
    policy.splits().any(|split| clusters_of_split(service, policy, split).iter().any(|(name, _)| **name == *cluster))
}

/// Returns whether a policy defines a cluster of its service.
pub(super) fn defines(policy: &EffectivePolicy, cluster: &str) -> bool {
    let Some(subset) = split_cluster_name(cluster).1 else { return true };
    let defined = policy.subsets.keys().find(|name| name.as_str() == subset);
    defined.is_some_and(|name| !is_failing_cluster(cluster) || EmptyModes::of(policy, name) == EmptyModes::Both)
}
