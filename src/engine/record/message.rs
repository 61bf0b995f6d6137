//! Protocol Buffers message of an instance.

use std::{fmt, time::Duration};

use prost::Message;

use super::{
    DecodeError, RecordConsulRegistration, StoredInstance, StoredLease,
    check::{self, RecordCheck},
    consul_registration, resolve_revision,
    span::millis,
    unknown_fields::{KnownFields, MessageIdentity, NestedMessage},
};
use crate::model::{
    Address, BootId, Conditions, Instance, InstanceId, LeaseId, LeaseTerms, Locality, Metadata, Revision, ServiceName,
    Tags, UnixMillis, Weight,
};

// Field numbers never change: a number keeps its meaning, or stays unused.

/// Fields of an [`InstanceRecord`].
pub const INSTANCE_FIELDS: KnownFields = KnownFields {
    numbers: &[1..=19],
    messages: &[
        NestedMessage { number: 1, fields: &ADDRESS_FIELDS, identity: MessageIdentity::Fields(&[1, 2, 3]) },
        NestedMessage { number: 5, fields: &LOCALITY_FIELDS, identity: MessageIdentity::Single },
        NestedMessage { number: 12, fields: &LEASE_FIELDS, identity: MessageIdentity::Fields(&[1]) },
        NestedMessage { number: 14, fields: &check::CHECK_FIELDS, identity: MessageIdentity::Fields(&[1]) },
        NestedMessage {
            number: 15,
            fields: &consul_registration::REGISTRATION_FIELDS,
            identity: MessageIdentity::Single,
        },
    ],
};
const ADDRESS_FIELDS: KnownFields = KnownFields { numbers: &[1..=3], messages: &[] };
const LOCALITY_FIELDS: KnownFields = KnownFields { numbers: &[1..=3], messages: &[] };
const LEASE_FIELDS: KnownFields = KnownFields { numbers: &[1..=4], messages: &[] };

