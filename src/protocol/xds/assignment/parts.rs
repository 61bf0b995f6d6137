//! Localities of an assignment, encoded once for the clients of all zones.
//!
//! The priority and the weight of a locality depend on the client's zone; its name and its endpoints do not. The fields of a message may
//! come in any order, so an assignment is put together from copies.

use std::{hash::Hasher, sync::Arc};

use bytes::{Bytes, BytesMut};
use siphasher::sip::SipHasher13;

use super::{
    super::resource::EncodedResource,
    AssignedLocality, EndpointLayout, PlannedLocality, ServiceAssignment,
    locality::LocalitySummary,
    priority,
    wire::{self, AssignmentWriter},
};
use crate::{
    app::ViewValue,
    balancing::{ZoneClass, ZoneInstances, ZoneLayout, ZoneName},
};

/// Bytes of a locality besides its encoding.
const PART_BYTES: usize = 160;

/// Locality without priority and weight.
#[derive(Debug)]
struct LocalityPart {
    summary: LocalitySummary,
    sub_zone: String,
    /// Its name and its endpoints. For a ring: its endpoints up to their weights.
    bytes: Bytes,
    /// For a ring: its endpoints.
    ring: Vec<RingEndpoint>,
}

/// Endpoint of a ring.
#[derive(Debug)]
struct RingEndpoint {
    /// End of its fields in the bytes of the locality.
    end: usize,
    /// Weight in the unit of the locality's. `None`: clients do not call it, because it is not routable and others are.
    weight: Option<u64>,
}

/// Tiers of localities without priorities and weights.
#[derive(Debug)]
pub(in crate::protocol::xds) struct AssignmentParts {
    tiers: Vec<Vec<LocalityPart>>,
    zones: Arc<ZoneInstances>,
    layout: EndpointLayout,
    shed: u8,
    /// Weights change by themselves.
    is_dynamic: bool,
}

impl ViewValue for AssignmentParts {
    fn bytes(&self) -> usize {
        let parts = self.tiers.iter().flatten();
        parts.map(|part| PART_BYTES + part.sub_zone.len() + part.bytes.len() + size_of_val(&*part.ring)).sum()
    }
}

impl AssignmentParts {
    pub(super) fn new(assignment: &ServiceAssignment<'_>) -> Self {
        let ServiceAssignment { tiers, layout, shed, is_dynamic, .. } = assignment;
        let (layout, shed, is_dynamic) = (*layout, *shed, *is_dynamic);
        let part = |locality: &AssignedLocality<'_>| LocalityPart::new(locality, layout);
        let summaries: Vec<Vec<_>> =
            tiers.iter().map(|tier| tier.iter().map(|locality| &locality.summary).collect()).collect();
        let called = summaries.get(priority::called_tier(&summaries)).map(|tier| zones(tier));
        let zones = Arc::new(called.unwrap_or_default());
        let tiers = tiers.iter().map(|tier| tier.iter().map(part).collect()).collect();
        Self { tiers, zones, layout, shed, is_dynamic }
    }

    /// Numbers of the zones in the tier that clients call, without the streams of their clients.
    pub(in crate::protocol::xds) fn zones(&self) -> &Arc<ZoneInstances> {
        &self.zones
    }

    /// Encodes the assignment of the cluster with this name for the clients of a zone. `None`: for clients without a preference.
    pub(in crate::protocol::xds) fn encode(&self, cluster: &str, zone: Option<&ZoneLayout>) -> EncodedResource {
        let tiers: Vec<Vec<_>> =
            self.tiers.iter().map(|tier| tier.iter().map(|part| &part.summary).collect()).collect();
        let planned = priority::plan(&tiers, zone, self.layout, self.shed);
        let factor = priority::shed_factor(self.shed);
        let bytes = planned.iter().map(|planned| self.part(planned).bytes.len() + 24).sum();
        let mut assignment = AssignmentWriter::new(cluster, bytes);
        match self.layout {
            EndpointLayout::Priorities | EndpointLayout::FirstPriority | EndpointLayout::Flat => {
                for planned in &planned {
                    let part = self.part(planned);
                    assignment.locality(&part.bytes, planned.weight * factor, planned.priority);
                }
            }
            EndpointLayout::Ring => {
                for ring in planned.chunk_by(|one, other| one.priority == other.priority) {
                    self.put_ring(ring, &mut assignment);
                }
            }
        }
        let mut resource = EncodedResource::new(assignment.finish(self.shed));
        if self.is_dynamic || zone.is_some() {
            resource.shape = self.shape(&planned);
        }
        resource
    }

