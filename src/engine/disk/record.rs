//! An instance as bytes on the disk.
//!
//! A record is a Protocol Buffers message, so that fields can be added without a new format, and behind it a tag of eight
//! bytes: `SipHash`-2-4 of key and message under a key that each store makes up for itself. What was written for another
//! instance, by another store or not at all does not pass for a record.

pub mod check;
pub mod saved;

use std::{hash::Hasher, sync::Arc, time::Duration};

use prost::Message;
use siphasher::sip::SipHasher24;

use check::{RecordCheck, RecordConsulRegistration};
use saved::SavedCheckRecord;

use crate::{
    engine::SavedCheck,
    model::{
        Address, BootId, CheckId, Conditions, FieldError, Instance, InstanceId, LeaseId, LeaseTerms, Locality,
        Metadata, Revision, ServiceName, Tags, UnixMillis, Weight,
    },
    registry::Lease,
};

/// Bytes of the tag.
const TAG: usize = 8;

/// What the store keeps of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredInstance {
    /// What readers see.
    pub instance: Instance,
    /// What keeps it registered. `None`: it stays until somebody removes it.
    pub lease: Option<StoredLease>,
}

/// A lease without its deadline: heartbeats are never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredLease {
    /// Its name.
    pub id: LeaseId,
    /// The start of the program that holds it.
    pub boot: BootId,
    /// Its terms.
    pub terms: LeaseTerms,
}

impl StoredLease {
    /// What is to be stored of a lease.
    #[must_use]
    pub fn of(lease: &Lease) -> Self {
        Self { id: lease.id, boot: lease.boot, terms: lease.terms() }
    }

    /// The same on these terms, where any are granted.
    #[must_use]
    pub fn on(self, terms: Option<LeaseTerms>) -> Self {
        Self { terms: terms.unwrap_or(self.terms), ..self }
    }
}

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The tag is not that of these bytes under this key in this store.
    #[error("its tag does not fit its bytes")]
    Tag,
    /// The bytes are no message.
    #[error("it is no message")]
    Message,
    /// A field has a value that the registry never had.
    #[error("{0}")]
    Field(#[from] FieldError),
    /// A lease or boot id that has another length than all have.
    #[error("its lease is no lease")]
    Lease,
}

/// Makes and checks the tags of one store.
#[derive(Debug, Clone, Copy)]
pub struct RecordSigner {
    key: (u64, u64),
}

impl RecordSigner {
    /// The seal of the store with this key.
    #[must_use]
    pub fn new(key: u128) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "takes the two halves apart")]
        let low = key as u64;
        Self { key: ((key >> 64) as u64, low) }
    }

    /// The tag of a message under a key. Lengths go in, so that nothing can move from one part to the other.
    #[must_use]
    pub fn tag(self, service: &str, id: &str, message: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        for part in [service.as_bytes(), id.as_bytes(), message] {
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        hasher.finish()
    }

    /// The bytes of the saved state of a check, and their tag. `key`: service, instance and check.
    #[must_use]
    pub fn encode_state(self, (service, id, check): (&str, &str, &CheckId), state: &SavedCheck) -> (Vec<u8>, u64) {
        let mut bytes = SavedCheckRecord::new(check, state).encode_to_vec();
        let tag = self.tag(service, id, &bytes);
        bytes.extend(tag.to_be_bytes());
        (bytes, tag)
    }

    /// The bytes of a record, and their tag.
    #[must_use]
    pub fn encode(self, instance: &Instance, lease: Option<StoredLease>) -> (Vec<u8>, u64) {
        let record = InstanceRecord::new(instance, lease);
        let mut bytes = Vec::with_capacity(record.encoded_len() + TAG);
        record.encode_raw(&mut bytes);
        let tag = self.tag(instance.service.as_str(), instance.id.as_str(), &bytes);
        bytes.extend(tag.to_be_bytes());
        (bytes, tag)
    }

    /// Takes the tag off a record, if it is the right one.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn open<'a>(self, service: &str, id: &str, bytes: &'a [u8]) -> Result<(&'a [u8], u64), DecodeError> {
        let (message, tag) = bytes.split_last_chunk::<TAG>().ok_or(DecodeError::Tag)?;
        let tag = u64::from_be_bytes(*tag);
        if tag == self.tag(service, id, message) { Ok((message, tag)) } else { Err(DecodeError::Tag) }
    }
}

/// The tag that a record carries, without checking it.
#[must_use]
pub fn tag_of(bytes: &[u8]) -> Option<u64> {
    bytes.last_chunk::<TAG>().map(|tag| u64::from_be_bytes(*tag))
}

