//! Identity of the agent that this registry is for programs written for Consul: its datacenter and its node.

use std::{borrow::Cow, collections::BTreeMap, hash::Hasher, net::IpAddr, sync::Arc};

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::{
    model::{
        Address, Conditions, ConsulRegistration, FieldError, Incarnation, Instance, InstanceChecks, InstanceId,
        Metadata, Revision, ServiceName, Tags, UnixMillis, Weight, same_node,
    },
    registry::Registry,
};

/// Version of Consul whose API is implemented.
pub(super) const VERSION: &str = "1.21.4";

/// Name and id of the service of the Consul servers, which every Consul catalog has.
pub(super) const CONSUL_SERVICE: &str = "consul";
/// Port on which Consul servers speak to each other. Callboard does not listen there.
pub(super) const SERVER_PORT: u16 = 8300;

/// Identity of the agent: its datacenter and its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// Name of the datacenter.
    pub datacenter: String,
    /// Name of the local node.
    pub node: String,
    /// UUID of the local node.
    pub id: String,
    /// Address of the local node, and of every service on it that is registered without one.
    pub address: IpAddr,
    /// Metadata of the local node.
    pub meta: Metadata,
}

impl AgentIdentity {
    /// Returns a UUID (version 4) that stays the same for an incarnation of the registry and a node name.
    #[must_use]
    pub fn derived_id(incarnation: Incarnation, node: &str) -> String {
        let mut hasher = SipHasher13::new();
        hasher.write_u64(incarnation.0);
        hasher.write(node.as_bytes());
        // Sets the bits for version 4 and variant 1.
        let id = hasher.finish128().as_u128() & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
        let digits = format!("{id:032x}");
        [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
    }

    /// Returns the name under which the registry stores a node: empty for the local one.
    pub(super) fn stored_name<'a>(&self, node: &'a str) -> &'a str {
        if same_node(node, &self.node) { "" } else { node }
    }

    /// Returns the name of a stored node in answers.
    pub(super) fn display_name<'a>(&'a self, stored: &'a str) -> Cow<'a, str> {
        Cow::Borrowed(if stored.is_empty() { &self.node } else { stored })
    }

    /// Returns the service `consul`, which stands for the registry itself and has no entry in it.
    pub(super) fn consul_service(&self, registry: &Registry) -> Result<Instance, FieldError> {
        let revision = Revision(registry.configured_revision().0 - 1);
        let version = BTreeMap::from([("version".to_owned(), VERSION.to_owned())]);
        let address = self.address.to_string();
        Ok(Instance {
            service: ServiceName::parse(CONSUL_SERVICE)?,
            id: InstanceId::parse(CONSUL_SERVICE)?,
            addresses: [Address::with_any_port(&address, SERVER_PORT.into(), "")?].into(),
            tags: Tags::default(),
            metadata: Metadata::parse(version.iter())?,
            weight: Weight::DEFAULT,
            locality: None,
            checks: InstanceChecks::default(),
            conditions: Conditions::default(),
            consul_registration: Some(Arc::new(ConsulRegistration {
                id: CONSUL_SERVICE.into(),
                warning_weight: 1,
                description_revision: revision,
                ..ConsulRegistration::default()
            })),
            registered_at: UnixMillis(0),
            registered_revision: revision,
            revision,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_id_is_a_uuid_and_depends_on_incarnation_and_node() {
        let id = AgentIdentity::derived_id(Incarnation(7), "n1");
        assert_eq!(id, AgentIdentity::derived_id(Incarnation(7), "n1"));
        assert_ne!(id, AgentIdentity::derived_id(Incarnation(8), "n1"));
        assert_ne!(id, AgentIdentity::derived_id(Incarnation(7), "n2"));
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert!("89ab".contains(&id[19..20]), "{id}");
    }
}
