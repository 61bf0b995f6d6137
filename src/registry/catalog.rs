//! Who is known by another name than service and id.
//!
//! In Consul an instance is identified by its node and its id there, whatever its service, and a check by its node and its own
//! id. Here is where they are found; and the revisions by which Consul's readers tell whether lists have changed.
//!
//! Changed under the order lock, together with the map; read without.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use dashmap::DashMap;

use super::event::Entry;
use crate::model::{Instance, InstanceId, Listing, OWN_NODE, Revision, ServiceName, nodes};

/// Indexes of what has a [`Listing`], and of nodes' checks.
#[derive(Debug, Default)]
pub struct Catalog {
    /// The service of each instance.
    instances: DashMap<InstanceId, ServiceName>,
    /// The owner of each check, by the node that it is on and its id.
    checks: DashMap<Box<str>, (ServiceName, InstanceId)>,
    /// When names or tags of services last changed.
    services: AtomicU64,
    /// When an instance last came, went, or described itself otherwise.
    described: AtomicU64,
    /// When a service last lost its last instance.
    emptied: AtomicU64,
    /// When a check was last added, taken away, or said something else.
    checked: AtomicU64,
}

impl Catalog {
    /// The service of an instance that is listed under this id.
    #[must_use]
    pub fn service_of(&self, id: &str) -> Option<ServiceName> {
        self.instances.get(id).map(|service| service.clone())
    }

    /// All that are listed, in no order.
    #[must_use]
    pub fn listed(&self) -> Vec<(InstanceId, ServiceName)> {
        self.instances.iter().map(|listed| (listed.key().clone(), listed.value().clone())).collect()
    }

    /// Whose check this is, on a node; empty for ours.
    #[must_use]
    pub fn owner_of(&self, node: &str, check: &str) -> Option<(ServiceName, InstanceId)> {
        if node.is_empty() {
            return self.checks.get(check).map(|owner| owner.clone());
        }
        self.checks.get(&*key(node, check)).map(|owner| owner.clone())
    }

    /// The revision at which names or tags of services last changed.
    #[must_use]
    pub fn services_changed(&self) -> Revision {
        Revision(self.services.load(Ordering::Acquire))
    }

    /// The revision at which an instance last came, went, or described itself otherwise: what checks say aside.
    #[must_use]
    pub fn described(&self) -> Revision {
        Revision(self.described.load(Ordering::Acquire))
    }

    /// The revision at which a service last lost its last instance.
    #[must_use]
    pub fn last_emptied(&self) -> Revision {
        Revision(self.emptied.load(Ordering::Acquire))
    }

    /// The revision at which a check was last added, taken away, or said something else.
    #[must_use]
    pub fn checks_changed(&self) -> Revision {
        Revision(self.checked.load(Ordering::Acquire))
    }

    /// A service has no instances any more.
    pub(super) fn emptied(&self, revision: Revision) {
        self.emptied.fetch_max(revision.0, Ordering::AcqRel);
    }

    /// Puts an entry in the place of another one, of the same instance.
    pub(super) fn replace(&self, before: Option<&Arc<Entry>>, after: Option<&Arc<Entry>>, revision: Revision) {
        let (old, new) = (before.map(|entry| &entry.instance), after.map(|entry| &entry.instance));
        if old.map(|instance| &instance.tags) != new.map(|instance| &instance.tags) {
            self.services.fetch_max(revision.0, Ordering::AcqRel);
        }
        if old.map(description) != new.map(description) {
            self.described.fetch_max(revision.0, Ordering::AcqRel);
        }
        if old.map(|instance| (instance.status(), &instance.checks))
            != new.map(|instance| (instance.status(), &instance.checks))
        {
            self.checked.fetch_max(revision.0, Ordering::AcqRel);
        }
        if let Some(before) = before {
            self.forget(before, after);
        }
        if let Some(after) = after {
            self.know(after);
        }
    }

    /// Only what is still its own: an id that has moved to another service belongs to the one there.
    fn forget(&self, before: &Entry, after: Option<&Arc<Entry>>) {
        let instance = &before.instance;
        let Some(node) = node_of(before) else { return };
        let owner = (&instance.service, &instance.id);
        let stays = after.is_some_and(|after| after.instance.listing.is_some());
        if !stays {
            self.instances.remove_if(instance.id.as_str(), |_, service| *service == instance.service);
        }
        for check in &instance.checks {
            let id = check.id().as_str();
            if !stays || after.is_some_and(|after| after.instance.checks.get(id).is_none()) {
                self.checks.remove_if(&*key(node, id), |_, (service, instance)| (service, instance) == owner);
            }
        }
    }

    fn know(&self, after: &Entry) {
        let instance = &after.instance;
        let Some(node) = node_of(after) else { return };
        if !instance.service.is_reserved() {
            self.instances.insert(instance.id.clone(), instance.service.clone());
        }
        for check in &instance.checks {
            self.checks.insert(key(node, check.id().as_str()), (instance.service.clone(), instance.id.clone()));
        }
    }
}

/// What an instance says of itself.
fn description(instance: &Instance) -> impl PartialEq {
    let Instance { addresses, tags, metadata, weight, locality, listing, .. } = instance;
    (addresses, tags, metadata, weight, locality, listing.as_ref().map(|listing| listing.described))
}

/// The node whose names those of this entry are. `None`: it has none of such names.
fn node_of(entry: &Entry) -> Option<&str> {
    let Listing { node, .. } = entry.instance.listing.as_deref()?;
    if entry.instance.service != nodes() {
        return Some(node);
    }
    let id = entry.instance.id.as_str();
    Some(if id == OWN_NODE { "" } else { id })
}

fn key(node: &str, check: &str) -> Box<str> {
    if node.is_empty() { check.into() } else { format!("{node}\0{check}").into() }
}
