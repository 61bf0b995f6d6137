//! What a command depends on beside the instance that it is about: the node, and what other instances hand over.

use std::{slice, sync::Arc};

use super::{
    Registry,
    command::{Command, NewCheck},
    decide::on_node,
    event::Entry,
};
use crate::model::{Check, CheckId, CheckStatus, Conditions, ConsulRegistration, Instance, InstanceId, ServiceName};

/// What [`decide`](super::decide::decide) looks at beside the instance itself.
#[derive(Debug, Default)]
pub struct DecisionContext {
    /// State that the instance takes over from its node.
    pub node: NodeState,
    /// The instance that a registration moves from another service, because it has its id.
    pub moved: Option<Arc<Entry>>,
    /// Checks that other instances of the node have, under ids that the command asks for.
    pub taken: Vec<Check>,
}

/// State that an instance takes over from its node.
#[derive(Debug, Default)]
pub struct NodeState {
    /// The conditions that come from the node; no others are set.
    pub conditions: Conditions,
    /// Host of the node, which is that of an instance that names none. `None` for the local node, and where no node is known.
    pub host: Option<Box<str>>,
}

/// A check of another instance that a command makes one of its own.
pub type CheckSource = (ServiceName, InstanceId, CheckId);

impl Registry {
    /// What a command depends on beside the instance that is there.
    pub(super) fn context(&self, command: &Command, present: Option<&Arc<Entry>>) -> DecisionContext {
        let (service, id) = command.target();
        let listing = listing_of(command, present);
        let node = listing.map_or("", |listing| &*listing.node);
        let taken = command.asked_checks().filter(|_| listing.is_some()).filter_map(|check| {
            let (service, id) = self.owner_beside(id, node, check)?;
            self.get(&service, id.as_str())?.instance.checks.get(check.as_str()).cloned()
        });
        DecisionContext {
            node: self.node_state(service, listing),
            taken: taken.collect(),
            moved: self.moved_by(command),
        }
    }

    /// The checks that a command would take from other instances, as things are: by their owners, and in the order in which it
    /// asks for them. Those of an instance that it moves from another service come first.
    #[must_use]
    pub fn check_sources(&self, command: &Command) -> Vec<CheckSource> {
        let (service, id) = command.target();
        let moved = self.moved_by(command);
        let of_moved = moved.iter().flat_map(|entry| {
            let instance = &entry.instance;
            instance.checks.iter().map(|check| (instance.service.clone(), instance.id.clone(), check.id().clone()))
        });
        let present = self.get(service, id.as_str());
        let listing = listing_of(command, present.as_ref());
        let taken = command.asked_checks().filter_map(|check| {
            let (service, id) = self.owner_beside(id, &listing?.node, check)?;
            Some((service, id, check.clone()))
        });
        of_moved.chain(taken).collect()
    }

    /// The instance that a registration moves from another service.
    #[must_use]
    pub fn moved_by(&self, command: &Command) -> Option<Arc<Entry>> {
        let Command::RegisterWithoutLease(asked) = command else { return None };
        let service = self.catalog.service_of(asked.id.as_str()).filter(|service| *service != asked.service)?;
        self.get(&service, asked.id.as_str()).filter(|_| !asked.service.is_reserved())
    }

    /// The instance of a node that has a check, if it is another one than this.
    fn owner_beside(&self, id: &InstanceId, node: &str, check: &CheckId) -> Option<(ServiceName, InstanceId)> {
        self.catalog.owner_of(node, check.as_str()).filter(|(_, owner)| owner != id)
    }

    /// State that an instance takes over from its node. Nodes are on no node, and an instance without a listing is on none either.
    fn node_state(&self, service: &ServiceName, listing: Option<&ConsulRegistration>) -> NodeState {
        let Some(listing) = listing.filter(|_| !service.is_reserved()) else { return NodeState::default() };
        let Some(node) = self.node(&listing.node) else { return NodeState::default() };
        let conditions = Conditions {
            node_drained: node.instance.conditions.operator_draining,
            node_critical: node.instance.checks.aggregate_status() == CheckStatus::Critical,
            node_warning: node.instance.checks.aggregate_status() == CheckStatus::Warning,
            ..Conditions::default()
        };
        // On the local node, an instance that names no address may be where it registered from.
        let address = node.instance.addresses.first().filter(|_| !listing.node.is_empty());
        NodeState { conditions, host: address.map(|address| address.host.clone()) }
    }

    /// Returns the instances on a node, in no order. `node`: the id that it has among the nodes.
    #[must_use]
    pub fn entries_on(&self, node: &str) -> Vec<Arc<Entry>> {
        let on_node = self.catalog.on_node(node).into_iter();
        on_node.filter_map(|(id, service)| self.get(&service, id.as_str())).collect()
    }

    /// Tells whether an instance has the state of its node.
    #[must_use]
    pub fn agrees_with_node(&self, instance: &Instance) -> bool {
        on_node(instance, &self.node_state(&instance.service, instance.consul_registration.as_deref())) == *instance
    }
}

fn listing_of<'a>(command: &'a Command, present: Option<&'a Arc<Entry>>) -> Option<&'a ConsulRegistration> {
    match command {
        Command::RegisterWithoutLease(asked) => Some(&asked.listing),
        _ => present.and_then(|entry| entry.instance.consul_registration.as_deref()),
    }
}

impl Command {
    /// The checks that it asks for.
    pub fn asked_checks(&self) -> impl Iterator<Item = &CheckId> {
        let asked: &[NewCheck] = match self {
            Self::RegisterWithoutLease(asked) => &asked.checks,
            Self::AddCheck { check, .. } => slice::from_ref(check),
            _ => &[],
        };
        asked.iter().map(|check| &check.definition.id)
    }
}
