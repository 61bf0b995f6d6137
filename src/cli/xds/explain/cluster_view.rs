//! Clusters and zones of an explanation, in the form that JSON, YAML and tables show.

use serde::Serialize;

use super::policy_view::shown;
use crate::{
    cli::{
        output::Printable,
        view::{or_dash, set},
    },
    pb::callboard::v1::{
        ClusterDestination, DemandSource, DestinationPart, ExplainedCluster, ExplainedZone, ExplainedZones, ZonePhase,
    },
};

/// Part of a destination that is another service.
const FALLBACK: &str = "FALLBACK";

#[derive(Debug, Serialize)]
pub(super) struct ExplainedClusterView {
    name: String,
    subset: Option<String>,
    filter: Option<String>,
    percent: u32,
    destinations: Vec<ClusterDestinationView>,
}

#[derive(Debug, Serialize)]
struct ClusterDestinationView {
    service: String,
    part: &'static str,
    endpoints: u32,
    routable: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct ExplainedZonesView {
    reason: Option<String>,
    local_share: Option<f64>,
    capacity_per_demand: Option<f64>,
    overprovisioned: Option<f64>,
    demand_source: Option<&'static str>,
    phase: &'static str,
    remaining: Option<String>,
    pub(super) zones: Vec<ExplainedZoneView>,
}

#[derive(Debug, Serialize)]
pub(super) struct ExplainedZoneView {
    region: Option<String>,
    zone: Option<String>,
    routable_weight: u64,
    registered_weight: u64,
    routable: u32,
    streams: u64,
    demand: Option<f64>,
    local_share: Option<f64>,
    target_percent: f64,
    percent: f64,
    requests_per_second: Option<f64>,
}

impl From<ExplainedCluster> for ExplainedClusterView {
    fn from(ExplainedCluster { name, subset, filter, percent, destinations }: ExplainedCluster) -> Self {
        let destinations = destinations.into_iter().map(ClusterDestinationView::from).collect();
        Self { name, subset: set(subset), filter: set(filter), percent, destinations }
    }
}

impl ExplainedClusterView {
    /// Returns whether another service takes the calls that go to the cluster now.
    pub(super) fn is_fallback(&self) -> bool {
        let called = self.destinations.iter().find(|destination| destination.routable > 0);
        self.percent > 0 && called.is_some_and(|called| called.part == FALLBACK)
    }

