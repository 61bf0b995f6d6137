//! Who is known by another name than service and id.
//!
//! In Consul an instance is identified by its node and its id there, whatever its service, and a check by its node and its own
//! id. Here is where they are found; and the revisions by which Consul's readers tell whether lists have changed.
//!
//! Changed under the order lock, together with the map; read without.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    iter, mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use dashmap::DashMap;

use super::{
    event::{Entry, Event},
    nodes::{NodeAspect, NodeTable},
};
use crate::model::{
    Check, CheckId, Instance, InstanceId, Revision, ServiceName, id_on_node, is_on_node, node_id, topic_of_node,
    topic_of_nodes,
};

/// Indexes of what has a [`ConsulRegistration`](crate::model::ConsulRegistration), and of nodes' checks.
#[derive(Debug, Default)]
pub struct ConsulIndex {
    /// The service of each instance.
    instances: DashMap<InstanceId, ServiceName>,
    /// The instances that have a check, by the node that they are on and its id, as [`id_on_node`] makes one text of them.
    checks: DashMap<Box<str>, CheckClaims>,
    /// When names or tags of services last changed.
    services: AtomicU64,
    /// When an instance last came, went, or described itself otherwise.
    described: AtomicU64,
    /// When a node last came, went, or described itself otherwise.
    nodes: AtomicU64,
    /// When a service last lost its last instance.
    emptied: AtomicU64,
    /// When a check was last added, taken away, or said something else.
    checked: AtomicU64,
    /// What is on each node.
    hosts: NodeTable,
}

impl ConsulIndex {
    /// The service of an instance that is listed under this id.
    #[must_use]
    pub fn service_of(&self, id: &str) -> Option<ServiceName> {
        self.instances.get(id).map(|service| service.clone())
    }

    /// Instances on a node, in no order. `node`: the id that it has among the nodes.
    #[must_use]
    pub fn on_node(&self, node: &str) -> Vec<(InstanceId, ServiceName)> {
        let here = self.instances.iter().filter(|listed| is_on_node(listed.key().as_str(), node));
        here.map(|listed| (listed.key().clone(), listed.value().clone())).collect()
    }

    /// Instance that has the check with this id on a node: the one that took it last. `node`: empty for the local node.
    #[must_use]
    pub fn owner_of(&self, node: &str, check: &str) -> Option<(ServiceName, InstanceId)> {
        let claims = self.checks.get(&*id_on_node(node, check))?;
        Some((claims.owner.service.clone(), claims.owner.id.clone()))
    }

