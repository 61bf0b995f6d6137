//! Services of our own node.

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
    pub(super) async fn register(&self, call: &ConsulRequest, body: &[u8]) -> Result<ConsulResponse, ConsulError> {
        let mut asked = ServiceRequest::read(body)?;
        let refused = |problem| ConsulError::BadValue(format!("Validation failed: {problem}"));
        asked.mesh_problem().map_or(Ok(()), |problem| Err(refused(problem)))?;
        let sidecar = asked.take_sidecar()?;
        let replace_checks = call.query.switch("replace-existing-checks")?;
        let peer = call.connection.peer().ip().to_canonical();
        // Who registers from another machine and names no address is there. Consul shows none, as none was given.
        let host = || if peer.is_loopback() { self.agent.address } else { peer }.to_string();
        let checks = named(&asked)?;
        let (id, port) = (asked.id.clone(), asked.port);
        let mut enrolls = vec![self.enrollment("", host, asked, checks, replace_checks)?];
        let mut ports = None;
        if let Some(sidecar) = sidecar {
            // Until it is registered: no two proxies get the same port.
            ports = Some(Arc::clone(&self.sidecar_ports).lock_owned().await);
            enrolls.push(self.sidecar_enrollment((&id, port), host, sidecar, replace_checks)?);
        }
        self.commands(call).register(enrolls, ports).await?;
        Ok(ConsulResponse::empty())
    }

    /// Registration of a service on a node. `host`: its address, if it names none.
    pub(super) fn enrollment(
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
        let listing = ConsulRegistration {
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
            consul_registration: listing.validated()?,
            checks,
            replace_checks,
        })
    }

    pub(super) async fn deregister(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let id = &*call.subject;
        let mut ids = vec![InstanceId::on_node("", id)];
        ids.extend(self.sidecar_of(id).map(|sidecar| sidecar.instance.id.clone()));
        let removed = self.commands(call).deregister_listed(ids).await?;
        if removed { Ok(ConsulResponse::empty()) } else { Err(ConsulError::unknown_service(id)) }
    }
}

/// The checks of a service, which are named after it where they have no names of their own.
pub(super) fn named(asked: &ServiceRequest<'_>) -> Result<Vec<NewCheck>, ConsulError> {
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
