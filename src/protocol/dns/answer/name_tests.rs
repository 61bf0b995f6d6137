//! Names of nodes, and names that lead to other names.

use std::collections::BTreeSet;

use hickory_proto::rr::RData;

use super::{
    tests::{House, Listed, denied, said, set},
    *,
};
use crate::{
    model::{InstanceId, node_service},
    registry::{Command, DeregisterGuard, test_support::name},
};

/// The additional records: of which answer, whose, and what.
fn helped(answer: &DnsAnswer) -> Vec<(usize, String, String)> {
    let owner = |owner: &RecordOwner| match owner {
        RecordOwner::Asked => "asked".to_owned(),
        RecordOwner::Name(name) => name.to_string(),
        RecordOwner::TargetOf(at) => match answer.answers[*at].data.record() {
            RData::SRV(srv) => srv.target.to_string(),
            other => other.to_string(),
        },
    };
    let line = |Additional { of, line }: &Additional| (*of, owner(&line.owner), line.data.record().to_string());
    answer.additionals.iter().map(line).collect()
}

/// The answers in order: whose, and what.
fn chain(answer: &DnsAnswer) -> Vec<(String, String)> {
    assert_eq!(answer.code, ResponseCode::NoError);
    let owner = |owner: &RecordOwner| match owner {
        RecordOwner::Asked => "asked".to_owned(),
        RecordOwner::Name(name) => name.to_string(),
        RecordOwner::TargetOf(at) => answer.answers[*at].data.record().to_string(),
    };
    answer.answers.iter().map(|line| (owner(&line.owner), line.data.record().to_string())).collect()
}

fn pairs(records: &[(&str, &str)]) -> Vec<(String, String)> {
    records.iter().map(|(owner, data)| ((*owner).to_owned(), (*data).to_owned())).collect()
}

pub(super) fn remove_node(house: &House, name: &str) {
    let (service, id) = (node_service(), InstanceId::of_node(name));
    house.submit(Command::Deregister { service, id, of: DeregisterGuard::Anyone });
}

pub(super) fn whose(house: &House, address: &str) -> BTreeSet<String> {
    let answer = house.ask(address, RecordType::PTR);
    if answer.code == ResponseCode::NXDomain {
        denied(&answer, ResponseCode::NXDomain);
        return BTreeSet::new();
    }
    said(&answer)
}

#[test]
fn srv_of_instances_without_an_address_leads_to_their_node() {
    let house = House::new();
    house.node("Edge", "198.51.100.7");
    house.node("six", "2001:db8::7");
    for (id, node, port) in [("a", "", 70), ("b", "", 71), ("c", "Edge", 72), ("d", "Edge", 73), ("e", "six", 74)] {
        house.list(Listed { service: "yy", id, node, port, ..Listed::default() });
    }
    let answer = house.ask("yy.service.consul.", RecordType::SRV);
    let records = [
        "1 1 70 N1.node.dc1.consul.",
        "1 1 71 N1.node.dc1.consul.",
        "1 1 72 Edge.node.dc1.consul.",
        "1 1 73 Edge.node.dc1.consul.",
        "1 1 74 six.node.dc1.consul.",
    ];
    assert_eq!(said(&answer), set(records));
    let addresses: BTreeSet<_> =
        helped(&answer).into_iter().map(|(_, owner, data)| format!("{owner} {data}")).collect();
    let each =
        ["N1.node.dc1.consul. 192.0.2.1", "Edge.node.dc1.consul. 198.51.100.7", "six.node.dc1.consul. 2001:db8::7"];
    assert_eq!(addresses, set(each));
    assert_eq!(answer.additionals.len(), 3, "each address once");
    for Additional { of, line } in &answer.additionals {
        let RData::SRV(srv) = answer.answers[*of].data.record() else { panic!("{answer:?}") };
        assert_eq!(said(&house.ask(&srv.target.to_string(), RecordType::ANY)), set([&*line.data.record().to_string()]));
    }
    assert_eq!(said(&house.ask("yy.service.consul.", RecordType::A)), set(["192.0.2.1", "198.51.100.7"]));
    assert_eq!(said(&house.ask("yy.service.consul.", RecordType::AAAA)), set(["2001:db8::7"]));
}

