//! Why files make no certificate that could be shown.

use std::{io, path::PathBuf};

/// A file that cannot be used. Each message names the file, the reason and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It is not there, or not for us.
    #[error("{}: cannot be read: {source}; check that the file exists and that this user may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It has nothing of what it is for.
    #[error("{}: has no {wanted} in PEM; {remedy}", path.display())]
    Lacks {
        /// The file.
        path: PathBuf,
        /// What it should have.
        wanted: &'static str,
        /// Where to get it.
        remedy: &'static str,
    },
    /// A part of it is not what it says it is.
    #[error("{}: {reason}; write the file anew, with whole PEM blocks", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key are of different pairs.
    #[error("{}: is not the key of the certificate in {}; replace both together", key.display(), certificate.display())]
    OtherKey {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// A kind of key that is not spoken here.
    #[error("{}: {reason}; use a key for ECDSA (P-256 or P-384), Ed25519 or RSA (2048 bits or more)", path.display())]
    BadKey {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody who checks would accept it any more.
    #[error("{}: has expired on {on}; put a renewed certificate there", path.display())]
    Expired {
        /// The certificate's file.
        path: PathBuf,
        /// When, as RFC 3339 writes it.
        on: String,
    },
}
