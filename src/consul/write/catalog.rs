//! `/v1/catalog/register` and `deregister`: whatever is on whatever node, as somebody else knows it.

use super::nodes;
use crate::{
    consul::{
        Consul, Problem,
        body::{Asked, CatalogDeregistration, CatalogRegistration},
        reply::{Reply, encode},
    },
    model::{Address, InstanceId, Listing, Tags, Weight, node_id},
    registry::{Command, Description, Enroll, NewCheck},
};

impl Consul {
    pub(super) async fn catalog_register(&self, body: &[u8]) -> Result<Reply, Problem> {
        let mut asked = CatalogRegistration::read(body)?;
        let node = self.agent.kept_name(&asked.node).to_owned();
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
            self.enroll(&node, host, service, own, false).await?;
        }
        for check in others {
            self.add_to_service(&node, &check).await?;
        }
        Ok(Reply::json(encode(&true, false)?))
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
        let CatalogDeregistration { node, service, check } = CatalogDeregistration::read(body)?;
        let node = self.agent.kept_name(&node);
        if !service.is_empty() {
            let id = InstanceId::on_node(node, &service);
            if let Some(service) = self.registry().catalog().service_of(id.as_str()) {
                self.remove(service, id).await?;
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