#[test]
fn srv_of_instances_elsewhere_leads_to_their_address() {
    let house = House::new();
    house.node("edge", "198.51.100.7");
    house.node("named", "host.example");
    house.list(Listed { service: "own", id: "a", node: "edge", host: "203.0.113.1", port: 1, ..Listed::default() });
    house.list(Listed { service: "own", id: "b", node: "edge", host: "198.51.100.7", port: 2, ..Listed::default() });
    house.list(Listed { service: "own", id: "c", node: "named", port: 3, ..Listed::default() });
    house.list(Listed { service: "own", id: "d", node: "unknown", port: 4, ..Listed::default() });
    let answer = house.ask("own.service.consul.", RecordType::SRV);
    let records = [
        "1 1 1 cb007101.addr.dc1.consul.",
        "1 1 2 c6336407.addr.dc1.consul.",
        "1 1 3 host.example.",
        "1 1 4 c0000201.addr.dc1.consul.",
    ];
    assert_eq!(said(&answer), set(records));
    assert_eq!(answer.additionals.len(), 3);
    // Its node moves, and it with the node.
    house.list(Listed { service: "moved", id: "a", node: "edge", port: 1, ..Listed::default() });
    house.node("edge", "198.51.100.9");
    let (service, id) = (name("moved"), InstanceId::on_node("edge", "a"));
    house.submit(Command::RefreshNodeStatus { service, id });
    let moved = house.ask("moved.service.consul.", RecordType::SRV);
    assert_eq!(said(&moved), set(["1 1 1 edge.node.dc1.consul."]));
    assert_eq!(helped(&moved), [(0, "edge.node.dc1.consul.".to_owned(), "198.51.100.9".to_owned())]);
}

#[test]
fn names_that_dns_cannot_say_are_no_targets() {
    let house = House::new();
    let long = "n".repeat(64);
    for node in [&*long, "a..b"] {
        house.node(node, "198.51.100.7");
        house.list(Listed { service: "web", id: "a", node, port: 1, ..Listed::default() });
    }
    assert_eq!(said(&house.ask("web.service.consul.", RecordType::SRV)), set(["1 1 1 c6336407.addr.dc1.consul."]));
    let services = set(["web.service.dc1.consul."]);
    assert_eq!(whose(&house, "7.100.51.198.in-addr.arpa."), services, "no node there has a name");
}

#[test]
fn srv_records_of_one_address_bring_it_each_and_those_of_one_node_once() {
    let house = House::new();
    for port in 1..=20 {
        let id = format!("i{port}");
        house.list(Listed { service: "own", id: &id, host: "10.0.0.1", port, ..Listed::default() });
        house.list(Listed { service: "node", id: &format!("n{port}"), port, ..Listed::default() });
    }
    let answer = house.ask("own.service.consul.", RecordType::SRV);
    assert_eq!((answer.answers.len(), answer.additionals.len()), (20, 20), "as HAProxy needs it");
    let answer = house.ask("node.service.consul.", RecordType::SRV);
    assert_eq!((answer.answers.len(), answer.additionals.len()), (20, 1));
    assert_eq!(answer.additionals[0].of, 0, "with the first of them");
}

#[test]
fn reverse_names_are_those_of_nodes_before_services() {
    let house = House::new();
    house.put("web", "a", "198.51.100.40", &[]);
    assert_eq!(whose(&house, "40.100.51.198.in-addr.arpa."), set(["web.service.dc1.consul."]));
    house.node("bare", "198.51.100.40");
    assert_eq!(whose(&house, "40.100.51.198.in-addr.arpa."), set(["bare.node.dc1.consul."]));
    house.node("Twin", "198.51.100.40");
    assert_eq!(whose(&house, "40.100.51.198.in-addr.arpa."), set(["Twin.node.dc1.consul.", "bare.node.dc1.consul."]));
    assert_eq!(whose(&house, "1.2.0.192.in-addr.arpa."), set(["N1.node.dc1.consul."]), "the local node");
    house.node("six", "2001:db8::5");
    let six = "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.";
    assert_eq!(whose(&house, six), set(["six.node.dc1.consul."]));
    denied(&house.ask(six, RecordType::A), ResponseCode::NoError);
    // A node that moves or goes takes its name along.
    house.node("bare", "198.51.100.41");
    assert_eq!(whose(&house, "40.100.51.198.in-addr.arpa."), set(["Twin.node.dc1.consul."]));
    assert_eq!(whose(&house, "41.100.51.198.in-addr.arpa."), set(["bare.node.dc1.consul."]));
    remove_node(&house, "Twin");
    assert_eq!(whose(&house, "40.100.51.198.in-addr.arpa."), set(["web.service.dc1.consul."]));
    for absent in ["99.113.0.203.in-addr.arpa.", &six.replacen('5', "9", 1), "x.0.0.10.in-addr.arpa."] {
        denied(&house.ask(absent, RecordType::PTR), ResponseCode::NXDomain);
        denied(&house.ask(absent, RecordType::A), ResponseCode::NXDomain);
    }
    for between in ["100.51.198.in-addr.arpa.", "in-addr.arpa.", "0.0.2.ip6.arpa."] {
        denied(&house.ask(between, RecordType::PTR), ResponseCode::NoError);
    }
}

