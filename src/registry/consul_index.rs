//! Indexes for Consul's API, which identifies instances and checks differently, and the revisions of its lists.
//!
//! In Consul an instance is identified by its node and its id there, regardless of its service, and a check by its node and
//! its own id. Blocking queries compare the revisions here to find whether a list has changed.
//!
//! Changed under the order lock, together with the map; read without a lock.

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
    node_table::{NodeAspects, NodeTable},
};
use crate::model::{
    Check, CheckId, Instance, InstanceId, Revision, ServiceName, id_on_node, is_on_node, node_id, topic_of_node,
    topic_of_nodes,
};

/// Indexes of the instances with a [`ConsulRegistration`](crate::model::ConsulRegistration), and of nodes' checks.
#[derive(Debug, Default)]
pub struct ConsulIndex {
    /// Service of each instance.
    instances: DashMap<InstanceId, ServiceName>,
    /// Instances that have a check, by their node and the id of the check, which [`id_on_node`] joins.
    checks: DashMap<Box<str>, CheckClaims>,
    /// Revision at which names or tags of services last changed.
    services: AtomicU64,
    /// Revision at which the description of an instance last changed.
    descriptions: AtomicU64,
    /// Revision at which the description of a node last changed.
    nodes: AtomicU64,
    /// Revision at which a service last lost its last instance.
    emptied: AtomicU64,
    /// Revision at which a check was last added, removed, or changed its status.
    check_states: AtomicU64,
    /// Instances and revisions of each node.
    node_table: NodeTable,
}

impl ConsulIndex {
    /// Returns the service of the instance that an id stands for.
    #[must_use]
    pub fn service_of(&self, id: &str) -> Option<ServiceName> {
        self.instances.get(id).map(|service| service.clone())
    }

    /// Returns the instances on a node, in no order. `node`: id of the node among the nodes.
    #[must_use]
    pub fn on_node(&self, node: &str) -> Vec<(InstanceId, ServiceName)> {
        let here = self.instances.iter().filter(|known| is_on_node(known.key().as_str(), node));
        here.map(|known| (known.key().clone(), known.value().clone())).collect()
    }

    /// Returns the instance that has the check with this id on a node: the last one that claimed it. `node`: empty for the
    /// local node.
    #[must_use]
    pub fn owner_of(&self, node: &str, check: &str) -> Option<(ServiceName, InstanceId)> {
        let claims = self.checks.get(&*id_on_node(node, check))?;
        Some((claims.owner.service.clone(), claims.owner.id.clone()))
    }

    /// Returns the checks with this id on a node that another instance has taken over since. They are to be removed from
    /// their instances.
    #[must_use]
    pub fn taken_from(&self, node: &str, check: &CheckId) -> Vec<TakenCheck> {
        let claims = self.checks.get(&*id_on_node(node, check.as_str()));
        claims.map(|claims| claims.taken(check)).unwrap_or_default()
    }

    /// Revision at which names or tags of services last changed.
    #[must_use]
    pub fn services_changed(&self) -> Revision {
        Revision(self.services.load(Ordering::Acquire))
    }

    /// Revision at which an instance was last registered, removed, or described differently. The status of checks is no part
    /// of a description.
    #[must_use]
    pub fn descriptions_changed(&self) -> Revision {
        Revision(self.descriptions.load(Ordering::Acquire))
    }

    /// Revision at which a node was last registered, removed, or described differently. The local node, which is configured,
    /// does not count.
    #[must_use]
    pub fn nodes_changed(&self) -> Revision {
        Revision(self.nodes.load(Ordering::Acquire))
    }

    /// Revision at which the description of a node, or of an instance on it, last changed. For an unknown node, the revision
    /// at which the last node was removed. `node`: empty for the local node.
    #[must_use]
    pub fn node_description_changed(&self, node: &str) -> Revision {
        self.node_table.description_changed(&table_name(node))
    }

