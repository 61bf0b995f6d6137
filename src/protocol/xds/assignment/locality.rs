//! Names and weights of localities.
//!
//! gRPC's round robin ignores the weights of endpoints, but every client heeds those of localities. So endpoints with different weights
//! are in different localities, whose names tell the weight or the instance. The weight of a locality is the sum of those of its routable
//! endpoints.

use std::{collections::HashMap, sync::Arc};

use super::{EffectiveWeight, XdsEndpoint};
use crate::{
    balancing::ZoneName,
    model::{Instance, Locality},
};

/// Hundredths in a unit of a configured weight.
const HUNDREDTHS: u64 = 100;
/// Upper bounds of the classes of effective weights but the first, in ten-thousandths of the configured weight: 2 / 1.6, and each of the
/// others a 1.6th of the one before. An unchanged weight is in the middle of the second class.
const CLASS_BOUNDS: [u64; 7] = [12_500, 7_813, 4_883, 3_052, 1_907, 1_192, 745];

/// Instances of a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocol::xds) enum TierKind {
    /// Instances that the calls are for.
    First,
    /// Instances of the service that are not in the subset.
    Rest,
    /// Instances of another service.
    Fallback,
}

/// Endpoints that share a locality, besides being in the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LocalityNaming {
    /// Endpoints with the same configured weight.
    Weight,
    /// None: each has its own, so that a change of its weight moves no endpoint to another locality.
    Instance,
    /// Endpoints with the same configured weight and about the same effective weight.
    WeightClass,
    /// All in the zone: the weights are those of the endpoints.
    Zone,
}

/// Numbers of a locality from which its priority and its weight follow.
#[derive(Debug, Clone, Default)]
pub(in crate::protocol::xds) struct LocalitySummary {
    pub(in crate::protocol::xds) zone: Arc<ZoneName>,
    /// Sum of the weights of routable endpoints.
    pub(in crate::protocol::xds) routable: u64,
    /// Sum of the weights of all endpoints.
    pub(in crate::protocol::xds) total: u64,
    /// Sum of the configured weights of routable endpoints.
    pub(super) routable_configured: u64,
    /// Sum of the configured weights of all endpoints.
    pub(super) total_configured: u64,
    /// Number of endpoints.
    pub(super) endpoints: usize,
    /// Number of routable endpoints.
    pub(in crate::protocol::xds) routable_endpoints: usize,
}

impl LocalitySummary {
    /// Weight of the locality among those of the same priority. gRPC ignores a locality of weight 0, so it is never that.
    pub(super) fn capacity(&self) -> u64 {
        if self.routable > 0 { self.routable } else { self.total }
    }

    fn add(&mut self, instance: &Instance, weight: u64) {
        let configured = u64::from(instance.effective_weight().get());
        self.endpoints += 1;
        self.total += weight;
        self.total_configured += configured;
        if instance.status().is_routable() {
            self.routable += weight;
            self.routable_configured += configured;
            self.routable_endpoints += 1;
        }
    }
}

/// Locality of an assignment.
#[derive(Debug)]
pub(in crate::protocol::xds) struct AssignedLocality<'a> {
    pub(in crate::protocol::xds) sub_zone: String,
    pub(in crate::protocol::xds) summary: LocalitySummary,
    /// Endpoints with their weights, in the order of the instances.
    pub(in crate::protocol::xds) endpoints: Vec<(XdsEndpoint<'a>, u64)>,
}

/// Part of the key of a locality that depends on the naming.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum LocalityClass {
    Weight(u16),
    Instance(u32),
    WeightClass(u16, usize),
    Zone,
}

/// Locality of endpoints. The order is that in which localities are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct LocalityKey<'a> {
    region: &'a str,
    zone: &'a str,
    sub_zone: &'a str,
    class: LocalityClass,
}

impl<'a> LocalityKey<'a> {
    fn new(instance: &'a Instance, naming: LocalityNaming, effective: u64) -> Self {
        let (region, zone, sub_zone) = match instance.locality.as_deref() {
            Some(Locality { region, zone, sub_zone }) => (&**region, &**zone, &**sub_zone),
            None => ("", "", ""),
        };
        let weight = instance.effective_weight().get();
        let (sub_zone, class) = match naming {
            LocalityNaming::Weight => (sub_zone, LocalityClass::Weight(weight)),
            LocalityNaming::Instance => (sub_zone, LocalityClass::Instance(instance.id.short_hash())),
            LocalityNaming::WeightClass => {
                (sub_zone, LocalityClass::WeightClass(weight, weight_class(weight, effective)))
            }
            LocalityNaming::Zone => ("", LocalityClass::Zone),
        };
        Self { region, zone, sub_zone, class }
    }

