//! `/v1/catalog/register` and `deregister`: whatever is on whatever node, as somebody else knows it.

use std::sync::Arc;

use super::node_service;
use crate::{
    app::{ListedChange, NodeRegistration},
    model::{Address, ConsulRegistration, Instance, InstanceId, Probe, Tags, Weight},
    protocol::consul::{
        Consul, ConsulError, ConsulRequest,
        body::{CatalogDeregistration, CatalogRegistration, CheckRequest, ServiceRequest},
        response::{ConsulResponse, encode},
    },
    registry::{Command, DeregisterGuard, Entry, InstanceDescription, NewCheck, Patch, RegisterWithoutLease},
};

impl Consul {
    /// Everything is looked at before anything is registered.
    pub(super) async fn catalog_register(
        &self,
        call: &ConsulRequest,
        body: &[u8],
    ) -> Result<ConsulResponse, ConsulError> {
        let mut asked = CatalogRegistration::read(body)?;
        self.is_here(&asked.datacenter)?;
        if let Some(problem) = asked.service.as_ref().and_then(ServiceRequest::mesh_problem) {
            return Err(ConsulError::Server(problem));
        }
        let node = self.agent.stored_name(&asked.node).to_owned();
        asked.checks.retain(|check| !self.is_made_here(&node, &check.id));
        let (of_node, of_services): (Vec<CheckRequest<'_>>, Vec<CheckRequest<'_>>) =
            std::mem::take(&mut asked.checks).into_iter().partition(|check| check.service.is_empty());
        let of_node = of_node.iter().map(stated).collect::<Result<Vec<_>, _>>()?;
        let mut registration = self.node_registration(&node, &asked, of_node)?;
        let mut own = Vec::new();
        for check in of_services {
            if asked.service.as_ref().is_some_and(|service| service.id == check.service) {
                own.push(stated(&check)?);
            } else {
                registration.then.push(self.check_of_other(&node, &check)?);
            }
        }
        if let Some(service) = asked.service.take() {
            // Where the node has another address when it is registered, that is the one.
            let host = if node.is_empty() || asked.address.is_empty() {
                self.agent.address.to_string()
            } else {
                asked.address.into_owned()
            };
            match self.registered_at_agent(&node, &service.id) {
                Some(known) => registration.then.extend(retagged(&known, service, own)),
                None => registration.service = Some(self.enrollment(&node, || host, service, own, false)?),
            }
        }
        self.commands(call).register_on_node(registration).await?;
        Ok(ConsulResponse::json(encode(&true, false)?))
    }

    /// Refuses another datacenter than ours.
    fn is_here(&self, datacenter: &str) -> Result<(), ConsulError> {
        let here = datacenter.is_empty() || *datacenter == self.agent.datacenter;
        if here { Ok(()) } else { Err(ConsulError::NoPathToDatacenter) }
    }

    /// True for a check of our node that its agent makes or is fed: what the catalog says of one does not last in Consul either.
    fn is_made_here(&self, node: &str, check: &str) -> bool {
        let owner = node.is_empty().then(|| self.registry().consul_index().owner_of("", check)).flatten();
        let entry = owner.and_then(|(service, id)| self.registry().get(&service, id.as_str()));
        let known = entry.as_ref().and_then(|entry| entry.instance.checks.get(check));
        known.is_some_and(|check| check.definition.probe != Probe::Static)
    }

    /// Returns the service of our node with this id that a program has registered at the agent.
    fn registered_at_agent(&self, node: &str, id: &str) -> Option<Arc<Entry>> {
        let entry = node.is_empty().then(|| self.own_by_id(id)).flatten()?;
        entry.instance.consul_registration.as_ref().is_some_and(|listing| !listing.from_catalog).then_some(entry)
    }

    /// A node, which is left as it is if that is asked for and it is known. The local node is what it is, but it may have checks.
    fn node_registration(
        &self,
        node: &str,
        asked: &CatalogRegistration<'_>,
        checks: Vec<NewCheck>,
    ) -> Result<NodeRegistration, ConsulError> {
        let id = InstanceId::of_node(node);
        if !node.is_empty() && !asked.skip_node_update {
            let enroll = RegisterWithoutLease { checks, ..node_enrollment(node, asked)? };
            return Ok(NodeRegistration::of_node(id, None, vec![Command::RegisterWithoutLease(Box::new(enroll))]));
        }
        let unless_known = if node.is_empty() {
            Some(self.own_node()?)
        } else if !asked.address.is_empty() {
            Some(node_enrollment(node, asked)?)
        } else if self.registry().node(node).is_some() {
            None
        } else {
            // Consul registers a node without an address, which nobody could call.
            return Err(ConsulError::Server(format!("Must provide address: node {node:?} is not registered")));
        };
        let add = |check| Command::AddCheck { service: node_service(), id: id.clone(), check };
        let changes: Vec<_> = checks.into_iter().map(add).collect();
        // The local node is kept only once there is something to keep of it.
        let unless_known = unless_known.filter(|_| !node.is_empty() || !changes.is_empty());
        Ok(NodeRegistration::of_node(id, unless_known, changes))
    }

