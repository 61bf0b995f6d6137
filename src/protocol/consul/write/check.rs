//! Checks, of services and of nodes.

use crate::{
    app::ListedChange,
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
        call: &ConsulRequest,
        body: &[u8],
    ) -> Result<ConsulResponse, ConsulError> {
        let asked = CheckRequest::read(body)?;
        if asked.name.is_empty() {
            return Err(ConsulError::BadRequest("Missing check name"));
        }
        let check = asked.check(&asked.name, &asked.name)?;
        if asked.service.is_empty() {
            self.checks.admit([&check.definition.probe].into_iter(), [&*self.agent.address.to_string()].into_iter())?;
            let (service, id) = (node_service(), InstanceId::of_node(""));
            self.change_own_node(call, Command::AddCheck { service, id, check }).await?;
            return Ok(ConsulResponse::empty());
        }
        let missing = || ConsulError::NotFound(format!("ServiceID {:?} does not exist", asked.service));
        let entry = self.own_by_id(&asked.service).ok_or_else(missing)?;
        let own = entry.instance.addresses.iter().map(|address| &*address.host);
        self.checks.admit([&check.definition.probe].into_iter(), own)?;
        let add = ListedChange::AddCheck(check);
        let done = self.commands(call).submit_listed(entry.instance.id.clone(), add).await?;
        done.map(|_| ConsulResponse::empty()).ok_or_else(missing)
    }

    /// Takes a check away, wherever on the node it is.
    pub(super) async fn check_deregister(
        &self,
        call: &ConsulRequest,
        node: &str,
        check: &str,
    ) -> Result<ConsulResponse, ConsulError> {
        let (service, id) = self.owner(node, check)?;
        self.submit(call, Command::RemoveCheck { service, id, check: CheckId::parse(check)?, created: None }).await?;
        Ok(ConsulResponse::empty())
    }

    /// `pass`, `warn` and `fail`, with a note.
    pub(super) async fn fed(&self, call: &ConsulRequest, verdict: CheckStatus) -> Result<ConsulResponse, ConsulError> {
        self.feed(call, verdict, call.query.get("note").unwrap_or_default()).await
    }

    pub(super) async fn feed(
        &self,
        call: &ConsulRequest,
        verdict: CheckStatus,
        output: &str,
    ) -> Result<ConsulResponse, ConsulError> {
        let (check, caller) = (&*call.subject, call.connection.caller(CallerProtocol::Consul));
        let mut owner = self.owner("", check)?;
        let id = CheckId::parse(check)?;
        loop {
            let (service, instance) = &owner;
            let reported = self.checks.report(service, instance, &id, verdict, output, caller).await;
            // Where the check went to another instance meanwhile, that one has not heard it.
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

    /// Registration of the local node.
    pub(super) fn own_node(&self) -> Result<RegisterWithoutLease, ConsulError> {
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
