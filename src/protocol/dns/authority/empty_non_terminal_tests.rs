//! Tests of names without records above names that have some.

use std::collections::BTreeSet;

use super::{
    test_support::{TestAuthority, assert_empty, records, set},
    *,
};
use crate::{
    model::node_service,
    registry::{
        Entry, Patch,
        test_support::{deregister, name, update},
    },
};

const RECORD_TYPES: [RecordType; 7] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::SRV,
    RecordType::TXT,
    RecordType::ANY,
    RecordType::PTR,
    RecordType::SOA,
];

/// Returns whether a name exists. The answer is the same for all record types.
fn exists(dns: &TestAuthority, name: &str) -> bool {
    let codes: BTreeSet<u16> = RECORD_TYPES.iter().map(|record_type| dns.ask(name, *record_type).code.into()).collect();
    assert_eq!(codes.len(), 1, "{name} {codes:?}");
    let answer = dns.ask(name, RecordType::MX);
    assert_empty(&answer, answer.code);
    answer.code == ResponseCode::NoError
}

/// Names below the zone that exist, because they have records or because a name below them exists.
const PRESENT: &[&str] = &[
    // Nodes and the names above them.
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
    // The form of RFC 2782.
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

/// Names below the zone that do not exist.
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
fn name_above_an_existing_name_exists() {
    let dns = TestAuthority::with_local_node("own.example");
    dns.register_node("deep.Example.org", "198.51.100.41");
    dns.register("v2.Billing", "a", "10.0.0.1", &[]);
    dns.register("my.web.v1", "a", "10.0.0.2", &["X.y", "plain"]);
    dns.register("shop", "a", "10.0.0.3", &["r.s.t"]);
    for name in PRESENT {
        assert!(exists(&dns, &format!("{name}.consul.")), "{name}");
    }
    for name in ABSENT {
        assert!(!exists(&dns, &format!("{name}.consul.")), "{name}");
    }
}

#[test]
fn name_above_others_exists_as_long_as_one_of_them_does() {
    let dns = TestAuthority::new();
    dns.register_node("deep.example.org", "198.51.100.41");
    dns.register("v2.billing", "a", "10.0.0.1", &[]);
    dns.register("v3.billing", "a", "10.0.0.1", &[]);
    dns.register("shop", "a", "10.0.0.3", &["s.t"]);
    let names = ["org.node.consul.", "billing.service.consul.", "t.shop.service.consul.", "t.service.consul."];
    assert!(names.iter().all(|name| exists(&dns, name)));
    dns.deregister_node("deep.example.org");
    dns.submit(deregister("v2.billing", "a", None));
    dns.submit(update("shop", "a", Patch { draining: Some(true), ..Patch::default() }));
    assert!(exists(&dns, "billing.service.consul."), "v3.billing still exists");
    assert!(!exists(&dns, "org.node.consul."));
    assert!(!exists(&dns, "t.shop.service.consul."), "no instance is routable");
    dns.submit(deregister("v3.billing", "a", None));
    dns.register("shop", "b", "10.0.0.4", &["t"]);
    dns.submit(deregister("shop", "a", None));
    assert!(!exists(&dns, "billing.service.consul."));
    assert!(exists(&dns, "t.shop.service.consul.") && !exists(&dns, "t.service.consul."));
}

#[test]
fn names_above_restored_instances_exist() {
    let source = TestAuthority::new();
    source.register_node("deep.example.org", "198.51.100.41");
    source.register("v2.billing", "a", "10.0.0.1", &["s.t"]);
    let dns = TestAuthority::new();
    for service in [node_service(), name("v2.billing")] {
        for entry in source.engine.registry().page(&service, "", 10) {
            dns.engine.registry().order().restore(Entry::new(entry.instance.clone(), None));
        }
    }
    for name in ["org.node.consul.", "billing.service.consul.", "t.v2.billing.service.consul.", "t.service.consul."] {
        assert!(exists(&dns, name), "{name}");
    }
    assert_eq!(dns.reverse("41.100.51.198.in-addr.arpa."), set(["deep.example.org.node.dc1.consul."]));
    assert_eq!(records(&dns.ask("DEEP.example.org.node.consul.", RecordType::A)), set(["198.51.100.41"]));
}
