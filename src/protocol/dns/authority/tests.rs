use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    test_support::{TestAuthority, assert_empty, records, set},
    *,
};
use crate::{
    model::{Conditions, ConsulRegistration, InstanceId, Metadata, PolicySettings, Weight, node_service},
    registry::{
        Command, InstanceDescription, Patch, RegisterWithoutLease,
        test_support::{deregister, name, register, update},
    },
    transport::Notifier,
};

#[test]
fn service_is_answered_by_name_tag_and_address_family() {
    let dns = TestAuthority::new();
    dns.register("web", "a", "10.0.0.1", &["V1", "blue"]);
    dns.register("web", "b", "10.0.0.2", &["v2"]);
    dns.register("web", "c", "2001:db8::1", &[]);
    let both = set(["10.0.0.1", "10.0.0.2"]);
    assert_eq!(records(&dns.ask("WEB.service.consul.", RecordType::A)), both);
    assert_eq!(records(&dns.ask("web.service.consul.", RecordType::AAAA)), set(["2001:db8::1"]));
    assert_eq!(records(&dns.ask("web.service.consul.", RecordType::ANY)).len(), 3);
    assert_eq!(records(&dns.ask("v1.web.service.consul.", RecordType::A)), set(["10.0.0.1"]));
    assert_empty(&dns.ask("v1.web.service.consul.", RecordType::AAAA), ResponseCode::NoError);
    assert_empty(&dns.ask("v3.web.service.consul.", RecordType::A), ResponseCode::NXDomain);
    assert_empty(&dns.ask("web.service.consul.", RecordType::MX), ResponseCode::NoError);
    assert_empty(&dns.ask("none.service.consul.", RecordType::A), ResponseCode::NXDomain);
    assert_empty(&dns.ask("web.service.dc2.consul.", RecordType::A), ResponseCode::NXDomain);
    dns.register("v1.web", "x", "10.0.0.9", &[]);
    assert_eq!(
        records(&dns.ask("v1.web.service.consul.", RecordType::A)),
        set(["10.0.0.9"]),
        "the longest service name wins"
    );
}

