//! Knowledge of the keys in etcd that the registry does not have.

use std::{collections::HashMap, sync::Arc};

use super::{
    expiration_window::ExpirationWindow,
    instance_value::SessionHolder,
    keys::RegistryKey,
    position::CommitPosition,
    replica_session::SessionId,
    session_table::{ReplicaNames, SessionTable},
};
use crate::{
    engine::record::unknown_fields::UnknownFields,
    model::{Revision, ServiceName},
    registry::{Entry, SessionEpoch},
};

/// Knowledge about keys that the registry does not have.
#[derive(Debug, Default)]
pub struct StoredKeys {
    /// Sessions of all replicas.
    pub sessions: SessionTable,
    /// Policies, and the instances whose values this version cannot read or does not know completely.
    kept: HashMap<RegistryKey, KeptKey>,
    /// Counted expirations of services, with the revision of etcd of their last change.
    expirations: HashMap<ServiceName, (u64, ExpirationWindow)>,
    /// Revision of etcd of the note of each lane of each session.
    notes: HashMap<(SessionId, u8), u64>,
    forgotten_policies: Option<Revision>,
}

#[derive(Debug, Default)]
struct KeptKey {
    mod_revision: u64,
    unknown: UnknownFields,
}

impl StoredKeys {
    /// Creates an empty value that publishes the names of the replicas.
    pub fn new(names: Arc<ReplicaNames>) -> Self {
        Self { sessions: SessionTable::new(names), ..Self::default() }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::new(self.sessions.names());
    }

    /// Keeps what is known of a key. An instance is kept only if the registry alone would not be enough.
    pub fn keep(&mut self, key: &RegistryKey, mod_revision: u64, unknown: UnknownFields, is_readable: bool) {
        if is_readable && unknown.is_empty() && matches!(key, RegistryKey::Instance(..)) {
            self.kept.remove(key);
        } else {
            self.kept.insert(key.clone(), KeptKey { mod_revision, unknown });
        }
    }

    /// Keeps the revision of etcd at which an instance was last changed, if the registry has a later one, because it applied the change
    /// late.
    pub fn keep_revision(&mut self, key: &RegistryKey, mod_revision: u64, applied: Revision) {
        if CommitPosition::etcd_revision_of(applied) != mod_revision {
            self.kept.entry(key.clone()).or_default().mod_revision = mod_revision;
        }
    }

    /// Keys whose revisions are kept here.
    pub fn kept_keys(&self) -> impl Iterator<Item = (&RegistryKey, u64)> {
        self.kept.iter().map(|(key, kept)| (key, kept.mod_revision))
    }

    /// Forgets a key that was removed.
    pub fn remove(&mut self, key: &RegistryKey) {
        self.kept.remove(key);
    }

    /// Keeps the counted expirations of a service. Returns the number of those that are new.
    pub fn keep_expirations(&mut self, service: &ServiceName, mod_revision: u64, window: ExpirationWindow) -> u64 {
        let known = self.expirations_of(service);
        let earlier = if known.start == window.start { known.count } else { 0 };
        let new = window.count.saturating_sub(earlier);
        self.expirations.insert(service.clone(), (mod_revision, window));
        new
    }

    /// Keeps the revision of etcd of the note of a lane. `None`: it was removed.
    pub fn keep_note(&mut self, session: SessionId, lane: u8, mod_revision: Option<u64>) {
        match mod_revision {
            Some(revision) => drop(self.notes.insert((session, lane), revision)),
            None => drop(self.notes.remove(&(session, lane))),
        }
    }

    /// Returns the revision of etcd of the note of a lane; 0 if there is none.
    pub fn note_revision(&self, session: SessionId, lane: u8) -> u64 {
        self.notes.get(&(session, lane)).copied().unwrap_or(0)
    }

    /// Forgets the counted expirations of a service.
    pub fn remove_expirations(&mut self, service: &ServiceName) {
        self.expirations.remove(service);
    }

    /// Counted expirations of a service.
    pub fn expirations_of(&self, service: &ServiceName) -> ExpirationWindow {
        self.expirations.get(service).map(|(_, window)| window.clone()).unwrap_or_default()
    }

    /// Returns the revision of etcd at which the expirations of a service were last counted; 0 if they were not.
    pub fn expirations_guard(&self, service: &ServiceName) -> u64 {
        self.expirations.get(service).map_or(0, |(revision, _)| *revision)
    }

    /// Services with counted expirations.
    pub fn expired_services(&self) -> impl Iterator<Item = (&ServiceName, &ExpirationWindow)> {
        self.expirations.iter().map(|(service, (_, window))| (service, window))
    }

    /// Records that policies were forgotten.
    pub fn forget_policies(&mut self, at: Option<Revision>) {
        self.forgotten_policies = self.forgotten_policies.max(at);
    }

    /// Revision of the newest change that made the registry forget policies.
    pub fn forgotten_policies(&self) -> Option<Revision> {
        self.forgotten_policies
    }

    /// Returns the revision of etcd at which a policy was last changed; 0 if there is none.
    pub fn newest_policy(&self) -> u64 {
        let policies = self.kept_keys().filter(|(key, _)| matches!(key, RegistryKey::Policy(_)));
        policies.map(|(_, mod_revision)| mod_revision).max().unwrap_or(0)
    }

    /// Returns the revision of etcd at which a key was last changed; 0 if it does not exist.
    pub fn guard(&self, key: &RegistryKey, present: Option<&Entry>) -> u64 {
        let of_entry = || present.map_or(0, |present| CommitPosition::etcd_revision_of(present.modified));
        self.kept.get(key).map_or_else(of_entry, |kept| kept.mod_revision)
    }

    /// Returns the fields of a key's value that this version does not know.
    pub fn unknown_fields(&self, key: &RegistryKey) -> UnknownFields {
        self.kept.get(key).map(|kept| kept.unknown.clone()).unwrap_or_default()
    }

    /// Returns a session as the holder in the next value of an instance.
    pub fn session_holder(&self, epoch: SessionEpoch) -> SessionHolder {
        let replica = self.sessions.get(epoch).map(|session| session.replica.clone()).unwrap_or_default();
        SessionHolder { epoch, replica }
    }
}
