//! Failover: calls to one of several servers.
//!
//! A server is asked for its health before its first call, so that one that hangs costs [`OPEN_TIMEOUT`] only, and a write is not
//! sent to it. With one server there is nothing to choose, so it is not asked.

use std::{cell::Cell, time::Duration};

use futures_util::future::join_all;
use tokio::time::timeout;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{ServerClient, pages, with_deadline};
use crate::{
    cli::error::CliError,
    client::{ClientError, Endpoint, TlsConnectError},
    pb::{error_reason::ErrorReason, grpc::health::v1::HealthCheckRequest},
};

/// Time that a server of several has to answer its first call, in which the connection is opened, too. With the timeout of a call
/// it bounds the time of a command: 3 s for each server that does not answer, and 10 s for each call.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);

/// Effect of a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FailedCallEffect {
    /// The server answered. Another one would answer the same.
    Answered,
    /// Nothing was done. Another server may do it.
    Nothing,
    /// It may have been done.
    Unknown,
}

/// Connection to one server of several. It moves on to the next one when a server does not answer or answers UNAVAILABLE.
#[derive(Debug)]
pub(crate) struct ServerConnection {
    /// At least one, in the order in which they are tried.
    servers: Vec<ServerClient>,
    /// Index of the server in use.
    current: Cell<usize>,
    /// Set once the server in use has answered.
    has_answered: Cell<bool>,
}

impl ServerConnection {
    /// Returns a connection, which is made at the first call. There must be an endpoint.
    pub(super) fn new(endpoints: impl AsRef<[Endpoint]>) -> Self {
        let servers: Vec<_> = endpoints.as_ref().iter().map(ServerClient::to).collect();
        Self { has_answered: Cell::new(servers.len() == 1), servers, current: Cell::new(0) }
    }

    /// Makes calls to one server that may be repeated at another from the start: reads, and writes that set a state.
    pub(crate) async fn repeatable<T>(
        &self,
        calls: impl AsyncFnMut(&ServerClient) -> Result<T, ClientError>,
    ) -> Result<T, CliError> {
        self.try_each(calls, |effect| effect != FailedCallEffect::Answered).await
    }

    /// Makes a call that must not be made twice. If its outcome is unknown, it is not repeated at another server.
    pub(crate) async fn once<T>(
        &self,
        call: impl AsyncFnMut(&ServerClient) -> Result<T, ClientError>,
    ) -> Result<T, CliError> {
        self.try_each(call, |effect| effect == FailedCallEffect::Nothing).await
    }

    /// Fetches page after page from one server, until the last one, or until there are `limit` items. Another server would not
    /// know the tokens of its pages, so it begins with the first one.
    pub(crate) async fn pages<T>(
        &self,
        limit: usize,
        mut fetch: impl AsyncFnMut(&ServerClient, String) -> Result<(Vec<T>, String), ClientError>,
    ) -> Result<Vec<T>, CliError> {
        self.repeatable(async |server| pages(limit, async |token| fetch(server, token).await).await).await
    }

    async fn try_each<T>(
        &self,
        mut calls: impl AsyncFnMut(&ServerClient) -> Result<T, ClientError>,
        may_move_on: impl Fn(FailedCallEffect) -> bool,
    ) -> Result<T, CliError> {
        let mut failed = Vec::new();
        for _ in 0..self.servers.len() {
            let server = &self.servers[self.current.get()];
            let error = match self.open_current().await {
                Err(error) => error,
                Ok(()) => match calls(server).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) if self.servers.len() == 1 || !may_move_on(effect(&error)) => {
                        return Err(server.error(error));
                    }
                    Err(error) => error,
                },
            };
            failed.push((server.address(), error));
            self.current.set((self.current.get() + 1) % self.servers.len());
            self.has_answered.set(false);
        }
        Err(CliError::NoServer(failed))
    }

    /// Asks every server at the same time.
    pub(crate) async fn each<T>(
        &self,
        ask: impl AsyncFn(&ServerClient) -> Result<T, ClientError>,
    ) -> Vec<(String, Result<T, ClientError>)> {
        let is_only = self.servers.len() == 1;
        let answers = self.servers.iter().map(async |server| {
            let opened = if is_only { Ok(()) } else { open(server).await };
            let answer = match opened {
                Ok(()) => ask(server).await,
                Err(error) => Err(error),
            };
            (server.address(), answer)
        });
        join_all(answers).await
    }

    async fn open_current(&self) -> Result<(), ClientError> {
        if !self.has_answered.get() {
            open(&self.servers[self.current.get()]).await?;
            self.has_answered.set(true);
        }
        Ok(())
    }
}

/// Waits until a server answers, whatever it says, except that it is UNAVAILABLE.
async fn open(server: &ServerClient) -> Result<(), ClientError> {
    let mut health = server.health();
    let call = server.call(health.check(with_deadline(HealthCheckRequest::default())));
    match timeout(OPEN_TIMEOUT, call).await {
        Ok(Err(error)) if effect(&error) != FailedCallEffect::Answered => Err(error),
        Ok(Ok(_) | Err(_)) => Ok(()),
        Err(_) => Err(ClientError::Timeout(OPEN_TIMEOUT)),
    }
}

