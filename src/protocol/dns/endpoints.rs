//! Endpoints of a service: its routable instances in the form that DNS records need.
//!
//! The endpoints of a service are a view of the registry, with all tags: the instances of a service of 10,000 are visited once after
//! each of its changes, not for each question, and a question for an unknown tag visits none. Services whose names differ only in case
//! are one service here, as they have one name in DNS.

use std::{
    cell::LazyCell,
    collections::HashMap,
    convert::Infallible,
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, OnceLock},
};

use hickory_proto::rr::Name;

use super::{
    node::DnsNode,
    question::{Question, Reading},
    record::{EncodedData, RecordData},
    target::EndpointTarget,
    zone::Zone,
};
use crate::{
    app::{EffectiveWeights, View, ViewKey, ViewValue, ViewVersion, Views},
    balancing::{ServiceWeights, WeightFactor},
    model::{Instance, Revision, ServiceName, node_service},
    registry::{NameSuffixes, Registry},
};

/// Bytes of a suffix of a tag in a set of suffixes.
const SUFFIX_BYTES: usize = 32;

/// Endpoint: the content of an SRV record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct DnsEndpoint {
    /// Index of its target among those of the service.
    target: usize,
    port: u16,
    /// Weight in the unit of the service, which [`ServiceEndpoints::srv_weight`] converts.
    weight: u32,
}

/// Endpoints of a service, or those of its instances with a tag. Each list is sorted and without duplicates.
#[derive(Debug, Default)]
pub(super) struct EndpointChoice {
    /// Indexes of the endpoints.
    pub(super) all: Vec<usize>,
    /// IPv4 addresses of the endpoints.
    pub(super) v4: Vec<Ipv4Addr>,
    /// IPv6 addresses of the endpoints.
    pub(super) v6: Vec<Ipv6Addr>,
    /// Host names of endpoints without addresses.
    pub(super) hosts: Vec<Name>,
    /// Lower bound of the size of the endpoints' SRV records, in bytes.
    pub(super) srv_bytes: usize,
}

impl EndpointChoice {
    fn add(&mut self, at: usize, target: &EndpointTarget, zone: &Zone) {
        let bytes = target.min_srv_bytes(zone);
        self.srv_bytes = if self.all.is_empty() { bytes } else { self.srv_bytes.min(bytes) };
        self.all.push(at);
        match target {
            EndpointTarget::Address(address) | EndpointTarget::Node(_, address) => match address {
                IpAddr::V4(address) => self.v4.push(*address),
                IpAddr::V6(address) => self.v6.push(*address),
            },
            EndpointTarget::Host(name) => self.hosts.push(name.clone()),
        }
    }

    fn sort(&mut self) {
        self.all.sort_unstable();
        self.all.dedup();
        self.v4.sort_unstable();
        self.v4.dedup();
        self.v6.sort_unstable();
        self.v6.dedup();
        self.hosts.sort_unstable();
        self.hosts.dedup();
    }

    fn bytes(&self) -> usize {
        let names: usize = self.hosts.iter().map(Name::len).sum();
        let Self { all, v4, v6, hosts, .. } = self;
        mem::size_of_val(&**all)
            + mem::size_of_val(&**v4)
            + mem::size_of_val(&**v6)
            + mem::size_of_val(&**hosts)
            + names
    }
}

/// SRV record of an endpoint.
#[derive(Debug)]
pub(super) struct SrvTarget<'a> {
    pub(super) data: RecordData,
    /// Index of its target among those of the service. Several records may have the same target.
    pub(super) target_index: usize,
    pub(super) target: &'a EndpointTarget,
}

/// Endpoints of all routable instances of a service.
#[derive(Debug, Default)]
pub(super) struct ServiceEndpoints {
    targets: Vec<EndpointTarget>,
    endpoints: Vec<DnsEndpoint>,
    /// SRV record of each endpoint, encoded when it is first needed. `None`: the target has no valid name.
    records: Vec<OnceLock<Option<Arc<EncodedData>>>>,
    all: EndpointChoice,
    /// Endpoints by tag, in lower case.
    tagged: HashMap<String, EndpointChoice>,
    /// Proper suffixes of the tags with dots.
    tag_suffixes: NameSuffixes,
    /// Largest weight of an endpoint.
    max_weight: u32,
    /// Set if an instance has the address of its node in place of its own host, so that a change of the node changes the endpoints
    /// but not the revision of the service.
    depends_on_nodes: bool,
}

