//! State that a command depends on besides its target: the node, and checks and ids that other instances hold.

use std::sync::Arc;

use super::{Registry, command::Command, event::Entry};
use crate::model::{
    Address, Check, CheckId, CheckStatus, Conditions, ConsulRegistration, Instance, InstanceId, ServiceName,
};

/// State besides the target that [`decide`](super::decide::decide) reads.
#[derive(Debug, Default)]
pub struct DecisionContext {
    /// State that the instance takes over from its node.
    pub node: NodeState,
    /// Instance with the same id that a registration moves here from another service.
    pub moved: Option<Arc<Entry>>,
    /// Checks of other instances of the node, under ids that the command requests.
    pub taken: Vec<Check>,
}

/// State that an instance takes over from its node.
#[derive(Debug, Default)]
pub struct NodeState {
    /// Conditions that the node determines; no others are set.
    pub conditions: Conditions,
    /// Host of the node, for an instance that names no address. `None` for the local node, and for an unknown node.
    pub host: Option<Box<str>>,
}

impl NodeState {
    /// Returns an instance with this state.
    pub(super) fn applied_to(&self, instance: &Instance) -> Instance {
        let mut instance = instance.clone();
        let Conditions { node_drained, node_critical, node_warning, .. } = self.conditions;
        instance.conditions = Conditions { node_drained, node_critical, node_warning, ..instance.conditions };
        if let Some(registration) = &instance.consul_registration {
            self.set_host(&mut instance.addresses, registration);
        }
        instance
    }

    /// Sets the first host of an instance whose registration names no address.
    pub(super) fn set_host(&self, addresses: &mut [Address], registration: &ConsulRegistration) {
        if let Some(host) = self.host.as_ref().filter(|_| registration.address.is_empty())
            && let Some(first) = addresses.first_mut()
            && first.host != *host
        {
            first.host.clone_from(host);
        }
    }
}

/// Check of another instance that a command takes over.
pub type CheckSource = (ServiceName, InstanceId, CheckId);

impl Registry {
    /// Returns the state that a command depends on besides its target.
    pub(super) fn context(&self, command: &Command, present: Option<&Arc<Entry>>) -> DecisionContext {
        let (service, id) = command.target();
        let registration = registration_of(command, present);
        let node = registration.map_or("", |registration| &*registration.node);
        let taken = command.requested_checks().filter(|_| registration.is_some()).filter_map(|check| {
            let (service, id) = self.other_owner(id, node, check)?;
            self.get(&service, id.as_str())?.instance.checks.get(check.as_str()).cloned()
        });
        DecisionContext {
            node: self.node_state(service, registration),
            taken: taken.collect(),
            moved: self.moved_by(command),
        }
    }

    /// Returns the checks that a command would take from other instances now, in the order in which it requests them. Those of
    /// an instance that it moves from another service come first.
    #[must_use]
    pub fn check_sources(&self, command: &Command) -> Vec<CheckSource> {
        let (service, id) = command.target();
        let moved = self.moved_by(command);
        let of_moved = moved.iter().flat_map(|entry| {
            let instance = &entry.instance;
            instance.checks.iter().map(|check| (instance.service.clone(), instance.id.clone(), check.id().clone()))
        });
        let present = self.get(service, id.as_str());
        let registration = registration_of(command, present.as_ref());
        let taken = command.requested_checks().filter_map(|check| {
            let (service, id) = self.other_owner(id, &registration?.node, check)?;
            Some((service, id, check.clone()))
        });
        of_moved.chain(taken).collect()
    }

    /// Returns the instance that a registration moves from another service.
    #[must_use]
    pub fn moved_by(&self, command: &Command) -> Option<Arc<Entry>> {
        let Command::RegisterWithoutLease(register) = command else { return None };
        let service = self.consul_index.service_of(register.id.as_str());
        let service = service.filter(|service| *service != register.service)?;
        self.get(&service, register.id.as_str()).filter(|_| !register.service.is_reserved())
    }

    /// Returns the instance of a node that has a check, unless it is this one.
    fn other_owner(&self, id: &InstanceId, node: &str, check: &CheckId) -> Option<(ServiceName, InstanceId)> {
        self.consul_index.owner_of(node, check.as_str()).filter(|(_, owner)| owner != id)
    }

    /// Returns the state that an instance takes over from its node. A node takes over none, nor does an instance that was not
    /// registered through Consul's API.
    fn node_state(&self, service: &ServiceName, registration: Option<&ConsulRegistration>) -> NodeState {
        let Some(registration) = registration.filter(|_| !service.is_reserved()) else { return NodeState::default() };
        let Some(node) = self.node(&registration.node) else { return NodeState::default() };
        let conditions = Conditions {
            node_drained: node.instance.conditions.operator_draining,
            node_critical: node.instance.checks.aggregate_status() == CheckStatus::Critical,
            node_warning: node.instance.checks.aggregate_status() == CheckStatus::Warning,
            ..Conditions::default()
        };
        // An instance on the local node that names no address keeps the address that it registered from.
        let address = node.instance.addresses.first().filter(|_| !registration.node.is_empty());
        NodeState { conditions, host: address.map(|address| address.host.clone()) }
    }

    /// Returns the instances on a node, in no order. `node`: id of the node among the nodes.
    #[must_use]
    pub fn entries_on_node(&self, node: &str) -> Vec<Arc<Entry>> {
        let on_node = self.consul_index.on_node(node).into_iter();
        on_node.filter_map(|(id, service)| self.get(&service, id.as_str())).collect()
    }

    /// Returns whether an instance has the state of its node.
    #[must_use]
    pub fn has_node_state(&self, instance: &Instance) -> bool {
        let node = self.node_state(&instance.service, instance.consul_registration.as_deref());
        node.applied_to(instance) == *instance
    }
}

/// Returns the Consul registration that a command makes or, if it makes none, the present one.
fn registration_of<'a>(command: &'a Command, present: Option<&'a Arc<Entry>>) -> Option<&'a ConsulRegistration> {
    if let Command::RegisterWithoutLease(register) = command {
        return Some(&register.consul_registration);
    }
    present.and_then(|entry| entry.instance.consul_registration.as_deref())
}
