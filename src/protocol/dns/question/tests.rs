use std::time::Duration;

use proptest::prelude::*;

use super::{super::zone, *};

fn ours() -> Zone {
    Zone::new("consul", "dc1", "n1", Duration::ZERO, [127, 0, 0, 1].into())
}

fn of(name: &str) -> Question {
    let name = if name == "." { Name::root() } else { zone::name(name).unwrap() };
    Question::of(&name, &ours())
}

/// What the name of a service may mean.
fn readings(name: &str) -> Vec<(String, Option<String>)> {
    let Question::Service(asked) = of(name) else { panic!("{name} is the name of no service") };
    asked.readings.into_iter().map(|reading| (reading.service, reading.tag)).collect()
}

fn service(readings: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    readings.iter().map(|(service, tag)| ((*service).to_owned(), tag.map(str::to_owned))).collect()
}

#[test]
fn services() {
    for name in ["Web.service.consul.", "Web.SERVICE.dc1.Consul.", "Web.service.DC1.consul."] {
        assert_eq!(readings(name), service(&[("Web", None)]), "{name}");
    }
    let both = service(&[("V1.web", None), ("web", Some("v1"))]);
    assert_eq!(readings("V1.web.service.consul."), both, "the longest name first");
    assert_eq!(readings("a.b.c.service.consul."), service(&[("a.b.c", None), ("b.c", Some("a")), ("c", Some("a.b"))]));
    assert_eq!(readings("service.service.consul."), service(&[("service", None)]));
    assert_eq!(readings("node.service.consul."), service(&[("node", None)]));
    assert_eq!(of(&format!("{}service.consul.", "a.".repeat(33))), Question::Nothing);
}

#[test]
fn services_by_protocol() {
    for name in
        ["_web._tcp.consul.", "_web._TCP.service.consul.", "_web._udp.service.dc1.consul.", "_web._tcp.dc1.consul."]
    {
        assert_eq!(readings(name), service(&[("web", None)]), "{name}");
    }
    assert_eq!(readings("_web._V1.service.consul."), service(&[("web", Some("v1"))]));
    assert_eq!(readings("_web._a.b.service.consul."), service(&[("web", Some("a.b"))]));
    assert_eq!(readings("_my.web._tcp.service.consul."), service(&[("my.web", None)]));
    let plain = readings("_tag.web.service.consul.");
    assert_eq!(plain, service(&[("_tag.web", None), ("web", Some("_tag"))]), "a tag may begin so");
}

#[test]
fn nodes_and_addresses() {
    assert_eq!(of("N1.node.consul."), Question::Node("N1".into()));
    assert_eq!(of("a.b.node.dc1.consul."), Question::Node("a.b".into()));
    assert_eq!(of("0A000001.addr.dc1.consul."), Question::Literal([10, 0, 0, 1].into()));
    let six: IpAddr = "2001:db8::1".parse().unwrap();
    assert_eq!(of("20010db8000000000000000000000001.addr.dc1.consul."), Question::Literal(six));
    for wrong in ["0a00001", "0a00000g", "+a000001", "0a0000010", "a.0a000001"] {
        assert_eq!(of(&format!("{wrong}.addr.dc1.consul.")), Question::Nothing, "{wrong}");
    }
}

#[test]
fn whose_address() {
    assert_eq!(of("1.0.0.10.in-addr.arpa."), Question::Reverse([10, 0, 0, 1].into()));
    let six = format!("1.{}8.b.d.0.1.0.0.2.IP6.arpa.", "0.".repeat(23));
    assert_eq!(of(&six), Question::Reverse("2001:db8::1".parse().unwrap()));
    for wrong in
        ["256.0.0.10.in-addr.arpa.", "x.10.in-addr.arpa.", "+1.0.0.10.in-addr.arpa.", "5.1.0.0.10.in-addr.arpa."]
    {
        assert_eq!(of(wrong), Question::Nothing, "{wrong}");
    }
    for wrong in [format!("0.{six}"), format!("g{}", &six[1..]), "01.ip6.arpa.".to_owned()] {
        assert_eq!(of(&wrong), Question::Nothing, "{wrong}");
    }
    for between in ["in-addr.arpa.", "0.0.10.in-addr.arpa.", "10.in-addr.arpa.", "ip6.arpa.", "1.IP6.arpa.", &six[2..]]
    {
        assert_eq!(of(between), Question::EmptyNonTerminal, "{between}");
    }
}

