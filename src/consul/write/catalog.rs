//! `/v1/catalog/register` and `deregister`: whatever is on whatever node, as somebody else knows it.

use std::sync::Arc;

use super::nodes;
use crate::{
    consul::{
        Consul, Problem,
        body::{Asked, CatalogDeregistration, CatalogRegistration, Service},
        reply::{Reply, encode},
    },
    model::{Address, Instance, InstanceId, Listing, Probe, Tags, Weight, node_id},
    registry::{Command, Description, Enroll, Entry, NewCheck, Patch},
};

impl Consul {
    pub(super) async fn catalog_register(&self, body: &[u8]) -> Result<Reply, Problem> {
        let mut asked = CatalogRegistration::read(body)?;
        self.is_here(&asked.datacenter)?;
        if let Some(problem) = asked.service.as_ref().and_then(Service::mesh_problem) {
            return Err(Problem::Server(problem));
        }
        let node = self.agent.kept_name(&asked.node).to_owned();
        asked.checks.retain(|check| !self.is_made_here(&node, &check.id));
        let (of_node, of_services): (Vec<Asked<'_>>, Vec<Asked<'_>>) =
            std::mem::take(&mut asked.checks).into_iter().partition(|check| check.service.is_empty());
        let of_node = of_node.iter().map(stated).collect::<Result<Vec<_>, _>>()?;
        self.put_node(&node, &asked, of_node).await?;
        let registered = self.registry().node(&node);
        let host = registered.as_ref().and_then(|node| node.instance.addresses.first());
        let host = || host.map_or_else(|| self.agent.address.to_string(), |address| address.host.to_string());
        let mut own = Vec::new();
        let mut others = Vec::new();
        for check in of_services {
            let is_own = asked.service.as_ref().is_some_and(|service| service.id == check.service);
            if is_own { own.push(stated(&check)?) } else { others.push(check) }
        }
        if let Some(service) = asked.service.take() {
            match self.registered_at_agent(&node, &service.id) {
                Some(known) => self.retag(&known, service, own).await?,
                None => self.enroll(&node, host, service, own, false).await?,
            }
        }
        for check in others {
            self.add_to_service(&node, &check).await?;
        }
        Ok(Reply::json(encode(&true, false)?))
    }

    /// Refuses another datacenter than ours.
    fn is_here(&self, datacenter: &str) -> Result<(), Problem> {
        let here = datacenter.is_empty() || *datacenter == self.agent.datacenter;
        if here { Ok(()) } else { Err(Problem::NoPathToDatacenter) }
    }

    /// True for a check of our node that its agent makes or is fed: what the catalog says of one does not last in Consul either.
    fn is_made_here(&self, node: &str, check: &str) -> bool {
        let owner = node.is_empty().then(|| self.registry().catalog().owner_of("", check)).flatten();
        let entry = owner.and_then(|(service, id)| self.registry().get(&service, id.as_str()));
        let known = entry.as_ref().and_then(|entry| entry.instance.checks.get(check));
        known.is_some_and(|check| check.definition.probe != Probe::Stated)
    }

    /// Returns the service of our node with this id that a program has registered at the agent.
    fn registered_at_agent(&self, node: &str, id: &str) -> Option<Arc<Entry>> {
        let entry = node.is_empty().then(|| self.own_by_id(id)).flatten()?;
        entry.instance.listing.as_ref().is_some_and(|listing| !listing.from_catalog).then_some(entry)
    }

    /// Changes what the catalog may change of a service that a program has registered at the agent: its tags, if the program allows
    /// it. In Consul the agent undoes all else within a minute.
    async fn retag(&self, known: &Entry, asked: Service<'_>, checks: Vec<NewCheck>) -> Result<(), Problem> {
        let Instance { service, id, listing, .. } = &known.instance;
        let allowed = listing.as_ref().is_some_and(|listing| listing.enable_tag_override) && *service == asked.name;
        if allowed {
            let patch = Patch { tags: Some(asked.tags), ..Patch::default() };
            self.order(Command::Update { service: service.clone(), id: id.clone(), lease: None, patch }).await?;
        } else {
            tracing::debug!(%service, %id, "a catalog write of a service that its agent keeps as it is");
        }
        for check in checks {
            self.place(Command::AddCheck { service: service.clone(), id: id.clone(), check }, None).await?;
        }
        Ok(())
    }

