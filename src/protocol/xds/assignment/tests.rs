use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::Any;

use super::{
    super::{
        cluster_name::{clusters_of, clusters_of_split, defines, is_failing_cluster, split_cluster_name},
        resource::ResourceType,
    },
    *,
};
use crate::{
    model::{
        Address, Conditions, InstanceFilter, InstanceId, Locality, Metadata, PolicyRoute, Revision, ServiceName, Split,
        Subset,
    },
    pb::envoy::config::{
        core::v3::{HealthStatus, Locality as SentLocality, address, socket_address::PortSpecifier},
        endpoint::v3::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
    },
    registry::test_support::entry,
};

pub(super) fn instance(id: &str, weight: u16, host: &str, port: u16) -> Instance {
    let mut instance = entry("web", id, weight).instance.clone();
    instance.addresses = [Address { host: host.into(), port, name: "".into() }].into();
    instance
}

fn decode(instances: &[Instance]) -> ClusterLoadAssignment {
    decode_input(&input(&EffectivePolicy::default(), instances), None)
}

pub(super) fn input<'a>(policy: &'a EffectivePolicy, instances: &'a [Instance]) -> AssignmentInput<'a> {
    AssignmentInput {
        policy,
        subset: None,
        is_failing: false,
        own: instances.iter().collect(),
        fallbacks: Vec::new(),
        weights: None,
        layout: EndpointLayout::Priorities,
    }
}

pub(super) fn decode_input(input: &AssignmentInput<'_>, zone: Option<&ZoneLayout>) -> ClusterLoadAssignment {
    let any = Any::decode(&*input.encode("web", zone).any).unwrap();
    assert_eq!(any.type_url, ResourceType::Assignment.url());
    ClusterLoadAssignment::decode(&*any.value).unwrap()
}

fn sent(address: &crate::pb::envoy::config::core::v3::Address) -> (String, u32) {
    let Some(address::Address::SocketAddress(socket)) = &address.address else { panic!() };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { panic!() };
    (socket.address.clone(), port)
}

