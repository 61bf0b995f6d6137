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
    let sub_zones: Vec<_> = assignment.endpoints.iter().map(|group| group.locality.clone().unwrap().sub_zone).collect();
    assert_eq!(sub_zones, ["rack~w3", "rack~w3~w1"]);
}

#[test]
fn sum_of_weights_fits_32_bits() {
    let instances: Vec<_> = (0..70_000_u32)
        .map(|n| {
            let [_, b, c, d] = n.to_be_bytes();
            let mut instance = instance("a", u16::MAX - u16::try_from(n % 2).unwrap(), &format!("10.{b}.{c}.{d}"), 80);
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
