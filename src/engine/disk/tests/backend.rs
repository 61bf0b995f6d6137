//! A disk in memory that can fail, and can be looked at as it would be after a crash.

use std::{
    io,
    sync::{Arc, Mutex},
};

use redb::{Database, StorageBackend};

use super::super::{LoadedRecords, Store};
use crate::engine::disk::StoreError;

/// What is on the disk, and what is only on its way.
#[derive(Debug, Default)]
struct Image {
    /// As of the last sync.
    synced: Vec<u8>,
    /// As the program sees it.
    seen: Vec<u8>,
    /// What was done since the last sync, in order.
    since: Vec<DiskStep>,
    /// Syncs until one fails. `None`: none does.
    syncs_left: Option<usize>,
    /// Bytes that the disk has. `None`: enough.
    space: Option<usize>,
}

#[derive(Debug, Clone)]
enum DiskStep {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// A handle to the disk.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<Image>>);

impl FaultyDisk {
    pub fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Image { synced: bytes.clone(), seen: bytes, ..Image::default() })))
    }

    /// What a loss of power would leave at the least.
    pub fn synced(&self) -> Vec<u8> {
        self.0.lock().unwrap().synced.clone()
    }

    /// What a loss of power might leave: of what was on its way, some, in any order, in part.
    pub fn torn(&self, mut random: impl FnMut(usize) -> usize) -> Vec<u8> {
        let image = self.0.lock().unwrap();
        let mut left = image.synced.clone();
        for step in &image.since {
            match step {
                DiskStep::Length(length) if random(2) == 0 => left.resize(*length, 0),
                DiskStep::Length(_) => {}
                DiskStep::Write(at, bytes) => {
                    for (sector, bytes) in bytes.chunks(512).enumerate() {
                        let at = at + sector * 512;
                        if random(2) == 0 && at + bytes.len() <= left.len() {
                            left[at..at + bytes.len()].copy_from_slice(bytes);
                        }
                    }
                }
            }
        }
        left
    }

    pub fn fail_after(&self, syncs: usize) {
        self.0.lock().unwrap().syncs_left = Some(syncs);
    }

    pub fn fill(&self) {
        let mut image = self.0.lock().unwrap();
        image.space = Some(image.seen.len());
    }
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (image, offset) = (self.0.lock().unwrap(), usize::try_from(offset).unwrap());
        let part = image.seen.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(part);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut image, length) = (self.0.lock().unwrap(), usize::try_from(len).unwrap());
        if image.space.is_some_and(|space| length > space) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        image.seen.resize(length, 0);
        image.since.push(DiskStep::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.0.lock().unwrap();
        if let Some(left) = &mut image.syncs_left {
            let Some(fewer) = left.checked_sub(1) else {
                return Err(io::Error::from_raw_os_error(5)); // EIO
            };
            *left = fewer;
        }
        image.synced = image.seen.clone();
        image.since.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut image, at) = (self.0.lock().unwrap(), usize::try_from(offset).unwrap());
        image.seen.get_mut(at..at + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        image.since.push(DiskStep::Write(at, data.to_vec()));
        Ok(())
    }
}

/// A new store on a disk of its own.
pub fn store() -> (FaultyDisk, Store) {
    let disk = FaultyDisk::default();
    let database = Database::builder().create_with_backend(disk.clone()).unwrap();
    super::super::store::initialize(&database, super::FRESH, &LoadedRecords::default()).unwrap();
    drop(database);
    let (store, _) = Store::over(disk.clone(), "disk".into(), tempfile::tempfile().unwrap()).unwrap();
    (disk, store)
}

/// What is in a store of these bytes.
pub fn load(bytes: Vec<u8>) -> Result<(Store, LoadedRecords), StoreError> {
    Store::over(FaultyDisk::holding(bytes), "disk".into(), tempfile::tempfile().unwrap())
}
