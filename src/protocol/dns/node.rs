//! Nodes as DNS shows them.

use std::{net::IpAddr, sync::Arc};

use hickory_proto::rr::Name;

use super::{endpoints::EndpointTarget, zone::Zone};
use crate::{
    model::Metadata,
    registry::{Entry, Registry, node_name},
};

/// A node.
#[derive(Debug, Clone)]
pub(super) enum DnsNode {
    /// The local node. `None`: nothing was registered of it.
    Local(Option<Arc<Entry>>),
    /// Another one, as it was registered.
    Other(Arc<Entry>),
}

impl DnsNode {
    /// The local node.
    pub(super) fn local(registry: &Registry) -> Self {
        Self::Local(registry.node(""))
    }

    /// The node of that name, whatever its case.
    pub(super) fn named(registry: &Registry, zone: &Zone, name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case(&zone.node) {
            return Some(Self::local(registry));
        }
        registry.node(name).map(Self::Other)
    }

    /// The node that an instance names; empty for the local node.
    pub(super) fn of_instance(registry: &Registry, name: &str) -> Option<Self> {
        if name.is_empty() { Some(Self::local(registry)) } else { registry.node(name).map(Self::Other) }
    }

    /// The nodes with this address, the local node first.
    pub(super) fn at(registry: &Registry, zone: &Zone, address: IpAddr) -> Vec<Self> {
        let local = Some(Self::local(registry)).filter(|local| local.address(zone) == Some(address));
        let others = registry.nodes_at(address).into_iter().filter(|node| !node_name(&node.instance).is_empty());
        local.into_iter().chain(others.map(Self::Other)).collect()
    }

    /// Its name in the zone. `None`: it is none that DNS could say.
    pub(super) fn name(&self, zone: &Zone) -> Option<Name> {
        match self {
            Self::Local(_) => zone.own(),
            Self::Other(entry) => zone.node_name(node_name(&entry.instance)),
        }
    }

    /// Where it is.
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

    /// Its address, if that is not a host name.
    pub(super) fn address(&self, zone: &Zone) -> Option<IpAddr> {
        self.target(zone)?.address()
    }

    /// What was registered with it.
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
