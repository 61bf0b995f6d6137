//! Notes of batches.
//!
//! A batch puts the note of its lane before all else. The replicas learn from it what the changed keys do not tell: the callers, and for
//! a key that is deleted its slot and the reasons. The writer recognizes its batch by the sequence number, also when the reply was lost.

use std::{collections::HashMap, sync::Arc};

use prost::Message;

use super::{keys::RegistryKey, position::CommitSlot};
use crate::{
    engine::record::{DecodeError, policy::RecordCaller},
    model::Caller,
    registry::{EndReason, RemovalReason},
};

/// Newest batch of one lane of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchNote {
    /// Number of the batch in its lane. It rises with every batch.
    pub sequence: u64,
    /// Commands of the batch. A command whose guard failed has changed nothing.
    pub commands: Vec<NotedCommand>,
}

/// Command of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotedCommand {
    /// Position in the batch.
    pub slot: CommitSlot,
    /// Key that the command changes.
    pub key: RegistryKey,
    /// Reason for which the instance is removed. `None`: it is not removed, or only a later version knows the reason.
    pub removal: Option<RemovalReason>,
    /// Reason for which the lease ends. `None`: it does not end, or only a later version knows the reason.
    pub lease_end: Option<EndReason>,
    /// Originator. `None`: only a later version knows its kind.
    pub caller: Option<Arc<Caller>>,
}

// Field numbers never change.

#[derive(Clone, PartialEq, Message)]
struct NoteMessage {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(message, repeated, tag = "2")]
    commands: Vec<CommandMessage>,
    /// Callers of the commands, each once.
    #[prost(message, repeated, tag = "3")]
    callers: Vec<RecordCaller>,
}

#[derive(Clone, PartialEq, Message)]
struct CommandMessage {
    #[prost(uint32, tag = "1")]
    slot: u32,
    /// Key without the prefix of its cluster.
    #[prost(string, tag = "2")]
    key: String,
    #[prost(uint32, tag = "3")]
    removal: u32,
    #[prost(uint32, tag = "4")]
    lease_end: u32,
    /// Position in the list of callers, from 1.
    #[prost(uint32, tag = "5")]
    caller: u32,
}

impl BatchNote {
    /// Encodes the note.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut callers = CallerList::default();
        let command = |command: &NotedCommand| CommandMessage {
            slot: command.slot.get().into(),
            key: command.key.to_string(),
            removal: command.removal.map_or(0, removal_number),
            lease_end: command.lease_end.map_or(0, lease_end_number),
            caller: command.caller.as_ref().map_or(0, |caller| callers.number_of(caller)),
        };
        let commands = self.commands.iter().map(command).collect();
        NoteMessage { sequence: self.sequence, commands, callers: callers.records }.encode_to_vec()
    }

    /// Decodes a note.
    ///
    /// A command with a key of a kind that only a later version knows is left out: no key that this version knows belongs to it.
    ///
    /// # Errors
    ///
    /// When the bytes are not a message of a note, or a slot is invalid.
    pub fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let NoteMessage { sequence, commands, callers } =
            NoteMessage::decode(value).map_err(|_| DecodeError::Message)?;
        let callers: Vec<_> = callers.into_iter().map(|record| record.into_caller().ok()).collect();
        let mut noted = Vec::with_capacity(commands.len());
        for CommandMessage { slot, key, removal, lease_end, caller } in commands {
            let slot = CommitSlot::parse(slot.into())?;
            let Ok(key) = RegistryKey::parse(&key) else { continue };
            let position = usize::try_from(caller).ok().and_then(|number| number.checked_sub(1));
            let caller = position.and_then(|position| callers.get(position)).cloned().flatten();
            let (removal, lease_end) = (removal_reason(removal), lease_end_reason(lease_end));
            noted.push(NotedCommand { slot, key, removal, lease_end, caller });
        }
        Ok(Self { sequence, commands: noted })
    }
}

/// Callers of a note, each once.
#[derive(Debug, Default)]
struct CallerList {
    records: Vec<RecordCaller>,
    /// Number of each caller by its address: the commands of one connection share their caller.
    numbers: HashMap<*const Caller, u32>,
}

impl CallerList {
    /// Returns the position of a caller, from 1.
    fn number_of(&mut self, caller: &Arc<Caller>) -> u32 {
        let records = &mut self.records;
        *self.numbers.entry(Arc::as_ptr(caller)).or_insert_with(|| {
            let record = RecordCaller::new(caller);
            let known = records.iter().position(|other| *other == record).unwrap_or_else(|| {
                records.push(record);
                records.len() - 1
            });
            // A batch has at most 4095 commands.
            u32::try_from(known + 1).unwrap_or(0)
        })
    }
}

