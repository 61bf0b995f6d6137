//! Errors of TLS connections.

use std::{error::Error, io};

use rustls::{CertificateError, Error as RustlsError, InvalidMessage};

/// Prefix of rustls's message for an alert. Some layers pass on only this message, not the error itself.
const ALERT: &str = "received fatal alert: ";

/// Error of a TLS connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsConnectError {
    /// The server's certificate is signed by an authority that this client does not trust.
    #[error("the server's certificate is signed by an unknown authority")]
    UnknownAuthority,
    /// The server's certificate has expired, or this machine's clock is ahead.
    #[error("the server's certificate has expired")]
    Expired,
    /// The server's certificate is not valid yet, or this machine's clock is behind.
    #[error("the server's certificate is not valid yet")]
    NotYetValid,
    /// The server's certificate is for other names than the one expected.
    #[error("the server's certificate is for another name: {0}")]
    NameMismatch(String),
    /// The server requires a client certificate.
    #[error("the server requires a client certificate")]
    CertificateRequired,
    /// The server rejected the client certificate, with this alert.
    #[error("the server rejected the client certificate ({0})")]
    CertificateRejected(String),
    /// The server does not speak TLS.
    #[error("the server at that address does not speak TLS")]
    NoTls,
    /// The server closed the connection during the handshake, as most servers without TLS do.
    #[error("the server closed the connection during the TLS handshake")]
    ConnectionClosed,
    /// The server speaks only TLS.
    #[error("the server at that address requires TLS")]
    TlsRequired,
    /// The server speaks TLS, but not HTTP/2.
    #[error("the server at that address speaks TLS, but not HTTP/2, which gRPC needs")]
    NoHttp2,
    /// Any other error of rustls.
    #[error("the TLS connection failed: {0}")]
    Other(String),
}

impl TlsConnectError {
    /// Returns the error of a handshake that failed.
    pub(super) fn of_handshake(failure: &io::Error) -> Self {
        Self::find(failure).unwrap_or_else(|| match failure.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::ConnectionClosed
            }
            _ => Self::Other(failure.to_string()),
        })
    }

    /// Returns the TLS error among the sources of an error, if there is one.
    pub(super) fn find(failure: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = Some(failure);
        while let Some(error) = cause {
            // The error inside an `io::Error` is not among its sources.
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let found = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref::<RustlsError>());
            if let Some(found) = found {
                return Some(found.into());
            }
            cause = error.source();
        }
        None
    }

    /// Converts an alert of the server, by the name that rustls gives it.
    fn from_alert(alert: &str) -> Self {
        match alert {
            "CertificateRequired" => Self::CertificateRequired,
            "BadCertificate"
            | "UnsupportedCertificate"
            | "CertificateRevoked"
            | "CertificateExpired"
            | "CertificateUnknown"
            | "UnknownCA"
            | "AccessDenied"
            | "DecryptError" => Self::CertificateRejected(alert.to_owned()),
            _ => Self::Other(format!("{ALERT}{alert}")),
        }
    }
}

impl From<&RustlsError> for TlsConnectError {
    fn from(error: &RustlsError) -> Self {
        match error {
            RustlsError::InvalidCertificate(invalid) => match invalid {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Self::NameMismatch(invalid.to_string())
                }
                _ => Self::Other(error.to_string()),
            },
            RustlsError::AlertReceived(rustls::AlertDescription::NoApplicationProtocol) => Self::NoHttp2,
            RustlsError::AlertReceived(alert) => Self::from_alert(&format!("{alert:?}")),
            RustlsError::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NoTls,
            _ => Self::Other(error.to_string()),
        }
    }
}
