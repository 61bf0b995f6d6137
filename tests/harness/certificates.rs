//! Certificates made for a test.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use callboard::{
    client::{Endpoint, TlsConfig},
    config::TlsFiles,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::{RootCertStore, pki_types::CertificateDer};
use tempfile::TempDir;

/// Number of authorities so far; each gets a name of its own.
static AUTHORITIES: AtomicUsize = AtomicUsize::new(0);

/// Certificate authority, with a directory for its certificates.
#[derive(Debug)]
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    directory: TempDir,
}

/// Files of a certificate and its key.
#[derive(Debug, Clone)]
pub struct CertFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl CertFiles {
    pub fn certificate(&self) -> &str {
        self.certificate.to_str().unwrap()
    }

    pub fn key(&self) -> &str {
        self.key.to_str().unwrap()
    }
}

impl TestCa {
    pub fn open() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let number = AUTHORITIES.fetch_add(1, Ordering::Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("Test CA {number}"));
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { der: certificate.der().clone(), issuer: Issuer::new(params, key), directory }
    }

    /// Returns the path of the authority's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn ca_path(&self) -> String {
        self.ca().to_str().unwrap().to_owned()
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        roots
    }

    /// Writes a certificate for a registry on this machine.
    pub fn server(&self) -> CertFiles {
        self.issue("server", &["localhost", "127.0.0.1"], |_| {})
    }

    /// Writes the certificate of a workload, by its SPIFFE id.
    pub fn workload(&self, id: &str) -> CertFiles {
        self.issue("workload", &[], |params| params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())])
    }

    /// Writes a certificate, and replaces one in the same files.
    pub fn issue(&self, file: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertFiles {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = CertFiles { certificate: self.file(file, "crt"), key: self.file(file, "key") };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.directory.path().join(Path::new(name).with_extension(kind))
    }

    /// Returns the TLS files of a registry with these certificates. `clients`: it asks clients for certificates of this authority.
    pub fn files(&self, server: &CertFiles, clients: bool) -> TlsFiles {
        TlsFiles { cert: server.certificate.clone(), key: server.key.clone(), client_ca: clients.then(|| self.ca()) }
    }

    /// Returns the endpoint of a registry whose certificate is signed by this authority.
    pub fn endpoint(&self, address: std::net::SocketAddr, client: Option<&CertFiles>) -> Endpoint {
        let mut tls = TlsConfig::default().with_ca(self.ca());
        if let Some(files) = client {
            tls = tls.with_certificate(&files.certificate, &files.key);
        }
        Endpoint::with_tls(&format!("localhost:{}", address.port()), tls).unwrap()
    }
}
