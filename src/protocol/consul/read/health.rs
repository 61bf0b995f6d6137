//! `/v1/health/…`: health of instances, and checks.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    app::{EncodedView, View},
    model::{Instance, ServiceName, same_node},
    protocol::consul::{
        Consul, ConsulError, ConsulRequest,
        agent::CONSUL_SERVICE,
        blocking::QuerySubject,
        filter::{CHECKS, ConsulFilter, ENTRIES},
        node::AgentNode,
        query::Query,
        response::{ConsulResponse, encode},
        view::{HealthCheck, ServiceEntry, ServiceView, checks_of, checks_of_node},
    },
    registry::Entry,
};

impl Consul {
    pub(super) async fn health_service(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        if request.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing service name"));
        }
        let passing = request.query.flag("passing")?;
        let filter = ConsulFilter::parse(request.query.get("filter"), &ENTRIES)?;
        self.service_response(request, View::ConsulHealthService, |spellings| {
            let (entries, nodes) = self.find_instances(&request.subject, spellings, &request.query);
            let shown = entries.iter().zip(&nodes).map(|(entry, node)| self.service_entry(&entry.instance, node));
            let shown: Vec<_> = shown.filter(|entry| (!passing || entry.passes()) && filter.matches(entry)).collect();
            let node_entries = nodes.iter().filter_map(|node| node.entry.as_ref());
            let has_outputs = entries.iter().chain(node_entries).any(|entry| !entry.instance.checks.is_empty());
            Ok((encode(&shown, request.query.pretty)?, has_outputs))
        })
        .await
    }

    pub(super) async fn health_checks(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        if request.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing service name"));
        }
        let filter = ConsulFilter::parse(request.query.get("filter"), &CHECKS)?;
        self.service_response(request, View::ConsulHealthChecks, |spellings| {
            let (entries, nodes) = self.find_instances(&request.subject, spellings, &request.query);
            let shown = entries.iter().zip(&nodes).flat_map(|(entry, node)| {
                let name = node.view(&self.agent, self.registry()).node;
                checks_of(&entry.instance, &name, &self.checks)
            });
            let shown: Vec<_> = shown.filter(|check| filter.matches(check)).collect();
            Ok((encode(&shown, request.query.pretty)?, true))
        })
        .await
    }

    pub(super) async fn health_state(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        if request.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing check state"));
        }
        let filter = ConsulFilter::parse(request.query.get("filter"), &CHECKS)?;
        let registry = self.registry();
        let consul_index = registry.consul_index();
        let by_meta = request.query.get("node-meta").is_some();
        let index = || {
            let checks = consul_index.checks_changed();
            self.at_least(if by_meta { checks.max(consul_index.nodes_changed()) } else { checks })
        };
        let index = self.wait_for_change(request, &QuerySubject::Everything, index).await?;
        let (nodes, entries) = (AgentNode::all(registry, &self.agent), self.all_instances());
        let of_nodes =
            nodes.iter().filter(|node| self.has_metadata(node, &request.query)).flat_map(|node| self.node_checks(node));
        let of_services =
            entries.iter().filter(|(_, node)| self.has_metadata(node, &request.query)).flat_map(|(entry, node)| {
                let name = node.view(&self.agent, registry).node;
                checks_of(&entry.instance, &name, &self.checks)
            });
        let any = request.subject == "any";
        let shown = of_nodes
            .chain(of_services)
            .filter(|check| (any || check.status == request.subject) && filter.matches(check));
        let mut shown: Vec<_> = shown.collect();
        shown.sort_by_cached_key(HealthCheck::by_node);
        Ok(Self::compressible(request, encode(&shown, request.query.pretty)?).with_index(&request.query, index, false))
    }

    pub(super) async fn health_node(&self, request: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        if request.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing node name"));
        }
        let filter = ConsulFilter::parse(request.query.get("filter"), &CHECKS)?;
        let registry = self.registry();
        let stored = self.agent.stored_name(&request.subject);
        let index = || self.at_least(registry.consul_index().node_checks_changed(stored));
        let index = self.wait_for_change(request, &QuerySubject::Node(stored.into()), index).await?;
        // Unlike Consul's other endpoints, this one distinguishes the case of node names.
        let is_asked = |node: &AgentNode| *self.agent.display_name(&node.name) == *request.subject;
        let node = AgentNode::find(registry, stored).filter(is_asked);
        let entries: Vec<_> = self.all_instances().into_iter().filter(|(_, node)| is_asked(node)).collect();
        let of_node = node.iter().flat_map(|node| self.node_checks(node));
        let of_services = entries
            .iter()
            .flat_map(|(entry, node)| checks_of(&entry.instance, &node.view(&self.agent, registry).node, &self.checks));
        let mut shown: Vec<_> = of_node.chain(of_services).filter(|check| filter.matches(check)).collect();
        shown.sort_by(|one, other| one.check_id.cmp(&other.check_id));
        Ok(Self::compressible(request, encode(&shown, request.query.pretty)?).with_index(&request.query, index, false))
    }

    /// Returns an instance with its node and the checks of both.
    fn service_entry<'a>(&'a self, instance: &'a Instance, node: &'a AgentNode) -> ServiceEntry<'a> {
        let node_view = node.view(&self.agent, self.registry());
        let mut checks = if instance.consul_registration.is_some() {
            self.node_checks(node)
        } else {
            // Checks of the node that Consul clients register say nothing about an instance with a lease.
            vec![self.serf_health(node)]
        };
        checks.extend(checks_of(instance, &node_view.node, &self.checks));
        ServiceEntry { node: node_view, service: ServiceView::new(instance), checks }
    }

    /// Returns the checks of a node, by id. The local node is alive, because it answers the request.
    pub(super) fn node_checks<'a>(&'a self, node: &'a AgentNode) -> Vec<HealthCheck<'a>> {
        let mut checks = Vec::new();
        if let Some(entry) = &node.entry {
            let name = self.agent.display_name(&node.name);
            checks = checks_of_node(&entry.instance, &name, &self.checks);
        }
        if node.name.is_empty() {
            checks.push(self.serf_health(node));
        }
        checks.sort_by(|one, other| one.check_id.cmp(&other.check_id));
        checks
    }

    fn serf_health<'a>(&'a self, node: &'a AgentNode) -> HealthCheck<'a> {
        HealthCheck::serf_health(self.agent.display_name(&node.name), self.registry().configured_revision().0 - 1)
    }

    /// Returns the instances of a service that match a query, in all spellings of its name, by id, each with its node.
    pub(super) fn find_instances(
        &self,
        name: &str,
        spellings: &[ServiceName],
        query: &Query,
    ) -> (Vec<Arc<Entry>>, Vec<AgentNode>) {
        let consul = name.eq_ignore_ascii_case(CONSUL_SERVICE).then(|| Arc::clone(&self.own_entry));
        let chunks: Vec<_> = spellings.iter().map(|service| self.registry().chunks(service)).collect();
        let mut entries: Vec<_> =
            chunks.iter().flat_map(|chunks| chunks.iter()).flat_map(|chunk| chunk.entries()).collect();
        if spellings.len() > 1 {
            entries.sort_by(|one, other| one.instance.id.cmp(&other.instance.id));
        }
        let tags: Vec<&str> = query.all("tag").filter(|tag| !tag.is_empty()).collect();
        let has = |instance: &Instance, tag: &&str| instance.tags.iter().any(|own| own.eq_ignore_ascii_case(tag));
        let mut known: Option<AgentNode> = None;
        let found = consul.iter().chain(entries).filter(|entry| tags.iter().all(|tag| has(&entry.instance, tag)));
        let found = found.map(|entry| (Arc::clone(entry), self.node_of(&entry.instance, &mut known)));
        found.filter(|(_, node)| self.has_metadata(node, query)).unzip()
    }

    /// Returns the node of an instance. `known` is the node of the previous instance, which usually is the same.
    fn node_of(&self, instance: &Instance, known: &mut Option<AgentNode>) -> AgentNode {
        let name = instance.consul_registration.as_ref().map_or("", |registration| &*registration.node);
        let node = match known.take() {
            Some(node) if same_node(&node.name, name) => node,
            _ => AgentNode::of(self.registry(), instance),
        };
        *known = Some(node.clone());
        node
    }

    /// Returns whether a node has the metadata that a query asks for.
    pub(super) fn has_metadata(&self, node: &AgentNode, query: &Query) -> bool {
        let mut required = query.all("node-meta").peekable();
        if required.peek().is_none() {
            return true;
        }
        let meta = node.view(&self.agent, self.registry()).meta.unwrap_or_default();
        required.all(|pair| {
            let (key, value) = pair.split_once(':').unwrap_or((pair, ""));
            meta.get(key).is_some_and(|known| *known == value)
        })
    }

    /// Returns all instances by service and id, each with its node.
    pub(super) fn all_instances(&self) -> Vec<(Arc<Entry>, AgentNode)> {
        let (registry, mut known, mut all) = (self.registry(), None, Vec::new());
        for summary in registry.each_service() {
            let chunks = registry.chunks(&summary.name);
            let entries = chunks.iter().flat_map(|chunk| chunk.entries());
            all.extend(entries.map(|entry| (Arc::clone(entry), self.node_of(&entry.instance, &mut known))));
        }
        all
    }

    /// Returns the response with a JSON body, compressed if the client accepts that.
    pub(super) fn compressible(request: &ConsulRequest, body: Bytes) -> ConsulResponse {
        let view = EncodedView::from(body);
        if request.query.gzip { view.compressed() } else { view }.into()
    }
}
