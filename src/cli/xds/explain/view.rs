//! Explanation in the form that JSON, YAML and tables show.

use serde::Serialize;

use super::{
    cluster_view::{ExplainedClusterView, ExplainedZoneView, ExplainedZonesView},
    policy_view::{ClientLimitationView, ExplainedClientView, ExplainedPolicyView, ExplainedRouteView},
    stream_view::ServiceXdsStreamView,
};
use crate::{
    cli::{
        output::Printable,
        view::{AddressView, known_status, or_dash, set},
    },
    pb::callboard::v1::{
        ExplainResponse, OmissionReason, OmittedInstance, XdsEndpoint, XdsLocality, XdsOutcome, XdsResource,
    },
};

/// Outcome of calls of which some fail.
const PARTLY_ROUTABLE: &str = "PARTLY_ROUTABLE";

/// Explanation as printed. Its keys are stable, because scripts read them.
#[derive(Debug, Serialize)]
pub(super) struct ExplanationView {
    target: String,
    listener: String,
    pub(super) service: Option<String>,
    outcome: &'static str,
    reason: Option<String>,
    settling: bool,
    instances: u32,
    routable: u32,
    shed_percent: u32,
    policy: Option<ExplainedPolicyView>,
    client: Option<ExplainedClientView>,
    pub(super) routes: Vec<ExplainedRouteView>,
    pub(super) clusters: Vec<ExplainedClusterView>,
    zones: Option<ExplainedZonesView>,
    pub(super) resources: Vec<XdsResourceView>,
    /// Cluster that the localities and the left-out instances are of.
    cluster: Option<String>,
    pub(super) localities: Vec<XdsLocalityView>,
    pub(super) omitted: Vec<OmittedInstanceView>,
    pub(super) streams: Vec<ServiceXdsStreamView>,
    stream_count: u32,
    revision: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct XdsResourceView {
    r#type: String,
    type_url: String,
    name: String,
    version: String,
    bytes: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct XdsLocalityView {
    region: Option<String>,
    zone: Option<String>,
    sub_zone: Option<String>,
    service: String,
    priority: u32,
    weight: u32,
    percent: f64,
    endpoints: Vec<XdsEndpointView>,
}

#[derive(Debug, Clone, Serialize)]
struct XdsEndpointView {
    id: String,
    addresses: Vec<AddressView>,
    health_status: String,
    status: Option<&'static str>,
}

/// Row of an endpoint, with its locality.
#[derive(Debug, Serialize)]
pub(super) struct EndpointRow {
    endpoint: XdsEndpointView,
    locality: String,
}

#[derive(Debug, Serialize)]
pub(super) struct OmittedInstanceView {
    id: String,
    reason: &'static str,
    problem: String,
    hint: String,
}

impl ExplanationView {
    pub(super) fn new(target: String, explanation: ExplainResponse) -> Self {
        let outcome = explanation.outcome().as_str_name();
        Self {
            target,
            listener: explanation.listener,
            service: set(explanation.service),
            outcome: outcome.strip_prefix("XDS_OUTCOME_").unwrap_or(outcome),
            reason: set(explanation.reason),
            settling: explanation.settling,
            instances: explanation.instances,
            routable: explanation.routable,
            shed_percent: explanation.shed_percent,
            policy: explanation.policy.map(ExplainedPolicyView::from),
            client: explanation.client.map(ExplainedClientView::from),
            routes: explanation.routes.into_iter().map(ExplainedRouteView::from).collect(),
            clusters: explanation.clusters.into_iter().map(ExplainedClusterView::from).collect(),
            zones: explanation.zones.map(ExplainedZonesView::from),
            resources: explanation.resources.into_iter().map(XdsResourceView::from).collect(),
            cluster: set(explanation.cluster),
            localities: explanation.localities.into_iter().map(XdsLocalityView::from).collect(),
            omitted: explanation.omitted.into_iter().map(OmittedInstanceView::from).collect(),
            streams: explanation.streams.into_iter().map(ServiceXdsStreamView::from).collect(),
            stream_count: explanation.stream_count,
            revision: explanation.revision,
        }
    }

    /// Returns whether calls reach instances.
    pub(super) fn is_routable(&self) -> bool {
        XdsOutcome::from_str_name(&format!("XDS_OUTCOME_{}", self.outcome)) == Some(XdsOutcome::Routable)
    }

    /// Returns the lines above the tables, each with its label.
    pub(super) fn summary(&self) -> Vec<(&'static str, String)> {
        let has_fallback = self.clusters.iter().any(ExplainedClusterView::is_fallback);
        let reached = if has_fallback {
            format!("go to {} instances, also of fallbacks", self.routable)
        } else {
            format!("go to {} of {} instances", self.routable, self.instances)
        };
        let calls = match &self.reason {
            None => reached,
            Some(reason) if self.outcome == PARTLY_ROUTABLE => {
                format!("{reached}; some fail with UNAVAILABLE at once: {reason}")
            }
            Some(reason) => format!("fail with UNAVAILABLE at once: {reason}"),
        };
        let mut lines = vec![("Listener", self.listener.clone()), ("Service", or_dash(self.service.as_deref()))];
        lines.push(("Calls", calls));
        if self.settling {
            let text =
                "clients that reconnect keep the endpoints from before the registry restarted, until it has settled";
            lines.push(("Settling", text.to_owned()));
        }
        if let Some(policy) = self.present_policy() {
            lines.push(("Policy", format!("revision {}", policy.revision)));
            lines.extend(self.client.as_ref().map(|client| ("Client", client.text())));
            lines.extend(self.routes.iter().filter_map(|route| Some(("Route", route.text()?))));
            lines.extend(self.zones.as_ref().map(|zones| ("Zones", zones.text())));
            lines.extend(self.cluster.clone().map(|cluster| ("Shown", format!("endpoints of cluster {cluster}"))));
        }
        lines
    }

    /// Returns the policy, unless neither the service nor the defaults have one.
    pub(super) fn present_policy(&self) -> Option<&ExplainedPolicyView> {
        self.policy.as_ref().filter(|policy| policy.revision > 0)
    }

    /// Returns the fields of the policy that the client does not follow.
    pub(super) fn limitations(&self) -> &[ClientLimitationView] {
        self.client.as_ref().map_or(&[], |client| client.limitations.as_slice())
    }

    /// Returns the zones between which calls are balanced.
    pub(super) fn zones(&self) -> &[ExplainedZoneView] {
        self.zones.as_ref().map_or(&[], |zones| zones.zones.as_slice())
    }

    pub(super) fn endpoint_rows(&self) -> Vec<EndpointRow> {
        let rows = self.localities.iter().flat_map(|locality| {
            let row =
                |endpoint: &XdsEndpointView| EndpointRow { endpoint: endpoint.clone(), locality: locality.name() };
            locality.endpoints.iter().map(row)
        });
        rows.collect()
    }

    /// Returns the number of streams that are not listed, if there are any.
    pub(super) fn more_streams(&self) -> Option<usize> {
        let all = usize::try_from(self.stream_count).unwrap_or(usize::MAX);
        all.checked_sub(self.streams.len()).filter(|more| *more > 0)
    }
}

impl From<XdsResource> for XdsResourceView {
    fn from(XdsResource { r#type, type_url, name, version, bytes }: XdsResource) -> Self {
        Self { r#type, type_url, name, version, bytes }
    }
}

impl From<XdsLocality> for XdsLocalityView {
    fn from(locality: XdsLocality) -> Self {
        Self {
            region: set(locality.region),
            zone: set(locality.zone),
            sub_zone: set(locality.sub_zone),
            service: locality.service,
            priority: locality.priority,
            weight: locality.weight,
            percent: locality.percent,
            endpoints: locality.endpoints.into_iter().map(XdsEndpointView::from).collect(),
        }
    }
}

impl From<XdsEndpoint> for XdsEndpointView {
    fn from(endpoint: XdsEndpoint) -> Self {
        Self {
            status: known_status(endpoint.status()),
            id: endpoint.instance_id,
            addresses: endpoint.addresses.into_iter().map(AddressView::from).collect(),
            health_status: endpoint.health_status,
        }
    }
}

impl From<OmittedInstance> for OmittedInstanceView {
    fn from(omitted: OmittedInstance) -> Self {
        Self { reason: reason(omitted.reason()), id: omitted.instance_id, problem: omitted.problem, hint: omitted.hint }
    }
}

fn reason(reason: OmissionReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("OMISSION_REASON_").unwrap_or(name)
}

impl Printable for XdsResourceView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["RESOURCE", "NAME", "VERSION", "BYTES"], &["TYPE"]);

    fn cells(&self) -> Vec<String> {
        let type_url = self.type_url.clone();
        vec![self.r#type.clone(), self.name.clone(), self.version.clone(), self.bytes.to_string(), type_url]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

impl XdsLocalityView {
    fn name(&self) -> String {
        let parts = [&self.region, &self.zone, &self.sub_zone];
        if parts.iter().all(|part| part.is_none()) {
            return or_dash(None);
        }
        parts.map(|part| or_dash(part.as_deref())).join("/")
    }
}

impl Printable for XdsLocalityView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["LOCALITY", "PRIORITY", "WEIGHT", "CALLS", "ENDPOINTS"], &["SERVICE"]);

    fn cells(&self) -> Vec<String> {
        let percent = format!("{:.1}%", self.percent);
        vec![
            Printable::name(self),
            self.priority.to_string(),
            self.weight.to_string(),
            percent,
            self.endpoints.len().to_string(),
            self.service.clone(),
        ]
    }

    fn name(&self) -> String {
        Self::name(self)
    }
}

impl Printable for EndpointRow {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["ENDPOINT", "ADDRESS", "HEALTH", "STATUS", "LOCALITY"], &["OTHER ADDRESS"]);

    fn cells(&self) -> Vec<String> {
        let XdsEndpointView { id, addresses, health_status, status } = &self.endpoint;
        let address = |at: usize| or_dash(addresses.get(at).map(AddressView::text).as_deref());
        vec![id.clone(), address(0), health_status.clone(), or_dash(*status), self.locality.clone(), address(1)]
    }

    fn name(&self) -> String {
        self.endpoint.id.clone()
    }
}

impl Printable for OmittedInstanceView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) = (&["LEFT OUT", "REASON", "REMEDY"], &["CODE"]);

