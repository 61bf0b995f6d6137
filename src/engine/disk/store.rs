//! The file: one redb database, of which every page has a checksum, and what makes it ours.
//!
//! | table | key | value |
//! |---|---|---|
//! | `instances` | service, id | a record ([`super::record`]) |
//! | `check_states` | service, id, check | a saved state of a check ([`super::record::saved`]) |
//! | `meta` | `format` | the format, 4 bytes: which of these tables there are, and what they mean |
//! | | `key` | 16 random bytes, for the tags of this store |
//! | | `state` | [`StoreHeader`] and its tag |
//!
//! The state counts the records of each table and sums up their tags, so that one that is missing, or one too many, is noticed too:
//! of an instance, that is damage; saved states of checks are then forgotten, all of them.
//!
//! A file is made under another name and renamed once it is complete, so that a file of that name which is no store is
//! damaged, never merely new.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    mem,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use prost::Message;
use redb::{
    Database, ReadTransaction, ReadableDatabase, StorageBackend, TableDefinition, TableError, backends::FileBackend,
};

use super::{
    Durability, directory,
    error::StoreError,
    file_identity::FileIdentity,
    load::{self, LoadError, LoadedRecords, OutdatedRecords},
    record::{self, RecordSigner, StoredLease},
};
use crate::{
    engine::{CheckKey, SavedCheck, StartPoint},
    model::{Incarnation, Instance, InstanceId, Revision, ServiceName},
    random,
};

const INSTANCES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("instances");
const CHECK_STATES: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("check_states");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// The format that this version writes. A version that writes another reads this one, too, and rewrites it when it opens it.
/// 2: checks, listings and nodes. 3: ids of what was registered through Consul's API, of which no two are made alike.
const FORMAT: u32 = 3;
/// The oldest that it reads.
const OLDEST: u32 = 1;
/// The database, in the data directory.
const FILE: &str = "registry.redb";
/// The database while it is made.
const UNFINISHED: &str = "registry.redb.new";
/// How far revisions move on where some may be lost: for people, who expect them to rise. Readers are told of a new life.
const LOST: u64 = 1 << 20;
/// Bytes of pages that are kept in memory: everything is there already, in a better form.
const CACHE: usize = 16 * 1024 * 1024;

/// What the store knows of itself.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoreHeader {
    /// The life of the registry that it holds.
    #[prost(uint64, tag = "1")]
    incarnation: u64,
    /// The newest revision in it.
    #[prost(uint64, tag = "2")]
    revision: u64,
    /// How many records there are.
    #[prost(uint64, tag = "3")]
    pub(super) records: u64,
    /// The exclusive or of their tags.
    #[prost(uint64, tag = "4")]
    pub(super) digest: u64,
    /// A process has it, or ended without closing it.
    #[prost(bool, tag = "5")]
    open: bool,
    /// That process wrote before it was sure that it was on the disk.
    #[prost(bool, tag = "6")]
    relaxed: bool,
    /// How many states of checks there are.
    #[prost(uint64, tag = "7")]
    pub(super) check_states: u64,
    /// The exclusive or of their tags.
    #[prost(uint64, tag = "8")]
    pub(super) check_digest: u64,
}

/// A change of one record.
#[derive(Debug)]
pub enum RecordChange<'a> {
    /// Put this in the place of what is there.
    Put(&'a Instance, Option<StoredLease>),
    /// Remove it.
    Remove(&'a ServiceName, &'a InstanceId),
    /// Save the state of a check, or remove it.
    State(&'a CheckKey, Option<&'a SavedCheck>),
}

impl RecordChange<'_> {
    /// Where in the table it is.
    #[must_use]
    pub fn key(&self) -> (&str, &str) {
        match self {
            Self::Put(instance, _) => (instance.service.as_str(), instance.id.as_str()),
            Self::Remove(service, id) => (service.as_str(), id.as_str()),
            Self::State((service, id, _), _) => (service.as_str(), id.as_str()),
        }
    }
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    database: Database,
    seal: RecordSigner,
    state: StoreHeader,
    /// To be written anew before anything else.
    outdated: OutdatedRecords,
    /// Keys of records that this version cannot use.
    unreadable: BTreeSet<(String, String)>,
    /// The saved states of checks are to be removed.
    forget_states: bool,
    /// `None` where it is no file.
    presence: Option<FileIdentity>,
    /// Dropping it unlocks the directory.
    _lock: File,
}

