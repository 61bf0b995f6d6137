//! Loads a store.
//!
//! A record with the right tag was written by a registry. If this version cannot use it, only its instance or policy is missing: the
//! record stays in its place, is reported, and a later version may read it. If a record has a wrong tag, is missing or is additional,
//! the whole file counts as damaged.

use std::{
    collections::{BTreeMap, HashSet},
    fmt, mem,
};

use redb::ReadableTable;

use super::{header::StoreHeader, signer::RecordSigner};
use crate::{
    engine::{
        CheckKey, SavedCheck,
        record::{
            self, DecodeError, StoredInstance,
            policy::{SkippedRevision, StoredPolicy},
        },
    },
    model::{InstanceId, Revision, ServiceName},
    registry::{ClockReading, Entry, Registry},
};

/// Contents of a store or an export.
#[derive(Debug, Default, PartialEq)]
pub struct LoadedRecords {
    /// All instances, sorted by service and id.
    pub instances: Vec<StoredInstance>,
    /// Saved check states, sorted by service, instance and check.
    pub check_states: Vec<(CheckKey, SavedCheck)>,
    /// All policies, the defaults first, then by service.
    pub policies: Vec<StoredPolicy>,
    /// Revision of the newest change that made the registry forget policies which were removed. 0: none did.
    pub forgotten_policies: Revision,
    /// Records that this version cannot use.
    pub unreadable: Vec<UnreadableRecord>,
    /// Newest revision.
    pub revision: Revision,
    /// True if the store was not closed: the newest check states may be missing.
    pub unclean: bool,
    /// True if acknowledged changes may be missing: the store was relaxed and was not closed.
    pub lossy: bool,
}

impl LoadedRecords {
    /// Earlier revisions of policies that this version cannot use.
    pub fn skipped_revisions(&self) -> impl Iterator<Item = &SkippedRevision> {
        self.policies.iter().flat_map(|stored| &stored.skipped)
    }

    /// Restores instances and policies in a registry that has neither, before its first reader. Takes the instances. Every lease has its
    /// full TTL.
    pub fn restore(&mut self, registry: &Registry, now: ClockReading) {
        let mut guard = registry.order();
        for stored in mem::take(&mut self.instances) {
            let lease = stored.restore_lease(now.lease);
            guard.restore(Entry::new(stored.instance, lease));
        }
        guard.restore_forgotten_policies(self.forgotten_policies);
        for stored in &self.policies {
            guard.restore_policy(&stored.scope, &stored.revisions, stored.unknown_until());
        }
    }
}

/// Key of the record of an instance or of a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKey {
    /// Key of an instance.
    Instance {
        /// Service in the key.
        service: String,
        /// Id in the key.
        id: String,
    },
    /// Key of a policy.
    Policy {
        /// Service in the key; empty for the defaults.
        service: String,
    },
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance { service, id } => write!(f, "the record of {service:?}/{id:?}"),
            Self::Policy { service } if service.is_empty() => f.write_str("the policy of the defaults"),
            Self::Policy { service } => write!(f, "the policy of service {service:?}"),
        }
    }
}

/// Record that this version cannot use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRecord {
    /// Key of the record.
    pub key: RecordKey,
    /// Reason, with the value.
    pub error: DecodeError,
}

impl UnreadableRecord {
    /// Service and id of the instance, if the record has one.
    #[must_use]
    pub fn instance(&self) -> Option<(&str, &str)> {
        match &self.key {
            RecordKey::Instance { service, id } => Some((service, id)),
            RecordKey::Policy { .. } => None,
        }
    }
}

impl fmt::Display for UnreadableRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be used: {}", self.key, self.error)
    }
}

/// Records that an earlier version wrote under ids of another form.
#[derive(Debug, Default)]
pub struct OutdatedRecords {
    /// Keys of the records.
    pub keys: Vec<(ServiceName, InstanceId)>,
    /// Positions of their instances in [`LoadedRecords::instances`].
    pub instances: Vec<usize>,
}

/// Error of reading the tables.
pub enum LoadError {
    /// The database reports an error.
    Database(redb::Error),
    /// The table differs from what was written.
    Corrupt(String),
}

