//! Priorities and weights of localities for the clients of a zone.

use std::collections::{BTreeMap, HashMap};

use super::{EndpointLayout, locality::LocalitySummary};
use crate::balancing::{ZoneClass, ZoneLayout, ZoneName};

/// Factor of the shares of zones, so that the weights of many localities in a zone are exact enough.
const SHARE_SCALE: u64 = 1_000;

/// Returns the factor by which the weights of all localities are multiplied for clients that drop this percentage of calls. Envoy applies a
/// changed percentage only when its hosts change, and changed weights are such a change.
pub(super) fn shed_factor(shed: u8) -> u64 {
    if shed == 0 { 1 } else { 100 + u64::from(shed) }
}

/// Locality with the priority and the weight that it has for the clients of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::protocol::xds) struct PlannedLocality {
    /// Index of the tier.
    pub(in crate::protocol::xds) tier: usize,
    /// Index in the tier.
    pub(in crate::protocol::xds) locality: usize,
    pub(super) class: ZoneClass,
    /// Clients call the localities of a priority if no lower number has routable endpoints. There are no gaps.
    pub(in crate::protocol::xds) priority: u32,
    /// Weight of at least 1. The sum of the weights of a priority, multiplied by [`shed_factor`], fits 32 bits.
    pub(in crate::protocol::xds) weight: u64,
}

/// Gives each locality of the tiers a priority and a weight. `shed`: percentage of calls that clients drop.
pub(super) fn plan(
    tiers: &[Vec<&LocalitySummary>],
    zone: Option<&ZoneLayout>,
    layout: EndpointLayout,
    shed: u8,
) -> Vec<PlannedLocality> {
    let zone = zone.filter(|zone| !zone.is_by_capacity()).map(|zone| (zone, called_tier(tiers)));
    let mut groups: BTreeMap<(usize, ZoneClass), Vec<usize>> = BTreeMap::new();
    for (tier, localities) in tiers.iter().enumerate() {
        for (locality, summary) in localities.iter().enumerate() {
            groups.entry((tier, class(tier, summary, zone))).or_default().push(locality);
        }
    }
    if matches!(layout, EndpointLayout::FirstPriority | EndpointLayout::Flat) {
        let is_routable = |((tier, _), localities): &(&(usize, ZoneClass), &Vec<usize>)| {
            localities.iter().any(|locality| tiers[*tier][*locality].routable_endpoints > 0)
        };
        let best = groups.iter().find(is_routable).or(groups.iter().next()).map(|(key, _)| *key);
        groups.retain(|key, _| Some(*key) == best);
    }
    let max_sum = u64::from(u32::MAX) / shed_factor(shed);
    let mut planned = Vec::new();
    for (priority, ((tier, class), localities)) in (0..).zip(groups) {
        let summaries: Vec<_> = localities.iter().map(|locality| tiers[tier][*locality]).collect();
        // Within one zone the weights are the capacities.
        let has_shares = |(zone, called): &(&ZoneLayout, usize)| {
            tier == *called && class == ZoneClass::Preferred && zone.shares.len() > 1
        };
        let shares = zone.filter(has_shares).map(|(zone, _)| &zone.shares);
        let weights =
            shares.map_or_else(|| capacities(&summaries, max_sum), |shares| shared_weights(&summaries, shares));
        let localities = localities.into_iter().zip(weights);
        planned.extend(localities.map(|(locality, weight)| PlannedLocality {
            tier,
            locality,
            class,
            priority,
            weight,
        }));
    }
    planned
}

/// Returns the index of the tier that clients call: the first with routable endpoints.
pub(super) fn called_tier(tiers: &[Vec<&LocalitySummary>]) -> usize {
    let is_routable = |tier: &Vec<&LocalitySummary>| tier.iter().any(|summary| summary.routable_endpoints > 0);
    tiers.iter().position(is_routable).unwrap_or_default()
}

/// Returns the class of a locality. Zones share calls in the tier that clients call; in the others, calls stay in the client's region if
/// they can.
fn class(tier: usize, summary: &LocalitySummary, zone: Option<(&ZoneLayout, usize)>) -> ZoneClass {
    match zone {
        None => ZoneClass::Preferred,
        Some((zone, called)) if tier == called => zone.class(&summary.zone),
        Some((zone, _)) if zone.client.region == summary.zone.region => ZoneClass::SameRegion,
        Some(_) => ZoneClass::OtherRegion,
    }
}

/// Weights by capacity, whose sum is not above `max_sum`.
fn capacities(summaries: &[&LocalitySummary], max_sum: u64) -> Vec<u64> {
    let sum: u64 = summaries.iter().map(|summary| summary.capacity()).sum();
    // Rounding up adds less than one for each locality, or for each endpoint of a ring.
    let endpoints: usize = summaries.iter().map(|summary| summary.endpoints).sum();
    let divisor = sum / max_sum.saturating_sub(endpoints as u64).max(1) + 1;
    summaries.iter().map(|summary| (summary.capacity() / divisor).max(1)).collect()
}

/// Weights by the shares of the zones. The localities of a zone divide its share by their capacities.
fn shared_weights(summaries: &[&LocalitySummary], shares: &BTreeMap<ZoneName, u32>) -> Vec<u64> {
    let mut routable: HashMap<&ZoneName, u64> = HashMap::new();
    for summary in summaries {
        *routable.entry(&summary.zone).or_default() += summary.routable;
    }
    let weight = |summary: &&LocalitySummary| {
        let share = shares.get(&*summary.zone).map_or(0, |share| u64::from(*share) * SHARE_SCALE);
        let zone = routable.get(&*summary.zone).copied().unwrap_or_default();
        (u128::from(share) * u128::from(summary.routable)).checked_div(u128::from(zone)).unwrap_or_default()
    };
    summaries.iter().map(|summary| u64::try_from(weight(summary)).unwrap_or(u64::MAX).max(1)).collect()
}