fn removal_number(reason: RemovalReason) -> u32 {
    match reason {
        RemovalReason::Deregistered => 1,
        RemovalReason::Expired => 2,
        RemovalReason::Reaped => 3,
        RemovalReason::Superseded => 4,
    }
}

fn removal_reason(number: u32) -> Option<RemovalReason> {
    use RemovalReason::{Deregistered, Expired, Reaped, Superseded};
    [Deregistered, Expired, Reaped, Superseded].into_iter().find(|reason| removal_number(*reason) == number)
}

fn lease_end_number(reason: EndReason) -> u32 {
    match reason {
        EndReason::Expired => 1,
        EndReason::Superseded => 2,
        EndReason::Removed => 3,
        EndReason::Deregistered => 4,
    }
}

fn lease_end_reason(number: u32) -> Option<EndReason> {
    use EndReason::{Deregistered, Expired, Removed, Superseded};
    [Expired, Superseded, Removed, Deregistered].into_iter().find(|reason| lease_end_number(*reason) == number)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*, sample::select};

    use super::*;
    use crate::{
        engine::{etcd::keys::tests::key, record::test_values::caller},
        model::ServerActor,
        registry::test_support::{id, name},
    };

    fn note() -> impl Strategy<Value = BatchNote> {
        let command = |callers: Vec<Arc<Caller>>| {
            let parts = (1..=4_095_u64, key(), (0..=4_u32, 0..=4_u32), option::of(select(callers)));
            parts.prop_map(|(slot, key, (removal, lease_end), caller)| {
                let slot = CommitSlot::parse(slot).unwrap();
                let (removal, lease_end) = (removal_reason(removal), lease_end_reason(lease_end));
                NotedCommand { slot, key, removal, lease_end, caller }
            })
        };
        let commands = vec(caller(), 1..4).prop_flat_map(move |callers| vec(command(callers), 0..20));
        (any::<u64>(), commands).prop_map(|(sequence, commands)| BatchNote { sequence, commands })
    }

    proptest! {
        #[test]
        fn every_note_survives_encoding(note in note()) {
            prop_assert_eq!(BatchNote::decode(&note.encode()), Ok(note));
        }

        #[test]
        fn any_bytes_are_decoded_or_rejected(bytes in vec(any::<u8>(), 0..200)) {
            let _: Result<BatchNote, DecodeError> = BatchNote::decode(&bytes);
        }
    }

    #[test]
    fn every_reason_has_a_number_of_its_own() {
        assert_eq!((1..=4).filter_map(removal_reason).map(removal_number).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!((1..=4).filter_map(lease_end_reason).map(lease_end_number).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!((removal_reason(0), lease_end_reason(0)), (None, None));
    }

    fn command(slot: u64, id_text: &str, caller: &Arc<Caller>) -> NotedCommand {
        let key = RegistryKey::Instance(name("web"), id(id_text));
        let (removal, lease_end) = (Some(RemovalReason::Expired), Some(EndReason::Expired));
        NotedCommand {
            slot: CommitSlot::parse(slot).unwrap(),
            key,
            removal,
            lease_end,
            caller: Some(Arc::clone(caller)),
        }
    }

    #[test]
    fn callers_are_stored_once() {
        let [one, equal] = [0, 1].map(|_| Arc::new(Caller::Server(ServerActor::Expiry)));
        let other = ServerActor::Recovery.caller();
        let callers = [&one, &equal, other, &one];
        let commands = callers.into_iter().zip(1..).map(|(caller, slot)| command(slot, "a", caller)).collect();
        let note = BatchNote { sequence: 7, commands };
        let message = NoteMessage::decode(&*note.encode()).unwrap();
        assert_eq!(message.callers.len(), 2);
        assert_eq!(BatchNote::decode(&note.encode()), Ok(note));
    }

    #[test]
    fn note_of_a_later_version_is_decoded_without_what_is_new() {
        let note = BatchNote { sequence: 7, commands: vec![command(1, "a", ServerActor::Expiry.caller())] };
        let mut message = NoteMessage::decode(&*note.encode()).unwrap();
        message.commands.push(CommandMessage { slot: 2, key: "o/web/a".into(), ..CommandMessage::default() });
        let [removal, lease_end, caller] = [9, 9, 2];
        message.commands.push(CommandMessage { slot: 3, key: "i/web/b".into(), removal, lease_end, caller });
        message.callers.push(RecordCaller::default());
        let bytes = [message.encode_to_vec(), vec![0x7a, 1, 0]].concat();
        let unknown = NotedCommand {
            removal: None,
            lease_end: None,
            caller: None,
            ..command(3, "b", ServerActor::Expiry.caller())
        };
        let expected = BatchNote { commands: vec![note.commands[0].clone(), unknown], ..note };
        assert_eq!(BatchNote::decode(&bytes), Ok(expected));
    }
}