#[test]
fn reverse_question_reads_a_large_registry_in_portions() {
    let house = House::new();
    for n in 0..5_000 {
        house.put("web", &format!("i{n}"), &format!("10.0.{}.{}", n / 250, n % 250), &[]);
    }
    let name = "7.3.0.10.in-addr.arpa.";
    let portions = (0..1_000).take_while(|_| house.portion(name, RecordType::PTR, 10_000) == Err(IndexBehind)).count();
    assert!((4..=20).contains(&portions), "{portions}");
    assert!(house.portion(name, RecordType::PTR, 10_000).is_ok(), "once read, a question waits for nothing");
    house.node("bare", "10.0.3.8");
    assert!(house.portion("8.3.0.10.in-addr.arpa.", RecordType::PTR, 10_000).is_ok());
}

#[test]
fn node_names_have_no_case() {
    let house = House::new();
    house.node("Edge07", "198.51.100.7");
    for spelling in ["edge07", "EDGE07", "Edge07"] {
        assert_eq!(said(&house.ask(&format!("{spelling}.node.consul."), RecordType::A)), set(["198.51.100.7"]));
    }
    remove_node(&house, "Edge07");
    denied(&house.ask("edge07.node.consul.", RecordType::A), ResponseCode::NXDomain);
}

#[test]
fn aliases_into_the_zone_bring_their_addresses() {
    let house = House::new();
    house.list(Listed { service: "noaddr", id: "na", port: 6081, ..Listed::default() });
    house.list(Listed { service: "alias", id: "al", host: "NoAddr.service.consul", port: 1, ..Listed::default() });
    house.list(Listed { service: "twice", id: "t", host: "alias.service.dc1.consul", port: 2, ..Listed::default() });
    house.list(Listed { service: "onnode", id: "n", host: "n1.node.consul", port: 3, ..Listed::default() });
    house.list(Listed { service: "literal", id: "l", host: "0a000001.addr.dc1.consul", port: 4, ..Listed::default() });
    house.list(Listed { service: "gone", id: "g", host: "none.service.consul", port: 5, ..Listed::default() });
    house.list(Listed { service: "away", id: "w", host: "db.example", port: 6, ..Listed::default() });

    let once = pairs(&[("asked", "NoAddr.service.consul."), ("NoAddr.service.consul.", "192.0.2.1")]);
    assert_eq!(chain(&house.ask("alias.service.consul.", RecordType::A)), once);
    assert_eq!(chain(&house.ask("alias.service.consul.", RecordType::ANY)), once);
    let twice = house.ask("twice.service.consul.", RecordType::A);
    assert_eq!(
        chain(&twice)[1..],
        [("alias.service.dc1.consul.", "NoAddr.service.consul."), ("NoAddr.service.consul.", "192.0.2.1")]
            .map(|(owner, data)| (owner.to_owned(), data.to_owned()))
    );
    let node = pairs(&[("asked", "n1.node.consul."), ("n1.node.consul.", "192.0.2.1")]);
    assert_eq!(chain(&house.ask("onnode.service.consul.", RecordType::A)), node);
    assert_eq!(chain(&house.ask("literal.service.consul.", RecordType::A))[1].1, "10.0.0.1");
    // Only what was asked for, and nothing where there is nothing.
    for (name, kind, number) in [
        ("alias", RecordType::AAAA, 1),
        ("alias", RecordType::CNAME, 1),
        ("alias", RecordType::MX, 0),
        ("gone", RecordType::A, 1),
        ("away", RecordType::A, 1),
    ] {
        assert_eq!(house.ask(&format!("{name}.service.consul."), kind).answers.len(), number, "{name} {kind}");
    }

    let srv = |name: &str| helped(&house.ask(&format!("{name}.service.consul."), RecordType::SRV));
    assert_eq!(srv("alias"), [(0, "NoAddr.service.consul.".to_owned(), "192.0.2.1".to_owned())]);
    let through = ["alias.service.dc1.consul. NoAddr.service.consul.", "NoAddr.service.consul. 192.0.2.1"];
    let twice: Vec<_> = srv("twice").into_iter().map(|(_, owner, data)| format!("{owner} {data}")).collect();
    assert_eq!(twice, through);
    assert_eq!(srv("onnode"), [(0, "n1.node.consul.".to_owned(), "192.0.2.1".to_owned())]);
    assert_eq!((srv("gone"), srv("away")), (vec![], vec![]));
}

