//! Errors of the client.

use std::{error::Error, time::Duration};

use tonic::{Code, ConnectError, Status};
use tonic_types::StatusExt;

#[cfg(feature = "tls")]
use super::TlsConnectError;

/// Error of a call or a stream.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The address of the registry is invalid.
    #[error("`{address}` is not the address of a registry: {reason}; write host:port, as in 127.0.0.1:8502")]
    Address {
        /// The invalid address.
        address: String,
        /// Reason why it is invalid.
        reason: &'static str,
    },
    /// A TLS file cannot be used.
    #[error("{path}: {reason}")]
    Credentials {
        /// Path of the file.
        path: String,
        /// Reason and hint.
        reason: String,
    },
    /// The connection failed because of TLS.
    #[cfg(feature = "tls")]
    #[error("{0}")]
    Tls(TlsConnectError),
    /// No connection could be opened, so nothing was sent.
    #[error("{0}")]
    Connect(String),
    /// The connection broke. The registry may have received the request.
    #[error("{0}")]
    Transport(String),
    /// The registry did not respond in time.
    #[error("no response within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The server closed a stream that is meant to stay open.
    #[error("the server closed the stream")]
    StreamEnded,
    /// The server has announced that it is shutting down.
    #[error("the server is shutting down")]
    GoingAway,
    /// The server has announced that it cannot reach its store, and the client can use another replica.
    #[error("the server cannot reach its store")]
    Degraded,
    /// The registry rejected the request with this status.
    #[error("{}", message(.0))]
    Rejected(Status),
    /// The operating system provides no random numbers for a boot id.
    #[error("the operating system provides no random numbers: {0}")]
    Random(String),
    /// The tokio runtime that ran the registration has stopped.
    #[error("the runtime that ran the registration has stopped")]
    Stopped,
}

impl ClientError {
    /// Returns whether another attempt would fail as well, because the request itself is rejected.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Address { .. } | Self::Credentials { .. } | Self::Random(_) | Self::Stopped => true,
            // Certificates may be renewed on either side.
            #[cfg(feature = "tls")]
            Self::Tls(_) => false,
            Self::Connect(_)
            | Self::Transport(_)
            | Self::Timeout(_)
            | Self::StreamEnded
            | Self::GoingAway
            | Self::Degraded => false,
            Self::Rejected(status) => matches!(
                status.code(),
                Code::InvalidArgument
                    | Code::PermissionDenied
                    | Code::Unauthenticated
                    | Code::Unimplemented
                    | Code::FailedPrecondition
                    | Code::OutOfRange
            ),
        }
    }

    /// Returns the delay after which the registry asks to be tried again, if it named one.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected(status) => status.get_details_retry_info()?.retry_delay,
            Self::Address { .. }
            | Self::Credentials { .. }
            | Self::Connect(_)
            | Self::Transport(_)
            | Self::Timeout(_)
            | Self::StreamEnded
            | Self::GoingAway
            | Self::Degraded
            | Self::Random(_)
            | Self::Stopped => None,
            #[cfg(feature = "tls")]
            Self::Tls(_) => None,
        }
    }
}

impl From<Status> for ClientError {
    /// Converts a status. One that has a source was made by this client, not by the server, and the innermost source
    /// names the cause.
    fn from(status: Status) -> Self {
        let Some(source) = status.source() else {
            return Self::Rejected(status);
        };
        let mut innermost = source;
        let mut is_connected = !innermost.is::<ConnectError>();
        while let Some(deeper) = innermost.source() {
            innermost = deeper;
            is_connected &= !innermost.is::<ConnectError>();
        }
        let reason = innermost.to_string().to_lowercase();
        if is_connected { Self::Transport(reason) } else { Self::Connect(reason) }
    }
}

/// Returns the message of a status, or the description of its code if it has none.
fn message(status: &Status) -> String {
    if status.message().is_empty() { status.code().description().to_lowercase() } else { status.message().to_owned() }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn rejection_is_permanent_only_if_the_request_is_at_fault() {
        let rejected = |code| ClientError::from(Status::new(code, "no"));
        for code in [Code::InvalidArgument, Code::PermissionDenied, Code::Unauthenticated] {
            assert!(rejected(code).is_permanent(), "{code:?}");
        }
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Aborted, Code::AlreadyExists, Code::Internal] {
            assert!(!rejected(code).is_permanent(), "{code:?}");
        }
        assert!(!ClientError::StreamEnded.is_permanent());
    }

    #[test]
    fn local_failure_shows_its_innermost_source() {
        let broken: Arc<dyn Error + Send + Sync> = Arc::new(io::Error::other("Connection refused"));
        let mut status = Status::unavailable("transport error");
        status.set_source(broken);
        let error = ClientError::from(status);
        assert!(matches!(&error, ClientError::Transport(reason) if reason == "connection refused"), "{error:?}");
    }

    #[test]
    fn failure_to_connect_is_told_from_a_lost_connection() {
        let refused = ConnectError(Box::new(io::Error::other("Connection refused")));
        let mut status = Status::unavailable("transport error");
        status.set_source(Arc::new(refused));
        let error = ClientError::from(status);
        assert!(matches!(&error, ClientError::Connect(reason) if reason == "connection refused"), "{error:?}");
    }

    #[test]
    fn retry_delay_is_read_from_the_status_details() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(2)));
        let status = Status::with_error_details(Code::AlreadyExists, "taken", details);
        assert_eq!(ClientError::from(status).retry_after(), Some(Duration::from_secs(2)));
        assert_eq!(ClientError::from(Status::aborted("lost a race")).retry_after(), None);
    }

    #[test]
    fn status_without_message_shows_its_code() {
        assert!(!ClientError::from(Status::new(Code::Internal, "")).to_string().is_empty());
    }
}
