//! Loading of certificates and keys.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    Error as RustlsError, InconsistentKeys, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::{TlsError, certificate::CertificateSummary};

/// Permission of users other than owner and group.
const OTHERS_READ: u32 = 0o004;

/// Paths of certificates and key, all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// The server's certificate, followed by the intermediate ones.
    pub certificate: PathBuf,
    /// Private key of the certificate: PKCS#8, PKCS#1 or SEC 1, without a passphrase.
    pub key: PathBuf,
    /// Authorities that sign clients' certificates. `None`: clients need no certificate.
    pub client_ca: Option<PathBuf>,
}

/// Configuration and certificates read from [`TlsPaths`] at one time.
#[derive(Debug)]
pub(super) struct LoadedTls {
    /// Configuration for HTTP/2.
    pub(super) grpc: Arc<ServerConfig>,
    /// Configuration for HTTP/1.1.
    pub(super) http: Arc<ServerConfig>,
    /// Summary of the server's certificate.
    pub(super) own: CertificateSummary,
    /// Time at which the first of the authorities for clients expires, in seconds since 1970.
    pub(super) client_ca_end: Option<u64>,
    /// Set when every user of this machine can read the key.
    pub(super) key_is_readable_by_others: bool,
}

/// Fingerprints of the files. Equal fingerprints mean unchanged files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileFingerprints([Option<FileFingerprint>; 3]);

/// Metadata of a file, with all links followed: a mounted secret is replaced by changing a link.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileFingerprint {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<Metadata> for FileFingerprint {
    fn from(file: Metadata) -> Self {
        Self {
            file: (file.dev(), file.ino()),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

impl TlsPaths {
    /// Reads the fingerprints. A file that does not exist has none.
    pub(super) fn fingerprints(&self) -> FileFingerprints {
        let fingerprint = |path: &Path| fs::metadata(path).ok().map(FileFingerprint::from);
        FileFingerprints([
            fingerprint(&self.certificate),
            fingerprint(&self.key),
            self.client_ca.as_deref().and_then(fingerprint),
        ])
    }

    /// Loads and checks all files.
    pub(super) fn load(&self) -> Result<LoadedTls, TlsError> {
        let chain = certificates(&self.certificate)?;
        let own = describe(&self.certificate, &chain[0])?;
        let provider = Arc::new(ring::default_provider());
        let (verifier, client_ca_end) = match &self.client_ca {
            Some(path) => {
                let (verifier, end) = authorities(path, &provider)?;
                (verifier, Some(end))
            }
            None => (WebPkiClientVerifier::no_client_auth(), None),
        };
        let (key, key_is_readable_by_others) = private_key(&self.key)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|builder| builder.with_client_cert_verifier(verifier))
            .and_then(|builder| builder.with_single_cert(chain, key))
            .map_err(|error| self.explain(&error))?;
        if self.client_ca.is_some() {
            // A resumed session is not verified again: a client could resume it after its certificate expired, or after its authority was
            // removed.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        config.alpn_protocols = vec![b"h2".to_vec()];
        let mut http = config.clone();
        http.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(LoadedTls { grpc: Arc::new(config), http: Arc::new(http), own, client_ca_end, key_is_readable_by_others })
    }

    fn explain(&self, error: &RustlsError) -> TlsError {
        match error {
            RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::OtherKey { key: self.key.clone(), certificate: self.certificate.clone() }
            }
            RustlsError::InvalidCertificate(_) => {
                TlsError::Malformed { path: self.certificate.clone(), reason: error.to_string() }
            }
            _ => TlsError::BadKey { path: self.key.clone(), reason: error.to_string() },
        }
    }
}

/// Reads the certificates of a file: at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let found = found.map_err(|error| malformed(path, &error))?;
    if found.is_empty() {
        let remedy = "put the certificate there, between BEGIN CERTIFICATE and END CERTIFICATE";
        return Err(TlsError::Lacks { path: path.to_owned(), wanted: "certificate", remedy });
    }
    Ok(found)
}

fn describe(path: &Path, certificate: &CertificateDer<'_>) -> Result<CertificateSummary, TlsError> {
    CertificateSummary::read(certificate).map_err(|error| TlsError::Malformed {
        path: path.to_owned(),
        reason: format!("not an X.509 certificate: {error}"),
    })
}

/// Loads the verifier of clients' certificates. Returns it with the time at which the first authority expires.
fn authorities(path: &Path, provider: &Arc<CryptoProvider>) -> Result<(Arc<dyn ClientCertVerifier>, u64), TlsError> {
    let malformed = |reason: String| TlsError::Malformed { path: path.to_owned(), reason };
    let (mut roots, mut end) = (RootCertStore::empty(), u64::MAX);
    for certificate in certificates(path)? {
        end = end.min(describe(path, &certificate)?.not_after);
        roots.add(certificate).map_err(|error| malformed(error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    Ok((verifier.map_err(|error| malformed(error.to_string()))?, end))
}

/// Reads the key of a file. Returns it and whether every user can read the file.
fn private_key(path: &Path) -> Result<(PrivateKeyDer<'static>, bool), TlsError> {
    let key = PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::Lacks {
            path: path.to_owned(),
            wanted: "private key",
            remedy: "put it there without a passphrase, between BEGIN PRIVATE KEY and END PRIVATE KEY",
        },
        error => malformed(path, &error),
    })?;
    let is_readable_by_others = fs::metadata(path).is_ok_and(|file| file.mode() & OTHERS_READ != 0);
    Ok((key, is_readable_by_others))
}

fn malformed(path: &Path, error: &pem::Error) -> TlsError {
    TlsError::Malformed { path: path.to_owned(), reason: format!("malformed PEM: {error}") }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
}
