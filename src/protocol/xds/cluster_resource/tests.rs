use std::time::Duration;

use super::*;
use crate::protocol::xds::resource::tests::{decode, unpack};

fn of(policy: &EffectivePolicy, agent_name: &str, agent_version: &str) -> Cluster {
    decode(&cluster("payments", policy, ClientFamily::new(agent_name, agent_version)).unwrap())
}

fn balanced(lb: LoadBalancing) -> EffectivePolicy {
    EffectivePolicy { lb, ..EffectivePolicy::default() }
}

/// Returns the names of the policies in a list, with those in a policy of localities in parentheses.
fn listed(policies: &LoadBalancingPolicy) -> String {
    let shown = policies.policies.iter().map(|policy| {
        let config = policy.typed_extension_config.as_ref().unwrap();
        let any = config.typed_config.as_ref().unwrap();
        assert_eq!(any.type_url, format!("type.googleapis.com/{}", config.name));
        let name = config.name.rsplit('.').next().unwrap();
        if name == "WrrLocality" {
            let locality: WrrLocality = unpack(any);
            return format!("{name}({})", listed(&locality.endpoint_picking_policy.unwrap()));
        }
        name.to_owned()
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[test]
fn bytes_without_a_policy_are_those_of_servers_without_policies() {
    let policy = EffectivePolicy::default();
    for family in [ClientFamily::UNKNOWN, ClientFamily::new("gRPC Go", "1.85.0"), ClientFamily::new("envoy", "")] {
        assert_eq!(cluster("payments", &policy, family).unwrap().hash, 0x7aba_4dc6_b174_da4e);
    }
}

#[test]
fn cluster_states_its_limits_and_the_source_of_its_endpoints() {
    let cluster = of(&EffectivePolicy::default(), "", "");
    assert_eq!(cluster.circuit_breakers.unwrap().thresholds[0].max_requests, Some(u32::MAX));
    let source = cluster.eds_cluster_config.unwrap().eds_config.unwrap();
    assert!(matches!(source.config_source_specifier, Some(ConfigSourceSpecifier::Ads(_))));
    assert_eq!(source.resource_api_version(), ApiVersion::V3);
}

#[test]
fn name_that_is_empty_or_longer_than_any_has_no_cluster() {
    let policy = EffectivePolicy::default();
    let long = ["x".repeat(260), format!("payments|{}", "x".repeat(33))];
    for name in ["", "|v2", &long[0], &long[1]] {
        assert_eq!(cluster(name, &policy, ClientFamily::UNKNOWN), None, "{name}");
    }
    let subset: Cluster = decode(&cluster("payments|v2", &policy, ClientFamily::UNKNOWN).unwrap());
    assert_eq!(subset.name, "payments|v2");
}

#[test]
fn balancing_is_the_nearest_that_the_family_has() {
    const LEAST_REQUEST: &str = "WrrLocality(LeastRequest, RoundRobin)";
    const WEIGHTED: &str = "WrrLocality(ClientSideWeightedRoundRobin, RoundRobin)";
    const RING_HASH: &str = "RingHash, WrrLocality(RoundRobin)";
    for (agent, version, lb, lb_policy, list) in [
        (
            "gRPC C-core linux Python",
            "C-core 58.0.0 Python 1.85.1",
            LoadBalancing::LeastRequest,
            LbPolicy::RoundRobin,
            "",
        ),
        (
            "gRPC C-core linux Python",
            "C-core 58.0.0 Python 1.85.1",
            LoadBalancing::Weighted,
            LbPolicy::RoundRobin,
            WEIGHTED,
        ),
        (
            "gRPC C-core linux Python",
            "C-core 58.0.0 Python 1.85.1",
            LoadBalancing::RingHash,
            LbPolicy::RingHash,
            RING_HASH,
        ),
        ("gRPC C-core linux", "C-core 29.0.0", LoadBalancing::Weighted, LbPolicy::RoundRobin, ""),
        ("gRPC C-core linux", "C-core 29.0.0", LoadBalancing::RingHash, LbPolicy::RoundRobin, ""),
        ("gRPC Java", "1.85.1", LoadBalancing::LeastRequest, LbPolicy::RoundRobin, LEAST_REQUEST),
        ("gRPC Java", "1.85.1", LoadBalancing::Weighted, LbPolicy::RoundRobin, WEIGHTED),
        ("gRPC Java", "1.47.0", LoadBalancing::LeastRequest, LbPolicy::RoundRobin, ""),
        ("gRPC Java", "1.46.0", LoadBalancing::RingHash, LbPolicy::RingHash, ""),
        ("gRPC Go", "1.85.0", LoadBalancing::LeastRequest, LbPolicy::RoundRobin, LEAST_REQUEST),
        ("gRPC Go", "1.72.0", LoadBalancing::LeastRequest, LbPolicy::RoundRobin, ""),
        ("gRPC Go", "1.44.0", LoadBalancing::RingHash, LbPolicy::RingHash, ""),
        ("gRPC Node Pure JS", "1.14.1", LoadBalancing::LeastRequest, LbPolicy::RoundRobin, ""),
        ("gRPC Node Pure JS", "1.14.1", LoadBalancing::Weighted, LbPolicy::RoundRobin, ""),
        ("gRPC Node Pure JS", "1.14.1", LoadBalancing::RingHash, LbPolicy::RingHash, RING_HASH),
        ("gRPC Node Pure JS", "1.9.0", LoadBalancing::RingHash, LbPolicy::RoundRobin, ""),
        ("gRPC Rust tonic-xds", "0.1.0-alpha.4", LoadBalancing::RingHash, LbPolicy::RoundRobin, ""),
        ("gRPC Rust tonic-xds", "0.1.0-alpha.4", LoadBalancing::LeastRequest, LbPolicy::RoundRobin, ""),
        ("envoy", "", LoadBalancing::LeastRequest, LbPolicy::LeastRequest, ""),
        ("envoy", "", LoadBalancing::RingHash, LbPolicy::RingHash, ""),
        ("envoy", "", LoadBalancing::Weighted, LbPolicy::RoundRobin, ""),
        ("", "", LoadBalancing::RingHash, LbPolicy::RoundRobin, ""),
        ("my client", "9.0", LoadBalancing::LeastRequest, LbPolicy::RoundRobin, ""),
        ("gRPC Go", "1.85.0", LoadBalancing::RoundRobin, LbPolicy::RoundRobin, ""),
    ] {
        let cluster = of(&balanced(lb), agent, version);
        let found = (cluster.lb_policy(), cluster.load_balancing_policy.as_ref().map(listed).unwrap_or_default());
        assert_eq!(found, (lb_policy, list.to_owned()), "{agent} {version} {lb:?}");
    }
}

#[test]
fn java_always_has_the_destination_for_load_reports_that_limits_require() {
    for limit in [None, Some(10)] {
        let policy = EffectivePolicy { max_requests: limit, ..EffectivePolicy::default() };
        for (agent, version, is_java) in
            [("gRPC Java", "1.85.1", true), ("gRPC Go", "1.85.0", false), ("envoy", "", false)]
        {
            let cluster = of(&policy, agent, version);
            assert_eq!(cluster.circuit_breakers.unwrap().thresholds[0].max_requests, Some(limit.unwrap_or(u32::MAX)));
            let server = cluster.lrs_server.and_then(|server| server.config_source_specifier);
            assert_eq!(matches!(server, Some(ConfigSourceSpecifier::Self_(_))), is_java, "{agent}");
        }
    }
}

#[test]
fn grpc_reports_load_where_the_policy_uses_it() {
    let zones = EffectivePolicy { zone: ZoneMode::Prefer, ..EffectivePolicy::default() };
    let weights = EffectivePolicy { weights: WeightSource::ResponseTime, ..EffectivePolicy::default() };
    for (agent, version, reports) in [
        ("gRPC Go", "1.85.0", true),
        ("gRPC Java", "1.85.1", true),
        ("gRPC Node Pure JS", "1.14.1", true),
        ("gRPC C-core linux Python", "C-core 58.0.0 Python 1.85.1", true),
        ("gRPC Rust tonic-xds", "0.1.0-alpha.4", false),
        ("envoy", "", false),
        ("my client", "1.0", false),
    ] {
        for policy in [&zones, &weights] {
            assert_eq!(of(policy, agent, version).lrs_server.is_some(), reports, "{agent}");
        }
        let is_java = agent == "gRPC Java";
        assert_eq!(of(&EffectivePolicy::default(), agent, version).lrs_server.is_some(), is_java, "{agent}");
    }
}

#[test]
fn node_alone_has_outlier_detection_that_is_off() {
    let policy = EffectivePolicy::default();
    for (agent, version) in [("gRPC Go", "1.85.0"), ("gRPC Java", "1.85.1")] {
        assert_eq!(of(&policy, agent, version).outlier_detection, None, "{agent}");
    }
    let off = of(&policy, "gRPC Node Pure JS", "1.14.1").outlier_detection.unwrap();
    assert_eq!((off.enforcing_failure_percentage, off.enforcing_success_rate), (Some(0), Some(0)));
    assert!(off.interval.is_some() && off.base_ejection_time.is_some() && off.max_ejection_percent.is_some());
}

#[test]
fn outlier_detection_enforces_the_percentage_of_failures_alone() {
    let outlier = OutlierDetection {
        failure_percent: 50,
        hosts: 3,
        calls: 20,
        interval: Duration::from_secs(10),
        eject: Duration::from_secs(30),
        max_percent: 40,
    };
    let policy = EffectivePolicy { outlier: Some(outlier), ..EffectivePolicy::default() };
    let found = of(&policy, "gRPC Node Pure JS", "1.14.1").outlier_detection.unwrap();
    assert_eq!((found.enforcing_success_rate, found.enforcing_consecutive_5xx), (Some(0), Some(0)));
    assert_eq!((found.enforcing_failure_percentage, found.failure_percentage_threshold), (Some(100), Some(50)));
    assert_eq!((found.failure_percentage_minimum_hosts, found.failure_percentage_request_volume), (Some(3), Some(20)));
    assert_eq!((found.interval.unwrap().seconds, found.base_ejection_time.unwrap().seconds), (10, 30));
    assert_eq!(found.max_ejection_percent, Some(40));
}

#[test]
fn cluster_is_encoded_in_the_same_way_each_time() {
    let policy = EffectivePolicy { lb: LoadBalancing::RingHash, max_requests: Some(3), ..EffectivePolicy::default() };
    let go = ClientFamily::new("gRPC Go", "1.85.0");
    assert_eq!(cluster("a", &policy, go), cluster("a", &policy, go));
    assert_ne!(cluster("a", &policy, go), cluster("a", &policy, ClientFamily::UNKNOWN));
}
