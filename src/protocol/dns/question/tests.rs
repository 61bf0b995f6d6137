use std::time::Duration;

use proptest::prelude::*;

use super::{super::zone as names, *};

fn zone() -> Zone {
    Zone::new("consul", "dc1", "n1", Duration::ZERO, [127, 0, 0, 1].into())
}

fn of(name: &str) -> Question {
    let name = if name == "." { Name::root() } else { names::name(name).unwrap() };
    Question::of(&name, &zone())
}

/// Services and tags of the readings of a name.
fn readings(name: &str) -> Vec<(String, Option<String>)> {
    let Question::Service(asked) = of(name) else { panic!("{name} is not the name of a service") };
    asked.readings.into_iter().map(|reading| (reading.service, reading.tag)).collect()
}

fn expected(readings: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    readings.iter().map(|(service, tag)| ((*service).to_owned(), tag.map(str::to_owned))).collect()
}

#[test]
fn service_name_has_a_reading_for_each_dot() {
    for name in ["Web.service.consul.", "Web.SERVICE.dc1.Consul.", "Web.service.DC1.consul."] {
        assert_eq!(readings(name), expected(&[("Web", None)]), "{name}");
    }
    let both = expected(&[("V1.web", None), ("web", Some("v1"))]);
    assert_eq!(readings("V1.web.service.consul."), both, "the longest service name first");
    assert_eq!(readings("a.b.c.service.consul."), expected(&[("a.b.c", None), ("b.c", Some("a")), ("c", Some("a.b"))]));
    assert_eq!(readings("service.service.consul."), expected(&[("service", None)]));
    assert_eq!(readings("node.service.consul."), expected(&[("node", None)]));
    assert_eq!(of(&format!("{}service.consul.", "a.".repeat(33))), Question::Nonexistent);
}

#[test]
fn rfc2782_name_is_service_with_protocol_or_tag() {
    for name in
        ["_web._tcp.consul.", "_web._TCP.service.consul.", "_web._udp.service.dc1.consul.", "_web._tcp.dc1.consul."]
    {
        assert_eq!(readings(name), expected(&[("web", None)]), "{name}");
    }
    assert_eq!(readings("_web._V1.service.consul."), expected(&[("web", Some("v1"))]));
    assert_eq!(readings("_web._a.b.service.consul."), expected(&[("web", Some("a.b"))]));
    assert_eq!(readings("_my.web._tcp.service.consul."), expected(&[("my.web", None)]));
    let plain = readings("_tag.web.service.consul.");
    assert_eq!(plain, expected(&[("_tag.web", None), ("web", Some("_tag"))]), "a tag may start with an underscore");
}

#[test]
fn node_and_address_names_are_interpreted() {
    assert_eq!(of("N1.node.consul."), Question::Node("N1".into()));
    assert_eq!(of("a.b.node.dc1.consul."), Question::Node("a.b".into()));
    assert_eq!(of("0A000001.addr.dc1.consul."), Question::Address([10, 0, 0, 1].into()));
    let six: IpAddr = "2001:db8::1".parse().unwrap();
    assert_eq!(of("20010db8000000000000000000000001.addr.dc1.consul."), Question::Address(six));
    for wrong in ["0a00001", "0a00000g", "+a000001", "0a0000010", "a.0a000001"] {
        assert_eq!(of(&format!("{wrong}.addr.dc1.consul.")), Question::Nonexistent, "{wrong}");
    }
}

#[test]
fn reverse_name_is_address_or_above_one() {
    assert_eq!(of("1.0.0.10.in-addr.arpa."), Question::Reverse([10, 0, 0, 1].into()));
    let six = format!("1.{}8.b.d.0.1.0.0.2.IP6.arpa.", "0.".repeat(23));
    assert_eq!(of(&six), Question::Reverse("2001:db8::1".parse().unwrap()));
    for wrong in
        ["256.0.0.10.in-addr.arpa.", "x.10.in-addr.arpa.", "+1.0.0.10.in-addr.arpa.", "5.1.0.0.10.in-addr.arpa."]
    {
        assert_eq!(of(wrong), Question::Nonexistent, "{wrong}");
    }
    for wrong in [format!("0.{six}"), format!("g{}", &six[1..]), "01.ip6.arpa.".to_owned()] {
        assert_eq!(of(&wrong), Question::Nonexistent, "{wrong}");
    }
    for non_terminal in
        ["in-addr.arpa.", "0.0.10.in-addr.arpa.", "10.in-addr.arpa.", "ip6.arpa.", "1.IP6.arpa.", &six[2..]]
    {
        assert_eq!(of(non_terminal), Question::EmptyNonTerminal, "{non_terminal}");
    }
}

