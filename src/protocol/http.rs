//! HTTP listener: metrics, readiness, targets for Prometheus, and Consul's API.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 while the process runs |
//! | `/readyz` | 200 while it accepts requests, also while it settles, so that instances can register again; 503 during shutdown |
//! | `/v1/…` | Consul's API, see `protocol::consul` |
//! | `/metrics` | metrics of the process, for Prometheus |
//! | `/prometheus/sd` | registered instances as targets, for Prometheus' `http_sd_configs` |

mod host;
mod prometheus;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{
        StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::get,
};

use tower::Layer as _;

use crate::{
    app::{ServerContext, WatchProtocol},
    metrics::WorkerLabel,
    protocol::consul::{Consul, ConsulService},
    transport::{Connection, Workers},
};

pub use host::AllowedHosts;
use host::BrowserGuardLayer;

/// Media type of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Pages of the HTTP listener.
#[derive(Debug, Clone)]
pub struct HttpPages {
    /// State that all protocols share.
    pub context: Arc<ServerContext>,
    /// Workers that serve gRPC.
    pub workers: Arc<Workers>,
    /// Consul's API, which is served below `/v1/`.
    pub consul: Arc<Consul>,
}

impl HttpPages {
    /// Returns the pages of a server.
    #[must_use]
    pub fn new(context: Arc<ServerContext>, workers: Arc<Workers>, consul: Arc<Consul>) -> Self {
        Self { context, workers, consul }
    }

    /// Returns the router of the pages, which serves requests for these hosts only.
    pub fn routes(self, hosts: AllowedHosts) -> Router {
        let guard = BrowserGuardLayer(hosts);
        let large = Router::new()
            .route("/metrics", get(metrics))
            .route("/prometheus/sd", get(prometheus::targets))
            .route_layer(from_fn(wait_for_capacity));
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .merge(large)
            .layer(guard.clone())
            // The guard wraps this service directly, because a layer of the router would box the future of each request
            // once more.
            .fallback_service(guard.layer(ConsulService(Arc::clone(&self.consul))))
            .with_state(self)
    }
}

/// Waits until the limits on unread answers allow a page of any size.
async fn wait_for_capacity(request: Request, next: Next) -> Response {
    if let Some(connection) = request.extensions().get::<Arc<Connection>>().cloned()
        && let Err(limit) = connection.wait_for_capacity().await
    {
        let status =
            if limit.is_of_registry() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::TOO_MANY_REQUESTS };
        return (status, [(RETRY_AFTER, "1")], format!("{limit}\n")).into_response();
    }
    next.run(request).await
}

async fn ready(State(pages): State<HttpPages>) -> (StatusCode, &'static str) {
    if pages.context.notifier.is_shutting_down() {
        (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n")
    } else if pages.context.engine.registry().is_settling() {
        (StatusCode::OK, "ready, settling\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn metrics(State(pages): State<HttpPages>) -> impl IntoResponse {
    let ServerContext { metrics, engine, watchers, .. } = &*pages.context;
    let registry = engine.registry();
    let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    metrics.services.set(gauge(registry.service_count()));
    metrics.instances.set(gauge(registry.instance_count()));
    metrics.policies.set(gauge(registry.policies().len()));
    metrics.leases.set(gauge(registry.leases().len()));
    metrics.watches.set(gauge(watchers.count(WatchProtocol::Grpc)));
    metrics.xds.streams.set(gauge(watchers.count(WatchProtocol::Xds)));
    metrics.settling_watches.set(gauge(watchers.waiting()));
    metrics.settling.set(registry.is_settling().into());
    metrics.revision.set(i64::try_from(registry.applied().0).unwrap_or(i64::MAX));
    metrics.views.bytes.set(i64::try_from(pages.context.views.bytes()).unwrap_or(i64::MAX));
    metrics.blocking_queries.set(gauge(pages.consul.blocking_query_count()));
    metrics.checks.set(gauge(pages.consul.check_count()));
    let (registry_state, services) = registry.self_preservation(pages.context.clock.now().lease);
    metrics.self_preservation_services.set(gauge(services));
    metrics.self_preservation_registry.set(i64::from(registry_state.since.is_some()));
    metrics.suspects.set(gauge(registry_state.input.suspects));
    for worker in 0..pages.workers.count() {
        let label = WorkerLabel { worker: worker as u64 };
        metrics.streams.get_or_create(&label).set(gauge(pages.workers.open_streams(worker)));
    }
    ([(CONTENT_TYPE, OPEN_METRICS)], metrics.to_text())
}
