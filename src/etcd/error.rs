//! Errors of requests and watches.

use std::{error::Error, fmt};

use tonic::{Code, Status};

use super::send_failure::{SendFailure, innermost};

/// Failed request to etcd, or the end of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdError {
    kind: EtcdErrorKind,
    outcome: EtcdOutcome,
    endpoint: String,
    reason: String,
}

/// Cause of an [`EtcdError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdErrorKind {
    /// No connection could be opened, or it closed before the request was sent.
    Unreachable,
    /// The connection or the stream broke.
    Disconnected,
    /// The member did not answer in time.
    TimedOut,
    /// A watch received nothing, not even the progress that it asked for.
    Stalled,
    /// The member has no leader: an election is in progress, or the cluster has lost its quorum.
    NoLeader,
    /// The member answered that it cannot complete the request at the moment.
    Unavailable,
    /// The member has too many requests in progress.
    Overloaded,
    /// The revision has been compacted.
    Compacted {
        /// Oldest revision that can still be read, if etcd named it.
        compact_revision: Option<u64>,
    },
    /// The revision is newer than the newest of the cluster.
    FutureRevision {
        /// Newest revision of the cluster, if it is known.
        newest: Option<u64>,
    },
    /// The lease does not exist: it expired, or it was revoked.
    LeaseNotFound,
    /// The database has reached its quota.
    SpaceExceeded,
    /// etcd does not accept the user and the password, or requires them.
    AuthenticationFailed,
    /// The token of the user is not valid any more.
    TokenExpired,
    /// The user has no permission for the keys.
    PermissionDenied,
    /// The request is larger than etcd accepts, or has more operations.
    TooLarge,
    /// etcd rejected the request as invalid.
    Rejected,
    /// The answer breaks etcd's contract.
    InvalidAnswer,
    /// Any other error.
    Other,
}

/// Effect of a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdOutcome {
    /// etcd has not executed the request, and will not.
    NotExecuted,
    /// etcd may have executed the request, or may still do so.
    Unknown,
}

impl EtcdError {
    pub(super) fn new(
        kind: EtcdErrorKind,
        outcome: EtcdOutcome,
        endpoint: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self { kind, outcome, endpoint: endpoint.into(), reason: reason.into() }
    }

    /// Converts the status of a request to this endpoint.
    pub(super) fn of_status(endpoint: &str, status: &Status) -> Self {
        if let Some(source) = status.source() {
            return match source.downcast_ref::<SendFailure>() {
                Some(failure) if failure.is_unsent => {
                    Self::new(EtcdErrorKind::Unreachable, EtcdOutcome::NotExecuted, endpoint, &failure.reason)
                }
                Some(failure) => {
                    Self::new(EtcdErrorKind::Disconnected, EtcdOutcome::Unknown, endpoint, &failure.reason)
                }
                None => Self::new(EtcdErrorKind::Disconnected, EtcdOutcome::Unknown, endpoint, innermost(source)),
            };
        }
        let (kind, outcome) = classify(status.code(), status.message());
        Self::new(kind, outcome, endpoint, reason(status.message()))
    }

    /// Returns the error of a watch that etcd cancelled for this reason.
    pub(super) fn of_cancellation(endpoint: &str, cancel_reason: &str, compact_revision: u64) -> Self {
        if compact_revision > 0 {
            // etcd gives no reason in this case.
            let kind = EtcdErrorKind::Compacted { compact_revision: Some(compact_revision) };
            let reason = format!("the oldest revision that can be watched is {compact_revision}");
            return Self::new(kind, EtcdOutcome::NotExecuted, endpoint, reason);
        }
        let (kind, _) = classify(Code::Unknown, cancel_reason);
        let text = if cancel_reason.is_empty() { "etcd cancelled the watch" } else { reason(cancel_reason) };
        Self::new(kind, EtcdOutcome::NotExecuted, endpoint, text)
    }

    /// Marks that the request itself was not sent, because a request before it failed.
    #[must_use]
    pub(super) fn before_request(self) -> Self {
        Self { outcome: EtcdOutcome::NotExecuted, ..self }
    }

