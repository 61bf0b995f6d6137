//! Knowledge of the keys in etcd that the registry does not have.

use std::{collections::HashMap, sync::Arc};

use super::{
    instance_value::SessionHolder,
    keys::RegistryKey,
    position::CommitPosition,
    session_table::{ReplicaNames, SessionTable},
};
use crate::{
    engine::record::unknown_fields::UnknownFields,
    model::Revision,
    registry::{Entry, SessionEpoch},
};

/// Knowledge about keys that the registry does not have.
#[derive(Debug, Default)]
pub struct StoredKeys {
    /// Sessions of all replicas.
    pub sessions: SessionTable,
    /// Policies, and the instances whose values this version cannot read or does not know completely.
    kept: HashMap<RegistryKey, KeptKey>,
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

    /// Keeps what is known of a key. An instance is kept only if the registry alone would not be enough.
    pub fn keep(&mut self, key: &RegistryKey, mod_revision: u64, unknown: UnknownFields, is_readable: bool) {
        if is_readable && unknown.is_empty() && matches!(key, RegistryKey::Instance(..)) {
            self.kept.remove(key);
        } else {
            self.kept.insert(key.clone(), KeptKey { mod_revision, unknown });
        }
    }

    /// Forgets a key that was removed.
    pub fn remove(&mut self, key: &RegistryKey) {
        self.kept.remove(key);
    }

    /// Records that policies were forgotten.
    pub fn forget_policies(&mut self, at: Option<Revision>) {
        self.forgotten_policies = self.forgotten_policies.max(at);
    }

    /// Revision of the newest change that made the registry forget policies.
    pub fn forgotten_policies(&self) -> Option<Revision> {
        self.forgotten_policies
    }

    /// Returns the revision of etcd at which a key was last changed; 0 if it does not exist.
    pub fn guard(&self, key: &RegistryKey, present: Option<&Entry>) -> u64 {
        let kept = self.kept.get(key).map_or(0, |kept| kept.mod_revision);
        kept.max(present.map_or(0, |present| CommitPosition::etcd_revision_of(present.modified)))
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
