//! Endpoints of a service: its instances as localities with weights.
//!
//! gRPC's round robin ignores the weights of endpoints, but every client heeds those of localities. So there is one locality for each
//! region, zone, sub-zone and weight, whose weight is the sum of those of its routable instances. The name of a locality depends on the
//! instance alone: a client reconnects to an endpoint that moves to another locality.
//!
//! The bytes are written directly, because a large service is encoded again after each of its changes.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint};

use super::resource::{EncodedResource, ResourceType};
use crate::{
    model::{Address, Instance, InstanceId, Locality, Status},
    pb::envoy::config::core::v3::HealthStatus,
};

/// Factor by which Envoy multiplies the share of healthy endpoints in a locality, in percent, before it moves requests elsewhere. With
/// this one a locality keeps its whole weight as long as one of 10,000 endpoints is healthy, as in gRPC: the weight takes the unhealthy
/// ones into account already.
const OVERPROVISIONING_FACTOR: u64 = 1_000_000;

/// Numbers of the fields that are written.
mod field {
    pub(super) const ANY_TYPE_URL: u32 = 1;
    pub(super) const ANY_VALUE: u32 = 2;
    pub(super) const ASSIGNMENT_CLUSTER_NAME: u32 = 1;
    pub(super) const ASSIGNMENT_ENDPOINTS: u32 = 2;
    pub(super) const ASSIGNMENT_POLICY: u32 = 4;
    pub(super) const POLICY_OVERPROVISIONING_FACTOR: u32 = 3;
    pub(super) const LOCALITY_ENDPOINTS_LOCALITY: u32 = 1;
    pub(super) const LOCALITY_ENDPOINTS_LB_ENDPOINTS: u32 = 2;
    pub(super) const LOCALITY_ENDPOINTS_WEIGHT: u32 = 3;
    pub(super) const LOCALITY_REGION: u32 = 1;
    pub(super) const LOCALITY_ZONE: u32 = 2;
    pub(super) const LOCALITY_SUB_ZONE: u32 = 3;
    pub(super) const LB_ENDPOINT_ENDPOINT: u32 = 1;
    pub(super) const LB_ENDPOINT_HEALTH_STATUS: u32 = 2;
    pub(super) const ENDPOINT_ADDRESS: u32 = 1;
    pub(super) const ENDPOINT_ADDITIONAL_ADDRESSES: u32 = 4;
    pub(super) const ADDITIONAL_ADDRESS_ADDRESS: u32 = 1;
    pub(super) const ADDRESS_SOCKET_ADDRESS: u32 = 1;
    pub(super) const SOCKET_ADDRESS_ADDRESS: u32 = 2;
    pub(super) const SOCKET_ADDRESS_PORT_VALUE: u32 = 3;
    pub(super) const VALUE: u32 = 1;
}

/// Reason for which an instance is not among the endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OmissionReason {
    /// It has not become ready yet.
    Starting,
    /// Its primary address has a host name, which clients reject.
    HostName,
    /// Its primary address has no port.
    NoPort,
    /// A newer registration has the same address.
    SameAddress(InstanceId),
}

/// Endpoint of an assignment.
#[derive(Debug)]
pub(super) struct XdsEndpoint<'a> {
    pub(super) instance: &'a Instance,
    pub(super) address: SocketAddr,
    /// Address of the other family.
    pub(super) additional: Option<SocketAddr>,
}

/// Locality as it is sent.
#[derive(Debug)]
pub(super) struct AssignedLocality<'a> {
    pub(super) region: &'a str,
    pub(super) zone: &'a str,
    pub(super) sub_zone: String,
    pub(super) weight: u64,
    /// Sum of the weights of routable endpoints.
    pub(super) routable: u64,
    /// Endpoints, in the order of the instances.
    pub(super) endpoints: Vec<&'a XdsEndpoint<'a>>,
}

/// Locality of endpoints with the same weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct LocalityKey<'a> {
    region: &'a str,
    zone: &'a str,
    sub_zone: &'a str,
    weight: u16,
}

impl<'a> LocalityKey<'a> {
    fn of(instance: &'a Instance) -> Self {
        let weight = instance.effective_weight().get();
        match instance.locality.as_deref() {
            Some(Locality { region, zone, sub_zone }) => Self { region, zone, sub_zone, weight },
            None => Self { region: "", zone: "", sub_zone: "", weight },
        }
    }

