//! Value of an instance in etcd.

use prost::Message;

use super::position::{CommitPosition, CommitSlot};
use crate::{
    engine::record::{
        DecodeError, StoredInstance, StoredLease,
        message::{INSTANCE_FIELDS, InstanceRecord},
        unknown_fields::{KnownFields, MessageIdentity, NestedMessage, UnknownFields},
    },
    model::{FieldError, Instance, InstanceId, ServiceName},
    registry::SessionEpoch,
};

const KNOWN: KnownFields = KnownFields {
    numbers: &[1..=4],
    messages: &[NestedMessage { number: 4, fields: &INSTANCE_FIELDS, identity: MessageIdentity::Single }],
};

/// Session that holds an instance: its replica tracks the lease, or runs the checks of an instance without a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionHolder {
    /// Epoch of the session. 0: no session holds the instance.
    pub epoch: SessionEpoch,
    /// Name of the replica, for display.
    pub replica: Box<str>,
}

/// Instance as it is in etcd, with its revisions resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceValue {
    /// Instance and its lease.
    pub stored: StoredInstance,
    /// Session that holds the instance.
    pub holder: SessionHolder,
    /// Position of the change that wrote the value.
    pub position: CommitPosition,
    /// Fields that this version does not know, to be encoded with the next change.
    pub unknown: UnknownFields,
}

// Field numbers never change.

#[derive(Clone, PartialEq, Message)]
struct InstanceMessage {
    #[prost(uint32, tag = "1")]
    slot: u32,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(string, tag = "3")]
    replica: String,
    #[prost(message, optional, tag = "4")]
    record: Option<InstanceRecord>,
}

impl InstanceValue {
    /// Encodes an instance for a slot of a batch. A revision of 0 is the revision that the batch will have.
    ///
    /// `unknown` are the unknown fields of the value that this one replaces.
    #[must_use]
    pub fn encode(
        instance: &Instance,
        lease: Option<StoredLease>,
        holder: &SessionHolder,
        slot: CommitSlot,
        unknown: &UnknownFields,
    ) -> Vec<u8> {
        let message = InstanceMessage {
            slot: slot.get().into(),
            epoch: holder.epoch.0,
            replica: holder.replica.to_string(),
            record: Some(InstanceRecord::new(instance, lease)),
        };
        unknown.add_to(message.encode_to_vec(), &KNOWN)
    }

    /// Decodes the value of the instance with this identity, last changed at this revision of etcd.
    ///
    /// # Errors
    ///
    /// When the bytes are not a message of an instance, or the instance has another id than its key.
    pub fn decode(
        service: &ServiceName,
        id: &InstanceId,
        value: &[u8],
        mod_revision: u64,
    ) -> Result<Self, DecodeError> {
        let InstanceMessage { slot, epoch, replica, record } =
            InstanceMessage::decode(value).map_err(|_| DecodeError::Message)?;
        let position = CommitPosition::new(mod_revision, CommitSlot::parse(slot.into())?)?;
        let mut record = record.ok_or(DecodeError::Message)?;
        record.resolve_revisions(position.revision());
        let stored = record.into_stored(service.as_str(), id.as_str())?;
        let found = &stored.instance.id;
        if found != id {
            let hint = "remove the key, and register the instance again";
            return Err(FieldError::new("id", found.as_str(), format!("is not the id of the key, {id}"), hint).into());
        }
        Ok(Self {
            stored,
            holder: SessionHolder { epoch: SessionEpoch(epoch), replica: replica.into() },
            position,
            unknown: UnknownFields::of(value, &KNOWN, position.revision().0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::unknown_fields::tests::assert_known_fields;

    #[test]
    fn known_fields_of_an_instance_value_are_those_of_its_message() {
        assert_known_fields::<InstanceMessage>(&KNOWN, &[]);
    }
}
