use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    tests::{addresses, decode_input, input, instance, localities, policy},
    *,
};
use crate::{
    balancing::{NoPreferenceReason, ZoneLayoutState, ZoneName, ZoneSummary, ZoneTargets},
    model::{Conditions, EffectivePolicy, InstanceId, Locality, ServiceName, Weight, ZoneMode},
    pb::envoy::config::{
        core::v3::HealthStatus,
        endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints},
    },
};

/// Returns an instance in a zone of the region `r`, or in another region with `region/zone`.
fn placed(id: &str, weight: u16, host: &str, place: &str) -> Instance {
    let (region, zone) = place.split_once('/').unwrap_or(("r", place));
    Instance { locality: Locality::parse(region, zone, "").unwrap(), ..instance(id, weight, host, 80) }
}

fn draining(instance: Instance) -> Instance {
    Instance { conditions: Conditions { operator_draining: true, ..Conditions::default() }, ..instance }
}

/// Returns a layout for the clients of `r/z1` with these shares of zones of the region `r`.
fn zone_layout<const N: usize>(shares: [(&str, u32); N]) -> ZoneLayout {
    ZoneLayout {
        shares: shares.into_iter().map(|(zone, share)| (ZoneName::new("r", zone), share)).collect(),
        ..ZoneLayout::by_capacity(&ZoneName::new("r", "z1"), NoPreferenceReason::OneZone)
    }
}

/// Returns the priority, the zone, the sub-zone and the weight of each locality.
fn weights(assignment: &ClusterLoadAssignment) -> Vec<(u32, String, String, u32)> {
    let locality = |group: &LocalityLbEndpoints| {
        let locality = group.locality.clone().unwrap();
        (group.priority, locality.zone, locality.sub_zone, group.load_balancing_weight.unwrap())
    };
    assignment.endpoints.iter().map(locality).collect()
}

fn expected<const N: usize>(localities: [(u32, &str, &str, u32); N]) -> Vec<(u32, String, String, u32)> {
    let owned = |(priority, zone, sub_zone, weight): (u32, &str, &str, u32)| {
        (priority, zone.to_owned(), sub_zone.to_owned(), weight)
    };
    localities.map(owned).to_vec()
}

fn three_zones() -> [Instance; 6] {
    [
        placed("a", 1, "10.0.0.1", "z1"),
        placed("b", 3, "10.0.0.2", "z1"),
        placed("c", 1, "10.0.0.3", "z2"),
        placed("d", 1, "10.0.0.4", "z3"),
        draining(placed("e", 1, "10.0.0.5", "z4")),
        placed("f", 2, "10.0.0.6", "far/z9"),
    ]
}

#[test]
fn zones_have_their_shares_and_others_wait_in_later_priorities() {
    let (policy, instances) = (EffectivePolicy::default(), three_zones());
    let of = |zone: &ZoneLayout| weights(&decode_input(&input(&policy, &instances), Some(zone)));
    assert_eq!(
        of(&zone_layout([("z1", 6_000), ("z2", 4_000)])),
        expected([
            (0, "z1", "", 1_500_000),
            (0, "z1", "~w3", 4_500_000),
            (0, "z2", "", 4_000_000),
            (1, "z3", "", 1),
            (1, "z4", "", 1),
            (2, "z9", "~w2", 2),
        ])
    );
    let local = of(&zone_layout([("z1", 10_000)]));
    assert_eq!(local[..2], expected([(0, "z1", "", 1), (0, "z1", "~w3", 3)]), "within a zone, weights are capacities");
    let by_capacity = of(&zone_layout([]));
    assert!(by_capacity.iter().all(|(priority, ..)| *priority == 0));
}

#[test]
fn flat_layout_is_the_first_priority_with_routable_endpoints() {
    let (policy, mut instances) = (EffectivePolicy::default(), three_zones());
    let of = |instances: &[Instance]| {
        let input = AssignmentInput { layout: EndpointLayout::Flat, ..input(&policy, instances) };
        localities(&decode_input(&input, Some(&zone_layout([("z1", 10_000)]))))
    };
    let ips = |found: Vec<(u32, String, String)>| {
        assert!(found.iter().all(|(priority, ..)| *priority == 0));
        found.into_iter().map(|(.., ips)| ips).collect::<Vec<_>>()
    };
    assert_eq!(ips(of(&instances)), ["10.0.0.1", "10.0.0.2"]);
    for at in [0, 1] {
        instances[at] = draining(instances[at].clone());
    }
    assert_eq!(ips(of(&instances)), ["10.0.0.3", "10.0.0.4", "10.0.0.5"]);
    instances = instances.map(draining);
    assert_eq!(ips(of(&instances)), ["10.0.0.1", "10.0.0.2"], "nothing is routable");
}

