//! Export that a registry in memory reads at its start.

use std::{fs::File, io::BufReader, path::Path};

use super::StartError;
use crate::engine::disk::{
    LoadedRecords,
    export::{self, ImportError},
};

/// Reads and validates an export.
///
/// # Errors
///
/// When the file cannot be read, or any part of it is invalid.
pub(super) fn read_export(file: &Path) -> Result<LoadedRecords, StartError> {
    let opened = File::open(file).map_err(ImportError::from);
    let exported = opened.and_then(|file| export::read(BufReader::new(file), |_| {}));
    let exported = exported.map_err(|source| StartError::Import { path: file.to_owned(), source: source.into() })?;
    for skipped in exported.skipped_revisions() {
        tracing::warn!("{}: {skipped}", file.display());
    }
    let (instances, policies) = (exported.instances.len(), exported.policies.len());
    tracing::info!(file = %file.display(), instances, policies, "the registry starts with this export");
    Ok(exported)
}
