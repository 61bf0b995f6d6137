//! Preference for the client's zone.
//!
//! The clients of a zone call the instances of their zone, the local ones, as far as those have the capacity. The rest of the calls, the
//! *spill*, goes to zones with spare capacity: to those of the same region first. [`ZoneTargets`] computes the shares from the present
//! numbers; [`ZoneLayoutState`] decides when clients get new ones.
//!
//! | file | holds |
//! |---|---|
//! | `demand` | requests that the clients of the zones report |
//! | `layout` | shares as clients get them, and when they change |
//! | `service` | layouts of all zones' clients of one service |

mod demand;
mod layout;
mod service;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use crate::model::Locality;
pub use layout::{ZoneClass, ZoneLayout, ZoneLayoutPhase, ZoneLayoutState};
pub use service::{ClusterQuery, ReportedZone, ReportingClient, ServiceZones, ZoneInstances, ZoneReport};

/// Minimum number of routable instances in a zone whose clients prefer it.
const MIN_LOCAL_INSTANCES: usize = 2;
/// Minimum number of streams from which the distribution of clients over zones is known.
const MIN_KNOWN_STREAMS: u64 = 10;
/// Maximum number of zones between which calls are balanced by zone.
const MAX_ZONES: usize = 256;
/// Factor by which the load of the local instances may rise because others in the zone are not routable: that of Envoy.
const OVERPROVISIONING: f64 = 1.4;
/// Shares below this are rounding errors.
const NEGLIGIBLE: f64 = 1e-9;

/// Name of a zone. Zones with the same name in different regions are different zones.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneName {
    /// Region.
    pub region: Box<str>,
    /// Zone in the region.
    pub zone: Box<str>,
}

impl ZoneName {
    /// Returns the zone with this name.
    #[must_use]
    pub fn new(region: &str, zone: &str) -> Self {
        Self { region: region.into(), zone: zone.into() }
    }

    /// Returns the zone of a locality. Instances without a locality have a zone without a name.
    #[must_use]
    pub fn of(locality: Option<&Locality>) -> Self {
        locality.map_or_else(Self::default, |locality| Self::new(&locality.region, &locality.zone))
    }

    /// Returns whether the zone has a name: a client or an instance without a locality is in none that has.
    #[must_use]
    pub fn is_named(&self) -> bool {
        !self.region.is_empty() || !self.zone.is_empty()
    }
}

/// Numbers of a zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZoneSummary {
    /// Sum of the weights of its routable instances.
    pub routable_weight: u64,
    /// Sum of the weights of its registered instances.
    pub registered_weight: u64,
    /// Number of its routable instances.
    pub routable_instances: usize,
    /// Number of streams of its clients.
    pub streams: u64,
    /// Number of these streams whose clients report their load.
    pub reporting_streams: u64,
    /// Average number of requests that its clients start in 1,000 seconds. `None`: the reports do not cover the clients of all zones.
    pub request_rate: Option<u64>,
}

impl ZoneSummary {
    /// Number by which the zone takes part in the demand.
    fn demand(&self, source: DemandSource) -> u64 {
        match source {
            DemandSource::Unknown => 0,
            DemandSource::Streams => self.streams,
            DemandSource::Requests => self.request_rate.unwrap_or_default(),
        }
    }
}

/// Numbers from which the distribution of the demand over zones is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DemandSource {
    /// None: fewer than 10 streams are open.
    #[default]
    Unknown,
    /// Numbers of the streams of clients.
    Streams,
    /// Numbers of the requests that clients report.
    Requests,
}

/// Share of the calls that local instances get, and the terms whose minimum it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LocalShare {
    /// Part of the whole capacity that the zone has, divided by the part of the demand that its clients have. `None`: the demand is not
    /// known, or they have none.
    pub capacity_per_demand: Option<f64>,
    /// Part of the registered weight of the zone that is routable, times 1.4.
    pub overprovisioned: f64,
    /// Minimum of 1 and both.
    pub share: f64,
}

/// Terms of the share that the local instances of a zone get.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ZoneTerms {
    /// Part of the capacity of all zones.
    pub capacity: f64,
    /// Part of the demand of the clients that prefer their zones. `None`: it is not known, or the clients of the zone have no preference.
    pub demand: Option<f64>,
    /// Share of the local instances. `None`: the clients of the zone have no preference.
    pub local: Option<LocalShare>,
}

/// Reason for which the clients of a zone call all zones in proportion to their capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPreferenceReason {
    /// The client has not said where it is.
    ClientWithoutZone,
    /// All instances are in one zone.
    OneZone,
    /// The zone has fewer than two routable instances.
    FewLocalInstances,
    /// The instances are in more than 256 zones.
    TooManyZones,
}

