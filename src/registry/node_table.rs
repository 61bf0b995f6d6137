//! Services with instances on each node, and the revisions at which the node last changed. Used by readers of a node, and by
//! readers of a service, which is shown with its nodes.
//!
//! Changed under the order lock; read without a lock of the registry.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use dashmap::DashMap;

use crate::model::{Revision, ServiceName};

/// Nodes that are registered or have instances, by the names that [`ConsulIndex`](super::ConsulIndex) gives them. The name of
/// the local node is empty.
#[derive(Debug, Default)]
pub(super) struct NodeTable {
    by_name: DashMap<Box<str>, NodeEntry>,
    /// Revisions of the local node, which is always there. Instances with a lease raise them often.
    local: NodeRevisions,
    /// Revision at which the last node was removed.
    removed: AtomicU64,
}

#[derive(Debug, Default)]
struct NodeEntry {
    is_registered: bool,
    /// Number of instances of each service.
    services: BTreeMap<ServiceName, usize>,
    revisions: NodeRevisions,
}

/// Revisions at which the aspects of a node last changed.
#[derive(Debug, Default)]
struct NodeRevisions {
    description: AtomicU64,
    checks: AtomicU64,
}

/// Aspects of a node that a change concerns.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NodeAspects {
    /// Description of the node, or of an instance on it.
    pub(super) description: bool,
    /// Checks of the node, or of an instance on it.
    pub(super) checks: bool,
}

impl NodeRevisions {
    fn raise(&self, changed: NodeAspects, revision: Revision) {
        if changed.description {
            self.description.fetch_max(revision.0, Ordering::AcqRel);
        }
        if changed.checks {
            self.checks.fetch_max(revision.0, Ordering::AcqRel);
        }
    }
}

impl NodeTable {
    /// Revision at which the description of a node, or of an instance on it, last changed. For an unknown node, the revision at
    /// which the last node was removed.
    pub(super) fn description_changed(&self, node: &str) -> Revision {
        self.revision(node, |revisions| &revisions.description)
    }

    /// Revision at which a check of a node, or of an instance on it, last changed. For an unknown node, the revision at which the
    /// last node was removed.
    pub(super) fn checks_changed(&self, node: &str) -> Revision {
        self.revision(node, |revisions| &revisions.checks)
    }

    fn revision(&self, node: &str, aspect: impl Fn(&NodeRevisions) -> &AtomicU64) -> Revision {
        if node.is_empty() {
            return Revision(aspect(&self.local).load(Ordering::Acquire));
        }
        let known = self.by_name.get(node).map(|entry| aspect(&entry.revisions).load(Ordering::Acquire));
        Revision(known.unwrap_or_else(|| self.removed.load(Ordering::Acquire)))
    }

    /// Services with instances on a node.
    pub(super) fn services(&self, node: &str) -> Vec<ServiceName> {
        self.by_name.get(node).map(|entry| entry.services.keys().cloned().collect()).unwrap_or_default()
    }

    /// Raises the revisions of a node.
    pub(super) fn raise(&self, node: &str, changed: NodeAspects, revision: Revision) {
        if node.is_empty() {
            self.local.raise(changed, revision);
        } else if let Some(entry) = self.by_name.get(node) {
            entry.revisions.raise(changed, revision);
        }
    }

    /// Adds an instance of a service to a node. `None`: the node itself is registered.
    pub(super) fn add(&self, node: &str, service: Option<&ServiceName>) {
        let mut entry = self.by_name.entry(node.into()).or_default();
        match service {
            Some(service) => *entry.services.entry(service.clone()).or_default() += 1,
            None => entry.is_registered = true,
        }
    }

    /// Removes an instance of a service from a node. `None`: the node itself is no longer registered.
    pub(super) fn remove(&self, node: &str, service: Option<&ServiceName>, revision: Revision) {
        self.by_name.remove_if_mut(node, |_, entry| {
            match service {
                None => entry.is_registered = false,
                Some(service) => {
                    if let Some(count) = entry.services.get_mut(service) {
                        *count -= 1;
                        if *count == 0 {
                            entry.services.remove(service);
                        }
                    }
                }
            }
            let is_empty = !entry.is_registered && entry.services.is_empty();
            if is_empty {
                // Raised before the node leaves the map, so that no reader misses the node and finds a lower revision.
                self.removed.fetch_max(revision.0, Ordering::AcqRel);
            }
            is_empty
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_node_leaves_its_revision_and_nothing_else() {
        let (table, web) = (NodeTable::default(), ServiceName::parse("web").unwrap());
        let both = NodeAspects { description: true, checks: true };
        table.add("n1", None);
        table.add("n1", Some(&web));
        table.add("n1", Some(&web));
        table.raise("n1", both, Revision(3));
        table.raise("n1", NodeAspects { description: false, checks: true }, Revision(4));
        let revisions = |node| (table.description_changed(node), table.checks_changed(node));
        assert_eq!((revisions("n1"), table.services("n1")), ((Revision(3), Revision(4)), vec![web.clone()]));
        table.remove("n1", Some(&web), Revision(5));
        assert_eq!(table.services("n1").len(), 1, "another instance is still there");
        table.remove("n1", None, Revision(6));
        table.remove("n1", Some(&web), Revision(7));
        assert!(table.by_name.is_empty());
        assert_eq!((revisions("n1"), revisions("n9")), ((Revision(7), Revision(7)), (Revision(7), Revision(7))));
        table.raise("", both, Revision(8));
        assert_eq!((revisions("").0, revisions("n1").0), (Revision(8), Revision(7)));
    }
}
