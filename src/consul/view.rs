//! What Consul's readers are shown, in the shapes and the order in which Consul shows it.
//!
//! An instance that speaks our own protocol is shown on our node, with its lease as a check: readers who want what passes have to
//! find it.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr, time::Duration};

use serde::Serialize;

use super::agent::Agent;
use crate::{
    check::Checks,
    model::{Check, Instance, InstanceId, Listing, Locality, Marks, Probe, ServiceName, Status, Verdict},
};

/// What a check is told to be that stands for something else.
const MAINTENANCE: &str = "maintenance";
/// Why something is out of service, where nobody has said.
const NO_REASON: &str =
    "Maintenance mode is enabled for this service, but no reason was provided. This is a default message.";
const NO_NODE_REASON: &str =
    "Maintenance mode is enabled for this node, but no reason was provided. This is a default message.";

/// Texts by text, in their order.
pub(super) type Map<'a> = BTreeMap<Cow<'a, str>, Cow<'a, str>>;

/// A node.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(clippy::struct_field_names, reason = "as Consul names it")]
pub(super) struct Node<'a> {
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    pub node: Cow<'a, str>,
    pub address: Cow<'a, str>,
    pub datacenter: &'a str,
    pub tagged_addresses: Option<Map<'a>>,
    pub meta: Option<Map<'a>>,
    pub create_index: u64,
    pub modify_index: u64,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Weights {
    pub passing: u16,
    pub warning: u16,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TaggedAddress<'a> {
    pub address: &'a str,
    pub port: u16,
}

type TaggedAddresses<'a> = BTreeMap<&'a str, TaggedAddress<'a>>;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Place<'a> {
    region: &'a str,
    zone: &'a str,
}

/// What there is of a service mesh: nothing.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Proxy {
    mode: &'static str,
    mesh_gateway: Empty,
    expose: Empty,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Empty {}

/// A service, as `/v1/health/service` and `/v1/catalog/node` have it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(clippy::struct_field_names, reason = "as Consul names it")]
pub(super) struct Service<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(rename = "ID")]
    pub id: &'a str,
    service: &'a str,
    tags: Vec<&'a str>,
    address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: TaggedAddresses<'a>,
    meta: Option<BTreeMap<&'a str, &'a str>>,
    port: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    socket_path: &'a str,
    weights: Weights,
    enable_tag_override: bool,
    proxy: Proxy,
    connect: Empty,
    #[serde(skip_serializing_if = "Option::is_none")]
    locality: Option<Place<'a>>,
    peer_name: &'static str,
    create_index: u64,
    modify_index: u64,
}

/// A service, as `/v1/agent/services` has it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AgentService<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(rename = "ID")]
    id: &'a str,
    service: &'a str,
    tags: Vec<&'a str>,
    meta: BTreeMap<&'a str, &'a str>,
    port: u16,
    address: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    socket_path: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: TaggedAddresses<'a>,
    weights: Weights,
    enable_tag_override: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    locality: Option<Place<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
    datacenter: &'a str,
}

/// A service and its node in one, as `/v1/catalog/service` has them.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CatalogService<'a> {
    #[serde(rename = "ID")]
    id: Cow<'a, str>,
    node: Cow<'a, str>,
    address: Cow<'a, str>,
    datacenter: &'a str,
    tagged_addresses: Option<Map<'a>>,
    node_meta: Option<Map<'a>>,
    service_kind: &'a str,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: Vec<&'a str>,
    service_address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_tagged_addresses: TaggedAddresses<'a>,
    service_weights: Weights,
    service_meta: BTreeMap<&'a str, &'a str>,
    service_port: u16,
    service_socket_path: &'a str,
    service_enable_tag_override: bool,
    service_proxy: Proxy,
    service_connect: Empty,
    service_locality: Option<Place<'a>>,
    create_index: u64,
    modify_index: u64,
}

/// A check.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct HealthCheck<'a> {
    node: Cow<'a, str>,
    #[serde(rename = "CheckID")]
    pub check_id: Cow<'a, str>,
    name: Cow<'a, str>,
    pub status: &'static str,
    notes: Cow<'a, str>,
    output: Cow<'a, str>,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: Vec<&'a str>,
    #[serde(rename = "Type")]
    kind: &'static str,
    interval: String,
    timeout: String,
    exposed_port: u16,
    definition: Empty,
    create_index: u64,
    modify_index: u64,
}

/// An instance, its node and all checks of both, as `/v1/health/service` has them.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ServiceEntry<'a> {
    pub node: Node<'a>,
    pub service: Service<'a>,
    pub checks: Vec<HealthCheck<'a>>,
}

impl ServiceEntry<'_> {
    /// Whether all of it works.
    pub(super) fn passes(&self) -> bool {
        self.checks.iter().all(|check| check.status == Verdict::Passing.as_str())
    }
}

