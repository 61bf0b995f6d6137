//! Who of a service is to be called, as records need it.
//!
//! A service of 10,000 instances is walked once for each change of it, not for each question: what is found is kept with the
//! service's revision, all tags at once, so that questions for tags that nobody has cost nothing either. Services whose names
//! differ in nothing but case are one service here, as they have one name in DNS.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, OnceLock},
};

use hickory_proto::rr::Name;
use parking_lot::Mutex;

use super::{
    node::DnsNode,
    question::{Question, Reading},
    record::{EncodedData, RecordData},
    target::EndpointTarget,
    zone::Zone,
};
use crate::{
    model::{Instance, Revision, ServiceName, node_service},
    registry::{NameSuffixes, Registry},
};

/// Most services whose offers are kept.
const MOST_KEPT: usize = 1_024;

/// An instance to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct DnsEndpoint {
    /// The place of its target among those of the service.
    target: usize,
    port: u16,
    weight: u16,
}

/// Those to be called of a service, or of its instances with a tag. Nothing is there twice.
#[derive(Debug, Default)]
pub(super) struct EndpointChoice {
    /// All, by their places among the offers.
    pub(super) all: Vec<usize>,
    /// Their addresses.
    pub(super) v4: Vec<Ipv4Addr>,
    pub(super) v6: Vec<Ipv6Addr>,
    /// Names of hosts that stand for addresses.
    pub(super) hosts: Vec<Name>,
    /// Bytes of the shortest SRV record among theirs, or some less.
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

    fn settle(&mut self) {
        self.all.sort_unstable();
        self.all.dedup();
        self.v4.sort_unstable();
        self.v4.dedup();
        self.v6.sort_unstable();
        self.v6.dedup();
        self.hosts.sort_unstable();
        self.hosts.dedup();
    }
}

/// An SRV record.
#[derive(Debug)]
pub(super) struct SrvTarget<'a> {
    pub(super) data: RecordData,
    /// The place of its target among those of the service: several records may have one.
    pub(super) place: usize,
    pub(super) target: &'a EndpointTarget,
}

/// Those to be called of a service.
#[derive(Debug, Default)]
pub(super) struct ServiceEndpoints {
    targets: Vec<EndpointTarget>,
    each: Vec<DnsEndpoint>,
    /// The SRV record of each, made when it is first wanted. `None`: DNS cannot say it.
    records: Vec<OnceLock<Option<Arc<EncodedData>>>>,
    all: EndpointChoice,
    /// By tag, in lower case.
    tagged: HashMap<String, EndpointChoice>,
    /// Suffixes of the dotted ones among those tags.
    tag_suffixes: NameSuffixes,
    /// An instance is offered at the address of its node, although it names another host: a change of the node is not one of
    /// the instance then.
    depends_on_nodes: bool,
}

impl ServiceEndpoints {
    /// Those with a tag, or all. `None`: there are none.
    pub(super) fn choice(&self, tag: Option<&str>) -> Option<&EndpointChoice> {
        tag.map_or(Some(&self.all), |tag| self.tagged.get(tag)).filter(|choice| !choice.all.is_empty())
    }

    /// Returns whether one of the tags has this proper suffix.
    pub(super) fn is_tag_suffix(&self, suffix: &str) -> bool {
        self.tag_suffixes.contains(suffix)
    }

    /// The SRV record of the one at a place.
    pub(super) fn record(&self, at: usize, zone: &Zone) -> Option<SrvTarget<'_>> {
        let DnsEndpoint { target: place, port, weight } = *self.each.get(at)?;
        let target = self.targets.get(place)?;
        let record = self.records.get(at)?.get_or_init(|| {
            let name = target.name(zone)?;
            EncodedData::new(Zone::srv(weight, port, name)).map(Arc::new)
        });
        Some(SrvTarget { data: RecordData::Encoded(Arc::clone(record.as_ref()?)), place, target })
    }

    /// Returns whether several of its records may have the same target.
    pub(super) fn shares_targets(&self) -> bool {
        self.targets.len() < self.each.len()
    }
}

/// Offers that are being gathered.
struct EndpointCollector<'a> {
    registry: &'a Registry,
    zone: &'a Zone,
    /// The service, in lower case.
    service: &'a str,
    nodes: HashMap<Box<str>, Option<(Name, IpAddr)>>,
    targets: HashMap<EndpointTarget, usize>,
    offers: HashMap<DnsEndpoint, usize>,
    found: ServiceEndpoints,
}

impl<'a> EndpointCollector<'a> {
    fn new(registry: &'a Registry, zone: &'a Zone, service: &'a str) -> Self {
        let (nodes, targets, offers) = Default::default();
        Self { registry, zone, service, nodes, targets, offers, found: ServiceEndpoints::default() }
    }

