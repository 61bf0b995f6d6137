//! TLS: whose certificate is shown, which clients' are accepted, and how both change while the server runs.
//!
//! | file | holds |
//! |---|---|
//! | `load` | from files to what a handshake needs |
//! | `certificate`, `identity` | what a certificate says, and whom a client's names |
//! | `handshake` | one peer's handshake, and what a peer that speaks no TLS is told |
//! | `reload` | notices changed files, and certificates that are about to end |
//! | `error` | why a file cannot be used |
//!
//! TLS 1.2 and 1.3 by rustls with ring. What clients may do is not decided here: a certificate gives a connection a name.

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

pub(super) use self::handshake::shake_hands;
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

/// Certificates and key as they are now. Those who shook hands before stay as they are; who comes later gets the newest.
#[derive(Debug)]
pub struct TlsState {
    files: TlsPaths,
    /// Held for the copy of an `Arc`, in a handshake; no other lock is taken under it.
    loaded: RwLock<Arc<LoadedTls>>,
    /// How the files looked before they were read first.
    first: FileFingerprints,
    /// Rung when somebody asks for the files to be read again.
    asked: Notify,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
}

impl TlsState {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// When one of them cannot be used. A certificate that has expired can: it is shown, and complained of.
    pub fn load(files: TlsPaths, clock: Arc<Clock>, metrics: Arc<Metrics>) -> Result<Arc<Self>, TlsError> {
        let first = files.look();
        let loaded = files.load()?;
        let tls = Self { files, loaded: RwLock::new(Arc::new(loaded)), first, asked: Notify::new(), clock, metrics };
        tls.announce(&tls.now(), "certificate loaded");
        Ok(Arc::new(tls))
    }

    /// Asks for the files to be read again, changed or not. [`TlsState::watch`] does it.
    pub fn reload(&self) {
        self.asked.notify_one();
    }

    /// What one handshake needs.
    fn config(&self, protocol: Protocol) -> Arc<ServerConfig> {
        let loaded = self.loaded.read();
        match protocol {
            Protocol::Http2 => Arc::clone(&loaded.grpc),
            Protocol::Http1 => Arc::clone(&loaded.http),
        }
    }

    fn now(&self) -> Arc<LoadedTls> {
        Arc::clone(&self.loaded.read())
    }

    /// Tells people and metrics what is shown from now on.
    fn announce(&self, loaded: &LoadedTls, what: &str) {
        let TlsPaths { certificate, key, client_ca } = &self.files;
        tracing::info!(
            certificate = %certificate.display(),
            names = loaded.own.names.join(","),
            until = loaded.own.end(),
            client_ca = client_ca.as_ref().map(|path| path.display().to_string()),
            "{what}"
        );
        if loaded.key_is_open {
            let key = key.display();
            tracing::warn!(%key, "every user of this machine may read the private key: take that right away (chmod o-r)");
        }
        self.metrics.tls.expires(CertificateFile::Own, loaded.own.not_after);
        if let Some(end) = loaded.client_ca_end {
            self.metrics.tls.expires(CertificateFile::ClientCa, end);
        }
    }
}
