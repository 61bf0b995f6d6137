//! Registering, deregistering, checks, maintenance.

mod catalog;
mod check;
mod service;
mod sidecar;

use super::{Call, Consul, Endpoint, Problem, body::CheckUpdate, reply::Reply};
use crate::{
    app::{ListedChange, NodeRegistration},
    model::{InstanceId, Verdict, nodes},
    registry::{Command, Outcome, Patch},
};

impl Consul {
    /// Does what is asked.
    pub(super) async fn write(&self, endpoint: Endpoint, call: &Call, body: &[u8]) -> Result<Reply, Problem> {
        match endpoint {
            Endpoint::ServiceRegister => self.register(call, body).await,
            Endpoint::ServiceDeregister => self.deregister(&call.subject).await,
            Endpoint::ServiceMaintenance => self.service_maintenance(call).await,
            Endpoint::AgentMaintenance => self.node_maintenance(call).await,
            Endpoint::CheckRegister => self.check_register(body).await,
            Endpoint::CheckDeregister => self.check_deregister("", &call.subject).await,
            Endpoint::CheckPass => self.fed(call, Verdict::Passing).await,
            Endpoint::CheckWarn => self.fed(call, Verdict::Warning).await,
            Endpoint::CheckFail => self.fed(call, Verdict::Critical).await,
            Endpoint::CheckUpdate => {
                let CheckUpdate { verdict, output } = CheckUpdate::read(body)?;
                self.feed(&call.subject, verdict, &output).await
            }
            Endpoint::CatalogRegister => self.catalog_register(body).await,
            Endpoint::CatalogDeregister => self.catalog_deregister(body).await,
            // All others are read.
            _ => Err(Problem::NoSuchPath),
        }
    }

    async fn submit(&self, command: Command) -> Result<Outcome, Problem> {
        Ok(self.shared.commands.submit(command).await?)
    }

    /// Changes the local node, which is kept only once there is something to keep of it.
    async fn change_own_node(&self, command: Command) -> Result<(), Problem> {
        let own = NodeRegistration::of_node(InstanceId::of_node(""), Some(self.own_node()?), vec![command]);
        Ok(self.shared.commands.register_on_node(own).await?)
    }

    async fn service_maintenance(&self, call: &Call) -> Result<Reply, Problem> {
        let on = enable(call)?;
        let id = InstanceId::on_node("", &call.subject);
        let done = self.shared.commands.submit_listed(id, ListedChange::Update(maintenance(on, call))).await?;
        done.map(|_| Reply::empty()).ok_or_else(|| Problem::unknown_service(&call.subject))
    }

    async fn node_maintenance(&self, call: &Call) -> Result<Reply, Problem> {
        let on = enable(call)?;
        let (service, id) = (nodes(), InstanceId::of_node(""));
        self.change_own_node(Command::Update { service, id, lease: None, patch: maintenance(on, call) }).await?;
        Ok(Reply::empty())
    }
}

/// `?enable=true|false`, which must be there.
fn enable(call: &Call) -> Result<bool, Problem> {
    let value = call.query.get("enable").filter(|value| !value.is_empty());
    let value = value.ok_or(Problem::Text("Missing value for enable"))?;
    call.query.switch("enable").map_err(|_| Problem::Bad(format!("Invalid value for enable: {value:?}")))
}

fn maintenance(on: bool, call: &Call) -> Patch {
    let reason = call.query.get("reason").unwrap_or_default();
    let reason = &reason[..reason.floor_char_boundary(512)];
    Patch { draining: Some(on), reason: Some(reason.into()), ..Patch::default() }
}