/// Record of an instance.
#[derive(Clone, PartialEq, Message)]
#[expect(clippy::struct_excessive_bools, reason = "conditions, each of which may be set")]
pub struct InstanceRecord {
    #[prost(message, repeated, tag = "1")]
    pub addresses: Vec<RecordAddress>,
    #[prost(string, repeated, tag = "2")]
    pub tags: Vec<String>,
    #[prost(btree_map = "string, string", tag = "3")]
    pub metadata: std::collections::BTreeMap<String, String>,
    #[prost(uint32, tag = "4")]
    pub weight: u32,
    #[prost(message, optional, tag = "5")]
    pub locality: Option<RecordLocality>,
    #[prost(bool, tag = "6")]
    pub starting: bool,
    #[prost(bool, tag = "7")]
    pub self_draining: bool,
    #[prost(bool, tag = "8")]
    pub operator_draining: bool,
    #[prost(uint64, tag = "9")]
    pub registered_at: u64,
    #[prost(uint64, tag = "10")]
    pub registered_revision: u64,
    #[prost(uint64, tag = "11")]
    pub revision: u64,
    #[prost(message, optional, tag = "12")]
    pub lease: Option<RecordLease>,
    #[prost(bool, tag = "13")]
    pub suspect: bool,
    #[prost(message, repeated, tag = "14")]
    pub checks: Vec<RecordCheck>,
    #[prost(message, optional, tag = "15")]
    pub consul_registration: Option<RecordConsulRegistration>,
    #[prost(bool, tag = "16")]
    pub was_healthy: bool,
    #[prost(bool, tag = "17")]
    pub node_drained: bool,
    #[prost(bool, tag = "18")]
    pub node_critical: bool,
    #[prost(bool, tag = "19")]
    pub node_warning: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct RecordAddress {
    #[prost(string, tag = "1")]
    pub host: String,
    #[prost(uint32, tag = "2")]
    pub port: u32,
    #[prost(string, tag = "3")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct RecordLocality {
    #[prost(string, tag = "1")]
    pub region: String,
    #[prost(string, tag = "2")]
    pub zone: String,
    #[prost(string, tag = "3")]
    pub sub_zone: String,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct RecordLease {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub boot: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub ttl_ms: u64,
    #[prost(uint64, optional, tag = "4")]
    pub grace_ms: Option<u64>,
}

impl InstanceRecord {
    pub fn new(instance: &Instance, lease: Option<StoredLease>) -> Self {
        let addresses = instance.addresses.iter().map(|address| RecordAddress {
            host: address.host.to_string(),
            port: address.port.into(),
            name: address.name.to_string(),
        });
        let Conditions {
            starting,
            self_draining,
            operator_draining,
            suspect,
            was_healthy,
            node_drained,
            node_critical,
            node_warning,
        } = instance.conditions;
        Self {
            addresses: addresses.collect(),
            tags: instance.tags.iter().map(str::to_owned).collect(),
            metadata: instance.metadata.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            weight: instance.weight.get().into(),
            locality: instance.locality.as_deref().map(|locality| RecordLocality {
                region: locality.region.to_string(),
                zone: locality.zone.to_string(),
                sub_zone: locality.sub_zone.to_string(),
            }),
            starting,
            self_draining,
            operator_draining,
            suspect,
            registered_at: instance.registered_at.0,
            registered_revision: instance.registered_revision.0,
            revision: instance.revision.0,
            lease: lease.map(RecordLease::new),
            checks: check::encode(&instance.checks),
            consul_registration: instance.consul_registration.as_deref().map(RecordConsulRegistration::new),
            was_healthy,
            node_drained,
            node_critical,
            node_warning,
        }
    }

    /// Replaces 0, and what is above it, by the revision of this record.
    pub fn resolve_revisions(&mut self, this: Revision) {
        for revision in [&mut self.revision, &mut self.registered_revision] {
            resolve_revision(revision, this);
        }
        for check in &mut self.checks {
            check.resolve_revisions(this);
        }
        if let Some(registration) = &mut self.consul_registration {
            registration.resolve_revisions(this);
        }
    }

    pub fn into_stored(self, service: &str, id: &str) -> Result<StoredInstance, DecodeError> {
        let addresses = self.addresses.iter().map(|address| (address.host.as_str(), address.port, &*address.name));
        let locality = self.locality.unwrap_or_default();
        let service = ServiceName::parse_stored(service)?;
        let mut consul_registration =
            self.consul_registration.as_ref().map(RecordConsulRegistration::to_registration).transpose()?;
        let instance = Instance {
            id: InstanceId::from_stored(&service, id, consul_registration.as_mut())?,
            service,
            addresses: Address::parse_all_stored(addresses)?,
            tags: Tags::parse_stored(&self.tags)?,
            metadata: Metadata::parse_stored(self.metadata.iter())?,
            weight: Weight::parse(self.weight)?,
            locality: Locality::parse(&locality.region, &locality.zone, &locality.sub_zone)?,
            conditions: Conditions {
                starting: self.starting,
                self_draining: self.self_draining,
                operator_draining: self.operator_draining,
                suspect: self.suspect,
                was_healthy: self.was_healthy,
                node_drained: self.node_drained,
                node_critical: self.node_critical,
                node_warning: self.node_warning,
            },
            checks: check::decode(&self.checks)?,
            consul_registration,
            registered_at: UnixMillis(self.registered_at),
            registered_revision: Revision(self.registered_revision),
            revision: Revision(self.revision),
        };
        Ok(StoredInstance { instance, lease: self.lease.map(RecordLease::into_lease).transpose()? })
    }
}

impl fmt::Debug for RecordLease {
    /// Omits the ids, which are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordLease")
            .field("ttl_ms", &self.ttl_ms)
            .field("grace_ms", &self.grace_ms)
            .finish_non_exhaustive()
    }
}

impl RecordLease {
    pub fn new(lease: StoredLease) -> Self {
        Self {
            id: lease.id.to_bytes().to_vec(),
            boot: lease.boot.digest().to_be_bytes().to_vec(),
            ttl_ms: millis(lease.terms.ttl()),
            grace_ms: lease.terms.disconnect_grace().map(millis),
        }
    }

    fn into_lease(self) -> Result<StoredLease, DecodeError> {
        let boot = self.boot.as_slice().try_into().map_err(|_| DecodeError::Lease)?;
        Ok(StoredLease {
            id: LeaseId::from_bytes(&self.id).ok_or(DecodeError::Lease)?,
            boot: BootId::from_digest(u128::from_be_bytes(boot)),
            terms: LeaseTerms::grant(
                Some(Duration::from_millis(self.ttl_ms)),
                self.grace_ms.map(Duration::from_millis),
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::unknown_fields::tests::assert_known_fields, *};

    #[test]
    fn known_fields_of_an_instance_are_those_of_its_messages() {
        const METADATA: u32 = 3;
        assert_known_fields::<InstanceRecord>(&INSTANCE_FIELDS, &[METADATA]);
        assert_known_fields::<RecordAddress>(&ADDRESS_FIELDS, &[]);
        assert_known_fields::<RecordLocality>(&LOCALITY_FIELDS, &[]);
        assert_known_fields::<RecordLease>(&LEASE_FIELDS, &[]);
    }
}