impl ViewValue for ServiceEndpoints {
    fn bytes(&self) -> usize {
        // Counts all records as encoded, because the view is not weighed again when they are encoded.
        let name = |target: &EndpointTarget| match target {
            EndpointTarget::Address(_) => 0,
            EndpointTarget::Node(name, _) | EndpointTarget::Host(name) => name.len(),
        };
        let targets: usize = self.targets.iter().map(|target| mem::size_of::<EndpointTarget>() + name(target)).sum();
        let record = mem::size_of::<OnceLock<Option<Arc<EncodedData>>>>() + EncodedData::BYTES;
        let endpoints = self.endpoints.len() * (mem::size_of::<DnsEndpoint>() + record);
        let tag = |(tag, choice): (&String, &EndpointChoice)| {
            let suffixes = tag.matches('.').count() * SUFFIX_BYTES;
            2 * mem::size_of::<(String, EndpointChoice)>() + tag.len() + suffixes + choice.bytes()
        };
        let tagged: usize = self.tagged.iter().map(tag).sum();
        mem::size_of::<Self>() + targets + endpoints + self.all.bytes() + tagged
    }
}

impl ServiceEndpoints {
    /// Returns the endpoints with a tag, or all. `None`: there are none.
    pub(super) fn choice(&self, tag: Option<&str>) -> Option<&EndpointChoice> {
        tag.map_or(Some(&self.all), |tag| self.tagged.get(tag)).filter(|choice| !choice.all.is_empty())
    }

    /// Returns whether one of the tags has this proper suffix.
    pub(super) fn is_tag_suffix(&self, suffix: &str) -> bool {
        self.tag_suffixes.contains(suffix)
    }

    /// Returns the SRV record of the endpoint at an index.
    pub(super) fn record(&self, index: usize, zone: &Zone) -> Option<SrvTarget<'_>> {
        let DnsEndpoint { target: target_index, port, weight } = *self.endpoints.get(index)?;
        let target = self.targets.get(target_index)?;
        let record = self.records.get(index)?.get_or_init(|| {
            let name = target.name(zone)?;
            EncodedData::new(Zone::srv(self.srv_weight(weight), port, name)).map(Arc::new)
        });
        Some(SrvTarget { data: RecordData::Encoded(Arc::clone(record.as_ref()?)), target_index, target })
    }

    /// Returns a weight as SRV records have it: in 16 bits, in proportion to the weights of the other endpoints, and not 0, which clients
    /// would call least often of all.
    fn srv_weight(&self, weight: u32) -> u16 {
        let limit = u32::from(u16::MAX);
        let scaled = u64::from(weight) * u64::from(limit) / u64::from(self.max_weight.max(limit));
        u16::try_from(scaled).unwrap_or(u16::MAX).max(1)
    }

    /// Returns whether several records may have the same target.
    pub(super) fn shares_targets(&self) -> bool {
        self.targets.len() < self.endpoints.len()
    }
}

/// Collector of the endpoints of a service.
struct EndpointCollector<'a> {
    registry: &'a Registry,
    zone: &'a Zone,
    /// Name of the service, in lower case.
    service: &'a str,
    nodes: HashMap<Box<str>, Option<(Name, IpAddr)>>,
    targets: HashMap<EndpointTarget, usize>,
    indexes: HashMap<DnsEndpoint, usize>,
    /// Set if the weights are in hundredths of the unit of configured weights, because some differ from those.
    in_hundredths: bool,
    found: ServiceEndpoints,
}

impl<'a> EndpointCollector<'a> {
    fn new(registry: &'a Registry, zone: &'a Zone, service: &'a str, in_hundredths: bool) -> Self {
        let (nodes, targets, indexes) = Default::default();
        Self { registry, zone, service, nodes, targets, indexes, in_hundredths, found: ServiceEndpoints::default() }
    }

    fn add(&mut self, instance: &Instance, weights: Option<&ServiceWeights>) {
        let Some(host) = instance.addresses.first().and_then(|first| EndpointTarget::of(&first.host)) else { return };
        let node = self.node_of(instance);
        let own_address =
            instance.consul_registration.as_ref().is_none_or(|registration| !registration.address.is_empty());
        let target = match (&host, &node) {
            (EndpointTarget::Address(address), Some((name, at))) if !own_address && address == at => {
                EndpointTarget::Node(name.clone(), *at)
            }
            _ => host,
        };
        // A host that is a name of this service would be an alias of itself, so the address of the node is used
        // instead.
        let own_name = self.own_name(&target).zip(node.map(|(name, address)| EndpointTarget::Node(name, address)));
        self.found.depends_on_nodes |= own_name.is_some();
        let factor = weights.map_or(WeightFactor::ONE, |weights| weights.factor(instance));
        let weight = instance.effective_weight();
        let weight = if self.in_hundredths { factor.of(weight) } else { weight.get().into() };
        self.found.max_weight = self.found.max_weight.max(weight);
        let usual = self.index_of(instance, target, weight);
        let instead = own_name.map(|(own, target)| (own.tag, self.index_of(instance, target, weight)));
        let index = |tag: Option<&str>| match &instead {
            Some((own, index)) if own.as_deref() == tag => *index,
            Some(_) | None => usual,
        };
        let ServiceEndpoints { all, tagged, targets, endpoints, .. } = &mut self.found;
        let target = |index: usize| &targets[endpoints[index].target];
        all.add(index(None), target(index(None)), self.zone);
        for tag in instance.tags.iter() {
            let tag = tag.to_ascii_lowercase();
            let index = index(Some(&tag));
            tagged.entry(tag).or_default().add(index, target(index), self.zone);
        }
    }