    /// Revision at which a check of a node, or of an instance on it, last changed. For an unknown node, the revision at which
    /// the last node was removed. `node`: empty for the local node.
    #[must_use]
    pub fn node_checks_changed(&self, node: &str) -> Revision {
        self.node_table.checks_changed(&table_name(node))
    }

    /// Returns the services that have instances on a node. Empty if the entry is not a node.
    pub(super) fn services_on(&self, entry: &Entry) -> Vec<ServiceName> {
        let node = node_of(entry).filter(|_| entry.instance.service.is_reserved());
        node.map(|node| self.node_table.services(&table_name(node))).unwrap_or_default()
    }

    /// Returns the topics that an event concerns besides its service: the node and, if a node changed, the services on
    /// it.
    pub(super) fn topics(&self, event: &Event) -> BTreeSet<ServiceName> {
        let entries = || event.before().into_iter().chain(event.after());
        let nodes = entries().map(|entry| topic_of_node(&table_name(node_of(entry).unwrap_or_default())));
        let services = entries().flat_map(|entry| self.services_on(entry)).map(|service| topic_of_nodes(&service));
        nodes.chain(services).collect()
    }

    /// Returns the topic of a node and of all instances on it. `node`: empty for the local node.
    #[must_use]
    pub fn topic_of_node(node: &str) -> ServiceName {
        topic_of_node(&table_name(node))
    }

    /// Revision at which a service last lost its last instance.
    #[must_use]
    pub fn last_emptied(&self) -> Revision {
        Revision(self.emptied.load(Ordering::Acquire))
    }

    /// Revision at which a check was last added, removed, or changed its status.
    #[must_use]
    pub fn checks_changed(&self) -> Revision {
        Revision(self.check_states.load(Ordering::Acquire))
    }

    /// Records that a service has lost its last instance.
    pub(super) fn service_emptied(&self, revision: Revision) {
        self.emptied.fetch_max(revision.0, Ordering::AcqRel);
    }

    /// Replaces one entry of an instance by another.
    pub(super) fn replace(&self, before: Option<&Arc<Entry>>, after: Option<&Arc<Entry>>, revision: Revision) {
        let (old, new) = (before.map(|entry| &entry.instance), after.map(|entry| &entry.instance));
        let is_node = old.or(new).is_some_and(|instance| instance.service.is_reserved());
        if !is_node && old.map(|instance| &instance.tags) != new.map(|instance| &instance.tags) {
            self.services.fetch_max(revision.0, Ordering::AcqRel);
        }
        if let Some(before) = before {
            self.remove(before, after);
        }
        if let Some(after) = after {
            self.add(before, after);
        }
        let changed = NodeAspects {
            description: old.map(description_revision) != new.map(description_revision),
            checks: old.and_then(shown_checks) != new.and_then(shown_checks),
        };
        self.raise(before, after, is_node, changed, revision);
    }

    /// Counts an instance as one of its node, although its id stands for an entry in another service.
    pub(super) fn count_on_node(&self, entry: &Arc<Entry>) {
        self.raise(None, Some(entry), false, NodeAspects::default(), Revision::default());
    }