    /// Returns the instances that take the calls in order, in words.
    fn destination_text(&self) -> String {
        let destination = |destination: &ClusterDestinationView| {
            let ClusterDestinationView { service, part, endpoints, routable } = destination;
            let name = match (*part, &self.subset) {
                ("SUBSET", Some(subset)) => format!("subset {subset}"),
                ("REST", _) => format!("the rest of {service}"),
                _ => service.clone(),
            };
            format!("{name} ({routable} of {endpoints})")
        };
        let destinations = self.destinations.iter().map(destination);
        destinations.chain(["none: calls fail".to_owned()]).collect::<Vec<_>>().join(", then ")
    }
}

impl From<ClusterDestination> for ClusterDestinationView {
    fn from(destination: ClusterDestination) -> Self {
        let part: DestinationPart = destination.part();
        let name = part.as_str_name();
        Self {
            part: name.strip_prefix("DESTINATION_PART_").unwrap_or(name),
            service: destination.service,
            endpoints: destination.endpoints,
            routable: destination.routable,
        }
    }
}

impl From<ExplainedZones> for ExplainedZonesView {
    fn from(zones: ExplainedZones) -> Self {
        let phase: ZonePhase = zones.phase();
        let source: DemandSource = zones.demand_source();
        let name = phase.as_str_name();
        Self {
            phase: name.strip_prefix("ZONE_PHASE_").unwrap_or(name),
            reason: set(zones.reason),
            local_share: zones.local_share,
            capacity_per_demand: zones.capacity_per_demand,
            overprovisioned: zones.overprovisioned,
            demand_source: match source {
                DemandSource::Unspecified => None,
                DemandSource::Streams => Some("STREAMS"),
                DemandSource::Requests => Some("REQUESTS"),
            },
            remaining: shown(zones.remaining),
            zones: zones.zones.into_iter().map(ExplainedZoneView::from).collect(),
        }
    }
}

impl ExplainedZonesView {
    /// Returns the local share with its terms, and its state, in words.
    pub(super) fn text(&self) -> String {
        let remaining = self.remaining.as_deref().unwrap_or_default();
        let state = match self.phase {
            "PREFERENCE_PENDING" => format!("all zones share the calls by capacity for another {remaining}"),
            "LOCAL" => "all calls stay in the zone".to_owned(),
            "SPILLING" => "the rest goes to other zones".to_owned(),
            "SPILL_ENDING" => format!("calls go to other zones for another {remaining}"),
            _ => "all zones share the calls by capacity".to_owned(),
        };
        match (&self.reason, self.local_share, self.overprovisioned) {
            (Some(reason), ..) => format!("{state}: {reason}"),
            (None, Some(local), Some(overprovisioned)) => {
                let per_demand = self.capacity_per_demand.map(|term| format!("{term:.2}, ")).unwrap_or_default();
                let source = match self.demand_source {
                    Some("REQUESTS") => "; the demand D follows the requests that clients report",
                    _ => "",
                };
                format!("local share L = min(1, {per_demand}{overprovisioned:.2}) = {local:.2}; {state}{source}")
            }
            (None, ..) => state,
        }
    }
}

impl From<ExplainedZone> for ExplainedZoneView {
    fn from(zone: ExplainedZone) -> Self {
        Self {
            region: set(zone.region),
            zone: set(zone.zone),
            routable_weight: zone.routable_weight,
            registered_weight: zone.registered_weight,
            routable: zone.routable,
            streams: zone.streams,
            demand: zone.demand,
            local_share: zone.local_share,
            target_percent: zone.target_percent,
            percent: zone.percent,
            requests_per_second: zone.requests_per_second,
        }
    }
}

impl Printable for ExplainedClusterView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["CLUSTER", "CALLS", "TAKEN BY"], &["FILTER"]);

    fn cells(&self) -> Vec<String> {
        let percent = format!("{}%", self.percent);
        vec![self.name.clone(), percent, self.destination_text(), or_dash(self.filter.as_deref())]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Printable for ExplainedZoneView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["ZONE", "ROUTABLE (C)", "REGISTERED (K)", "STREAMS", "DEMAND (D)", "LOCAL (L)", "TARGET", "CALLS"], &[]);

    fn cells(&self) -> Vec<String> {
        let number = |number: Option<f64>| or_dash(number.map(|number| format!("{number:.2}")).as_deref());
        vec![
            Printable::name(self),
            self.routable_weight.to_string(),
            self.registered_weight.to_string(),
            self.streams.to_string(),
            number(self.demand),
            number(self.local_share),
            format!("{:.1}%", self.target_percent),
            format!("{:.1}%", self.percent),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", or_dash(self.region.as_deref()), or_dash(self.zone.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Duration;

    use super::*;

    #[test]
    fn cluster_names_the_instances_that_take_its_calls() {
        let destination = |service: &str, part: DestinationPart, endpoints, routable| ClusterDestination {
            service: service.to_owned(),
            part: part.into(),
            endpoints,
            routable,
        };
        let cluster = ExplainedClusterView::from(ExplainedCluster {
            name: "web|v2".to_owned(),
            subset: "v2".to_owned(),
            filter: "x".to_owned(),
            percent: 10,
            destinations: vec![
                destination("web", DestinationPart::Subset, 2, 0),
                destination("web", DestinationPart::Rest, 3, 0),
                destination("web-dr", DestinationPart::Fallback, 1, 1),
            ],
        });
        let taken_by = "subset v2 (0 of 2), then the rest of web (0 of 3), then web-dr (1 of 1), then none: calls fail";
        assert_eq!(cluster.cells(), ["web|v2", "10%", taken_by, "x"]);
        assert!(cluster.is_fallback());
    }

    #[test]
    fn zones_show_the_terms_of_the_local_share() {
        let zones = ExplainedZones {
            local_share: Some(0.67),
            capacity_per_demand: Some(0.67),
            overprovisioned: Some(0.7),
            phase: ZonePhase::SpillEnding.into(),
            remaining: Some(Duration { seconds: 12, nanos: 0 }),
            demand_source: DemandSource::Requests.into(),
            zones: vec![ExplainedZone { zone: "z1".to_owned(), demand: Some(0.5), ..ExplainedZone::default() }],
            ..ExplainedZones::default()
        };
        let view = ExplainedZonesView::from(zones);
        let text = "local share L = min(1, 0.67, 0.70) = 0.67; calls go to other zones for another 12s; the demand D follows the \
                    requests that clients report";
        assert_eq!(view.text(), text);
        assert_eq!(view.zones[0].cells(), ["-/z1", "0", "0", "0", "0.50", "-", "0.0%", "0.0%"]);
        let alone = ExplainedZones { reason: "all instances are in one zone".to_owned(), ..ExplainedZones::default() };
        let text = "all zones share the calls by capacity: all instances are in one zone";
        assert_eq!(ExplainedZonesView::from(alone).text(), text);
    }
}