/// Shares of the calls of one zone's clients.
#[derive(Debug, Clone, PartialEq)]
pub struct ZonePreference {
    /// Share of the local instances.
    pub local: LocalShare,
    /// Share of each zone that gets calls, the local one included. Their sum is 1.
    pub shares: BTreeMap<ZoneName, f64>,
}

/// Zone between others.
#[derive(Debug)]
struct BalancedZone<'a> {
    name: &'a ZoneName,
    capacity: &'a ZoneSummary,
    /// Part of the capacity of all zones.
    part: f64,
    /// Part of the demand of the clients that prefer their zones.
    demand: f64,
    /// `None`: its clients have no preference.
    local: Option<LocalShare>,
    /// Part of the capacity that its own clients leave. 0 where the distribution of the demand is not known.
    spare: f64,
}

impl BalancedZone<'_> {
    /// Part of all calls that the clients of the zone send to other zones.
    fn spill(&self) -> f64 {
        self.local.map_or(0.0, |local| self.demand * (1.0 - local.share))
    }
}

/// Zones of a service or a subset, with the shares that their clients should get.
#[derive(Debug)]
pub struct ZoneTargets<'a> {
    /// Zones with instances.
    zones: Vec<BalancedZone<'a>>,
    source: DemandSource,
}

impl<'a> ZoneTargets<'a> {
    /// Computes the local shares of all zones. Zones without instances have clients only, which have no preference.
    #[must_use]
    pub fn new(zones: &'a BTreeMap<Arc<ZoneName>, ZoneSummary>) -> Self {
        let zones = zones.iter().filter(|(_, capacity)| capacity.registered_weight > 0);
        let mut zones: Vec<_> = zones
            .map(|(name, capacity)| BalancedZone { name, capacity, part: 0.0, demand: 0.0, local: None, spare: 0.0 })
            .collect();
        let has_preference =
            |zone: &BalancedZone<'_>| zone.name.is_named() && zone.capacity.routable_instances >= MIN_LOCAL_INSTANCES;
        // Clients without a preference load all zones in proportion to their capacity, which leaves the relation of the others as it is.
        let source = demand_source(zones.iter().filter(|zone| has_preference(zone)).map(|zone| zone.capacity));
        let preferring = zones.iter().filter(|zone| has_preference(zone));
        let demand: u64 = preferring.map(|zone| zone.capacity.demand(source)).sum();
        let routable: u64 = zones.iter().map(|zone| zone.capacity.routable_weight).sum();
        let is_demand_known = source != DemandSource::Unknown;
        let can_prefer = (2..=MAX_ZONES).contains(&zones.len());
        for zone in &mut zones {
            zone.part = ratio(zone.capacity.routable_weight, routable);
            if can_prefer && has_preference(zone) {
                zone.demand = ratio(zone.capacity.demand(source), demand);
                zone.local = Some(local_share(zone, is_demand_known));
            }
            if is_demand_known {
                let used = zone.local.map_or(0.0, |local| zone.demand * local.share);
                zone.spare = (zone.part - used).max(0.0);
            }
        }
        Self { zones, source }
    }

    /// Numbers from which the distribution of the demand is known.
    #[must_use]
    pub fn source(&self) -> DemandSource {
        self.source
    }

    /// Returns the shares for the clients of a zone.
    ///
    /// # Errors
    ///
    /// When they call all zones in proportion to their capacity.
    pub fn of(&self, client: &ZoneName) -> Result<ZonePreference, NoPreferenceReason> {
        if !client.is_named() {
            return Err(NoPreferenceReason::ClientWithoutZone);
        }
        if self.zones.len() < 2 {
            return Err(NoPreferenceReason::OneZone);
        }
        if self.zones.len() > MAX_ZONES {
            return Err(NoPreferenceReason::TooManyZones);
        }
        let zone = self.zones.iter().find(|zone| zone.name == client);
        let (zone, local) =
            zone.and_then(|zone| Some((zone, zone.local?))).ok_or(NoPreferenceReason::FewLocalInstances)?;
        let mut shares = self.spill_shares(zone, 1.0 - local.share);
        // The local instances get all calls if there are no others.
        let spilled: f64 = shares.values().sum();
        shares.insert(client.clone(), 1.0 - spilled);
        Ok(ZonePreference { local, shares })
    }

    /// Returns the terms of a zone. `None`: it has no instances.
    #[must_use]
    pub fn terms(&self, zone: &ZoneName) -> Option<ZoneTerms> {
        let zone = self.zones.iter().find(|known| known.name == zone)?;
        let is_known = zone.local.is_some() && self.source != DemandSource::Unknown;
        Some(ZoneTerms { capacity: zone.part, demand: is_known.then_some(zone.demand), local: zone.local })
    }