    /// Sub-zone as it is sent: with the weight, unless that is 1. A sub-zone that looks as if it ended with a weight gets another one.
    fn sent_sub_zone(&self) -> String {
        let ends_with_weight = || {
            let digits = self.sub_zone.rsplit_once("~w").map_or("", |(_, digits)| digits);
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        if self.weight == 1 && !ends_with_weight() {
            self.sub_zone.to_owned()
        } else {
            format!("{}~w{}", self.sub_zone, self.weight)
        }
    }
}

/// Endpoints of a locality.
#[derive(Debug, Default)]
struct LocalityEndpoints {
    /// Indexes of the endpoints, by instance id.
    endpoints: Vec<usize>,
    /// Sum of the weights of routable endpoints.
    routable: u64,
    /// Sum of the weights of all endpoints.
    total: u64,
}

/// Endpoints of a service, and the instances that are none.
#[derive(Debug)]
pub(super) struct ServiceAssignment<'a> {
    endpoints: Vec<XdsEndpoint<'a>>,
    localities: BTreeMap<LocalityKey<'a>, LocalityEndpoints>,
    /// Instances that are left out.
    pub(super) omitted: Vec<(&'a Instance, OmissionReason)>,
}

impl<'a> ServiceAssignment<'a> {
    /// Sorts the instances of a service into localities. An assignment in which an address occurs twice is rejected by clients as a
    /// whole, so the newest registration of an address keeps it.
    pub(super) fn new(instances: impl Iterator<Item = &'a Instance>) -> Self {
        let mut found = Self { endpoints: Vec::new(), localities: BTreeMap::new(), omitted: Vec::new() };
        let mut endpoints = Vec::new();
        let mut newest: HashMap<SocketAddr, &Instance> = HashMap::new();
        for instance in instances {
            match endpoint(instance) {
                Ok(endpoint) => {
                    let newest = newest.entry(endpoint.address).or_insert(instance);
                    if newest.registered_revision < instance.registered_revision {
                        *newest = instance;
                    }
                    endpoints.push(endpoint);
                }
                Err(reason) => found.omitted.push((instance, reason)),
            }
        }
        endpoints.retain(|endpoint| match newest.get(&endpoint.address) {
            Some(newest) if newest.id != endpoint.instance.id => {
                found.omitted.push((endpoint.instance, OmissionReason::SameAddress(newest.id.clone())));
                false
            }
            Some(_) | None => true,
        });
        found.collect(endpoints, newest.into_keys().collect());
        found
    }

    /// Sorts endpoints with different addresses into localities. An additional address that is an address of another endpoint is dropped.
    fn collect(&mut self, endpoints: Vec<XdsEndpoint<'a>>, mut addresses: HashSet<SocketAddr>) {
        let mut localities: HashMap<LocalityKey<'a>, LocalityEndpoints> = HashMap::new();
        for mut endpoint in endpoints {
            endpoint.additional = endpoint.additional.filter(|additional| addresses.insert(*additional));
            let key = LocalityKey::of(endpoint.instance);
            let locality = localities.entry(key).or_default();
            locality.endpoints.push(self.endpoints.len());
            locality.total += u64::from(key.weight);
            if endpoint.instance.status().is_routable() {
                locality.routable += u64::from(key.weight);
            }
            self.endpoints.push(endpoint);
        }
        self.localities = localities.into_iter().collect();
    }

    /// Returns the localities as they are sent.
    pub(super) fn localities(&self) -> impl Iterator<Item = AssignedLocality<'_>> {
        let divisor = self.divisor();
        self.localities.iter().map(move |(key, locality)| AssignedLocality {
            region: key.region,
            zone: key.zone,
            sub_zone: key.sent_sub_zone(),
            weight: locality.sent_weight(divisor),
            routable: locality.routable,
            endpoints: locality.endpoints.iter().map(|endpoint| &self.endpoints[*endpoint]).collect(),
        })
    }

    /// Divisor of all weights, because their sum must fit 32 bits.
    fn divisor(&self) -> u64 {
        let sum: u64 = self.localities.values().map(LocalityEndpoints::weight).sum();
        sum / u64::from(u32::MAX) + 1
    }

    /// Encodes the assignment of the cluster with this name.
    pub(super) fn encode(&self, cluster: &str) -> EncodedResource {
        let divisor = self.divisor();
        let mut assignment = BytesMut::with_capacity(64 + cluster.len() + 40 * self.endpoints.len());
        put_text(field::ASSIGNMENT_CLUSTER_NAME, cluster, &mut assignment);
        let mut bytes = BytesMut::new();
        for (key, locality) in &self.localities {
            bytes.clear();
            put_locality(key, &mut bytes);
            for endpoint in &locality.endpoints {
                self.endpoints[*endpoint].put(&mut bytes);
            }
            put_wrapped(field::LOCALITY_ENDPOINTS_WEIGHT, locality.sent_weight(divisor), &mut bytes);
            put_bytes(field::ASSIGNMENT_ENDPOINTS, &bytes, &mut assignment);
        }
        bytes.clear();
        put_wrapped(field::POLICY_OVERPROVISIONING_FACTOR, OVERPROVISIONING_FACTOR, &mut bytes);
        put_bytes(field::ASSIGNMENT_POLICY, &bytes, &mut assignment);

        let url = ResourceType::Assignment.url();
        let mut any = BytesMut::with_capacity(url.len() + assignment.len() + 16);
        put_text(field::ANY_TYPE_URL, url, &mut any);
        put_bytes(field::ANY_VALUE, &assignment, &mut any);
        // Copied to its exact size, because it is kept.
        EncodedResource::new(Bytes::copy_from_slice(&any))
    }
}

