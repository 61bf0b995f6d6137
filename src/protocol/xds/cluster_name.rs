//! Names of clusters and assignments: `payments` for a whole service, `payments|v2` for its subset `v2`.

use std::{collections::BTreeSet, sync::Arc};

use crate::model::{EffectivePolicy, Split, SubsetName};

/// Character between service and subset. No service has it in its name.
const SEPARATOR: char = '|';

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
        Some((service, subset)) => (service, Some(subset)),
        None => (cluster, None),
    }
}

/// Returns the clusters of a split with their percentages. `None`: the whole service.
pub(super) fn clusters_of_split(service: &str, split: Option<&Split>) -> Vec<(Arc<str>, u32)> {
    match split {
        Some(split) => {
            let shares = split.shares.iter();
            shares.map(|(subset, share)| (cluster_name(service, Some(subset)), u32::from(*share))).collect()
        }
        None => vec![(cluster_name(service, None), 100)],
    }
}

/// Returns the clusters that clients of a service subscribe to: all subsets, and the whole service if calls go to it.
pub(super) fn clusters_of(service: &str, policy: &EffectivePolicy) -> BTreeSet<Arc<str>> {
    let splits = policy.routes.iter().map(|route| route.split.as_ref()).chain([policy.default_split.as_ref()]);
    let whole = splits.into_iter().any(|split: Option<&Split>| split.is_none());
    let subsets = policy.subsets.keys().map(|subset| cluster_name(service, Some(subset)));
    subsets.chain(whole.then(|| cluster_name(service, None))).collect()
}