    /// A check of a service that is on the node already.
    fn check_of_other(&self, node: &str, check: &CheckRequest<'_>) -> Result<(InstanceId, ListedChange), ConsulError> {
        let id = InstanceId::on_node(node, &check.service);
        if self.registry().consul_index().service_of(id.as_str()).is_none() {
            let missing = format!("Missing service registration: no service {:?} is on the node", check.service);
            return Err(ConsulError::Server(missing));
        }
        Ok((id, ListedChange::AddCheck(stated(check)?)))
    }

    /// What is not there is gone already.
    pub(super) async fn catalog_deregister(
        &self,
        call: &ConsulRequest,
        body: &[u8],
    ) -> Result<ConsulResponse, ConsulError> {
        let CatalogDeregistration { datacenter, node, service, check } = CatalogDeregistration::read(body)?;
        self.is_here(&datacenter)?;
        let node = self.agent.stored_name(&node);
        if !service.is_empty() {
            let removed = self.commands(call).deregister_listed(vec![InstanceId::on_node(node, &service)]).await?;
            if !removed && node.is_empty() {
                self.remove_leased(call, &service).await?;
            }
        } else if check.is_empty() {
            self.commands(call).remove_node(InstanceId::of_node(node)).await?;
        } else {
            match self.check_deregister(call, node, &check).await {
                Ok(_) | Err(ConsulError::NotFound(_)) => {}
                Err(problem) => return Err(problem),
            }
        }
        Ok(ConsulResponse::json(encode(&true, false)?))
    }

    /// Removes the instance with a lease that is shown on our node under this id, as an operator does. Such an id is unique in its
    /// service only.
    async fn remove_leased(&self, call: &ConsulRequest, id: &str) -> Result<(), ConsulError> {
        let services = self.registry().each_service();
        let entries = services.filter_map(|summary| self.registry().get(&summary.name, id));
        let leased: Vec<_> = entries.filter(|entry| entry.instance.consul_registration.is_none()).collect();
        match &*leased {
            [] => Ok(()),
            [one] => {
                let (service, id) = (one.instance.service.clone(), one.instance.id.clone());
                match self.submit(call, Command::Deregister { service, id, guard: DeregisterGuard::Any }).await {
                    Ok(_) | Err(ConsulError::NotFound(_)) => Ok(()),
                    Err(problem) => Err(problem),
                }
            }
            several => {
                let names: Vec<_> = several.iter().map(|entry| entry.instance.service.as_str()).collect();
                Err(ConsulError::Conflict(format!(
                    "service ID {id:?} is that of instances of {}, which are registered with leases: remove the one that is meant with `callboard deregister SERVICE/{id}`",
                    names.join(", ")
                )))
            }
        }
    }
}

/// Returns what the catalog may change of a service that a program has registered at the agent: its tags, if the program allows it.
/// In Consul the agent undoes all else within a minute.
fn retagged(known: &Entry, asked: ServiceRequest<'_>, checks: Vec<NewCheck>) -> Vec<(InstanceId, ListedChange)> {
    let Instance { service, id, consul_registration: listing, .. } = &known.instance;
    let mut changes = Vec::new();
    if listing.as_ref().is_some_and(|listing| listing.enable_tag_override) && *service == asked.name {
        changes.push(ListedChange::Update(Patch { tags: Some(asked.tags), ..Patch::default() }));
    } else {
        tracing::debug!(%service, %id, "a catalog write of a service that its agent keeps as it is");
    }
    changes.extend(checks.into_iter().map(ListedChange::AddCheck));
    changes.into_iter().map(|change| (id.clone(), change)).collect()
}

fn node_enrollment(node: &str, asked: &CatalogRegistration<'_>) -> Result<RegisterWithoutLease, ConsulError> {
    let tagged = asked.tagged_addresses.iter();
    Ok(RegisterWithoutLease {
        service: node_service(),
        id: InstanceId::of_node(node),
        description: InstanceDescription {
            addresses: [Address::with_any_port(&asked.address, 0, "")?].into(),
            tags: Tags::default(),
            metadata: asked.meta.clone(),
            weight: Weight::DEFAULT,
            locality: None,
        },
        consul_registration: ConsulRegistration {
            node: node.into(),
            id: (&*asked.id).into(),
            address: (&*asked.address).into(),
            tagged_addresses: tagged.map(|(name, host)| ((&**name).into(), (&**host).into(), 0)).collect(),
            ..ConsulRegistration::default()
        }
        .validated()?,
        checks: Vec::new(),
        replace_checks: false,
    })
}

/// A check as the catalog has it: nobody makes it.
fn stated(check: &CheckRequest<'_>) -> Result<NewCheck, ConsulError> {
    let id = if check.name.is_empty() { "check" } else { &check.name };
    check.check(id, id)
}