    /// Checks with this id on a node that another instance has taken since: their instances are to lose them.
    #[must_use]
    pub fn taken_from(&self, node: &str, check: &CheckId) -> Vec<TakenCheck> {
        let claims = self.checks.get(&*id_on_node(node, check.as_str()));
        claims.map(|claims| claims.taken(check)).unwrap_or_default()
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

    /// Revision at which a node last came, went, or was described otherwise: its checks aside. The local node is what it is.
    #[must_use]
    pub fn nodes_changed(&self) -> Revision {
        Revision(self.nodes.load(Ordering::Acquire))
    }

    /// Revision at which a node, or the description of an instance on it, last changed. Of a node that is not there, the revision
    /// at which the last node went. `node`: empty for the local node.
    #[must_use]
    pub fn node_described(&self, node: &str) -> Revision {
        self.hosts.described(&host(node))
    }

    /// Revision at which a check of a node, or of an instance on it, last changed. Of a node that is not there, the revision at
    /// which the last node went. `node`: empty for the local node.
    #[must_use]
    pub fn node_checked(&self, node: &str) -> Revision {
        self.hosts.checked(&host(node))
    }

    /// Services that have instances on the node that this entry is. None: it is no node.
    pub(super) fn hosted(&self, entry: &Entry) -> Vec<ServiceName> {
        let node = node_of(entry).filter(|_| entry.instance.service.is_reserved());
        node.map(|node| self.hosts.services(&host(node))).unwrap_or_default()
    }

    /// Topics whose readers are told of an event beside those of its service: the node, and, of a node, the services on it.
    pub(super) fn topics(&self, event: &Event) -> BTreeSet<ServiceName> {
        let entries = || event.before().into_iter().chain(event.after());
        let nodes = entries().map(|entry| topic_of_node(&host(node_of(entry).unwrap_or_default())));
        let services = entries().flat_map(|entry| self.hosted(entry)).map(|service| topic_of_nodes(&service));
        nodes.chain(services).collect()
    }

    /// Topic of a node, and of all that is on it. `node`: empty for the local node.
    #[must_use]
    pub fn topic_of_node(node: &str) -> ServiceName {
        topic_of_node(&host(node))
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
        let is_node = old.or(new).is_some_and(|instance| instance.service.is_reserved());
        if !is_node && old.map(|instance| &instance.tags) != new.map(|instance| &instance.tags) {
            self.services.fetch_max(revision.0, Ordering::AcqRel);
        }
        if let Some(before) = before {
            self.forget(before, after);
        }
        if let Some(after) = after {
            self.know(before, after);
        }
        let touched = NodeAspect {
            described: old.map(description) != new.map(description),
            checked: old.and_then(shown_checks) != new.and_then(shown_checks),
        };
        self.touch(before, after, is_node, touched, revision);
    }

    /// Counts an instance as one of its node, whose id means another one.
    pub(super) fn arrive(&self, entry: &Arc<Entry>) {
        let nothing = NodeAspect { described: false, checked: false };
        self.touch(None, Some(entry), false, nothing, Revision::default());
    }

    /// Notes what a change is about. An instance with a lease is shown on the local node, which is shown as it was configured.
    fn touch(
        &self,
        before: Option<&Arc<Entry>>,
        after: Option<&Arc<Entry>>,
        is_node: bool,
        touched: NodeAspect,
        revision: Revision,
    ) {
        let (old, new) = (before.and_then(|entry| node_of(entry)), after.and_then(|entry| node_of(entry)));
        let service = |entry: &Arc<Entry>| (!is_node).then(|| entry.instance.service.clone());
        let node = host(new.or(old).unwrap_or_default());
        // Checks are shown with the name of their node, as it was spelt last.
        let is_renamed = is_node && old.zip(new).is_some_and(|(old, new)| old != new);
        if let (None, Some(_), Some(after)) = (old, new, after) {
            self.hosts.arrive(&node, service(after).as_ref());
        }
        let touched = NodeAspect {
            described: touched.described && !(is_node && node.is_empty()),
            checked: touched.checked || is_renamed,
        };
        self.hosts.touch(&node, touched, revision);
        if touched.described {
            let changed = if is_node { &self.nodes } else { &self.described };
            changed.fetch_max(revision.0, Ordering::AcqRel);
        }
        if touched.checked {
            self.checked.fetch_max(revision.0, Ordering::AcqRel);
        }
        if let (Some(_), None, Some(before)) = (old, new, before) {
            self.hosts.leave(&node, service(before).as_ref(), revision);
        }
    }

    /// Only what is still its own: an id that has moved to another service belongs to the one there.
    fn forget(&self, before: &Entry, after: Option<&Arc<Entry>>) {
        let instance = &before.instance;
        let Some(node) = node_of(before) else { return };
        let stays = after.is_some_and(|after| after.instance.consul_registration.is_some());
        if !stays {
            self.instances.remove_if(instance.id.as_str(), |_, service| *service == instance.service);
        }
        for check in &instance.checks {
            let id = check.id().as_str();
            if !stays || after.is_some_and(|after| after.instance.checks.get(id).is_none()) {
                self.checks.remove_if_mut(&*id_on_node(node, id), |_, claims| claims.withdraw(instance));
            }
        }
    }

    /// An instance whose id has moved to another service does not take it back by a change of what is left of it.
    fn know(&self, before: Option<&Arc<Entry>>, after: &Entry) {
        let instance = &after.instance;
        let Some(node) = node_of(after) else { return };
        let known = before.filter(|before| before.instance.consul_registration.is_some());
        let registers = known.is_none_or(|known| known.instance.registered_revision != instance.registered_revision);
        if registers && !instance.service.is_reserved() {
            self.instances.insert(instance.id.clone(), instance.service.clone());
        }
        for check in &instance.checks {
            let claim = CheckClaim::new(instance, check);
            let key = id_on_node(node, check.id().as_str());
            match self.checks.get_mut(&*key) {
                Some(mut claims) => claims.add(claim),
                None => {
                    self.checks.insert(key.into(), CheckClaims { owner: claim, others: Vec::new() });
                }
            }
        }
    }
}

/// A check that one instance has, although another instance of the node has taken its id since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenCheck {
    /// The service of the instance that is to lose it.
    pub service: ServiceName,
    /// The instance.
    pub id: InstanceId,
    /// The check.
    pub check: CheckId,
    /// The revision at which that instance got it. One that it has taken back since has another.
    pub created: Revision,
}

