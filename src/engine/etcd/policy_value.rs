//! Value of a policy in etcd.

use std::sync::Arc;

use prost::Message;

use super::position::{CommitPosition, CommitSlot};
use crate::{
    engine::record::{
        DecodeError,
        policy::{POLICY_FIELDS, PolicyRecord, StoredPolicy, policy_key},
        resolve_revision,
        unknown_fields::{KnownFields, MessageIdentity, NestedMessage, UnknownFields},
    },
    model::{PolicyScope, Revision},
    registry::PolicyRevision,
};

const KNOWN: KnownFields = KnownFields {
    numbers: &[1..=3],
    messages: &[NestedMessage { number: 2, fields: &POLICY_FIELDS, identity: MessageIdentity::Single }],
};

/// Policy as it is in etcd, with its revisions resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyValue {
    /// Policy with its last revisions.
    pub stored: StoredPolicy,
    /// Position of the change that wrote the value.
    pub position: CommitPosition,
    /// Revision of the newest change, up to this one, that made the registry forget policies which were removed. `None`: none did.
    ///
    /// The registry has forgotten policies at the newest of these revisions in all values.
    pub forgotten: Option<Revision>,
    /// Fields that this version does not know, to be encoded with the next change.
    pub unknown: UnknownFields,
}

// Field numbers never change.

#[derive(Clone, PartialEq, Message)]
struct PolicyMessage {
    #[prost(uint32, tag = "1")]
    slot: u32,
    #[prost(message, optional, tag = "2")]
    record: Option<PolicyRecord>,
    #[prost(uint64, optional, tag = "3")]
    forgotten: Option<u64>,
}

impl PolicyValue {
    /// Encodes the revisions of a policy, the newest last, for a slot of a batch. A revision of 0 is the revision that the batch will
    /// have.
    ///
    /// `forgotten` is 0 if this change makes the registry forget policies, and otherwise the revision of the newest change that did, so
    /// that it is not lost with the value that this one replaces. `unknown` are the unknown fields of that value.
    #[must_use]
    pub fn encode(
        revisions: &[Arc<PolicyRevision>],
        forgotten: Option<Revision>,
        slot: CommitSlot,
        unknown: &UnknownFields,
    ) -> Vec<u8> {
        let message = PolicyMessage {
            slot: slot.get().into(),
            record: Some(PolicyRecord::new(revisions)),
            forgotten: forgotten.map(|revision| revision.0),
        };
        unknown.add_to(message.encode_to_vec(), &KNOWN)
    }

    /// Decodes the value of the policy of this scope, last changed at this revision of etcd.
    ///
    /// # Errors
    ///
    /// When the bytes are not a message of a policy, or its present revision is invalid.
    pub fn decode(scope: &PolicyScope, value: &[u8], mod_revision: u64) -> Result<Self, DecodeError> {
        let PolicyMessage { slot, record, forgotten } =
            PolicyMessage::decode(value).map_err(|_| DecodeError::Message)?;
        let position = CommitPosition::new(mod_revision, CommitSlot::parse(slot.into())?)?;
        let this = position.revision();
        let mut record = record.ok_or(DecodeError::Message)?;
        record.resolve_revisions(this);
        let forgotten = forgotten.map(|mut revision| {
            resolve_revision(&mut revision, this);
            Revision(revision)
        });
        Ok(Self {
            stored: record.into_stored(policy_key(scope))?,
            position,
            forgotten,
            unknown: UnknownFields::of(value, &KNOWN, this.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::unknown_fields::tests::assert_known_fields;

    #[test]
    fn known_fields_of_a_policy_value_are_those_of_its_message() {
        assert_known_fields::<PolicyMessage>(&KNOWN, &[]);
    }
}
