//! What this registry says it is to programs written for Consul: an agent on a node, in a datacenter.

use std::{borrow::Cow, hash::Hasher, net::IpAddr, sync::Arc};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::view::{Map, NodeView};
use crate::{
    model::{
        Address, Conditions, ConsulRegistration, FieldError, Incarnation, Instance, InstanceChecks, InstanceId,
        Metadata, Revision, ServiceName, Tags, UnixMillis, Weight, node_id, same_node,
    },
    registry::{Entry, Registry},
};

/// The version of Consul whose API this is.
pub(super) const VERSION: &str = "1.21.4";

/// The name and the id of the service that every Consul has: its servers.
pub(super) const ITSELF: &str = "consul";
/// Where they speak to each other. Nobody does here.
pub(super) const SERVER_PORT: u16 = 8300;

/// An agent on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// The datacenter.
    pub datacenter: String,
    /// The name of the node.
    pub node: String,
    /// The UUID of the node.
    pub id: String,
    /// The address of the node, which is that of who has registered none.
    pub address: IpAddr,
    /// The metadata of the node.
    pub meta: Metadata,
}

impl AgentIdentity {
    /// A UUID that stays as long as the registry lives.
    #[must_use]
    pub fn made_up_id(life: Incarnation, node: &str) -> String {
        let mut hasher = SipHasher13::new();
        hasher.write_u64(life.0);
        hasher.write(node.as_bytes());
        // Version 4, variant 1: what is made up is told to be.
        let id = hasher.finish128().as_u128() & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        let digits = format!("{id:032x}");
        [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
    }

    /// The name under which a node is kept: empty for ours.
    pub(super) fn kept_name<'a>(&self, node: &'a str) -> &'a str {
        if same_node(node, &self.node) { "" } else { node }
    }

    /// The name under which a node is shown.
    pub(super) fn shown_name<'a>(&'a self, kept: &'a str) -> Cow<'a, str> {
        Cow::Borrowed(if kept.is_empty() { &self.node } else { kept })
    }

    /// The service that this is, as every Consul has one.
    pub(super) fn itself(&self, registry: &Registry) -> Result<Instance, FieldError> {
        let revision = Revision(registry.beginning().0.max(2) - 1);
        let version = std::collections::BTreeMap::from([("version".to_owned(), VERSION.to_owned())]);
        let address = self.address.to_string();
        Ok(Instance {
            service: ServiceName::parse(ITSELF)?,
            id: InstanceId::parse(ITSELF)?,
            addresses: [Address::with_any_port(&address, SERVER_PORT.into(), "")?].into(),
            tags: Tags::default(),
            metadata: Metadata::parse(version.iter())?,
            weight: Weight::DEFAULT,
            locality: None,
            checks: InstanceChecks::default(),
            conditions: Conditions::default(),
            consul_registration: Some(Arc::new(ConsulRegistration {
                id: ITSELF.into(),
                warning_weight: 1,
                description_revision: revision,
                ..ConsulRegistration::default()
            })),
            registered_at: UnixMillis(0),
            registered_revision: revision,
            revision,
        })
    }

    /// Our node.
    pub(super) fn own_node(&self, registry: &Registry) -> NodeView<'_> {
        let address = self.address.to_string();
        let kind = if self.address.is_ipv4() {
            ["lan", "lan_ipv4", "wan", "wan_ipv4"]
        } else {
            ["lan", "lan_ipv6", "wan", "wan_ipv6"]
        };
        let tagged = kind.map(|name| (Cow::Borrowed(name), Cow::Owned(address.clone())));
        let mut meta: Map<'_> = self.meta.iter().map(|(key, value)| (key.into(), value.into())).collect();
        meta.insert("consul-network-segment".into(), "".into());
        meta.insert("consul-version".into(), VERSION.into());
        let index = registry.beginning().0.max(2);
        NodeView {
            id: Cow::Borrowed(&self.id),
            node: Cow::Borrowed(&self.node),
            address: address.into(),
            datacenter: &self.datacenter,
            tagged_addresses: Some(tagged.into()),
            meta: Some(meta),
            // It is there, and is then told what it is: as in Consul.
            create_index: index - 1,
            modify_index: index,
        }
    }

    /// Another node, as it was registered.
    pub(super) fn other_node<'a>(&'a self, node: &'a Instance) -> NodeView<'a> {
        let listing = node.consul_registration.as_deref();
        let tagged: Map<'_> = listing
            .iter()
            .flat_map(|listing| &listing.tagged_addresses)
            .map(|(name, host, _)| (Cow::Borrowed(&**name), Cow::Borrowed(&**host)))
            .collect();
        let meta: Map<'_> = node.metadata.iter().map(|(key, value)| (key.into(), value.into())).collect();
        NodeView {
            id: Cow::Borrowed(listing.map_or("", |listing| &*listing.id)),
            node: Cow::Borrowed(listing.map_or("", |listing| &*listing.node)),
            address: Cow::Borrowed(listing.map_or("", |listing| &*listing.address)),
            datacenter: &self.datacenter,
            tagged_addresses: (!tagged.is_empty()).then_some(tagged),
            meta: (!meta.is_empty()).then_some(meta),
            create_index: node.registered_revision.0,
            modify_index: listing.map_or(node.revision, |listing| listing.description_revision).0,
        }
    }
}

