//! The discovery part of Consul's HTTP API. Instances that are registered through it are visible through every other protocol, and
//! vice versa.
//!
//! | file | contents |
//! |---|---|
//! | `route` | endpoints by path |
//! | `query` | parameters of all endpoints |
//! | `body` | JSON bodies of requests, decoded as Go decodes them |
//! | `write` | registration, deregistration, checks, maintenance |
//! | `read` | answers about services, nodes, checks and the agent |
//! | `view` | JSON shapes of answers |
//! | `filter` | filters over these shapes |
//! | `blocking` | blocking queries |
//! | `cached_query` | queries made with `?cached` |
//! | `response` | responses as HTTP |
//! | `agent`, `node` | the agent that this registry is, and nodes |
//! | `error` | errors, with Consul's texts where it has some |
//!
//! A Consul registration has no lease. It is identified by node and id: registering the id under another service name moves it.
//!
//! Not implemented: key/value, sessions, transactions, events, prepared queries, the service mesh, intentions and ACLs. Their paths
//! answer 501, since a client would read 404 as "no such key".

mod agent;
mod blocking;
mod body;
mod cached_query;
mod error;
pub(crate) mod error_status;
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
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{
        HeaderValue, Method, Response, StatusCode, Uri, Version,
        header::{ALLOW, CONNECTION, ORIGIN},
        request::Parts,
    },
    response::IntoResponse as _,
};
use tokio::time::timeout;
use tower::Service;

use crate::{
    app::{ServerContext, UserAgent},
    health_check::HealthChecks,
    model::FieldError,
    registry::Entry,
    transport::{Connection, user_agent},
};
pub use agent::AgentIdentity;
use cached_query::CachedQueries;
use error::ConsulError;
use query::Query;
use response::ConsulResponse;
use route::{ConsulEndpoint, RouteMatch, WriteEndpoint};

/// Maximum time in which the body of a request has to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after which the response says that the outcome of a write is not known. The write itself continues.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Consul's HTTP API on one registry.
#[derive(Debug)]
pub struct Consul {
    context: Arc<ServerContext>,
    checks: Arc<HealthChecks>,
    agent: AgentIdentity,
    /// Instance of the service `consul`, which stands for the registry itself.
    own_entry: Arc<Entry>,
    /// Set once an answer has shown registered instances of the service `consul` besides that one.
    showed_other_consul_instances: AtomicBool,
    /// Held from the choice of a sidecar's port until the sidecar is registered.
    sidecar_ports: Arc<tokio::sync::Mutex<()>>,
    /// Queries that were made with `?cached`.
    cached: CachedQueries,
    /// Number of waiting blocking queries.
    blocking_queries: AtomicUsize,
    max_blocking_queries: usize,
}

/// HTTP service of the API. It parses paths itself, as Consul does.
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

/// Request whose head is parsed.
#[derive(Debug)]
struct ConsulRequest {
    /// Rest of the path after the endpoint: a service, a node, a check or a state.
    subject: String,
    query: Query,
    connection: Arc<Connection>,
    /// `user-agent` of a query that may wait, for the list of watchers. Empty for other requests.
    user_agent: UserAgent,
}

impl Consul {
    /// Returns the API of a registry that presents itself as this agent.
    ///
    /// # Errors
    ///
    /// When a field of the agent is not valid for an instance.
    pub fn new(
        context: &Arc<ServerContext>,
        checks: &Arc<HealthChecks>,
        agent: AgentIdentity,
        max_blocking_queries: usize,
    ) -> Result<Arc<Self>, FieldError> {
        let context = Arc::clone(context);
        let own_entry = Entry::new(agent.consul_service(context.engine.registry())?, None);
        Ok(Arc::new(Self {
            context,
            checks: Arc::clone(checks),
            agent,
            own_entry: own_entry.into(),
            showed_other_consul_instances: AtomicBool::new(false),
            sidecar_ports: Arc::default(),
            cached: CachedQueries::default(),
            blocking_queries: AtomicUsize::new(0),
            max_blocking_queries,
        }))
    }

    /// Returns the number of waiting blocking queries.
    #[must_use]
    pub fn blocking_query_count(&self) -> usize {
        self.blocking_queries.load(Ordering::Relaxed)
    }

