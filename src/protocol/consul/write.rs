//! Registering, deregistering, checks, maintenance.

mod catalog;
mod check;
mod service;
mod sidecar;

use super::{Consul, ConsulEndpoint, ConsulError, ConsulRequest, body::CheckUpdate, response::ConsulResponse};
use crate::{
    app::{CallerCommands, ListedChange, NodeRegistration},
    model::{CallerProtocol, CheckStatus, InstanceId, node_service},
    registry::{Command, CommandOutcome, Patch},
};

impl Consul {
    /// Does what is asked.
    pub(super) async fn write(
        &self,
        endpoint: ConsulEndpoint,
        call: &ConsulRequest,
        body: &[u8],
    ) -> Result<ConsulResponse, ConsulError> {
        match endpoint {
            ConsulEndpoint::ServiceRegister => self.register(call, body).await,
            ConsulEndpoint::ServiceDeregister => self.deregister(call).await,
            ConsulEndpoint::ServiceMaintenance => self.service_maintenance(call).await,
            ConsulEndpoint::AgentMaintenance => self.node_maintenance(call).await,
            ConsulEndpoint::CheckRegister => self.check_register(call, body).await,
            ConsulEndpoint::CheckDeregister => self.check_deregister(call, "", &call.subject).await,
            ConsulEndpoint::CheckPass => self.fed(call, CheckStatus::Passing).await,
            ConsulEndpoint::CheckWarn => self.fed(call, CheckStatus::Warning).await,
            ConsulEndpoint::CheckFail => self.fed(call, CheckStatus::Critical).await,
            ConsulEndpoint::CheckUpdate => {
                let CheckUpdate { verdict, output } = CheckUpdate::read(body)?;
                self.feed(call, verdict, &output).await
            }
            ConsulEndpoint::CatalogRegister => self.catalog_register(call, body).await,
            ConsulEndpoint::CatalogDeregister => self.catalog_deregister(call, body).await,
            // All others are read.
            _ => Err(ConsulError::NoSuchPath),
        }
    }

    /// Returns the write path as the client of a request uses it.
    fn commands<'a>(&'a self, call: &'a ConsulRequest) -> CallerCommands<'a> {
        self.shared.commands.on_behalf_of(call.connection.caller(CallerProtocol::Consul))
    }

    async fn submit(&self, call: &ConsulRequest, command: Command) -> Result<CommandOutcome, ConsulError> {
        Ok(self.commands(call).submit(command).await?)
    }

    /// Changes the local node, which is kept only once there is something to keep of it.
    async fn change_own_node(&self, call: &ConsulRequest, command: Command) -> Result<(), ConsulError> {
        let own = NodeRegistration::of_node(InstanceId::of_node(""), Some(self.own_node()?), vec![command]);
        Ok(self.commands(call).register_on_node(own).await?)
    }

    async fn service_maintenance(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let on = enable(call)?;
        let id = InstanceId::on_node("", &call.subject);
        let done = self.commands(call).submit_listed(id, ListedChange::Update(maintenance(on, call))).await?;
        done.map(|_| ConsulResponse::empty()).ok_or_else(|| ConsulError::unknown_service(&call.subject))
    }

    async fn node_maintenance(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let on = enable(call)?;
        let (service, id) = (node_service(), InstanceId::of_node(""));
        self.change_own_node(call, Command::Update { service, id, lease: None, patch: maintenance(on, call) }).await?;
        Ok(ConsulResponse::empty())
    }
}

/// `?enable=true|false`, which must be there.
fn enable(call: &ConsulRequest) -> Result<bool, ConsulError> {
    let value = call.query.get("enable").filter(|value| !value.is_empty());
    let value = value.ok_or(ConsulError::BadRequest("Missing value for enable"))?;
    call.query.switch("enable").map_err(|_| ConsulError::BadValue(format!("Invalid value for enable: {value:?}")))
}

fn maintenance(on: bool, call: &ConsulRequest) -> Patch {
    let reason = call.query.get("reason").unwrap_or_default();
    let reason = &reason[..reason.floor_char_boundary(512)];
    Patch { draining: Some(on), reason: Some(reason.into()), ..Patch::default() }
}
