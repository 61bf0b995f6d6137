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

fn service(readings: &[(&str, Option<&str>)]) -> Question {
    let reading =
        |(service, tag): &(&str, Option<&str>)| Reading { service: (*service).to_owned(), tag: tag.map(str::to_owned) };
    Question::Service(readings.iter().map(reading).collect())
}

#[test]
fn services() {
    for name in ["Web.service.consul.", "Web.SERVICE.dc1.Consul.", "Web.service.DC1.consul."] {
        assert_eq!(of(name), service(&[("Web", None)]), "{name}");
    }
    let both = service(&[("V1.web", None), ("web", Some("v1"))]);
    assert_eq!(of("V1.web.service.consul."), both, "the longest name first");
    assert_eq!(of("a.b.c.service.consul."), service(&[("a.b.c", None), ("b.c", Some("a")), ("c", Some("a.b"))]));
    assert_eq!(of("service.service.consul."), service(&[("service", None)]));
    assert_eq!(of("node.service.consul."), service(&[("node", None)]));
    assert_eq!(of(&format!("{}service.consul.", "a.".repeat(33))), Question::Nothing);
}

#[test]
fn services_by_protocol() {
    for name in
        ["_web._tcp.consul.", "_web._TCP.service.consul.", "_web._udp.service.dc1.consul.", "_web._tcp.dc1.consul."]
    {
        assert_eq!(of(name), service(&[("web", None)]), "{name}");
    }
    assert_eq!(of("_web._V1.service.consul."), service(&[("web", Some("v1"))]));
    assert_eq!(of("_web._a.b.service.consul."), service(&[("web", Some("a.b"))]));
    assert_eq!(of("_my.web._tcp.service.consul."), service(&[("my.web", None)]));
    let plain = of("_tag.web.service.consul.");
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
    for wrong in ["0.10.in-addr.arpa.", "256.0.0.10.in-addr.arpa.", "x.0.0.10.in-addr.arpa.", "1.ip6.arpa."] {
        assert_eq!(of(wrong), Question::Nothing, "{wrong}");
    }
}

#[test]
fn the_rest() {
    assert_eq!(of("CONSUL."), Question::Apex);
    for between in ["service.consul.", "node.dc1.consul.", "addr.dc1.consul.", "dc1.consul.", "_tcp.service.consul."] {
        assert_eq!(of(between), Question::Between, "{between}");
    }
    for nothing in ["web.consul.", "web.service.dc2.consul.", "ns.consul.", "_web.consul.", "a.b.c.consul."] {
        assert_eq!(of(nothing), Question::Nothing, "{nothing}");
    }
    for foreign in [".", "com.", "consul.example.", "xconsul.", "arpa."] {
        assert_eq!(of(foreign), Question::Foreign, "{foreign}");
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
            Question::Service(readings) => Question::Service(
                readings.into_iter().map(|it| Reading { service: it.service.to_ascii_lowercase(), ..it }).collect(),
            ),
            Question::Node(node) => Question::Node(node.to_ascii_lowercase()),
            other => other,
        };
        prop_assert_eq!(fold(plain), fold(loud));
    }

    /// Names that we give are names that we know.
    #[test]
    fn what_we_say_we_understand(bits in any::<u128>(), narrow in any::<u32>(), service in "[a-z][a-z0-9-]{0,20}") {
        for address in [IpAddr::V6(bits.into()), IpAddr::V4(narrow.into())] {
            prop_assert_eq!(Question::of(&ours().literal(address).unwrap(), &ours()), Question::Literal(address));
        }
        let Question::Service(readings) = Question::of(&ours().service(&service).unwrap(), &ours()) else {
            return Err(TestCaseError::fail("no service"));
        };
        prop_assert_eq!(&readings[0].service, &service);
    }
}
