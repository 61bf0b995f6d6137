//! One call: choose a connection, send the request, return the response.

use std::{sync::Arc, time::Duration};

use http::{
    HeaderValue, Request, Response, Uri,
    header::USER_AGENT,
    uri::{Parts, PathAndQuery, Scheme},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tonic::{Status, body::Body};

use super::{
    CallBody,
    call_table::{CallTable, ChannelAvailability, UsableConnection},
    deadline::{caller_timeout, set_timeout},
    response_body::OpenCall,
    transport_error::{deadline_exceeded, status_of},
};
use crate::client::{
    balance::{CallOutcome, RandomSequence},
    load::is_server_error,
};

/// Maximum number of connections that are tried for one call. Another one is tried only if the request was not sent.
const MAX_ATTEMPTS: usize = 3;
const OWN_USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("callboard/", env!("CARGO_PKG_VERSION")));

/// State that all calls of a channel share.
#[derive(Debug)]
pub(super) struct ChannelShared {
    pub(super) service: String,
    pub(super) scheme: Scheme,
    pub(super) table: watch::Receiver<Arc<CallTable>>,
    pub(super) random: Arc<RandomSequence>,
    /// Start of the channel, from which times are counted.
    pub(super) epoch: Instant,
    pub(super) wait_for_ready: bool,
    /// Maximum time that a call waits for the first set of instances.
    pub(super) first_snapshot_timeout: Duration,
}

/// Failed attempt.
enum CallAttemptError {
    /// The request was not sent.
    Unsent(Box<Request<Body>>, Status),
    /// The call failed.
    Failed(Status),
}

impl ChannelShared {
    pub(super) async fn call(self: Arc<Self>, mut request: Request<Body>) -> Result<Response<CallBody>, Status> {
        let started = crate::client::now();
        request.headers_mut().entry(USER_AGENT).or_insert(OWN_USER_AGENT);
        let caller_deadline = caller_timeout(request.headers()).and_then(|timeout| started.checked_add(timeout));
        let call = self.attempts(request, started, caller_deadline);
        match caller_deadline {
            Some(deadline) => timeout_at(deadline, call).await.unwrap_or_else(|_| Err(deadline_exceeded())),
            None => call.await,
        }
    }

    async fn attempts(
        &self,
        mut request: Request<Body>,
        started: Instant,
        caller_deadline: Option<Instant>,
    ) -> Result<Response<CallBody>, Status> {
        let mut tried = Vec::new();
        loop {
            let table = self.table.borrow().clone();
            let now = crate::client::now() - self.epoch;
            let Some(connection) = table.pick(now, &self.random, &tried) else {
                self.changed(&table, started).await?;
                continue;
            };
            let policy_deadline = table.timeout.and_then(|timeout| started.checked_add(timeout));
            let shorter = policy_deadline.filter(|own| caller_deadline.is_none_or(|caller| *own < caller));
            if let Some(timeout) = table.timeout.filter(|_| shorter.is_some()) {
                set_timeout(request.headers_mut(), timeout);
            }
            drop(table);
            let attempt = self.send(&connection, request, shorter.or(caller_deadline));
            let result = match shorter {
                Some(deadline) => {
                    let late = |_| Err(CallAttemptError::Failed(deadline_exceeded()));
                    timeout_at(deadline, attempt).await.unwrap_or_else(late)
                }
                None => attempt.await,
            };
            match result {
                Ok(response) => return Ok(response),
                Err(CallAttemptError::Failed(status)) => return Err(status),
                Err(CallAttemptError::Unsent(_, status)) if tried.len() + 1 >= MAX_ATTEMPTS => return Err(status),
                Err(CallAttemptError::Unsent(unsent, _)) => {
                    request = *unsent;
                    tried.push(connection.number);
                }
            }
        }
    }

    /// Waits for another table, or returns the reason for which the call fails.
    async fn changed(&self, table: &Arc<CallTable>, started: Instant) -> Result<(), Status> {
        let mut tables = self.table.clone();
        let changed = tables.wait_for(|current| !Arc::ptr_eq(current, table));
        let changed = match &table.availability {
            ChannelAvailability::Unavailable(reason) if !self.wait_for_ready => {
                return Err(Status::unavailable(format!("{}: {reason}", self.service)));
            }
            ChannelAvailability::Unknown(error) if !self.wait_for_ready => {
                let late = |_| {
                    let cause = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                    let time = humantime::format_duration(self.first_snapshot_timeout);
                    let message = format!("{}: no instances from the registry within {time}{cause}", self.service);
                    Status::unavailable(message)
                };
                match started.checked_add(self.first_snapshot_timeout) {
                    Some(deadline) => timeout_at(deadline, changed).await.map_err(late)?,
                    None => changed.await,
                }
            }
            ChannelAvailability::Unavailable(_) | ChannelAvailability::Unknown(_) | ChannelAvailability::Available => {
                changed.await
            }
        };
        let stopped = |_| Status::unavailable("the runtime that ran the channel has stopped");
        changed.map(drop).map_err(stopped)
    }

    async fn send(
        &self,
        connection: &UsableConnection,
        mut request: Request<Body>,
        deadline: Option<Instant>,
    ) -> Result<Response<CallBody>, CallAttemptError> {
        let target = &connection.target;
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = self.uri(connection, path).map_err(CallAttemptError::Failed)?;
        let mut call = OpenCall::start(target, self.epoch);
        let mut sender = connection.sender.clone();
        match sender.try_send_request(request).await {
            Ok(response) => {
                let failed = response.status().is_server_error() || is_server_error(response.headers());
                call.respond(if failed { CallOutcome::Failed } else { CallOutcome::Responded });
                Ok(response.map(|body| CallBody::new(body, call, deadline)))
            }
            Err(mut error) => {
                let unsent = error.take_message();
                let status = status_of(error.into_error(), target.authority.as_str());
                if let Some(request) = unsent {
                    call.discard();
                    return Err(CallAttemptError::Unsent(Box::new(request), status));
                }
                call.respond(CallOutcome::Failed);
                Err(CallAttemptError::Failed(status))
            }
        }
    }

    fn uri(&self, connection: &UsableConnection, path: Option<PathAndQuery>) -> Result<Uri, Status> {
        let mut parts = Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(connection.target.authority.clone());
        parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        Uri::from_parts(parts).map_err(|error| Status::internal(error.to_string()))
    }
}