/// An instance that has a check under some id of its node.
#[derive(Debug)]
struct CheckClaim {
    service: ServiceName,
    id: InstanceId,
    /// When it got the check, and when it was registered itself: the later one has the check.
    since: (Revision, Revision),
}

impl CheckClaim {
    fn new(instance: &Instance, check: &Check) -> Self {
        let since = (check.created, instance.registered_revision);
        Self { service: instance.service.clone(), id: instance.id.clone(), since }
    }

    fn is_of(&self, instance: &Instance) -> bool {
        (&self.service, &self.id) == (&instance.service, &instance.id)
    }
}

/// The instances that have a check with one id on one node. There is more than one only while a check changes hands.
#[derive(Debug)]
struct CheckClaims {
    /// The one that took it last.
    owner: CheckClaim,
    others: Vec<CheckClaim>,
}

impl CheckClaims {
    /// Adds a claim, or brings it up to date.
    fn add(&mut self, claim: CheckClaim) {
        let all = iter::once(&mut self.owner).chain(&mut self.others);
        match all.into_iter().find(|known| (&known.service, &known.id) == (&claim.service, &claim.id)) {
            Some(known) => known.since = claim.since,
            None => self.others.push(claim),
        }
        self.elect();
    }

    /// Withdraws the claim of an instance. Returns whether none is left.
    fn withdraw(&mut self, instance: &Instance) -> bool {
        self.others.retain(|other| !other.is_of(instance));
        if !self.owner.is_of(instance) {
            return false;
        }
        let Some(next) = self.others.pop() else { return true };
        self.owner = next;
        self.elect();
        false
    }

    fn elect(&mut self) {
        for other in &mut self.others {
            if other.since > self.owner.since {
                mem::swap(other, &mut self.owner);
            }
        }
    }

    /// An id that moves to another service takes its checks along: what it leaves behind goes as a whole.
    fn taken(&self, check: &CheckId) -> Vec<TakenCheck> {
        let others = self.others.iter().filter(|other| other.id != self.owner.id);
        let taken = |CheckClaim { service, id, since: (created, _) }: &CheckClaim| TakenCheck {
            service: service.clone(),
            id: id.clone(),
            check: check.clone(),
            created: *created,
        };
        others.map(taken).collect()
    }
}

/// What an instance says of itself.
fn description(instance: &Instance) -> impl PartialEq {
    let Instance { tags, metadata, weight, locality, consul_registration: listing, revision, .. } = instance;
    // Of a listing, the revision stands for all that it says, its own addresses included.
    let described = listing.as_ref().map_or(*revision, |listing| listing.description_revision);
    (tags, metadata, weight, locality, described)
}

/// What is shown of the checks of an instance. `None`: it has none. What stands for a lease, and for an operator's word, is shown
/// with the revision of the last change.
fn shown_checks(instance: &Instance) -> Option<impl PartialEq> {
    let Instance { checks, tags, conditions, consul_registration: listing, revision, .. } = instance;
    let made_up = listing.is_none() || conditions.operator_draining || conditions.self_draining;
    let revision = made_up.then_some((*revision, conditions.operator_draining || conditions.self_draining));
    (made_up || !checks.is_empty()).then_some((checks, tags, revision))
}

/// The name that [`NodeTable`] knows a node by.
fn host(node: &str) -> Cow<'static, str> {
    if node.is_empty() { Cow::Borrowed("") } else { node_id(node) }
}

/// Name of the node that an entry is on, or that it is. `None`: it was not registered through Consul's API.
fn node_of(entry: &Entry) -> Option<&str> {
    entry.instance.consul_registration.as_ref().map(|listing| &*listing.node)
}

#[cfg(test)]
#[path = "consul_index/tests.rs"]
mod tests;