    /// Hashes what an assignment has besides the weights of its localities, or of its endpoints in a ring.
    fn shape(&self, planned: &[PlannedLocality]) -> u64 {
        let mut hasher = SipHasher13::new();
        hasher.write_u8(self.shed);
        for planned in planned {
            hasher.write_u32(planned.priority);
            hasher.write(&self.part(planned).bytes);
        }
        hasher.finish()
    }

    fn part(&self, planned: &PlannedLocality) -> &LocalityPart {
        &self.tiers[planned.tier][planned.locality]
    }

    /// Writes the zones of a priority as one locality.
    fn put_ring(&self, ring: &[PlannedLocality], assignment: &mut AssignmentWriter) {
        let Some(first) = ring.first() else { return };
        // Localities with the same name in different priorities would be confused.
        let sub_zone = match first.class {
            ZoneClass::Preferred => "ring",
            ZoneClass::SameRegion => "ring~region",
            ZoneClass::OtherRegion => "ring~other",
        };
        let mut bytes = BytesMut::new();
        wire::put_locality("", "", &format!("{sub_zone}{}", self.part(first).sub_zone), &mut bytes);
        for planned in ring {
            let part = self.part(planned);
            let capacity = part.summary.capacity().max(1);
            let mut begin = 0;
            for RingEndpoint { end, weight } in &part.ring {
                let scale = |weight| u128::from(weight) * u128::from(planned.weight) / u128::from(capacity);
                let weight = u32::try_from(weight.map_or(1, scale)).unwrap_or(u32::MAX).max(1);
                wire::put_weighted_endpoint(&part.bytes[begin..*end], weight, &mut bytes);
                begin = *end;
            }
        }
        assignment.locality(&bytes, priority::shed_factor(self.shed), first.priority);
    }
}

/// Returns the numbers of the zones of these localities.
fn zones(localities: &[&LocalitySummary]) -> ZoneInstances {
    let mut zones = ZoneInstances::new();
    for summary in localities {
        let zone = zones.entry(Arc::clone(&summary.zone)).or_default();
        zone.routable_weight += summary.routable_configured;
        zone.registered_weight += summary.total_configured;
        zone.routable_instances += summary.routable_endpoints;
    }
    zones
}

impl LocalityPart {
    fn new(locality: &AssignedLocality<'_>, layout: EndpointLayout) -> Self {
        let mut bytes = BytesMut::with_capacity(64 + 40 * locality.endpoints.len());
        let mut ring = Vec::new();
        match layout {
            EndpointLayout::Priorities | EndpointLayout::FirstPriority | EndpointLayout::Flat => {
                let ZoneName { region, zone } = &*locality.summary.zone;
                wire::put_locality(region, zone, &locality.sub_zone, &mut bytes);
                locality.endpoints.iter().for_each(|(endpoint, _)| wire::put_endpoint(endpoint, &mut bytes));
            }
            EndpointLayout::Ring => {
                for (endpoint, weight) in &locality.endpoints {
                    wire::put_endpoint_fields(endpoint, &mut bytes);
                    let is_called = endpoint.instance.status().is_routable() || locality.summary.routable == 0;
                    ring.push(RingEndpoint { end: bytes.len(), weight: is_called.then_some(*weight) });
                }
            }
        }
        // Copied to its exact size, because it is kept.
        let bytes = Bytes::copy_from_slice(&bytes);
        Self { summary: locality.summary.clone(), sub_zone: locality.sub_zone.clone(), bytes, ring }
    }
}
