//! `RegistryService`: `Register`, `Deregister`, `KeepAlive`, `UpdateInstance`, `ReportCheck`.

use tonic::{Request, Response, Status, Streaming};

use super::{ApiError, GrpcApi, check, connection, decode, encode, keep_alive::KeepAliveStream, time};
use crate::{
    model::{CallerProtocol, CheckId, InstanceId, LeaseId, ServiceName},
    pb::{callboard::v1 as pb, server::registry_service_server::RegistryService},
    random,
    registry::{Command, CommandOutcome},
};

impl GrpcApi {
    /// Submits a command on behalf of the client that sent the request.
    async fn submit<T>(&self, request: &Request<T>, command: Command) -> Result<CommandOutcome, ApiError> {
        let connection = connection(request)?;
        Ok(self.context.commands.on_behalf_of(connection.caller(CallerProtocol::Grpc)).submit(command).await?)
    }
}

#[tonic::async_trait]
impl RegistryService for GrpcApi {
    async fn register(&self, request: Request<pb::RegisterRequest>) -> Result<Response<pb::RegisterResponse>, Status> {
        let registration = decode::register(request.get_ref(), LeaseId(random::u128()))?;
        let own = registration.description.addresses.iter().map(|address| &*address.host);
        self.checks
            .admit(registration.checks.iter().map(|check| &check.definition.probe), own)
            .map_err(ApiError::from)?;
        let outcome = self.submit(&request, Command::Register(registration)).await?;
        let entry = outcome.entry.as_deref();
        let lease = entry.and_then(|entry| entry.lease.as_deref());
        Ok(Response::new(pb::RegisterResponse {
            lease_id: lease.map(|lease| lease.id.to_bytes().to_vec().into()).unwrap_or_default(),
            ttl: lease.and_then(|lease| time::duration(lease.terms().ttl())),
            revision: entry.map_or(outcome.revision, |entry| entry.instance.revision).0,
        }))
    }

    async fn deregister(
        &self,
        request: Request<pb::DeregisterRequest>,
    ) -> Result<Response<pb::DeregisterResponse>, Status> {
        let outcome = self.submit(&request, decode::deregister(request.get_ref())?).await?;
        Ok(Response::new(pb::DeregisterResponse { removed: outcome.changed, revision: outcome.revision.0 }))
    }

    type KeepAliveStream = KeepAliveStream;

    async fn keep_alive(
        &self,
        request: Request<Streaming<pb::KeepAliveRequest>>,
    ) -> Result<Response<KeepAliveStream>, Status> {
        let connection = connection(&request)?;
        Ok(Response::new(KeepAliveStream::new(&self.context, connection, request.into_inner())))
    }

    async fn update_instance(
        &self,
        request: Request<pb::UpdateInstanceRequest>,
    ) -> Result<Response<pb::UpdateInstanceResponse>, Status> {
        let outcome = self.submit(&request, decode::update(request.get_ref())?).await?;
        let instance = outcome.entry.as_ref().map(|entry| encode::instance(&entry.instance));
        Ok(Response::new(pb::UpdateInstanceResponse { instance }))
    }

    async fn report_check(
        &self,
        request: Request<pb::ReportCheckRequest>,
    ) -> Result<Response<pb::ReportCheckResponse>, Status> {
        let message = request.get_ref();
        let service = ServiceName::parse(&message.service).map_err(ApiError::from)?;
        let id = InstanceId::parse_any(&message.id).map_err(ApiError::from)?;
        let check = CheckId::parse(&message.check_id).map_err(|error| ApiError::from(error.with_field("check_id")))?;
        let status = check::decode_status("status", message.status)?;
        let connection = connection(&request)?;
        let caller = connection.caller(CallerProtocol::Grpc);
        self.checks.report(&service, &id, &check, status, &message.output, caller).await.map_err(ApiError::from)?;
        Ok(Response::new(pb::ReportCheckResponse {}))
    }
}
