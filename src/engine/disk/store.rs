//! File of the store: one redb database, in which every page has a checksum.
//!
//! | table | key | value |
//! |---|---|---|
//! | `instances` | service, id | record of an instance ([`record`](crate::engine::record)) |
//! | `check_states` | service, id, check | saved state of a check ([`saved`](crate::engine::record::saved)) |
//! | `policies` | service; empty for the defaults | policy with its last revisions ([`policy`](crate::engine::record::policy)) |
//! | `meta` | `format` | format of the tables, 4 bytes |
//! | | `key` | 16 random bytes, the key of this store's tags |
//! | | `state` | [`StoreHeader`] and its tag |
//!
//! The header counts the records of each table and holds the exclusive or of their tags, so that a missing or an additional record
//! is found. If this happens to instances or policies, the file is damaged; if it happens to saved check states, all of them are
//! forgotten.
//!
//! A file is created under another name and renamed once it is complete. So a file under the final name that is not a valid
//! store is damaged, and not merely unfinished.

mod transaction;

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    mem,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use redb::{Database, ReadTransaction, ReadableDatabase, StorageBackend, TableError, backends::FileBackend};

use super::{
    Durability, directory,
    error::StoreError,
    file_identity::FileIdentity,
    header::StoreHeader,
    load::{self, LoadError, LoadedRecords, OutdatedRecords, RecordKey},
    signer::RecordSigner,
};
use crate::{
    engine::StartPoint,
    model::{Incarnation, Revision},
};
use transaction::{CHECK_STATES, FORMAT, INSTANCES, META, MIN_FORMAT, POLICIES};

pub use transaction::RecordChange;
#[cfg(test)]
pub use transaction::initialize;

/// Name of the database in the data directory.
const FILE: &str = "registry.redb";
/// Name of the database while it is created.
const UNFINISHED_FILE: &str = "registry.redb.new";
/// Number of revisions that are skipped if some may be lost, so that revisions still rise for people who read them. Readers detect
/// the loss by the new incarnation.
const SKIPPED_REVISIONS: u64 = 1 << 20;
/// Size of the page cache in bytes. It is small, because the registry holds all records in memory.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// An open store. The directory is locked until it is dropped.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    database: Database,
    signer: RecordSigner,
    header: StoreHeader,
    /// Records of an earlier format, which opening rewrites.
    outdated: OutdatedRecords,
    /// Keys of records that this version cannot use.
    unreadable: BTreeSet<RecordKey>,
    /// True if opening removes the saved check states.
    forget_check_states: bool,
    /// Identity of the file. `None` for a backend that is not a file.
    identity: Option<FileIdentity>,
    _lock: File,
}

impl Store {
    /// Opens the store in a directory. Creates the directory and the store where they do not exist.
    ///
    /// # Errors
    ///
    /// When the store cannot be read and written, is in use, is damaged, or has a format that this version does not read.
    pub fn open(
        directory: &Path,
        durability: Durability,
        start: StartPoint,
    ) -> Result<(Self, LoadedRecords), StoreError> {
        directory::create(directory)?;
        let lock = directory::lock(directory)?;
        let path = directory.join(FILE);
        if !path.try_exists().map_err(StoreError::io("find", &path))? {
            create(directory, start, &LoadedRecords::default())?;
        }
        let (mut store, loaded) = Self::load(path, lock)?;
        if loaded.lossy {
            // Changes that readers saw after the last flush may be lost, and their revisions would be used again.
            store.header.incarnation = start.incarnation.0;
            store.header.revision = start.revision.0.max(store.header.revision + SKIPPED_REVISIONS);
        }
        transaction::upgrade(&store.database, store.header.policies > 0, store.forget_check_states)
            .map_err(StoreError::database("write", &store.path))?;
        store.header.open = true;
        store.header.relaxed = durability == Durability::Relaxed;
        let outdated = mem::take(&mut store.outdated);
        let removed = outdated.keys.iter().map(|(service, id)| RecordChange::Remove(service, id));
        let renamed = outdated.instances.iter().filter_map(|at| loaded.instances.get(*at));
        let renamed = renamed.map(|stored| RecordChange::Put(&stored.instance, stored.lease));
        store.write(removed.chain(renamed), store.revision(), true)?;
        Ok((store, loaded))
    }

