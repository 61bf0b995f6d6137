//! Checks of services and of the local node.

use crate::{
    app::ConsulChange,
    model::{
        Address, CallerProtocol, CheckId, CheckStatus, ConsulRegistration, InstanceId, Metadata, ServiceName, Tags,
        Weight, node_service,
    },
    protocol::consul::{Consul, ConsulError, ConsulRequest, body::CheckRequest, response::ConsulResponse},
    registry::{Command, InstanceDescription, RegisterWithoutLease},
};

impl Consul {
    pub(super) async fn check_register(
        &self,
        request: &ConsulRequest,
        body: &[u8],
    ) -> Result<ConsulResponse, ConsulError> {
        let body = CheckRequest::read(body)?;
        if body.name.is_empty() {
            return Err(ConsulError::BadRequest("Missing check name"));
        }
        let check = body.check(&body.name, &body.name)?;
        if body.service.is_empty() {
            self.checks.admit([&check.definition.probe].into_iter(), [&*self.agent.address.to_string()].into_iter())?;
            let (service, id) = (node_service(), InstanceId::of_node(""));
            self.change_local_node(request, Command::AddCheck { service, id, check }).await?;
            return Ok(ConsulResponse::empty());
        }
        let missing = || ConsulError::NotFound(format!("ServiceID {:?} does not exist", body.service));
        let entry = self.local_instance(&body.service).ok_or_else(missing)?;
        let own = entry.instance.addresses.iter().map(|address| &*address.host);
        self.checks.admit([&check.definition.probe].into_iter(), own)?;
        let add = ConsulChange::AddCheck(check);
        let done = self.commands(request).submit_consul_change(entry.instance.id.clone(), add).await?;
        done.map(|_| ConsulResponse::empty()).ok_or_else(missing)
    }

    /// Removes a check from the node or the instance that has it.
    pub(super) async fn check_deregister(
        &self,
        request: &ConsulRequest,
        node: &str,
        check: &str,
    ) -> Result<ConsulResponse, ConsulError> {
        let (service, id) = self.owner(node, check)?;
        self.submit(request, Command::RemoveCheck { service, id, check: CheckId::parse(check)?, created: None })
            .await?;
        Ok(ConsulResponse::empty())
    }

    /// Reports a status with `?note` as the output.
    pub(super) async fn report_status(
        &self,
        request: &ConsulRequest,
        status: CheckStatus,
    ) -> Result<ConsulResponse, ConsulError> {
        self.report(request, status, request.query.get("note").unwrap_or_default()).await
    }

    pub(super) async fn report(
        &self,
        request: &ConsulRequest,
        status: CheckStatus,
        output: &str,
    ) -> Result<ConsulResponse, ConsulError> {
        let (check, caller) = (&*request.subject, request.connection.caller(CallerProtocol::Consul));
        let mut owner = self.owner("", check)?;
        let id = CheckId::parse(check)?;
        loop {
            let (service, instance) = &owner;
            let reported = self.checks.report(service, instance, &id, status, output, caller).await;
            // The check may have moved to another instance meanwhile. That instance did not get the report.
            match self.owner("", check) {
                Ok(other) if other != owner => owner = other,
                Ok(_) | Err(_) => {
                    reported?;
                    return Ok(ConsulResponse::empty());
                }
            }
        }
    }

    fn owner(&self, node: &str, check: &str) -> Result<(ServiceName, InstanceId), ConsulError> {
        self.registry().consul_index().owner_of(node, check).ok_or_else(|| ConsulError::unknown_check(check))
    }

    /// Returns the registration of the local node.
    pub(super) fn local_node_registration(&self) -> Result<RegisterWithoutLease, ConsulError> {
        let address = self.agent.address.to_string();
        Ok(RegisterWithoutLease {
            service: node_service(),
            id: InstanceId::of_node(""),
            description: InstanceDescription {
                addresses: [Address::with_any_port(&address, 0, "")?].into(),
                tags: Tags::default(),
                metadata: Metadata::default(),
                weight: Weight::DEFAULT,
                locality: None,
            },
            consul_registration: ConsulRegistration { address: address.into(), ..ConsulRegistration::default() },
            checks: Vec::new(),
            replace_checks: false,
        })
    }
}
