//! JSON shapes of answers, with the fields of Consul in its order.
//!
//! An instance with a lease is shown on the local node, with the lease as a check, so that queries for passing instances find it.

mod check;
mod mesh;

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use serde::Serialize;

use super::agent::AgentIdentity;
use crate::model::{CheckStatus, ConsulRegistration, Instance, Locality};
pub(super) use check::{BriefCheck, HealthCheck, checks_of, checks_of_node, go_duration};
use mesh::{ConnectView, ProxyView};

/// Sorted map of texts.
pub(super) type Map<'a> = BTreeMap<Cow<'a, str>, Cow<'a, str>>;

/// Node in an answer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NodeView<'a> {
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
pub(super) struct TaggedAddressView<'a> {
    pub address: &'a str,
    pub port: u16,
}

type TaggedAddresses<'a> = BTreeMap<&'a str, TaggedAddressView<'a>>;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct LocalityView<'a> {
    region: &'a str,
    zone: &'a str,
}

/// Service in answers of `/v1/health/service` and `/v1/catalog/node`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ServiceView<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    kind: &'a str,
    #[serde(rename = "ID")]
    pub id: &'a str,
    pub service: &'a str,
    tags: Vec<&'a str>,
    address: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tagged_addresses: TaggedAddresses<'a>,
    meta: Option<BTreeMap<&'a str, &'a str>>,
    #[serde(skip_serializing_if = "is_zero")]
    port: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    socket_path: &'a str,
    weights: Weights,
    enable_tag_override: bool,
    proxy: ProxyView,
    connect: ConnectView,
    #[serde(skip_serializing_if = "Option::is_none")]
    locality: Option<LocalityView<'a>>,
    peer_name: &'static str,
    create_index: u64,
    modify_index: u64,
}

/// Service in answers of `/v1/agent/services`.
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
    locality: Option<LocalityView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<ProxyView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<ConnectView>,
    datacenter: &'a str,
}

/// Service and its node in one, in answers of `/v1/catalog/service`.
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
    service_proxy: ProxyView,
    service_connect: ConnectView,
    service_locality: Option<LocalityView<'a>>,
    create_index: u64,
    modify_index: u64,
}

/// Instance, its node and the checks of both, in answers of `/v1/health/service`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ServiceEntry<'a> {
    pub node: NodeView<'a>,
    pub service: ServiceView<'a>,
    pub checks: Vec<HealthCheck<'a>>,
}

impl ServiceEntry<'_> {
    /// Returns whether all checks pass.
    pub(super) fn passes(&self) -> bool {
        self.checks.iter().all(|check| check.status == CheckStatus::Passing.as_str())
    }
}

/// Returns the id of an instance in Consul.
pub(super) fn service_id(instance: &Instance) -> &str {
    instance.consul_registration.as_ref().map_or_else(|| instance.id.as_str(), |registration| &registration.id)
}

fn address(instance: &Instance) -> (&str, u16) {
    let first = instance.addresses.first();
    let (host, port) = first.map_or(("", 0), |address| (&*address.host, address.port));
    (instance.consul_registration.as_ref().map_or(host, |registration| &registration.address), port)
}

/// Returns the tagged addresses of an instance. An agent adds those of an IP address, the catalog does not.
fn tagged(instance: &Instance) -> TaggedAddresses<'_> {
    let (host, port) = address(instance);
    let mut all = TaggedAddresses::new();
    let in_catalog = |registration: &ConsulRegistration| registration.from_catalog || !registration.node.is_empty();
    if !instance.consul_registration.as_deref().is_some_and(in_catalog) {
        let names: &[&str] = match host.parse() {
            Ok(IpAddr::V4(_)) => &["lan_ipv4", "wan_ipv4"],
            Ok(IpAddr::V6(_)) => &["lan_ipv6", "wan_ipv6"],
            Err(_) => &[],
        };
        all.extend(names.iter().map(|name| (*name, TaggedAddressView { address: host, port })));
    }
    let given = instance.consul_registration.iter().flat_map(|registration| &registration.tagged_addresses);
    all.extend(given.map(|(name, host, port)| (&**name, TaggedAddressView { address: host, port: *port })));
    all
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde passes it")]
fn is_zero(port: &u16) -> bool {
    *port == 0
}

