//! Whether the file that is written is still the one that a restart finds.
//!
//! A file that was removed, or whose directory was moved, can be written for as long as it is open. What is acknowledged then
//! is lost with the process.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::error::StoreError;

/// A file and its name.
#[derive(Debug)]
pub struct FileIdentity {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

impl FileIdentity {
    /// Of the open file that has this name.
    pub fn of(path: &Path, file: &File) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: identity(&file.metadata()?) })
    }

    /// Refuses a file that no longer has its name.
    pub fn check(&self) -> Result<(), StoreError> {
        match fs::metadata(&self.path) {
            Ok(found) if identity(&found) == self.file => Ok(()),
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::io("find", &self.path)(source)),
            _ => Err(StoreError::FileReplaced { path: self.path.clone() }),
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_missed_and_an_impostor_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = File::create(&path).unwrap();
        let presence = FileIdentity::of(&path, &file).unwrap();
        presence.check().unwrap();
        fs::remove_file(&path).unwrap();
        assert!(matches!(presence.check(), Err(StoreError::FileReplaced { .. })));
        File::create(&path).unwrap();
        assert!(matches!(presence.check(), Err(StoreError::FileReplaced { .. })));
    }
}
