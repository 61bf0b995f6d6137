//! Tests of node names, aliases and reverse names.

use std::collections::BTreeSet;

use hickory_proto::rr::RData;

use super::{
    test_support::{NodeInstance, TestAuthority, assert_empty, records, set},
    *,
};
use crate::{
    model::InstanceId,
    registry::{Command, test_support::name},
};

/// Returns index of the answer, owner and data of each additional record.
fn additionals(answer: &DnsAnswer) -> Vec<(usize, String, String)> {
    let owner = |owner: &RecordOwner| match owner {
        RecordOwner::QueryName => "question".to_owned(),
        RecordOwner::Name(name) => name.to_string(),
        RecordOwner::TargetOf(at) => match answer.answers[*at].data.rdata() {
            RData::SRV(srv) => srv.target.to_string(),
            other => other.to_string(),
        },
    };
    let describe = |AdditionalRecord { answer, record }: &AdditionalRecord| {
        (*answer, owner(&record.owner), record.data.rdata().to_string())
    };
    answer.additionals.iter().map(describe).collect()
}

/// Returns owner and data of the answers, in their order.
fn chain(answer: &DnsAnswer) -> Vec<(String, String)> {
    assert_eq!(answer.code, ResponseCode::NoError);
    let owner = |owner: &RecordOwner| match owner {
        RecordOwner::QueryName => "question".to_owned(),
        RecordOwner::Name(name) => name.to_string(),
        RecordOwner::TargetOf(at) => answer.answers[*at].data.rdata().to_string(),
    };
    answer.answers.iter().map(|record| (owner(&record.owner), record.data.rdata().to_string())).collect()
}

fn pairs(records: &[(&str, &str)]) -> Vec<(String, String)> {
    records.iter().map(|(owner, data)| ((*owner).to_owned(), (*data).to_owned())).collect()
}

#[test]
fn srv_target_of_instance_without_address_is_its_node() {
    let dns = TestAuthority::new();
    dns.register_node("Edge", "198.51.100.7");
    dns.register_node("six", "2001:db8::7");
    for (id, node, port) in [("a", "", 70), ("b", "", 71), ("c", "Edge", 72), ("d", "Edge", 73), ("e", "six", 74)] {
        dns.register_on_node(NodeInstance { service: "yy", id, node, port, ..NodeInstance::default() });
    }
    let answer = dns.ask("yy.service.consul.", RecordType::SRV);
    let srv = [
        "1 1 70 N1.node.dc1.consul.",
        "1 1 71 N1.node.dc1.consul.",
        "1 1 72 Edge.node.dc1.consul.",
        "1 1 73 Edge.node.dc1.consul.",
        "1 1 74 six.node.dc1.consul.",
    ];
    assert_eq!(records(&answer), set(srv));
    let addresses: BTreeSet<_> =
        additionals(&answer).into_iter().map(|(_, owner, data)| format!("{owner} {data}")).collect();
    let expected =
        ["N1.node.dc1.consul. 192.0.2.1", "Edge.node.dc1.consul. 198.51.100.7", "six.node.dc1.consul. 2001:db8::7"];
    assert_eq!(addresses, set(expected));
    assert_eq!(answer.additionals.len(), 3, "the address of a node comes once");
    for AdditionalRecord { answer: index, record } in &answer.additionals {
        let RData::SRV(srv) = answer.answers[*index].data.rdata() else { panic!("{answer:?}") };
        let addresses = records(&dns.ask(&srv.target.to_string(), RecordType::ANY));
        assert_eq!(addresses, set([&*record.data.rdata().to_string()]));
    }
    assert_eq!(records(&dns.ask("yy.service.consul.", RecordType::A)), set(["192.0.2.1", "198.51.100.7"]));
    assert_eq!(records(&dns.ask("yy.service.consul.", RecordType::AAAA)), set(["2001:db8::7"]));
}

