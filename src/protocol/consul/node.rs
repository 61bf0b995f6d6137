//! Nodes: the local one, and those registered in the catalog.

use std::{borrow::Cow, iter, sync::Arc};

use super::{
    agent::{AgentIdentity, VERSION},
    view::{Map, NodeView},
};
use crate::{
    model::{Instance, node_id, node_service},
    registry::{Entry, Registry},
};

/// A node and its entry in the registry.
#[derive(Debug, Clone)]
pub(super) struct AgentNode {
    /// Name under which the node is stored: empty for the local one.
    pub(super) name: Box<str>,
    /// Entry of the node. `None`: the local node without checks or maintenance, or a node that only its instances name.
    pub(super) entry: Option<Arc<Entry>>,
}

impl AgentNode {
    /// Returns the local node.
    pub(super) fn local(registry: &Registry) -> Self {
        Self { name: "".into(), entry: registry.node("") }
    }

    /// Returns the node with this stored name, in any case. `None`: it is not registered.
    pub(super) fn find(registry: &Registry, stored: &str) -> Option<Self> {
        let entry = registry.node(stored);
        (stored.is_empty() || entry.is_some()).then(|| Self::new(stored, entry))
    }

    /// Returns the node of an instance, which may not be registered itself.
    pub(super) fn of(registry: &Registry, instance: &Instance) -> Self {
        let name = instance.consul_registration.as_ref().map_or("", |registration| &*registration.node);
        Self::new(name, registry.node(name))
    }

    /// Returns a node with the spelling of its name that was registered last.
    fn new(name: &str, entry: Option<Arc<Entry>>) -> Self {
        let registered = entry.as_ref().and_then(|entry| entry.instance.consul_registration.as_ref());
        Self { name: registered.map_or_else(|| name.into(), |registration| registration.node.clone()), entry }
    }

    /// Returns all nodes, by name.
    pub(super) fn all(registry: &Registry, agent: &AgentIdentity) -> Vec<Self> {
        let chunks = registry.chunks(&node_service());
        let registered =
            chunks.iter().flat_map(|chunk| chunk.entries()).map(|entry| Self::new("", Some(Arc::clone(entry))));
        let others = registered.filter(|node| !node.name.is_empty());
        let mut all: Vec<_> = iter::once(Self::local(registry)).chain(others).collect();
        all.sort_by_cached_key(|node| node_id(&agent.display_name(&node.name)));
        all
    }

    /// Returns the node as answers show it.
    pub(super) fn view<'a>(&'a self, agent: &'a AgentIdentity, registry: &Registry) -> NodeView<'a> {
        match &self.entry {
            Some(entry) if !self.name.is_empty() => registered_node(agent, &entry.instance),
            Some(_) | None if self.name.is_empty() => local_node(agent, registry),
            Some(_) | None => NodeView {
                id: "".into(),
                node: Cow::Borrowed(&self.name),
                address: "".into(),
                datacenter: &agent.datacenter,
                tagged_addresses: None,
                meta: None,
                create_index: 1,
                modify_index: 1,
            },
        }
    }
}

fn local_node<'a>(agent: &'a AgentIdentity, registry: &Registry) -> NodeView<'a> {
    let address = agent.address.to_string();
    let names = if agent.address.is_ipv4() {
        ["lan", "lan_ipv4", "wan", "wan_ipv4"]
    } else {
        ["lan", "lan_ipv6", "wan", "wan_ipv6"]
    };
    let tagged = names.map(|name| (Cow::Borrowed(name), Cow::Owned(address.clone())));
    let mut meta: Map<'_> = agent.meta.iter().map(|(key, value)| (key.into(), value.into())).collect();
    meta.insert("consul-network-segment".into(), "".into());
    meta.insert("consul-version".into(), VERSION.into());
    let index = registry.configured_revision().0;
    NodeView {
        id: Cow::Borrowed(&agent.id),
        node: Cow::Borrowed(&agent.node),
        address: address.into(),
        datacenter: &agent.datacenter,
        tagged_addresses: Some(tagged.into()),
        meta: Some(meta),
        // As in Consul, where the node is created first and described by a second write.
        create_index: index - 1,
        modify_index: index,
    }
}

fn registered_node<'a>(agent: &'a AgentIdentity, node: &'a Instance) -> NodeView<'a> {
    let registration = node.consul_registration.as_deref();
    let tagged: Map<'_> = registration
        .iter()
        .flat_map(|registration| &registration.tagged_addresses)
        .map(|(name, host, _)| (Cow::Borrowed(&**name), Cow::Borrowed(&**host)))
        .collect();
    let meta: Map<'_> = node.metadata.iter().map(|(key, value)| (key.into(), value.into())).collect();
    NodeView {
        id: Cow::Borrowed(registration.map_or("", |registration| &*registration.id)),
        node: Cow::Borrowed(registration.map_or("", |registration| &*registration.node)),
        address: Cow::Borrowed(registration.map_or("", |registration| &*registration.address)),
        datacenter: &agent.datacenter,
        tagged_addresses: (!tagged.is_empty()).then_some(tagged),
        meta: (!meta.is_empty()).then_some(meta),
        create_index: node.registered_revision.0,
        modify_index: registration.map_or(node.revision, |registration| registration.description_revision).0,
    }
}
