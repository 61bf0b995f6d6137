//! Tables of the database, and the transactions that write them.

use std::sync::Arc;

use redb::{Database, TableDefinition};

use super::super::{
    header::StoreHeader,
    load::{LoadedRecords, RecordKey},
    signer::{self, RecordSigner},
};
use crate::{
    engine::{
        CheckKey, SavedCheck, StartPoint,
        record::{StoredLease, policy::policy_key},
    },
    model::{Instance, InstanceId, PolicyScope, ServiceName},
    random,
    registry::PolicyRevision,
};

pub const INSTANCES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("instances");
pub const CHECK_STATES: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("check_states");
pub const POLICIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("policies");
pub const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Newest format that this version reads and writes. A store of an earlier format is read too, and rewritten when it is opened.
///
/// 2: checks, Consul registrations and nodes. 3: ids of Consul registrations that are unique for node and id. 4: policies.
pub const FORMAT: u32 = 4;
/// Format of a store without policies, which versions that do not know policies can use. With policies they would let clients
/// balance calls in another way than was set, and forget how many policies there are, so they refuse such a store.
const FORMAT_WITHOUT_POLICIES: u32 = 3;
/// Oldest format that this version reads.
pub const MIN_FORMAT: u32 = 1;

/// Change of one record.
#[derive(Debug)]
pub enum RecordChange<'a> {
    /// Stores an instance with its lease, in place of its earlier record.
    Put(&'a Instance, Option<StoredLease>),
    /// Removes the record of an instance.
    Remove(&'a ServiceName, &'a InstanceId),
    /// Saves the state of a check; `None` removes it.
    State(&'a CheckKey, Option<&'a SavedCheck>),
    /// Stores the revisions of a policy, in place of its earlier record; none removes it.
    Policy(&'a PolicyScope, &'a [Arc<PolicyRevision>]),
}

impl RecordChange<'_> {
    /// Returns service and id of the instance; for a policy its service.
    #[must_use]
    pub fn key(&self) -> (&str, &str) {
        match self {
            Self::Put(instance, _) => (instance.service.as_str(), instance.id.as_str()),
            Self::Remove(service, id) => (service.as_str(), id.as_str()),
            Self::State((service, id, _), _) => (service.as_str(), id.as_str()),
            Self::Policy(scope, _) => (policy_key(scope), ""),
        }
    }

    /// Returns the key of a record that may be unreadable. `None` for a check state.
    #[must_use]
    pub fn record_key(&self) -> Option<RecordKey> {
        let (service, id) = self.key();
        let service = service.to_owned();
        match self {
            Self::Put(..) | Self::Remove(..) => Some(RecordKey::Instance { service, id: id.to_owned() }),
            Self::Policy(..) => Some(RecordKey::Policy { service }),
            Self::State(..) => None,
        }
    }
}

/// Writes changes and the header that counts them as one transaction.
pub fn write<'a>(
    database: &Database,
    signer: RecordSigner,
    header: &mut StoreHeader,
    changes: impl Iterator<Item = RecordChange<'a>>,
    durable: bool,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    if !durable {
        transaction.set_durability(redb::Durability::None)?;
    }
    {
        let mut instances = transaction.open_table(INSTANCES)?;
        let (mut states, mut policies, had_policies) = (None, None, header.policies > 0);
        for change in changes {
            let key = change.key();
            match change {
                RecordChange::Put(instance, lease) => {
                    let (bytes, tag) = signer.encode_instance(instance, lease);
                    let before = instances.insert(key, bytes.as_slice())?;
                    header.count_record(before.and_then(|bytes| signer::unverified_tag(bytes.value())), Some(tag));
                }
                RecordChange::Remove(..) => {
                    let before = instances.remove(key)?;
                    header.count_record(before.and_then(|bytes| signer::unverified_tag(bytes.value())), None);
                }
                RecordChange::Policy(scope, revisions) => {
                    let policies = match &mut policies {
                        Some(policies) => policies,
                        None => policies.insert(transaction.open_table(POLICIES)?),
                    };
                    let key = policy_key(scope);
                    if revisions.is_empty() {
                        header.forgotten_policies = header.revision;
                    }
                    let after = (!revisions.is_empty()).then(|| signer.encode_policy(key, revisions));
                    let before = match &after {
                        Some((bytes, _)) => policies.insert(key, bytes.as_slice())?,
                        None => policies.remove(key)?,
                    };
                    let before = before.and_then(|bytes| signer::unverified_tag(bytes.value()));
                    header.count_policy(before, after.map(|(_, tag)| tag));
                }
                RecordChange::State((service, id, check), saved) => {
                    let states = match &mut states {
                        Some(states) => states,
                        None => states.insert(transaction.open_table(CHECK_STATES)?),
                    };
                    let key = (service.as_str(), id.as_str(), check.as_str());
                    let after = saved.map(|saved| signer.encode_check_state((key.0, key.1, check), saved));
                    let before = match &after {
                        Some((bytes, _)) => states.insert(key, bytes.as_slice())?,
                        None => states.remove(key)?,
                    };
                    let before = before.and_then(|bytes| signer::unverified_tag(bytes.value()));
                    header.count_check_state(before, after.map(|(_, tag)| tag));
                }
            }
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert("state", header.sign(signer).as_slice())?;
        if header.policies > 0 && !had_policies {
            meta.insert("format", FORMAT.to_be_bytes().as_slice())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Marks the file as one of the format that its content needs, so that a version which does not know that format refuses to write
/// it. Nothing else in a file of an earlier format differs.
pub fn upgrade(database: &Database, has_policies: bool, forget_check_states: bool) -> Result<(), redb::Error> {
    let format = if has_policies { FORMAT } else { FORMAT_WITHOUT_POLICIES };
    let transaction = database.begin_write()?;
    if forget_check_states {
        transaction.delete_table(CHECK_STATES)?;
    }
    transaction.open_table(META)?.insert("format", format.to_be_bytes().as_slice())?;
    transaction.commit()?;
    Ok(())
}

/// Initializes an empty database as a store with these contents.
pub fn initialize(database: &Database, start: StartPoint, contents: &LoadedRecords) -> Result<(), redb::Error> {
    let key = random::u128();
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT_WITHOUT_POLICIES.to_be_bytes().as_slice())?;
        meta.insert("key", key.to_be_bytes().as_slice())?;
    }
    transaction.commit()?;
    let mut header =
        StoreHeader { incarnation: start.incarnation.0, revision: start.revision.0, ..StoreHeader::default() };
    let instances = contents.instances.iter().map(|stored| RecordChange::Put(&stored.instance, stored.lease));
    let states = contents.check_states.iter().map(|(key, saved)| RecordChange::State(key, Some(saved)));
    let policies = contents.policies.iter().map(|stored| RecordChange::Policy(&stored.scope, &stored.revisions));
    write(database, RecordSigner::new(key), &mut header, instances.chain(states).chain(policies), true)
}
