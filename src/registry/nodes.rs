//! What is on each node, and when it last changed: for readers of one node, and for readers of a service, which is shown with
//! its nodes.
//!
//! Changed under the order lock; read without.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use dashmap::DashMap;

use crate::model::{Revision, ServiceName};

/// Nodes that are registered, or have instances, by the name that [`ConsulIndex`](super::ConsulIndex) knows them by. That of the local
/// node is empty.
#[derive(Debug, Default)]
pub(super) struct NodeTable {
    by_name: DashMap<Box<str>, NodeEntry>,
    /// Revisions of the local node, which is always there. Instances with a lease change them often.
    local: NodeRevisions,
    /// Revision at which the last node went.
    gone: AtomicU64,
}

#[derive(Debug, Default)]
struct NodeEntry {
    is_registered: bool,
    /// Number of instances of each service.
    services: BTreeMap<ServiceName, usize>,
    revisions: NodeRevisions,
}

/// When things that are shown of a node last changed.
#[derive(Debug, Default)]
struct NodeRevisions {
    described: AtomicU64,
    checked: AtomicU64,
}

/// What of a node a change is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeAspect {
    /// The node, or instances on it, are described otherwise.
    pub(super) described: bool,
    /// Checks of the node, or of instances on it, are others or say something else.
    pub(super) checked: bool,
}

impl NodeRevisions {
    fn rise(&self, touched: NodeAspect, revision: Revision) {
        if touched.described {
            self.described.fetch_max(revision.0, Ordering::AcqRel);
        }
        if touched.checked {
            self.checked.fetch_max(revision.0, Ordering::AcqRel);
        }
    }
}

impl NodeTable {
    /// Revision at which a node, or the description of an instance on it, last changed. Of a node that is not there, the revision
    /// at which the last node went.
    pub(super) fn described(&self, node: &str) -> Revision {
        self.revision(node, |revisions| &revisions.described)
    }

    /// Revision at which a check of a node, or of an instance on it, last changed. Of a node that is not there, the revision at
    /// which the last node went.
    pub(super) fn checked(&self, node: &str) -> Revision {
        self.revision(node, |revisions| &revisions.checked)
    }

    fn revision(&self, node: &str, of: impl Fn(&NodeRevisions) -> &AtomicU64) -> Revision {
        if node.is_empty() {
            return Revision(of(&self.local).load(Ordering::Acquire));
        }
        let known = self.by_name.get(node).map(|host| of(&host.revisions).load(Ordering::Acquire));
        Revision(known.unwrap_or_else(|| self.gone.load(Ordering::Acquire)))
    }

    /// Services with instances on a node.
    pub(super) fn services(&self, node: &str) -> Vec<ServiceName> {
        self.by_name.get(node).map(|host| host.services.keys().cloned().collect()).unwrap_or_default()
    }

    /// Notes a change of a node, or of what is on it.
    pub(super) fn touch(&self, node: &str, touched: NodeAspect, revision: Revision) {
        if node.is_empty() {
            self.local.rise(touched, revision);
        } else if let Some(host) = self.by_name.get(node) {
            host.revisions.rise(touched, revision);
        }
    }

    /// An instance of this service is on the node. `None`: the node itself is registered.
    pub(super) fn arrive(&self, node: &str, service: Option<&ServiceName>) {
        let mut host = self.by_name.entry(node.into()).or_default();
        match service {
            Some(service) => *host.services.entry(service.clone()).or_default() += 1,
            None => host.is_registered = true,
        }
    }

    /// The reverse, at this revision.
    pub(super) fn leave(&self, node: &str, service: Option<&ServiceName>, revision: Revision) {
        self.by_name.remove_if_mut(node, |_, host| {
            match service {
                None => host.is_registered = false,
                Some(service) => {
                    if let Some(count) = host.services.get_mut(service) {
                        *count -= 1;
                        if *count == 0 {
                            host.services.remove(service);
                        }
                    }
                }
            }
            let is_gone = !host.is_registered && host.services.is_empty();
            if is_gone {
                // Before a reader can miss the node and find a lower index.
                self.gone.fetch_max(revision.0, Ordering::AcqRel);
            }
            is_gone
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_that_has_gone_leaves_its_revision_and_nothing_else() {
        let (hosts, web) = (NodeTable::default(), ServiceName::parse("web").unwrap());
        let both = NodeAspect { described: true, checked: true };
        hosts.arrive("n1", None);
        hosts.arrive("n1", Some(&web));
        hosts.arrive("n1", Some(&web));
        hosts.touch("n1", both, Revision(3));
        hosts.touch("n1", NodeAspect { described: false, checked: true }, Revision(4));
        assert_eq!(
            (hosts.described("n1"), hosts.checked("n1"), hosts.services("n1")),
            (Revision(3), Revision(4), vec![web.clone()])
        );
        hosts.leave("n1", Some(&web), Revision(5));
        assert_eq!(hosts.services("n1").len(), 1, "another instance is still there");
        hosts.leave("n1", None, Revision(6));
        hosts.leave("n1", Some(&web), Revision(7));
        assert!(hosts.by_name.is_empty());
        assert_eq!((hosts.described("n1"), hosts.checked("n9")), (Revision(7), Revision(7)));
        hosts.touch("", both, Revision(8));
        assert_eq!((hosts.described(""), hosts.described("n1")), (Revision(8), Revision(7)));
    }
}
