use super::*;

fn definition(id: &str, probe: Probe) -> Definition {
    Definition { interval: Duration::from_secs(10), ..Definition::new(CheckId::parse(id).unwrap(), "web", probe) }
}

fn get(url: &str) -> Probe {
    Probe::Http { url: url.into(), headers: Box::default(), tls: ProbeTls::default() }
}

#[test]
fn targets_have_a_host_and_a_port() {
    assert_eq!(Target::parse("tcp", "[::1]:80").unwrap().to_string(), "[::1]:80");
    assert_eq!(&*Target::parse("tcp", "db.internal:5432").unwrap().host, "db.internal");
    for bad in ["", "db", "db:", "db:0", "db:70000", ":80", "a b:1", "http://x:80/y"] {
        assert!(Target::parse("tcp", bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_too_short_is_lengthened_and_what_is_missing_refused() {
    let short = Definition {
        interval: Duration::from_millis(10),
        timeout: Duration::ZERO,
        deregister_after: Some(Duration::from_secs(1)),
        thresholds: Thresholds { passing: 0, warning: 0, critical: 3 },
        ..definition("a", get("http://127.0.0.1/"))
    };
    let checked = short.check().unwrap();
    assert_eq!((checked.interval, checked.timeout), (Duration::from_secs(1), Duration::from_secs(10)));
    assert_eq!(checked.deregister_after, Some(Duration::from_mins(1)));
    assert_eq!(checked.thresholds, Thresholds { passing: 1, warning: 3, critical: 3 });
    let none = Definition { interval: Duration::ZERO, ..definition("a", Probe::Ttl) };
    assert!(none.check().is_err());
    for bad in ["ftp://x", "http://", "http:///x", "http://user@x/", "x", "http://a b/"] {
        assert!(definition("a", get(bad)).check().is_err(), "{bad}");
    }
}

#[test]
fn ids_are_there_once_and_the_worst_counts() {
    let check = |id: &str, verdict| Check::new(definition(id, Probe::Ttl).into(), verdict);
    assert!(Checks::new(vec![check("a", Verdict::Passing), check("a", Verdict::Passing)]).is_err());
    let checks = Checks::new(vec![check("a", Verdict::Warning), check("b", Verdict::Passing)]).unwrap();
    assert_eq!(checks.worst(), Verdict::Warning);
    assert_eq!(Checks::default().worst(), Verdict::Passing);
    let first = checks.stamped(None, Revision(5));
    let critical = Check { verdict: Verdict::Critical, ..first.get("a").unwrap().clone() };
    let changed = Checks::new(vec![critical, first.get("b").unwrap().clone()]).unwrap();
    let revisions = |checks: &Checks, id| checks.get(id).map(|check| (check.created, check.revision));
    let second = changed.clone().stamped(Some(&first), Revision(9));
    assert_eq!(revisions(&second, "a"), Some((Revision(5), Revision(9))));
    assert_eq!(revisions(&second, "b"), Some((Revision(5), Revision(5))));
    let moved = second.stamped(None, Revision(10));
    assert_eq!(revisions(&moved, "a"), Some((Revision(5), Revision(9))), "an instance that moves brings its own");
    let taken = Checks::new(vec![check("a", Verdict::Passing)]).unwrap().stamped(Some(&moved), Revision(11));
    assert_eq!(revisions(&taken, "a"), Some((Revision(11), Revision(11))), "one that is taken begins anew");
}
