//! Errors of a server that does not start.

use std::{io, net::SocketAddr, path::PathBuf};

use super::InheritError;
use crate::{
    app::RecoveryError,
    engine::{
        disk::{StoreError, export::ImportError},
        etcd::EtcdEngineError,
    },
    model::FieldError,
    transport::tls::TlsError,
};

/// Error of a server that does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The server cannot listen on the address.
    #[error("cannot listen on {address} for {listener}: {}: {}", reason(source), hint(source, flag))]
    Listen {
        /// Name of the listener.
        listener: &'static str,
        /// Flag that changes its address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// Error of the operating system.
        source: io::Error,
    },
    /// An inherited socket cannot be used.
    #[error(transparent)]
    Inherited(#[from] InheritError),
    /// The registry cannot be read from the disk, or cannot be stored there.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The export that the registry begins with cannot be used.
    #[error("{}: {source}", path.display())]
    Import {
        /// The file.
        path: PathBuf,
        /// Error of the export. Boxed, so that a `Result` stays small.
        source: Box<ImportError>,
    },
    /// The registry cannot be read from etcd.
    #[error(transparent)]
    Etcd(#[from] EtcdEngineError),
    /// The file with the password of etcd cannot be read.
    #[error("cannot read {}: {source}: name a file with the password of --etcd-user", path.display())]
    EtcdPassword {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Writes that the end of an earlier process interrupted cannot be completed.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// A TLS listener has no certificate.
    #[error("{0} needs a certificate and its key: name their files with --tls-cert and --tls-key")]
    NoCertificate(&'static str),
    /// The node that represents this registry to programs written for Consul is invalid.
    #[error(transparent)]
    Agent(#[from] FieldError),
    /// A file for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The operating system cannot create a thread or a poller.
    #[error("cannot start a worker: {0}: allow this user more threads and file descriptors, or lower --workers")]
    Worker(#[source] io::Error),
    /// The compiled descriptors of the contract cannot be read, which is a defect.
    #[error("cannot serve reflection: {0}: report this as a defect")]
    Reflection(#[from] tonic_reflection::server::Error),
}

fn reason(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => "the port is taken".into(),
        io::ErrorKind::AddrNotAvailable => "it is not an address of this host".into(),
        io::ErrorKind::PermissionDenied => "the operating system does not permit it".into(),
        _ => source.to_string(),
    }
}

fn hint(source: &io::Error, flag: &str) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            format!("stop the program that has it, perhaps another callboard, or choose another with {flag}")
        }
        _ => format!("choose another with {flag}"),
    }
}
