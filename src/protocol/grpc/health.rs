//! `grpc.health.v1`: this process, its own services, and every registered service.
//!
//! Unlike tonic-health's own server it has List, and Watch on an unknown name stays open, as the protocol asks.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use super::{ApiError, GrpcApi, connection};
use crate::{
    app::ServerContext,
    model::{Selector, ServiceName},
    pb::{
        grpc::health::v1::{HealthListRequest, HealthListResponse},
        server::health_server::Health,
    },
    transport::{Connection, Interest, WakeRegistration},
};

/// The process as a whole, and the services that it is itself.
pub(super) const OWN: [&str; 5] = [
    "",
    "callboard.v1.RegistryService",
    "callboard.v1.DiscoveryService",
    "callboard.v1.AdminService",
    "grpc.health.v1.Health",
];
/// Most services of one List.
const MOST: usize = 5_000;

/// Who is asked about.
#[derive(Debug)]
pub(super) enum HealthSubject {
    Own,
    Registered(ServiceName),
    /// A name that no service can have.
    Impossible,
}

impl HealthSubject {
    fn parse(name: &str) -> Self {
        if OWN.contains(&name) {
            return Self::Own;
        }
        ServiceName::parse(name).map_or(Self::Impossible, Self::Registered)
    }

    /// As [`HealthSubject::parse`], where registered services are not told of.
    pub(super) fn own(name: &str) -> Self {
        if OWN.contains(&name) { Self::Own } else { Self::Impossible }
    }

    pub(super) fn status(&self, context: &ServerContext, leaving: bool) -> ServingStatus {
        match self {
            Self::Own => serving(!leaving),
            Self::Registered(name) => {
                let summary = context.engine.registry().summary(name);
                summary.map_or(ServingStatus::ServiceUnknown, |summary| serving(!leaving && summary.available > 0))
            }
            Self::Impossible => ServingStatus::ServiceUnknown,
        }
    }
}

pub(super) fn serving(is: bool) -> ServingStatus {
    if is { ServingStatus::Serving } else { ServingStatus::NotServing }
}

pub(super) fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for GrpcApi {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let name = request.into_inner().service;
        match HealthSubject::parse(&name).status(&self.context, self.context.notifier.is_leaving()) {
            ServingStatus::ServiceUnknown => Err(ApiError::UnknownService(name).into()),
            status => Ok(Response::new(answer(status))),
        }
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let registry = self.context.engine.registry();
        let count = registry.service_count();
        if count > MOST {
            return Err(ApiError::TooManyServices(count).into());
        }
        let leaving = self.context.notifier.is_leaving();
        let own = OWN.iter().map(|name| ((*name).to_owned(), answer(serving(!leaving))));
        let (services, _) = registry.services("", "", MOST);
        let registered = services
            .iter()
            .map(|service| (service.name.to_string(), answer(serving(!leaving && service.available > 0))));
        Ok(Response::new(HealthListResponse { statuses: registered.chain(own).collect() }))
    }

    type WatchStream = HealthStream;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthStream>, Status> {
        let connection = connection(&request)?;
        let subject = HealthSubject::parse(&request.get_ref().service);
        Ok(Response::new(HealthStream::open(&self.context, &connection, subject)))
    }
}

/// Tells a status, and each time that it is another.
#[derive(Debug)]
pub struct HealthStream {
    context: Arc<ServerContext>,
    seat: WakeRegistration,
    subject: HealthSubject,
    told: Option<ServingStatus>,
    ended: bool,
}

impl HealthStream {
    pub(super) fn open(context: &Arc<ServerContext>, connection: &Arc<Connection>, subject: HealthSubject) -> Self {
        let interest = match &subject {
            HealthSubject::Registered(name) => Interest::Changes(Arc::new(Selector::Names([name.clone()].into()))),
            HealthSubject::Own | HealthSubject::Impossible => Interest::Nothing,
        };
        let seat = context.notifier.seat(connection, interest);
        Self { context: Arc::clone(context), seat, subject, told: None, ended: false }
    }
}

impl Stream for HealthStream {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            let leaving = self.seat.is_leaving();
            let status = self.subject.status(&self.context, leaving);
            if self.told.replace(status) != Some(status) {
                return Poll::Ready(Some(Ok(answer(status))));
            }
            if leaving {
                self.ended = true;
                return Poll::Ready(Some(Err(ApiError::Leaving.into())));
            }
            ready!(self.seat.poll_rung(context));
        }
    }
}
