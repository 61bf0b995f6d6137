//! Errors of the command line: one line on standard error, and an exit code.

use std::{borrow::Cow, io, process::ExitCode};

use tonic::Code;

use super::terminal::{escape, print_stderr};
use crate::client::{ClientError, TlsConnectError};

const OK: u8 = 0;
const ERROR: u8 = 1;
/// Exit code for arguments or settings that cannot be used.
pub(crate) const USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;
const UNREACHABLE: u8 = 4;
const DENIED: u8 = 5;
/// Exit code of a command that found what it checks for, such as a service that is not serving.
pub(crate) const FINDINGS: u8 = 6;
/// Exit code of a command that waited for something in vain.
pub(crate) const TIMED_OUT: u8 = 7;
const CONFLICT: u8 = 8;
/// Exit code of `callboard policy diff` if the documents differ, as of `diff`.
pub(crate) const DIFFERENT: u8 = 1;
const NOT_EXECUTABLE: u8 = 126;
const NOT_EXECUTED: u8 = 127;

/// Exit codes with a short name, for `--help`, and a description, for the reference page.
pub(crate) const EXIT_CODES: [(u8, &str, &str); 9] = [
    (OK, "ok", "The command did what it was asked."),
    (
        ERROR,
        "error",
        "Any error without a code of its own. For `register`, also: another boot took over the id, or an operator removed the instance. For `policy diff` only: the documents differ.",
    ),
    (USAGE, "usage", "An argument, a setting or a field of the request is invalid."),
    (
        NOT_FOUND,
        "not found",
        "The instance, the service, the check, the revision, the subset or the route does not exist.",
    ),
    (
        UNREACHABLE,
        "registry unreachable",
        "The registry did not respond in time, or no connection to it could be made. A change during which the connection was lost may have been made. Of several replicas, one did not answer: a list lacks what it knows.",
    ),
    (DENIED, "denied", "The registry rejected the client certificate, or requires one."),
    (
        FINDINGS,
        "findings",
        "`health`: the service is not serving. `checks`: a check is critical. `self-preservation`: a service is in self-preservation. `xds explain`: calls fail.",
    ),
    (
        TIMED_OUT,
        "timed out",
        "`--wait`: the policy is set, but a connected xDS client does not have it yet. The command lists these clients.",
    ),
    (CONFLICT, "conflict", "Someone else has changed the policy: it has another revision than `--if-revision`."),
];

/// Exit codes of `callboard run` besides those of the program it runs.
pub(crate) const RUN_EXIT_CODES: [(u8, &str); 2] =
    [(NOT_EXECUTABLE, "The program cannot be executed."), (NOT_EXECUTED, "The program was not found.")];

/// Error of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A call to the registry failed.
    #[error("{}", call(.address, .error))]
    Call { address: String, error: ClientError },
    /// None of several servers answered. Each has its address and its error.
    #[error("{}", no_server(.0))]
    NoServer(Vec<(String, ClientError)>),
    /// Standard output cannot be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
    /// The program of `callboard run` does not start.
    #[error("cannot start `{program}`: {error}")]
    Spawn { program: String, error: io::Error },
    /// The arguments or variables contradict each other.
    #[error("{0}")]
    Usage(Cow<'static, str>),
    /// The registry has no such thing.
    #[error("{0}")]
    NotFound(String),
    /// Another client has changed what the command expected unchanged.
    #[error("{0}")]
    Conflict(String),
    /// The connection was lost during a change, which may have been made.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// Error of one of several parts of a command, after the name of the part.
    #[error("{name}: {error}")]
    InPart { name: String, error: Box<CliError> },
    /// Any error that has no exit code of its own.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl CliError {
    /// Prints the error and returns its exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if self.is_broken_pipe() {
            return ExitCode::SUCCESS;
        }
        print_stderr(&format!("error: {}", escape(&self.to_string())));
        ExitCode::from(self.exit_code())
    }

    /// Returns whether the reader of standard output has closed it, as `head` does. That is not an error.
    pub(super) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Returns whether the registry has rejected a request because of its contents.
    pub(super) fn is_rejection(&self) -> bool {
        matches!(self, Self::Call { error: ClientError::Rejected(status), .. }
            if matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition | Code::Aborted))
    }

    /// Returns whether the registry could not be reached.
    pub(super) fn is_unreachable(&self) -> bool {
        self.exit_code() == UNREACHABLE
    }

    /// Adds the name of the part of a command that failed.
    pub(super) fn in_part(self, name: &str) -> Self {
        Self::InPart { name: name.to_owned(), error: Box::new(self) }
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Call { error, .. } => call_exit_code(error),
            Self::NoServer(failed) => exit_code_of_all(failed),
            Self::Usage(_) => USAGE,
            Self::NotFound(_) => NOT_FOUND,
            Self::Conflict(_) => CONFLICT,
            Self::OutcomeUnknown(_) => UNREACHABLE,
            Self::InPart { error, .. } => error.exit_code(),
            Self::Output(_) | Self::Other(_) => ERROR,
            // The codes of shells and of `env`.
            Self::Spawn { error, .. } if error.kind() == io::ErrorKind::NotFound => NOT_EXECUTED,
            Self::Spawn { .. } => NOT_EXECUTABLE,
        }
    }
}