    fn cells(&self) -> Vec<String> {
        vec![self.id.clone(), self.problem.clone(), self.hint.clone(), self.reason.to_owned()]
    }

    fn name(&self) -> String {
        self.id.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::callboard::v1::{Address, InstanceStatus, ServiceXdsStream, ServiceXdsSubscription, XdsState};

    fn resource(kind: &str, version: &str) -> XdsResource {
        XdsResource { r#type: kind.to_owned(), version: version.to_owned(), bytes: 9, ..XdsResource::default() }
    }

    fn subscription(kind: &str, version: &str, state: XdsState, error: &str) -> ServiceXdsSubscription {
        ServiceXdsSubscription {
            r#type: kind.to_owned(),
            state: state.into(),
            since: None,
            sent_version: version.to_owned(),
            error: error.to_owned(),
            current: version == "v1",
            ..ServiceXdsSubscription::default()
        }
    }

    fn explanation() -> ExplainResponse {
        let address = |host: &str| Address { host: host.to_owned(), port: 80, name: String::new() };
        let endpoint = XdsEndpoint {
            instance_id: "a".to_owned(),
            addresses: vec![address("10.0.0.1"), address("fd00::1")],
            health_status: "HEALTHY".to_owned(),
            status: InstanceStatus::Serving.into(),
        };
        let locality = XdsLocality { sub_zone: "~w3".to_owned(), weight: 3, percent: 100.0, ..XdsLocality::default() };
        let subscriptions = vec![
            subscription("LDS", "v1", XdsState::Synced, ""),
            subscription("CDS", "v0", XdsState::Stale, ""),
            subscription("EDS", "v0", XdsState::Nacked, "duplicate"),
        ];
        let node_id = "n1".to_owned();
        let stream = ServiceXdsStream { node_id, subscriptions, policy_revision: 7, ..ServiceXdsStream::default() };
        ExplainResponse {
            listener: "web:80".to_owned(),
            service: "web".to_owned(),
            outcome: XdsOutcome::Routable.into(),
            instances: 2,
            routable: 1,
            resources: vec![resource("LDS", "v1"), resource("CDS", "v1"), resource("EDS", "v1")],
            localities: vec![XdsLocality { endpoints: vec![endpoint], ..locality }],
            streams: vec![stream, ServiceXdsStream::default()],
            stream_count: 4,
            ..ExplainResponse::default()
        }
    }

    #[test]
    fn explanation_has_its_parts_as_rows() {
        let view = ExplanationView::new("web:80".to_owned(), explanation());
        assert!(view.is_routable());
        assert_eq!(view.summary()[2], ("Calls", "go to 1 of 2 instances".to_owned()));
        assert_eq!(view.localities[0].cells(), ["-/-/~w3", "0", "3", "100.0%", "1", ""]);
        assert_eq!(
            view.endpoint_rows()[0].cells(),
            ["a", "10.0.0.1:80", "HEALTHY", "SERVING", "-/-/~w3", "[fd00::1]:80"]
        );
        let state = "LDS SYNCED, CDS STALE (an earlier version), EDS NACKED: duplicate (an earlier version)";
        assert_eq!(view.streams[0].cells()[3..5], ["revision 7", state]);
        assert_eq!(view.streams[1].cells()[3], "-", "the client has begun with no policy");
        assert_eq!(view.more_streams(), Some(2));
    }

    #[test]
    fn name_without_a_service_has_its_reason() {
        let reason = "service \"a b\" has a space".to_owned();
        let outcome = XdsOutcome::InvalidName.into();
        let view = ExplanationView::new(
            "a b".to_owned(),
            ExplainResponse { outcome, reason, settling: true, ..explanation() },
        );
        assert!(!view.is_routable());
        let summary = view.summary();
        assert_eq!(summary[2].1, "fail with UNAVAILABLE at once: service \"a b\" has a space");
        assert_eq!(summary[3].0, "Settling");
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(
            (&json["outcome"], &json["streams"][0]["subscriptions"][1]["current"]),
            (&"INVALID_NAME".into(), &false.into())
        );
    }
}