#[test]
fn srv_target_of_instance_with_other_address_is_that_address() {
    let dns = TestAuthority::new();
    dns.register_node("edge", "198.51.100.7");
    dns.register_node("named", "host.example");
    dns.register_on_node(NodeInstance {
        service: "own",
        id: "a",
        node: "edge",
        host: "203.0.113.1",
        port: 1,
        ..NodeInstance::default()
    });
    dns.register_on_node(NodeInstance {
        service: "own",
        id: "b",
        node: "edge",
        host: "198.51.100.7",
        port: 2,
        ..NodeInstance::default()
    });
    dns.register_on_node(NodeInstance { service: "own", id: "c", node: "named", port: 3, ..NodeInstance::default() });
    dns.register_on_node(NodeInstance { service: "own", id: "d", node: "unknown", port: 4, ..NodeInstance::default() });
    let answer = dns.ask("own.service.consul.", RecordType::SRV);
    let srv = [
        "1 1 1 cb007101.addr.dc1.consul.",
        "1 1 2 c6336407.addr.dc1.consul.",
        "1 1 3 host.example.",
        "1 1 4 c0000201.addr.dc1.consul.",
    ];
    assert_eq!(records(&answer), set(srv));
    assert_eq!(answer.additionals.len(), 3);
    // An instance without an address moves with its node.
    dns.register_on_node(NodeInstance { service: "moved", id: "a", node: "edge", port: 1, ..NodeInstance::default() });
    dns.register_node("edge", "198.51.100.9");
    let (service, id) = (name("moved"), InstanceId::on_node("edge", "a"));
    dns.submit(Command::RefreshNodeStatus { service, id });
    let moved = dns.ask("moved.service.consul.", RecordType::SRV);
    assert_eq!(records(&moved), set(["1 1 1 edge.node.dc1.consul."]));
    assert_eq!(additionals(&moved), [(0, "edge.node.dc1.consul.".to_owned(), "198.51.100.9".to_owned())]);
}

#[test]
fn node_without_valid_dns_name_is_no_target() {
    let dns = TestAuthority::new();
    let long = "n".repeat(64);
    for node in [&*long, "a..b"] {
        dns.register_node(node, "198.51.100.7");
        dns.register_on_node(NodeInstance { service: "web", id: "a", node, port: 1, ..NodeInstance::default() });
    }
    assert_eq!(records(&dns.ask("web.service.consul.", RecordType::SRV)), set(["1 1 1 c6336407.addr.dc1.consul."]));
    let services = set(["web.service.dc1.consul."]);
    assert_eq!(dns.reverse("7.100.51.198.in-addr.arpa."), services, "no node at that address has a DNS name");
}

#[test]
fn srv_records_have_instance_address_each_and_node_address_once() {
    let dns = TestAuthority::new();
    for port in 1..=20 {
        let id = format!("i{port}");
        dns.register_on_node(NodeInstance {
            service: "own",
            id: &id,
            host: "10.0.0.1",
            port,
            ..NodeInstance::default()
        });
        dns.register_on_node(NodeInstance {
            service: "node",
            id: &format!("n{port}"),
            port,
            ..NodeInstance::default()
        });
    }
    let answer = dns.ask("own.service.consul.", RecordType::SRV);
    assert_eq!(
        (answer.answers.len(), answer.additionals.len()),
        (20, 20),
        "HAProxy uses an additional record for one server"
    );
    let answer = dns.ask("node.service.consul.", RecordType::SRV);
    assert_eq!((answer.answers.len(), answer.additionals.len()), (20, 1));
    assert_eq!(answer.additionals[0].answer, 0, "it belongs to the first record");
}

#[test]
fn reverse_name_is_that_of_nodes_before_services() {
    let dns = TestAuthority::new();
    dns.register("web", "a", "198.51.100.40", &[]);
    assert_eq!(dns.reverse("40.100.51.198.in-addr.arpa."), set(["web.service.dc1.consul."]));
    dns.register_node("bare", "198.51.100.40");
    assert_eq!(dns.reverse("40.100.51.198.in-addr.arpa."), set(["bare.node.dc1.consul."]));
    dns.register_node("Twin", "198.51.100.40");
    assert_eq!(dns.reverse("40.100.51.198.in-addr.arpa."), set(["Twin.node.dc1.consul.", "bare.node.dc1.consul."]));
    assert_eq!(dns.reverse("1.2.0.192.in-addr.arpa."), set(["N1.node.dc1.consul."]), "the local node");
    dns.register_node("six", "2001:db8::5");
    let six = "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.";
    assert_eq!(dns.reverse(six), set(["six.node.dc1.consul."]));
    assert_empty(&dns.ask(six, RecordType::A), ResponseCode::NoError);
    // The name moves with its node, and is removed with a node that is deregistered.
    dns.register_node("bare", "198.51.100.41");
    assert_eq!(dns.reverse("40.100.51.198.in-addr.arpa."), set(["Twin.node.dc1.consul."]));
    assert_eq!(dns.reverse("41.100.51.198.in-addr.arpa."), set(["bare.node.dc1.consul."]));
    dns.deregister_node("Twin");
    assert_eq!(dns.reverse("40.100.51.198.in-addr.arpa."), set(["web.service.dc1.consul."]));
    for absent in ["99.113.0.203.in-addr.arpa.", &six.replacen('5', "9", 1), "x.0.0.10.in-addr.arpa."] {
        assert_empty(&dns.ask(absent, RecordType::PTR), ResponseCode::NXDomain);
        assert_empty(&dns.ask(absent, RecordType::A), ResponseCode::NXDomain);
    }
    for non_terminal in ["100.51.198.in-addr.arpa.", "in-addr.arpa.", "0.0.2.ip6.arpa."] {
        assert_empty(&dns.ask(non_terminal, RecordType::PTR), ResponseCode::NoError);
    }
}

