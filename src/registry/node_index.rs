//! Indexes of nodes by address and by the suffixes of their names.
//!
//! Nodes are found by name in the reserved service that holds them. The indexes change with the map, under the order
//! lock.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use super::name_suffixes::NameSuffixes;
use crate::{
    model::{Instance, InstanceId},
    sync::RwLock,
};

/// Indexes of nodes.
#[derive(Debug, Default)]
pub(super) struct NodeIndex(RwLock<Indexes>);

#[derive(Debug, Default)]
struct Indexes {
    /// Ids by address.
    addresses: HashMap<IpAddr, BTreeSet<InstanceId>>,
    /// Suffixes of the names.
    suffixes: NameSuffixes,
}

impl NodeIndex {
    /// Replaces one state of a node by another.
    pub(super) fn replace(&self, before: Option<&Instance>, after: Option<&Instance>) {
        let same =
            |one: &Instance, other: &Instance| address(one) == address(other) && node_name(one) == node_name(other);
        if before.zip(after).is_some_and(|(before, after)| same(before, after)) {
            return;
        }
        let mut indexes = self.0.write();
        if let Some(before) = before {
            indexes.remove(before);
        }
        if let Some(after) = after {
            indexes.add(after);
        }
    }

    /// Returns the ids of the nodes with this address.
    pub(super) fn at(&self, address: IpAddr) -> Vec<InstanceId> {
        let indexes = self.0.read();
        indexes.addresses.get(&address.to_canonical()).into_iter().flatten().cloned().collect()
    }

    /// Returns whether a node has a name with this proper suffix.
    pub(super) fn has_suffix(&self, suffix: &str) -> bool {
        self.0.read().suffixes.contains(suffix)
    }
}

impl Indexes {
    fn add(&mut self, node: &Instance) {
        self.suffixes.add(node_name(node));
        if let Some(address) = address(node) {
            self.addresses.entry(address).or_default().insert(node.id.clone());
        }
    }

    fn remove(&mut self, node: &Instance) {
        self.suffixes.remove(node_name(node));
        let Some(address) = address(node) else { return };
        if let Some(ids) = self.addresses.get_mut(&address) {
            ids.remove(&node.id);
            if ids.is_empty() {
                self.addresses.remove(&address);
            }
        }
    }
}

/// Returns the name of a node, as it was registered; empty for the local node.
#[must_use]
pub fn node_name(node: &Instance) -> &str {
    node.consul_registration.as_ref().map_or("", |registration| &*registration.node)
}

fn address(node: &Instance) -> Option<IpAddr> {
    let first = node.addresses.first()?;
    first.host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}