    /// Reads the store in a directory without changing it.
    ///
    /// # Errors
    ///
    /// As [`Store::open`], and when there is no store.
    pub fn read(directory: &Path) -> Result<LoadedRecords, StoreError> {
        let path = directory.join(FILE);
        if !path.try_exists().map_err(StoreError::io("find", &path))? {
            return Err(StoreError::NotFound { path: directory.to_owned() });
        }
        let lock = directory::lock(directory)?;
        Self::load(path, lock).map(|(_, loaded)| loaded)
    }

    /// Creates a store with these contents in a directory that has none.
    ///
    /// # Errors
    ///
    /// When the store cannot be written, or the directory holds one.
    pub fn create(directory: &Path, start: StartPoint, contents: &LoadedRecords) -> Result<(), StoreError> {
        directory::create(directory)?;
        let _lock = directory::lock(directory)?;
        let path = directory.join(FILE);
        if path.try_exists().map_err(StoreError::io("find", &path))? {
            return Err(StoreError::AlreadyExists { path: directory.to_owned() });
        }
        create(directory, start, contents)
    }

    fn load(path: PathBuf, lock: File) -> Result<(Self, LoadedRecords), StoreError> {
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(StoreError::io("open", &path))?;
        if file.metadata().map_err(StoreError::io("open", &path))?.len() == 0 {
            return Err(StoreError::corrupt(&path, "it is empty"));
        }
        let identity = FileIdentity::of(&path, &file).map_err(StoreError::io("open", &path))?;
        let backend = FileBackend::new(file).map_err(|error| StoreError::database("open", &path)(error.into()))?;
        let (store, loaded) = Self::load_from(backend, path, lock)?;
        Ok((Self { identity: Some(identity), ..store }, loaded))
    }

    /// Loads the store on a backend.
    pub(super) fn load_from(
        backend: impl StorageBackend,
        path: PathBuf,
        lock: File,
    ) -> Result<(Self, LoadedRecords), StoreError> {
        let failed = |error: redb::Error| StoreError::database("read", &path)(error);
        let corrupt = |reason: &str| StoreError::corrupt(&path, reason);
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            // Reads the whole file once, which costs a fraction of loading the records.
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
            .map_err(|error| failed(error.into()))?;
        let transaction = database.begin_read().map_err(|error| failed(error.into()))?;
        let meta = transaction.open_table(META).map_err(|error| failed(error.into()))?;
        let value = |name| meta.get(name).map_err(|error| failed(error.into()));
        let format = value("format")?.and_then(|bytes| bytes.value().try_into().ok().map(u32::from_be_bytes));
        match format {
            Some(MIN_FORMAT..=FORMAT) => {}
            Some(found) if found > FORMAT => {
                return Err(StoreError::UnsupportedFormat { path: path.clone(), found, known: FORMAT });
            }
            _ => return Err(corrupt("it has no format")),
        }
        let key = value("key")?.and_then(|bytes| bytes.value().try_into().ok().map(u128::from_be_bytes));
        let signer = RecordSigner::new(key.ok_or_else(|| corrupt("it has no key"))?);
        let header = value("state")?.ok_or_else(|| corrupt("it has no header"))?;
        let header =
            StoreHeader::verify(header.value(), signer).map_err(|error| corrupt(&format!("its header: {error}")))?;
        let mut loaded = LoadedRecords {
            revision: Revision(header.revision),
            unclean: header.open,
            lossy: header.open && header.relaxed,
            forgotten_policies: Revision(header.forgotten_policies),
            ..LoadedRecords::default()
        };
        let tables = read_tables(&transaction, signer, &header, &mut loaded).map_err(|error| match error {
            LoadError::Database(error) => failed(error),
            LoadError::Corrupt(reason) => corrupt(&reason),
        })?;
        drop(transaction);
        let (outdated, forget_check_states) = tables;
        let unreadable = loaded.unreadable.iter().map(|record| record.key.clone()).collect();
        let header =
            if forget_check_states { StoreHeader { check_states: 0, check_digest: 0, ..header } } else { header };
        let store = Self {
            path,
            database,
            signer,
            header,
            outdated,
            unreadable,
            forget_check_states,
            identity: None,
            _lock: lock,
        };
        Ok((store, loaded))
    }

    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Incarnation of the registry in the store.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.header.incarnation)
    }

    /// Newest revision in the store.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision(self.header.revision)
    }

    /// Number of records that this version cannot use and that no write has replaced.
    #[must_use]
    pub fn unreadable(&self) -> usize {
        self.unreadable.len()
    }

    /// Writes changes up to and including a revision as one transaction: after a crash the store has all of them or none. With
    /// `durable`, these changes and all earlier ones are on the disk when the call returns.
    ///
    /// # Errors
    ///
    /// When the disk fails, or the file is no longer where a restart looks for it. The content of the file is unknown then, and
    /// the store must not be used further.
    pub fn write<'a>(
        &mut self,
        changes: impl Iterator<Item = RecordChange<'a>>,
        revision: Revision,
        durable: bool,
    ) -> Result<(), StoreError> {
        let mut header = StoreHeader { revision: revision.0, ..self.header.clone() };
        let unreadable = &mut self.unreadable;
        let changes = changes.inspect(|change| {
            if !unreadable.is_empty()
                && let Some(key) = change.record_key()
            {
                unreadable.remove(&key);
            }
        });
        transaction::write(&self.database, self.signer, &mut header, changes, durable)
            .map_err(StoreError::database("write", &self.path))?;
        self.identity.iter().try_for_each(FileIdentity::check)?;
        self.header = header;
        Ok(())
    }

    /// Flushes everything that was written so far to the disk.
    ///
    /// # Errors
    ///
    /// As [`Store::write`].
    pub fn flush(&mut self) -> Result<(), StoreError> {
        self.write([].into_iter(), self.revision(), true)
    }

    /// Closes the store, so that the next process knows that nothing is missing.
    ///
    /// # Errors
    ///
    /// As [`Store::write`].
    pub fn close(mut self) -> Result<(), StoreError> {
        self.header.open = false;
        self.flush()
    }
}