impl Store {
    /// Opens the store in a directory, and makes both where there are none.
    ///
    /// # Errors
    ///
    /// When it cannot be read and written, another process has it, it is damaged, or a later version wrote it.
    pub fn open(
        directory: &Path,
        durability: Durability,
        fresh: StartPoint,
    ) -> Result<(Self, LoadedRecords), StoreError> {
        directory::make(directory)?;
        let lock = directory::lock(directory)?;
        let path = directory.join(FILE);
        if !path.try_exists().map_err(StoreError::io("find", &path))? {
            create(directory, fresh, &LoadedRecords::default())?;
        }
        let (mut store, found) = Self::load(path, lock)?;
        if found.lossy {
            // What readers were told after the last flush may be lost, and its revisions may be given out again.
            store.state.incarnation = fresh.incarnation.0;
            store.state.revision = fresh.revision.0.max(store.state.revision + LOST);
        }
        upgrade(&store.database, store.forget_states).map_err(StoreError::database("write", &store.path))?;
        store.state.open = true;
        store.state.relaxed = durability == Durability::Relaxed;
        let outdated = mem::take(&mut store.outdated);
        let removed = outdated.keys.iter().map(|(service, id)| RecordChange::Remove(service, id));
        let anew = outdated.instances.iter().filter_map(|at| found.instances.get(*at));
        let anew = anew.map(|stored| RecordChange::Put(&stored.instance, stored.lease));
        store.write(removed.chain(anew), store.revision(), true)?;
        Ok((store, found))
    }

    /// Reads all that is in the store in a directory, and leaves it as it is.
    ///
    /// # Errors
    ///
    /// As [`Store::open`], and when there is none.
    pub fn read(directory: &Path) -> Result<LoadedRecords, StoreError> {
        let path = directory.join(FILE);
        if !path.try_exists().map_err(StoreError::io("find", &path))? {
            return Err(StoreError::Missing { path: directory.to_owned() });
        }
        let lock = directory::lock(directory)?;
        Self::load(path, lock).map(|(_, found)| found)
    }

    /// Makes a store of what was found elsewhere in a directory that has none.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or there is one.
    pub fn make(directory: &Path, fresh: StartPoint, contents: &LoadedRecords) -> Result<(), StoreError> {
        directory::make(directory)?;
        let _lock = directory::lock(directory)?;
        let path = directory.join(FILE);
        if path.try_exists().map_err(StoreError::io("find", &path))? {
            return Err(StoreError::Taken { path: directory.to_owned() });
        }
        create(directory, fresh, contents)
    }

    fn load(path: PathBuf, lock: File) -> Result<(Self, LoadedRecords), StoreError> {
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(StoreError::io("open", &path))?;
        if file.metadata().map_err(StoreError::io("open", &path))?.len() == 0 {
            return Err(StoreError::Corrupt { path, what: "it is empty".to_owned() });
        }
        let presence = FileIdentity::of(&path, &file).map_err(StoreError::io("open", &path))?;
        let backend = FileBackend::new(file).map_err(|error| StoreError::database("open", &path)(error.into()))?;
        let (store, found) = Self::over(backend, path, lock)?;
        Ok((Self { presence: Some(presence), ..store }, found))
    }