fn weights(instance: &Instance) -> Weights {
    let passing = instance.weight.get();
    Weights {
        passing,
        warning: instance.consul_registration.as_ref().map_or(passing, |registration| registration.warning_weight),
    }
}

/// Returns the revision at which the description of an instance last changed.
fn description_index(instance: &Instance) -> u64 {
    instance.consul_registration.as_ref().map_or(instance.revision, |registration| registration.description_revision).0
}

fn meta(instance: &Instance) -> BTreeMap<&str, &str> {
    instance.metadata.iter().collect()
}

fn locality(instance: &Instance) -> Option<LocalityView<'_>> {
    let Locality { region, zone, .. } = instance.locality.as_deref()?;
    Some(LocalityView { region, zone })
}

fn registered_text<'a>(instance: &'a Instance, text: impl Fn(&'a ConsulRegistration) -> &'a str) -> &'a str {
    instance.consul_registration.as_deref().map_or("", text)
}

impl<'a> ServiceView<'a> {
    pub(super) fn new(instance: &'a Instance) -> Self {
        let (address, port) = address(instance);
        let meta = meta(instance);
        Self {
            kind: registered_text(instance, |registration| &registration.kind),
            id: service_id(instance),
            service: instance.service.as_str(),
            tags: instance.tags.iter().collect(),
            address,
            tagged_addresses: tagged(instance),
            meta: (!meta.is_empty()).then_some(meta),
            port,
            socket_path: registered_text(instance, |registration| &registration.socket_path),
            weights: weights(instance),
            enable_tag_override: instance
                .consul_registration
                .as_ref()
                .is_some_and(|registration| registration.enable_tag_override),
            proxy: ProxyView::new(instance),
            connect: ConnectView::new(instance),
            locality: locality(instance),
            peer_name: "",
            create_index: instance.registered_revision.0,
            modify_index: description_index(instance),
        }
    }
}

impl<'a> AgentService<'a> {
    pub(super) fn new(instance: &'a Instance, agent: &'a AgentIdentity) -> Self {
        let (address, port) = address(instance);
        Self {
            kind: registered_text(instance, |registration| &registration.kind),
            id: service_id(instance),
            service: instance.service.as_str(),
            tags: instance.tags.iter().collect(),
            meta: meta(instance),
            port,
            address,
            socket_path: registered_text(instance, |registration| &registration.socket_path),
            tagged_addresses: tagged(instance),
            weights: weights(instance),
            enable_tag_override: instance
                .consul_registration
                .as_ref()
                .is_some_and(|registration| registration.enable_tag_override),
            locality: locality(instance),
            content_hash: None,
            proxy: ProxyView::at_agent(instance),
            connect: ConnectView::at_agent(instance),
            datacenter: &agent.datacenter,
        }
    }
}

impl<'a> CatalogService<'a> {
    pub(super) fn new(node: NodeView<'a>, instance: &'a Instance) -> Self {
        let (service_address, service_port) = address(instance);
        Self {
            id: node.id,
            node: node.node,
            address: node.address,
            datacenter: node.datacenter,
            tagged_addresses: node.tagged_addresses,
            node_meta: node.meta,
            service_kind: registered_text(instance, |registration| &registration.kind),
            service_id: service_id(instance),
            service_name: instance.service.as_str(),
            service_tags: instance.tags.iter().collect(),
            service_address,
            service_tagged_addresses: tagged(instance),
            service_weights: weights(instance),
            service_meta: meta(instance),
            service_port,
            service_socket_path: registered_text(instance, |registration| &registration.socket_path),
            service_enable_tag_override: instance
                .consul_registration
                .as_ref()
                .is_some_and(|registration| registration.enable_tag_override),
            service_proxy: ProxyView::new(instance),
            service_connect: ConnectView::new(instance),
            service_locality: locality(instance),
            create_index: instance.registered_revision.0,
            modify_index: description_index(instance),
        }
    }
}
