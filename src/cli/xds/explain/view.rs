//! Explanation in the form that JSON, YAML and tables show.

use serde::Serialize;

use crate::{
    cli::{
        output::Printable,
        view::{AddressView, known_status, or_dash, set, time},
        xds::stream::{phrase, state},
    },
    pb::callboard::v1::{
        ExplainResponse, OmissionReason, OmittedInstance, ServiceXdsStream, ServiceXdsSubscription, XdsEndpoint,
        XdsLocality, XdsOutcome, XdsResource,
    },
};

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
    pub(super) resources: Vec<XdsResourceView>,
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

#[derive(Debug, Serialize)]
pub(super) struct ServiceXdsStreamView {
    node_id: Option<String>,
    agent: Option<String>,
    peer: String,
    delta: bool,
    subscriptions: Vec<ServiceXdsSubscriptionView>,
}

#[derive(Debug, Serialize)]
struct ServiceXdsSubscriptionView {
    r#type: String,
    state: &'static str,
    since: Option<String>,
    sent_version: Option<String>,
    /// Set if the client was last sent the present version.
    current: bool,
    error: Option<String>,
}

impl ExplanationView {
    pub(super) fn new(target: String, explanation: ExplainResponse) -> Self {
        let outcome = explanation.outcome().as_str_name();
        let streams = explanation.streams.into_iter();
        let streams = streams.map(|stream| ServiceXdsStreamView::new(stream, &explanation.resources)).collect();
        Self {
            target,
            listener: explanation.listener,
            service: set(explanation.service),
            outcome: outcome.strip_prefix("XDS_OUTCOME_").unwrap_or(outcome),
            reason: set(explanation.reason),
            settling: explanation.settling,
            instances: explanation.instances,
            routable: explanation.routable,
            resources: explanation.resources.into_iter().map(XdsResourceView::from).collect(),
            localities: explanation.localities.into_iter().map(XdsLocalityView::from).collect(),
            omitted: explanation.omitted.into_iter().map(OmittedInstanceView::from).collect(),
            streams,
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
        let calls = match &self.reason {
            None => format!("go to {} of {} instances", self.routable, self.instances),
            Some(reason) => format!("fail with UNAVAILABLE at once: {reason}"),
        };
        let mut lines = vec![("Listener", self.listener.clone()), ("Service", or_dash(self.service.as_deref()))];
        lines.push(("Calls", calls));
        if self.settling {
            let text =
                "clients that reconnect keep the endpoints from before the registry restarted, until it has settled";
            lines.push(("Settling", text.to_owned()));
        }
        lines
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

impl ServiceXdsStreamView {
    fn new(stream: ServiceXdsStream, resources: &[XdsResource]) -> Self {
        let subscriptions = stream.subscriptions.into_iter();
        Self {
            node_id: set(stream.node_id),
            agent: set(stream.agent),
            peer: stream.peer,
            delta: stream.delta,
            subscriptions: subscriptions.map(|found| ServiceXdsSubscriptionView::new(found, resources)).collect(),
        }
    }
}

impl ServiceXdsSubscriptionView {
    fn new(found: ServiceXdsSubscription, resources: &[XdsResource]) -> Self {
        let present = resources.iter().find(|resource| resource.r#type == found.r#type);
        Self {
            state: state(found.state()),
            since: time(found.since),
            current: present.is_some_and(|present| present.version == found.sent_version),
            r#type: found.r#type,
            sent_version: set(found.sent_version),
            error: set(found.error),
        }
    }

    fn text(&self) -> String {
        let outdated = if self.current || self.sent_version.is_none() { "" } else { " (an earlier version)" };
        format!("{} {}{outdated}", self.r#type, phrase(self.state, self.since.as_deref(), self.error.as_deref()))
    }
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
        (&["LOCALITY", "WEIGHT", "CALLS", "ENDPOINTS"], &[]);

    fn cells(&self) -> Vec<String> {
        let percent = format!("{:.1}%", self.percent);
        vec![Printable::name(self), self.weight.to_string(), percent, self.endpoints.len().to_string()]
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

impl Printable for ServiceXdsStreamView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) =
        (&["CLIENT", "LIBRARY", "PEER", "STATE"], &["PROTOCOL", "ERROR"]);

    fn cells(&self) -> Vec<String> {
        let states: Vec<_> = self.subscriptions.iter().map(ServiceXdsSubscriptionView::text).collect();
        let error = self.subscriptions.iter().find_map(|subscription| subscription.error.as_deref());
        vec![
            or_dash(self.node_id.as_deref()),
            or_dash(self.agent.as_deref()),
            self.peer.clone(),
            states.join(", "),
            if self.delta { "delta" } else { "state of the world" }.to_owned(),
            or_dash(error),
        ]
    }

    fn name(&self) -> String {
        self.node_id.clone().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::callboard::v1::{Address, InstanceStatus, XdsState};

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
        let stream = ServiceXdsStream { node_id: "n1".to_owned(), subscriptions, ..ServiceXdsStream::default() };
        ExplainResponse {
            listener: "web:80".to_owned(),
            service: "web".to_owned(),
            outcome: XdsOutcome::Routable.into(),
            instances: 2,
            routable: 1,
            resources: vec![resource("LDS", "v1"), resource("CDS", "v1"), resource("EDS", "v1")],
            localities: vec![XdsLocality { endpoints: vec![endpoint], ..locality }],
            streams: vec![stream],
            stream_count: 3,
            ..ExplainResponse::default()
        }
    }

    #[test]
    fn explanation_has_its_parts_as_rows() {
        let view = ExplanationView::new("web:80".to_owned(), explanation());
        assert!(view.is_routable());
        assert_eq!(view.summary()[2], ("Calls", "go to 1 of 2 instances".to_owned()));
        assert_eq!(view.localities[0].cells(), ["-/-/~w3", "3", "100.0%", "1"]);
        assert_eq!(
            view.endpoint_rows()[0].cells(),
            ["a", "10.0.0.1:80", "HEALTHY", "SERVING", "-/-/~w3", "[fd00::1]:80"]
        );
        let state = "LDS SYNCED, CDS STALE (an earlier version), EDS NACKED: duplicate (an earlier version)";
        assert_eq!(view.streams[0].cells()[3], state);
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