    /// The store on a backend that holds one.
    pub(super) fn over(
        backend: impl StorageBackend,
        path: PathBuf,
        lock: File,
    ) -> Result<(Self, LoadedRecords), StoreError> {
        let failed = || StoreError::database("read", &path);
        let database = Database::builder()
            .set_cache_size(CACHE)
            // Reads the whole file once, and costs a fraction of what loading it does.
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
            .map_err(|error| failed()(error.into()))?;
        let damaged = |what: &str| StoreError::Corrupt { path: path.clone(), what: what.to_owned() };
        let transaction = database.begin_read().map_err(|error| failed()(error.into()))?;
        let meta = transaction.open_table(META).map_err(|_| damaged("it is another program's database"))?;
        let value = |name| meta.get(name).map_err(|error| failed()(error.into()));
        let format = value("format")?.and_then(|bytes| bytes.value().try_into().ok().map(u32::from_be_bytes));
        match format {
            Some(OLDEST..=FORMAT) => {}
            Some(found) if found > FORMAT => {
                return Err(StoreError::UnsupportedFormat { path: path.clone(), found, known: FORMAT });
            }
            _ => return Err(damaged("it has no format")),
        }
        let key = value("key")?.and_then(|bytes| bytes.value().try_into().ok().map(u128::from_be_bytes));
        let seal = RecordSigner::new(key.ok_or_else(|| damaged("it has no key"))?);
        let state = value("state")?.ok_or_else(|| damaged("it has no state"))?;
        let (state, _) =
            seal.open("", "state", state.value()).map_err(|_| damaged("its state is not what was written"))?;
        let state = StoreHeader::decode(state).map_err(|_| damaged("its state is no message"))?;
        let mut found = LoadedRecords {
            revision: Revision(state.revision),
            killed: state.open,
            lossy: state.open && state.relaxed,
            ..LoadedRecords::default()
        };
        let read = read_all(&transaction, seal, &state, &mut found).map_err(|problem| match problem {
            LoadError::Database(error) => failed()(error),
            LoadError::Damage(what) => damaged(&what),
        })?;
        drop(transaction);
        let (outdated, forget_states) = read;
        let unreadable = found.unreadable.iter().map(|record| (record.service.clone(), record.id.clone())).collect();
        let state = if forget_states { StoreHeader { check_states: 0, check_digest: 0, ..state } } else { state };
        Ok((
            Self { path, database, seal, state, outdated, unreadable, forget_states, presence: None, _lock: lock },
            found,
        ))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The life of the registry in it.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.state.incarnation)
    }

    /// The newest revision in it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.state.revision)
    }

    /// Number of records that this version cannot use, and that nothing has replaced yet.
    #[must_use]
    pub fn unreadable(&self) -> usize {
        self.unreadable.len()
    }

    /// Writes these changes as one, up to and including this revision: after a crash all of them are there, or none. Where it
    /// is `durable`, they and all before them are on the disk when this returns.
    ///
    /// # Errors
    ///
    /// When the disk fails, or the file is no longer where a restart looks for it. Then it is not known what is on it, and the store
    /// is of no more use.
    pub fn write<'a>(
        &mut self,
        writes: impl Iterator<Item = RecordChange<'a>>,
        revision: Revision,
        durable: bool,
    ) -> Result<(), StoreError> {
        let mut state = StoreHeader { revision: revision.0, ..self.state.clone() };
        let unreadable = &mut self.unreadable;
        let writes = writes.inspect(|write| {
            if !unreadable.is_empty() && !matches!(write, RecordChange::State(..)) {
                let (service, id) = write.key();
                unreadable.remove(&(service.to_owned(), id.to_owned()));
            }
        });
        transact(&self.database, self.seal, &mut state, writes, durable)
            .map_err(StoreError::database("write", &self.path))?;
        self.presence.iter().try_for_each(FileIdentity::check)?;
        self.state = state;
        Ok(())
    }

    /// Has all on the disk that was written so far.
    ///
    /// # Errors
    ///
    /// As [`Store::write`].
    pub fn flush(&mut self) -> Result<(), StoreError> {
        self.write([].into_iter(), self.revision(), true)
    }

    /// Closes it in order: the next process finds all that was written.
    ///
    /// # Errors
    ///
    /// As [`Store::write`].
    pub fn close(mut self) -> Result<(), StoreError> {
        self.state.open = false;
        self.flush()
    }
}

/// Reads all tables: instances that are to be written anew, and whether the saved states of checks are to be forgotten.
fn read_all(
    transaction: &ReadTransaction,
    seal: RecordSigner,
    state: &StoreHeader,
    found: &mut LoadedRecords,
) -> Result<(OutdatedRecords, bool), LoadError> {
    let outdated = load::instances(&transaction.open_table(INSTANCES)?, seal, state, found)?;
    let usable = match transaction.open_table(CHECK_STATES) {
        Ok(table) => load::check_states(&table, seal, state, found)?,
        Err(TableError::TableDoesNotExist(_)) => state.check_states == 0,
        Err(error) => return Err(error.into()),
    };
    if !usable {
        found.check_states.clear();
    }
    Ok((outdated, !usable))
}