#[test]
fn other_names_are_non_terminals_nonexistent_or_out_of_zone() {
    assert_eq!(of("CONSUL."), Question::Apex);
    let non_terminals = [
        "service",
        "node.dc1",
        "addr",
        "addr.dc1",
        "dc1",
        "_tcp.service",
        "_UDP.service.DC1",
        "_v1.service",
        "_tcp",
        "_tcp.dc1",
    ];
    for name in non_terminals {
        assert_eq!(of(&format!("{name}.consul.")), Question::EmptyNonTerminal, "{name}");
    }
    for nonexistent in
        ["web.consul.", "web.service.dc2.consul.", "service.dc2.consul.", "dc2.consul.", "_.consul.", "a.b.c.consul."]
    {
        assert_eq!(of(nonexistent), Question::Nonexistent, "{nonexistent}");
    }
    for outside in [".", "com.", "consul.example.", "xconsul.", "arpa."] {
        assert_eq!(of(outside), Question::OutOfZone, "{outside}");
    }
    let bytes = Name::from_labels([&b"\xff\xfe"[..], b"service", b"consul"]).unwrap();
    assert_eq!(Question::of(&bytes, &zone()), Question::Nonexistent);
}

proptest! {
    /// All labels are interpreted, and in the same way in any case.
    #[test]
    fn question_does_not_depend_on_case_of_name(labels in prop::collection::vec("[a-c_]{1,3}|service|node|addr|dc1|consul|arpa", 0..8)) {
        let name = Name::from_labels(labels.iter().map(String::as_bytes)).unwrap();
        let upper = labels.iter().map(|label| label.to_ascii_uppercase().into_bytes());
        let (lower, upper) = (Question::of(&name, &zone()), Question::of(&Name::from_labels(upper).unwrap(), &zone()));
        let fold = |question| match question {
            Question::Service(ServiceQuestion { readings, prefix }) => Question::Service(ServiceQuestion {
                readings: readings
                    .into_iter()
                    .map(|it| Reading { service: it.service.to_ascii_lowercase(), ..it })
                    .collect(),
                prefix: prefix.to_ascii_lowercase(),
            }),
            Question::Node(node) => Question::Node(node.to_ascii_lowercase()),
            other => other,
        };
        prop_assert_eq!(fold(lower), fold(upper));
    }

    /// The parent of a name that exists is not answered with NXDOMAIN: resolvers would not ask for the name any more (RFC 8020).
    #[test]
    fn parent_of_existing_name_exists(labels in prop::collection::vec("[a-c_]{1,3}|_tcp|service|node|addr|dc1|0a000001", 0..5)) {
        let of = |labels: &[String]| {
            let labels = labels.iter().map(String::as_str).chain(["consul"]);
            Question::of(&Name::from_labels(labels.map(str::as_bytes)).unwrap(), &zone())
        };
        let is_absent = |question: Question| question == Question::Nonexistent;
        for at in 0..labels.len() {
            prop_assert!(is_absent(of(&labels[at..])) || !is_absent(of(&labels[at + 1..])), "{:?}", &labels[at..]);
        }
    }

    /// The names in answers can be asked for.
    #[test]
    fn names_that_the_zone_builds_are_interpreted_as_built(bits in any::<u128>(), narrow in any::<u32>(), service in "[a-z][a-z0-9-]{0,20}") {
        for address in [IpAddr::V6(bits.into()), IpAddr::V4(narrow.into())] {
            prop_assert_eq!(Question::of(&zone().address_name(address).unwrap(), &zone()), Question::Address(address));
        }
        let Question::Service(asked) = Question::of(&zone().service_name(&service).unwrap(), &zone()) else {
            return Err(TestCaseError::fail("not the name of a service"));
        };
        prop_assert_eq!(&asked.readings[0].service, &service);
    }
}