    /// Returns the index of the endpoint of an instance, which is added if it is new.
    fn index_of(&mut self, instance: &Instance, target: EndpointTarget, weight: u32) -> usize {
        let target = *self.targets.entry(target).or_insert_with_key(|target| {
            self.found.targets.push(target.clone());
            self.found.targets.len() - 1
        });
        let port = instance.addresses.first().map_or(0, |first| first.port);
        let endpoint = DnsEndpoint { target, port, weight };
        *self.indexes.entry(endpoint).or_insert_with(|| {
            self.found.endpoints.push(endpoint);
            self.found.endpoints.len() - 1
        })
    }

    /// Returns name and address of the node that an instance is on.
    fn node_of(&mut self, instance: &Instance) -> Option<(Name, IpAddr)> {
        let registration = instance.consul_registration.as_ref()?;
        if let Some(known) = self.nodes.get(&registration.node) {
            return known.clone();
        }
        let node = DnsNode::of_instance(self.registry, &registration.node);
        let node = node.and_then(|node| Some((node.name(self.zone)?, node.address(self.zone)?)));
        self.nodes.insert(registration.node.clone(), node.clone());
        node
    }

    /// Returns this service and the tag, if the target is a name of this service.
    fn own_name(&self, target: &EndpointTarget) -> Option<Reading> {
        let EndpointTarget::Host(name) = target else { return None };
        let Question::Service(question) = Question::of(name, self.zone) else { return None };
        question.readings.into_iter().find(|reading| reading.service.eq_ignore_ascii_case(self.service))
    }

    fn finish(self) -> ServiceEndpoints {
        let mut found = self.found;
        found.records.resize_with(found.endpoints.len(), OnceLock::new);
        found.all.sort();
        found.tagged.values_mut().for_each(EndpointChoice::sort);
        found.tagged.keys().for_each(|tag| found.tag_suffixes.add(tag));
        found
    }
}

/// Returns the present endpoints of a service, in all spellings of its name. `None`: it has no instances.
pub(super) fn of_service(
    views: &Views,
    (registry, weights): (&Registry, &EffectiveWeights),
    zone: &Zone,
    service: &str,
) -> Option<Arc<ServiceEndpoints>> {
    let folded = service.to_ascii_lowercase();
    // Revisions are read first. Instances that are read after them may be newer; then they are collected once more.
    let revision = |name: &ServiceName| registry.summary(name).map(|summary| summary.revision);
    let mut services = registry.spellings_of(&folded);
    let mut newest = Revision::default();
    services.retain(|name| match revision(name) {
        Some(revision) => {
            newest = newest.max(revision);
            true
        }
        None => false,
    });
    if services.is_empty() {
        return None;
    }
    // One version is that of one service at one time, so that a sum stands for the versions of all spellings.
    let weights: Vec<_> = services.iter().map(|name| weights.of(name)).collect();
    let inputs = weights.iter().flatten().fold(0_u64, |sum, weights| sum.wrapping_add(weights.version()));
    // Read at most once, and before the cache takes its lock to remove an outdated view.
    let as_of_nodes = LazyCell::new(|| revision(&node_service()).unwrap_or_default());
    let is_current = |version: &ViewVersion| {
        version.revision == newest
            && version.services == services.len()
            && version.inputs == inputs
            && version.nodes.is_none_or(|revision| revision == *as_of_nodes)
    };
    let collect = || {
        // Before the instances, which may be newer.
        let as_of_nodes = *as_of_nodes;
        let in_hundredths = weights.iter().any(Option::is_some);
        let mut collector = EndpointCollector::new(registry, zone, &folded, in_hundredths);
        for (service, weights) in services.iter().zip(&weights) {
            let chunks = registry.chunks(service);
            let instances = chunks.iter().flat_map(|chunk| chunk.entries()).map(|entry| &entry.instance);
            let routable = instances.filter(|instance| instance.status().is_routable());
            routable.for_each(|instance| collector.add(instance, weights.as_deref()));
        }
        let endpoints = collector.finish();
        let nodes = endpoints.depends_on_nodes.then_some(as_of_nodes);
        Ok::<_, Infallible>((
            endpoints,
            ViewVersion { services: services.len(), nodes, inputs, ..ViewVersion::at(newest) },
        ))
    };
    let Ok((endpoints, _)) = views.get(ViewKey::new(View::DnsEndpoints, &folded, ""), is_current, collect);
    Some(endpoints)
}