    fn add(&mut self, instance: &Instance) {
        let Some(host) = instance.addresses.first().and_then(|first| EndpointTarget::of(&first.host)) else { return };
        let node = self.node_of(instance);
        let own_address = instance.consul_registration.as_ref().is_none_or(|listing| !listing.address.is_empty());
        let target = match (&host, &node) {
            (EndpointTarget::Address(address), Some((name, at))) if !own_address && address == at => {
                EndpointTarget::Node(name.clone(), *at)
            }
            _ => host,
        };
        // Where a name leads back to itself, the instance is offered at its node.
        let back = self.leads_to(&target).zip(node.map(|(name, address)| EndpointTarget::Node(name, address)));
        self.found.depends_on_nodes |= back.is_some();
        let usual = self.offer(instance, target);
        let instead = back.map(|(own, target)| (own.tag, self.offer(instance, target)));
        let at = |tag: Option<&str>| match &instead {
            Some((own, at)) if own.as_deref() == tag => *at,
            _ => usual,
        };
        let ServiceEndpoints { all, tagged, targets, each, .. } = &mut self.found;
        let target = |at: usize| &targets[each[at].target];
        all.add(at(None), target(at(None)), self.zone);
        for tag in instance.tags.iter() {
            let tag = tag.to_ascii_lowercase();
            let at = at(Some(&tag));
            tagged.entry(tag).or_default().add(at, target(at), self.zone);
        }
    }

    fn offer(&mut self, instance: &Instance, target: EndpointTarget) -> usize {
        let target = *self.targets.entry(target).or_insert_with_key(|target| {
            self.found.targets.push(target.clone());
            self.found.targets.len() - 1
        });
        let port = instance.addresses.first().map_or(0, |first| first.port);
        let offer = DnsEndpoint { target, port, weight: instance.effective_weight().get() };
        *self.offers.entry(offer).or_insert_with(|| {
            self.found.each.push(offer);
            self.found.each.len() - 1
        })
    }

    /// Name and address of the node that an instance is on.
    fn node_of(&mut self, instance: &Instance) -> Option<(Name, IpAddr)> {
        let listing = instance.consul_registration.as_ref()?;
        if let Some(known) = self.nodes.get(&listing.node) {
            return known.clone();
        }
        let node = DnsNode::of_instance(self.registry, &listing.node);
        let node = node.and_then(|node| Some((node.name(self.zone)?, node.address(self.zone)?)));
        self.nodes.insert(listing.node.clone(), node.clone());
        node
    }

    /// This very service, as a host names it. `None`: the host is something else.
    fn leads_to(&self, target: &EndpointTarget) -> Option<Reading> {
        let EndpointTarget::Host(name) = target else { return None };
        let Question::Service(asked) = Question::of(name, self.zone) else { return None };
        asked.readings.into_iter().find(|reading| reading.service.eq_ignore_ascii_case(self.service))
    }

    fn finish(self) -> ServiceEndpoints {
        let mut found = self.found;
        found.records.resize_with(found.each.len(), OnceLock::new);
        found.all.settle();
        found.tagged.values_mut().for_each(EndpointChoice::settle);
        found.tagged.keys().for_each(|tag| found.tag_suffixes.add(tag));
        found
    }
}

/// Offers, and the revisions as of which they are.
#[derive(Debug)]
struct EndpointsAtRevision {
    services: Vec<(ServiceName, Revision)>,
    /// That of the nodes, where it matters.
    nodes: Option<Revision>,
    offers: Arc<ServiceEndpoints>,
}

/// Offers as of revisions of their services, by names in lower case. The lock guards a map that is looked into and no more;
/// offers are made without it.
#[derive(Debug, Default)]
pub(super) struct EndpointCache(Mutex<HashMap<Box<str>, EndpointsAtRevision>>);

impl EndpointCache {
    /// The offers of a service as it is now, in all spellings of its name. `None`: there is none.
    pub(super) fn offers(&self, registry: &Registry, zone: &Zone, service: &str) -> Option<Arc<ServiceEndpoints>> {
        let folded = service.to_ascii_lowercase();
        // The revisions first: what is read after them may be newer, and is then made once more.
        let revision = |name: &ServiceName| registry.summary(name).map(|summary| summary.revision);
        let spellings = registry.spellings_of(&folded).into_iter();
        let services: Vec<_> = spellings.filter_map(|name| revision(&name).map(|revision| (name, revision))).collect();
        if services.is_empty() {
            return None;
        }
        let of_nodes = || revision(&node_service()).unwrap_or_default();
        if let Some(kept) = self.0.lock().get(&*folded)
            && kept.services == services
            && kept.nodes.is_none_or(|revision| revision == of_nodes())
        {
            return Some(Arc::clone(&kept.offers));
        }
        let as_of_nodes = of_nodes();
        let mut gathering = EndpointCollector::new(registry, zone, &folded);
        for (service, _) in &services {
            let blocks = registry.blocks(service);
            let instances = blocks.iter().flat_map(|block| block.entries()).map(|entry| &entry.instance);
            instances.filter(|instance| instance.status().is_routable()).for_each(|instance| gathering.add(instance));
        }
        let offers = Arc::new(gathering.finish());
        let nodes = offers.depends_on_nodes.then_some(as_of_nodes);
        let mut kept = self.0.lock();
        if kept.len() >= MOST_KEPT && !kept.contains_key(&*folded) {
            kept.clear();
        }
        kept.insert(folded.into(), EndpointsAtRevision { services, nodes, offers: Arc::clone(&offers) });
        Some(offers)
    }
}
