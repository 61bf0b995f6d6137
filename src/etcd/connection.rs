//! Connections to members: one for each, opened when a request needs it.
//!
//! The connections are hyper's, because only hyper says of a failed request that it was not sent.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderValue, Request, Response, Uri,
    header::{HeaderName, USER_AGENT},
    uri::{Authority, Parts, PathAndQuery, Scheme},
};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::time::timeout;
use tonic::body::Body;
use tower::Service;

use super::{
    error::{EtcdError, EtcdErrorKind, EtcdOutcome},
    send_failure::{SendFailure, innermost},
};
use crate::client::{ConnectErrorCell, Connector, PrefaceReader};

const OWN_USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("callboard/", env!("CARGO_PKG_VERSION")));
/// Metadata with which a member rejects requests, and ends streams, while it has no leader.
const REQUIRE_LEADER: HeaderName = HeaderName::from_static("hasleader");
/// Metadata with the token of the user.
const TOKEN: HeaderName = HeaderName::from_static("token");

/// Address of a member, and its TLS settings.
#[derive(Debug)]
pub(super) struct MemberEndpoint {
    /// The endpoint as it was configured.
    pub(super) url: String,
    pub(super) uri: Uri,
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// Member of the cluster, with the connection to it.
#[derive(Debug)]
pub(super) struct Member {
    endpoint: MemberEndpoint,
    connect_timeout: Duration,
    current: Mutex<Option<MemberConnection>>,
    /// Error of the last attempt to connect. Locked during an attempt, so that there is one at a time.
    last_attempt: tokio::sync::Mutex<Option<EtcdError>>,
    /// Number of attempts so far.
    attempts: AtomicU64,
}

/// Open connection to a member.
#[derive(Debug, Clone)]
pub(super) struct MemberConnection {
    sender: SendRequest<Body>,
    /// Number that no other connection of the member has.
    number: u64,
    scheme: Scheme,
    authority: Authority,
}

impl Member {
    pub(super) fn new(endpoint: MemberEndpoint, connect_timeout: Duration) -> Self {
        Self {
            endpoint,
            connect_timeout,
            current: Mutex::default(),
            last_attempt: tokio::sync::Mutex::default(),
            attempts: AtomicU64::new(0),
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.endpoint.url
    }

    /// Returns the open connection, or opens one. Requests that wait for the same attempt share its result.
    pub(super) async fn connection(&self) -> Result<MemberConnection, EtcdError> {
        if let Some(connection) = self.usable() {
            return Ok(connection);
        }
        let attempts = self.attempts.load(Ordering::Acquire);
        let mut last = self.last_attempt.lock().await;
        if let Some(connection) = self.usable() {
            return Ok(connection);
        }
        if let Some(error) = &*last
            && self.attempts.load(Ordering::Acquire) != attempts
        {
            return Err(error.clone());
        }
        let connected = timeout(self.connect_timeout, self.connect()).await.unwrap_or_else(|_| {
            let limit = humantime::format_duration(self.connect_timeout);
            Err(format!("no HTTP/2 connection within {limit}"))
        });
        self.attempts.fetch_add(1, Ordering::Release);
        let connected = connected
            .map_err(|reason| EtcdError::new(EtcdErrorKind::Unreachable, EtcdOutcome::NotExecuted, self.url(), reason));
        *last = connected.as_ref().err().cloned();
        let connection = connected?;
        *self.current.lock() = Some(connection.clone());
        Ok(connection)
    }

    /// Uses this connection for no more requests, because it may hang. Its open streams go on.
    pub(super) fn abandon(&self, connection: &MemberConnection) {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(|current| current.number == connection.number) {
            *current = None;
        }
    }

    fn usable(&self) -> Option<MemberConnection> {
        self.current.lock().as_ref().filter(|connection| !connection.sender.is_closed()).cloned()
    }

    async fn connect(&self) -> Result<MemberConnection, String> {
        let MemberEndpoint { uri, tls, .. } = &self.endpoint;
        let tls_error = ConnectErrorCell::default();
        let mut connector = Connector::new(tls.clone(), tls_error.clone());
        let explain = |reason: String| tls_error.last().map_or(reason, |error| error.to_string());
        let connected = async {
            poll_fn(|context| connector.poll_ready(context)).await?;
            connector.call(uri.clone()).await
        };
        let stream = connected.await.map_err(|error| explain(innermost(&*error)))?.into_inner();
        // A member that hangs accepts connections, but sends no SETTINGS.
        let (stream, settings) = PrefaceReader::new(stream);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (sender, mut connection) = handshake.map_err(|error| explain(innermost(&error)))?;
        // Without SETTINGS, the connection ends with the reason.
        tokio::select! {
            Ok(()) = settings => {}
            ended = &mut connection => {
                let reason = match ended {
                    Ok(()) => "the connection closed before the member answered with HTTP/2".to_owned(),
                    Err(error) => innermost(&error),
                };
                return Err(explain(reason));
            }
        }
        tokio::spawn(connection);
        let scheme = if tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let authority = uri.authority().cloned().ok_or("the endpoint has no host")?;
        Ok(MemberConnection { sender, number: self.attempts.load(Ordering::Acquire), scheme, authority })
    }
}

/// Metadata of requests.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestMetadata {
    /// Token of the user, if there is one.
    pub(super) token: Option<HeaderValue>,
    /// Demands that the member has a leader.
    pub(super) require_leader: bool,
}

/// Connection and metadata of a request, for the generated clients.
#[derive(Debug, Clone)]
pub(super) struct MemberChannel {
    pub(super) connection: MemberConnection,
    pub(super) metadata: RequestMetadata,
}

impl MemberChannel {
    fn prepare(&self, request: &mut Request<Body>) -> Result<(), http::Error> {
        let mut parts = Parts::default();
        parts.scheme = Some(self.connection.scheme.clone());
        parts.authority = Some(self.connection.authority.clone());
        let path = request.uri().path_and_query().cloned();
        parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        *request.uri_mut() = Uri::from_parts(parts)?;
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, OWN_USER_AGENT);
        if self.metadata.require_leader {
            headers.insert(REQUIRE_LEADER, HeaderValue::from_static("true"));
        }
        if let Some(token) = &self.metadata.token {
            headers.insert(TOKEN, token.clone());
        }
        Ok(())
    }
}

impl Service<Request<Body>> for MemberChannel {
    type Response = Response<Incoming>;
    type Error = SendFailure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, SendFailure>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), SendFailure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Err(error) = self.prepare(&mut request) {
            let failure = SendFailure { is_unsent: true, reason: error.to_string() };
            return Box::pin(async move { Err(failure) });
        }
        let sending = self.connection.sender.try_send_request(request);
        Box::pin(async move { sending.await.map_err(SendFailure::new) })
    }
}