    /// Cause of the error.
    #[must_use]
    pub fn kind(&self) -> EtcdErrorKind {
        self.kind
    }

    /// Returns true if etcd has certainly not executed the request, so that it can be sent again.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        self.outcome == EtcdOutcome::NotExecuted
    }

    /// Effect of the request.
    #[must_use]
    pub fn outcome(&self) -> EtcdOutcome {
        self.outcome
    }

    /// Endpoint of the member that was asked.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns true if another member may answer, so that a client goes on with it.
    #[must_use]
    pub fn concerns_member(&self) -> bool {
        match self.kind {
            EtcdErrorKind::Unreachable
            | EtcdErrorKind::Disconnected
            | EtcdErrorKind::TimedOut
            | EtcdErrorKind::Stalled
            | EtcdErrorKind::NoLeader
            | EtcdErrorKind::Unavailable
            | EtcdErrorKind::Overloaded
            | EtcdErrorKind::InvalidAnswer
            | EtcdErrorKind::Other => true,
            EtcdErrorKind::Compacted { .. }
            | EtcdErrorKind::FutureRevision { .. }
            | EtcdErrorKind::LeaseNotFound
            | EtcdErrorKind::SpaceExceeded
            | EtcdErrorKind::AuthenticationFailed
            | EtcdErrorKind::TokenExpired
            | EtcdErrorKind::PermissionDenied
            | EtcdErrorKind::TooLarge
            | EtcdErrorKind::Rejected => false,
        }
    }
}

impl EtcdErrorKind {
    /// Returns what an operator can do.
    fn remedy(self) -> &'static str {
        match self {
            Self::Unreachable => "check that this member runs, and its address, certificates and firewall",
            Self::Disconnected | Self::TimedOut | Self::Stalled => {
                "check that this member runs, and the network between it and this machine"
            }
            Self::NoLeader => "wait for the election, or start the members that are missing from the quorum",
            Self::Unavailable | Self::Overloaded => "try again; if it persists, check the member's log and its disk",
            Self::Compacted { .. } => "read the keys anew",
            Self::FutureRevision { .. } => {
                "check whether the cluster was restored from a backup or created anew; if so, read the keys anew"
            }
            Self::LeaseNotFound => "grant another lease",
            Self::SpaceExceeded => "compact, defragment and disarm the alarm of etcd, or raise its quota",
            Self::AuthenticationFailed => "check the user and the password of etcd",
            Self::TokenExpired => "try again",
            Self::PermissionDenied => "grant the user a role that may read and write the keys",
            Self::TooLarge => "write less at once, or raise --max-request-bytes of etcd",
            Self::Rejected | Self::InvalidAnswer | Self::Other => "check the versions of etcd and of this program",
        }
    }

    fn summary(self) -> &'static str {
        match self {
            Self::Unreachable => "cannot be reached",
            Self::Disconnected => "the connection broke",
            Self::TimedOut => "no answer in time",
            Self::Stalled => "the watch stalled",
            Self::NoLeader => "no leader",
            Self::Unavailable => "not available",
            Self::Overloaded => "overloaded",
            Self::Compacted { .. } => "the revision has been compacted",
            Self::FutureRevision { .. } => "the revision is in the future",
            Self::LeaseNotFound => "no such lease",
            Self::SpaceExceeded => "the database is full",
            Self::AuthenticationFailed => "authentication failed",
            Self::TokenExpired => "the token has expired",
            Self::PermissionDenied => "permission denied",
            Self::TooLarge => "the request is too large",
            Self::Rejected => "the request was rejected",
            Self::InvalidAnswer => "invalid answer",
            Self::Other => "the request failed",
        }
    }
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd at {}: {}: {}; {}", self.endpoint, self.kind.summary(), self.reason, self.kind.remedy())
    }
}

impl Error for EtcdError {}

