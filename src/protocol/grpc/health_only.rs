//! `grpc.health.v1` for probes from anywhere, who need show nothing: whether this process serves, and no more.
//!
//! Registered services are unknown here, in Check, Watch and List alike. Otherwise whoever reaches the port would learn who is
//! there.

use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use super::{
    ApiError, GrpcApi, connection,
    health::{HealthStream, HealthSubject, OWN, answer, serving},
};
use crate::pb::{
    grpc::health::v1::{HealthListRequest, HealthListResponse},
    server::health_server::Health,
};

/// The health of this process.
#[derive(Debug, Clone)]
pub(super) struct HealthOnlyApi(pub(super) GrpcApi);

#[tonic::async_trait]
impl Health for HealthOnlyApi {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let HealthOnlyApi(GrpcApi(shared)) = self;
        let name = request.into_inner().service;
        match HealthSubject::own(&name).status(shared, shared.hubs.is_leaving()) {
            ServingStatus::ServiceUnknown => Err(ApiError::NotHere(name).into()),
            status => Ok(Response::new(answer(status))),
        }
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let HealthOnlyApi(GrpcApi(shared)) = self;
        let status = answer(serving(!shared.hubs.is_leaving()));
        let statuses = OWN.iter().map(|name| ((*name).to_owned(), status)).collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = HealthStream;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthStream>, Status> {
        let HealthOnlyApi(GrpcApi(shared)) = self;
        let subject = HealthSubject::own(&request.get_ref().service);
        Ok(Response::new(HealthStream::open(shared, &connection(&request)?, subject)))
    }
}
