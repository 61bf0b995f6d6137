//! What is found in a store.
//!
//! A record whose tag fits was written by a registry. One that this version cannot use all the same costs its instance, not the
//! others: it is left in its place, with a report, where a later version finds it. A record whose tag does not fit, one too many
//! and one too few are damage to the whole file.

use std::{
    collections::{BTreeMap, HashSet},
    fmt, mem,
};

use redb::ReadableTable;

use super::{
    record::{self, DecodeError, RecordSigner, StoredInstance},
    store::StoreHeader,
};
use crate::{
    engine::{CheckKey, SavedCheck},
    model::{InstanceId, Revision, ServiceName},
};

/// Contents of a store, or of an export.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LoadedRecords {
    /// All instances, by service and id.
    pub instances: Vec<StoredInstance>,
    /// Saved states of checks, by service, instance and check.
    pub check_states: Vec<(CheckKey, SavedCheck)>,
    /// Records that this version cannot use.
    pub unreadable: Vec<UnreadableRecord>,
    /// The newest revision.
    pub revision: Revision,
    /// It was not closed: states of checks that were reported last may be missing.
    pub killed: bool,
    /// Some that was acknowledged may be missing: it was relaxed, and was not closed.
    pub lossy: bool,
}

/// A record that this version cannot use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRecord {
    /// Service in its key.
    pub service: String,
    /// Id in its key.
    pub id: String,
    /// Reason and value.
    pub problem: DecodeError,
}

impl fmt::Display for UnreadableRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, id, problem } = self;
        write!(f, "the record of {service:?}/{id:?} cannot be used: {problem}")
    }
}

/// Records that an earlier version wrote under ids of another form.
#[derive(Debug, Default)]
pub struct OutdatedRecords {
    /// Where they are.
    pub keys: Vec<(ServiceName, InstanceId)>,
    /// The instances that they are of, by their places among all.
    pub instances: Vec<usize>,
}

/// Why the records cannot be read.
pub enum LoadError {
    Database(redb::Error),
    Damage(String),
}

impl<E: Into<redb::Error>> From<E> for LoadError {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

/// Reads all instances. Fails where the table is not the one that was written.
pub fn instances(
    table: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
    seal: RecordSigner,
    state: &StoreHeader,
    found: &mut LoadedRecords,
) -> Result<OutdatedRecords, LoadError> {
    let mut outdated = OutdatedRecords::default();
    found.instances = Vec::with_capacity(usize::try_from(table.len()?).unwrap_or_default());
    let (mut records, mut digest) = (0, 0);
    for item in table.iter()? {
        let (key, bytes) = item?;
        let (service, id) = key.value();
        let (message, tag) = seal
            .open(service, id, bytes.value())
            .map_err(|damage| LoadError::Damage(format!("the record of {service:?}/{id:?}: {damage}")))?;
        digest ^= tag;
        records += 1;
        let decoded = record::decode(service, id, message).and_then(|stored| {
            if stored.instance.id.as_str() != id {
                outdated.keys.push((stored.instance.service.clone(), InstanceId::parse_any(id)?));
                outdated.instances.push(found.instances.len());
            }
            Ok(stored)
        });
        match decoded {
            Ok(stored) => found.instances.push(stored),
            Err(problem) => {
                let (service, id) = (service.to_owned(), id.to_owned());
                found.unreadable.push(UnreadableRecord { service, id, problem });
            }
        }
    }
    if (records, digest) != (state.records, state.digest) {
        let written = state.records;
        return Err(LoadError::Damage(format!("it has {records} records that are not the {written} written")));
    }
    if !outdated.instances.is_empty() {
        (found.instances, outdated) = once_each(mem::take(&mut found.instances), outdated);
    }
    Ok(outdated)
}

/// Names that an earlier version told apart may be one: of nodes that differ in case, and of what is on them. The newest stays.
fn once_each(instances: Vec<StoredInstance>, mut outdated: OutdatedRecords) -> (Vec<StoredInstance>, OutdatedRecords) {
    let renamed: HashSet<usize> = outdated.instances.drain(..).collect();
    let mut kept: BTreeMap<(ServiceName, InstanceId), (bool, StoredInstance)> = BTreeMap::new();
    for (at, stored) in instances.into_iter().enumerate() {
        let key = (stored.instance.service.clone(), stored.instance.id.clone());
        let known = kept.get(&key).map(|(_, known)| known.instance.revision);
        if known.is_none_or(|known| known < stored.instance.revision) {
            kept.insert(key, (renamed.contains(&at), stored));
        }
    }
    let anew = kept.values().enumerate().filter(|(_, (renamed, _))| *renamed).map(|(at, _)| at);
    outdated.instances = anew.collect();
    (kept.into_values().map(|(_, stored)| stored).collect(), outdated)
}

/// Reads the saved states of checks. `false`: the table is not the one that was written, so nothing in it is used. An earlier version
/// that does not know the table leaves it as it is while it changes the registry.
pub fn check_states(
    table: &impl ReadableTable<(&'static str, &'static str, &'static str), &'static [u8]>,
    seal: RecordSigner,
    state: &StoreHeader,
    found: &mut LoadedRecords,
) -> Result<bool, LoadError> {
    let (mut records, mut digest) = (0, 0);
    for item in table.iter()? {
        let (key, bytes) = item?;
        let (service, id, check) = key.value();
        let Ok((message, tag)) = seal.open(service, id, bytes.value()) else { return Ok(false) };
        digest ^= tag;
        records += 1;
        // A state that cannot be used is replaced by the next result of its check.
        if let Ok((known, state)) = record::decode_state(message)
            && known.as_str() == check
            && let (Ok(service), Ok(id)) = (ServiceName::parse_stored(service), InstanceId::parse_any(id))
        {
            found.check_states.push(((service, id, known), state));
        }
    }
    Ok((records, digest) == (state.check_states, state.check_digest))
}