/// Reads all tables into `loaded`. Returns the records of an earlier format, and whether the saved check states are to be
/// forgotten.
fn read_tables(
    transaction: &ReadTransaction,
    signer: RecordSigner,
    header: &StoreHeader,
    loaded: &mut LoadedRecords,
) -> Result<(OutdatedRecords, bool), LoadError> {
    let instances = transaction.open_table(INSTANCES).map_err(|error| match error {
        TableError::TableDoesNotExist(_) => LoadError::Corrupt("it has no table of instances".to_owned()),
        other => other.into(),
    })?;
    let outdated = load::instances(&instances, signer, header, loaded)?;
    let usable = match transaction.open_table(CHECK_STATES) {
        Ok(table) => load::check_states(&table, signer, header, loaded)?,
        Err(TableError::TableDoesNotExist(_)) => header.check_states == 0,
        Err(error) => return Err(error.into()),
    };
    if !usable {
        loaded.check_states.clear();
    }
    match transaction.open_table(POLICIES) {
        Ok(table) => load::policies(&table, signer, header, loaded)?,
        Err(TableError::TableDoesNotExist(_)) if header.policies == 0 => {}
        Err(TableError::TableDoesNotExist(_)) => {
            return Err(LoadError::Corrupt("it has no table of policies".to_owned()));
        }
        Err(error) => return Err(error.into()),
    }
    Ok((outdated, !usable))
}

/// Creates a complete file, then gives it its final name.
fn create(directory: &Path, start: StartPoint, contents: &LoadedRecords) -> Result<(), StoreError> {
    let (path, unfinished) = (directory.join(FILE), directory.join(UNFINISHED_FILE));
    let failed = |error: redb::Error| StoreError::database("create", &unfinished)(error);
    // Replaces what a crash left of an earlier attempt: the directory is locked, so no other process uses it. Only this user may
    // read the file, because the lease ids in it are secrets that authorize writes to the registrations.
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
    let file = file.map_err(StoreError::io("create", &unfinished))?;
    let backend = FileBackend::new(file).map_err(|error| failed(error.into()))?;
    let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend);
    let database = database.map_err(|error| failed(error.into()))?;
    transaction::initialize(&database, start, contents).map_err(failed)?;
    drop(database);
    fs::rename(&unfinished, &path).map_err(StoreError::io("create", &path))?;
    // The new name is on the disk only once the directory is.
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(StoreError::io("create", directory))
}
