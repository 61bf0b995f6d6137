//! `/v1/catalog/register` and `deregister`: nodes, services and checks that another program keeps up to date.

use std::sync::Arc;

use super::node_service;
use crate::{
    app::{ConsulChange, NodeRegistration},
    model::{Address, ConsulRegistration, Instance, InstanceId, Probe, Tags, Weight},
    protocol::consul::{
        Consul, ConsulError, ConsulRequest,
        body::{CatalogDeregistration, CatalogRegistration, CheckRequest, ServiceRequest},
        response::{ConsulResponse, encode},
    },
    registry::{Command, DeregisterGuard, Entry, InstanceDescription, NewCheck, Patch, RegisterWithoutLease},
};

impl Consul {
    /// Registers a node, a service and checks. All of them are validated before any is registered.
    pub(super) async fn catalog_register(
        &self,
        request: &ConsulRequest,
        body: &[u8],
    ) -> Result<ConsulResponse, ConsulError> {
        let mut body = CatalogRegistration::read(body)?;
        self.check_datacenter(&body.datacenter)?;
        if let Some(error) = body.service.as_ref().and_then(ServiceRequest::mesh_error) {
            return Err(ConsulError::Server(error));
        }
        let node = self.agent.stored_name(&body.node).to_owned();
        body.checks.retain(|check| !self.is_run_by_agent(&node, &check.id));
        let (of_node, of_services): (Vec<CheckRequest<'_>>, Vec<CheckRequest<'_>>) =
            std::mem::take(&mut body.checks).into_iter().partition(|check| check.service.is_empty());
        let of_node = of_node.iter().map(static_check).collect::<Result<Vec<_>, _>>()?;
        let mut registration = self.node_registration(&node, &body, of_node)?;
        let mut own = Vec::new();
        for check in of_services {
            if body.service.as_ref().is_some_and(|service| service.id == check.service) {
                own.push(static_check(&check)?);
            } else {
                registration.then.push(self.check_of_other_service(&node, &check)?);
            }
        }
        if let Some(service) = body.service.take() {
            // Used unless the node has a different address by the time that the service is registered.
            let host = if node.is_empty() || body.address.is_empty() {
                self.agent.address.to_string()
            } else {
                body.address.into_owned()
            };
            match self.registered_at_agent(&node, &service.id) {
                Some(known) => registration.then.extend(agent_service_changes(&known, service, own)),
                None => registration.service = Some(self.service_registration(&node, || host, service, own, false)?),
            }
        }
        self.commands(request).register_on_node(registration).await?;
        Ok(ConsulResponse::json(encode(&true, false)?))
    }

    /// Rejects other datacenters.
    fn check_datacenter(&self, datacenter: &str) -> Result<(), ConsulError> {
        let is_local = datacenter.is_empty() || *datacenter == self.agent.datacenter;
        if is_local { Ok(()) } else { Err(ConsulError::NoPathToDatacenter) }
    }

    /// Returns whether a check of the local node is run by the agent, or reported to it. In Consul, the agent overwrites what the catalog
    /// says about such a check.
    fn is_run_by_agent(&self, node: &str, check: &str) -> bool {
        let owner = node.is_empty().then(|| self.registry().consul_index().owner_of("", check)).flatten();
        let entry = owner.and_then(|(service, id)| self.registry().get(&service, id.as_str()));
        let known = entry.as_ref().and_then(|entry| entry.instance.checks.get(check));
        known.is_some_and(|check| check.definition.probe != Probe::Static)
    }

    /// Returns the service of the local node with this id, if it was registered at the agent.
    fn registered_at_agent(&self, node: &str, id: &str) -> Option<Arc<Entry>> {
        let entry = node.is_empty().then(|| self.local_instance(id)).flatten()?;
        entry
            .instance
            .consul_registration
            .as_ref()
            .is_some_and(|registration| !registration.from_catalog)
            .then_some(entry)
    }

    /// Returns the registration of a node. `SkipNodeUpdate` leaves a registered node as it is. The local node cannot be described, but may
    /// have checks.
    fn node_registration(
        &self,
        node: &str,
        body: &CatalogRegistration<'_>,
        checks: Vec<NewCheck>,
    ) -> Result<NodeRegistration, ConsulError> {
        let id = InstanceId::of_node(node);
        if !node.is_empty() && !body.skip_node_update {
            let registration = RegisterWithoutLease { checks, ..catalog_node(node, body)? };
            return Ok(NodeRegistration::of_node(
                id,
                None,
                vec![Command::RegisterWithoutLease(Box::new(registration))],
            ));
        }
        let unless_known = if node.is_empty() {
            Some(self.local_node_registration()?)
        } else if !body.address.is_empty() {
            Some(catalog_node(node, body)?)
        } else if self.registry().node(node).is_some() {
            None
        } else {
            // Consul registers a node without an address, at which no client could call its services.
            return Err(ConsulError::Server(format!("Must provide address: node {node:?} is not registered")));
        };
        let add = |check| Command::AddCheck { service: node_service(), id: id.clone(), check };
        let changes: Vec<_> = checks.into_iter().map(add).collect();
        // The local node has no entry in the registry before its first change.
        let unless_known = unless_known.filter(|_| !node.is_empty() || !changes.is_empty());
        Ok(NodeRegistration::of_node(id, unless_known, changes))
    }

