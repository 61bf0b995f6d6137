//! Targets of records: where an instance or a node can be reached.

use std::net::IpAddr;

use hickory_proto::rr::Name;

use super::zone::{self, Zone};

/// Bytes of an SRV record without its target: a pointer to the owner, type, class, TTL, length, priority, weight and port.
const SRV_FIXED_BYTES: usize = 18;

/// Target of the records of an instance or a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum EndpointTarget {
    /// An address.
    Address(IpAddr),
    /// Name and address of a node: the instance has no address of its own.
    Node(Name, IpAddr),
    /// A host name, which the client has to resolve unless it is in the zone.
    Host(Name),
}

impl EndpointTarget {
    /// Returns the target for a registered host. `None`: the host is not a valid DNS name.
    pub(super) fn of(host: &str) -> Option<Self> {
        match host.parse::<IpAddr>() {
            Ok(address) => Some(Self::Address(address.to_canonical())),
            Err(_) => zone::name(host).map(Self::Host),
        }
    }

    /// Returns the address, unless the target is a host name.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) | Self::Node(_, address) => Some(*address),
            Self::Host(_) => None,
        }
    }

    /// Returns the name that SRV records point to. `None`: the name would be too long.
    pub(super) fn name(&self, zone: &Zone) -> Option<Name> {
        match self {
            Self::Address(address) => zone.address_name(*address),
            Self::Node(name, _) | Self::Host(name) => Some(name.clone()),
        }
    }

    /// Returns a lower bound of the bytes of an SRV record with this target.
    pub(super) fn min_srv_bytes(&self, zone: &Zone) -> usize {
        let name = match self {
            Self::Address(address) => zone.min_address_name_bytes(*address),
            Self::Node(name, _) | Self::Host(name) => name.len(),
        };
        SRV_FIXED_BYTES + name
    }
}