#[test]
fn ring_has_one_locality_in_each_priority_and_the_weights_at_the_endpoints() {
    let instances = three_zones();
    let policy = EffectivePolicy { lb: LoadBalancing::RingHash, ..EffectivePolicy::default() };
    let of = |zone: Option<&ZoneLayout>| {
        let input = AssignmentInput {
            layout: EndpointLayout::of(&policy, ClientFamily::new("gRPC Go", "1.85.0")),
            ..input(&policy, &instances)
        };
        let assignment = decode_input(&input, zone);
        let of_endpoints = |group: &LocalityLbEndpoints| {
            group.lb_endpoints.iter().map(|endpoint| endpoint.load_balancing_weight.unwrap()).collect::<Vec<_>>()
        };
        let endpoints: Vec<_> = assignment.endpoints.iter().map(of_endpoints).collect();
        (weights(&assignment), endpoints)
    };
    assert_eq!(of(None), (expected([(0, "", "ring", 1)]), vec![vec![2, 1, 3, 1, 1, 1]]));
    let shared = of(Some(&zone_layout([("z1", 6_000), ("z2", 4_000)])));
    assert_eq!(shared.0, expected([(0, "", "ring", 1), (1, "", "ring~region", 1), (2, "", "ring~other", 1)]));
    assert_eq!(shared.1, [vec![1_500_000, 4_500_000, 4_000_000], vec![1, 1], vec![2]]);
    let layout = |name, version| EndpointLayout::of(&policy, ClientFamily::new(name, version));
    assert_eq!(layout("gRPC Rust tonic-xds", "0.1.0-alpha.4"), EndpointLayout::Flat);
    assert_eq!(layout("gRPC Go", "1.47.0"), EndpointLayout::FirstPriority);
    assert_eq!(layout("gRPC C-core linux", "C-core 29.0.0"), EndpointLayout::Priorities, "without ring hash");
}

#[test]
fn shed_is_a_percentage_of_dropped_calls() {
    let policy = EffectivePolicy { shed: 20, ..EffectivePolicy::default() };
    let assignment = decode_input(&input(&policy, &[]), None);
    let drops = assignment.policy.unwrap().drop_overloads;
    let percentage = drops[0].drop_percentage.unwrap();
    assert_eq!((drops.len(), &*drops[0].category), (1, "callboard"));
    // HUNDRED
    assert_eq!((percentage.numerator, percentage.denominator), (20, 0));
}

/// Envoy applies a changed percentage only when its hosts change, which other weights of localities are.
#[test]
fn change_of_shed_changes_the_weights_of_all_localities_and_not_their_ratios() {
    let zone = zone_layout([("z1", 6_000), ("z2", 4_000)]);
    let instances = three_zones();
    for zone in [Some(&zone), None] {
        for lb in [LoadBalancing::RoundRobin, LoadBalancing::RingHash] {
            let of = |shed| {
                let policy = EffectivePolicy { lb, shed, ..EffectivePolicy::default() };
                let layout = EndpointLayout::of(&policy, ClientFamily::new("gRPC Go", "1.85.0"));
                weights(&decode_input(&AssignmentInput { layout, ..input(&policy, &instances) }, zone))
            };
            let plain = of(0);
            let mut seen = BTreeSet::from([plain.clone()]);
            for shed in [1, 20, 21, 100] {
                let shed_weights = of(shed);
                for (with, without) in shed_weights.iter().zip(&plain) {
                    assert_eq!((with.0, &with.1, &with.2), (without.0, &without.1, &without.2));
                    assert_eq!(with.3, without.3 * (100 + u32::from(shed)), "{shed} {with:?} {without:?}");
                }
                assert!(seen.insert(shed_weights), "{shed}");
            }
        }
    }
}