/// What a message says, for the instance under this key.
///
/// # Errors
///
/// When it is no message of an instance.
pub fn decode(service: &str, id: &str, message: &[u8]) -> Result<StoredInstance, DecodeError> {
    InstanceRecord::decode(message).map_err(|_| DecodeError::Message)?.into_stored(service, id)
}

/// The check and its saved state that a message has.
///
/// # Errors
///
/// When it is no message of one.
pub fn decode_state(message: &[u8]) -> Result<(CheckId, SavedCheck), DecodeError> {
    Ok(SavedCheckRecord::decode(message).map_err(|_| DecodeError::Message)?.restore()?)
}

// Field numbers are for good: a number that was once given out keeps its meaning, or is left alone.

#[derive(Clone, PartialEq, Message)]
#[expect(clippy::struct_excessive_bools, reason = "conditions, each of which may be set")]
struct InstanceRecord {
    #[prost(message, repeated, tag = "1")]
    addresses: Vec<RecordAddress>,
    #[prost(string, repeated, tag = "2")]
    tags: Vec<String>,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: std::collections::BTreeMap<String, String>,
    #[prost(uint32, tag = "4")]
    weight: u32,
    #[prost(message, optional, tag = "5")]
    locality: Option<RecordLocality>,
    #[prost(bool, tag = "6")]
    starting: bool,
    #[prost(bool, tag = "7")]
    leaving: bool,
    #[prost(bool, tag = "8")]
    drained: bool,
    #[prost(uint64, tag = "9")]
    registered_at: u64,
    #[prost(uint64, tag = "10")]
    registered_revision: u64,
    #[prost(uint64, tag = "11")]
    revision: u64,
    #[prost(message, optional, tag = "12")]
    lease: Option<RecordLease>,
    #[prost(bool, tag = "13")]
    suspect: bool,
    #[prost(message, repeated, tag = "14")]
    checks: Vec<RecordCheck>,
    #[prost(message, optional, tag = "15")]
    listing: Option<RecordConsulRegistration>,
    #[prost(bool, tag = "16")]
    proved: bool,
    #[prost(bool, tag = "17")]
    node_drained: bool,
    #[prost(bool, tag = "18")]
    node_critical: bool,
    #[prost(bool, tag = "19")]
    node_warning: bool,
}

#[derive(Clone, PartialEq, Message)]
struct RecordAddress {
    #[prost(string, tag = "1")]
    host: String,
    #[prost(uint32, tag = "2")]
    port: u32,
    #[prost(string, tag = "3")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct RecordLocality {
    #[prost(string, tag = "1")]
    region: String,
    #[prost(string, tag = "2")]
    zone: String,
    #[prost(string, tag = "3")]
    sub_zone: String,
}

#[derive(Clone, PartialEq, Message)]
struct RecordLease {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    boot: Vec<u8>,
    #[prost(uint64, tag = "3")]
    ttl_ms: u64,
    #[prost(uint64, optional, tag = "4")]
    grace_ms: Option<u64>,
}

impl InstanceRecord {
    fn new(instance: &Instance, lease: Option<StoredLease>) -> Self {
        let addresses = instance.addresses.iter().map(|address| RecordAddress {
            host: address.host.to_string(),
            port: address.port.into(),
            name: address.name.to_string(),
        });
        let Conditions {
            starting,
            self_draining: leaving,
            operator_draining: drained,
            suspect,
            was_healthy: proved,
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
            leaving,
            drained,
            suspect,
            registered_at: instance.registered_at.0,
            registered_revision: instance.registered_revision.0,
            revision: instance.revision.0,
            lease: lease.map(RecordLease::new),
            checks: check::keep(&instance.checks),
            listing: instance.consul_registration.as_deref().map(RecordConsulRegistration::new),
            proved,
            node_drained,
            node_critical,
            node_warning,
        }
    }

