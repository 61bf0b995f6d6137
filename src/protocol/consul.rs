//! The discovery part of Consul's HTTP API, on the one registry: what is registered here, every other door shows, and the other
//! way round.
//!
//! | file | holds |
//! |---|---|
//! | `route` | which path is which endpoint |
//! | `query` | parameters that all endpoints have |
//! | `body` | what is sent: JSON as Go reads it |
//! | `write` | registering, deregistering, checks, maintenance |
//! | `read` | what is answered |
//! | `view` | the shapes in which it is |
//! | `cached` | which questions were asked with `?cached` before |
//! | `filter` | what filters can ask of those |
//! | `wait` | blocking queries |
//! | `reply` | answers as bytes, made once for all who ask the same |
//! | `agent` | what this registry says it is |
//! | `problem` | every refusal, in Consul's words where it has some |
//!
//! A registration through this door has no lease. Its identity is node and id: the same id under another name moves it.
//!
//! What is not here: key/value, sessions, transactions, events, prepared queries, Connect, intentions and ACLs. Their paths answer
//! 501: an answer of 404 would read as "there is no such key".

mod agent;
mod blocking;
mod body;
mod cached_query;
mod error;
mod filter;
mod node;
mod query;
mod read;
mod response;
mod route;
mod view;
mod write;

use std::{
    convert::Infallible,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{
        Method, Response, StatusCode, Uri,
        header::{ALLOW, ORIGIN},
        request::Parts,
    },
    response::IntoResponse as _,
};
use tokio::time::timeout;
use tower::Service;

use crate::{
    app::ServerContext, health_check::HealthChecks, model::FieldError, registry::Entry, transport::Connection,
};
pub use agent::AgentIdentity;
use cached_query::CachedQueries;
use error::ConsulError;
use query::Query;
use response::ConsulResponse;
use route::{ConsulEndpoint, RouteMatch};

/// Time in which the whole body of a request has to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which a client is told that the outcome of its write is not known. The write itself goes on.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The door.
#[derive(Debug)]
pub struct Consul {
    shared: Arc<ServerContext>,
    checks: Arc<HealthChecks>,
    agent: AgentIdentity,
    /// The service that every Consul has.
    itself: Arc<Entry>,
    /// Instances have been registered under its name, and shown.
    shown_beside_itself: AtomicBool,
    /// Held while a port is chosen for a proxy and given to it.
    sidecar_ports: Arc<tokio::sync::Mutex<()>>,
    /// Questions that were asked with `?cached`.
    cached: CachedQueries,
    /// Queries that wait for changes.
    parked: AtomicUsize,
    /// Most of them.
    max_blocking_queries: usize,
}

/// The way in, for what is on no route: a router would take paths apart that are taken apart here.
#[derive(Debug, Clone)]
pub struct ConsulService(pub Arc<Consul>);

impl Service<Request> for ConsulService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let consul = Arc::clone(&self.0);
        Box::pin(async move { Ok(consul.answer(request).await) })
    }
}

/// A request that has been understood so far.
#[derive(Debug)]
struct ConsulRequest {
    /// What stands behind the path of the endpoint.
    subject: String,
    query: Query,
    connection: Arc<Connection>,
}

impl Consul {
    /// On one registry, as this agent.
    ///
    /// # Errors
    ///
    /// When what the agent says of itself is nothing that can be registered.
    pub fn new(
        shared: &Arc<ServerContext>,
        checks: &Arc<HealthChecks>,
        agent: AgentIdentity,
        max_blocking_queries: usize,
    ) -> Result<Arc<Self>, FieldError> {
        let shared = Arc::clone(shared);
        let itself = Entry { instance: agent.consul_service(shared.engine.registry())?, lease: None };
        Ok(Arc::new(Self {
            shared,
            checks: Arc::clone(checks),
            agent,
            itself: itself.into(),
            shown_beside_itself: AtomicBool::new(false),
            sidecar_ports: Arc::default(),
            cached: CachedQueries::default(),
            parked: AtomicUsize::new(0),
            max_blocking_queries,
        }))
    }

    /// How many queries wait for changes.
    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Returns the number of registered health checks.
    #[must_use]
    pub fn check_count(&self) -> usize {
        self.checks.count()
    }

    /// Answers whatever is asked below `/v1/`; above it, there is nothing.
    async fn answer(self: Arc<Self>, request: Request) -> Response<Body> {
        if request.uri().path().strip_prefix("/v1/").is_none_or(str::is_empty) {
            return StatusCode::NOT_FOUND.into_response();
        }
        let answered = self.serve(request).await;
        answered.unwrap_or_else(ConsulResponse::from).into_http()
    }

    async fn serve(&self, request: Request) -> Result<ConsulResponse, ConsulError> {
        let (head, body) = request.into_parts();
        let path = query::decode(head.uri.path(), false);
        let (endpoint, methods, subject) = match route::find(&path) {
            RouteMatch::Endpoint(endpoint, methods, subject) => (endpoint, methods, subject),
            RouteMatch::NotImplemented(what) => return Err(ConsulError::NotImplemented(what)),
            RouteMatch::Nothing => return Err(ConsulError::NoSuchPath),
        };
        let allowed = if methods == Method::GET { "OPTIONS,GET" } else { "OPTIONS,PUT" };
        if head.method == Method::OPTIONS {
            return Ok(ConsulResponse::empty().with(ALLOW, allowed));
        }
        if head.method != methods && !(methods == Method::GET && head.method == Method::HEAD) {
            return Err(ConsulError::Method(head.method, allowed));
        }
        let connection = head.extensions.get::<Arc<Connection>>().cloned().ok_or(ConsulError::NoConnection)?;
        if let Some(busy) = connection.exceeded_stream_limit(methods == Method::PUT) {
            return Err(busy.into());
        }
        if methods == Method::PUT {
            refuse_pages(&head)?;
        }
        let query = Query::parse(&head, &self.agent)?;
        let call = ConsulRequest { subject, query, connection };
        // Thousands of queries wait at once: what they no longer need goes, and what others need has its own place.
        drop(head);
        if methods == Method::PUT {
            return Box::pin(self.take(endpoint, &call, body)).await;
        }
        drop(body);
        self.read(endpoint, &call).await
    }

    async fn take(
        &self,
        endpoint: ConsulEndpoint,
        call: &ConsulRequest,
        body: Body,
    ) -> Result<ConsulResponse, ConsulError> {
        let limit = self.shared.max_message_size;
        let body = timeout(BODY_TIMEOUT, axum::body::to_bytes(body, limit)).await;
        let body = body.map_err(|_| ConsulError::BodyTimeout(BODY_TIMEOUT.as_secs()))?;
        let body = body.map_err(|_| ConsulError::TooLarge(limit))?;
        let written = timeout(WRITE_TIMEOUT, self.write(endpoint, call, &body)).await;
        written.unwrap_or(Err(ConsulError::OutcomeUnknown(WRITE_TIMEOUT.as_secs())))
    }
}

/// Refuses what a page of somebody else's has a browser write: browsers say whose page it is. A name that leads here may be anybody's, so
/// only pages from this machine may.
fn refuse_pages(head: &Parts) -> Result<(), ConsulError> {
    let Some(origin) = head.headers.get(ORIGIN) else { return Ok(()) };
    let host = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let host = host.as_ref().and_then(Uri::host).unwrap_or_default().trim_matches(['[', ']']);
    let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if local { Ok(()) } else { Err(ConsulError::ForeignOrigin) }
}
