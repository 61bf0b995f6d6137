//! What can go wrong between a client and a registry, and what to do about it.

use std::{error::Error, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt;

#[cfg(feature = "tls")]
use super::TlsProblem;

/// Why a call or a stream failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// What was given as the registry's address is none.
    #[error("`{address}` is not the address of a registry: {reason}; write host:port, as in 127.0.0.1:8502")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file for TLS that cannot be used.
    #[error("{path}: {reason}")]
    Credentials {
        /// The file.
        path: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// No connection, since the two ends do not agree on TLS.
    #[cfg(feature = "tls")]
    #[error("{0}")]
    Tls(TlsProblem),
    /// No connection, or it broke.
    #[error("{0}")]
    Transport(String),
    /// The server did not answer in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Silent(Duration),
    /// The server ended a stream that has no end.
    #[error("the registry ended the stream")]
    Ended,
    /// The server said that it is going away.
    #[error("the registry is going away")]
    GoingAway,
    /// The server said no.
    #[error("{}", message(.0))]
    Refused(Status),
    /// The system has no random numbers for a boot id.
    #[error("no random numbers from the system: {0}")]
    Random(String),
    /// The runtime that kept the registration alive has stopped.
    #[error("the runtime that kept the registration alive has stopped")]
    Stopped,
}

impl ClientError {
    /// Whether trying again is in vain: the request itself is refused.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Address { .. } | Self::Credentials { .. } | Self::Random(_) | Self::Stopped => true,
            // Certificates are renewed on both sides.
            #[cfg(feature = "tls")]
            Self::Tls(_) => false,
            Self::Transport(_) | Self::Silent(_) | Self::Ended | Self::GoingAway => false,
            Self::Refused(status) => matches!(
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

    /// When the server asked to be tried again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(status) => status.get_details_retry_info()?.retry_delay,
            _ => None,
        }
    }
}

impl From<Status> for ClientError {
    /// A status that has a source was made on this side of the wire; the innermost source says what really happened.
    fn from(status: Status) -> Self {
        let Some(source) = status.source() else {
            return Self::Refused(status);
        };
        let mut innermost = source;
        while let Some(deeper) = innermost.source() {
            innermost = deeper;
        }
        Self::Transport(innermost.to_string().to_lowercase())
    }
}

/// What the server said, or at least which code it gave.
fn message(status: &Status) -> String {
    if status.message().is_empty() { status.code().description().to_lowercase() } else { status.message().to_owned() }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_refusal_is_final_only_where_the_request_is_at_fault() {
        let refused = |code| ClientError::from(Status::new(code, "no"));
        for code in [Code::InvalidArgument, Code::PermissionDenied, Code::Unauthenticated] {
            assert!(refused(code).is_final(), "{code:?}");
        }
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Aborted, Code::AlreadyExists, Code::Internal] {
            assert!(!refused(code).is_final(), "{code:?}");
        }
        assert!(!ClientError::Ended.is_final());
    }

    #[test]
    fn a_local_failure_is_told_by_its_innermost_source() {
        let broken: Arc<dyn Error + Send + Sync> = Arc::new(io::Error::other("Connection refused"));
        let mut status = Status::unavailable("transport error");
        status.set_source(broken);
        let error = ClientError::from(status);
        assert!(matches!(&error, ClientError::Transport(reason) if reason == "connection refused"), "{error:?}");
    }

    #[test]
    fn the_delay_asked_for_is_found_in_the_details() {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(2)));
        let status = Status::with_error_details(Code::AlreadyExists, "taken", details);
        assert_eq!(ClientError::from(status).retry_after(), Some(Duration::from_secs(2)));
        assert_eq!(ClientError::from(Status::aborted("lost a race")).retry_after(), None);
    }

    #[test]
    fn a_status_without_a_message_still_says_something() {
        assert!(!ClientError::from(Status::new(Code::Internal, "")).to_string().is_empty());
    }
}