/// The id under which Consul knows an instance.
pub(super) fn service_id(instance: &Instance) -> &str {
    instance.listing.as_ref().map_or_else(|| instance.id.as_str(), |listing| &listing.id)
}

fn address(instance: &Instance) -> (&str, u16) {
    let first = instance.addresses.first();
    let (host, port) = first.map_or(("", 0), |address| (&*address.host, address.port));
    (instance.listing.as_ref().map_or(host, |listing| &listing.address), port)
}

/// An IP address is also told for those who ask for one of its kind in a network.
fn tagged(instance: &Instance) -> TaggedAddresses<'_> {
    let (host, port) = address(instance);
    let mut all = TaggedAddresses::new();
    match host.parse() {
        Ok(IpAddr::V4(_)) => {
            all.extend(["lan_ipv4", "wan_ipv4"].map(|name| (name, TaggedAddress { address: host, port })));
        }
        Ok(IpAddr::V6(_)) => {
            all.extend(["lan_ipv6", "wan_ipv6"].map(|name| (name, TaggedAddress { address: host, port })));
        }
        Err(_) => {}
    }
    let given = instance.listing.iter().flat_map(|listing| &listing.tagged_addresses);
    all.extend(given.map(|(name, host, port)| (&**name, TaggedAddress { address: host, port: *port })));
    all
}

fn weights(instance: &Instance) -> Weights {
    let passing = instance.weight.get();
    Weights { passing, warning: instance.listing.as_ref().map_or(passing, |listing| listing.warning_weight) }
}

/// When it last described itself otherwise.
fn described(instance: &Instance) -> u64 {
    instance.listing.as_ref().map_or(instance.revision, |listing| listing.described).0
}

fn meta(instance: &Instance) -> BTreeMap<&str, &str> {
    instance.metadata.iter().collect()
}

fn locality(instance: &Instance) -> Option<Place<'_>> {
    let Locality { region, zone, .. } = instance.locality.as_deref()?;
    Some(Place { region, zone })
}

fn listed<'a>(instance: &'a Instance, text: impl Fn(&'a Listing) -> &'a str) -> &'a str {
    instance.listing.as_deref().map_or("", text)
}

impl<'a> Service<'a> {
    pub(super) fn new(instance: &'a Instance) -> Self {
        let (address, port) = address(instance);
        let meta = meta(instance);
        Self {
            kind: listed(instance, |listing| &listing.kind),
            id: service_id(instance),
            service: instance.service.as_str(),
            tags: instance.tags.iter().collect(),
            address,
            tagged_addresses: tagged(instance),
            meta: (!meta.is_empty()).then_some(meta),
            port,
            socket_path: listed(instance, |listing| &listing.socket_path),
            weights: weights(instance),
            enable_tag_override: instance.listing.as_ref().is_some_and(|listing| listing.enable_tag_override),
            proxy: Proxy::default(),
            connect: Empty {},
            locality: locality(instance),
            peer_name: "",
            create_index: instance.registered_revision.0,
            modify_index: described(instance),
        }
    }
}

impl<'a> AgentService<'a> {
    pub(super) fn new(instance: &'a Instance, agent: &'a Agent) -> Self {
        let (address, port) = address(instance);
        Self {
            kind: listed(instance, |listing| &listing.kind),
            id: service_id(instance),
            service: instance.service.as_str(),
            tags: instance.tags.iter().collect(),
            meta: meta(instance),
            port,
            address,
            socket_path: listed(instance, |listing| &listing.socket_path),
            tagged_addresses: tagged(instance),
            weights: weights(instance),
            enable_tag_override: instance.listing.as_ref().is_some_and(|listing| listing.enable_tag_override),
            locality: locality(instance),
            content_hash: None,
            datacenter: &agent.datacenter,
        }
    }
}

impl<'a> CatalogService<'a> {
    pub(super) fn new(node: Node<'a>, instance: &'a Instance) -> Self {
        let (service_address, service_port) = address(instance);
        Self {
            id: node.id,
            node: node.node,
            address: node.address,
            datacenter: node.datacenter,
            tagged_addresses: node.tagged_addresses,
            node_meta: node.meta,
            service_kind: listed(instance, |listing| &listing.kind),
            service_id: service_id(instance),
            service_name: instance.service.as_str(),
            service_tags: instance.tags.iter().collect(),
            service_address,
            service_tagged_addresses: tagged(instance),
            service_weights: weights(instance),
            service_meta: meta(instance),
            service_port,
            service_socket_path: listed(instance, |listing| &listing.socket_path),
            service_enable_tag_override: instance.listing.as_ref().is_some_and(|listing| listing.enable_tag_override),
            service_proxy: Proxy::default(),
            service_connect: Empty {},
            service_locality: locality(instance),
            create_index: instance.registered_revision.0,
            modify_index: described(instance),
        }
    }
}