pub(super) fn addresses(endpoint: &LbEndpoint) -> Vec<(String, u32)> {
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
        let policy = EffectivePolicy::default();
        let assignment = input(&policy, &instances).sort();
        let omitted: BTreeMap<_, _> =
            assignment.omitted.iter().map(|(instance, reason)| (instance.id.as_str(), reason.clone())).collect();
        let expected = BTreeMap::from([
            ("host", OmissionReason::HostName),
            ("port", OmissionReason::NoPort),
            ("old", OmissionReason::SameAddress(InstanceId::parse("new").unwrap())),
            ("starting", OmissionReason::Starting),
        ]);
        assert_eq!(omitted, expected);
        assert_eq!(assignment.tiers[0][0].endpoints.len(), 1);
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

#[test]
fn assignment_without_policy_keeps_its_bytes() {
    let mut instances = vec![
        instance("a", 1, "10.0.0.1", 80),
        instance("b", 3, "10.0.0.2", 80),
        instance("c", 3, "2001:db8::1", 65_535),
        instance("d", 3, "10.0.0.4", 80),
        instance("e", 2, "10.0.0.5", 80),
        instance("f", 2, "10.0.0.6", 80),
    ];
    instances[3].conditions = Conditions { operator_draining: true, ..Conditions::default() };
    for at in [4, 5] {
        instances[at].locality = Locality::parse("r", "z", "rack").unwrap();
    }
    let hash = input(&EffectivePolicy::default(), &instances).encode("web", None).hash;
    assert_eq!(hash, 14_102_950_927_195_473_704);
}

const V1: &str = r#"metadata["version"] == "1""#;

/// Returns an instance of a version.
pub(super) fn versioned(id: &str, version: &str, host: &str) -> Instance {
    Instance { metadata: Metadata::parse([(&"version", &version)].into_iter()).unwrap(), ..instance(id, 1, host, 80) }
}

/// Returns a policy with a subset `v1`, and the split of the calls that no route matches.
pub(super) fn policy(default_split: Option<(&str, EmptySubset)>) -> (EffectivePolicy, SubsetName) {
    let name = |name: &str| SubsetName::parse(name).unwrap();
    let subset = |filter: &str| Subset { filter: InstanceFilter::parse(filter).unwrap().unwrap() };
    let policy = EffectivePolicy {
        subsets: BTreeMap::from([(name("v1"), subset(V1)), (name("v2"), subset("id == \"none\""))]),
        default_split: default_split.map(|(subset, empty)| Split { shares: vec![(name(subset), 100)], empty }),
        ..EffectivePolicy::default()
    };
    (policy, name("v1"))
}

/// Returns the priority, the sub-zone and the addresses of each locality.
pub(super) fn localities(assignment: &ClusterLoadAssignment) -> Vec<(u32, String, String)> {
    let locality = |group: &LocalityLbEndpoints| {
        let addresses: Vec<_> = group.lb_endpoints.iter().flat_map(addresses).map(|(ip, _)| ip).collect();
        (group.priority, group.locality.clone().unwrap().sub_zone, addresses.join(" "))
    };
    assignment.endpoints.iter().map(locality).collect()
}

fn expected<const N: usize>(localities: [(u32, &str, &str); N]) -> Vec<(u32, String, String)> {
    localities.map(|(priority, sub_zone, ips)| (priority, sub_zone.to_owned(), ips.to_owned())).to_vec()
}

#[test]
fn subset_is_followed_by_the_rest_of_the_service_and_by_fallbacks_without_repeated_addresses() {
    let own = [versioned("a", "1", "10.0.0.1"), versioned("b", "2", "10.0.0.2"), versioned("c", "1", "10.0.0.3")];
    let mut fallback = [versioned("x", "1", "10.1.0.1"), versioned("y", "1", "10.0.0.2")];
    for instance in &mut fallback {
        instance.service = ServiceName::parse("web-dr").unwrap();
    }
    let assignment = |split, subset: bool| {
        let (policy, v1) = policy(split);
        let fallbacks = vec![Vec::new(), fallback.iter().collect()];
        decode_input(&AssignmentInput { subset: subset.then_some(&v1), fallbacks, ..input(&policy, &own) }, None)
    };
    let spilling = assignment(Some(("v1", EmptySubset::Spill)), true);
    let first = (0, "", "10.0.0.1 10.0.0.3");
    assert_eq!(
        localities(&spilling),
        expected([first, (1, "~@", "10.0.0.2"), (2, "~@web-dr", "10.1.0.1")]),
        "empty tiers leave no gap"
    );
    assert_eq!(localities(&assignment(Some(("v1", EmptySubset::Fail)), true)), expected([first]));
    assert_eq!(localities(&assignment(Some(("v2", EmptySubset::Spill)), true)), expected([first]), "it gets no calls");
    assert_eq!(
        localities(&assignment(None, false)),
        expected([(0, "", "10.0.0.1 10.0.0.2 10.0.0.3"), (1, "~@web-dr", "10.1.0.1")])
    );
}

#[test]
fn calls_that_fail_have_a_cluster_of_their_own_beside_those_that_do_not() {
    let own = [versioned("a", "1", "10.0.0.1"), versioned("b", "2", "10.0.0.2")];
    let (mut policy, v1) = policy(Some(("v1", EmptySubset::Spill)));
    assert_eq!(EmptyModes::of(&policy, &v1), EmptyModes::Same(EmptySubset::Spill));
    policy.routes.push(PolicyRoute {
        headers: Vec::new(),
        method: None,
        split: Some(Split { shares: vec![(v1.clone(), 100)], empty: EmptySubset::Fail }),
        timeout: None,
        retry: None,
        hash_header: None,
    });
    assert_eq!(EmptyModes::of(&policy, &v1), EmptyModes::Both);
    let localities_of = |is_failing| {
        let input = AssignmentInput { subset: Some(&v1), is_failing, ..input(&policy, &own) };
        localities(&decode_input(&input, None))
    };
    assert_eq!(localities_of(false), expected([(0, "", "10.0.0.1"), (1, "~@", "10.0.0.2")]));
    assert_eq!(localities_of(true), expected([(0, "", "10.0.0.1")]));
    let clusters = |split| clusters_of_split("web", &policy, split);
    assert_eq!(clusters(policy.default_split.as_ref())[0].0.as_ref(), "web|v1");
    assert_eq!(clusters(policy.routes[0].split.as_ref())[0].0.as_ref(), "web|v1|fail");
    assert!(clusters_of("web", &policy).contains("web|v1|fail") && defines(&policy, "web|v1|fail"));
    assert!(defines(&policy, "web|v1") && !is_failing_cluster("web|fail") && is_failing_cluster("web|fail|fail"));
    assert_eq!(split_cluster_name("web|fail"), ("web", Some("fail")));
    assert_eq!(split_cluster_name("web|fail|fail"), ("web", Some("fail")));
    policy.default_split = None;
    assert_eq!(clusters_of_split("web", &policy, policy.routes[0].split.as_ref())[0].0.as_ref(), "web|v1");
    assert!(!defines(&policy, "web|v1|fail"));
}

#[test]
fn stale_registration_of_an_address_is_in_no_subset() {
    let (policy, v1) = policy(Some(("v1", EmptySubset::Spill)));
    let old = versioned("old", "1", "10.0.0.1");
    let new = Instance { registered_revision: Revision(2), ..versioned("new", "2", "10.0.0.1") };
    let own = [old, new];
    let assignment = decode_input(&AssignmentInput { subset: Some(&v1), ..input(&policy, &own) }, None);
    assert_eq!(localities(&assignment), expected([(0, "~@", "10.0.0.1")]));
}