/// Returns the effect of a call that failed.
fn effect(error: &ClientError) -> FailedCallEffect {
    match error {
        ClientError::Connect(_)
        // The connection was rejected by either side, or not opened.
        | ClientError::Tls(
            TlsConnectError::UnknownAuthority
            | TlsConnectError::Expired
            | TlsConnectError::NotYetValid
            | TlsConnectError::NameMismatch(_)
            | TlsConnectError::CertificateRequired
            | TlsConnectError::CertificateRejected(_)
            | TlsConnectError::NoTls
            | TlsConnectError::ConnectionClosed
            | TlsConnectError::TlsRequired
            | TlsConnectError::NoHttp2,
        ) => FailedCallEffect::Nothing,
        ClientError::Tls(TlsConnectError::Other(_))
        | ClientError::Transport(_)
        | ClientError::Timeout(_)
        | ClientError::StreamEnded
        | ClientError::GoingAway
        | ClientError::Degraded => FailedCallEffect::Unknown,
        ClientError::Rejected(status) => match status.code() {
            Code::Unavailable if !has_reason(status, ErrorReason::OutcomeUnknown) => FailedCallEffect::Nothing,
            Code::Unavailable | Code::DeadlineExceeded => FailedCallEffect::Unknown,
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => FailedCallEffect::Answered,
        },
        ClientError::Address { .. }
        | ClientError::Credentials { .. }
        | ClientError::Random(_)
        | ClientError::Stopped => FailedCallEffect::Answered,
    }
}

/// Returns whether the server answered, so that another one would answer the same.
pub(crate) fn is_answer(error: &ClientError) -> bool {
    effect(error) == FailedCallEffect::Answered
}

/// Returns whether a write that failed with this error may have been made.
pub(crate) fn is_outcome_unknown(error: &ClientError) -> bool {
    effect(error) == FailedCallEffect::Unknown
}

fn has_reason(status: &tonic::Status, reason: ErrorReason) -> bool {
    status.get_details_error_info().is_some_and(|info| info.reason == reason.name())
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    /// Returns a connection to two servers that nobody runs. The first has answered.
    fn connection() -> ServerConnection {
        let connection = ServerConnection::new(["127.0.0.1:1", "127.0.0.1:2"].map(|address| address.parse().unwrap()));
        connection.has_answered.set(true);
        connection
    }

    fn broken() -> ClientError {
        ClientError::Transport("connection reset".to_owned())
    }

    #[tokio::test]
    async fn call_that_must_not_be_made_twice_ends_with_an_unknown_outcome() {
        let (connection, mut calls) = (connection(), 0);
        let failed = connection.once(async |_| {
            calls += 1;
            Err::<(), _>(broken())
        });
        let error = failed.await.unwrap_err();
        assert!(matches!(&error, CliError::Call { address, .. } if address == "127.0.0.1:1"), "{error}");
        assert_eq!(calls, 1);
    }

    #[tokio::test]
    async fn call_that_may_be_repeated_moves_on_and_an_unreachable_server_gets_none() {
        let (connection, mut calls) = (connection(), 0);
        let failed = connection.repeatable(async |_| {
            calls += 1;
            Err::<(), _>(broken())
        });
        let error = failed.await.unwrap_err().to_string();
        assert_eq!(calls, 1, "the second server does not answer");
        for part in ["127.0.0.1:1: connection reset", "127.0.0.1:2: connection refused", "--server"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[tokio::test]
    async fn answer_of_a_server_is_not_asked_of_another() {
        let connection = connection();
        let denied = connection
            .repeatable(async |_| Err::<(), _>(ClientError::Rejected(tonic::Status::permission_denied("no"))));
        let error = denied.await.unwrap_err();
        assert!(matches!(&error, CliError::Call { address, .. } if address == "127.0.0.1:1"), "{error}");
        assert_eq!(connection.current.get(), 0, "the server stays in use");
    }

    #[test]
    fn call_that_fails_may_have_had_an_effect_unless_it_was_not_sent_or_was_rejected() {
        let rejected = |code| ClientError::Rejected(tonic::Status::new(code, "no"));
        let unknown = ErrorReason::OutcomeUnknown.status("the store does not answer", ErrorDetails::new());
        for (error, expected) in [
            (ClientError::Connect("connection refused".to_owned()), FailedCallEffect::Nothing),
            (ClientError::Tls(TlsConnectError::CertificateRequired), FailedCallEffect::Nothing),
            (rejected(Code::Unavailable), FailedCallEffect::Nothing),
            (ClientError::Rejected(unknown), FailedCallEffect::Unknown),
            (rejected(Code::DeadlineExceeded), FailedCallEffect::Unknown),
            (ClientError::Transport("connection reset".to_owned()), FailedCallEffect::Unknown),
            (ClientError::Timeout(Duration::from_secs(10)), FailedCallEffect::Unknown),
            (rejected(Code::NotFound), FailedCallEffect::Answered),
            (rejected(Code::ResourceExhausted), FailedCallEffect::Answered),
        ] {
            assert_eq!(effect(&error), expected, "{error:?}");
        }
    }
}