impl LocalityEndpoints {
    /// Weight of the locality. gRPC ignores a locality of weight 0.
    fn weight(&self) -> u64 {
        if self.routable > 0 { self.routable } else { self.total }
    }

    fn sent_weight(&self, divisor: u64) -> u64 {
        (self.weight() / divisor).max(1)
    }
}

/// Returns the endpoint of an instance, or the reason for which it has none.
fn endpoint(instance: &Instance) -> Result<XdsEndpoint<'_>, OmissionReason> {
    if instance.status() == Status::Starting {
        return Err(OmissionReason::Starting);
    }
    let primary = instance.addresses.first().ok_or(OmissionReason::NoPort)?;
    let ip = ip(primary).ok_or(OmissionReason::HostName)?;
    if primary.port == 0 {
        return Err(OmissionReason::NoPort);
    }
    // The same port under the same name at an address of the other family is the same listener.
    let is_other_family = |other: &IpAddr| other.is_ipv4() != ip.is_ipv4();
    let additional = instance.addresses[1..]
        .iter()
        .filter(|address| address.port == primary.port && address.name == primary.name)
        .find_map(|address| self::ip(address).filter(is_other_family));
    Ok(XdsEndpoint {
        instance,
        address: SocketAddr::new(ip, primary.port),
        additional: additional.map(|ip| SocketAddr::new(ip, primary.port)),
    })
}

fn ip(address: &Address) -> Option<IpAddr> {
    address.host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

fn health(status: Status) -> HealthStatus {
    match status {
        Status::Serving | Status::Suspect => HealthStatus::Healthy,
        Status::Draining => HealthStatus::Draining,
        Status::Unhealthy => HealthStatus::Unhealthy,
        // A starting instance is left out.
        Status::Starting => HealthStatus::Unknown,
    }
}

impl XdsEndpoint<'_> {
    /// Health status that clients get.
    pub(super) fn health(&self) -> HealthStatus {
        health(self.instance.status())
    }

    fn put(&self, to: &mut BytesMut) {
        put_small(field::LOCALITY_ENDPOINTS_LB_ENDPOINTS, to, |to| {
            put_small(field::LB_ENDPOINT_ENDPOINT, to, |to| {
                put_small(field::ENDPOINT_ADDRESS, to, |to| put_address(self.address, to));
                if let Some(additional) = self.additional {
                    put_small(field::ENDPOINT_ADDITIONAL_ADDRESSES, to, |to| {
                        put_small(field::ADDITIONAL_ADDRESS_ADDRESS, to, |to| put_address(additional, to));
                    });
                }
            });
            put_number(field::LB_ENDPOINT_HEALTH_STATUS, self.health() as u64, to);
        });
    }
}

fn put_locality(key: &LocalityKey<'_>, to: &mut BytesMut) {
    // Present even if it is empty: gRPC rejects endpoints without a locality.
    let mut locality = BytesMut::new();
    put_text(field::LOCALITY_REGION, key.region, &mut locality);
    put_text(field::LOCALITY_ZONE, key.zone, &mut locality);
    put_text(field::LOCALITY_SUB_ZONE, &key.sent_sub_zone(), &mut locality);
    put_bytes(field::LOCALITY_ENDPOINTS_LOCALITY, &locality, to);
}

fn put_address(address: SocketAddr, to: &mut BytesMut) {
    put_small(field::ADDRESS_SOCKET_ADDRESS, to, |to| {
        put_small(field::SOCKET_ADDRESS_ADDRESS, to, |to| {
            // Writing to a buffer that grows does not fail.
            let _ = write!(to, "{}", address.ip());
        });
        put_number(field::SOCKET_ADDRESS_PORT_VALUE, address.port().into(), to);
    });
}

/// Writes a field of fewer than 128 bytes, whose length takes one byte. An endpoint with two IPv6 addresses has at most 108.
fn put_small(number: u32, to: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    encode_key(number, WireType::LengthDelimited, to);
    let at = to.len();
    to.put_u8(0);
    write(to);
    to[at] = u8::try_from(to.len() - at - 1).unwrap_or_default();
}

fn put_number(number: u32, value: u64, to: &mut BytesMut) {
    encode_key(number, WireType::Varint, to);
    encode_varint(value, to);
}

/// Writes a `google.protobuf.UInt32Value`.
fn put_wrapped(number: u32, value: u64, to: &mut BytesMut) {
    put_small(number, to, |to| put_number(field::VALUE, value, to));
}

/// Writes a text, which is left out if it is empty.
fn put_text(number: u32, text: &str, to: &mut BytesMut) {
    if !text.is_empty() {
        put_bytes(number, text.as_bytes(), to);
    }
}

fn put_bytes(number: u32, bytes: &[u8], to: &mut BytesMut) {
    encode_key(number, WireType::LengthDelimited, to);
    encode_varint(bytes.len() as u64, to);
    to.put_slice(bytes);
}