impl<'a> HealthCheck<'a> {
    /// A check that stands for something else than one.
    fn standing_for(node: Cow<'a, str>, id: String, name: &'static str, kind: &'static str) -> Self {
        Self {
            node,
            check_id: id.into(),
            name: name.into(),
            status: Verdict::Critical.as_str(),
            notes: "".into(),
            output: "".into(),
            service_id: "",
            service_name: "",
            service_tags: Vec::new(),
            kind,
            interval: String::new(),
            timeout: String::new(),
            exposed_port: 0,
            definition: Empty {},
            create_index: 0,
            modify_index: 0,
        }
    }

    /// The same, of an instance.
    fn of(self, instance: &'a Instance) -> Self {
        Self {
            service_id: service_id(instance),
            service_name: instance.service.as_str(),
            service_tags: instance.tags.iter().collect(),
            ..self
        }
    }

    /// Whether it stands for an operator's word.
    pub(super) fn is_maintenance(&self) -> bool {
        self.kind == MAINTENANCE
    }

    /// The same, told as the agent does: without indexes.
    pub(super) fn of_agent(self) -> Self {
        Self { create_index: 0, modify_index: 0, ..self }
    }

    /// The same, as it is told with the health of an agent's service: how it is made is not told.
    pub(super) fn brief(self) -> BriefCheck<'a> {
        BriefCheck {
            node: self.node,
            check_id: self.check_id,
            name: self.name,
            status: self.status,
            notes: self.notes,
            output: self.output,
            service_id: self.service_id,
            service_name: self.service_name,
            service_tags: (!self.service_id.is_empty()).then_some(self.service_tags),
            kind: "",
            exposed_port: 0,
            definition: NoDefinition::default(),
            create_index: 0,
            modify_index: 0,
        }
    }

    pub(super) fn new(node: Cow<'a, str>, check: &'a Check, output: String) -> Self {
        let definition = &check.definition;
        // As Consul writes them: a TTL check that came with its service has none, any other that has no interval has one of nothing.
        let ours = definition.id.as_str().starts_with("service:");
        let (interval, timeout) = match definition.probe {
            Probe::Ttl if ours => (String::new(), String::new()),
            Probe::Ttl => ("0s".to_owned(), "0s".to_owned()),
            Probe::Stated => (String::new(), String::new()),
            _ => (go_duration(definition.interval), go_duration(definition.timeout)),
        };
        Self {
            name: Cow::Borrowed(&*definition.name),
            status: check.verdict.as_str(),
            notes: Cow::Borrowed(&*definition.notes),
            output: output.into(),
            interval,
            timeout,
            create_index: check.created.0,
            modify_index: check.revision.0,
            ..Self::standing_for(node, definition.id.to_string(), "", definition.probe.kind())
        }
    }

    /// What every node of Consul's has that is one of its own.
    pub(super) fn serf(node: Cow<'a, str>, index: u64) -> Self {
        Self {
            status: Verdict::Passing.as_str(),
            output: "Agent alive and reachable".into(),
            create_index: index,
            modify_index: index,
            ..Self::standing_for(node, "serfHealth".to_owned(), "Serf Health Status", "")
        }
    }
}

/// A check, as it is told with the health of an agent's service.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BriefCheck<'a> {
    node: Cow<'a, str>,
    #[serde(rename = "CheckID")]
    check_id: Cow<'a, str>,
    name: Cow<'a, str>,
    status: &'static str,
    notes: Cow<'a, str>,
    output: Cow<'a, str>,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: Option<Vec<&'a str>>,
    #[serde(rename = "Type")]
    kind: &'static str,
    exposed_port: u16,
    definition: NoDefinition,
    create_index: u64,
    modify_index: u64,
}

/// How a check is made, where that is not told.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NoDefinition {
    interval: &'static str,
    timeout: &'static str,
    deregister_critical_service_after: &'static str,
    #[serde(rename = "HTTP")]
    http: &'static str,
    header: Option<Empty>,
    method: &'static str,
    body: &'static str,
    #[serde(rename = "TLSServerName")]
    tls_server_name: &'static str,
    #[serde(rename = "TLSSkipVerify")]
    tls_skip_verify: bool,
    #[serde(rename = "TCP")]
    tcp: &'static str,
    #[serde(rename = "TCPUseTLS")]
    tcp_use_tls: bool,
    #[serde(rename = "UDP")]
    udp: &'static str,
    #[serde(rename = "GRPC")]
    grpc: &'static str,
    #[serde(rename = "OSService")]
    os_service: &'static str,
    #[serde(rename = "GRPCUseTLS")]
    grpc_use_tls: bool,
}

