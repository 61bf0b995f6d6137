//! Calculation of the shares of zones.

use super::super::route_resource::duration;
use crate::{
    balancing::{DemandSource, NoPreferenceReason, ReportedZone, ZoneLayoutPhase, ZoneReport},
    pb::callboard::v1 as pb,
};

/// Returns the calculation of the shares of zones for the clients of one zone. `served`: part of the calls that the client does not drop,
/// from 0 to 1.
pub(super) fn explained_zones(report: &ZoneReport, served: f64) -> pb::ExplainedZones {
    let local = report.preference.as_ref().ok().map(|preference| preference.local);
    let (phase, remaining) = match report.phase {
        ZoneLayoutPhase::ByCapacity => (pb::ZonePhase::ByCapacity, None),
        ZoneLayoutPhase::PreferencePending(remaining) => (pb::ZonePhase::PreferencePending, Some(remaining)),
        ZoneLayoutPhase::Local => (pb::ZonePhase::Local, None),
        ZoneLayoutPhase::Spilling => (pb::ZonePhase::Spilling, None),
        ZoneLayoutPhase::SpillEnding(remaining) => (pb::ZonePhase::SpillEnding, Some(remaining)),
    };
    let source = match report.source {
        DemandSource::Unknown => pb::DemandSource::Unspecified,
        DemandSource::Streams => pb::DemandSource::Streams,
        DemandSource::Requests => pb::DemandSource::Requests,
    };
    pb::ExplainedZones {
        demand_source: source.into(),
        reason: report.preference.as_ref().err().copied().map(reason).unwrap_or_default().to_owned(),
        local_share: local.map(|local| local.share),
        capacity_per_demand: local.and_then(|local| local.capacity_per_demand),
        overprovisioned: local.map(|local| local.overprovisioned),
        phase: phase.into(),
        remaining: remaining.map(duration),
        zones: report.zones.iter().map(|zone| explained_zone(zone, report, served)).collect(),
    }
}

/// Returns the reason for which all zones share the calls by capacity.
fn reason(reason: NoPreferenceReason) -> &'static str {
    match reason {
        NoPreferenceReason::ClientWithoutZone => "the client has named no zone",
        NoPreferenceReason::OneZone => "fewer than two zones have instances",
        NoPreferenceReason::FewLocalInstances => "the client's zone has fewer than two instances that can be called",
        NoPreferenceReason::TooManyZones => "the instances are in more than 256 zones",
    }
}

fn explained_zone(zone: &ReportedZone, report: &ZoneReport, served: f64) -> pb::ExplainedZone {
    let ReportedZone { name, numbers, terms } = zone;
    let by_capacity = terms.map_or(0.0, |terms| terms.capacity);
    let target = match &report.preference {
        Ok(preference) => preference.shares.get(&**name).copied().unwrap_or_default(),
        Err(_) => by_capacity,
    };
    let percent = if report.layout.is_by_capacity() {
        by_capacity * 100.0
    } else {
        f64::from(report.layout.shares.get(&**name).copied().unwrap_or_default()) / 100.0
    };
    pb::ExplainedZone {
        region: name.region.to_string(),
        zone: name.zone.to_string(),
        routable_weight: numbers.routable_weight,
        registered_weight: numbers.registered_weight,
        routable: u32::try_from(numbers.routable_instances).unwrap_or(u32::MAX),
        streams: numbers.streams,
        demand: terms.and_then(|terms| terms.demand),
        local_share: terms.and_then(|terms| terms.local).map(|local| local.share),
        target_percent: target * 100.0 * served,
        percent: percent * served,
        requests_per_second: numbers.request_rate.map(per_second),
    }
}

/// Converts a number of requests in 1,000 seconds.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no more precision")]
fn per_second(requests: u64) -> f64 {
    requests as f64 / 1_000.0
}
