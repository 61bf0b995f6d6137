//! The native gRPC door: parse, ask, convert.
//!
//! | file | holds |
//! |---|---|
//! | `registry`, `keep_alive` | `RegistryService` |
//! | `discovery`, `watch` | `DiscoveryService` |
//! | `admin`, `subscriber`, `protection` | `AdminService` |
//! | `check` | health checks, from and to the model |
//! | `health`, `probe` | `grpc.health.v1`; for probes from anywhere |
//! | `settle` | who waits after a start that lost registrations, and until when |
//! | `decode`, `encode` | the contract's messages from and to the model |
//! | `admission` | who is served first when there is too much to do |
//! | `error`, `explain` | every refusal as a status, those of the stack below us too |
//!
//! What is not here: who may do what, connections, time.

mod admin;
mod admission;
mod check;
mod decode;
mod discovery;
mod encode;
mod error;
mod health;
mod health_only;
mod keep_alive;
mod registry;
mod self_preservation;
mod settling;
mod subscriber;
mod tonic_errors;
mod watch;

use std::{sync::Arc, time::Duration};

use axum::routing::post;
use tonic::{Request, service::Routes};

use crate::{
    app::Commands,
    clock::Clock,
    engine::Engine,
    health_check::HealthChecks,
    metrics::Metrics,
    pb::{
        DESCRIPTORS,
        server::{
            admin_service_server::AdminServiceServer, discovery_service_server::DiscoveryServiceServer,
            health_server::HealthServer, registry_service_server::RegistryServiceServer,
        },
    },
    transport::{Connection, Notifier},
};
use error::ApiError;
use health_only::HealthOnlyApi;
pub use subscriber::Watchers;

/// The one method that the generated servers leave to us.
const WATCH: &str = "/callboard.v1.DiscoveryService/Watch";
/// Bytes that the longest selection needs: 10,000 of the longest names.
const SELECTION: usize = 3 * 1024 * 1024;

/// What the doors share.
#[derive(Debug)]
pub struct Shared {
    /// Has the registry, for readers. Writers go through `commands`.
    pub engine: Arc<dyn Engine>,
    /// The one path of writes.
    pub commands: Commands,
    /// Wakes streams.
    pub hubs: Arc<Notifier>,
    /// What time it is.
    pub clock: Arc<Clock>,
    /// Health checks.
    pub checks: Arc<HealthChecks>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Who watches.
    pub subscribers: Watchers,
    /// The largest request, in bytes.
    pub max_message_size: usize,
    /// How often an idle watch gets a bookmark.
    pub bookmarks: Duration,
}

/// The native door, on one registry.
#[derive(Debug, Clone)]
pub struct GrpcApi(Arc<Shared>);

impl GrpcApi {
    /// All gRPC services, with health and reflection.
    ///
    /// # Errors
    ///
    /// When the descriptors that were compiled in cannot be read.
    pub fn routes(shared: &Arc<Shared>) -> Result<Routes, tonic_reflection::server::Error> {
        let api = Self(Arc::clone(shared));
        let limit = shared.max_message_size;
        let reflection = || {
            // Everything that is served, in both versions; and the types of error details, which no service names.
            let sets = [
                DESCRIPTORS,
                tonic_types::pb::FILE_DESCRIPTOR_SET,
                tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
                tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
            ];
            let builder = tonic_reflection::server::Builder::configure().include_reflection_service(false);
            sets.into_iter().fold(builder, tonic_reflection::server::Builder::register_encoded_file_descriptor_set)
        };
        let routes = Routes::new(RegistryServiceServer::new(api.clone()).max_decoding_message_size(limit))
            .add_service(DiscoveryServiceServer::new(api.clone()).max_decoding_message_size(limit.max(SELECTION)))
            .add_service(AdminServiceServer::new(api.clone()).max_decoding_message_size(limit))
            .add_service(HealthServer::new(api).max_decoding_message_size(limit))
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
        let watch = post(watch::answer).with_state(Arc::clone(shared));
        let routes = routes.into_axum_router().route(WATCH, watch).into();
        Ok(admission::layer(tonic_errors::layer(routes, limit), shared).prepare())
    }

    /// Health alone, and only of this process.
    #[must_use]
    pub fn probes(shared: &Arc<Shared>) -> Routes {
        let limit = shared.max_message_size;
        let probe = HealthOnlyApi(Self(Arc::clone(shared)));
        let routes = Routes::new(HealthServer::new(probe).max_decoding_message_size(limit));
        tonic_errors::layer(routes, limit).prepare()
    }
}

/// The connection that a request came on.
fn connection<T>(request: &Request<T>) -> Result<Arc<Connection>, ApiError> {
    request.extensions().get::<Arc<Connection>>().cloned().ok_or(ApiError::NoConnection)
}
