use std::collections::BTreeSet;

use super::*;
use crate::model::{OutlierDetection, PolicyRoute, RetryableCode, ServiceName};

fn everything(lb: LoadBalancing) -> EffectivePolicy {
    let retry = RetryPolicy {
        attempts: 2,
        on: BTreeSet::from([RetryableCode::Unavailable]),
        backoff: Duration::from_millis(25),
        max_backoff: Duration::from_millis(250),
    };
    let route = PolicyRoute {
        headers: Vec::new(),
        method: None,
        split: None,
        timeout: Some(Duration::from_secs(30)),
        retry: Some(retry.clone()),
        hash_header: None,
    };
    EffectivePolicy {
        lb,
        timeout: Duration::from_secs(5),
        max_requests: Some(100),
        retry: Some(retry),
        outlier: Some(OutlierDetection {
            failure_percent: 50,
            hosts: 3,
            calls: 20,
            interval: Duration::from_secs(10),
            eject: Duration::from_secs(30),
            max_percent: 30,
        }),
        weights: WeightSource::ResponseTime,
        slow_start: Duration::from_mins(1),
        zone: ZoneMode::Prefer,
        shed: 20,
        fallback: vec![ServiceName::parse("payments-dr").unwrap()],
        routes: vec![route],
        ..EffectivePolicy::default()
    }
}

/// Returns the limited fields, with the versions that follow them.
fn limited(policy: &EffectivePolicy, agent_name: &str, agent_version: &str) -> Vec<String> {
    let found = limitations(policy, ClientFamily::new(agent_name, agent_version));
    let shown = |limitation: Limitation| match limitation.since {
        Some(since) => format!("{} since {since}", limitation.field),
        None => limitation.field,
    };
    found.into_iter().map(shown).collect()
}

#[test]
fn current_clients_follow_everything_but_some_kinds_of_balancing() {
    const LATE: [&str; 2] = ["timeout", "route[0].timeout"];
    for (name, version, lb, expected) in [
        ("gRPC Go", "1.85.0", LoadBalancing::LeastRequest, &[][..]),
        ("gRPC Java", "1.85.1", LoadBalancing::Weighted, &["outlier"]),
        ("gRPC C-core linux Python", "C-core 58.0.0 Python 1.85.1", LoadBalancing::RingHash, &LATE),
        (
            "gRPC C-core linux Python",
            "C-core 58.0.0 Python 1.85.1",
            LoadBalancing::LeastRequest,
            &["lb", LATE[0], LATE[1]],
        ),
        (
            "gRPC C-core linux PHP",
            "C-core 58.0.0 PHP 1.85.0",
            LoadBalancing::Weighted,
            &[LATE[0], LATE[1], "max_requests"],
        ),
        ("gRPC Node Pure JS", "1.14.1", LoadBalancing::Weighted, &["lb"]),
        ("envoy", "", LoadBalancing::LeastRequest, &[]),
        ("envoy", "", LoadBalancing::Weighted, &["lb"]),
        ("envoy", "", LoadBalancing::RingHash, &["lb"]),
    ] {
        assert_eq!(limited(&everything(lb), name, version), expected, "{name} {lb}");
    }
}

#[test]
fn old_client_names_the_versions_that_follow_the_fields() {
    let expected = ["lb since 1.73", "outlier since 1.50", "fallback since 1.48"];
    assert_eq!(limited(&everything(LoadBalancing::LeastRequest), "gRPC Go", "1.44.0"), expected);
    let expected = [
        "lb since 1.54",
        "timeout since 1.37.1",
        "retry since 1.40.1",
        "route[0].timeout since 1.37.1",
        "route[0].retry since 1.40.1",
        "max_requests since 1.37.1",
        "outlier",
    ];
    assert_eq!(limited(&everything(LoadBalancing::Weighted), "gRPC Java", "1.36.0"), expected);
}

#[test]
fn tonic_follows_retries_and_no_limits_weights_or_zones() {
    let policy = everything(LoadBalancing::RingHash);
    let expected = [
        "lb",
        "timeout",
        "route[0].timeout",
        "max_requests",
        "outlier",
        "weights",
        "slow_start",
        "zone",
        "shed",
        "fallback",
    ];
    assert_eq!(limited(&policy, "gRPC Rust tonic-xds", "0.1.0-alpha.4"), expected);
}

#[test]
fn unknown_library_may_ignore_what_libraries_have_not_had_from_the_start() {
    let found = limitations(&everything(LoadBalancing::LeastRequest), ClientFamily::UNKNOWN);
    let fields: Vec<_> = found.iter().map(|limitation| limitation.field.as_str()).collect();
    let expected = ["lb", "timeout", "retry", "route[0].timeout", "route[0].retry", "max_requests", "outlier"];
    assert_eq!(fields, expected);
    assert_eq!((found[0].behaviour, found[1].behaviour), ("uses round robin", UNKNOWN_LIBRARY));
}

#[test]
fn default_policy_has_no_limitations() {
    for (name, version) in [("", ""), ("gRPC Go", "1.36.0"), ("gRPC Rust tonic-xds", "0.1.0-alpha.4"), ("envoy", "")] {
        assert_eq!(limitations(&EffectivePolicy::default(), ClientFamily::new(name, version)), []);
    }
}