#[test]
fn effective_weights_change_no_locality_of_up_to_256_instances() {
    let instances: Vec<_> = (0..256).map(|n| instance(&format!("i{n:03}"), 2, &format!("10.0.1.{n}"), 80)).collect();
    let policy = EffectivePolicy { weights: WeightSource::ResponseTime, ..EffectivePolicy::default() };
    let of = |instances: &[Instance], weight: &EffectiveWeight<'_>| {
        let input = AssignmentInput { weights: Some(weight), ..input(&policy, instances) };
        decode_input(&input, None)
    };
    let (even, other) =
        (of(&instances, &|_| 200), of(&instances, &|instance| 20 + u32::from(instance.id.as_str() == "i007")));
    assert_eq!(localities(&even), localities(&other));
    assert_eq!(localities(&even).iter().map(|(_, sub_zone, _)| sub_zone).collect::<BTreeSet<_>>().len(), 256);
    assert!(weights(&even).iter().all(|(.., sub_zone, weight)| sub_zone.len() == 9 && *weight == 200));
    assert_eq!(weights(&other).iter().filter(|(.., weight)| *weight == 21).count(), 1);
    let configured = decode_input(&input(&policy, &instances), None);
    assert_eq!(configured, even, "without effective weights each has its configured one");
}

#[test]
fn more_instances_share_localities_by_classes_of_weights() {
    let instances: Vec<_> =
        (0..300_u32).map(|n| instance(&format!("i{n:03}"), 1, &format!("10.0.{}.{}", n / 250, n % 250), 80)).collect();
    let policy = EffectivePolicy { slow_start: std::time::Duration::from_mins(1), ..EffectivePolicy::default() };
    let weight = |instance: &Instance| match instance.id.as_str() {
        "i000" => 10,
        "i001" => 200,
        "i002" => 90,
        "i003" => 50,
        _ => 100,
    };
    let assignment = decode_input(&AssignmentInput { weights: Some(&weight), ..input(&policy, &instances) }, None);
    assert_eq!(
        weights(&assignment),
        expected([
            (0, "", "~w1~c0", 200),
            (0, "", "~w1~c1", 296 * 100 + 90),
            (0, "", "~w1~c2", 50),
            (0, "", "~w1~c6", 10),
        ])
    );
}

#[test]
fn weights_of_many_heavy_instances_fit_with_shed() {
    let heavy = |n: usize| instance(&format!("i{n}"), u16::MAX, &format!("10.1.{}.{}", n / 250, n % 250), 80);
    let instances: Vec<_> = (0..500).map(heavy).collect();
    for lb in [LoadBalancing::RoundRobin, LoadBalancing::RingHash] {
        let policy = EffectivePolicy { shed: 100, lb, ..EffectivePolicy::default() };
        let layout = EndpointLayout::of(&policy, ClientFamily::new("gRPC Go", "1.85.0"));
        let assignment = decode_input(&AssignmentInput { layout, ..input(&policy, &instances) }, None);
        check(&assignment, layout);
        let endpoints = assignment.endpoints.iter().flat_map(|group| &group.lb_endpoints);
        let on_ring: u64 = endpoints.filter_map(|one| one.load_balancing_weight).map(u64::from).sum();
        assert!(u32::try_from(on_ring * 200).is_ok(), "some clients multiply the weights of endpoints and localities");
    }
}

/// Endpoint of a generated service: its address, weight, zone, version and health.
type Generated = (u8, u16, usize, bool, bool);

fn any_instances() -> impl Strategy<Value = Vec<Generated>> {
    vec((0..40_u8, select(vec![1_u16, 2, 65_535]), 0..5_usize, any::<bool>(), any::<bool>()), 0..40)
}

fn build(service: &str, generated: &[Generated]) -> Vec<Instance> {
    let build = |(number, (address, weight, zone, is_first, is_routable)): (usize, &Generated)| {
        let place = ["z1", "z2", "z3", "far/z1", "far/z9"][*zone];
        let mut instance = placed(&format!("i{number}"), 1, &format!("10.0.0.{address}"), place);
        instance.weight = Weight::parse((*weight).into()).unwrap();
        instance.service = ServiceName::parse(service).unwrap();
        instance.id = InstanceId::parse(&format!("{}{number}", if *is_first { "a" } else { "b" })).unwrap();
        if *is_routable { instance } else { draining(instance) }
    };
    generated.iter().enumerate().map(build).collect()
}

