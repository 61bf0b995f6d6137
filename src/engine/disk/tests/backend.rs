//! Disk in memory that can fail, and whose content after a crash can be inspected.

use std::{
    io,
    sync::{Arc, Mutex},
};

use redb::{Database, StorageBackend};

use super::super::{LoadedRecords, Store};
use crate::engine::disk::StoreError;

/// Error number of an I/O error.
const EIO: i32 = 5;

/// Content of the disk, with the writes since the last sync.
#[derive(Debug, Default)]
struct Image {
    /// Content as of the last sync.
    synced: Vec<u8>,
    /// Content as the program sees it.
    visible: Vec<u8>,
    /// Steps since the last sync, in order.
    unsynced: Vec<DiskStep>,
    /// Number of syncs until one fails. `None`: no sync fails.
    syncs_left: Option<usize>,
    /// Number of reads until one fails. `None`: no read fails.
    reads_left: Option<usize>,
    /// Capacity in bytes. `None`: unlimited.
    capacity: Option<usize>,
}

#[derive(Debug, Clone)]
enum DiskStep {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// Handle to the disk.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<Image>>);

impl FaultyDisk {
    pub fn holding(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Image { synced: bytes.clone(), visible: bytes, ..Image::default() })))
    }

    /// Returns the content that is certain to be there after a loss of power.
    pub fn synced(&self) -> Vec<u8> {
        self.0.lock().unwrap().synced.clone()
    }

    /// Returns content that a loss of power may leave: some of the sectors that were written since the last sync.
    pub fn torn(&self, mut random: impl FnMut(usize) -> usize) -> Vec<u8> {
        let image = self.0.lock().unwrap();
        let mut left = image.synced.clone();
        for step in &image.unsynced {
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

    pub fn fail_reads_after(&self, reads: usize) {
        self.0.lock().unwrap().reads_left = Some(reads);
    }

    pub fn fill(&self) {
        let mut image = self.0.lock().unwrap();
        image.capacity = Some(image.visible.len());
    }
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().visible.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (mut image, offset) = (self.0.lock().unwrap(), usize::try_from(offset).unwrap());
        if let Some(left) = &mut image.reads_left {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::from_raw_os_error(EIO))?;
        }
        let part = image.visible.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(part);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut image, length) = (self.0.lock().unwrap(), usize::try_from(len).unwrap());
        if image.capacity.is_some_and(|capacity| length > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        image.visible.resize(length, 0);
        image.unsynced.push(DiskStep::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.0.lock().unwrap();
        if let Some(left) = &mut image.syncs_left {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::from_raw_os_error(EIO))?;
        }
        image.synced = image.visible.clone();
        image.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut image, at) = (self.0.lock().unwrap(), usize::try_from(offset).unwrap());
        image.visible.get_mut(at..at + data.len()).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        image.unsynced.push(DiskStep::Write(at, data.to_vec()));
        Ok(())
    }
}

/// Creates a store on a disk of its own.
pub fn store() -> (FaultyDisk, Store) {
    let disk = FaultyDisk::default();
    let database = Database::builder().create_with_backend(disk.clone()).unwrap();
    super::super::store::initialize(&database, super::START, &LoadedRecords::default()).unwrap();
    drop(database);
    let (store, _) = Store::load_from(disk.clone(), "disk".into(), tempfile::tempfile().unwrap()).unwrap();
    (disk, store)
}

/// Loads the store in these bytes.
pub fn load(bytes: Vec<u8>) -> Result<(Store, LoadedRecords), StoreError> {
    Store::load_from(FaultyDisk::holding(bytes), "disk".into(), tempfile::tempfile().unwrap())
}
