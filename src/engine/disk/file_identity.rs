//! Detection of a store file that was removed, moved or replaced while it is open.
//!
//! The operating system lets a process write to such a file while it is open, but a restart would not find the data.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::error::StoreError;

/// Path, device and inode of an open file.
#[derive(Debug)]
pub struct FileIdentity {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl FileIdentity {
    /// Identity of an open file under this path.
    pub fn of(path: &Path, file: &File) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), device_and_inode: device_and_inode(&file.metadata()?) })
    }

    /// Returns an error if the path leads to another file or to none.
    pub fn check(&self) -> Result<(), StoreError> {
        match fs::metadata(&self.path) {
            Ok(metadata) if device_and_inode(&metadata) == self.device_and_inode => Ok(()),
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::io("find", &self.path)(source)),
            Ok(_) | Err(_) => Err(StoreError::FileReplaced { path: self.path.clone() }),
        }
    }
}

fn device_and_inode(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_was_removed_or_replaced_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        let identity = FileIdentity::of(&path, &file).unwrap();
        identity.check().unwrap();
        fs::remove_file(&path).unwrap();
        assert!(matches!(identity.check(), Err(StoreError::FileReplaced { .. })));
        File::create(&path).unwrap();
        assert!(matches!(identity.check(), Err(StoreError::FileReplaced { .. })));
    }
}
