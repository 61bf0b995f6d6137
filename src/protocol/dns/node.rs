//! Nodes in DNS.

use std::{net::IpAddr, sync::Arc};

use hickory_proto::rr::Name;

use super::{target::EndpointTarget, zone::Zone};
use crate::{
    model::Metadata,
    registry::{Entry, Registry, node_name},
};

/// Node that has a name in the zone.
#[derive(Debug, Clone)]
pub(super) enum DnsNode {
    /// The local node, with its registration, if it has one.
    Local(Option<Arc<Entry>>),
    /// Another node, with its registration.
    Other(Arc<Entry>),
}

impl DnsNode {
    /// Returns the local node.
    pub(super) fn local(registry: &Registry) -> Self {
        Self::Local(registry.node(""))
    }

    /// Finds a node by its name in DNS, in any case.
    pub(super) fn find(registry: &Registry, zone: &Zone, name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case(&zone.node) {
            return Some(Self::local(registry));
        }
        registry.node(name).map(Self::Other)
    }

    /// Finds the node of an instance by the name in its registration, which is empty for the local node.
    pub(super) fn of_instance(registry: &Registry, name: &str) -> Option<Self> {
        if name.is_empty() { Some(Self::local(registry)) } else { registry.node(name).map(Self::Other) }
    }

    /// Returns the nodes with this address, the local node first.
    pub(super) fn with_address(registry: &Registry, zone: &Zone, address: IpAddr) -> Vec<Self> {
        let local = Some(Self::local(registry)).filter(|local| local.address(zone) == Some(address));
        let others = registry.nodes_at(address).into_iter().filter(|node| !node_name(&node.instance).is_empty());
        local.into_iter().chain(others.map(Self::Other)).collect()
    }

    /// Returns the name of the node in the zone. `None`: it is not a valid DNS name.
    pub(super) fn name(&self, zone: &Zone) -> Option<Name> {
        match self {
            Self::Local(_) => zone.local_node_name(),
            Self::Other(entry) => zone.node_name(node_name(&entry.instance)),
        }
    }

    /// Returns the address or host name of the node. `None`: its host is not a valid DNS name.
    pub(super) fn target(&self, zone: &Zone) -> Option<EndpointTarget> {
        let registered = self
            .entry()
            .and_then(|entry| entry.instance.addresses.first())
            .and_then(|first| EndpointTarget::of(&first.host));
        match self {
            Self::Local(_) => registered.or(Some(EndpointTarget::Address(zone.address))),
            Self::Other(_) => registered,
        }
    }

    /// Returns the address of the node, unless it is registered with a host name.
    pub(super) fn address(&self, zone: &Zone) -> Option<IpAddr> {
        self.target(zone)?.address()
    }

    /// Returns the metadata of the node's registration.
    pub(super) fn metadata(&self) -> Option<&Metadata> {
        self.entry().map(|entry| &entry.instance.metadata)
    }

    fn entry(&self) -> Option<&Arc<Entry>> {
        match self {
            Self::Local(entry) => entry.as_ref(),
            Self::Other(entry) => Some(entry),
        }
    }
}