/// Returns the kind of an error that etcd reported, and the effect of its request. etcd's codes are ambiguous, so its
/// messages count first; they are the same since version 3.4.
fn classify(code: Code, message: &str) -> (EtcdErrorKind, EtcdOutcome) {
    use EtcdErrorKind as Kind;
    use EtcdOutcome::{NotExecuted, Unknown};
    let says = |part: &str| message.contains(part);
    if says("no leader") {
        (Kind::NoLeader, NotExecuted)
    } else if says("too many requests") {
        (Kind::Overloaded, NotExecuted)
    } else if says("has been compacted") {
        (Kind::Compacted { compact_revision: None }, NotExecuted)
    } else if says("is a future revision") {
        (Kind::FutureRevision { newest: None }, NotExecuted)
    } else if says("request is too large") || says("larger than max") || says("too many operations") {
        (Kind::TooLarge, NotExecuted)
    } else if says("requested lease not found") {
        (Kind::LeaseNotFound, NotExecuted)
    } else if says("database space exceeded") {
        // The write that exceeds the quota is executed, and reported like those after it, which are not.
        (Kind::SpaceExceeded, Unknown)
    } else if says("invalid auth token") || says("revision of auth store is old") || says("user name is empty") {
        (Kind::TokenExpired, NotExecuted)
    } else if says("authentication failed") {
        (Kind::AuthenticationFailed, NotExecuted)
    } else if says("permission denied") {
        (Kind::PermissionDenied, NotExecuted)
    } else {
        match code {
            Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound | Code::Unimplemented => {
                (Kind::Rejected, NotExecuted)
            }
            Code::PermissionDenied => (Kind::PermissionDenied, NotExecuted),
            Code::Unauthenticated => (Kind::AuthenticationFailed, NotExecuted),
            Code::Unavailable => (Kind::Unavailable, Unknown),
            Code::DeadlineExceeded => (Kind::TimedOut, Unknown),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::DataLoss => (Kind::Other, Unknown),
        }
    }
}

/// Returns a message of etcd without the name of the program at its start.
fn reason(message: &str) -> &str {
    message.strip_prefix("etcdserver: ").unwrap_or(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: Code, message: &str) -> EtcdError {
        EtcdError::of_status("http://a:2379", &Status::new(code, message))
    }

    #[test]
    fn rejection_was_not_executed_and_timeout_may_have_been() {
        let error = of(Code::InvalidArgument, "etcdserver: duplicate key given in txn request");
        assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::Rejected, true));
        let error = of(Code::Unavailable, "etcdserver: request timed out");
        assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::Unavailable, false));
        let error = of(Code::Unavailable, "etcdserver: no leader");
        assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::NoLeader, true));
        let error = of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert_eq!((error.kind(), error.is_unsent()), (EtcdErrorKind::SpaceExceeded, false));
    }

    #[test]
    fn transport_failure_is_unsent_only_if_the_connection_says_so() {
        let failure = |is_unsent| {
            let mut status = Status::unknown("closed");
            let failure = SendFailure { is_unsent, reason: "connection closed".to_owned() };
            status.set_source(std::sync::Arc::new(failure));
            EtcdError::of_status("http://a:2379", &status)
        };
        assert_eq!((failure(true).kind(), failure(true).is_unsent()), (EtcdErrorKind::Unreachable, true));
        assert_eq!((failure(false).kind(), failure(false).is_unsent()), (EtcdErrorKind::Disconnected, false));
    }

    #[test]
    fn message_names_endpoint_reason_and_remedy() {
        let text = of(Code::NotFound, "etcdserver: requested lease not found").to_string();
        assert_eq!(text, "etcd at http://a:2379: no such lease: requested lease not found; grant another lease");
    }

    #[test]
    fn cancellation_without_reason_is_compaction_if_it_has_a_revision() {
        let error = EtcdError::of_cancellation("http://a:2379", "", 7);
        assert_eq!(error.kind(), EtcdErrorKind::Compacted { compact_revision: Some(7) });
        let error = EtcdError::of_cancellation("http://a:2379", "etcdserver: permission denied", 0);
        assert_eq!(error.kind(), EtcdErrorKind::PermissionDenied);
        assert_eq!(EtcdError::of_cancellation("http://a:2379", "", 0).kind(), EtcdErrorKind::Other);
    }
}
