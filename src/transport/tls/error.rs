//! Errors of files for TLS that cannot be used.

use std::{io, path::PathBuf};

/// Error of a file that cannot be used. Each message names the file, the reason and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file does not exist, or this user may not read it.
    #[error("{}: cannot be read: {source}; check that the file exists and that this user may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The file has no block of the wanted kind.
    #[error("{}: has no {wanted} in PEM; {remedy}", path.display())]
    Lacks {
        /// The file.
        path: PathBuf,
        /// Kind of block that it should have.
        wanted: &'static str,
        /// Remedy in words.
        remedy: &'static str,
    },
    /// A block of the file is malformed.
    #[error("{}: {reason}; write the file again, with complete PEM blocks", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Reason in words.
        reason: String,
    },
    /// Certificate and key do not belong together.
    #[error("{}: is not the key of the certificate in {}; replace both together", key.display(), certificate.display())]
    OtherKey {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The kind of key is not supported.
    #[error("{}: {reason}; use a key for ECDSA (P-256 or P-384), Ed25519 or RSA (2048 bits or more)", path.display())]
    BadKey {
        /// The key's file.
        path: PathBuf,
        /// Reason in words.
        reason: String,
    },
    /// The certificate has expired, and clients would reject it.
    #[error("{}: has expired on {on}; put a renewed certificate there", path.display())]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// Time of expiry in RFC 3339.
        on: String,
    },
}