/// Returns the exit code of a failed call.
pub(crate) fn call_exit_code(error: &ClientError) -> u8 {
    match error {
        ClientError::Address { .. } | ClientError::Credentials { .. } => USAGE,
        ClientError::Tls(TlsConnectError::CertificateRequired | TlsConnectError::CertificateRejected(_)) => DENIED,
        ClientError::Tls(_)
        | ClientError::Connect(_)
        | ClientError::Transport(_)
        | ClientError::Timeout(_)
        | ClientError::StreamEnded
        | ClientError::GoingAway
        | ClientError::Degraded => UNREACHABLE,
        ClientError::Random(_) | ClientError::Stopped => ERROR,
        ClientError::Rejected(status) => match status.code() {
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

/// Returns the exit code that all errors have, or that of an unreachable registry if they differ.
fn exit_code_of_all(failed: &[(String, ClientError)]) -> u8 {
    let mut codes = failed.iter().map(|(_, error)| call_exit_code(error));
    let first = codes.next().unwrap_or(UNREACHABLE);
    if codes.all(|code| code == first) { first } else { UNREACHABLE }
}

/// Returns the message for servers that all failed, each with its reason.
fn no_server(failed: &[(String, ClientError)]) -> String {
    let reasons: Vec<_> = failed.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    let hint = failed.iter().find_map(|(_, error)| match error {
        ClientError::Tls(tls) => Some(tls_hint(tls)),
        ClientError::Address { .. }
        | ClientError::Credentials { .. }
        | ClientError::Connect(_)
        | ClientError::Transport(_)
        | ClientError::Timeout(_)
        | ClientError::StreamEnded
        | ClientError::GoingAway
        | ClientError::Degraded
        | ClientError::Rejected(_)
        | ClientError::Random(_)
        | ClientError::Stopped => None,
    });
    format!(
        "none of the {} servers can be used: {}; {}",
        failed.len(),
        reasons.join("; "),
        hint.unwrap_or("start one with `callboard serve`, or set their addresses with --server")
    )
}

/// Returns the message of a failed call, with a hint if no server was reached.
pub(crate) fn call(address: &str, error: &ClientError) -> String {
    match error {
        ClientError::Connect(_) | ClientError::Transport(_) | ClientError::Timeout(_) => {
            format!(
                "cannot reach the registry at {address}: {error}; start one with `callboard serve`, or set its address with --server"
            )
        }
        ClientError::Tls(tls) => {
            format!("cannot connect to the registry at {address}: {tls}; {}", tls_hint(tls))
        }
        ClientError::Address { .. }
        | ClientError::Credentials { .. }
        | ClientError::StreamEnded
        | ClientError::GoingAway
        | ClientError::Degraded
        | ClientError::Rejected(_)
        | ClientError::Random(_)
        | ClientError::Stopped => error.to_string(),
    }
}

/// Returns the message of a stream that was lost, with the address of its server.
pub(crate) fn lost(address: &str, error: &ClientError) -> String {
    match error {
        ClientError::Connect(_) | ClientError::Transport(_) | ClientError::Timeout(_) | ClientError::Tls(_) => {
            call(address, error)
        }
        ClientError::Address { .. }
        | ClientError::Credentials { .. }
        | ClientError::StreamEnded
        | ClientError::GoingAway
        | ClientError::Degraded
        | ClientError::Rejected(_)
        | ClientError::Random(_)
        | ClientError::Stopped => format!("{address}: {error}"),
    }
}

/// Returns what to do about a TLS error.
fn tls_hint(error: &TlsConnectError) -> &'static str {
    match error {
        TlsConnectError::UnknownAuthority => "name the file of the authority that signed it with --tls-ca",
        TlsConnectError::Expired => "renew it at the registry, or correct this machine's clock",
        TlsConnectError::NotYetValid => "correct this machine's clock, or wait",
        TlsConnectError::NameMismatch(_) => "use one of its names in --server, or set one with --tls-server-name",
        TlsConnectError::CertificateRequired => "present one with --tls-cert and --tls-key",
        TlsConnectError::CertificateRejected(_) => {
            "present one with --tls-cert that has not expired and is signed by an authority of the registry's --tls-client-ca"
        }
        TlsConnectError::NoTls | TlsConnectError::ConnectionClosed => {
            "use the address of the registry's --grpc-tls, or write http:// and omit the --tls flags"
        }
        TlsConnectError::TlsRequired => "write https:// before the address, or set --tls-ca",
        TlsConnectError::NoHttp2 => "use the address of the registry's --grpc-tls",
        TlsConnectError::Other(_) => "the registry's log may have the reason",
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn rejected(code: Code) -> CliError {
        CliError::Call {
            address: "127.0.0.1:1".to_owned(),
            error: ClientError::Rejected(Status::new(code, "no such instance")),
        }
    }

    #[test]
    fn status_codes_map_to_exit_codes() {
        for (code, exit) in [
            (Code::InvalidArgument, 2),
            (Code::NotFound, 3),
            (Code::Unavailable, 4),
            (Code::DeadlineExceeded, 4),
            (Code::PermissionDenied, 5),
            (Code::Unauthenticated, 5),
            (Code::Internal, 1),
        ] {
            assert_eq!(rejected(code).exit_code(), exit, "{code:?}");
        }
        assert_eq!(CliError::Output(io::Error::other("disk full")).exit_code(), 1);
    }

    #[test]
    fn unreachable_server_is_named_with_a_hint() {
        let failure = CliError::Call {
            address: "127.0.0.1:1".to_owned(),
            error: ClientError::Connect("connection refused".to_owned()),
        };
        let message = failure.to_string();
        assert!(message.contains("127.0.0.1:1: connection refused"), "{message}");
        assert!(message.contains("`callboard serve`") && message.contains("--server"), "{message}");
        assert_eq!(failure.exit_code(), 4);
    }

    #[test]
    fn servers_that_all_fail_are_named_with_their_reasons() {
        let failure = |second: ClientError| {
            let first = ClientError::Connect("connection refused".to_owned());
            CliError::NoServer(vec![("a:1".to_owned(), first), ("b:2".to_owned(), second)])
        };
        let hung = failure(ClientError::Timeout(std::time::Duration::from_secs(3)));
        assert_eq!(
            hung.to_string(),
            "none of the 2 servers can be used: a:1: connection refused; b:2: no response within 3s; start one with \
             `callboard serve`, or set their addresses with --server"
        );
        assert_eq!(hung.exit_code(), 4);
        let denied = ClientError::Tls(TlsConnectError::CertificateRequired);
        let one_denies = failure(denied.clone());
        assert!(one_denies.to_string().ends_with("present one with --tls-cert and --tls-key"), "{one_denies}");
        assert_eq!(one_denies.exit_code(), 4, "the reasons differ");
        assert_eq!(CliError::NoServer(vec![("a:1".to_owned(), denied)]).exit_code(), 5);
    }

    #[test]
    fn broken_pipe_is_not_an_error() {
        assert!(CliError::Output(io::ErrorKind::BrokenPipe.into()).is_broken_pipe());
        assert!(!rejected(Code::Internal).is_broken_pipe());
    }
}
