//! Conversion of the database's errors.

use std::{io, path::Path};

use super::StoreError;

impl StoreError {
    /// Converts an error of the database in the file at `path`.
    pub(in super::super) fn database(operation: &'static str, path: &Path) -> impl FnOnce(redb::Error) -> Self {
        move |error| convert(operation, path, error)
    }
}

fn convert(operation: &'static str, path: &Path, error: redb::Error) -> StoreError {
    use redb::Error;
    let path = path.to_owned();
    let message = error.to_string();
    match error {
        Error::DatabaseAlreadyOpen | Error::LockProtocolMismatch => StoreError::InUse { path, holder: None },
        Error::Corrupted(reason) => StoreError::Corrupt { path, reason },
        Error::UpgradeRequired(found) => StoreError::DatabaseUpgradeRequired { path, found },
        Error::ValueTooLarge(size) => StoreError::RecordTooLarge { path, size },
        Error::PreviousIo => StoreError::PoisonedByIo { operation, path },
        Error::Io(source) => match source.kind() {
            // redb's report of a file without the header of a database.
            io::ErrorKind::InvalidData => StoreError::corrupt(&path, "it does not start with the header of a database"),
            io::ErrorKind::UnexpectedEof => StoreError::corrupt(&path, "it ends too early"),
            _ => StoreError::Io { operation, path, source },
        },
        Error::Backend(source) => StoreError::Io { operation, path, source: io::Error::other(source) },
        Error::Unsupported => StoreError::Io { operation, path, source: io::ErrorKind::Unsupported.into() },
        Error::TableTypeMismatch { .. }
        | Error::TableIsMultimap(_)
        | Error::TableIsNotMultimap(_)
        | Error::TypeDefinitionChanged { .. }
        | Error::TableDoesNotExist(_) => StoreError::ForeignDatabase { path, reason: message },
        Error::TransactionInProgress
        | Error::TransactionPoisoned
        | Error::LockPoisoned(_)
        | Error::DatabaseClosed
        | Error::TableAlreadyOpen(..)
        | Error::TableExists(_)
        | Error::UnorderedKey
        | Error::ReadTransactionStillInUse(_)
        | Error::WouldBlock
        | Error::NonDurableCommitUnsupported
        | Error::ImmediateDurabilityRequired
        | Error::InvalidSavepoint
        | Error::PersistentSavepointModified
        | Error::PersistentSavepointExists
        | Error::EphemeralSavepointExists
        | Error::EphemeralSavepointUnsupported => StoreError::Defect { operation, path, reason: message },
        // `redb::Error` is non-exhaustive: an error that a later version adds is not known to be damage. So is an aborted repair.
        _ => StoreError::Unexpected { operation, path, reason: message },
    }
}

#[cfg(test)]
mod tests {
    use redb::Error;

    use super::*;

    fn converted(error: Error) -> StoreError {
        convert("write", Path::new("/data/registry.redb"), error)
    }

    #[test]
    fn database_error_of_each_class_has_its_own_remedy() {
        let io = |kind: io::ErrorKind| Error::Io(kind.into());
        for (error, message) in [
            (Error::DatabaseAlreadyOpen, "/data/registry.redb is in use by another process: stop that process"),
            (Error::LockProtocolMismatch, "is in use by another process: stop that process"),
            (Error::Corrupted("page 7".into()), "is damaged: page 7: nothing was changed; keep a copy"),
            (io(io::ErrorKind::InvalidData), "is damaged: it does not start with the header of a database"),
            (io(io::ErrorKind::UnexpectedEof), "is damaged: it ends too early"),
            (
                Error::UpgradeRequired(2),
                "is a database file of the old version 2: `callboard export` it with the version",
            ),
            (Error::ValueTooLarge(4 << 30), "a record of 4294967296 bytes exceeds the maximum"),
            (Error::PreviousIo, "cannot write /data/registry.redb: an earlier read or write failed"),
            (io(io::ErrorKind::StorageFull), "free some space and start the registry again"),
            (io(io::ErrorKind::PermissionDenied), "let this user read and write it"),
            (Error::Unsupported, "choose a directory on a local file system"),
            (Error::Backend("gone".into()), "cannot write /data/registry.redb: gone: check the disk"),
            (Error::TableIsMultimap("meta".into()), "is not a callboard store: meta is a multimap table"),
            (Error::TransactionInProgress, "this is a defect in callboard; start the registry again and report it"),
            (Error::TransactionPoisoned, "this is a defect in callboard"),
            (Error::WouldBlock, "this is a defect in callboard"),
            (Error::RepairAborted, "unexpected store error: "),
        ] {
            let shown = converted(error).to_string();
            assert!(shown.contains(message), "{shown}");
            assert!(message.contains("damaged") == shown.contains("damaged"), "{shown}");
        }
    }
}