    /// Returns the change that adds a check to a service which is on the node already.
    fn check_of_other_service(
        &self,
        node: &str,
        check: &CheckRequest<'_>,
    ) -> Result<(InstanceId, ConsulChange), ConsulError> {
        let id = InstanceId::on_node(node, &check.service);
        if self.registry().consul_index().service_of(id.as_str()).is_none() {
            let missing = format!("Missing service registration: no service {:?} is on the node", check.service);
            return Err(ConsulError::Server(missing));
        }
        Ok((id, ConsulChange::AddCheck(static_check(check)?)))
    }

    /// Deregisters a node, a service or a check. It is not an error if it does not exist.
    pub(super) async fn catalog_deregister(
        &self,
        request: &ConsulRequest,
        body: &[u8],
    ) -> Result<ConsulResponse, ConsulError> {
        let CatalogDeregistration { datacenter, node, service, check } = CatalogDeregistration::read(body)?;
        self.check_datacenter(&datacenter)?;
        let node = self.agent.stored_name(&node);
        if !service.is_empty() {
            let removed = self.commands(request).deregister_consul(vec![InstanceId::on_node(node, &service)]).await?;
            if !removed && node.is_empty() {
                self.remove_leased(request, &service).await?;
            }
        } else if check.is_empty() {
            self.commands(request).remove_node(InstanceId::of_node(node)).await?;
        } else {
            match self.check_deregister(request, node, &check).await {
                Ok(_) | Err(ConsulError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ConsulResponse::json(encode(&true, false)?))
    }

    /// Removes the instance with a lease that answers show on the local node under this id, as an operator does. Such an id is unique in its
    /// service only, so several instances may have it.
    async fn remove_leased(&self, request: &ConsulRequest, id: &str) -> Result<(), ConsulError> {
        let services = self.registry().each_service();
        let entries = services.filter_map(|summary| self.registry().get(&summary.name, id));
        let leased: Vec<_> = entries.filter(|entry| entry.instance.consul_registration.is_none()).collect();
        match &*leased {
            [] => Ok(()),
            [one] => {
                let (service, id) = (one.instance.service.clone(), one.instance.id.clone());
                match self.submit(request, Command::Deregister { service, id, guard: DeregisterGuard::Any }).await {
                    Ok(_) | Err(ConsulError::NotFound(_)) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            several => {
                let names: Vec<_> = several.iter().map(|entry| entry.instance.service.as_str()).collect();
                Err(ConsulError::Conflict(format!(
                    "service ID {id:?} is ambiguous: the services {} each have a leased instance with this ID; remove one of them with `callboard deregister SERVICE/{id}`",
                    names.join(", ")
                )))
            }
        }
    }
}

/// Returns the changes of a service registered at the agent that the catalog may make: checks, and the tags if the registration allows that.
/// In Consul, the agent undoes all others within a minute.
fn agent_service_changes(
    known: &Entry,
    body: ServiceRequest<'_>,
    checks: Vec<NewCheck>,
) -> Vec<(InstanceId, ConsulChange)> {
    let Instance { service, id, consul_registration: registration, .. } = &known.instance;
    let mut changes = Vec::new();
    if registration.as_ref().is_some_and(|registration| registration.enable_tag_override) && *service == body.name {
        changes.push(ConsulChange::Update(Patch { tags: Some(body.tags), ..Patch::default() }));
    } else {
        tracing::debug!(%service, %id, "ignored the description in a catalog write, because the service is registered at the agent");
    }
    changes.extend(checks.into_iter().map(ConsulChange::AddCheck));
    changes.into_iter().map(|change| (id.clone(), change)).collect()
}

fn catalog_node(node: &str, body: &CatalogRegistration<'_>) -> Result<RegisterWithoutLease, ConsulError> {
    let tagged = body.tagged_addresses.iter();
    Ok(RegisterWithoutLease {
        service: node_service(),
        id: InstanceId::of_node(node),
        description: InstanceDescription {
            addresses: [Address::with_any_port(&body.address, 0, "")?].into(),
            tags: Tags::default(),
            metadata: body.meta.clone(),
            weight: Weight::DEFAULT,
            locality: None,
        },
        consul_registration: ConsulRegistration {
            node: node.into(),
            id: (&*body.id).into(),
            address: (&*body.address).into(),
            tagged_addresses: tagged.map(|(name, host)| ((&**name).into(), (&**host).into(), 0)).collect(),
            ..ConsulRegistration::default()
        }
        .validated()?,
        checks: Vec::new(),
        replace_checks: false,
    })
}

/// Returns a check of the catalog, which this registry does not run.
fn static_check(check: &CheckRequest<'_>) -> Result<NewCheck, ConsulError> {
    let id = if check.name.is_empty() { "check" } else { &check.name };
    check.check(id, id)
}