#[test]
fn services_that_differ_in_case_are_answered_together() {
    let dns = TestAuthority::new();
    dns.register("Web", "a", "10.0.0.1", &["V1"]);
    assert_eq!(records(&dns.ask("wEB.service.consul.", RecordType::A)), set(["10.0.0.1"]));
    dns.register("web", "a", "10.0.0.2", &["v1"]);
    dns.register("WEB", "a", "10.0.0.3", &[]);
    for spelling in ["Web", "web", "WEB", "wEb"] {
        let all = records(&dns.ask(&format!("{spelling}.service.consul."), RecordType::A));
        assert_eq!(all, set(["10.0.0.1", "10.0.0.2", "10.0.0.3"]), "{spelling}");
        let tagged = records(&dns.ask(&format!("v1.{spelling}.service.consul."), RecordType::A));
        assert_eq!(tagged, set(["10.0.0.1", "10.0.0.2"]), "{spelling}");
        assert_eq!(records(&dns.ask(&format!("_{spelling}._tcp.service.consul."), RecordType::SRV)).len(), 3);
    }
    dns.register("Web", "b", "10.0.0.2", &[]);
    assert_eq!(
        records(&dns.ask("web.service.consul.", RecordType::A)).len(),
        3,
        "an address of two of them comes once"
    );
    let reverse = dns.ask("2.0.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(reverse.answers.len(), 1, "they have one name in DNS: {reverse:?}");
    dns.submit(deregister("web", "a", None));
    assert_eq!(records(&dns.ask("web.service.consul.", RecordType::A)).len(), 3);
    dns.submit(deregister("Web", "b", None));
    assert_eq!(records(&dns.ask("web.service.consul.", RecordType::A)), set(["10.0.0.1", "10.0.0.3"]));
    dns.submit(deregister("Web", "a", None));
    dns.submit(deregister("WEB", "a", None));
    assert_empty(&dns.ask("wEB.service.consul.", RecordType::A), ResponseCode::NXDomain);
    assert_empty(&dns.ask("_nodes.service.consul.", RecordType::A), ResponseCode::NoError);
}

#[test]
fn srv_answer_has_targets_and_their_addresses() {
    let dns = TestAuthority::new();
    dns.register("web", "a", "10.0.0.1", &["v1"]);
    dns.register("web", "b", "2001:db8::1", &[]);
    dns.register("web", "c", "db.internal", &[]);
    let answer = dns.ask("_web._tcp.service.consul.", RecordType::SRV);
    let six = "1 1 80 20010db8000000000000000000000001.addr.dc1.consul.";
    assert_eq!(records(&answer), set(["1 1 80 0a000001.addr.dc1.consul.", "1 1 80 db.internal.", six]));
    for AdditionalRecord { answer: index, record } in &answer.additionals {
        assert_eq!(record.owner, RecordOwner::TargetOf(*index));
        let RData::SRV(srv) = answer.answers[*index].data.rdata() else { panic!("{answer:?}") };
        let addresses = records(&dns.ask(&srv.target.to_string(), RecordType::ANY));
        assert_eq!(addresses, set([&*record.data.rdata().to_string()]));
    }
    assert_eq!(answer.additionals.len(), 2);
    assert_eq!(records(&dns.ask("_web._v1.service.consul.", RecordType::SRV)).len(), 1);
    assert!(answer.answers.iter().all(|record| record.ttl == 7));
}

#[test]
fn host_name_is_alias_unless_service_has_an_address() {
    let dns = TestAuthority::new();
    dns.register("db", "a", "db.internal", &[]);
    for record_type in [RecordType::A, RecordType::AAAA, RecordType::ANY, RecordType::CNAME] {
        assert_eq!(records(&dns.ask("db.service.consul.", record_type)), set(["db.internal."]));
    }
    dns.register("db", "b", "10.0.0.1", &[]);
    assert_eq!(records(&dns.ask("db.service.consul.", RecordType::A)), set(["10.0.0.1"]));
    assert_eq!(records(&dns.ask("db.service.consul.", RecordType::TXT)), set(["10.0.0.1", "db.internal."]));
}

#[test]
fn instances_that_are_not_routable_are_left_out() {
    let dns = TestAuthority::new();
    dns.register("web", "a", "10.0.0.1", &[]);
    dns.register("web", "b", "10.0.0.2", &[]);
    assert_eq!(records(&dns.ask("web.service.consul.", RecordType::A)).len(), 2);
    let drain = Patch { draining: Some(true), ..Patch::default() };
    dns.submit(update("web", "a", drain.clone()));
    assert_eq!(records(&dns.ask("web.service.consul.", RecordType::A)), set(["10.0.0.2"]));
    dns.submit(update("web", "b", drain));
    assert_empty(&dns.ask("web.service.consul.", RecordType::A), ResponseCode::NXDomain);
    let entry = dns.engine.registry().get(&name("web"), "a").unwrap();
    assert_eq!(entry.instance.conditions, Conditions { operator_draining: true, ..Conditions::default() });
}

#[test]
fn srv_records_have_effective_weights() {
    let dns = TestAuthority::new();
    let weights = || -> Vec<u16> {
        let mut weights: Vec<_> = dns
            .ask("web.service.consul.", RecordType::SRV)
            .answers
            .iter()
            .map(|record| match record.data.rdata() {
                RData::SRV(srv) => srv.weight,
                other => panic!("{other}"),
            })
            .collect();
        weights.sort_unstable();
        weights
    };
    dns.register("web", "a", "10.0.0.1", &[]);
    assert_eq!(weights(), [1]);
    dns.set_policy("web", PolicySettings { slow_start: Some(Duration::from_mins(1)), ..PolicySettings::default() });
    for second in 0..2 {
        dns.weights.update(dns.engine.registry(), &Notifier::new(1), second * 1_000);
    }
    dns.register("web", "b", "10.0.0.2", &[]);
    assert_eq!(weights(), [10, 100], "in hundredths");
    dns.submit(update("web", "a", Patch { weight: Some(Weight::parse(65_535).unwrap()), ..Patch::default() }));
    assert_eq!(weights(), [1, 65_535], "in proportion, but not zero");
    dns.set_policy("web", PolicySettings::default());
    dns.weights.update(dns.engine.registry(), &Notifier::new(1), 2_000);
    assert_eq!(weights(), [1, 65_535], "as configured");
    dns.submit(update("web", "a", Patch { weight: Some(Weight::parse(3).unwrap()), ..Patch::default() }));
    assert_eq!(weights(), [1, 3]);
}

#[test]
fn addresses_are_distinct_and_in_random_order() {
    let dns = TestAuthority::new();
    for n in 0..20 {
        dns.register("web", &format!("i{n}"), &format!("10.0.0.{}", n / 2), &[]);
    }
    let order = |_| -> Vec<String> {
        let answer = dns.ask("web.service.consul.", RecordType::A);
        answer.answers.iter().map(|record| record.data.rdata().to_string()).collect()
    };
    let orders: BTreeSet<_> = (0..10).map(order).collect();
    assert!(orders.len() > 1, "the order is random");
    assert!(orders.iter().all(|order| order.len() == 10));
    let answer = dns.ask_with_limit("web.service.consul.", RecordType::A, 3 * 16);
    assert!(answer.truncated && answer.answers.len() == 3, "3 records fit");
}

#[test]
fn node_metadata_is_answered_as_texts() {
    let dns = TestAuthority::new();
    let metadata =
        [("rack", "7"), ("rfc1035-note", "v=spf1 -all")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let metadata: BTreeMap<_, _> = metadata.into();
    let description = InstanceDescription {
        metadata: Metadata::parse(metadata.iter()).unwrap(),
        ..register("web", "a", "boot", 1).description
    };
    dns.submit(Command::RegisterWithoutLease(Box::new(RegisterWithoutLease {
        service: node_service(),
        id: InstanceId::of_node("db1"),
        description,
        consul_registration: ConsulRegistration { node: "db1".into(), ..ConsulRegistration::default() },
        checks: Vec::new(),
        replace_checks: false,
    })));
    assert_eq!(records(&dns.ask("db1.node.consul.", RecordType::TXT)), set(["rack=7", "v=spf1 -all"]));
}

#[test]
fn names_of_nodes_addresses_and_the_zone_are_answered() {
    let dns = TestAuthority::new();
    assert_eq!(records(&dns.ask("n1.node.dc1.consul.", RecordType::A)), set(["192.0.2.1"]));
    assert_empty(&dns.ask("n1.node.consul.", RecordType::AAAA), ResponseCode::NoError);
    assert_empty(&dns.ask("n2.node.consul.", RecordType::A), ResponseCode::NXDomain);
    assert_empty(&dns.ask("_agent.node.consul.", RecordType::A), ResponseCode::NXDomain);
    assert_eq!(records(&dns.ask("0a000001.addr.dc1.consul.", RecordType::A)), set(["10.0.0.1"]));
    assert_empty(&dns.ask("0a000001.addr.dc1.consul.", RecordType::AAAA), ResponseCode::NoError);
    let soa = "ns.consul. hostmaster.consul. 1700000000 3600 600 86400 0";
    assert_eq!(records(&dns.ask("consul.", RecordType::SOA)), set([soa]));
    let servers = dns.ask("consul.", RecordType::NS);
    assert_eq!(records(&servers), set(["N1.node.dc1.consul."]));
    assert_eq!(servers.additionals[0].record.data.rdata().to_string(), "192.0.2.1");
    assert_empty(&dns.ask("service.consul.", RecordType::A), ResponseCode::NoError);
    assert_empty(&dns.ask("else.consul.", RecordType::A), ResponseCode::NXDomain);
    for (name, record_type) in [("example.com.", RecordType::A), ("consul.", RecordType::AXFR)] {
        let refused = dns.ask(name, record_type);
        assert_eq!((refused.code, refused.authoritative, refused.authorities.len()), (ResponseCode::Refused, false, 0));
    }
}

#[test]
fn reverse_name_follows_changes_of_addresses() {
    let dns = TestAuthority::new();
    dns.register("web", "a", "10.0.0.1", &[]);
    assert_eq!(dns.reverse("1.0.0.10.in-addr.arpa."), set(["web.service.dc1.consul."]));
    assert_eq!(dns.reverse("2.0.0.10.in-addr.arpa."), set([]));
    dns.register("api", "a", "10.0.0.1", &[]);
    dns.register("web", "b", "10.0.0.1", &[]);
    dns.register("web", "a", "10.0.0.2", &[]);
    assert_eq!(dns.reverse("1.0.0.10.in-addr.arpa."), set(["api.service.dc1.consul.", "web.service.dc1.consul."]));
    assert_eq!(dns.reverse("2.0.0.10.in-addr.arpa."), set(["web.service.dc1.consul."]));
    dns.submit(deregister("web", "b", None));
    assert_eq!(dns.reverse("1.0.0.10.in-addr.arpa."), set(["api.service.dc1.consul."]));
    for n in 0..70_000 {
        // More changes than the event log keeps.
        dns.register("web", "a", if n % 2 == 0 { "10.0.0.3" } else { "10.0.0.4" }, &[]);
    }
    dns.submit(deregister("api", "a", None));
    assert_eq!(dns.reverse("4.0.0.10.in-addr.arpa."), set(["web.service.dc1.consul."]));
    for gone in ["1.0.0.10.in-addr.arpa.", "2.0.0.10.in-addr.arpa.", "3.0.0.10.in-addr.arpa."] {
        assert_eq!(dns.reverse(gone), set([]), "{gone}");
    }
}
