//! The file: one redb database, of which every page has a checksum, and what makes it ours.
//!
//! | table | key | value |
//! |---|---|---|
//! | `instances` | service, id | a record ([`super::record`]) |
//! | `meta` | `format` | the format, 4 bytes: which of these tables there are, and what they mean |
//! | | `key` | 16 random bytes, for the tags of this store |
//! | | `state` | [`State`] and its tag |
//!
//! The state counts the records and sums up their tags, so that one that is missing, or one too many, is noticed too.
//!
//! A file is made under another name and renamed once it is complete, so that a file of that name which is no store is
//! damaged, never merely new.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File, OpenOptions},
    mem,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, backends::FileBackend};

use super::{
    Durability, directory,
    error::StoreError,
    presence::Presence,
    record::{self, Seal, Stored, StoredLease},
};
use crate::{
    engine::Beginning,
    model::{Incarnation, Instance, InstanceId, Revision, ServiceName},
    random,
};

const INSTANCES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("instances");
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
struct State {
    /// The life of the registry that it holds.
    #[prost(uint64, tag = "1")]
    incarnation: u64,
    /// The newest revision in it.
    #[prost(uint64, tag = "2")]
    revision: u64,
    /// How many records there are.
    #[prost(uint64, tag = "3")]
    records: u64,
    /// The exclusive or of their tags.
    #[prost(uint64, tag = "4")]
    digest: u64,
    /// A process has it, or ended without closing it.
    #[prost(bool, tag = "5")]
    open: bool,
    /// That process wrote before it was sure that it was on the disk.
    #[prost(bool, tag = "6")]
    relaxed: bool,
}

/// A change of one record.
#[derive(Debug)]
pub enum Write<'a> {
    /// Put this in the place of what is there.
    Put(&'a Instance, Option<StoredLease>),
    /// Remove it.
    Remove(&'a ServiceName, &'a InstanceId),
}

impl Write<'_> {
    /// Where in the table it is.
    #[must_use]
    pub fn key(&self) -> (&str, &str) {
        match self {
            Self::Put(instance, _) => (instance.service.as_str(), instance.id.as_str()),
            Self::Remove(service, id) => (service.as_str(), id.as_str()),
        }
    }
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    database: Database,
    seal: Seal,
    state: State,
    /// To be written anew before anything else.
    outdated: Outdated,
    /// `None` where it is no file.
    presence: Option<Presence>,
    /// Dropping it unlocks the directory.
    _lock: File,
}

/// What was found in a store.
#[derive(Debug)]
pub struct Found {
    /// All instances, by service and id.
    pub instances: Vec<Stored>,
    /// The newest revision.
    pub revision: Revision,
    /// Some that was acknowledged may be missing: it was relaxed, and was not closed.
    pub lossy: bool,
}

/// Records that an earlier version wrote under ids of another form.
#[derive(Debug, Default)]
struct Outdated {
    /// Where they are.
    keys: Vec<(ServiceName, InstanceId)>,
    /// The instances that they are of, by their places among all.
    instances: Vec<usize>,
}

impl Store {
    /// Opens the store in a directory, and makes both where there are none.
    ///
    /// # Errors
    ///
    /// When it cannot be read and written, another process has it, it is damaged, or a later version wrote it.
    pub fn open(directory: &Path, durability: Durability, fresh: Beginning) -> Result<(Self, Found), StoreError> {
        directory::make(directory)?;
        let lock = directory::lock(directory)?;
        let path = directory.join(FILE);
        if !path.try_exists().map_err(StoreError::io("find", &path))? {
            create(directory, fresh, &[])?;
        }
        let (mut store, found) = Self::load(path, lock)?;
        if found.lossy {
            // What readers were told after the last flush may be lost, and its revisions may be given out again.
            store.state.incarnation = fresh.incarnation.0;
            store.state.revision = fresh.revision.0.max(store.state.revision + LOST);
        }
        upgrade(&store.database).map_err(StoreError::database("write", &store.path))?;
        store.state.open = true;
        store.state.relaxed = durability == Durability::Relaxed;
        let outdated = mem::take(&mut store.outdated);
        let removed = outdated.keys.iter().map(|(service, id)| Write::Remove(service, id));
        let anew = outdated.instances.iter().filter_map(|at| found.instances.get(*at));
        let anew = anew.map(|stored| Write::Put(&stored.instance, stored.lease));
        store.write(removed.chain(anew), store.revision(), true)?;
        Ok((store, found))
    }

