//! How a client speaks TLS, and what is wrong when it cannot.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use rustls::{
    CertificateError, Error as RustlsError, InvalidMessage,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::ClientError;

/// What rustls says before the alert that the other side sent; HTTP/2 passes on no more than these words.
const ALERT: &str = "received fatal alert: ";
/// What HTTP/2 says of the GOAWAY by which a registry turns away who comes without TLS.
const INADEQUATE: &str = "do not meet minimum security requirements";

/// How a client speaks TLS 1.2 or 1.3: whom it trusts, and who it is. Files are in PEM.
///
/// Unless told otherwise it trusts what this system trusts (`SSL_CERT_FILE` names another bundle), and has no certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
}

impl TlsConfig {
    /// Trusts the certificates of this file, and no others.
    #[must_use]
    pub fn with_ca(self, file: impl Into<PathBuf>) -> Self {
        Self { ca: Some(file.into()), ..self }
    }

    /// Shows this certificate, of which this is the private key, to a registry that asks for one.
    #[must_use]
    pub fn with_certificate(self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { identity: Some((certificate.into(), key.into())), ..self }
    }

    /// Wants the registry's certificate to have this name, instead of the host in its address.
    #[must_use]
    pub fn with_server_name(self, name: impl Into<String>) -> Self {
        Self { server_name: Some(name.into()), ..self }
    }

    /// Reads the files.
    pub(super) fn apply(&self, endpoint: Endpoint) -> Result<Endpoint, ClientError> {
        let mut config = ClientTlsConfig::new();
        config = match &self.ca {
            Some(file) => config.ca_certificate(Certificate::from_pem(certificates(file)?)),
            None => config.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificates(certificate)?, private_key(key)?));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        endpoint.tls_config(config).map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &tonic::transport::Error) -> ClientError {
        let mut innermost: &dyn Error = error;
        while let Some(deeper) = innermost.source() {
            innermost = deeper;
        }
        let path = match (&self.identity, &self.ca) {
            (Some((certificate, key)), _) => format!("{}, {}", certificate.display(), key.display()),
            (None, Some(ca)) => ca.display().to_string(),
            (None, None) => "certificates that this system trusts".to_owned(),
        };
        ClientError::Credentials { path, reason: format!("cannot be used for TLS: {innermost}; replace them") }
    }
}

/// A file with a certificate at least.
fn certificates(file: &Path) -> Result<Vec<u8>, ClientError> {
    let text = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(text),
        Ok(_) => Err(unusable(file, "has no certificate in PEM; put one there")),
        Err(error) => Err(unusable(file, format!("malformed PEM: {error}; write the file anew"))),
    }
}

fn private_key(file: &Path) -> Result<Vec<u8>, ClientError> {
    let text = read(file)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(_) => Ok(text),
        Err(error) => {
            Err(unusable(file, format!("no private key in PEM ({error}); put one there, without a passphrase")))
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, ClientError> {
    fs::read(file).map_err(|error| {
        unusable(file, format!("cannot be read: {error}; check that the file exists and that this user may read it"))
    })
}

fn unusable(file: &Path, reason: impl Into<String>) -> ClientError {
    ClientError::Credentials { path: file.display().to_string(), reason: reason.into() }
}

/// Why two ends do not agree on TLS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsProblem {
    /// Nobody whom this client trusts has signed the registry's certificate.
    #[error("the registry's certificate is signed by nobody who is trusted here")]
    Untrusted,
    /// The registry's certificate has ended, or this machine's clock is ahead.
    #[error("the registry's certificate has expired")]
    Expired,
    /// The registry's certificate does not hold yet, or this machine's clock is behind.
    #[error("the registry's certificate is not valid yet")]
    NotYet,
    /// The registry's certificate is for other names.
    #[error("the registry's certificate is for another name: {0}")]
    OtherName(String),
    /// The registry wants a certificate of its clients.
    #[error("the registry wants a client certificate")]
    CertificateWanted,
    /// The registry does not accept this client's certificate.
    #[error("the registry does not accept the client certificate ({0})")]
    CertificateRefused(String),
    /// The other side speaks no TLS.
    #[error("there is no TLS at that address")]
    NoTls,
    /// The other side speaks nothing but TLS.
    #[error("there is nothing but TLS at that address")]
    OnlyTls,
    /// Anything else, in rustls' words.
    #[error("no TLS connection: {0}")]
    Other(String),
}

impl TlsProblem {
    /// Whether a failure was one of TLS.
    pub(super) fn find(failure: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = Some(failure);
        while let Some(error) = cause {
            // What an `io::Error` holds is not among its sources.
            let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            let found = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref::<RustlsError>());
            if let Some(found) = found {
                return Some(found.into());
            }
            let said = error.to_string();
            if said.contains(INADEQUATE) {
                return Some(Self::OnlyTls);
            }
            if error.source().is_none()
                && let Some((_, alert)) = said.split_once(ALERT)
            {
                return Some(Self::refused(alert));
            }
            cause = error.source();
        }
        None
    }

    /// What an alert of the other side means, by rustls' name for it.
    fn refused(alert: &str) -> Self {
        match alert {
            "CertificateRequired" => Self::CertificateWanted,
            "BadCertificate"
            | "UnsupportedCertificate"
            | "CertificateRevoked"
            | "CertificateExpired"
            | "CertificateUnknown"
            | "UnknownCA"
            | "AccessDenied"
            | "DecryptError" => Self::CertificateRefused(alert.to_owned()),
            _ => Self::Other(format!("{ALERT}{alert}")),
        }
    }
}

impl From<&RustlsError> for TlsProblem {
    fn from(error: &RustlsError) -> Self {
        match error {
            RustlsError::InvalidCertificate(problem) => match problem {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Untrusted,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYet,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Self::OtherName(problem.to_string())
                }
                _ => Self::Other(error.to_string()),
            },
            RustlsError::AlertReceived(alert) => Self::refused(&format!("{alert:?}")),
            RustlsError::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NoTls,
            _ => Self::Other(error.to_string()),
        }
    }
}
