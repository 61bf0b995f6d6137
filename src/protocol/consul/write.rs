//! Writes: registration, deregistration, checks, maintenance. Writes that span several instances belong to
//! `app::Commands`.

mod catalog;
mod check;
mod service;
mod sidecar;

use super::{Consul, ConsulError, ConsulRequest, body::CheckUpdate, response::ConsulResponse, route::WriteEndpoint};
use crate::{
    app::{CallerCommands, ConsulChange, NodeRegistration},
    model::{CallerProtocol, CheckStatus, InstanceId, node_service},
    registry::{Command, CommandOutcome, Patch},
};

impl Consul {
    /// Carries out a write.
    pub(super) async fn write(
        &self,
        endpoint: WriteEndpoint,
        request: &ConsulRequest,
        body: &[u8],
    ) -> Result<ConsulResponse, ConsulError> {
        match endpoint {
            WriteEndpoint::ServiceRegister => self.register(request, body).await,
            WriteEndpoint::ServiceDeregister => self.deregister(request).await,
            WriteEndpoint::ServiceMaintenance => self.service_maintenance(request).await,
            WriteEndpoint::AgentMaintenance => self.node_maintenance(request).await,
            WriteEndpoint::CheckRegister => self.check_register(request, body).await,
            WriteEndpoint::CheckDeregister => self.check_deregister(request, "", &request.subject).await,
            WriteEndpoint::CheckPass => self.report_status(request, CheckStatus::Passing).await,
            WriteEndpoint::CheckWarn => self.report_status(request, CheckStatus::Warning).await,
            WriteEndpoint::CheckFail => self.report_status(request, CheckStatus::Critical).await,
            WriteEndpoint::CheckUpdate => {
                let CheckUpdate { status, output } = CheckUpdate::read(body)?;
                self.report(request, status, &output).await
            }
            WriteEndpoint::CatalogRegister => self.catalog_register(request, body).await,
            WriteEndpoint::CatalogDeregister => self.catalog_deregister(request, body).await,
        }
    }

    /// Returns the write path as the client of a request uses it.
    fn commands<'a>(&'a self, request: &'a ConsulRequest) -> CallerCommands<'a> {
        self.context.commands.on_behalf_of(request.connection.caller(CallerProtocol::Consul))
    }

    async fn submit(&self, request: &ConsulRequest, command: Command) -> Result<CommandOutcome, ConsulError> {
        Ok(self.commands(request).submit(command).await?)
    }

    /// Changes the local node. It has no entry in the registry before its first change.
    async fn change_local_node(&self, request: &ConsulRequest, command: Command) -> Result<(), ConsulError> {
        let node =
            NodeRegistration::of_node(InstanceId::of_node(""), Some(self.local_node_registration()?), vec![command]);
        Ok(self.commands(request).register_on_node(node).await?)
    }

    async fn service_maintenance(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let on = enable(request)?;
        let id = InstanceId::on_node("", &request.subject);
        let done =
            self.commands(request).submit_consul_change(id, ConsulChange::Update(maintenance(on, request))).await?;
        done.map(|_| ConsulResponse::empty()).ok_or_else(|| ConsulError::unknown_service(&request.subject))
    }

    async fn node_maintenance(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let on = enable(request)?;
        let (service, id) = (node_service(), InstanceId::of_node(""));
        self.change_local_node(request, Command::Update { service, id, lease: None, patch: maintenance(on, request) })
            .await?;
        Ok(ConsulResponse::empty())
    }
}

/// Returns the value of `?enable=true|false`, which is required.
fn enable(request: &ConsulRequest) -> Result<bool, ConsulError> {
    let value = request.query.get("enable").filter(|value| !value.is_empty());
    let value = value.ok_or(ConsulError::BadRequest("Missing value for enable"))?;
    request.query.flag("enable").map_err(|_| ConsulError::BadValue(format!("Invalid value for enable: {value:?}")))
}

fn maintenance(on: bool, request: &ConsulRequest) -> Patch {
    let reason = request.query.get("reason").unwrap_or_default();
    let reason = &reason[..reason.floor_char_boundary(512)];
    Patch { draining: Some(on), reason: Some(reason.into()), ..Patch::default() }
}
