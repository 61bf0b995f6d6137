//! Services of the local node.

use std::sync::Arc;

use crate::{
    model::{Address, ConsulRegistration, InstanceId},
    protocol::consul::{
        Consul, ConsulError, ConsulRequest,
        body::{CheckRequest, ServiceRequest},
        response::ConsulResponse,
    },
    registry::{InstanceDescription, NewCheck, RegisterWithoutLease},
};

impl Consul {
    pub(super) async fn register(&self, request: &ConsulRequest, body: &[u8]) -> Result<ConsulResponse, ConsulError> {
        let mut asked = ServiceRequest::read(body)?;
        if let Some(error) = asked.mesh_error() {
            return Err(ConsulError::BadValue(format!("Validation failed: {error}")));
        }
        let sidecar = asked.take_sidecar()?;
        let replace_checks = request.query.flag("replace-existing-checks")?;
        let peer = request.connection.peer().ip().to_canonical();
        // A registration without an address is for the peer's machine. Answers show no address then, as in Consul.
        let host = || if peer.is_loopback() { self.agent.address } else { peer }.to_string();
        let checks = named_checks(&asked)?;
        let (id, port) = (asked.id.clone(), asked.port);
        let mut registrations = vec![self.service_registration("", host, asked, checks, replace_checks)?];
        let mut ports = None;
        if let Some(sidecar) = sidecar {
            // Held until the sidecar is registered, so that no two get the same port.
            ports = Some(Arc::clone(&self.sidecar_ports).lock_owned().await);
            registrations.push(self.sidecar_registration((&id, port), host, sidecar, replace_checks)?);
        }
        self.commands(request).register(registrations, ports).await?;
        Ok(ConsulResponse::empty())
    }

    /// Returns the registration of a service on a node. `host` returns its address if it gives none.
    pub(super) fn service_registration(
        &self,
        node: &str,
        host: impl FnOnce() -> String,
        asked: ServiceRequest<'_>,
        checks: Vec<NewCheck>,
        replace_checks: bool,
    ) -> Result<RegisterWithoutLease, ConsulError> {
        let id = InstanceId::on_node(node, &asked.id);
        let ServiceRequest { name: service, tags, meta, weight, locality, .. } = asked;
        let given = asked.address.as_ref().map(|address| address.host.clone()).unwrap_or_default();
        let address = match asked.address {
            Some(address) => address,
            None => Address::with_any_port(&host(), asked.port.into(), "")?,
        };
        self.checks.admit(checks.iter().map(|check| &check.definition.probe), [&*address.host].into_iter())?;
        let description = InstanceDescription { addresses: [address].into(), tags, metadata: meta, weight, locality };
        let registration = ConsulRegistration {
            node: node.into(),
            id: asked.id.into(),
            address: given,
            tagged_addresses: asked.tagged_addresses,
            warning_weight: asked.warning_weight,
            enable_tag_override: asked.enable_tag_override,
            kind: asked.kind.into(),
            socket_path: asked.socket_path.into(),
            proxy: asked.mesh.proxy_text(),
            connect_native: asked.mesh.native,
            from_catalog: asked.from_catalog,
            ..ConsulRegistration::default()
        };
        Ok(RegisterWithoutLease {
            service,
            id,
            description,
            consul_registration: registration.validated()?,
            checks,
            replace_checks,
        })
    }

    pub(super) async fn deregister(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let id = &*request.subject;
        let mut ids = vec![InstanceId::on_node("", id)];
        ids.extend(self.sidecar_of(id).map(|sidecar| sidecar.instance.id.clone()));
        let removed = self.commands(request).deregister_listed(ids).await?;
        if removed { Ok(ConsulResponse::empty()) } else { Err(ConsulError::unknown_service(id)) }
    }
}

/// Returns the checks of a service. Those without ids and names get them from the service.
pub(super) fn named_checks(asked: &ServiceRequest<'_>) -> Result<Vec<NewCheck>, ConsulError> {
    if asked.checks.is_empty() {
        return Ok(Vec::new());
    }
    let several = asked.checks.len() > 1;
    let name = ["Service '", asked.name.as_str(), "' check"].concat();
    let number = |at: usize| if several { format!(":{}", at + 1) } else { String::new() };
    let id = |at: usize| ["service:", &*asked.id, &number(at)].concat();
    let check = |(at, check): (usize, &CheckRequest<'_>)| check.check(&id(at), &name);
    asked.checks.iter().enumerate().map(check).collect()
}
