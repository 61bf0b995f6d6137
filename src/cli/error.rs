//! How a verb fails: one line on stderr and an exit code that scripts can tell apart.

use std::{io, process::ExitCode};

use tonic::Code;

use super::output::{complain, escape};
use crate::client::{ClientError, TlsProblem};

/// A service is not serving, or whatever else a verb was asked to find.
pub(crate) const FINDINGS: u8 = 6;

const ERROR: u8 = 1;
const USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;
const UNREACHABLE: u8 = 4;
const DENIED: u8 = 5;

/// Why a verb did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A call to the registry failed.
    #[error("{}", call(.address, .error))]
    Call { address: String, error: ClientError },
    /// stdout does not take more.
    #[error("cannot write to stdout: {0}")]
    Output(#[from] io::Error),
    /// The program to run does not start.
    #[error("cannot start `{program}`: {error}")]
    Spawn { program: String, error: io::Error },
    /// What was given makes no sense together.
    #[error("{0}")]
    Usage(&'static str),
    /// Anything that has no exit code of its own.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl CliError {
    /// Prints what a person should know, and gives what a script should.
    pub(crate) fn report(&self) -> ExitCode {
        if self.is_reader_gone() {
            return ExitCode::SUCCESS;
        }
        complain(&format!("error: {}", escape(&self.to_string())));
        ExitCode::from(self.exit_code())
    }

    /// `| head` has seen enough: that is no failure.
    fn is_reader_gone(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Call { error, .. } => call_exit_code(error),
            Self::Usage(_) => USAGE,
            Self::Output(_) | Self::Other(_) => ERROR,
            // As shells and `env` do.
            Self::Spawn { error, .. } if error.kind() == io::ErrorKind::NotFound => 127,
            Self::Spawn { .. } => 126,
        }
    }
}

/// The exit code of a failed call.
pub(crate) fn call_exit_code(error: &ClientError) -> u8 {
    match error {
        ClientError::Address { .. } | ClientError::Credentials { .. } => USAGE,
        ClientError::Tls(TlsProblem::CertificateWanted | TlsProblem::CertificateRefused(_)) => DENIED,
        ClientError::Tls(_)
        | ClientError::Transport(_)
        | ClientError::Silent(_)
        | ClientError::Ended
        | ClientError::GoingAway => UNREACHABLE,
        ClientError::Random(_) | ClientError::Stopped => ERROR,
        ClientError::Refused(status) => match status.code() {
            Code::InvalidArgument => USAGE,
            Code::NotFound => NOT_FOUND,
            Code::Unavailable | Code::DeadlineExceeded => UNREACHABLE,
            Code::PermissionDenied | Code::Unauthenticated => DENIED,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss => ERROR,
        },
    }
}

/// What the server said; where there was no server, what to do about it.
pub(crate) fn call(address: &str, error: &ClientError) -> String {
    match error {
        ClientError::Transport(_) | ClientError::Silent(_) => {
            format!(
                "cannot reach the registry at {address}: {error}; start one with `callboard serve`, or name another with --server"
            )
        }
        ClientError::Tls(problem) => {
            format!("no connection to the registry at {address}: {problem}; {}", remedy(problem))
        }
        ClientError::Address { .. }
        | ClientError::Credentials { .. }
        | ClientError::Ended
        | ClientError::GoingAway
        | ClientError::Refused(_)
        | ClientError::Random(_)
        | ClientError::Stopped => error.to_string(),
    }
}

/// What to do where two ends do not agree on TLS.
fn remedy(problem: &TlsProblem) -> &'static str {
    match problem {
        TlsProblem::Untrusted => "name the certificate of whoever signed it with --tls-ca",
        TlsProblem::Expired => "renew it at the registry, or set this machine's clock",
        TlsProblem::NotYet => "set this machine's clock, or wait",
        TlsProblem::OtherName(_) => "use one of its names in --server, or name one with --tls-server-name",
        TlsProblem::CertificateWanted => "show one with --tls-cert and --tls-key",
        TlsProblem::CertificateRefused(_) => {
            "show one with --tls-cert that has not expired and is signed by an authority of the registry's --tls-client-ca"
        }
        TlsProblem::NoTls | TlsProblem::HungUp => {
            "use the address of the registry's --grpc-tls, or write http:// and leave --tls-… out"
        }
        TlsProblem::OnlyTls => "write https:// before the address, or name a --tls-ca",
        TlsProblem::NoHttp2 => "use the address of the registry's --grpc-tls",
        TlsProblem::Other(_) => "the registry's log may tell more",
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn refused(code: Code) -> CliError {
        CliError::Call {
            address: "127.0.0.1:1".to_owned(),
            error: ClientError::Refused(Status::new(code, "no such instance")),
        }
    }

    #[test]
    fn exit_codes_tell_failures_apart() {
        for (code, exit) in [
            (Code::InvalidArgument, 2),
            (Code::NotFound, 3),
            (Code::Unavailable, 4),
            (Code::DeadlineExceeded, 4),
            (Code::PermissionDenied, 5),
            (Code::Unauthenticated, 5),
            (Code::Internal, 1),
        ] {
            assert_eq!(refused(code).exit_code(), exit, "{code:?}");
        }
        assert_eq!(CliError::Output(io::Error::other("disk full")).exit_code(), 1);
    }

    #[test]
    fn a_missing_server_is_named_with_the_remedy() {
        let failure = CliError::Call {
            address: "127.0.0.1:1".to_owned(),
            error: ClientError::Transport("connection refused".to_owned()),
        };
        let said = failure.to_string();
        assert!(said.contains("127.0.0.1:1: connection refused"), "{said}");
        assert!(said.contains("`callboard serve`") && said.contains("--server"), "{said}");
        assert_eq!(failure.exit_code(), 4);
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_failure() {
        assert!(CliError::Output(io::ErrorKind::BrokenPipe.into()).is_reader_gone());
        assert!(!refused(Code::Internal).is_reader_gone());
    }
}