impl<E: Into<redb::Error>> From<E> for LoadError {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

/// Reads all instances. Fails if the table differs from what was written.
pub fn instances(
    table: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
    signer: RecordSigner,
    header: &StoreHeader,
    loaded: &mut LoadedRecords,
) -> Result<OutdatedRecords, LoadError> {
    let mut outdated = OutdatedRecords::default();
    loaded.instances = Vec::with_capacity(usize::try_from(table.len()?).unwrap_or_default());
    let (mut records, mut digest) = (0, 0);
    for item in table.iter()? {
        let (key, bytes) = item?;
        let (service, id) = key.value();
        let (message, tag) = signer
            .verify(service, id, bytes.value())
            .map_err(|error| LoadError::Corrupt(format!("the record of {service:?}/{id:?}: {error}")))?;
        digest ^= tag;
        records += 1;
        let decoded = record::decode(service, id, message).and_then(|stored| {
            if stored.instance.id.as_str() != id {
                outdated.keys.push((stored.instance.service.clone(), InstanceId::parse_any(id)?));
                outdated.instances.push(loaded.instances.len());
            }
            Ok(stored)
        });
        match decoded {
            Ok(stored) => loaded.instances.push(stored),
            Err(error) => {
                let key = RecordKey::Instance { service: service.to_owned(), id: id.to_owned() };
                loaded.unreadable.push(UnreadableRecord { key, error });
            }
        }
    }
    if (records, digest) != (header.records, header.digest) {
        let written = header.records;
        return Err(LoadError::Corrupt(format!("it has {records} records that are not the {written} written")));
    }
    if !outdated.instances.is_empty() {
        (loaded.instances, outdated) = merge_renamed(mem::take(&mut loaded.instances), outdated);
    }
    Ok(outdated)
}

/// Keeps the newest of the instances that have the same key under the present form of ids: earlier versions distinguished node
/// names by case.
fn merge_renamed(
    instances: Vec<StoredInstance>,
    mut outdated: OutdatedRecords,
) -> (Vec<StoredInstance>, OutdatedRecords) {
    let renamed: HashSet<usize> = outdated.instances.drain(..).collect();
    let mut newest: BTreeMap<(ServiceName, InstanceId), (bool, StoredInstance)> = BTreeMap::new();
    for (at, stored) in instances.into_iter().enumerate() {
        let key = (stored.instance.service.clone(), stored.instance.id.clone());
        let known = newest.get(&key).map(|(_, known)| known.instance.revision);
        if known.is_none_or(|known| known < stored.instance.revision) {
            newest.insert(key, (renamed.contains(&at), stored));
        }
    }
    let positions = newest.values().enumerate().filter(|(_, (renamed, _))| *renamed).map(|(at, _)| at);
    outdated.instances = positions.collect();
    (newest.into_values().map(|(_, stored)| stored).collect(), outdated)
}

/// Reads the saved check states. Returns `false` if the table differs from what was written, in which case none of them may be used:
/// an earlier version that does not know the table leaves it as it is while it changes the registry.
pub fn check_states(
    table: &impl ReadableTable<(&'static str, &'static str, &'static str), &'static [u8]>,
    signer: RecordSigner,
    header: &StoreHeader,
    loaded: &mut LoadedRecords,
) -> Result<bool, LoadError> {
    let (mut records, mut digest) = (0, 0);
    for item in table.iter()? {
        let (key, bytes) = item?;
        let (service, id, check) = key.value();
        let Ok((message, tag)) = signer.verify(service, id, bytes.value()) else { return Ok(false) };
        digest ^= tag;
        records += 1;
        // The next result of the check replaces a state that cannot be used.
        if let Ok((known, state)) = record::decode_check_state(message)
            && known.as_str() == check
            && let (Ok(service), Ok(id)) = (ServiceName::parse_stored(service), InstanceId::parse_any(id))
        {
            loaded.check_states.push(((service, id, known), state));
        }
    }
    Ok((records, digest) == (header.check_states, header.check_digest))
}

/// Reads all policies. Fails if the table differs from what was written.
pub fn policies(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    signer: RecordSigner,
    header: &StoreHeader,
    loaded: &mut LoadedRecords,
) -> Result<(), LoadError> {
    let (mut records, mut digest) = (0, 0);
    for item in table.iter()? {
        let (key, bytes) = item?;
        let service = key.value();
        let key = || RecordKey::Policy { service: service.to_owned() };
        let (message, tag) = signer
            .verify_policy(service, bytes.value())
            .map_err(|error| LoadError::Corrupt(format!("{}: {error}", key())))?;
        digest ^= tag;
        records += 1;
        match record::decode_policy(service, message) {
            Ok(stored) => loaded.policies.push(stored),
            Err(error) => loaded.unreadable.push(UnreadableRecord { key: key(), error }),
        }
    }
    if (records, digest) == (header.policies, header.policy_digest) {
        return Ok(());
    }
    let written = header.policies;
    Err(LoadError::Corrupt(format!("it has {records} policies that are not the {written} written")))
}