    /// Raises the revisions of what a change concerns. An instance with a lease is shown on the local node. The local node itself
    /// is shown as configured.
    fn raise(
        &self,
        before: Option<&Arc<Entry>>,
        after: Option<&Arc<Entry>>,
        is_node: bool,
        changed: NodeAspects,
        revision: Revision,
    ) {
        let (old, new) = (before.and_then(|entry| node_of(entry)), after.and_then(|entry| node_of(entry)));
        let service = |entry: &Arc<Entry>| (!is_node).then(|| entry.instance.service.clone());
        let node = table_name(new.or(old).unwrap_or_default());
        // Checks are shown with the name of their node, in its last spelling.
        let is_renamed = is_node && old.zip(new).is_some_and(|(old, new)| old != new);
        if let (None, Some(_), Some(after)) = (old, new, after) {
            self.node_table.add(&node, service(after).as_ref());
        }
        let changed = NodeAspects {
            description: changed.description && !(is_node && node.is_empty()),
            checks: changed.checks || is_renamed,
        };
        self.node_table.raise(&node, changed, revision);
        if changed.description {
            let revisions = if is_node { &self.nodes } else { &self.descriptions };
            revisions.fetch_max(revision.0, Ordering::AcqRel);
        }
        if changed.checks {
            self.check_states.fetch_max(revision.0, Ordering::AcqRel);
        }
        if let (Some(_), None, Some(before)) = (old, new, before) {
            self.node_table.remove(&node, service(before).as_ref(), revision);
        }
    }

    /// Removes an entry, as far as it still owns its keys: an id that has moved to another service belongs to the entry there.
    fn remove(&self, before: &Entry, after: Option<&Arc<Entry>>) {
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

    /// Adds an entry. A change of an entry whose id has moved to another service does not take the id back.
    fn add(&self, before: Option<&Arc<Entry>>, after: &Entry) {
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

/// Check that one instance has, although another instance of the node has taken its id since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenCheck {
    /// Service of the instance from which to remove the check.
    pub service: ServiceName,
    /// Instance from which to remove the check.
    pub id: InstanceId,
    /// Check.
    pub check: CheckId,
    /// Revision at which that instance got the check. If the instance has taken the check back since, the revision
    /// differs.
    pub created: Revision,
}

/// Claim of an instance to a check id on its node.
#[derive(Debug)]
struct CheckClaim {
    service: ServiceName,
    id: InstanceId,
    /// Revisions at which the instance got the check and was registered. The later claim owns the check.
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

/// All claims to one check id on one node. There is more than one only while a check changes its owner.
#[derive(Debug)]
struct CheckClaims {
    /// Latest claim.
    owner: CheckClaim,
    others: Vec<CheckClaim>,
}

impl CheckClaims {
    /// Adds a claim, or updates it.
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

    /// Returns the claims of instances with other ids than the owner's. Claims of the same id belong to an instance that moves
    /// to another service: its old entry is removed as a whole, with its checks.
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

/// Returns the revision at which an instance was last described differently. An instance that was not registered through Consul's
/// API has only one revision, which rises with every visible change.
fn description_revision(instance: &Instance) -> Revision {
    instance.consul_registration.as_ref().map_or(instance.revision, |registration| registration.description_revision)
}

/// Returns the parts of an instance that Consul's API shows with its checks. `None`: the instance has none. The checks that stand
/// for a lease and for a drain are shown with the revision of the last visible change.
fn shown_checks(instance: &Instance) -> Option<impl PartialEq> {
    // Destructured, so that a new field does not compile until it is handled here.
    let Instance {
        service: _,
        id: _,
        addresses: _,
        tags,
        metadata: _,
        weight: _,
        locality: _,
        checks,
        conditions,
        consul_registration,
        registered_at: _,
        registered_revision: _,
        revision,
    } = instance;
    let is_draining = conditions.operator_draining || conditions.self_draining;
    let has_own_checks = consul_registration.is_none() || is_draining;
    let revision = has_own_checks.then_some((*revision, is_draining));
    (has_own_checks || !checks.is_empty()).then_some((checks.shown(), tags, revision))
}

/// Key of a node in the [`NodeTable`].
fn table_name(node: &str) -> Cow<'static, str> {
    if node.is_empty() { Cow::Borrowed("") } else { node_id(node) }
}

/// Name of the node that an entry is on, or that it is. `None`: it was not registered through Consul's API.
fn node_of(entry: &Entry) -> Option<&str> {
    entry.instance.consul_registration.as_ref().map(|registration| &*registration.node)
}

#[cfg(test)]
#[path = "consul_index/tests.rs"]
mod tests;
