//! Errors of the store: what failed, and what an operator does about it.

mod database;

use std::{
    io,
    path::{Path, PathBuf},
};

/// Error of a store that cannot be opened, or can no longer be written.
///
/// Every message names the file, the reason and the remedy. Only [`StoreError::Corrupt`] says that the file is damaged.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the store open.
    #[error(
        "{} is in use by {}: stop that process, or choose another directory with --data-dir",
        path.display(),
        holder.as_deref().map_or_else(|| "another process".to_owned(), |id| format!("process {id}"))
    )]
    InUse {
        /// Directory or file that is locked.
        path: PathBuf,
        /// Process id of the holder, where it is known.
        holder: Option<String>,
    },
    /// The operating system reports an error.
    #[error("cannot {operation} {}: {source}: {}", path.display(), remedy(source))]
    Io {
        /// Operation that failed, as a verb: `open`.
        operation: &'static str,
        /// File or directory of the operation.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// An earlier error of the operating system made the open database unusable.
    #[error(
        "cannot {operation} {}: an earlier read or write failed, and the database accepts no more operations: find that error above in the \
         log, check the disk, and start the registry again",
        path.display()
    )]
    PoisonedByIo {
        /// Operation that failed, as a verb.
        operation: &'static str,
        /// File of the store.
        path: PathBuf,
    },
    /// The content of the file differs from what was written to it.
    #[error(
        "{} is damaged: {reason}: nothing was changed; keep a copy of the file, then restore an export with `callboard import`, \
         or move the file away to start with an empty registry, in which running instances register again by themselves",
        path.display()
    )]
    Corrupt {
        /// File of the store.
        path: PathBuf,
        /// Difference that was found.
        reason: String,
    },
    /// The file is a database of another program.
    #[error(
        "{} is not a callboard store: {reason}: choose another directory with --data-dir, or move the file away",
        path.display()
    )]
    ForeignDatabase {
        /// The file.
        path: PathBuf,
        /// Difference from a store.
        reason: String,
    },
    /// The records have a format that a later version of Callboard introduced.
    #[error(
        "{} has format {found}, and this version reads formats up to {known}: run the version of callboard that wrote it, or \
         let that version `callboard export` the registry",
        path.display()
    )]
    UnsupportedFormat {
        /// File of the store.
        path: PathBuf,
        /// Format of the records.
        found: u32,
        /// Newest format that this version reads.
        known: u32,
    },
    /// The database file has a format that is older than what this version reads.
    #[error(
        "{} is a database file of the old version {found}: `callboard export` it with the version of callboard that wrote it, \
         then `callboard import` the export into another directory",
        path.display()
    )]
    DatabaseUpgradeRequired {
        /// File of the store.
        path: PathBuf,
        /// Version of the file format.
        found: u8,
    },
    /// A record exceeds the maximum size of a value in the database.
    #[error(
        "cannot write {}: a record of {size} bytes exceeds the maximum of the database: register the instance with less data",
        path.display()
    )]
    RecordTooLarge {
        /// File of the store.
        path: PathBuf,
        /// Size of the record in bytes.
        size: usize,
    },
    /// The directory holds no store, and the operation does not create one.
    #[error("{} holds no registry: name the directory that `callboard serve --data-dir` was given", path.display())]
    NotFound {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds a store, and the operation creates a new one.
    #[error("{} holds a registry already: choose an empty directory, or move that one away", path.display())]
    AlreadyExists {
        /// The directory.
        path: PathBuf,
    },
    /// The path of the open file leads to no file, or to another one.
    #[error(
        "{} was removed or replaced while it was in use, so a restart would not find what is written to it: leave the directory \
         alone while a registry runs, put the file back if it was moved, and start the registry again",
        path.display()
    )]
    FileReplaced {
        /// File of the store.
        path: PathBuf,
    },
    /// Callboard used the database in a way that is not permitted, or its writer panicked.
    #[error("cannot {operation} {}: {reason}: this is a defect in callboard; start the registry again and report it", path.display())]
    Defect {
        /// Operation that failed, as a verb.
        operation: &'static str,
        /// File of the store.
        path: PathBuf,
        /// Rule that was broken.
        reason: String,
    },
    /// The database reports an error that this version of Callboard does not know.
    #[error(
        "cannot {operation} {}: unexpected store error: {reason}: start the registry again, and report the error if it comes back",
        path.display()
    )]
    Unexpected {
        /// Operation that failed, as a verb.
        operation: &'static str,
        /// File of the store.
        path: PathBuf,
        /// Message of the database.
        reason: String,
    },
}

impl StoreError {
    /// Converts an error of the operating system.
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }

    /// Error of a file whose content differs from what was written.
    pub(super) fn corrupt(path: &Path, reason: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), reason: reason.into() }
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space and start the registry again",
        io::ErrorKind::PermissionDenied => {
            "let this user read and write it, or choose another directory with --data-dir"
        }
        io::ErrorKind::ReadOnlyFilesystem => "make it writable, or choose another directory with --data-dir",
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            "choose a directory that can be created, with --data-dir"
        }
        io::ErrorKind::Unsupported => "choose a directory on a local file system, with --data-dir",
        _ => "check the disk, then start the registry again",
    }
}
