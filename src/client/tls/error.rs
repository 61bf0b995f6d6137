//! Why two ends do not agree on TLS.

use std::{error::Error, io};

use rustls::{CertificateError, Error as RustlsError, InvalidMessage};

/// What rustls says before an alert's name; some layers pass on no more than these words.
const ALERT: &str = "received fatal alert: ";

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
    /// The other side ended the connection instead of shaking hands: mostly because it speaks no TLS, and does not say so.
    #[error("the other side hung up on TLS")]
    HungUp,
    /// The other side speaks nothing but TLS.
    #[error("there is nothing but TLS at that address")]
    OnlyTls,
    /// The other side speaks TLS, and not HTTP/2 within.
    #[error("there is no gRPC at that address, but something else that speaks TLS")]
    NoHttp2,
    /// Anything else, in rustls' words.
    #[error("no TLS connection: {0}")]
    Other(String),
}

impl TlsProblem {
    /// Why a handshake failed.
    pub(in crate::client) fn of_handshake(failure: &io::Error) -> Self {
        Self::find(failure).unwrap_or_else(|| match failure.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::HungUp,
            _ => Self::Other(failure.to_string()),
        })
    }

    /// Whether a failure was one of TLS.
    pub(in crate::client) fn find(failure: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = Some(failure);
        while let Some(error) = cause {
            // What an `io::Error` holds is not among its sources.
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let found = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref::<RustlsError>());
            if let Some(found) = found {
                return Some(found.into());
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
            RustlsError::AlertReceived(rustls::AlertDescription::NoApplicationProtocol) => Self::NoHttp2,
            RustlsError::AlertReceived(alert) => Self::refused(&format!("{alert:?}")),
            RustlsError::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NoTls,
            _ => Self::Other(error.to_string()),
        }
    }
}