    /// Returns the number of registered health checks.
    #[must_use]
    pub fn check_count(&self) -> usize {
        self.checks.count()
    }

    /// Answers a request. Paths that are not below `/v1/` do not exist.
    async fn answer(self: Arc<Self>, request: Request) -> Response<Body> {
        if request.uri().path().strip_prefix("/v1/").is_none_or(str::is_empty) {
            return StatusCode::NOT_FOUND.into_response();
        }
        let may_move = request.method() == Method::PUT && request.version() < Version::HTTP_2;
        let mut response = self.serve(request).await.unwrap_or_else(ConsulResponse::from).into_http();
        if may_move && self.context.engine.degraded_since().is_some() {
            // Behind a load balancer, the next connection may lead to a replica that reaches its store.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn serve(&self, request: Request) -> Result<ConsulResponse, ConsulError> {
        let (head, body) = request.into_parts();
        let path = query::decode(head.uri.path(), false);
        let (endpoint, subject) = match route::find(&path) {
            RouteMatch::Endpoint(endpoint, subject) => (endpoint, subject),
            RouteMatch::NotImplemented(part) => return Err(ConsulError::NotImplemented(part)),
            RouteMatch::Nothing => return Err(ConsulError::NoSuchPath),
        };
        let (methods, allowed, is_write) = match endpoint {
            ConsulEndpoint::Read(_) => (&[Method::GET, Method::HEAD][..], "OPTIONS,GET", false),
            ConsulEndpoint::Write(_) => (&[Method::PUT][..], "OPTIONS,PUT", true),
        };
        if head.method == Method::OPTIONS {
            return Ok(ConsulResponse::empty().with(ALLOW, allowed));
        }
        if !methods.contains(&head.method) {
            return Err(ConsulError::Method(head.method, allowed));
        }
        let connection = head.extensions.get::<Arc<Connection>>().cloned().ok_or(ConsulError::NoConnection)?;
        if let Some(limit) = connection.exceeded_stream_limit(is_write) {
            return Err(limit.into());
        }
        if is_write {
            reject_foreign_origin(&head)?;
        }
        let query = Query::parse(&head, &self.agent)?;
        let user_agent =
            if query.may_wait() { UserAgent::new(user_agent(&head.headers)) } else { UserAgent::default() };
        let request = ConsulRequest { subject, query, connection, user_agent };
        // Thousands of blocking queries wait at the same time. So each drops what it no longer needs, and the large futures of other
        // endpoints are boxed.
        drop(head);
        match endpoint {
            ConsulEndpoint::Read(endpoint) => {
                drop(body);
                self.read(endpoint, &request).await
            }
            ConsulEndpoint::Write(endpoint) => Box::pin(self.read_body_and_write(endpoint, &request, body)).await,
        }
    }

    async fn read_body_and_write(
        &self,
        endpoint: WriteEndpoint,
        request: &ConsulRequest,
        body: Body,
    ) -> Result<ConsulResponse, ConsulError> {
        let limit = self.context.max_message_size;
        let body = timeout(BODY_TIMEOUT, axum::body::to_bytes(body, limit)).await;
        let body = body.map_err(|_| ConsulError::BodyTimeout(BODY_TIMEOUT.as_secs()))?;
        let body = body.map_err(|_| ConsulError::TooLarge(limit))?;
        let written = timeout(WRITE_TIMEOUT, self.write(endpoint, request, &body)).await;
        written.unwrap_or(Err(ConsulError::OutcomeUnknown(WRITE_TIMEOUT.as_secs())))
    }
}

/// Rejects writes by web pages of other origins. A browser names the page's origin with each write; only pages that were loaded from this
/// machine, by a loopback address or as localhost, may write.
fn reject_foreign_origin(head: &Parts) -> Result<(), ConsulError> {
    let Some(origin) = head.headers.get(ORIGIN) else { return Ok(()) };
    let host = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let host = host.as_ref().and_then(Uri::host).unwrap_or_default().trim_matches(['[', ']']);
    let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_local { Ok(()) } else { Err(ConsulError::ForeignOrigin) }
}
