//! `/v1/catalog/…`: who is registered.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Serialize;

use super::tags;
use crate::{
    app::{View, ViewKey},
    model::Revision,
    protocol::consul::{
        Consul, ConsulError, ConsulRequest,
        agent::CONSUL_SERVICE,
        blocking::QuerySubject,
        filter::{CATALOG, ConsulFilter, NODES, SERVICES},
        node::AgentNode,
        response::{ConsulResponse, encode},
        view::{CatalogService, NodeView, ServiceView},
    },
};

/// A node and its services.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeServices<'a, S> {
    node: NodeView<'a>,
    services: S,
}

impl Consul {
    pub(super) async fn catalog_services(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let wanted = ConsulFilter::parse(call.query.get("filter"), &CATALOG)?;
        let registry = self.registry();
        let catalog = registry.consul_index();
        let plain = wanted.is_all() && call.query.get("node-meta").is_none();
        let index = || {
            let names = catalog.services_changed();
            let changed =
                if plain { names } else { names.max(catalog.descriptions_changed()).max(catalog.nodes_changed()) };
            self.at_least(changed)
        };
        let index_then = self.wait(call, &QuerySubject::Everything, index).await?;
        let query = call.query.question();
        let key = ViewKey::new(View::ConsulCatalogServices, "", &query);
        let view = self.encoded(call, key, Revision(index()), || {
            if plain {
                let gathered = tags::of_services(registry, &self.shared.views);
                let mut names: BTreeMap<_, _> = gathered.iter().map(|(name, tags)| (name.as_str(), &tags.0)).collect();
                let none = BTreeSet::new();
                names.entry(CONSUL_SERVICE).or_insert(&none);
                return Ok((encode(&names, call.query.pretty)?, false));
            }
            let itself = (Arc::clone(&self.itself), AgentNode::local(registry));
            let everybody: Vec<_> = std::iter::once(itself).chain(self.everybody()).collect();
            let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for (entry, host) in everybody.iter().filter(|(_, host)| self.has_meta(host, &call.query)) {
                let instance = &entry.instance;
                if wanted.is_all() || wanted.takes(&CatalogService::new(host.view(&self.agent, registry), instance)) {
                    names.entry(instance.service.as_str()).or_default().extend(instance.tags.iter());
                }
            }
            Ok((encode(&names, call.query.pretty)?, false))
        })?;
        let reply = ConsulResponse::from(view).with_index(&call.query, index_then, false);
        Ok(self.tell_of_cache(call, &key, reply))
    }

    pub(super) async fn catalog_service(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        if call.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing service name"));
        }
        let wanted = ConsulFilter::parse(call.query.get("filter"), &CATALOG)?;
        self.of_service(call, View::ConsulCatalogService, |spellings| {
            let (entries, hosts) = self.found(&call.subject, spellings, &call.query);
            let shown = entries
                .iter()
                .zip(&hosts)
                .map(|(entry, host)| CatalogService::new(host.view(&self.agent, self.registry()), &entry.instance));
            let shown: Vec<_> = shown.filter(|service| wanted.takes(service)).collect();
            Ok((encode(&shown, call.query.pretty)?, false))
        })
        .await
    }

    pub(super) async fn catalog_nodes(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let wanted = ConsulFilter::parse(call.query.get("filter"), &NODES)?;
        let registry = self.registry();
        let index = || self.at_least(registry.consul_index().nodes_changed());
        let index = self.wait(call, &QuerySubject::Nodes, index).await?;
        let hosts = AgentNode::all(registry, &self.agent);
        let shown = hosts.iter().filter(|host| self.has_meta(host, &call.query));
        let mut shown: Vec<_> =
            shown.map(|host| host.view(&self.agent, registry)).filter(|node| wanted.takes(node)).collect();
        shown.sort_by_cached_key(|node| node.node.to_ascii_lowercase());
        Ok(Self::packed(call, encode(&shown, call.query.pretty)?).with_index(&call.query, index, false))
    }

    /// A node and its services: by id, or as a list. `null`, or an empty list, if nobody knows it.
    pub(super) async fn catalog_node(&self, call: &ConsulRequest, by_id: bool) -> Result<ConsulResponse, ConsulError> {
        if call.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing node name"));
        }
        let wanted = ConsulFilter::parse(call.query.get("filter"), &SERVICES)?;
        let registry = self.registry();
        let kept = self.agent.stored_name(&call.subject);
        let index = || self.at_least(registry.consul_index().node_description_changed(kept));
        let index = self.wait(call, &QuerySubject::Node(kept.into()), index).await?;
        let Some(host) = AgentNode::find(registry, kept) else {
            let nothing = if by_id { encode(&(), false)? } else { encode(&Nothing::default(), call.query.pretty)? };
            return Ok(ConsulResponse::json(nothing).with_index(&call.query, index, false));
        };
        let entries = self.everybody().into_iter().filter(|(_, on)| on.name == host.name).map(|(entry, _)| entry);
        let itself = kept.is_empty().then(|| Arc::clone(&self.itself));
        let mut entries: Vec<_> = itself.into_iter().chain(entries).collect();
        entries.sort_by_key(|entry| entry.instance.consul_registration.is_none());
        let services = entries.iter().map(|entry| ServiceView::new(&entry.instance));
        let mut services: Vec<_> = services.filter(|service| wanted.takes(service)).collect();
        services.sort_by(|one, other| one.id.cmp(other.id));
        let node = host.view(&self.agent, registry);
        let body = if by_id {
            encode(&NodeServices { node, services: by_id_of(services) }, call.query.pretty)?
        } else {
            encode(&NodeServices { node, services }, call.query.pretty)?
        };
        Ok(Self::packed(call, body).with_index(&call.query, index, false))
    }
}

/// Services by id. In Consul an id is one on its node; native ids are one in their service, so one that is there twice has its
/// service before it.
fn by_id_of(services: Vec<ServiceView<'_>>) -> BTreeMap<Cow<'_, str>, ServiceView<'_>> {
    let mut all = BTreeMap::new();
    for service in services {
        let known = all.contains_key(service.id);
        let key = if known { format!("{}/{}", service.service, service.id).into() } else { Cow::Borrowed(service.id) };
        all.insert(key, service);
    }
    all
}

/// The services of a node that nobody knows.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Nothing {
    node: Option<()>,
    services: [(); 0],
}