/// A node and what is registered of it: of ours, perhaps nothing.
#[derive(Debug, Clone)]
pub(super) struct AgentNode {
    /// As it is kept: empty for ours.
    pub(super) name: Box<str>,
    pub(super) entry: Option<Arc<Entry>>,
}

impl AgentNode {
    /// Ours.
    pub(super) fn own(registry: &Registry) -> Self {
        Self { name: "".into(), entry: registry.node("") }
    }

    /// The node of that name, in any case. `None`: it is not registered.
    pub(super) fn find(registry: &Registry, kept: &str) -> Option<Self> {
        let entry = registry.node(kept);
        (kept.is_empty() || entry.is_some()).then(|| Self::new(kept, entry))
    }

    /// The node of an instance; one that nobody has registered is one without an address.
    pub(super) fn of(registry: &Registry, instance: &Instance) -> Self {
        let name = instance.consul_registration.as_ref().map_or("", |listing| &*listing.node);
        Self::new(name, registry.node(name))
    }

    /// A node under the name that it gave itself last.
    fn new(name: &str, entry: Option<Arc<Entry>>) -> Self {
        let known = entry.as_ref().and_then(|entry| entry.instance.consul_registration.as_ref());
        Self { name: known.map_or_else(|| name.into(), |listing| listing.node.clone()), entry }
    }

    /// All nodes, by name.
    pub(super) fn all(registry: &Registry, agent: &AgentIdentity) -> Vec<Self> {
        let blocks = registry.blocks(&crate::model::node_service());
        let all = blocks.iter().flat_map(|block| block.entries()).map(|entry| Self::new("", Some(Arc::clone(entry))));
        let others = all.filter(|host| !host.name.is_empty());
        let mut all: Vec<_> = std::iter::once(Self::own(registry)).chain(others).collect();
        all.sort_by_cached_key(|host| node_id(&agent.shown_name(&host.name)));
        all
    }

    /// As it is shown.
    pub(super) fn view<'a>(&'a self, agent: &'a AgentIdentity, registry: &Registry) -> NodeView<'a> {
        match &self.entry {
            Some(entry) if !self.name.is_empty() => agent.other_node(&entry.instance),
            Some(_) | None if self.name.is_empty() => agent.own_node(registry),
            _ => NodeView {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_id_is_a_uuid_and_stays() {
        let id = AgentIdentity::made_up_id(Incarnation(7), "n1");
        assert_eq!(id, AgentIdentity::made_up_id(Incarnation(7), "n1"));
        assert_ne!(id, AgentIdentity::made_up_id(Incarnation(8), "n1"));
        assert_ne!(id, AgentIdentity::made_up_id(Incarnation(7), "n2"));
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert!("89ab".contains(&id[19..20]), "{id}");
    }
}