#[test]
fn node_is_found_by_name_in_any_case() {
    let dns = TestAuthority::new();
    dns.register_node("Edge07", "198.51.100.7");
    for spelling in ["edge07", "EDGE07", "Edge07"] {
        assert_eq!(records(&dns.ask(&format!("{spelling}.node.consul."), RecordType::A)), set(["198.51.100.7"]));
    }
    dns.deregister_node("Edge07");
    assert_empty(&dns.ask("edge07.node.consul.", RecordType::A), ResponseCode::NXDomain);
}

#[test]
fn alias_in_the_zone_is_followed_to_addresses() {
    let dns = TestAuthority::new();
    dns.register_on_node(NodeInstance { service: "noaddr", id: "na", port: 6081, ..NodeInstance::default() });
    for (port, (service, host)) in (1..).zip([
        ("alias", "NoAddr.service.consul"),
        ("twice", "alias.service.dc1.consul"),
        ("onnode", "n1.node.consul"),
        ("literal", "0a000001.addr.dc1.consul"),
        ("gone", "none.service.consul"),
        ("away", "db.example"),
    ]) {
        dns.register_on_node(NodeInstance { service, id: service, host, port, ..NodeInstance::default() });
    }

    let once = pairs(&[("question", "NoAddr.service.consul."), ("NoAddr.service.consul.", "192.0.2.1")]);
    assert_eq!(chain(&dns.ask("alias.service.consul.", RecordType::A)), once);
    assert_eq!(chain(&dns.ask("alias.service.consul.", RecordType::ANY)), once);
    let twice = dns.ask("twice.service.consul.", RecordType::A);
    assert_eq!(
        chain(&twice)[1..],
        [("alias.service.dc1.consul.", "NoAddr.service.consul."), ("NoAddr.service.consul.", "192.0.2.1")]
            .map(|(owner, data)| (owner.to_owned(), data.to_owned()))
    );
    let node = pairs(&[("question", "n1.node.consul."), ("n1.node.consul.", "192.0.2.1")]);
    assert_eq!(chain(&dns.ask("onnode.service.consul.", RecordType::A)), node);
    assert_eq!(chain(&dns.ask("literal.service.consul.", RecordType::A))[1].1, "10.0.0.1");
    // Records of other types are left out.
    for (name, record_type, number) in [
        ("alias", RecordType::AAAA, 1),
        ("alias", RecordType::CNAME, 1),
        ("alias", RecordType::MX, 0),
        ("gone", RecordType::A, 1),
        ("away", RecordType::A, 1),
    ] {
        let answer = dns.ask(&format!("{name}.service.consul."), record_type);
        assert_eq!(answer.answers.len(), number, "{name} {record_type}");
    }

    let srv = |name: &str| additionals(&dns.ask(&format!("{name}.service.consul."), RecordType::SRV));
    assert_eq!(srv("alias"), [(0, "NoAddr.service.consul.".to_owned(), "192.0.2.1".to_owned())]);
    let through = ["alias.service.dc1.consul. NoAddr.service.consul.", "NoAddr.service.consul. 192.0.2.1"];
    let twice: Vec<_> = srv("twice").into_iter().map(|(_, owner, data)| format!("{owner} {data}")).collect();
    assert_eq!(twice, through);
    assert_eq!(srv("onnode"), [(0, "n1.node.consul.".to_owned(), "192.0.2.1".to_owned())]);
    assert_eq!((srv("gone"), srv("away")), (vec![], vec![]));
}

