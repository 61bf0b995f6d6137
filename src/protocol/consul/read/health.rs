//! `/v1/health/…`: who works.

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
    pub(super) async fn health_service(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        if call.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing service name"));
        }
        let passing = call.query.switch("passing")?;
        let wanted = ConsulFilter::parse(call.query.get("filter"), &ENTRIES)?;
        self.of_service(call, View::ConsulHealthService, |spellings| {
            let (entries, hosts) = self.found(&call.subject, spellings, &call.query);
            let shown = entries.iter().zip(&hosts).map(|(entry, host)| self.service_entry(&entry.instance, host));
            let shown: Vec<_> = shown.filter(|entry| (!passing || entry.passes()) && wanted.takes(entry)).collect();
            let nodes = hosts.iter().filter_map(|host| host.entry.as_ref());
            let volatile = entries.iter().chain(nodes).any(|entry| !entry.instance.checks.is_empty());
            Ok((encode(&shown, call.query.pretty)?, volatile))
        })
        .await
    }

    pub(super) async fn health_checks(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        if call.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing service name"));
        }
        let wanted = ConsulFilter::parse(call.query.get("filter"), &CHECKS)?;
        self.of_service(call, View::ConsulHealthChecks, |spellings| {
            let (entries, hosts) = self.found(&call.subject, spellings, &call.query);
            let shown = entries.iter().zip(&hosts).flat_map(|(entry, host)| {
                let node = host.view(&self.agent, self.registry()).node;
                checks_of(&entry.instance, &node, &self.checks)
            });
            let shown: Vec<_> = shown.filter(|check| wanted.takes(check)).collect();
            Ok((encode(&shown, call.query.pretty)?, true))
        })
        .await
    }

    pub(super) async fn health_state(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        if call.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing check state"));
        }
        let wanted = ConsulFilter::parse(call.query.get("filter"), &CHECKS)?;
        let registry = self.registry();
        let catalog = registry.consul_index();
        let by_meta = call.query.get("node-meta").is_some();
        let index = || {
            let checks = catalog.checks_changed();
            self.at_least(if by_meta { checks.max(catalog.nodes_changed()) } else { checks })
        };
        let index = self.wait(call, &QuerySubject::Everything, index).await?;
        let (hosts, entries) = (AgentNode::all(registry, &self.agent), self.everybody());
        let of_hosts =
            hosts.iter().filter(|host| self.has_meta(host, &call.query)).flat_map(|host| self.host_checks(host));
        let of_services =
            entries.iter().filter(|(_, host)| self.has_meta(host, &call.query)).flat_map(|(entry, host)| {
                let node = host.view(&self.agent, registry).node;
                checks_of(&entry.instance, &node, &self.checks)
            });
        let any = call.subject == "any";
        let shown =
            of_hosts.chain(of_services).filter(|check| (any || check.status == call.subject) && wanted.takes(check));
        let mut shown: Vec<_> = shown.collect();
        shown.sort_by_cached_key(HealthCheck::by_node);
        Ok(Self::packed(call, encode(&shown, call.query.pretty)?).with_index(&call.query, index, false))
    }

    pub(super) async fn health_node(&self, call: &ConsulRequest) -> Result<ConsulResponse, ConsulError> {
        if call.subject.is_empty() {
            return Err(ConsulError::BadRequest("Missing node name"));
        }
        let wanted = ConsulFilter::parse(call.query.get("filter"), &CHECKS)?;
        let registry = self.registry();
        let kept = self.agent.stored_name(&call.subject);
        let index = || self.at_least(registry.consul_index().node_checks_changed(kept));
        let index = self.wait(call, &QuerySubject::Node(kept.into()), index).await?;
        // Only here Consul compares names of nodes as they are written.
        let here = |host: &AgentNode| *self.agent.display_name(&host.name) == *call.subject;
        let host = AgentNode::find(registry, kept).filter(here);
        let entries: Vec<_> = self.everybody().into_iter().filter(|(_, on)| here(on)).collect();
        let of_host = host.iter().flat_map(|host| self.host_checks(host));
        let of_services = entries
            .iter()
            .flat_map(|(entry, host)| checks_of(&entry.instance, &host.view(&self.agent, registry).node, &self.checks));
        let mut shown: Vec<_> = of_host.chain(of_services).filter(|check| wanted.takes(check)).collect();
        shown.sort_by(|one, other| one.check_id.cmp(&other.check_id));
        Ok(Self::packed(call, encode(&shown, call.query.pretty)?).with_index(&call.query, index, false))
    }

    /// An instance with its node and all checks of both.
    fn service_entry<'a>(&'a self, instance: &'a Instance, host: &'a AgentNode) -> ServiceEntry<'a> {
        let node = host.view(&self.agent, self.registry());
        let mut checks = if instance.consul_registration.is_some() {
            self.host_checks(host)
        } else {
            // What somebody finds out about the node in Consul's words says nothing of who has a lease.
            vec![self.serf(host)]
        };
        checks.extend(checks_of(instance, &node.node, &self.checks));
        ServiceEntry { node, service: ServiceView::new(instance), checks }
    }

    /// The checks of a node, by id. Ours is alive, or would not answer.
    pub(super) fn host_checks<'a>(&'a self, host: &'a AgentNode) -> Vec<HealthCheck<'a>> {
        let mut checks = Vec::new();
        if let Some(entry) = &host.entry {
            let name = self.agent.display_name(&host.name);
            checks = checks_of_node(&entry.instance, &name, &self.checks);
        }
        if host.name.is_empty() {
            checks.push(self.serf(host));
        }
        checks.sort_by(|one, other| one.check_id.cmp(&other.check_id));
        checks
    }

    fn serf<'a>(&'a self, host: &'a AgentNode) -> HealthCheck<'a> {
        HealthCheck::serf(self.agent.display_name(&host.name), self.registry().start_revision().0.max(2) - 1)
    }

    /// Instances of a service in all its spellings that a query asks for, by id, each with its node.
    pub(super) fn found(
        &self,
        name: &str,
        spellings: &[ServiceName],
        query: &Query,
    ) -> (Vec<Arc<Entry>>, Vec<AgentNode>) {
        let itself = name.eq_ignore_ascii_case(CONSUL_SERVICE).then(|| Arc::clone(&self.itself));
        let blocks: Vec<_> = spellings.iter().map(|service| self.registry().chunks(service)).collect();
        let mut entries: Vec<_> =
            blocks.iter().flat_map(|blocks| blocks.iter()).flat_map(|block| block.entries()).collect();
        if spellings.len() > 1 {
            entries.sort_by(|one, other| one.instance.id.cmp(&other.instance.id));
        }
        let tags: Vec<&str> = query.all("tag").filter(|tag| !tag.is_empty()).collect();
        let has = |instance: &Instance, tag: &&str| instance.tags.iter().any(|own| own.eq_ignore_ascii_case(tag));
        let mut known: Option<AgentNode> = None;
        let found = itself.iter().chain(entries).filter(|entry| tags.iter().all(|tag| has(&entry.instance, tag)));
        let found = found.map(|entry| (Arc::clone(entry), self.host_of(&entry.instance, &mut known)));
        found.filter(|(_, host)| self.has_meta(host, query)).unzip()
    }

    /// The node of an instance. Mostly it is that of the one before.
    fn host_of(&self, instance: &Instance, known: &mut Option<AgentNode>) -> AgentNode {
        let name = instance.consul_registration.as_ref().map_or("", |listing| &*listing.node);
        let host = match known.take() {
            Some(host) if same_node(&host.name, name) => host,
            _ => AgentNode::of(self.registry(), instance),
        };
        *known = Some(host.clone());
        host
    }

    /// Whether a node has the metadata that a query asks for.
    pub(super) fn has_meta(&self, host: &AgentNode, query: &Query) -> bool {
        let mut asked = query.all("node-meta").peekable();
        if asked.peek().is_none() {
            return true;
        }
        let meta = host.view(&self.agent, self.registry()).meta.unwrap_or_default();
        asked.all(|pair| {
            let (key, value) = pair.split_once(':').unwrap_or((pair, ""));
            meta.get(key).is_some_and(|known| *known == value)
        })
    }

    /// Every instance with its node, by service and id.
    pub(super) fn everybody(&self) -> Vec<(Arc<Entry>, AgentNode)> {
        let (registry, mut known, mut all) = (self.registry(), None, Vec::new());
        for summary in registry.each_service() {
            let blocks = registry.chunks(&summary.name);
            let entries = blocks.iter().flat_map(|block| block.entries());
            all.extend(entries.map(|entry| (Arc::clone(entry), self.host_of(&entry.instance, &mut known))));
        }
        all
    }

    /// A long answer, packed if the client takes it.
    pub(super) fn packed(call: &ConsulRequest, body: Bytes) -> ConsulResponse {
        let view = EncodedView::from(body);
        if call.query.gzip { view.compressed() } else { view }.into()
    }
}