    /// Distributes the calls that the clients of a zone send to other zones: in the same region as far as its zones have spare capacity,
    /// then in other regions as far as theirs have, and what is left by capacity.
    fn spill_shares(&self, client: &BalancedZone<'_>, spill: f64) -> BTreeMap<ZoneName, f64> {
        let mut shares = BTreeMap::new();
        if spill <= NEGLIGIBLE {
            return shares;
        }
        let others = self.zones.iter().filter(|zone| zone.name != client.name && zone.capacity.routable_weight > 0);
        let (near, far): (Vec<_>, Vec<_>) = others.partition(|zone| zone.name.region == client.name.region);
        let near: Vec<_> = near.into_iter().map(|zone| (zone, zone.spare)).collect();
        // The clients of other regions come first there.
        let far: Vec<_> =
            far.into_iter().map(|zone| (zone, zone.spare * self.unused_spare(&zone.name.region))).collect();
        let sum = |zones: &[(&BalancedZone<'_>, f64)]| zones.iter().map(|(_, spare)| spare).sum::<f64>();
        let (near_spare, far_spare) = (sum(&near), sum(&far));
        let region_spill: f64 = self.region(&client.name.region).map(BalancedZone::spill).sum();
        let to_near = match near_spare {
            near_spare if near_spare <= NEGLIGIBLE => 0.0,
            near_spare if region_spill <= near_spare => spill,
            near_spare => spill * near_spare / region_spill,
        };
        let to_far = if far_spare > NEGLIGIBLE { spill - to_near } else { 0.0 };
        add_shares(&mut shares, &near, to_near, near_spare);
        add_shares(&mut shares, &far, to_far, far_spare);
        let rest = spill - to_near - to_far;
        if rest > NEGLIGIBLE {
            let zones = if near.is_empty() { far } else { near };
            let by_capacity: Vec<_> = zones.into_iter().map(|(zone, _)| (zone, zone.part)).collect();
            add_shares(&mut shares, &by_capacity, rest, sum(&by_capacity));
        }
        shares
    }

    /// Zones with routable instances, by name.
    pub(super) fn routable_zones(&self) -> impl Iterator<Item = &'a ZoneName> {
        self.zones.iter().filter(|zone| zone.capacity.routable_weight > 0).map(|zone| zone.name)
    }

    fn region<'b>(&'b self, region: &'b str) -> impl Iterator<Item = &'b BalancedZone<'a>> {
        self.zones.iter().filter(move |zone| &*zone.name.region == region)
    }

    /// Part of the spare capacity of a region that its own clients leave.
    fn unused_spare(&self, region: &str) -> f64 {
        let spill: f64 = self.region(region).map(BalancedZone::spill).sum();
        let spare: f64 = self.region(region).map(|zone| zone.spare).sum();
        if spare <= NEGLIGIBLE { 0.0 } else { (1.0 - spill / spare).max(0.0) }
    }
}

/// Returns the best numbers of the demand that all zones have. Without any requests they say nothing.
fn demand_source<'a>(zones: impl Iterator<Item = &'a ZoneSummary> + Clone) -> DemandSource {
    let requests: Option<u64> = zones.clone().map(|zone| zone.request_rate).sum();
    if requests.is_some_and(|requests| requests > 0) {
        DemandSource::Requests
    } else if zones.map(|zone| zone.streams).sum::<u64>() >= MIN_KNOWN_STREAMS {
        DemandSource::Streams
    } else {
        DemandSource::Unknown
    }
}

/// Adds calls to zones in proportion to these numbers.
fn add_shares(shares: &mut BTreeMap<ZoneName, f64>, zones: &[(&BalancedZone<'_>, f64)], calls: f64, sum: f64) {
    for (zone, part) in zones {
        let share = if sum > 0.0 { calls * part / sum } else { 0.0 };
        if share > NEGLIGIBLE {
            *shares.entry(zone.name.clone()).or_default() += share;
        }
    }
}

fn local_share(zone: &BalancedZone<'_>, is_demand_known: bool) -> LocalShare {
    let capacity_per_demand = (is_demand_known && zone.demand > 0.0).then(|| zone.part / zone.demand);
    let overprovisioned = OVERPROVISIONING * ratio(zone.capacity.routable_weight, zone.capacity.registered_weight);
    let share = capacity_per_demand.unwrap_or(1.0).min(overprovisioned).min(1.0);
    LocalShare { capacity_per_demand, overprovisioned, share }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio needs no more than 53 bits")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