    fn into_stored(self, service: &str, id: &str) -> Result<StoredInstance, DecodeError> {
        let addresses = self.addresses.iter().map(|address| (address.host.as_str(), address.port, &*address.name));
        let locality = self.locality.unwrap_or_default();
        let service = ServiceName::parse_stored(service)?;
        let mut listing = self.listing.as_ref().map(RecordConsulRegistration::listing).transpose()?;
        let instance = Instance {
            id: InstanceId::restored(&service, id, listing.as_mut())?,
            service,
            addresses: Address::parse_all_stored(addresses)?,
            tags: Tags::parse_stored(&self.tags)?,
            metadata: Metadata::parse_stored(self.metadata.iter())?,
            weight: Weight::parse(self.weight)?,
            locality: Locality::parse(&locality.region, &locality.zone, &locality.sub_zone)?,
            conditions: Conditions {
                starting: self.starting,
                self_draining: self.leaving,
                operator_draining: self.drained,
                suspect: self.suspect,
                was_healthy: self.proved,
                node_drained: self.node_drained,
                node_critical: self.node_critical,
                node_warning: self.node_warning,
            },
            checks: check::restore(&self.checks)?,
            consul_registration: listing,
            registered_at: UnixMillis(self.registered_at),
            registered_revision: Revision(self.registered_revision),
            revision: Revision(self.revision),
        };
        Ok(StoredInstance { instance, lease: self.lease.map(RecordLease::into_lease).transpose()? })
    }
}

impl RecordLease {
    fn new(lease: StoredLease) -> Self {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
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

impl StoredInstance {
    /// The lease as it goes on in a process that begins at this lease time: with its full time to live.
    #[must_use]
    pub fn revive(&self, now: crate::registry::LeaseTime) -> Option<Arc<Lease>> {
        let Instance { service, id, .. } = &self.instance;
        self.lease.map(|StoredLease { id: lease, boot, terms }| {
            Arc::new(Lease::new(lease, service.clone(), id.clone(), boot, terms, now))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::test_support::entry;

    const SEAL: RecordSigner = RecordSigner { key: (3, 4) };

    fn stored() -> StoredInstance {
        let mut instance = entry("web", "a", 7).instance.clone();
        instance.tags = Tags::parse(&["v1", "canary"]).unwrap();
        let metadata =
            std::collections::BTreeMap::from([("k".to_owned(), "v".to_owned()), ("e".into(), String::new())]);
        instance.metadata = Metadata::parse(metadata.iter()).unwrap();
        instance.locality = Locality::parse("eu", "eu-1", "").unwrap();
        instance.conditions = Conditions { operator_draining: true, suspect: true, ..Conditions::default() };
        instance.registered_at = UnixMillis(1_700_000_000_123);
        instance.registered_revision = Revision(u64::MAX - 1);
        let terms = LeaseTerms::grant(Some(Duration::from_secs(9)), Some(Duration::ZERO));
        let lease = StoredLease { id: LeaseId(u128::MAX - 5), boot: BootId::parse("boot").unwrap(), terms };
        StoredInstance { instance, lease: Some(lease) }
    }

    #[test]
    fn a_record_survives_the_disk() {
        for stored in [stored(), StoredInstance { lease: None, ..stored() }] {
            let (bytes, tag) = SEAL.encode(&stored.instance, stored.lease);
            let (message, read) = SEAL.open("web", "a", &bytes).unwrap();
            assert_eq!((read, tag_of(&bytes)), (tag, Some(tag)));
            assert_eq!(decode("web", "a", message), Ok(stored));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (bytes, _) = SEAL.encode(&stored().instance, stored().lease);
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SEAL.open("web", "a", &bytes), Err(DecodeError::Tag));
        }
        for length in 0..bytes.len() {
            assert_eq!(SEAL.open("web", "a", &bytes[..length]), Err(DecodeError::Tag));
        }
    }

    #[test]
    fn a_record_belongs_to_its_instance_and_its_store() {
        let (bytes, _) = SEAL.encode(&stored().instance, None);
        for (service, id) in [("web", "b"), ("we", "ba"), ("weba", "")] {
            assert_eq!(SEAL.open(service, id, &bytes), Err(DecodeError::Tag));
        }
        assert_eq!(RecordSigner::new(9).open("web", "a", &bytes), Err(DecodeError::Tag));
    }

    #[test]
    fn what_the_registry_never_had_is_no_record() {
        assert_eq!(decode("web", "a", &[0xff]), Err(DecodeError::Message));
        assert!(matches!(decode("web", "a", &[]), Err(DecodeError::Field(_))), "no address");
        let record = |lease| InstanceRecord::new(&stored().instance, lease);
        assert!(matches!(decode("", "a", &record(None).encode_to_vec()), Err(DecodeError::Field(_))));
        let short = RecordLease { id: vec![1], ..RecordLease::new(stored().lease.unwrap()) };
        let record = InstanceRecord { lease: Some(short), ..record(None) };
        assert_eq!(decode("web", "a", &record.encode_to_vec()), Err(DecodeError::Lease));
    }
}
