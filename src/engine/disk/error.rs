//! Why a store cannot be used.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A store that cannot be opened, or can no longer be written. Each message names the file, the reason and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{} is in use{}: stop that one, or choose another directory with --data-dir", path.display(), by(holder))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Which process, where that is known.
        holder: String,
    },
    /// The system refuses to read or write.
    #[error("cannot {doing} {}: {source}: {}", path.display(), remedy(source))]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What is in the file is not what was written to it.
    #[error(
        "{} is damaged: {what}: nothing was changed; keep a copy of the file, then restore an export with `callboard import`, \
         or move the file away to start with an empty registry, in which running instances register again by themselves",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A later version wrote it.
    #[error(
        "{} has format {found}, and this version knows formats up to {known}: run the callboard that wrote it, or have it \
         `callboard export` what is there",
        path.display()
    )]
    UnsupportedFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that is known here.
        known: u32,
    },
    /// There is none, and none is to be made.
    #[error("{} holds no registry: name the directory that `callboard serve --data-dir` was given", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// There is one already, where a new one is to be made.
    #[error("{} holds a registry already: choose an empty directory, or move that one away", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// Its name leads to no file any more, or to another.
    #[error(
        "{} was removed or replaced while it was in use, and what is written to it would not be found again: leave the directory \
         alone while a registry runs, put the file back if it was moved, and start the registry again",
        path.display()
    )]
    FileReplaced {
        /// The file.
        path: PathBuf,
    },
    /// The thread that writes it ended without a word: a defect.
    #[error("the writer of {} has ended, which is a defect: start the registry again and report it", path.display())]
    Defect {
        /// The file.
        path: PathBuf,
    },
}

impl StoreError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    /// What the database says of the file at `path`.
    pub(super) fn database(doing: &'static str, path: &Path) -> impl FnOnce(redb::Error) -> Self {
        move |error| {
            let path = path.to_owned();
            match error {
                // So it calls a file that it did not write.
                redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                    Self::Corrupt { path, what: "it is no database".to_owned() }
                }
                redb::Error::Io(source) => Self::Io { doing, path, source },
                redb::Error::DatabaseAlreadyOpen => Self::InUse { path, holder: String::new() },
                other => Self::Corrupt { path, what: other.to_string() },
            }
        }
    }
}

fn by(holder: &str) -> String {
    if holder.is_empty() { " by another process".to_owned() } else { format!(" by process {holder}") }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "nothing that was acknowledged is lost; free some space and start the registry again"
        }
        io::ErrorKind::PermissionDenied => "let this user read and write it, or choose another with --data-dir",
        io::ErrorKind::ReadOnlyFilesystem => "make it writable, or choose another with --data-dir",
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            "choose a directory that can be made, with --data-dir"
        }
        _ => "nothing that was acknowledged is lost; look after the disk and start the registry again",
    }
}
