//! Names between: those that nobody has, above one that somebody has.

use std::collections::BTreeSet;

use super::{
    name_tests::{remove_node, whose},
    tests::{House, denied, said, set},
    *,
};
use crate::{
    model::node_service,
    registry::{
        Patch,
        test_support::{deregister, name, update},
    },
};

const KINDS: [RecordType; 7] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::SRV,
    RecordType::TXT,
    RecordType::ANY,
    RecordType::PTR,
    RecordType::SOA,
];

/// Whether there is such a name: the same for every type of records.
fn exists(house: &House, name: &str) -> bool {
    let codes: BTreeSet<u16> = KINDS.iter().map(|kind| house.ask(name, *kind).code.into()).collect();
    assert_eq!(codes.len(), 1, "{name} {codes:?}");
    let answer = house.ask(name, RecordType::MX);
    denied(&answer, answer.code);
    answer.code == ResponseCode::NoError
}

/// Names that are there or above one that is, below the zone.
const PRESENT: &[&str] = &[
    // Nodes, and what is above them.
    "deep.example.org.node",
    "example.org.node",
    "ORG.node.dc1",
    "own.example.node",
    "example.node",
    // Services.
    "v2.billing.service",
    "billing.service",
    "Billing.service.dc1",
    "web.v1.service",
    "v1.service",
    // Tags.
    "x.y.my.web.v1.service",
    "Y.my.web.v1.service",
    "plain.my.web.v1.service",
    "r.s.t.shop.service",
    "s.t.shop.service",
    "t.shop.service.dc1",
    // In the form of SRV.
    "_my.web.v1._tcp.service",
    "web.v1._tcp.service",
    "v1._udp.service.dc1",
    "_tcp.service",
    "_tcp.service.dc1",
    "_my.web.v1._plain.service",
    "web.v1._plain.service",
    "_plain.service",
    "_shop._r.s.t.service",
    "_r.s.t.service",
    "s.t.service",
    "t.service",
    "y.service",
    "_shop._tcp",
    "_tcp",
    "_tcp.dc1",
    // The zone.
    "service",
    "node",
    "addr",
    "dc1",
    "service.dc1",
    "node.dc1",
    "addr.dc1",
    "0a000001.addr",
    "0a000001.addr.dc1",
];

/// Names that are neither.
const ABSENT: &[&str] = &[
    "deep.node",
    "deep.example.node",
    "ample.org.node",
    "g.node",
    "x.example.org.node",
    "own.node",
    "ple.node",
    "v2.service",
    "illing.service",
    "x.billing.service",
    "web.service",
    "my.web.service",
    "x.my.web.v1.service",
    "z.y.my.web.v1.service",
    "y.shop.service",
    "r.s.shop.service",
    "s.shop.service",
    "z.shop.service",
    "web._tcp.service",
    "billing.v1._tcp.service",
    "_r.s.service",
    "r.s.t.service",
    "_x.my.web.v1.service",
    "x.addr",
    "x.0a000001.addr",
    "x.addr.dc1",
    "service.dc2",
    "dc2",
    "billing",
    "billing.service.dc2",
];

#[test]
fn names_between_are_not_denied() {
    let house = House::on("own.example");
    house.node("deep.Example.org", "198.51.100.41");
    house.put("v2.Billing", "a", "10.0.0.1", &[]);
    house.put("my.web.v1", "a", "10.0.0.2", &["X.y", "plain"]);
    house.put("shop", "a", "10.0.0.3", &["r.s.t"]);
    for name in PRESENT {
        assert!(exists(&house, &format!("{name}.consul.")), "{name}");
    }
    for name in ABSENT {
        assert!(!exists(&house, &format!("{name}.consul.")), "{name}");
    }
}

#[test]
fn names_between_go_with_what_is_below_them() {
    let house = House::new();
    house.node("deep.example.org", "198.51.100.41");
    house.put("v2.billing", "a", "10.0.0.1", &[]);
    house.put("v3.billing", "a", "10.0.0.1", &[]);
    house.put("shop", "a", "10.0.0.3", &["s.t"]);
    let names = ["org.node.consul.", "billing.service.consul.", "t.shop.service.consul.", "t.service.consul."];
    assert!(names.iter().all(|name| exists(&house, name)));
    remove_node(&house, "deep.example.org");
    house.submit(deregister("v2.billing", "a", None));
    house.submit(update("shop", "a", Patch { draining: Some(true), ..Patch::default() }));
    assert!(exists(&house, "billing.service.consul."), "there is still v3");
    assert!(!exists(&house, "org.node.consul."));
    assert!(!exists(&house, "t.shop.service.consul."), "nobody is to be called there");
    house.submit(deregister("v3.billing", "a", None));
    house.put("shop", "b", "10.0.0.4", &["t"]);
    house.submit(deregister("shop", "a", None));
    assert!(!exists(&house, "billing.service.consul."));
    assert!(exists(&house, "t.shop.service.consul.") && !exists(&house, "t.service.consul."));
}

#[test]
fn name_below_others_counts_after_a_restart() {
    let source = House::new();
    source.node("deep.example.org", "198.51.100.41");
    source.put("v2.billing", "a", "10.0.0.1", &["s.t"]);
    let house = House::new();
    for service in [node_service(), name("v2.billing")] {
        for entry in source.engine.registry().page(&service, "", 10) {
            house.engine.registry().order().restore(entry.instance.clone(), None);
        }
    }
    for name in ["org.node.consul.", "billing.service.consul.", "t.v2.billing.service.consul.", "t.service.consul."] {
        assert!(exists(&house, name), "{name}");
    }
    assert_eq!(whose(&house, "41.100.51.198.in-addr.arpa."), set(["deep.example.org.node.dc1.consul."]));
    assert_eq!(said(&house.ask("DEEP.example.org.node.consul.", RecordType::A)), set(["198.51.100.41"]));
}
