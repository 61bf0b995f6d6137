//! Registering, deregistering, checks, maintenance.

mod catalog;
mod check;
mod service;
mod sidecar;

use std::sync::Arc;

use super::{Call, Consul, Endpoint, Problem, body::CheckUpdate, reply::Reply, turn::Turn};
use crate::{
    engine::{EngineError, feel_node},
    model::{InstanceId, ServiceName, Verdict, node_id, nodes},
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

    async fn order(&self, command: Command) -> Result<Outcome, Problem> {
        Ok(self.shared.engine.order(command, self.shared.clock.now()).await?)
    }

    /// Something that is about a node: those who are on it feel it.
    async fn order_for_node(&self, node: &str, command: Command) -> Result<(), Problem> {
        if self.order(command).await?.changed {
            feel_node(&*self.shared.engine, &node_id(node), self.shared.clock.now()).await?;
        }
        Ok(())
    }

    /// Registers, or gives an instance a check, with all that follows from it. It is done to its end, also if nobody waits for the
    /// answer any more.
    async fn place(&self, command: Command, turn: Option<Turn>) -> Result<(), Problem> {
        let checks = Arc::clone(&self.shared.checks);
        let placing = tokio::spawn(async move {
            let _turn = turn;
            checks.place(command).await
        });
        placing.await.unwrap_or(Err(EngineError::Stopped))?;
        Ok(())
    }

    async fn service_maintenance(&self, call: &Call) -> Result<Reply, Problem> {
        let on = enable(call)?;
        // Otherwise the id may move to another service meanwhile, and leave behind what is said here.
        let _turn = self.turns.take(&InstanceId::on_node("", &call.subject)).await;
        let entry = self.own_by_id(&call.subject).ok_or_else(|| Problem::unknown_service(&call.subject))?;
        let (service, id) = (entry.instance.service.clone(), entry.instance.id.clone());
        self.order(maintain(service, id, on, call)).await?;
        Ok(Reply::empty())
    }

    async fn node_maintenance(&self, call: &Call) -> Result<Reply, Problem> {
        let on = enable(call)?;
        self.keep_own_node().await?;
        let command = maintain(nodes(), InstanceId::of_node(""), on, call);
        self.order_for_node("", command).await?;
        Ok(Reply::empty())
    }
}

/// `?enable=true|false`, which must be there.
fn enable(call: &Call) -> Result<bool, Problem> {
    let value = call.query.get("enable").filter(|value| !value.is_empty());
    let value = value.ok_or(Problem::Text("Missing value for enable"))?;
    call.query.switch("enable").map_err(|_| Problem::Bad(format!("Invalid value for enable: {value:?}")))
}

fn maintain(service: ServiceName, id: InstanceId, on: bool, call: &Call) -> Command {
    let reason = call.query.get("reason").unwrap_or_default();
    let reason = &reason[..reason.floor_char_boundary(512)];
    let patch = Patch { draining: Some(on), reason: Some(reason.into()), ..Patch::default() };
    Command::Update { service, id, lease: None, patch }
}
