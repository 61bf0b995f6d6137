//! `grpc.health.v1`: this process, its own services, and every registered service.
//!
//! Unlike the server of tonic-health, this one implements List, and keeps a Watch on an unknown name open, as the
//! protocol requires.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use super::{ApiError, GrpcApi, connection};
use crate::{
    app::{ServerContext, UserAgent, WatchProtocol, WatchedResource, WatcherGuard},
    model::{Selector, ServiceName},
    pb::{
        grpc::health::v1::{HealthListRequest, HealthListResponse},
        server::health_server::Health,
    },
    transport::{Connection, Interest, WakeRegistration, user_agent},
};

/// Names of the process as a whole and of its own services.
pub(super) const OWN_NAMES: [&str; 9] = [
    "",
    "callboard.v1.RegistryService",
    "callboard.v1.DiscoveryService",
    "callboard.v1.AdminService",
    "callboard.v1.XdsService",
    "envoy.service.discovery.v3.AggregatedDiscoveryService",
    "envoy.service.load_stats.v3.LoadReportingService",
    "envoy.service.status.v3.ClientStatusDiscoveryService",
    "grpc.health.v1.Health",
];
/// Maximum number of services in a List response.
const MAX_LISTED_SERVICES: usize = 5_000;

/// Subject of a health check.
#[derive(Debug)]
pub(super) enum HealthSubject {
    Own,
    Registered(ServiceName),
    /// Name that no service can have.
    InvalidName,
}

impl HealthSubject {
    fn parse(name: &str) -> Self {
        if OWN_NAMES.contains(&name) {
            return Self::Own;
        }
        ServiceName::parse(name).map_or(Self::InvalidName, Self::Registered)
    }

    /// Parses a name like [`HealthSubject::parse`], but treats registered services as unknown.
    pub(super) fn parse_own(name: &str) -> Self {
        if OWN_NAMES.contains(&name) { Self::Own } else { Self::InvalidName }
    }

    pub(super) fn status(&self, context: &ServerContext, shutting_down: bool) -> ServingStatus {
        match self {
            Self::Own => serving(!shutting_down),
            Self::Registered(name) => {
                let summary = context.engine.registry().summary(name);
                summary
                    .map_or(ServingStatus::ServiceUnknown, |summary| serving(!shutting_down && summary.available > 0))
            }
            Self::InvalidName => ServingStatus::ServiceUnknown,
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
        match HealthSubject::parse(&name).status(&self.context, self.context.notifier.is_shutting_down()) {
            ServingStatus::ServiceUnknown => Err(ApiError::UnknownService(name).into()),
            status => Ok(Response::new(answer(status))),
        }
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let registry = self.context.engine.registry();
        let count = registry.service_count();
        if count > MAX_LISTED_SERVICES {
            return Err(ApiError::TooManyServices(count).into());
        }
        let shutting_down = self.context.notifier.is_shutting_down();
        let own = OWN_NAMES.iter().map(|name| ((*name).to_owned(), answer(serving(!shutting_down))));
        let (services, _) = registry.services("", "", MAX_LISTED_SERVICES);
        let registered = services
            .iter()
            .map(|service| (service.name.to_string(), answer(serving(!shutting_down && service.available > 0))));
        Ok(Response::new(HealthListResponse { statuses: registered.chain(own).collect() }))
    }

    type WatchStream = HealthStream;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthStream>, Status> {
        let connection = connection(&request)?;
        let subject = HealthSubject::parse(&request.get_ref().service);
        Ok(Response::new(HealthStream::open(
            &self.context,
            &connection,
            UserAgent::new(user_agent(request.metadata().as_ref())),
            subject,
        )))
    }
}

/// Stream of a status and its changes.
#[derive(Debug)]
pub struct HealthStream {
    context: Arc<ServerContext>,
    wake: WakeRegistration,
    subject: HealthSubject,
    listed: WatcherGuard,
    sent: Option<ServingStatus>,
    ended: bool,
}

impl HealthStream {
    pub(super) fn open(
        context: &Arc<ServerContext>,
        connection: &Arc<Connection>,
        user_agent: UserAgent,
        subject: HealthSubject,
    ) -> Self {
        let (interest, resource) = match &subject {
            HealthSubject::Registered(name) => {
                let selector = Arc::new(Selector::Names([name.clone()].into()));
                (Interest::Changes(Arc::clone(&selector)), WatchedResource::Services(selector))
            }
            HealthSubject::Own => (Interest::Nothing, WatchedResource::Process),
            HealthSubject::InvalidName => (Interest::Nothing, WatchedResource::Nothing),
        };
        let now = context.clock.now();
        let listed = context.watchers.enter(WatchProtocol::GrpcHealth, connection, user_agent, (resource, None), now);
        let wake = context.notifier.register(connection, interest);
        Self { context: Arc::clone(context), wake, subject, listed, sent: None, ended: false }
    }
}

impl Stream for HealthStream {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            // A connection that reaches its maximum age ends the stream too, and says nothing about the status.
            let must_end = self.wake.must_end();
            let status = self.subject.status(&self.context, self.context.notifier.is_shutting_down());
            if self.sent.replace(status) != Some(status) {
                return Poll::Ready(Some(Ok(answer(status))));
            }
            if must_end {
                self.ended = true;
                return Poll::Ready(Some(Err(ApiError::ShuttingDown.into())));
            }
            // Every status has been sent.
            self.listed.watcher.synced_at.store(self.context.clock.now().wall.0, Ordering::Relaxed);
            ready!(self.wake.poll_woken(context));
        }
    }
}
