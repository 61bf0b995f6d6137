//! `grpc.health.v1` of the health listener, which is open to every client: the health of this process and nothing else.
//!
//! Registered services are unknown here, in Check, Watch and List alike. Otherwise every client that reaches the port could learn
//! the registered services.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use super::{
    ApiError, connection,
    health::{HealthStream, HealthSubject, OWN_NAMES, answer, serving},
};
use crate::{
    app::{ServerContext, UserAgent},
    pb::{
        grpc::health::v1::{HealthListRequest, HealthListResponse},
        server::health_server::Health,
    },
    transport::user_agent,
};

/// Health service of the health listener.
#[derive(Debug, Clone)]
pub(super) struct HealthOnlyApi(pub(super) Arc<ServerContext>);

#[tonic::async_trait]
impl Health for HealthOnlyApi {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let Self(context) = self;
        let name = request.into_inner().service;
        match HealthSubject::parse_own(&name).status(context, context.notifier.is_shutting_down()) {
            ServingStatus::ServiceUnknown => Err(ApiError::NotServedHere(name).into()),
            status => Ok(Response::new(answer(status))),
        }
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let Self(context) = self;
        let status = answer(serving(!context.notifier.is_shutting_down()));
        let statuses = OWN_NAMES.iter().map(|name| ((*name).to_owned(), status)).collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = HealthStream;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthStream>, Status> {
        let Self(context) = self;
        let subject = HealthSubject::parse_own(&request.get_ref().service);
        Ok(Response::new(HealthStream::open(
            context,
            &connection(&request)?,
            UserAgent::new(user_agent(request.metadata().as_ref())),
            subject,
        )))
    }
}
