//! TLS settings of the client.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use super::{ClientError, TlsConnectError};

/// TLS settings of a client: the authorities it trusts and the certificate it presents. Files are in PEM.
///
/// TLS 1.2 and 1.3 are supported. By default a client trusts the authorities of the system's trust store (`SSL_CERT_FILE`
/// names another bundle) and presents no certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
}

impl TlsConfig {
    /// Trusts the authorities in this file, and no others.
    #[must_use]
    pub fn with_ca(self, file: impl Into<PathBuf>) -> Self {
        Self { ca: Some(file.into()), ..self }
    }

    /// Presents this certificate, with its private key, to a registry that requires one.
    #[must_use]
    pub fn with_certificate(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { identity: Some((certificate.into(), key.into())), ..self }
    }

    /// Expects this name in the registry's certificate, instead of the host of its address.
    #[must_use]
    pub fn with_server_name(self, name: impl Into<String>) -> Self {
        Self { server_name: Some(name.into()), ..self }
    }

    /// Returns the name that the certificate of a registry at this host must have, if it is a valid name.
    pub(crate) fn name(&self, host: &str) -> Option<ServerName<'static>> {
        let name = self.server_name.as_deref().unwrap_or_else(|| host.trim_matches(['[', ']']));
        ServerName::try_from(name.to_owned()).ok()
    }

    /// Reads the files and returns the configuration for rustls.
    pub(crate) fn read(&self) -> Result<Arc<ClientConfig>, ClientError> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| ClientError::Tls(TlsConnectError::from(&error)))?
            .with_root_certificates(self.roots()?);
        let mut config = match &self.identity {
            Some((certificate, key)) => {
                let config = config.with_client_auth_cert(certificates(certificate)?, private_key(key)?);
                config.map_err(|error| {
                    let pair = format!("{}, {}", certificate.display(), key.display());
                    unusable(
                        Path::new(&pair),
                        format!("the certificate and the key do not belong together: {error}; replace both"),
                    )
                })?
            }
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, ClientError> {
        let mut roots = RootCertStore::empty();
        if let Some(file) = &self.ca {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(|error| unusable(file, format!("{error}; replace it")))?;
            }
            return Ok(roots);
        }
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let reason = "it is empty; install certificates (Debian: ca-certificates), or name a file with authorities";
            return Err(unusable(Path::new("the system's trust store"), reason));
        }
        Ok(roots)
    }
}

/// Reads the certificates of a file, which must have at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(file, "has no certificate in PEM; put one into it")),
        Err(error) => Err(unusable(file, format!("malformed PEM: {error}; replace the file"))),
    }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, ClientError> {
    PrivateKeyDer::from_pem_slice(&read(file)?).map_err(|error| {
        unusable(file, format!("has no private key in PEM ({error}); put one into it, without a passphrase"))
    })
}

fn read(file: &Path) -> Result<Vec<u8>, ClientError> {
    fs::read(file).map_err(|error| {
        unusable(file, format!("cannot be read: {error}; check that the file exists and that this user may read it"))
    })
}

fn unusable(file: &Path, reason: impl Into<String>) -> ClientError {
    ClientError::Credentials { path: file.display().to_string(), reason: reason.into() }
}
