//! xDS: discovery for unmodified gRPC clients and for Envoy, version 3 of the protocol.
//!
//! A client opens one stream, subscribes to resources by name, and gets each resource and its changes. There are two protocols for the
//! same resources: a response of the *state of the world* has whole resources of a type, and a *delta* response has the changed ones.
//!
//! | file | holds |
//! |---|---|
//! | `resource`, `route_resource`, `cluster_resource`, `assignment` | a service as resources (pure) |
//! | `client_family` | which library a client has, and what that follows of a policy |
//! | `cluster_name` | names of services and subsets as clusters |
//! | `assignment_view`, `zone_layouts` | assignments, shared by streams; the zones of their clients |
//! | `session` | the state of one stream (pure) |
//! | `rollout` | the steps in which a stream gets a changed policy (pure) |
//! | `stream_policies` | the policies of all services as one stream gets them (pure) |
//! | `stream_interest`, `stream_wake` | the events that wake a stream |
//! | `source` | the resources of this registry |
//! | `request`, `frame` | requests and responses on the wire |
//! | `stream` | one stream: reads requests, is woken by changes, writes responses |
//! | `load_report` | calls in the load reports of clients (pure) |
//! | `load_report_stream` | one stream of load reports |
//! | `stream_list`, `client_status` | all open streams; their state for clients of CSDS |
//! | `limitations` | the fields of a policy that a family of clients does not follow (pure) |
//! | `policy_limitations` | the same for all connected clients, for operators |
//! | `policy_rollout` | which clients have a policy, for operators |
//! | `explain` | what the clients of a service get, for operators |
//! | `error` | errors as statuses |
//!
//! Not here: connections (`transport`), the list of watchers of all protocols (`app`).

mod assignment;
mod assignment_view;
mod client_family;
#[cfg(test)]
mod client_rules;
mod client_status;
mod cluster_name;
mod cluster_resource;
mod error;
mod explain;
mod frame;
mod limitations;
mod load_report;
mod load_report_stream;
mod policy_limitations;
mod policy_rollout;
mod request;
mod resource;
mod resumption;
mod rollout;
mod route_resource;
mod session;
mod source;
mod stream;
mod stream_interest;
mod stream_list;
mod stream_policies;
mod stream_wake;
mod version;
mod zone_layouts;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::Response,
    routing::post,
};
use tonic::{Status, Streaming, body::Body, codec::Codec, service::Routes};

use crate::{
    app::{ServerContext, UserAgent},
    pb::{
        codec::SmallBuffers,
        envoy::service::{
            discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse},
            load_stats::v3::{LoadStatsRequest, LoadStatsResponse},
        },
        server::{
            client_status_discovery_service_server::ClientStatusDiscoveryServiceServer,
            xds_service_server::XdsServiceServer,
        },
    },
    transport::{Connection, MessageBody, user_agent},
};
use client_status::ClientStatusApi;
use error::XdsError;
use explain::ExplainApi;
use load_report_stream::LoadReportStream;
use request::XdsRequest;
use stream::AdsStream;
use stream_list::XdsStreams;
use zone_layouts::ZoneLayouts;

/// Path of the state-of-the-world protocol.
pub(crate) const STATE_OF_THE_WORLD: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
/// Path of the delta protocol.
pub(crate) const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Path of the load reporting service.
pub(crate) const LOAD_REPORTS: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";
/// Paths of the client status discovery service.
const CLIENT_STATUS: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/{*method}";
/// Paths of the explanations.
const EXPLANATIONS: &str = "/callboard.v1.XdsService/{*method}";
/// Bytes of the largest accepted request: a subscription to 50,000 resources with usual names. Larger with `--max-message-size`.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// xDS services of one server.
#[derive(Debug)]
pub struct XdsApi {
    context: Arc<ServerContext>,
    streams: Arc<XdsStreams>,
    zone_layouts: Arc<ZoneLayouts>,
}

impl XdsApi {
    /// Creates the services, without streams.
    #[must_use]
    pub fn new(context: &Arc<ServerContext>) -> Arc<Self> {
        Arc::new(Self { context: Arc::clone(context), streams: Arc::default(), zone_layouts: Arc::default() })
    }

    /// Returns the routes of the services, for a gRPC listener.
    #[must_use]
    pub fn routes(self: &Arc<Self>) -> Routes {
        let explanations = XdsServiceServer::new(ExplainApi(Arc::clone(self)));
        let explanations = explanations.max_decoding_message_size(self.context.max_message_size);
        Router::new()
            .route(STATE_OF_THE_WORLD, post(answer::<DiscoveryRequest, DiscoveryResponse>))
            .route(DELTA, post(answer::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>))
            .route(LOAD_REPORTS, post(answer_load_reports))
            .with_state(Arc::clone(self))
            .route_service(EXPLANATIONS, explanations)
            .route_service(CLIENT_STATUS, ClientStatusDiscoveryServiceServer::new(ClientStatusApi(Arc::clone(self))))
            .into()
    }

    /// Brings the layouts of zones up to date, and wakes the streams of services whose layouts have changed. Called once a second.
    pub fn update_zone_layouts(&self) {
        for service in self.zone_layouts.update(self.context.clock.since_start()) {
            self.context.notifier.service_changed(&service);
        }
    }

    /// Bytes of the largest accepted request.
    fn max_request_bytes(&self) -> usize {
        self.context.max_message_size.max(MAX_REQUEST_BYTES)
    }
}

/// Answers a call of `AggregatedDiscoveryService`.
async fn answer<Q: XdsRequest, A: prost::Message + 'static>(
    State(api): State<Arc<XdsApi>>,
    request: Request,
) -> Response<axum::body::Body> {
    open::<Q, A>(&api, request).unwrap_or_else(Status::into_http::<Body>).map(axum::body::Body::new)
}

fn open<Q: XdsRequest, A: prost::Message + 'static>(
    api: &Arc<XdsApi>,
    request: Request,
) -> Result<Response<Body>, Status> {
    let (head, body) = request.into_parts();
    let connection = head.extensions.get::<Arc<Connection>>().ok_or(XdsError::NoConnection)?;
    let agent = UserAgent::new(user_agent(&head.headers));
    let requests = requests::<Q, A>(api, body);
    Ok(MessageBody::respond(connection, AdsStream::new(api, connection, agent, requests)))
}

/// Answers a call of `LoadReportingService`.
async fn answer_load_reports(State(api): State<Arc<XdsApi>>, request: Request) -> Response<axum::body::Body> {
    open_load_reports(&api, request).unwrap_or_else(Status::into_http::<Body>).map(axum::body::Body::new)
}

fn open_load_reports(api: &Arc<XdsApi>, request: Request) -> Result<Response<Body>, Status> {
    let (head, body) = request.into_parts();
    let connection = head.extensions.get::<Arc<Connection>>().ok_or(XdsError::NoConnection)?;
    let requests = requests::<LoadStatsRequest, LoadStatsResponse>(api, body);
    Ok(MessageBody::respond(connection, LoadReportStream::new(api, connection, requests)))
}

/// Returns the requests in the body of a call.
fn requests<Q, A>(api: &XdsApi, body: axum::body::Body) -> Streaming<Q>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + 'static,
{
    let decoder = SmallBuffers::<A, Q>::default().decoder();
    Streaming::new_request(decoder, body, None, Some(api.max_request_bytes()))
}
