//! `grpc.health.v1` for probes from anywhere, who need show nothing: whether this process serves, and no more.
//!
//! Registered services are unknown here, in Check, Watch and List alike. Otherwise whoever reaches the port would learn who is
//! there.

use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use super::{
    Api, Problem, connection,
    health::{HealthStream, OWN, Subject, answer, serving},
};
use crate::pb::{
    grpc::health::v1::{HealthListRequest, HealthListResponse},
    server::health_server::Health,
};

/// The health of this process.
#[derive(Debug, Clone)]
pub(super) struct Probe(pub(super) Api);

#[tonic::async_trait]
impl Health for Probe {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let Probe(Api(shared)) = self;
        let name = request.into_inner().service;
        match Subject::own(&name).status(shared, shared.hubs.is_leaving()) {
            ServingStatus::ServiceUnknown => Err(Problem::NotHere(name).into()),
            status => Ok(Response::new(answer(status))),
        }
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let Probe(Api(shared)) = self;
        let status = answer(serving(!shared.hubs.is_leaving()));
        let statuses = OWN.iter().map(|name| ((*name).to_owned(), status)).collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = HealthStream;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthStream>, Status> {
        let Probe(Api(shared)) = self;
        let subject = Subject::own(&request.get_ref().service);
        Ok(Response::new(HealthStream::open(shared, &connection(&request)?, subject)))
    }
}
