//! Tags of records: 8 bytes after the message. The tag of data that was written for another instance or by another store does not
//! match.

use std::{hash::Hasher, sync::Arc};

use prost::Message as _;
use siphasher::sip::SipHasher24;

use crate::{
    engine::{
        SavedCheck,
        record::{StoredLease, message::InstanceRecord, policy::PolicyRecord, saved::SavedCheckRecord},
    },
    model::{CheckId, Instance},
    registry::PolicyRevision,
};

/// Length of a tag in bytes.
const TAG_BYTES: usize = 8;
/// Place of the id in the tags of policies. It has a space, which no id has.
const POLICY_ID: &str = "a policy";

/// Error of a tag that does not belong to these bytes under this key in this store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tag does not match the data")]
pub struct TagMismatch;

/// Makes and verifies the tags of one store: `SipHash`-2-4 of key and message under a random key of the store.
#[derive(Debug, Clone, Copy)]
pub struct RecordSigner {
    key: (u64, u64),
}

impl RecordSigner {
    /// Signer of the store with this key.
    #[must_use]
    pub fn new(key: u128) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "splits the key in two halves")]
        let low = key as u64;
        Self { key: ((key >> 64) as u64, low) }
    }

    /// Computes the tag of a message under a key. Lengths are part of the hash, so that no byte can move from one part to the next.
    #[must_use]
    pub fn tag(self, service: &str, id: &str, message: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(self.key.0, self.key.1);
        for part in [service.as_bytes(), id.as_bytes(), message] {
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        hasher.finish()
    }

    /// Encodes the saved state of the check with this service, instance and id. Returns the bytes and their tag.
    #[must_use]
    pub fn encode_check_state(
        self,
        (service, id, check): (&str, &str, &CheckId),
        state: &SavedCheck,
    ) -> (Vec<u8>, u64) {
        let mut bytes = SavedCheckRecord::new(check, state).encode_to_vec();
        let tag = self.tag(service, id, &bytes);
        bytes.extend(tag.to_be_bytes());
        (bytes, tag)
    }

    /// Encodes an instance with its lease. Returns the bytes and their tag.
    #[must_use]
    pub fn encode_instance(self, instance: &Instance, lease: Option<StoredLease>) -> (Vec<u8>, u64) {
        let record = InstanceRecord::new(instance, lease);
        let mut bytes = Vec::with_capacity(record.encoded_len() + TAG_BYTES);
        record.encode_raw(&mut bytes);
        let tag = self.tag(instance.service.as_str(), instance.id.as_str(), &bytes);
        bytes.extend(tag.to_be_bytes());
        (bytes, tag)
    }

    /// Encodes the revisions of the policy with this key. Returns the bytes and their tag.
    #[must_use]
    pub fn encode_policy(self, key: &str, revisions: &[Arc<PolicyRevision>]) -> (Vec<u8>, u64) {
        let mut bytes = PolicyRecord::new(revisions).encode_to_vec();
        let tag = self.tag(key, POLICY_ID, &bytes);
        bytes.extend(tag.to_be_bytes());
        (bytes, tag)
    }

    /// Verifies the tag of the record of a policy. Returns the message without the tag, and the tag.
    ///
    /// # Errors
    ///
    /// When the tag is wrong.
    pub fn verify_policy<'a>(self, key: &str, bytes: &'a [u8]) -> Result<(&'a [u8], u64), TagMismatch> {
        self.verify(key, POLICY_ID, bytes)
    }

    /// Verifies the tag of a record. Returns the message without the tag, and the tag.
    ///
    /// # Errors
    ///
    /// When the tag is wrong.
    pub fn verify<'a>(self, service: &str, id: &str, bytes: &'a [u8]) -> Result<(&'a [u8], u64), TagMismatch> {
        let (message, tag) = bytes.split_last_chunk::<TAG_BYTES>().ok_or(TagMismatch)?;
        let tag = u64::from_be_bytes(*tag);
        if tag == self.tag(service, id, message) { Ok((message, tag)) } else { Err(TagMismatch) }
    }
}

/// Reads the tag of a record without verifying it.
#[must_use]
pub fn unverified_tag(bytes: &[u8]) -> Option<u64> {
    bytes.last_chunk::<TAG_BYTES>().map(|tag| u64::from_be_bytes(*tag))
}