#[test]
fn the_rest() {
    assert_eq!(of("CONSUL."), Question::Apex);
    let apart = [
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
    for between in apart {
        assert_eq!(of(&format!("{between}.consul.")), Question::EmptyNonTerminal, "{between}");
    }
    for nothing in
        ["web.consul.", "web.service.dc2.consul.", "service.dc2.consul.", "dc2.consul.", "_.consul.", "a.b.c.consul."]
    {
        assert_eq!(of(nothing), Question::Nothing, "{nothing}");
    }
    for foreign in [".", "com.", "consul.example.", "xconsul.", "arpa."] {
        assert_eq!(of(foreign), Question::OutOfZone, "{foreign}");
    }
    let bytes = Name::from_labels([&b"\xff\xfe"[..], b"service", b"consul"]).unwrap();
    assert_eq!(Question::of(&bytes, &ours()), Question::Nothing);
}

proptest! {
    /// Whatever the labels, there is an answer; and how they are spelt makes no other question of it.
    #[test]
    fn spelling_changes_no_question(labels in prop::collection::vec("[a-c_]{1,3}|service|node|addr|dc1|consul|arpa", 0..8)) {
        let name = Name::from_labels(labels.iter().map(String::as_bytes)).unwrap();
        let loud = labels.iter().map(|label| label.to_ascii_uppercase().into_bytes());
        let (plain, loud) = (Question::of(&name, &ours()), Question::of(&Name::from_labels(loud).unwrap(), &ours()));
        let fold = |question| match question {
            Question::Service(ServiceQuestion { readings, text }) => Question::Service(ServiceQuestion {
                readings: readings
                    .into_iter()
                    .map(|it| Reading { service: it.service.to_ascii_lowercase(), ..it })
                    .collect(),
                text: text.to_ascii_lowercase(),
            }),
            Question::Node(node) => Question::Node(node.to_ascii_lowercase()),
            other => other,
        };
        prop_assert_eq!(fold(plain), fold(loud));
    }

    /// A name that is not denied has no parent that is: else nothing below the parent would be asked for (RFC 8020).
    #[test]
    fn what_is_above_a_question_is_one(labels in prop::collection::vec("[a-c_]{1,3}|_tcp|service|node|addr|dc1|0a000001", 0..5)) {
        let of = |labels: &[String]| {
            let labels = labels.iter().map(String::as_str).chain(["consul"]);
            Question::of(&Name::from_labels(labels.map(str::as_bytes)).unwrap(), &ours())
        };
        let denied = |question: Question| question == Question::Nothing;
        for at in 0..labels.len() {
            prop_assert!(denied(of(&labels[at..])) || !denied(of(&labels[at + 1..])), "{:?}", &labels[at..]);
        }
    }

    /// Names that we give are names that we know.
    #[test]
    fn what_we_say_we_understand(bits in any::<u128>(), narrow in any::<u32>(), service in "[a-z][a-z0-9-]{0,20}") {
        for address in [IpAddr::V6(bits.into()), IpAddr::V4(narrow.into())] {
            prop_assert_eq!(Question::of(&ours().literal(address).unwrap(), &ours()), Question::Literal(address));
        }
        let Question::Service(asked) = Question::of(&ours().service(&service).unwrap(), &ours()) else {
            return Err(TestCaseError::fail("no service"));
        };
        prop_assert_eq!(&asked.readings[0].service, &service);
    }
}