    /// Sub-zone as it is sent. A weight of 1 is not in it, unless the sub-zone looks as if it ended with a suffix of ours.
    fn sent_sub_zone(&self) -> String {
        let ends_with_suffix = || {
            let suffix = self.sub_zone.rsplit_once('~').map_or("", |(_, suffix)| suffix);
            let digits = suffix.strip_prefix('w').unwrap_or_default();
            suffix.starts_with('@') || !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        let sub_zone = self.sub_zone;
        match self.class {
            LocalityClass::Weight(1) if !ends_with_suffix() => sub_zone.to_owned(),
            LocalityClass::Weight(weight) => format!("{sub_zone}~w{weight}"),
            LocalityClass::Instance(hash) => format!("{sub_zone}~{hash:08x}"),
            LocalityClass::WeightClass(weight, class) => format!("{sub_zone}~w{weight}~c{class}"),
            LocalityClass::Zone => String::new(),
        }
    }
}

/// Groups the endpoints of a tier into localities.
pub(super) fn group<'a>(
    kind: TierKind,
    naming: LocalityNaming,
    endpoints: Vec<XdsEndpoint<'a>>,
    weights: Option<&EffectiveWeight<'_>>,
) -> Vec<AssignedLocality<'a>> {
    let mut found: HashMap<LocalityKey<'a>, AssignedLocality<'a>> = HashMap::new();
    let mut zones: HashMap<(&str, &str), Arc<ZoneName>> = HashMap::new();
    for endpoint in endpoints {
        let instance = endpoint.instance;
        let configured = u64::from(instance.effective_weight().get());
        let effective = weights.map_or(configured * HUNDREDTHS, |weights| weights(instance).into());
        // Localities by configured weight keep it as their unit: endpoints in one share the calls evenly.
        let weight = match naming {
            LocalityNaming::Weight => configured,
            LocalityNaming::Zone if weights.is_none() => configured,
            LocalityNaming::Instance | LocalityNaming::WeightClass | LocalityNaming::Zone => effective.max(1),
        };
        let key = LocalityKey::new(instance, naming, effective);
        let locality = found.entry(key).or_insert_with(|| {
            let zone = zones.entry((key.region, key.zone));
            let zone = Arc::clone(zone.or_insert_with(|| Arc::new(ZoneName::new(key.region, key.zone))));
            let summary = LocalitySummary { zone, ..LocalitySummary::default() };
            let sub_zone = key.sent_sub_zone() + &tier_suffix(kind, instance);
            AssignedLocality { sub_zone, summary, endpoints: Vec::new() }
        });
        locality.summary.add(instance, weight);
        locality.endpoints.push((endpoint, weight));
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_unstable_by_key(|(key, _)| *key);
    found.into_iter().map(|(_, locality)| locality).collect()
}

/// Returns the end of the sub-zones of a tier. A client confuses localities with the same name, even if their priorities differ.
fn tier_suffix(kind: TierKind, instance: &Instance) -> String {
    match kind {
        TierKind::First => String::new(),
        TierKind::Rest => "~@".to_owned(),
        TierKind::Fallback => format!("~@{}", instance.service),
    }
}

/// Returns the class of an effective weight in hundredths, from the largest to the smallest.
fn weight_class(configured: u16, effective: u64) -> usize {
    let ratio = effective * (10_000 / HUNDREDTHS) / u64::from(configured.max(1));
    CLASS_BOUNDS.iter().filter(|bound| ratio <= **bound).count()
}

/// Returns the hash of the instance that has the locality with this sub-zone for itself. `None`: the locality is another one.
pub(in crate::protocol::xds) fn instance_hash(sub_zone: &str) -> Option<u32> {
    let own = sub_zone.strip_suffix("~@").unwrap_or(sub_zone);
    let (_, hash) = own.rsplit_once('~')?;
    let is_hash = hash.len() == 8 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    u32::from_str_radix(hash, 16).ok().filter(|_| is_hash)
}
