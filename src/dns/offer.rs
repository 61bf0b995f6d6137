//! Who of a service is to be called, as records need it.
//!
//! A service of 10,000 instances is walked once for each change of it, not for each question: what is found is kept with the
//! service's revision, all tags at once, so that questions for tags that nobody has cost nothing either.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, OnceLock},
};

use hickory_proto::rr::Name;
use parking_lot::Mutex;

use super::{
    record::{Data, Prepared},
    zone::{self, Zone},
};
use crate::{
    model::{Instance, Revision, ServiceName},
    registry::{Blocks, Registry},
};

/// Most services whose offers are kept.
const MOST_KEPT: usize = 1_024;

/// Where an instance is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// At an address.
    Address(IpAddr),
    /// At whatever address this name has.
    Host(Name),
}

impl Target {
    /// Of a host as it was registered. `None`: DNS cannot say it.
    pub(super) fn of(host: &str) -> Option<Self> {
        match host.parse::<IpAddr>() {
            Ok(address) => Some(Self::Address(address.to_canonical())),
            Err(_) => zone::name(host).map(Self::Host),
        }
    }
}

/// An instance to be called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Offer {
    pub(super) target: Target,
    pub(super) port: u16,
    pub(super) weight: u16,
}

/// Those to be called of a service, or of its instances with a tag. Nothing is there twice.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// All, by their places among the offers.
    pub(super) all: Vec<usize>,
    /// Their addresses.
    pub(super) v4: Vec<Ipv4Addr>,
    pub(super) v6: Vec<Ipv6Addr>,
    /// Names of hosts that stand for addresses.
    pub(super) hosts: Vec<Name>,
}

impl Choice {
    fn add(&mut self, at: usize, target: &Target) {
        self.all.push(at);
        match target {
            Target::Address(IpAddr::V4(address)) => self.v4.push(*address),
            Target::Address(IpAddr::V6(address)) => self.v6.push(*address),
            Target::Host(name) => self.hosts.push(name.clone()),
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

/// Those to be called of a service.
#[derive(Debug, Default)]
pub(super) struct Offers {
    each: Vec<Offer>,
    /// The SRV record of each, made when it is first wanted. `None`: DNS cannot say it.
    records: Vec<OnceLock<Option<Arc<Prepared>>>>,
    all: Choice,
    /// By tag, in lower case.
    tagged: HashMap<String, Choice>,
}

impl Offers {
    /// Of these instances.
    pub(super) fn of(blocks: &Blocks) -> Self {
        let mut found = Self::default();
        let mut places = HashMap::new();
        let entries = blocks.iter().flat_map(|block| block.entries());
        for instance in entries.map(|entry| &entry.instance).filter(|instance| instance.status().counts()) {
            let Some(offer) = offer(instance) else { continue };
            let at = *places.entry(offer).or_insert_with_key(|offer| {
                found.each.push(offer.clone());
                found.each.len() - 1
            });
            let target = &found.each[at].target;
            found.all.add(at, target);
            for tag in instance.tags.iter() {
                found.tagged.entry(tag.to_ascii_lowercase()).or_default().add(at, target);
            }
        }
        found.records.resize_with(found.each.len(), OnceLock::new);
        found.all.settle();
        found.tagged.values_mut().for_each(Choice::settle);
        found
    }

    /// Those with a tag, or all. `None`: there are none.
    pub(super) fn choice(&self, tag: Option<&str>) -> Option<&Choice> {
        tag.map_or(Some(&self.all), |tag| self.tagged.get(tag)).filter(|choice| !choice.all.is_empty())
    }

    /// The SRV record of the one at a place, and the address of its target if that is one by itself.
    pub(super) fn record(&self, at: usize, zone: &Zone) -> Option<(Data, Option<IpAddr>)> {
        let Offer { target, port, weight } = self.each.get(at)?;
        let (name, address) = match target {
            Target::Address(address) => (None, Some(*address)),
            Target::Host(name) => (Some(name), None),
        };
        let record = self.records.get(at)?.get_or_init(|| {
            let name = name.cloned().or_else(|| zone.literal(address?))?;
            Prepared::new(Zone::srv(*weight, *port, name)).map(Arc::new)
        });
        Some((Data::Prepared(Arc::clone(record.as_ref()?)), address))
    }
}

fn offer(instance: &Instance) -> Option<Offer> {
    let first = instance.addresses.first()?;
    Some(Offer { target: Target::of(&first.host)?, port: first.port, weight: instance.present_weight().get() })
}

/// Offers as of revisions of their services. The lock guards a map that is looked into and no more; offers are made without it.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<HashMap<ServiceName, (Revision, Arc<Offers>)>>);

impl Kept {
    /// The offers of a service as it is now.
    pub(super) fn offers(&self, registry: &Registry, service: &ServiceName) -> Arc<Offers> {
        // The revision first: what is read after it may be newer, and is then made once more.
        let Some(summary) = registry.summary(service) else {
            self.0.lock().remove(service);
            return Arc::default();
        };
        if let Some((revision, offers)) = self.0.lock().get(service)
            && *revision == summary.revision
        {
            return Arc::clone(offers);
        }
        let offers = Arc::new(Offers::of(&registry.blocks(service)));
        let mut kept = self.0.lock();
        if kept.len() >= MOST_KEPT && !kept.contains_key(service) {
            kept.clear();
        }
        kept.insert(service.clone(), (summary.revision, Arc::clone(&offers)));
        offers
    }
}
