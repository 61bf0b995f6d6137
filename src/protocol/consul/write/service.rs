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
        let mut body = ServiceRequest::read(body)?;
        if let Some(error) = body.mesh_error() {
            return Err(ConsulError::BadValue(format!("Validation failed: {error}")));
        }
        let sidecar = body.take_sidecar()?;
        let replace_checks = request.query.flag("replace-existing-checks")?;
        let peer = request.connection.peer().ip().to_canonical();
        // A registration without an address is for the machine of the client. As in Consul, answers then show no
        // address.
        let host = || if peer.is_loopback() { self.agent.address } else { peer }.to_string();
        let checks = named_checks(&body)?;
        let (id, port) = (body.id.clone(), body.port);
        let mut registrations = vec![self.service_registration("", host, body, checks, replace_checks)?];
        let mut ports = None;
        if let Some(sidecar) = sidecar {
            // Held until the sidecar is registered, so that no two get the same port.
            ports = Some(Arc::clone(&self.sidecar_ports).lock_owned().await);
            registrations.push(self.sidecar_registration((&id, port), host, sidecar, replace_checks)?);
        }
        self.commands(request).register(registrations, ports).await?;
        Ok(ConsulResponse::empty())
    }

    /// Returns the registration of a service on a node. `host` returns the address for a service that gives none.
    pub(super) fn service_registration(
        &self,
        node: &str,
        host: impl FnOnce() -> String,
        body: ServiceRequest<'_>,
        checks: Vec<NewCheck>,
        replace_checks: bool,
    ) -> Result<RegisterWithoutLease, ConsulError> {
        let id = InstanceId::on_node(node, &body.id);
        let ServiceRequest { name: service, tags, meta, weight, locality, .. } = body;
        let given = body.address.as_ref().map(|address| address.host.clone()).unwrap_or_default();
        let address = match body.address {
            Some(address) => address,
            None => Address::with_any_port(&host(), body.port.into(), "")?,
        };
        self.checks.admit(checks.iter().map(|check| &check.definition.probe), [&*address.host].into_iter())?;
        let description = InstanceDescription { addresses: [address].into(), tags, metadata: meta, weight, locality };
        let registration = ConsulRegistration {
            node: node.into(),
            id: body.id.into(),
            address: given,
            tagged_addresses: body.tagged_addresses,
            warning_weight: body.warning_weight,
            enable_tag_override: body.enable_tag_override,
            kind: body.kind.into(),
            socket_path: body.socket_path.into(),
            proxy: body.mesh.proxy_text(),
            connect_native: body.mesh.native,
            from_catalog: body.from_catalog,
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
        let removed = self.commands(request).deregister_consul(ids).await?;
        if removed { Ok(ConsulResponse::empty()) } else { Err(ConsulError::unknown_service(id)) }
    }
}

/// Returns the checks of a service. Those without ids and names get them from the service.
pub(super) fn named_checks(body: &ServiceRequest<'_>) -> Result<Vec<NewCheck>, ConsulError> {
    if body.checks.is_empty() {
        return Ok(Vec::new());
    }
    let several = body.checks.len() > 1;
    let name = ["Service '", body.name.as_str(), "' check"].concat();
    let number = |at: usize| if several { format!(":{}", at + 1) } else { String::new() };
    let id = |at: usize| ["service:", &*body.id, &number(at)].concat();
    let check = |(at, check): (usize, &CheckRequest<'_>)| check.check(&id(at), &name);
    body.checks.iter().enumerate().map(check).collect()
}