impl Default for NoDefinition {
    fn default() -> Self {
        Self {
            interval: "0s",
            timeout: "0s",
            deregister_critical_service_after: "0s",
            http: "",
            header: None,
            method: "",
            body: "",
            tls_server_name: "",
            tls_skip_verify: false,
            tcp: "",
            tcp_use_tls: false,
            udp: "",
            grpc: "",
            os_service: "",
            grpc_use_tls: false,
        }
    }
}

/// The checks of an instance, by id: those that it has, and those that stand for its lease and for an operator's word.
pub(super) fn checks_of<'a>(instance: &'a Instance, node: &Cow<'a, str>, checks: &Checks) -> Vec<HealthCheck<'a>> {
    let mut all: Vec<_> =
        own_checks(&instance.service, &instance.id, instance, node, checks).map(|check| check.of(instance)).collect();
    let Marks { leaving, drained, .. } = instance.marks;
    if drained || leaving {
        let id = format!("_service_maintenance:{}", service_id(instance));
        let why = listed(instance, |listing| &listing.maintenance);
        let check = HealthCheck::standing_for(node.clone(), id, "Service Maintenance Mode", MAINTENANCE).of(instance);
        all.push(HealthCheck {
            notes: if why.is_empty() { NO_REASON.into() } else { why.into() },
            create_index: instance.revision.0,
            modify_index: instance.revision.0,
            ..check
        });
    }
    if instance.listing.is_none() {
        all.push(lease_of(instance, node));
    }
    all.sort_by(|one, other| one.check_id.cmp(&other.check_id));
    all
}

/// The checks of a node that are no instance's, by id.
pub(super) fn checks_of_node<'a>(node: &'a Instance, name: &Cow<'a, str>, checks: &Checks) -> Vec<HealthCheck<'a>> {
    let mut all: Vec<_> = own_checks(&node.service, &node.id, node, name, checks).collect();
    if node.marks.drained {
        let why = listed(node, |listing| &listing.maintenance);
        let id = "_node_maintenance".to_owned();
        all.push(HealthCheck {
            notes: if why.is_empty() { NO_NODE_REASON.into() } else { why.into() },
            create_index: node.revision.0,
            modify_index: node.revision.0,
            ..HealthCheck::standing_for(name.clone(), id, "Node Maintenance Mode", MAINTENANCE)
        });
    }
    all
}

fn own_checks<'a>(
    service: &'a ServiceName,
    id: &'a InstanceId,
    instance: &'a Instance,
    node: &Cow<'a, str>,
    checks: &Checks,
) -> impl Iterator<Item = HealthCheck<'a>> {
    let output = move |check: &Check| {
        checks.record(service, id, check.id()).map(|record| record.output().to_string()).unwrap_or_default()
    };
    instance.checks.iter().map(move |check| HealthCheck::new(node.clone(), check, output(check)))
}

/// A lease is a check that the instance feeds.
fn lease_of<'a>(instance: &'a Instance, node: &Cow<'a, str>) -> HealthCheck<'a> {
    let (status, output) = match instance.status() {
        Status::Starting if instance.marks.starting => (Verdict::Critical, "the instance says that it is starting"),
        Status::Suspect => {
            (Verdict::Passing, "the lease is overdue; kept because too many fell silent together to believe it")
        }
        Status::Serving | Status::Starting | Status::Draining | Status::Unhealthy => {
            (Verdict::Passing, "the lease is held")
        }
    };
    let id = format!("lease:{}", instance.id);
    HealthCheck {
        status: status.as_str(),
        output: output.into(),
        create_index: instance.registered_revision.0,
        modify_index: instance.revision.0,
        ..HealthCheck::standing_for(node.clone(), id, "Lease", "ttl").of(instance)
    }
}

/// A length of time as Go writes it: `1m30s`, `1.5s`, `200ms`.
pub(super) fn go_duration(span: Duration) -> String {
    let nanoseconds = span.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let fraction = |value: u128, unit: u128, name: &str| {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            return format!("{whole}{name}");
        }
        let digits = unit.ilog10() as usize;
        let rest = format!("{rest:0digits$}");
        format!("{whole}.{}{name}", rest.trim_end_matches('0'))
    };
    match nanoseconds {
        0..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => fraction(nanoseconds, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(nanoseconds, 1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (span.as_secs() / 60, nanoseconds % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_written_as_go_does() {
        let cases = [
            (0, "0s"),
            (200_000_000, "200ms"),
            (1_500_000, "1.5ms"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (5_400_000_000_000, "1h30m0s"),
            (7, "7ns"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(go_duration(Duration::from_nanos(nanoseconds)), text);
        }
    }
}
