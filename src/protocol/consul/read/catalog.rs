//! `/v1/catalog/…`: registered services and nodes.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    iter,
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
    pub(super) async fn catalog_services(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let filter = ConsulFilter::parse(request.query.get("filter"), &CATALOG)?;
        let registry = self.registry();
        let consul_index = registry.consul_index();
        let plain = filter.is_all() && request.query.get("node-meta").is_none();
        let index = || {
            let names = consul_index.services_changed();
            let changed = if plain {
                names
            } else {
                names.max(consul_index.descriptions_changed()).max(consul_index.nodes_changed())
            };
            self.at_least(changed)
        };
        let waited_index = self.wait_for_change(request, &QuerySubject::Everything, index).await?;
        let query = request.query.cache_key();
        let key = ViewKey::new(View::ConsulCatalogServices, "", &query);
        let view = self.encoded(request, key, Revision(index()), || {
            if plain {
                let services = tags::of_services(registry, &self.context.views);
                let mut names: BTreeMap<_, _> = services.iter().map(|(name, tags)| (name.as_str(), &tags.0)).collect();
                let no_tags = BTreeSet::new();
                names.entry(CONSUL_SERVICE).or_insert(&no_tags);
                return Ok((encode(&names, request.query.pretty)?, false));
            }
            let consul = (Arc::clone(&self.own_entry), AgentNode::local(registry));
            let all: Vec<_> = iter::once(consul).chain(self.all_instances()).collect();
            let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for (entry, node) in all.iter().filter(|(_, node)| self.has_metadata(node, &request.query)) {
                let instance = &entry.instance;
                if filter.is_all() || filter.matches(&CatalogService::new(node.view(&self.agent, registry), instance)) {
                    names.entry(instance.service.as_str()).or_default().extend(instance.tags.iter());
                }
            }
            Ok((encode(&names, request.query.pretty)?, false))
        })?;
        let response = ConsulResponse::from(view).with_index(&request.query, waited_index, false);
        Ok(if request.query.cached { response.with_cache(self.cached.ask(&key)) } else { response })
    }

    pub(super) async fn catalog_service(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        if request.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing service name"));
        }
        let filter = ConsulFilter::parse(request.query.get("filter"), &CATALOG)?;
        self.service_response(request, View::ConsulCatalogService, |spellings| {
            let (entries, nodes) = self.find_instances(&request.subject, spellings, &request.query);
            let shown = entries
                .iter()
                .zip(&nodes)
                .map(|(entry, node)| CatalogService::new(node.view(&self.agent, self.registry()), &entry.instance));
            let shown: Vec<_> = shown.filter(|service| filter.matches(service)).collect();
            Ok((encode(&shown, request.query.pretty)?, false))
        })
        .await
    }

    pub(super) async fn catalog_nodes(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        let filter = ConsulFilter::parse(request.query.get("filter"), &NODES)?;
        let registry = self.registry();
        let index = || self.at_least(registry.consul_index().nodes_changed());
        let index = self.wait_for_change(request, &QuerySubject::Nodes, index).await?;
        let nodes = AgentNode::all(registry, &self.agent);
        let shown = nodes.iter().filter(|node| self.has_metadata(node, &request.query));
        let mut shown: Vec<_> =
            shown.map(|node| node.view(&self.agent, registry)).filter(|node| filter.matches(node)).collect();
        shown.sort_by_cached_key(|node| node.node.to_ascii_lowercase());
        Ok(Self::compressible(request, encode(&shown, request.query.pretty)?).with_index(&request.query, index, false))
    }

    /// Answers with a node and its services, by id or as a list. The answer for an unknown node is `null`, or an empty list.
    pub(super) async fn catalog_node(
        &self,
        request: &ConsulRequest,
        by_id: bool,
    ) -> Result<ConsulResponse, ConsulError> {
        if request.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing node name"));
        }
        let filter = ConsulFilter::parse(request.query.get("filter"), &SERVICES)?;
        let registry = self.registry();
        let stored = self.agent.stored_name(&request.subject);
        let index = || self.at_least(registry.consul_index().node_description_changed(stored));
        let index = self.wait_for_change(request, &QuerySubject::Node(stored.into()), index).await?;
        let Some(node) = AgentNode::find(registry, stored) else {
            let unknown =
                if by_id { encode(&(), false)? } else { encode(&UnknownNode::default(), request.query.pretty)? };
            return Ok(ConsulResponse::json(unknown).with_index(&request.query, index, false));
        };
        let entries = self.all_instances().into_iter().filter(|(_, on)| on.name == node.name).map(|(entry, _)| entry);
        let consul = stored.is_empty().then(|| Arc::clone(&self.own_entry));
        let mut entries: Vec<_> = consul.into_iter().chain(entries).collect();
        entries.sort_by_key(|entry| entry.instance.consul_registration.is_none());
        let services = entries.iter().map(|entry| ServiceView::new(&entry.instance));
        let mut services: Vec<_> = services.filter(|service| filter.matches(service)).collect();
        services.sort_by(|one, other| one.id.cmp(other.id));
        let node = node.view(&self.agent, registry);
        let body = if by_id {
            encode(&NodeServices { node, services: by_id_of(services) }, request.query.pretty)?
        } else {
            encode(&NodeServices { node, services }, request.query.pretty)?
        };
        Ok(Self::compressible(request, body).with_index(&request.query, index, false))
    }
}

/// Returns services by id. In Consul, an id is unique on its node. The id of an instance with a lease is unique in its service only, so one
/// that repeats on the node gets its service as a prefix.
fn by_id_of(services: Vec<ServiceView<'_>>) -> BTreeMap<Cow<'_, str>, ServiceView<'_>> {
    let mut all = BTreeMap::new();
    for service in services {
        let known = all.contains_key(service.id);
        let key = if known { format!("{}/{}", service.service, service.id).into() } else { Cow::Borrowed(service.id) };
        all.insert(key, service);
    }
    all
}

/// Answer about a node that is not registered.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct UnknownNode {
    node: Option<()>,
    services: [(); 0],
}
