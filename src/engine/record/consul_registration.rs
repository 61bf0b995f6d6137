//! Protocol Buffers message of a Consul registration. A line of an export has the same form as JSON.

use std::sync::Arc;

use prost::Message;
use serde::{Deserialize, Serialize};

use super::{
    resolve_revision,
    unknown_fields::{KnownFields, MessageIdentity, NestedMessage},
};
use crate::model::{ConsulRegistration, FieldError, Revision};

// Field numbers never change.

/// Fields of a [`RecordConsulRegistration`].
pub const REGISTRATION_FIELDS: KnownFields = KnownFields {
    numbers: &[1..=10, 20..=22],
    messages: &[NestedMessage { number: 4, fields: &TAGGED_ADDRESS_FIELDS, identity: MessageIdentity::Fields(&[1]) }],
};
const TAGGED_ADDRESS_FIELDS: KnownFields = KnownFields { numbers: &[1..=3], messages: &[] };

/// Part of a registration that only registrations through the Consul API have.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordConsulRegistration {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    node: String,
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    address: String,
    #[prost(message, repeated, tag = "4")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tagged_addresses: Vec<RecordTaggedAddress>,
    #[prost(uint32, tag = "5")]
    warning_weight: u32,
    #[prost(bool, tag = "6")]
    enable_tag_override: bool,
    #[prost(string, tag = "7")]
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    #[prost(string, tag = "8")]
    #[serde(skip_serializing_if = "String::is_empty")]
    socket_path: String,
    #[prost(string, tag = "9")]
    #[serde(skip_serializing_if = "String::is_empty")]
    maintenance: String,
    #[prost(uint64, tag = "10")]
    #[serde(alias = "described")]
    description_revision: u64,
    #[prost(string, tag = "20")]
    #[serde(skip_serializing_if = "String::is_empty")]
    proxy: String,
    #[prost(bool, tag = "21")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    connect_native: bool,
    #[prost(bool, tag = "22")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    from_catalog: bool,
}

/// Address for another network.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordTaggedAddress {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    host: String,
    #[prost(uint32, tag = "3")]
    port: u32,
}

impl RecordConsulRegistration {
    /// Encodes a Consul registration.
    #[must_use]
    pub fn new(registration: &ConsulRegistration) -> Self {
        let address = |(name, host, port): &(Box<str>, Box<str>, u16)| RecordTaggedAddress {
            name: name.to_string(),
            host: host.to_string(),
            port: (*port).into(),
        };
        Self {
            node: registration.node.to_string(),
            id: registration.id.to_string(),
            address: registration.address.to_string(),
            tagged_addresses: registration.tagged_addresses.iter().map(address).collect(),
            warning_weight: registration.warning_weight.into(),
            enable_tag_override: registration.enable_tag_override,
            kind: registration.kind.to_string(),
            socket_path: registration.socket_path.to_string(),
            maintenance: registration.maintenance.to_string(),
            description_revision: registration.description_revision.0,
            proxy: registration.proxy.to_string(),
            connect_native: registration.connect_native,
            from_catalog: registration.from_catalog,
        }
    }

    /// Replaces 0, and what is above it, by the revision of this record.
    pub fn resolve_revisions(&mut self, this: Revision) {
        resolve_revision(&mut self.description_revision, this);
    }

    /// Decodes the Consul registration.
    ///
    /// # Errors
    ///
    /// When the registry does not accept it.
    pub fn to_registration(&self) -> Result<Arc<ConsulRegistration>, FieldError> {
        let number = |field, value: u32| {
            u16::try_from(value)
                .map_err(|_| FieldError::new(field, &value.to_string(), "is too large", "write 0 to 65535"))
        };
        let address = |RecordTaggedAddress { name, host, port }: &RecordTaggedAddress| {
            Ok((name.as_str().into(), host.as_str().into(), number("port", *port)?))
        };
        let registration = ConsulRegistration {
            node: self.node.as_str().into(),
            id: self.id.as_str().into(),
            address: self.address.as_str().into(),
            tagged_addresses: self.tagged_addresses.iter().map(address).collect::<Result<_, FieldError>>()?,
            warning_weight: number("warning_weight", self.warning_weight)?,
            enable_tag_override: self.enable_tag_override,
            kind: self.kind.as_str().into(),
            socket_path: self.socket_path.as_str().into(),
            maintenance: self.maintenance.as_str().into(),
            description_revision: Revision(self.description_revision),
            proxy: self.proxy.as_str().into(),
            connect_native: self.connect_native,
            from_catalog: self.from_catalog,
        };
        registration.validated().map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::unknown_fields::tests::assert_known_fields, *};

    #[test]
    fn known_fields_of_a_consul_registration_are_those_of_its_messages() {
        assert_known_fields::<RecordConsulRegistration>(&REGISTRATION_FIELDS, &[]);
        assert_known_fields::<RecordTaggedAddress>(&TAGGED_ADDRESS_FIELDS, &[]);
    }

    #[test]
    fn consul_registration_survives_encoding() {
        let registration = ConsulRegistration {
            node: "ext".into(),
            id: "db".into(),
            tagged_addresses: [("lan".into(), "10.0.0.1".into(), 80)].into(),
            warning_weight: 7,
            enable_tag_override: true,
            proxy: r#"{"Config":{"a":1}}"#.into(),
            connect_native: true,
            from_catalog: true,
            maintenance: "why".into(),
            description_revision: Revision(9),
            ..ConsulRegistration::default()
        };
        let record = RecordConsulRegistration::new(&registration);
        assert_eq!(record.to_registration(), Ok(registration.into()));
        assert!(RecordConsulRegistration { warning_weight: 70_000, ..record }.to_registration().is_err());
    }
}
