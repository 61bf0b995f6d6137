//! TLS: the server's certificate, the verification of clients' certificates, and the reload of both while the server runs.
//!
//! | file | holds |
//! |---|---|
//! | `load` | loading of the files |
//! | `certificate`, `identity` | contents of a certificate, and the name that a client's certificate proves |
//! | `handshake` | handshakes, and the answer to a peer that does not speak TLS |
//! | `reload` | changed files, and certificates that expire soon |
//! | `error` | errors of files that cannot be used |
//!
//! TLS 1.2 and 1.3 by rustls with ring. Authorization is not decided here: a certificate gives a connection a name.

mod certificate;
mod error;
mod handshake;
mod identity;
mod load;
mod reload;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::ServerConfig;
use tokio::sync::Notify;

pub(super) use self::handshake::perform_handshake;
use self::{
    certificate::CertificateSummary,
    load::{FileFingerprints, LoadedTls},
};
pub use self::{error::TlsError, handshake::HandshakeError, load::TlsPaths};
use super::Protocol;
use crate::{
    clock::Clock,
    metrics::{CertificateFile, Metrics},
};

/// Certificates and key, which can be replaced. A connection keeps those of its handshake; new connections get the
/// newest.
#[derive(Debug)]
pub struct TlsState {
    files: TlsPaths,
    /// A handshake holds the lock only to copy the `Arc`. No other lock is taken under it.
    loaded: RwLock<Arc<LoadedTls>>,
    /// Fingerprints of the files before they were read first.
    first: FileFingerprints,
    /// Notified when the files are to be read again.
    reload_requested: Notify,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
}

impl TlsState {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// When one of them cannot be used. An expired certificate can be used: it is shown to clients, and logged.
    pub fn load(files: TlsPaths, clock: Arc<Clock>, metrics: Arc<Metrics>) -> Result<Arc<Self>, TlsError> {
        let first = files.fingerprints();
        let loaded = files.load()?;
        let tls = Self {
            files,
            loaded: RwLock::new(Arc::new(loaded)),
            first,
            reload_requested: Notify::new(),
            clock,
            metrics,
        };
        tls.report(&tls.current(), "certificate loaded");
        Ok(Arc::new(tls))
    }

    /// Requests a reload of the files, even if they have not changed. [`TlsState::watch`] reads them.
    pub fn reload(&self) {
        self.reload_requested.notify_one();
    }

    /// Configuration of one handshake.
    fn config(&self, protocol: Protocol) -> Arc<ServerConfig> {
        let loaded = self.loaded.read();
        match protocol {
            Protocol::Http2 => Arc::clone(&loaded.grpc),
            Protocol::Http1 => Arc::clone(&loaded.http),
        }
    }

    fn current(&self) -> Arc<LoadedTls> {
        Arc::clone(&self.loaded.read())
    }

    /// Logs the certificate that is used from now on, and sets its metrics.
    fn report(&self, loaded: &LoadedTls, what: &str) {
        let TlsPaths { certificate, key, client_ca } = &self.files;
        tracing::info!(
            certificate = %certificate.display(),
            names = loaded.own.names.join(","),
            until = loaded.own.end(),
            client_ca = client_ca.as_ref().map(|path| path.display().to_string()),
            "{what}"
        );
        if loaded.key_is_readable_by_others {
            let key = key.display();
            tracing::warn!(%key, "every user of this machine can read the private key: remove that permission (chmod o-r)");
        }
        self.metrics.tls.expires(CertificateFile::Own, loaded.own.not_after);
        if let Some(end) = loaded.client_ca_end {
            self.metrics.tls.expires(CertificateFile::ClientCa, end);
        }
    }
}
