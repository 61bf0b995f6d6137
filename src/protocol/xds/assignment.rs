//! Endpoints of a service: its instances as localities with weights.
//!
//! gRPC's round robin ignores the weights of endpoints, but every client heeds those of localities. So there is one locality for each
//! region, zone, sub-zone and weight, whose weight is the sum of those of its routable instances. The name of a locality depends on the
//! instance alone: a client reconnects to an endpoint that moves to another locality.
//!
//! The bytes are written directly, because a large service is encoded again after each of its changes.

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

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::Any;

    use super::*;
    use crate::{
        model::{Conditions, Revision},
        pb::envoy::config::{
            core::v3::{Locality as SentLocality, address, socket_address::PortSpecifier},
            endpoint::v3::{ClusterLoadAssignment, LbEndpoint, lb_endpoint::HostIdentifier},
        },
        registry::test_support::entry,
    };

    fn instance(id: &str, weight: u16, host: &str, port: u16) -> Instance {
        let mut instance = entry("web", id, weight).instance.clone();
        instance.addresses = [Address { host: host.into(), port, name: "".into() }].into();
        instance
    }

    fn decode(instances: &[Instance]) -> ClusterLoadAssignment {
        let any = ServiceAssignment::new(instances.iter()).encode("web").any;
        let any = Any::decode(&*any).unwrap();
        assert_eq!(any.type_url, ResourceType::Assignment.url());
        ClusterLoadAssignment::decode(&*any.value).unwrap()
    }

    fn sent(address: &crate::pb::envoy::config::core::v3::Address) -> (String, u32) {
        let Some(address::Address::SocketAddress(socket)) = &address.address else { panic!() };
        let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { panic!() };
        (socket.address.clone(), port)
    }

    fn addresses(endpoint: &LbEndpoint) -> Vec<(String, u32)> {
        let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else { panic!() };
        let additional = endpoint.additional_addresses.iter().map(|additional| additional.address.as_ref().unwrap());
        endpoint.address.iter().chain(additional).map(sent).collect()
    }

    #[test]
    fn endpoints_are_grouped_by_locality_and_weight_with_the_sum_of_routable_weights() {
        let mut instances = vec![
            instance("a", 1, "10.0.0.1", 80),
            instance("b", 3, "10.0.0.2", 80),
            instance("c", 3, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 65_535),
            instance("d", 3, "10.0.0.4", 80),
            instance("e", 2, "10.0.0.5", 80),
        ];
        instances[3].conditions = Conditions { operator_draining: true, ..Conditions::default() };
        instances[4].locality = Locality::parse("r", "z", "rack").unwrap();
        let assignment = decode(&instances);
        assert_eq!(assignment.cluster_name, "web");
        let found: Vec<_> = assignment
            .endpoints
            .iter()
            .map(|group| {
                let SentLocality { region, zone, sub_zone } = group.locality.clone().unwrap();
                let statuses: Vec<_> = group.lb_endpoints.iter().map(LbEndpoint::health_status).collect();
                let addresses: Vec<_> = group.lb_endpoints.iter().flat_map(addresses).map(|(ip, _)| ip).collect();
                (format!("{region}/{zone}/{sub_zone}"), group.load_balancing_weight, statuses, addresses.join(" "))
            })
            .collect();
        let (healthy, draining) = (HealthStatus::Healthy, HealthStatus::Draining);
        assert_eq!(
            found,
            [
                ("//".to_owned(), Some(1), vec![healthy], "10.0.0.1".to_owned()),
                (
                    "//~w3".to_owned(),
                    Some(6),
                    vec![healthy, healthy, draining],
                    "10.0.0.2 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff 10.0.0.4".to_owned()
                ),
                ("r/z/rack~w2".to_owned(), Some(2), vec![healthy], "10.0.0.5".to_owned()),
            ]
        );
    }

    #[test]
    fn service_without_instances_has_an_empty_assignment() {
        let assignment = decode(&[]);
        assert_eq!((&*assignment.cluster_name, assignment.endpoints.len()), ("web", 0));
    }

    #[test]
    fn instance_that_clients_would_reject_is_left_out_with_its_reason() {
        let mut instances = vec![
            instance("host", 1, "web.internal", 80),
            instance("port", 1, "10.0.0.1", 0),
            instance("old", 1, "10.0.0.2", 80),
            instance("new", 1, "::ffff:10.0.0.2", 80),
            instance("starting", 1, "10.0.0.3", 80),
        ];
        instances[2].registered_revision = Revision(1);
        instances[3].registered_revision = Revision(2);
        instances[4].conditions.starting = true;
        for _ in 0..2 {
            let assignment = ServiceAssignment::new(instances.iter());
            let omitted: BTreeMap<_, _> =
                assignment.omitted.iter().map(|(instance, reason)| (instance.id.as_str(), reason.clone())).collect();
            let expected = BTreeMap::from([
                ("host", OmissionReason::HostName),
                ("port", OmissionReason::NoPort),
                ("old", OmissionReason::SameAddress(InstanceId::parse("new").unwrap())),
                ("starting", OmissionReason::Starting),
            ]);
            assert_eq!(omitted, expected);
            assert_eq!(assignment.endpoints.len(), 1);
            instances.reverse();
        }
        assert_eq!(addresses(&decode(&instances).endpoints[0].lb_endpoints[0]), [("10.0.0.2".to_owned(), 80)]);
    }

    #[test]
    fn other_family_of_the_same_port_and_name_is_an_additional_address() {
        let address = |host: &str, port, name: &str| Address { host: host.into(), port, name: name.into() };
        let mut dual = instance("a", 1, "10.0.0.1", 80);
        dual.addresses = [
            address("10.0.0.1", 80, ""),
            address("10.0.0.9", 80, ""),
            address("fd00::1", 81, ""),
            address("fd00::2", 80, "metrics"),
            address("fd00::3", 80, ""),
        ]
        .into();
        let mut other = dual.clone();
        other.id = InstanceId::parse("b").unwrap();
        other.addresses = [address("10.0.0.2", 80, ""), address("fd00::3", 80, "")].into();
        let assignment = decode(&[dual, other]);
        let endpoints = &assignment.endpoints[0].lb_endpoints;
        let expected = [("10.0.0.1".to_owned(), 80), ("fd00::3".to_owned(), 80)];
        assert_eq!(addresses(&endpoints[0]), expected);
        assert_eq!(addresses(&endpoints[1]), [("10.0.0.2".to_owned(), 80)], "an address occurs once");
    }

    #[test]
    fn locality_that_looks_like_a_weight_is_not_mixed_up_with_one() {
        let named = |id, weight, ip, sub_zone| Instance {
            locality: Locality::parse("", "", sub_zone).unwrap(),
            ..instance(id, weight, ip, 80)
        };
        let assignment = decode(&[named("a", 3, "10.0.0.1", "rack"), named("b", 1, "10.0.0.2", "rack~w3")]);
        let sub_zones: Vec<_> =
            assignment.endpoints.iter().map(|group| group.locality.clone().unwrap().sub_zone).collect();
        assert_eq!(sub_zones, ["rack~w3", "rack~w3~w1"]);
    }

    #[test]
    fn sum_of_weights_fits_32_bits() {
        let instances: Vec<_> = (0..70_000_u32)
            .map(|n| {
                let [_, b, c, d] = n.to_be_bytes();
                let mut instance =
                    instance("a", u16::MAX - u16::try_from(n % 2).unwrap(), &format!("10.{b}.{c}.{d}"), 80);
                instance.id = InstanceId::parse(&format!("i{n}")).unwrap();
                instance
            })
            .collect();
        let assignment = decode(&instances);
        let weights: Vec<_> = assignment.endpoints.iter().map(|group| group.load_balancing_weight.unwrap()).collect();
        assert_eq!(weights.len(), 2);
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        assert!(u32::try_from(sum).is_ok(), "{sum}");
    }
}