#[test]
fn nodes_that_are_aliases_are_followed() {
    let house = House::new();
    house.put("web", "a", "10.0.0.1", &[]);
    house.node("n2", "web.service.consul");
    house.node("n3", "n2.node.consul");
    house.node("self", "self.node.consul");
    let expected =
        [("asked", "n2.node.consul."), ("n2.node.consul.", "web.service.consul."), ("web.service.consul.", "10.0.0.1")];
    assert_eq!(chain(&house.ask("n3.node.consul.", RecordType::A)), pairs(&expected));
    for kind in [RecordType::A, RecordType::CNAME, RecordType::TXT] {
        denied(&house.ask("self.node.consul.", kind), ResponseCode::NoError);
    }
}

#[test]
fn service_that_leads_to_itself_is_answered_with_its_node() {
    let house = House::new();
    house.node("edge", "198.51.100.7");
    for (service, host) in [
        ("selfie", "Selfie.service.consul"),
        ("me.too", "me.too.service.dc1.consul"),
        ("rfc", "_rfc._tcp.service.consul"),
    ] {
        house.list(Listed { service, id: service, host, port: 1, ..Listed::default() });
        let name = format!("{service}.service.consul.");
        assert_eq!(chain(&house.ask(&name, RecordType::A)), pairs(&[("asked", "192.0.2.1")]), "{service}");
        let answer = house.ask(&name, RecordType::SRV);
        assert_eq!(said(&answer), set(["1 1 1 N1.node.dc1.consul."]), "{service}");
        assert_eq!(helped(&answer), [(0, "N1.node.dc1.consul.".to_owned(), "192.0.2.1".to_owned())]);
    }
    // By a tag, it leads to those with the tag, and only for these back to itself.
    house.list(Listed { service: "web", id: "a", host: "10.0.0.1", port: 1, tags: &["main"], ..Listed::default() });
    house.list(Listed {
        service: "spare",
        id: "b",
        node: "edge",
        host: "main.spare.service.consul",
        port: 2,
        tags: &["main"],
    });
    let spare = [("asked", "main.spare.service.consul."), ("main.spare.service.consul.", "198.51.100.7")];
    assert_eq!(chain(&house.ask("spare.service.consul.", RecordType::A)), pairs(&spare));
    assert_eq!(said(&house.ask("main.spare.service.consul.", RecordType::A)), set(["198.51.100.7"]));
    // The node moves: no instance changes by that.
    house.node("edge", "198.51.100.8");
    assert_eq!(said(&house.ask("main.spare.service.consul.", RecordType::A)), set(["198.51.100.8"]));
    // Who has no node leads nowhere.
    house.put("native", "a", "native.service.consul", &[]);
    denied(&house.ask("native.service.consul.", RecordType::A), ResponseCode::NoError);
}

#[test]
fn loops_of_aliases_end() {
    let house = House::new();
    house.list(Listed { service: "loopa", id: "l1", host: "loopb.service.consul", port: 1, ..Listed::default() });
    house.list(Listed { service: "loopb", id: "l2", host: "loopa.service.consul", port: 1, ..Listed::default() });
    let both = [("asked", "loopb.service.consul."), ("loopb.service.consul.", "loopa.service.consul.")];
    assert_eq!(chain(&house.ask("loopa.service.consul.", RecordType::A)), pairs(&both));
    let srv = house.ask("loopa.service.consul.", RecordType::SRV);
    assert_eq!((said(&srv), helped(&srv)), (set(["1 1 1 loopb.service.consul."]), vec![]));
    // A long chain is followed for some way, and always by another name of the same.
    for n in 0..40 {
        let (service, host) = (format!("s{n}"), format!("s{}.service.consul", n + 1));
        house.list(Listed { service: &service, id: &service, host: &host, port: 1, ..Listed::default() });
    }
    assert_eq!(house.ask("s0.service.consul.", RecordType::A).answers.len(), 1 + MAX_HOPS);
    house.put("s8", "a", "10.0.0.8", &[]);
    assert_eq!(chain(&house.ask("s0.service.consul.", RecordType::A)).last().unwrap().1, "10.0.0.8");
}
