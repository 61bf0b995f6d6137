//! Reading of the values of keys. A value that this version cannot read is logged, and the registry goes on without it.

use std::{collections::HashMap, sync::Arc};

use super::{AppliedBatch, AppliedNote};
use crate::{
    engine::{
        etcd::{
            batch_note::{BatchNote, NotedCommand},
            expiration_window::ExpirationWindow,
            instance_value::InstanceValue,
            keys::RegistryKey,
            policy_value::PolicyValue,
            release_request::ReleaseRequest,
            replica_session::SessionId,
            stored_keys::StoredKeys,
        },
        record::unknown_fields::UnknownFields,
    },
    etcd::EtcdEntry,
    model::{Caller, InstanceId, PolicyScope, ServerActor, ServiceName},
    registry::SessionEpoch,
};

/// Reads the notes of batches, and returns their commands by key.
pub(super) fn read_notes(
    changes: &[(RegistryKey, Option<EtcdEntry>)],
    applied: &mut AppliedBatch,
) -> HashMap<RegistryKey, NotedCommand> {
    let mut noted = HashMap::new();
    for (key, entry) in changes {
        if let (RegistryKey::BatchNote(session, lane), Some(entry)) = (key, entry) {
            match BatchNote::decode(&entry.value) {
                Ok(note) => {
                    applied.notes.push(applied_note(*session, *lane, &note, entry));
                    noted.extend(note.commands.into_iter().map(|command| (command.key.clone(), command)));
                }
                Err(error) => tracing::error!(%error, %key, "the note of a batch cannot be read"),
            }
        }
    }
    noted
}

pub(super) fn applied_note(session: SessionId, lane: u8, note: &BatchNote, entry: &EtcdEntry) -> AppliedNote {
    AppliedNote { session, lane, sequence: note.sequence, mod_revision: entry.mod_revision }
}

/// Originator of a change. A key that was changed by hand has no note.
pub(super) fn caller_of(note: Option<&NotedCommand>) -> Arc<Caller> {
    let caller = note.and_then(|note| note.caller.as_ref());
    Arc::clone(caller.unwrap_or_else(|| ServerActor::Recovery.caller()))
}

/// Reads the value of an instance, and keeps what the registry does not.
pub(super) fn read_instance(
    service: &ServiceName,
    id: &InstanceId,
    key: &RegistryKey,
    entry: &EtcdEntry,
    stored: &mut StoredKeys,
) -> Option<InstanceValue> {
    match InstanceValue::decode(service, id, &entry.value, entry.mod_revision) {
        Ok(value) => {
            stored.keep(key, entry.mod_revision, value.unknown.clone(), true);
            Some(value)
        }
        Err(error) => {
            stored.keep(key, entry.mod_revision, UnknownFields::default(), false);
            tracing::error!(
                %error,
                "the value of {key} cannot be used: the registry goes on without it; register the instance again, or run a version that can read it"
            );
            None
        }
    }
}

pub(super) fn read_policy(
    scope: &PolicyScope,
    key: &RegistryKey,
    entry: &EtcdEntry,
    stored: &mut StoredKeys,
) -> Option<PolicyValue> {
    match PolicyValue::decode(scope, &entry.value, entry.mod_revision) {
        Ok(value) => {
            stored.keep(key, entry.mod_revision, value.unknown.clone(), true);
            stored.forget_policies(value.forgotten);
            Some(value)
        }
        Err(error) => {
            stored.keep(key, entry.mod_revision, UnknownFields::default(), false);
            tracing::error!(
                %error,
                "the value of {key} cannot be used: the registry goes on without it; set the policy again, or run a version that can read it"
            );
            None
        }
    }
}

pub(super) fn end_session(id: SessionId, stored: &mut StoredKeys) -> Option<SessionEpoch> {
    let (epoch, session) = stored.sessions.end(id)?;
    tracing::info!(replica = &*session.replica, epoch = epoch.0, "the session of a replica has ended");
    Some(epoch)
}

/// Reads a request of a live session to release instances.
pub(super) fn read_release_request(
    session: SessionId,
    key: &RegistryKey,
    entry: &EtcdEntry,
    stored: &StoredKeys,
) -> Option<(SessionEpoch, ReleaseRequest)> {
    match ReleaseRequest::decode(&entry.value) {
        Ok(request) => Some((stored.sessions.epoch_of(session)?, request)),
        Err(error) => {
            tracing::error!(%error, %key, "a request to release instances cannot be read");
            None
        }
    }
}

/// Keeps the counted expirations of a service. Returns the value, and the number of expirations that are new.
pub(super) fn read_expirations(
    service: &ServiceName,
    entry: &EtcdEntry,
    stored: &mut StoredKeys,
) -> Option<(ExpirationWindow, u64)> {
    match ExpirationWindow::decode(&entry.value) {
        Ok(window) => {
            let new = stored.keep_expirations(service, entry.mod_revision, window.clone());
            Some((window, new))
        }
        Err(error) => {
            // The next expiration replaces it.
            stored.keep_expirations(service, entry.mod_revision, ExpirationWindow::default());
            tracing::error!(%error, %service, "the counted expirations of a service cannot be read");
            None
        }
    }
}