    /// Reads all that is in the store in a directory, and leaves it as it is.
    ///
    /// # Errors
    ///
    /// As [`Store::open`], and when there is none.
    pub fn read(directory: &Path) -> Result<Found, StoreError> {
        let path = directory.join(FILE);
        if !path.try_exists().map_err(StoreError::io("find", &path))? {
            return Err(StoreError::Missing { path: directory.to_owned() });
        }
        let lock = directory::lock(directory)?;
        Self::load(path, lock).map(|(_, found)| found)
    }

    /// Makes a store with these instances in a directory that has none.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or there is one.
    pub fn make(directory: &Path, fresh: Beginning, instances: &[Stored]) -> Result<(), StoreError> {
        directory::make(directory)?;
        let _lock = directory::lock(directory)?;
        let path = directory.join(FILE);
        if path.try_exists().map_err(StoreError::io("find", &path))? {
            return Err(StoreError::Taken { path: directory.to_owned() });
        }
        create(directory, fresh, instances)
    }

    fn load(path: PathBuf, lock: File) -> Result<(Self, Found), StoreError> {
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(StoreError::io("open", &path))?;
        if file.metadata().map_err(StoreError::io("open", &path))?.len() == 0 {
            return Err(StoreError::Damaged { path, what: "it is empty".to_owned() });
        }
        let presence = Presence::of(&path, &file).map_err(StoreError::io("open", &path))?;
        let backend = FileBackend::new(file).map_err(|error| StoreError::database("open", &path)(error.into()))?;
        let (store, found) = Self::over(backend, path, lock)?;
        Ok((Self { presence: Some(presence), ..store }, found))
    }

