//! `grpc.health.v1` for probes from anywhere, who need show nothing: whether this process serves, and no more.
//!
//! Registered services are unknown here, in Check, Watch and List alike. Otherwise whoever reaches the port would learn who is
//! there.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use super::{
    ApiError, connection,
    health::{HealthStream, HealthSubject, OWN, answer, serving},
};
use crate::{
    app::ServerContext,
    pb::{
        grpc::health::v1::{HealthListRequest, HealthListResponse},
        server::health_server::Health,
    },
};

/// The health of this process.
#[derive(Debug, Clone)]
pub(super) struct HealthOnlyApi(pub(super) Arc<ServerContext>);

#[tonic::async_trait]
impl Health for HealthOnlyApi {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let Self(context) = self;
        let name = request.into_inner().service;
        match HealthSubject::own(&name).status(context, context.notifier.is_leaving()) {
            ServingStatus::ServiceUnknown => Err(ApiError::NotHere(name).into()),
            status => Ok(Response::new(answer(status))),
        }
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let Self(context) = self;
        let status = answer(serving(!context.notifier.is_leaving()));
        let statuses = OWN.iter().map(|name| ((*name).to_owned(), status)).collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = HealthStream;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthStream>, Status> {
        let Self(context) = self;
        let subject = HealthSubject::own(&request.get_ref().service);
        Ok(Response::new(HealthStream::open(context, &connection(&request)?, subject)))
    }
}
