//! Parsing and validation of checks.

use std::time::Duration;

use super::*;

fn definition(id: &str, probe: Probe) -> CheckDefinition {
    CheckDefinition {
        interval: Duration::from_secs(10),
        ..CheckDefinition::new(CheckId::parse(id).unwrap(), "web", probe)
    }
}

fn get(url: &str) -> Probe {
    Probe::Http(HttpProbe::get(url))
}

#[test]
fn target_without_host_or_port_is_rejected() {
    assert_eq!(ProbeTarget::parse("tcp", "[::1]:80").unwrap().to_string(), "[::1]:80");
    assert_eq!(&*ProbeTarget::parse("tcp", "db.internal:5432").unwrap().host, "db.internal");
    for bad in ["", "db", "db:", "db:0", "db:70000", "db:+80", ":80", "a b:1", "http://x:80/y", "user@db:80"] {
        assert!(ProbeTarget::parse("tcp", bad).is_err(), "{bad}");
    }
}

#[test]
fn target_with_ipv6_address_without_brackets_is_rejected() {
    for (good, host) in
        [("[::1]:80", "::1"), ("[fe80::1%eth0]:80", "fe80::1%eth0"), ("[::ffff:10.0.0.1]:1", "::ffff:10.0.0.1")]
    {
        let target = ProbeTarget::parse("tcp", good).unwrap();
        assert_eq!((&*target.host, target.to_string().as_str()), (host, good));
    }
    for bad in [
        "::1:48901",
        "::1",
        "fe80::1%eth0:80",
        "[::1:80",
        "::1]:80",
        "[::1]",
        "[::1]:",
        "[::1]:70000",
        "[::1]80",
        "[db]:80",
        "[10.0.0.1]:80",
        "[::1%]:80",
        "[]:80",
        "[[::1]]:80",
    ] {
        let error = ProbeTarget::parse("tcp", bad).unwrap_err().to_string();
        assert!(error.contains("with an IPv6 address in brackets"), "{bad}: {error}");
    }
}

#[test]
fn output_max_size_is_limited_and_defaults_to_the_maximum() {
    for (given, stored) in [(0, 4_096), (1, 1), (64, 64), (4_096, 4_096), (100_000, 4_096), (u32::MAX, 4_096)] {
        let given = CheckDefinition { output_max_size: given, ..definition("a", Probe::Ttl) };
        assert_eq!(given.validated().unwrap().output_max_size, stored);
    }
}

#[test]
fn definition_with_short_times_is_lengthened_and_without_interval_rejected() {
    let short = CheckDefinition {
        interval: Duration::from_millis(10),
        timeout: Duration::ZERO,
        deregister_after: Some(Duration::from_secs(1)),
        thresholds: Thresholds { passing: 0, warning: 0, critical: 3 },
        ..definition("a", get("http://127.0.0.1/"))
    };
    let validated = short.validated().unwrap();
    assert_eq!((validated.interval, validated.time_limit()), (Duration::from_secs(1), Duration::from_secs(10)));
    assert_eq!(validated.deregister_after, Some(Duration::from_mins(1)));
    assert_eq!(validated.thresholds, Thresholds { passing: 1, warning: 3, critical: 3 });
    let none = CheckDefinition { interval: Duration::ZERO, ..definition("a", Probe::Ttl) };
    assert!(none.validated().is_err());
    assert!(definition("a", get("ftp://x")).validated().is_err());
}

#[test]
fn checks_have_unique_ids_an_aggregate_status_and_revisions() {
    let check = |id: &str, status| Check::new(definition(id, Probe::Ttl).into(), status);
    assert!(InstanceChecks::new(vec![check("a", CheckStatus::Passing), check("a", CheckStatus::Passing)]).is_err());
    let checks = InstanceChecks::new(vec![check("a", CheckStatus::Warning), check("b", CheckStatus::Passing)]).unwrap();
    assert_eq!(checks.aggregate_status(), CheckStatus::Warning);
    assert_eq!(InstanceChecks::default().aggregate_status(), CheckStatus::Passing);
    let first = checks.stamped(None, Revision(5));
    let critical = Check { status: CheckStatus::Critical, ..first.get("a").unwrap().clone() };
    let changed = InstanceChecks::new(vec![critical, first.get("b").unwrap().clone()]).unwrap();
    let revisions = |checks: &InstanceChecks, id| checks.get(id).map(|check| (check.created, check.revision));
    let second = changed.clone().stamped(Some(&first), Revision(9));
    assert_eq!(revisions(&second, "a"), Some((Revision(5), Revision(9))));
    assert_eq!(revisions(&second, "b"), Some((Revision(5), Revision(5))));
    let moved = second.stamped(None, Revision(10));
    assert_eq!(
        revisions(&moved, "a"),
        Some((Revision(5), Revision(9))),
        "the checks of a moved instance keep their revisions"
    );
    let added =
        InstanceChecks::new(vec![check("a", CheckStatus::Passing)]).unwrap().stamped(Some(&moved), Revision(11));
    assert_eq!(
        revisions(&added, "a"),
        Some((Revision(11), Revision(11))),
        "a check that replaces another one gets new revisions"
    );
}

#[test]
fn ttl_below_a_second_is_rejected_with_its_unit() {
    for (ttl, shown) in [(Duration::from_nanos(60), "60ns"), (Duration::from_micros(500), "500us")] {
        let error =
            CheckDefinition { interval: ttl, ..definition("a", Probe::Ttl) }.validated().unwrap_err().to_string();
        assert!(error.starts_with(&format!("check.ttl \"{shown}\" is shorter than 1s")), "{error}");
        assert!(error.contains("nanoseconds, as in Go") && error.contains("10s"), "{error}");
    }
    let shortest = CheckDefinition { interval: Duration::from_secs(1), ..definition("a", Probe::Ttl) };
    assert_eq!(shortest.validated().unwrap().interval, Duration::from_secs(1));
}

#[test]
fn stored_ttl_below_a_second_is_valid_and_zero_becomes_the_minimum() {
    let half = CheckDefinition { interval: Duration::from_millis(500), ..definition("a", Probe::Ttl) };
    assert_eq!(half.clone().validated_stored().unwrap().interval, Duration::from_millis(500));
    let lost = CheckDefinition { interval: Duration::ZERO, ..half };
    assert_eq!(lost.validated_stored().unwrap().interval, Duration::from_secs(1));
}
