//! The native gRPC door: parse, ask, convert.
//!
//! | file | holds |
//! |---|---|
//! | `registry`, `keep_alive` | `RegistryService` |
//! | `discovery`, `watch` | `DiscoveryService` |
//! | `admin`, `self_preservation` | `AdminService` |
//! | `check` | health checks, from and to the model |
//! | `health`, `probe` | `grpc.health.v1`; for probes from anywhere |
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
pub(crate) mod error_reason;
mod health;
mod health_only;
mod keep_alive;
mod registry;
mod self_preservation;
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

/// The one method that the generated servers leave to us.
const WATCH: &str = "/callboard.v1.DiscoveryService/Watch";
/// Bytes that the longest selection needs: 10,000 of the longest names.
const SELECTION: usize = 3 * 1024 * 1024;

/// gRPC services of one server.
#[derive(Debug, Clone)]
pub struct GrpcApi {
    context: Arc<ServerContext>,
    checks: Arc<HealthChecks>,
}

impl GrpcApi {
    /// All gRPC services, with health and reflection.
    ///
    /// # Errors
    ///
    /// When the descriptors that were compiled in cannot be read.
    pub fn routes(
        context: &Arc<ServerContext>,
        checks: &Arc<HealthChecks>,
    ) -> Result<Routes, tonic_reflection::server::Error> {
        let api = Self { context: Arc::clone(context), checks: Arc::clone(checks) };
        let limit = context.max_message_size;
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
        let watch = post(watch::answer).with_state(Arc::clone(context));
        let routes = routes.into_axum_router().route(WATCH, watch).into();
        Ok(admission::layer(tonic_errors::layer(routes, limit), context).prepare())
    }

    /// Health alone, and only of this process.
    #[must_use]
    pub fn probes(context: &Arc<ServerContext>) -> Routes {
        let limit = context.max_message_size;
        let probe = HealthOnlyApi(Arc::clone(context));
        let routes = Routes::new(HealthServer::new(probe).max_decoding_message_size(limit));
        tonic_errors::layer(routes, limit).prepare()
    }
}

/// The connection that a request came on.
fn connection<T>(request: &Request<T>) -> Result<Arc<Connection>, ApiError> {
    request.extensions().get::<Arc<Connection>>().cloned().ok_or(ApiError::NoConnection)
}
