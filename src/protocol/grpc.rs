//! The native gRPC API. Handlers decode a request, call the registry or the write path, and encode the result.
//!
//! | file | holds |
//! |---|---|
//! | `registry`, `keep_alive` | `RegistryService` |
//! | `discovery`, `watch` | `DiscoveryService` |
//! | `admin`, `export`, `policy`, `self_preservation` | `AdminService` |
//! | `check` | conversions of health checks |
//! | `health`, `health_only` | `grpc.health.v1`, for the main listeners and for the health listener |
//! | `decode`, `encode`, `time` | conversions between the contract's messages and the model |
//! | `admission` | limits, deadlines and priorities of calls |
//! | `error`, `tonic_errors` | every error as a status with details, also those of the layers below |
//!
//! Not here: connections (`transport`), the order of writes (`app`, `engine`).

mod admin;
mod admission;
mod check;
mod decode;
mod discovery;
mod encode;
mod error;
mod export;
mod health;
mod health_only;
mod keep_alive;
mod policy;
mod registry;
mod self_preservation;
mod time;
mod tonic_errors;
mod watch;

use std::sync::Arc;

use axum::routing::post;
use tonic::{Request, service::Routes};

use crate::{
    app::ServerContext,
    health_check::HealthChecks,
    pb::{
        DESCRIPTORS,
        server::{
            admin_service_server::AdminServiceServer, discovery_service_server::DiscoveryServiceServer,
            health_server::HealthServer, registry_service_server::RegistryServiceServer,
        },
    },
    transport::Connection,
};
use error::ApiError;
use health_only::HealthOnlyApi;

/// Path of the method that has a response body of its own instead of a generated handler.
const WATCH: &str = "/callboard.v1.DiscoveryService/Watch";
/// Bytes of the longest selector: 10,000 of the longest names.
const MAX_SELECTOR_BYTES: usize = 3 * 1024 * 1024;

/// gRPC services of one server.
#[derive(Debug, Clone)]
pub struct GrpcApi {
    context: Arc<ServerContext>,
    checks: Arc<HealthChecks>,
}

impl GrpcApi {
    /// Creates the routes of all gRPC services, with health and reflection. `others`: routes of other protocols over gRPC, which have the
    /// same limits.
    ///
    /// # Errors
    ///
    /// When the embedded descriptors cannot be read.
    pub fn routes(
        context: &Arc<ServerContext>,
        checks: &Arc<HealthChecks>,
        others: Routes,
    ) -> Result<Routes, tonic_reflection::server::Error> {
        let api = Self { context: Arc::clone(context), checks: Arc::clone(checks) };
        let limit = context.max_message_size;
        let reflection = || {
            // All services, reflection in both versions, and the types of error details, which no service refers to.
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
            .add_service(
                DiscoveryServiceServer::new(api.clone()).max_decoding_message_size(limit.max(MAX_SELECTOR_BYTES)),
            )
            .add_service(AdminServiceServer::new(api.clone()).max_decoding_message_size(limit))
            .add_service(HealthServer::new(api).max_decoding_message_size(limit))
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?);
        let watch = post(watch::answer).with_state(Arc::clone(context));
        let routes = routes.into_axum_router().route(WATCH, watch).merge(others.into_axum_router()).into();
        Ok(admission::layer(tonic_errors::layer(routes, limit), context).prepare())
    }

    /// Creates the routes of the health listener: the health of this process and nothing else.
    #[must_use]
    pub fn probes(context: &Arc<ServerContext>) -> Routes {
        let limit = context.max_message_size;
        let health = HealthOnlyApi(Arc::clone(context));
        let routes = Routes::new(HealthServer::new(health).max_decoding_message_size(limit));
        tonic_errors::layer(routes, limit).prepare()
    }
}

/// Returns the connection of a request.
fn connection<T>(request: &Request<T>) -> Result<Arc<Connection>, ApiError> {
    request.extensions().get::<Arc<Connection>>().cloned().ok_or(ApiError::NoConnection)
}
