//! The HTTP listener: metrics, readiness, and targets for Prometheus.
//!
//! | path | answers |
//! |---|---|
//! | `/healthz` | 200 while the process runs |
//! | `/readyz` | 200 while it takes calls, also while it settles: who is to register again must get here; 503 once it leaves |
//! | `/v1/…` | Consul's API: see `consul` |
//! | `/metrics` | what the process counts, for Prometheus |
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
    app::ServerContext,
    metrics::WorkerLabel,
    protocol::consul::{Consul, ConsulService},
    transport::{Connection, Workers},
};

pub use host::AllowedHosts;
use host::BrowserGuardLayer;

/// The media type of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the pages show.
#[derive(Debug, Clone)]
pub struct HttpPages {
    /// What the doors share.
    pub shared: Arc<ServerContext>,
    /// Who serves gRPC.
    pub workers: Arc<Workers>,
    /// What is below `/v1/`.
    pub consul: Arc<Consul>,
}

impl HttpPages {
    /// Pages of a registry.
    #[must_use]
    pub fn new(shared: Arc<ServerContext>, workers: Arc<Workers>, consul: Arc<Consul>) -> Self {
        Self { shared, workers, consul }
    }

    /// Returns the pages, which are served for these hosts.
    pub fn routes(self, hosts: AllowedHosts) -> Router {
        let guard = BrowserGuardLayer(hosts);
        let long = Router::new()
            .route("/metrics", get(metrics))
            .route("/prometheus/sd", get(prometheus::targets))
            .route_layer(from_fn(make_room));
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .merge(long)
            .layer(guard.clone())
            // Behind a guard of its own: a layer of the router would box its future once more.
            .fallback_service(guard.layer(ConsulService(Arc::clone(&self.consul))))
            .with_state(self)
    }
}

/// Lets a long page be made once there is room for it beside those that are not read.
async fn make_room(request: Request, next: Next) -> Response {
    if let Some(connection) = request.extensions().get::<Arc<Connection>>().cloned()
        && let Err(busy) = connection.wait_for_capacity().await
    {
        let status = if busy.is_of_all() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::TOO_MANY_REQUESTS };
        return (status, [(RETRY_AFTER, "1")], format!("{busy}\n")).into_response();
    }
    next.run(request).await
}

async fn ready(State(web): State<HttpPages>) -> (StatusCode, &'static str) {
    if web.shared.notifier.is_leaving() {
        (StatusCode::SERVICE_UNAVAILABLE, "leaving\n")
    } else if web.shared.engine.registry().is_settling() {
        (StatusCode::OK, "ready, settling\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn metrics(State(web): State<HttpPages>) -> impl IntoResponse {
    let ServerContext { metrics, engine, watchers, .. } = &*web.shared;
    let registry = engine.registry();
    let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    metrics.services.set(gauge(registry.service_count()));
    metrics.instances.set(gauge(registry.instance_count()));
    metrics.leases.set(gauge(registry.leases().len()));
    metrics.watches.set(gauge(watchers.len()));
    metrics.settling_watches.set(gauge(watchers.waiting()));
    metrics.settling.set(registry.is_settling().into());
    metrics.revision.set(i64::try_from(registry.applied().0).unwrap_or(i64::MAX));
    metrics.views.bytes.set(i64::try_from(web.shared.views.bytes()).unwrap_or(i64::MAX));
    metrics.blocking_queries.set(gauge(web.consul.parked()));
    metrics.checks.set(gauge(web.consul.check_count()));
    let (whole, protected) = registry.self_preservation(web.shared.clock.now().lease);
    metrics.self_preservation_services.set(gauge(protected));
    metrics.self_preservation_registry.set(i64::from(whole.since.is_some()));
    metrics.suspects.set(gauge(whole.input.suspects));
    for worker in 0..web.workers.count() {
        let label = WorkerLabel { worker: worker as u64 };
        metrics.streams.get_or_create(&label).set(gauge(web.workers.open_streams(worker)));
    }
    ([(CONTENT_TYPE, OPEN_METRICS)], metrics.to_text())
}