    /// The store on a backend that holds one.
    pub(super) fn over(backend: impl StorageBackend, path: PathBuf, lock: File) -> Result<(Self, Found), StoreError> {
        let failed = || StoreError::database("read", &path);
        let database = Database::builder()
            .set_cache_size(CACHE)
            // Reads the whole file once, and costs a fraction of what loading it does.
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
            .map_err(|error| failed()(error.into()))?;
        let damaged = |what: &str| StoreError::Damaged { path: path.clone(), what: what.to_owned() };
        let transaction = database.begin_read().map_err(|error| failed()(error.into()))?;
        let meta = transaction.open_table(META).map_err(|_| damaged("it is another program's database"))?;
        let value = |name| meta.get(name).map_err(|error| failed()(error.into()));
        let format = value("format")?.and_then(|bytes| bytes.value().try_into().ok().map(u32::from_be_bytes));
        match format {
            Some(OLDEST..=FORMAT) => {}
            Some(found) if found > FORMAT => {
                return Err(StoreError::Newer { path: path.clone(), found, known: FORMAT });
            }
            _ => return Err(damaged("it has no format")),
        }
        let key = value("key")?.and_then(|bytes| bytes.value().try_into().ok().map(u128::from_be_bytes));
        let seal = Seal::new(key.ok_or_else(|| damaged("it has no key"))?);
        let state = value("state")?.ok_or_else(|| damaged("it has no state"))?;
        let (state, _) =
            seal.open("", "state", state.value()).map_err(|_| damaged("its state is not what was written"))?;
        let state = State::decode(state).map_err(|_| damaged("its state is no message"))?;
        let instances = transaction.open_table(INSTANCES).map_err(|error| failed()(error.into()))?;
        let (instances, outdated) = read_all(&instances, seal, &state).map_err(|problem| match problem {
            Problem::Database(error) => failed()(error),
            Problem::Damage(what) => damaged(&what),
        })?;
        drop(transaction);
        let found = Found { instances, revision: Revision(state.revision), lossy: state.open && state.relaxed };
        Ok((Self { path, database, seal, state, outdated, presence: None, _lock: lock }, found))
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

    /// Writes these changes as one, up to and including this revision: after a crash all of them are there, or none. Where it
    /// is `durable`, they and all before them are on the disk when this returns.
    ///
    /// # Errors
    ///
    /// When the disk fails, or the file is no longer where a restart looks for it. Then it is not known what is on it, and the store
    /// is of no more use.
    pub fn write<'a>(
        &mut self,
        writes: impl Iterator<Item = Write<'a>>,
        revision: Revision,
        durable: bool,
    ) -> Result<(), StoreError> {
        let mut state = State { revision: revision.0, ..self.state.clone() };
        transact(&self.database, self.seal, &mut state, writes, durable)
            .map_err(StoreError::database("write", &self.path))?;
        self.presence.iter().try_for_each(Presence::check)?;
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

/// Why the records cannot be read.
enum Problem {
    Database(redb::Error),
    Damage(String),
}

impl<E: Into<redb::Error>> From<E> for Problem {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

fn read_all(
    table: &impl ReadableTable<(&'static str, &'static str), &'static [u8]>,
    seal: Seal,
    state: &State,
) -> Result<(Vec<Stored>, Outdated), Problem> {
    let mut outdated = Outdated::default();
    let mut instances = Vec::with_capacity(usize::try_from(table.len()?).unwrap_or_default());
    let mut digest = 0;
    for item in table.iter()? {
        let (key, bytes) = item?;
        let (service, id) = key.value();
        let stored = seal.open(service, id, bytes.value()).and_then(|(message, tag)| {
            digest ^= tag;
            record::decode(service, id, message)
        });
        let damaged = |damage| Problem::Damage(format!("the record of {service:?}/{id:?}: {damage}"));
        let stored = stored.map_err(damaged)?;
        if stored.instance.id.as_str() != id {
            let old = InstanceId::parse_any(id).map_err(|invalid| damaged(invalid.into()))?;
            outdated.keys.push((stored.instance.service.clone(), old));
            outdated.instances.push(instances.len());
        }
        instances.push(stored);
    }
    if instances.len() as u64 != state.records || digest != state.digest {
        return Err(Problem::Damage(format!(
            "it has {} records that are not the {} written",
            instances.len(),
            state.records
        )));
    }
    if outdated.instances.is_empty() { Ok((instances, outdated)) } else { Ok(once_each(instances, outdated)) }
}

/// Names that an earlier version told apart may be one: of nodes that differ in case, and of what is on them. The newest stays.
fn once_each(instances: Vec<Stored>, mut outdated: Outdated) -> (Vec<Stored>, Outdated) {
    let renamed: HashSet<usize> = outdated.instances.drain(..).collect();
    let mut kept: BTreeMap<(ServiceName, InstanceId), (bool, Stored)> = BTreeMap::new();
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

/// One transaction: the records, and the state that sums them up.
fn transact<'a>(
    database: &Database,
    seal: Seal,
    state: &mut State,
    writes: impl Iterator<Item = Write<'a>>,
    durable: bool,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    if !durable {
        transaction.set_durability(redb::Durability::None)?;
    }
    {
        let mut table = transaction.open_table(INSTANCES)?;
        for write in writes {
            let key = write.key();
            let (before, after) = match write {
                Write::Put(instance, lease) => {
                    let (bytes, tag) = seal.encode(instance, lease);
                    let before = table.insert(key, bytes.as_slice())?;
                    (before.and_then(|bytes| record::tag_of(bytes.value())), Some(tag))
                }
                Write::Remove(..) => {
                    let before = table.remove(key)?;
                    (before.and_then(|bytes| record::tag_of(bytes.value())), None)
                }
            };
            state.digest ^= before.unwrap_or_default() ^ after.unwrap_or_default();
            state.records += u64::from(after.is_some());
            state.records -= u64::from(before.is_some());
        }
        let mut message = state.encode_to_vec();
        message.extend(seal.tag("", "state", &message).to_be_bytes());
        transaction.open_table(META)?.insert("state", message.as_slice())?;
    }
    transaction.commit()?;
    Ok(())
}

/// Says that the file has the present format: whoever reads only an earlier one must not write what it does not know. Nothing
/// else of a file of an earlier format differs.
fn upgrade(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert("format", FORMAT.to_be_bytes().as_slice())?;
    transaction.commit()?;
    Ok(())
}

/// Makes a complete file and then gives it its name.
fn create(directory: &Path, fresh: Beginning, instances: &[Stored]) -> Result<(), StoreError> {
    let (path, unfinished) = (directory.join(FILE), directory.join(UNFINISHED));
    let making = || StoreError::database("make", &unfinished);
    // What a crash left of an earlier attempt goes: the directory is locked, so it is nobody else's. The ids in it are
    // secrets: whoever reads them speaks for the registrations.
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&unfinished);
    let file = file.map_err(StoreError::io("make", &unfinished))?;
    let backend = FileBackend::new(file).map_err(|error| making()(error.into()))?;
    let database = Database::builder().set_cache_size(CACHE).create_with_backend(backend);
    let database = database.map_err(|error| making()(error.into()))?;
    initialize(&database, fresh, instances).map_err(making())?;
    drop(database);
    fs::rename(&unfinished, &path).map_err(StoreError::io("make", &path))?;
    // The name, too, has to be on the disk.
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(StoreError::io("make", directory))
}

pub(super) fn initialize(database: &Database, fresh: Beginning, instances: &[Stored]) -> Result<(), redb::Error> {
    let key = random::u128();
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT.to_be_bytes().as_slice())?;
        meta.insert("key", key.to_be_bytes().as_slice())?;
    }
    transaction.commit()?;
    let mut state = State { incarnation: fresh.incarnation.0, revision: fresh.revision.0, ..State::default() };
    let writes = instances.iter().map(|stored| Write::Put(&stored.instance, stored.lease));
    transact(database, Seal::new(key), &mut state, writes, true)
}