    /// A node, unless it is to be left as it is. Ours is what it is, but it may have checks.
    async fn put_node(
        &self,
        node: &str,
        asked: &CatalogRegistration<'_>,
        checks: Vec<NewCheck>,
    ) -> Result<(), Problem> {
        if node.is_empty() {
            self.keep_own_node().await?;
        } else if !asked.skip_node_update {
            let tagged = asked.tagged_addresses.iter();
            let enroll = Enroll {
                service: nodes(),
                id: InstanceId::of_node(node),
                description: Description {
                    addresses: [Address::with_any_port(&asked.address, 0, "")?].into(),
                    tags: Tags::default(),
                    metadata: asked.meta.clone(),
                    weight: Weight::USUAL,
                    locality: None,
                },
                listing: Listing {
                    node: node.into(),
                    id: (&*asked.id).into(),
                    address: (&*asked.address).into(),
                    tagged_addresses: tagged.map(|(name, host)| ((&**name).into(), (&**host).into(), 0)).collect(),
                    ..Listing::default()
                }
                .check()?,
                checks,
                replace_checks: false,
            };
            return self.place(Command::Enroll(Box::new(enroll)), None).await;
        }
        for check in checks {
            let (service, id) = (nodes(), InstanceId::of_node(node));
            self.place(Command::AddCheck { service, id, check }, None).await?;
        }
        Ok(())
    }

    async fn add_to_service(&self, node: &str, check: &Asked<'_>) -> Result<(), Problem> {
        let id = InstanceId::on_node(node, &check.service);
        let turn = self.turns.take(&id).await;
        let service = self.registry().catalog().service_of(id.as_str()).ok_or_else(|| {
            Problem::Server(format!("Missing service registration: no service {:?} is on the node", check.service))
        })?;
        self.place(Command::AddCheck { service, id, check: stated(check)? }, Some(turn)).await
    }

    /// What is not there is gone already.
    pub(super) async fn catalog_deregister(&self, body: &[u8]) -> Result<Reply, Problem> {
        let CatalogDeregistration { datacenter, node, service, check } = CatalogDeregistration::read(body)?;
        self.is_here(&datacenter)?;
        let node = self.agent.kept_name(&node);
        if !service.is_empty() {
            let id = InstanceId::on_node(node, &service);
            if let Some(service) = self.registry().catalog().service_of(id.as_str()) {
                self.remove(service, id).await?;
            } else if node.is_empty() {
                self.remove_leased(&service).await?;
            }
        } else if check.is_empty() {
            self.remove_node(node).await?;
        } else {
            match self.check_deregister(node, &check).await {
                Ok(_) | Err(Problem::NotFound(_)) => {}
                Err(problem) => return Err(problem),
            }
        }
        Ok(Reply::json(encode(&true, false)?))
    }

    /// Removes the instance with a lease that is shown on our node under this id, as an operator does. Such an id is unique in its
    /// service only.
    async fn remove_leased(&self, id: &str) -> Result<(), Problem> {
        let services = self.registry().each_service();
        let entries = services.filter_map(|summary| self.registry().get(&summary.name, id));
        let leased: Vec<_> = entries.filter(|entry| entry.instance.listing.is_none()).collect();
        match &*leased {
            [] => Ok(()),
            [one] => self.remove(one.instance.service.clone(), one.instance.id.clone()).await,
            several => {
                let names: Vec<_> = several.iter().map(|entry| entry.instance.service.as_str()).collect();
                Err(Problem::Taken(format!(
                    "service ID {id:?} is that of instances of {}, which are registered with leases: remove the one that is meant with `callboard deregister SERVICE/{id}`",
                    names.join(", ")
                )))
            }
        }
    }

    /// A node and all that is on it. Ours stays, for here it is.
    async fn remove_node(&self, node: &str) -> Result<(), Problem> {
        for (id, service) in self.registry().catalog().on_node(&node_id(node)) {
            self.remove(service, id).await?;
        }
        if !node.is_empty() {
            self.remove(nodes(), InstanceId::of_node(node)).await?;
        }
        Ok(())
    }
}

/// A check as the catalog has it: nobody makes it.
fn stated(check: &Asked<'_>) -> Result<NewCheck, Problem> {
    let id = if check.name.is_empty() { "check" } else { &check.name };
    check.check(id, id)
}