fn check(assignment: &ClusterLoadAssignment, layout: EndpointLayout) {
    let mut seen = BTreeSet::new();
    let mut names = BTreeSet::new();
    let mut sums = BTreeMap::<u32, u64>::new();
    for group in &assignment.endpoints {
        *sums.entry(group.priority).or_default() += u64::from(group.load_balancing_weight.unwrap());
        let name = group.locality.clone().unwrap();
        assert!(names.insert((name.region, name.zone, name.sub_zone)), "a name occurs once in all priorities");
        assert!(group.load_balancing_weight > Some(0));
        assert!(!group.lb_endpoints.is_empty());
        let endpoints: u64 =
            group.lb_endpoints.iter().filter_map(|endpoint| endpoint.load_balancing_weight).map(u64::from).sum();
        assert_eq!(endpoints > 0, layout == EndpointLayout::Ring);
        assert!(u32::try_from(endpoints).is_ok());
        for address in group.lb_endpoints.iter().flat_map(addresses) {
            assert!(seen.insert(address), "an address occurs once");
        }
    }
    assert!(sums.keys().copied().eq(0..u32::try_from(sums.len()).unwrap()), "priorities have no gaps: {sums:?}");
    assert!(sums.values().all(|sum| u32::try_from(*sum).is_ok()), "{sums:?}");
}

proptest! {
    #[test]
    fn assignment_of_any_service_is_acceptable_and_has_every_routable_address(
        (own, fallback) in (any_instances(), any_instances()),
        (of_subset, is_dynamic, prefers) in any::<(bool, bool, bool)>(),
        shed in select(vec![0_u8, 1, 100]),
        layout in select(vec![EndpointLayout::Priorities, EndpointLayout::Ring, EndpointLayout::Flat]),
    ) {
        let (own, fallback) = (build("web", &own), build("web-dr", &fallback));
        let (mut policy, subset) = policy(Some(("v1", EmptySubset::Spill)));
        policy.shed = shed;
        if is_dynamic {
            policy.weights = WeightSource::ResponseTime;
        }
        policy.zone = if prefers { ZoneMode::Prefer } else { ZoneMode::Off };
        policy.subsets.get_mut(&subset).unwrap().filter =
            crate::model::InstanceFilter::parse("id matches \"^a\"").unwrap().unwrap();
        let input = AssignmentInput {
            subset: of_subset.then_some(&subset),
            is_failing: false,
            fallbacks: vec![fallback.iter().collect()],
            layout,
            ..input(&policy, &own)
        };
        let parts = input.sort().parts();
        let mut zones: BTreeMap<_, ZoneSummary> = (**parts.zones()).clone();
        for zone in zones.values_mut() {
            zone.streams = 20;
        }
        let client = ZoneName::new("r", "z1");
        let state = ZoneLayoutState::new(&client, &ZoneTargets::new(&zones));
        let zone = Some(&**state.layout()).filter(|_| prefers);
        let assignment = decode_input(&input, zone);
        check(&assignment, layout);
        let sent: BTreeSet<_> = assignment.endpoints.iter().flat_map(|group| &group.lb_endpoints).flat_map(addresses).collect();
        let all: BTreeSet<_> = own.iter().chain(&fallback).map(|instance| instance.addresses[0].host.to_string()).collect();
        if layout == EndpointLayout::Flat {
            prop_assert!(assignment.endpoints.iter().all(|group| group.priority == 0));
        } else {
            prop_assert_eq!(sent.into_iter().map(|(ip, _)| ip).collect::<BTreeSet<_>>(), all);
        }
        // The zones with shares take the calls.
        let is_routable = |group: &LocalityLbEndpoints| {
            group.lb_endpoints.iter().any(|endpoint| endpoint.health_status() == HealthStatus::Healthy)
        };
        let called = assignment.endpoints.iter().filter(|group| is_routable(group)).map(|group| group.priority).min();
        if let (Some(zone), Some(called), EndpointLayout::Priorities) = (zone, called, layout)
            && !zone.is_by_capacity()
        {
            for group in assignment.endpoints.iter().filter(|group| group.priority == called) {
                let name = group.locality.clone().unwrap();
                prop_assert!(zone.shares.contains_key(&ZoneName::new(&name.region, &name.zone)), "{:?}", name);
                // A routable locality may have the least weight, too, beside one of a far greater weight.
                let has_least = group.load_balancing_weight == u32::try_from(priority::shed_factor(shed)).ok();
                prop_assert!(has_least || is_routable(group) || zone.shares.len() == 1, "{:?}", group);
            }
        }
    }
}