#[test]
fn node_with_host_name_is_followed_as_alias() {
    let dns = TestAuthority::new();
    dns.register("web", "a", "10.0.0.1", &[]);
    dns.register_node("n2", "web.service.consul");
    dns.register_node("n3", "n2.node.consul");
    dns.register_node("self", "self.node.consul");
    let expected = [
        ("question", "n2.node.consul."),
        ("n2.node.consul.", "web.service.consul."),
        ("web.service.consul.", "10.0.0.1"),
    ];
    assert_eq!(chain(&dns.ask("n3.node.consul.", RecordType::A)), pairs(&expected));
    for record_type in [RecordType::A, RecordType::CNAME, RecordType::TXT] {
        assert_empty(&dns.ask("self.node.consul.", record_type), ResponseCode::NoError);
    }
}

#[test]
fn service_that_is_its_own_alias_is_answered_with_its_node() {
    let dns = TestAuthority::new();
    dns.register_node("edge", "198.51.100.7");
    for (service, host) in [
        ("selfie", "Selfie.service.consul"),
        ("me.too", "me.too.service.dc1.consul"),
        ("rfc", "_rfc._tcp.service.consul"),
    ] {
        dns.register_on_node(NodeInstance { service, id: service, host, port: 1, ..NodeInstance::default() });
        let name = format!("{service}.service.consul.");
        assert_eq!(chain(&dns.ask(&name, RecordType::A)), pairs(&[("question", "192.0.2.1")]), "{service}");
        let answer = dns.ask(&name, RecordType::SRV);
        assert_eq!(records(&answer), set(["1 1 1 N1.node.dc1.consul."]), "{service}");
        assert_eq!(additionals(&answer), [(0, "N1.node.dc1.consul.".to_owned(), "192.0.2.1".to_owned())]);
    }
    // The host names the instances with a tag, so it is an alias of itself only in answers about that tag.
    dns.register_on_node(NodeInstance {
        service: "web",
        id: "a",
        host: "10.0.0.1",
        port: 1,
        tags: &["main"],
        ..NodeInstance::default()
    });
    dns.register_on_node(NodeInstance {
        service: "spare",
        id: "b",
        node: "edge",
        host: "main.spare.service.consul",
        port: 2,
        tags: &["main"],
    });
    let spare = [("question", "main.spare.service.consul."), ("main.spare.service.consul.", "198.51.100.7")];
    assert_eq!(chain(&dns.ask("spare.service.consul.", RecordType::A)), pairs(&spare));
    assert_eq!(records(&dns.ask("main.spare.service.consul.", RecordType::A)), set(["198.51.100.7"]));
    // Moving the node changes no instance, but it changes the answer.
    dns.register_node("edge", "198.51.100.8");
    assert_eq!(records(&dns.ask("main.spare.service.consul.", RecordType::A)), set(["198.51.100.8"]));
    // An instance without a node has no other target.
    dns.register("native", "a", "native.service.consul", &[]);
    assert_empty(&dns.ask("native.service.consul.", RecordType::A), ResponseCode::NoError);
}

#[test]
fn alias_loop_is_followed_once_around() {
    let dns = TestAuthority::new();
    dns.register_on_node(NodeInstance {
        service: "loopa",
        id: "l1",
        host: "loopb.service.consul",
        port: 1,
        ..NodeInstance::default()
    });
    dns.register_on_node(NodeInstance {
        service: "loopb",
        id: "l2",
        host: "loopa.service.consul",
        port: 1,
        ..NodeInstance::default()
    });
    let both = [("question", "loopb.service.consul."), ("loopb.service.consul.", "loopa.service.consul.")];
    assert_eq!(chain(&dns.ask("loopa.service.consul.", RecordType::A)), pairs(&both));
    let srv = dns.ask("loopa.service.consul.", RecordType::SRV);
    assert_eq!((records(&srv), additionals(&srv)), (set(["1 1 1 loopb.service.consul."]), vec![]));
    // A long chain of aliases is followed up to the limit.
    for n in 0..40 {
        let (service, host) = (format!("s{n}"), format!("s{}.service.consul", n + 1));
        dns.register_on_node(NodeInstance {
            service: &service,
            id: &service,
            host: &host,
            port: 1,
            ..NodeInstance::default()
        });
    }
    assert_eq!(dns.ask("s0.service.consul.", RecordType::A).answers.len(), 1 + MAX_ALIAS_HOPS);
    dns.register("s8", "a", "10.0.0.8", &[]);
    assert_eq!(chain(&dns.ask("s0.service.consul.", RecordType::A)).last().unwrap().1, "10.0.0.8");
}