/// One transaction: the records, and the state that sums them up.
fn transact<'a>(
    database: &Database,
    seal: RecordSigner,
    state: &mut StoreHeader,
    writes: impl Iterator<Item = RecordChange<'a>>,
    durable: bool,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    if !durable {
        transaction.set_durability(redb::Durability::None)?;
    }
    {
        let mut instances = transaction.open_table(INSTANCES)?;
        let mut states = None;
        for write in writes {
            let key = write.key();
            match write {
                RecordChange::Put(instance, lease) => {
                    let (bytes, tag) = seal.encode(instance, lease);
                    let before = instances.insert(key, bytes.as_slice())?;
                    let before = before.and_then(|bytes| record::tag_of(bytes.value()));
                    count((&mut state.records, &mut state.digest), before, Some(tag));
                }
                RecordChange::Remove(..) => {
                    let before = instances.remove(key)?.and_then(|bytes| record::tag_of(bytes.value()));
                    count((&mut state.records, &mut state.digest), before, None);
                }
                RecordChange::State((service, id, check), saved) => {
                    let states = match &mut states {
                        Some(states) => states,
                        None => states.insert(transaction.open_table(CHECK_STATES)?),
                    };
                    let key = (service.as_str(), id.as_str(), check.as_str());
                    let after = saved.map(|saved| seal.encode_state((key.0, key.1, check), saved));
                    let before = match &after {
                        Some((bytes, _)) => states.insert(key, bytes.as_slice())?,
                        None => states.remove(key)?,
                    };
                    let before = before.and_then(|bytes| record::tag_of(bytes.value()));
                    count((&mut state.check_states, &mut state.check_digest), before, after.map(|(_, tag)| tag));
                }
            }
        }
        let mut message = state.encode_to_vec();
        message.extend(seal.tag("", "state", &message).to_be_bytes());
        transaction.open_table(META)?.insert("state", message.as_slice())?;
    }
    transaction.commit()?;
    Ok(())
}

/// Counts a record that takes the place of another.
fn count((records, digest): (&mut u64, &mut u64), before: Option<u64>, after: Option<u64>) {
    *digest ^= before.unwrap_or_default() ^ after.unwrap_or_default();
    *records += u64::from(after.is_some());
    *records -= u64::from(before.is_some());
}

/// Says that the file has the present format: whoever reads only an earlier one must not write what it does not know. Nothing
/// else of a file of an earlier format differs.
fn upgrade(database: &Database, forget_states: bool) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    if forget_states {
        transaction.delete_table(CHECK_STATES)?;
    }
    transaction.open_table(META)?.insert("format", FORMAT.to_be_bytes().as_slice())?;
    transaction.commit()?;
    Ok(())
}

/// Makes a complete file and then gives it its name.
fn create(directory: &Path, fresh: StartPoint, contents: &LoadedRecords) -> Result<(), StoreError> {
    let (path, unfinished) = (directory.join(FILE), directory.join(UNFINISHED));
    let making = || StoreError::database("make", &unfinished);
    // What a crash left of an earlier attempt goes: the directory is locked, so it is nobody else's. The ids in it are
    // secrets: whoever reads them speaks for the registrations.
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
    let file = file.map_err(StoreError::io("make", &unfinished))?;
    let backend = FileBackend::new(file).map_err(|error| making()(error.into()))?;
    let database = Database::builder().set_cache_size(CACHE).create_with_backend(backend);
    let database = database.map_err(|error| making()(error.into()))?;
    initialize(&database, fresh, contents).map_err(making())?;
    drop(database);
    fs::rename(&unfinished, &path).map_err(StoreError::io("make", &path))?;
    // The name, too, has to be on the disk.
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(StoreError::io("make", directory))
}

pub(super) fn initialize(database: &Database, fresh: StartPoint, contents: &LoadedRecords) -> Result<(), redb::Error> {
    let key = random::u128();
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT.to_be_bytes().as_slice())?;
        meta.insert("key", key.to_be_bytes().as_slice())?;
    }
    transaction.commit()?;
    let mut state =
        StoreHeader { incarnation: fresh.incarnation.0, revision: fresh.revision.0, ..StoreHeader::default() };
    let instances = contents.instances.iter().map(|stored| RecordChange::Put(&stored.instance, stored.lease));
    let states = contents.check_states.iter().map(|(key, saved)| RecordChange::State(key, Some(saved)));
    let writes = instances.chain(states);
    transact(database, RecordSigner::new(key), &mut state, writes, true)
}

/// The bytes of a state after a record with one tag has taken the place of a record with another.
#[cfg(test)]
pub(super) fn exchange(bytes: &[u8], seal: RecordSigner, before: u64, after: u64) -> Vec<u8> {
    let (message, _) = seal.open("", "state", bytes).unwrap();
    let mut state = StoreHeader::decode(message).unwrap();
    state.digest ^= before ^ after;
    let mut message = state.encode_to_vec();
    message.extend(seal.tag("", "state", &message).to_be_bytes());
    message
}
