use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use hickory_proto::rr::Name;

use super::*;
use crate::{
    engine::Memory,
    model::{
        Address, Conditions, ConsulRegistration, Incarnation, InstanceId, Metadata, ServiceName, Tags, node_service,
    },
    registry::{
        Command, InstanceDescription, Patch, Register, RegisterWithoutLease,
        test_support::{NoListener, at, deregister, name, register, update},
    },
};

/// A registry, and who answers from it.
pub(super) struct House {
    pub(super) engine: Memory,
    oracle: Authority,
}

/// A registration in Consul's words, on a node. Without a host it is where its node is.
#[derive(Default)]
pub(super) struct Listed<'a> {
    pub(super) service: &'a str,
    pub(super) id: &'a str,
    pub(super) node: &'a str,
    pub(super) host: &'a str,
    pub(super) port: u32,
    pub(super) tags: &'a [&'a str],
}

impl House {
    pub(super) fn new() -> Self {
        Self::on("N1")
    }

    /// On a local node of this name.
    pub(super) fn on(node: &str) -> Self {
        let zone = Zone::new("consul", "dc1", node, Duration::from_secs(7), [192, 0, 2, 1].into());
        Self { engine: Memory::new(Incarnation(7), at(0), Arc::new(NoListener)), oracle: Authority::new(zone) }
    }

    pub(super) fn put(&self, service: &str, id: &str, host: &str, tags: &[&str]) {
        let asked = register(service, id, "boot", 1);
        let tags: Vec<_> = tags.iter().map(ToString::to_string).collect();
        let description = InstanceDescription {
            addresses: Address::parse_all([(host, 80, "")].into_iter()).unwrap(),
            tags: Tags::parse(&tags).unwrap(),
            ..asked.description
        };
        self.submit(Command::Register(Register { description, ..asked }));
    }

    pub(super) fn submit(&self, command: Command) {
        self.engine.submit(command, at(0)).unwrap();
    }

    pub(super) fn ask(&self, asked: &str, kind: RecordType) -> DnsAnswer {
        self.ask_for(asked, kind, 10_000)
    }

    pub(super) fn ask_for(&self, asked: &str, kind: RecordType, room: usize) -> DnsAnswer {
        loop {
            if let Ok(answer) = self.portion(asked, kind, room) {
                return answer;
            }
        }
    }

    pub(super) fn portion(&self, asked: &str, kind: RecordType, room: usize) -> Result<DnsAnswer, IndexBehind> {
        let moment = AnswerContext { registry: self.engine.registry(), now: at(0).wall };
        self.oracle.answer(moment, &Query::query(Name::from_ascii(asked).unwrap(), kind), room)
    }

    pub(super) fn node(&self, name: &str, host: &str) {
        let listing = ConsulRegistration { node: name.into(), address: host.into(), ..ConsulRegistration::default() };
        self.enroll(&node_service(), InstanceId::of_node(name), (host, 0), &[], listing);
    }

    pub(super) fn list(&self, Listed { service, id, node, host, port, tags }: Listed<'_>) {
        let registry = self.engine.registry();
        let node_host = registry.node(node).map_or("192.0.2.1".into(), |node| node.instance.addresses[0].host.clone());
        let listing = ConsulRegistration {
            node: node.into(),
            id: id.into(),
            address: host.into(),
            ..ConsulRegistration::default()
        };
        let (service, kept) = (ServiceName::parse_stored(service).unwrap(), InstanceId::on_node(node, id));
        self.enroll(&service, kept, (if host.is_empty() { &node_host } else { host }, port), tags, listing);
    }

    fn enroll(
        &self,
        service: &ServiceName,
        id: InstanceId,
        (host, port): (&str, u32),
        tags: &[&str],
        listing: ConsulRegistration,
    ) {
        let description = InstanceDescription {
            addresses: [Address::with_any_port(host, port, "").unwrap()].into(),
            tags: Tags::parse(tags).unwrap(),
            ..register("web", "a", "boot", 1).description
        };
        self.submit(Command::RegisterWithoutLease(Box::new(RegisterWithoutLease {
            service: service.clone(),
            id,
            description,
            listing,
            checks: Vec::new(),
            replace_checks: false,
        })));
    }
}

/// What an answer says, in any order.
pub(super) fn said(answer: &DnsAnswer) -> BTreeSet<String> {
    assert_eq!(answer.code, ResponseCode::NoError);
    answer.answers.iter().map(|line| line.data.record().to_string()).collect()
}

pub(super) fn set<const N: usize>(records: [&str; N]) -> BTreeSet<String> {
    records.into_iter().map(str::to_owned).collect()
}

/// There is no such name, or no such record: both with the zone's authority.
pub(super) fn denied(answer: &DnsAnswer, code: ResponseCode) {
    assert_eq!((answer.code, answer.answers.len(), answer.authorities.len()), (code, 0, 1), "{answer:?}");
    assert_eq!(answer.authorities[0].data.record().record_type(), RecordType::SOA);
}

#[test]
fn a_service_by_name_tag_and_family() {
    let house = House::new();
    house.put("web", "a", "10.0.0.1", &["V1", "blue"]);
    house.put("web", "b", "10.0.0.2", &["v2"]);
    house.put("web", "c", "2001:db8::1", &[]);
    let both = set(["10.0.0.1", "10.0.0.2"]);
    assert_eq!(said(&house.ask("WEB.service.consul.", RecordType::A)), both);
    assert_eq!(said(&house.ask("web.service.consul.", RecordType::AAAA)), set(["2001:db8::1"]));
    assert_eq!(said(&house.ask("web.service.consul.", RecordType::ANY)).len(), 3);
    assert_eq!(said(&house.ask("v1.web.service.consul.", RecordType::A)), set(["10.0.0.1"]));
    denied(&house.ask("v1.web.service.consul.", RecordType::AAAA), ResponseCode::NoError);
    denied(&house.ask("v3.web.service.consul.", RecordType::A), ResponseCode::NXDomain);
    denied(&house.ask("web.service.consul.", RecordType::MX), ResponseCode::NoError);
    denied(&house.ask("none.service.consul.", RecordType::A), ResponseCode::NXDomain);
    denied(&house.ask("web.service.dc2.consul.", RecordType::A), ResponseCode::NXDomain);
    house.put("v1.web", "x", "10.0.0.9", &[]);
    assert_eq!(said(&house.ask("v1.web.service.consul.", RecordType::A)), set(["10.0.0.9"]), "the longest name");
}

#[test]
fn services_that_differ_in_case_are_answered_together() {
    let house = House::new();
    house.put("Web", "a", "10.0.0.1", &["V1"]);
    assert_eq!(said(&house.ask("wEB.service.consul.", RecordType::A)), set(["10.0.0.1"]));
    house.put("web", "a", "10.0.0.2", &["v1"]);
    house.put("WEB", "a", "10.0.0.3", &[]);
    for spelling in ["Web", "web", "WEB", "wEb"] {
        let all = said(&house.ask(&format!("{spelling}.service.consul."), RecordType::A));
        assert_eq!(all, set(["10.0.0.1", "10.0.0.2", "10.0.0.3"]), "{spelling}");
        let tagged = said(&house.ask(&format!("v1.{spelling}.service.consul."), RecordType::A));
        assert_eq!(tagged, set(["10.0.0.1", "10.0.0.2"]), "{spelling}");
        assert_eq!(said(&house.ask(&format!("_{spelling}._tcp.service.consul."), RecordType::SRV)).len(), 3);
    }
    house.put("Web", "b", "10.0.0.2", &[]);
    assert_eq!(said(&house.ask("web.service.consul.", RecordType::A)).len(), 3, "an address that two of them have");
    let whose = house.ask("2.0.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(whose.answers.len(), 1, "they have one name: {whose:?}");
    house.submit(deregister("web", "a", None));
    assert_eq!(said(&house.ask("web.service.consul.", RecordType::A)).len(), 3);
    house.submit(deregister("Web", "b", None));
    assert_eq!(said(&house.ask("web.service.consul.", RecordType::A)), set(["10.0.0.1", "10.0.0.3"]));
    house.submit(deregister("Web", "a", None));
    house.submit(deregister("WEB", "a", None));
    denied(&house.ask("wEB.service.consul.", RecordType::A), ResponseCode::NXDomain);
    denied(&house.ask("_nodes.service.consul.", RecordType::A), ResponseCode::NoError);
}

#[test]
fn srv_has_targets_and_their_addresses() {
    let house = House::new();
    house.put("web", "a", "10.0.0.1", &["v1"]);
    house.put("web", "b", "2001:db8::1", &[]);
    house.put("web", "c", "db.internal", &[]);
    let answer = house.ask("_web._tcp.service.consul.", RecordType::SRV);
    let six = "1 1 80 20010db8000000000000000000000001.addr.dc1.consul.";
    assert_eq!(said(&answer), set(["1 1 80 0a000001.addr.dc1.consul.", "1 1 80 db.internal.", six]));
    for Additional { of, line } in &answer.additionals {
        let RecordOwner::TargetOf(at) = line.owner else { panic!("{line:?}") };
        assert_eq!(at, *of);
        let RData::SRV(srv) = answer.answers[at].data.record() else { panic!("{answer:?}") };
        assert_eq!(said(&house.ask(&srv.target.to_string(), RecordType::ANY)), set([&*line.data.record().to_string()]));
    }
    assert_eq!(answer.additionals.len(), 2);
    assert_eq!(said(&house.ask("_web._v1.service.consul.", RecordType::SRV)).len(), 1);
    assert!(answer.answers.iter().all(|line| line.ttl == 7));
}

#[test]
fn host_names_stand_in_where_there_is_no_address() {
    let house = House::new();
    house.put("db", "a", "db.internal", &[]);
    for kind in [RecordType::A, RecordType::AAAA, RecordType::ANY, RecordType::CNAME] {
        assert_eq!(said(&house.ask("db.service.consul.", kind)), set(["db.internal."]));
    }
    house.put("db", "b", "10.0.0.1", &[]);
    assert_eq!(said(&house.ask("db.service.consul.", RecordType::A)), set(["10.0.0.1"]));
    assert_eq!(said(&house.ask("db.service.consul.", RecordType::TXT)), set(["10.0.0.1", "db.internal."]));
}

#[test]
fn who_is_not_to_be_called_is_left_out() {
    let house = House::new();
    house.put("web", "a", "10.0.0.1", &[]);
    house.put("web", "b", "10.0.0.2", &[]);
    assert_eq!(said(&house.ask("web.service.consul.", RecordType::A)).len(), 2);
    let drain = Patch { draining: Some(true), ..Patch::default() };
    house.submit(update("web", "a", drain.clone()));
    assert_eq!(said(&house.ask("web.service.consul.", RecordType::A)), set(["10.0.0.2"]));
    house.submit(update("web", "b", drain));
    denied(&house.ask("web.service.consul.", RecordType::A), ResponseCode::NXDomain);
    let entry = house.engine.registry().get(&name("web"), "a").unwrap();
    assert_eq!(entry.instance.conditions, Conditions { operator_draining: true, ..Conditions::default() });
}

#[test]
fn no_address_is_there_twice_and_the_order_changes() {
    let house = House::new();
    for n in 0..20 {
        house.put("web", &format!("i{n}"), &format!("10.0.0.{}", n / 2), &[]);
    }
    let order = |_| -> Vec<String> {
        let answer = house.ask("web.service.consul.", RecordType::A);
        answer.answers.iter().map(|line| line.data.record().to_string()).collect()
    };
    let orders: BTreeSet<_> = (0..10).map(order).collect();
    assert!(orders.len() > 1, "they are shuffled");
    assert!(orders.iter().all(|order| order.len() == 10));
    let answer = house.ask_for("web.service.consul.", RecordType::A, 3 * 16);
    assert!(answer.cut && answer.answers.len() == 3, "no more are made than fit");
}

#[test]
fn what_nodes_say_of_themselves() {
    let house = House::new();
    let metadata =
        [("rack", "7"), ("rfc1035-note", "v=spf1 -all")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let metadata: BTreeMap<_, _> = metadata.into();
    let description = InstanceDescription {
        metadata: Metadata::parse(metadata.iter()).unwrap(),
        ..register("web", "a", "boot", 1).description
    };
    house.submit(Command::RegisterWithoutLease(Box::new(RegisterWithoutLease {
        service: node_service(),
        id: InstanceId::of_node("db1"),
        description,
        listing: ConsulRegistration { node: "db1".into(), ..ConsulRegistration::default() },
        checks: Vec::new(),
        replace_checks: false,
    })));
    assert_eq!(said(&house.ask("db1.node.consul.", RecordType::TXT)), set(["rack=7", "v=spf1 -all"]));
}

#[test]
fn nodes_addresses_and_the_zone_itself() {
    let house = House::new();
    assert_eq!(said(&house.ask("n1.node.dc1.consul.", RecordType::A)), set(["192.0.2.1"]));
    denied(&house.ask("n1.node.consul.", RecordType::AAAA), ResponseCode::NoError);
    denied(&house.ask("n2.node.consul.", RecordType::A), ResponseCode::NXDomain);
    denied(&house.ask("_agent.node.consul.", RecordType::A), ResponseCode::NXDomain);
    assert_eq!(said(&house.ask("0a000001.addr.dc1.consul.", RecordType::A)), set(["10.0.0.1"]));
    denied(&house.ask("0a000001.addr.dc1.consul.", RecordType::AAAA), ResponseCode::NoError);
    let soa = "ns.consul. hostmaster.consul. 1700000000 3600 600 86400 0";
    assert_eq!(said(&house.ask("consul.", RecordType::SOA)), set([soa]));
    let servers = house.ask("consul.", RecordType::NS);
    assert_eq!(said(&servers), set(["N1.node.dc1.consul."]));
    assert_eq!(servers.additionals[0].line.data.record().to_string(), "192.0.2.1");
    denied(&house.ask("service.consul.", RecordType::A), ResponseCode::NoError);
    denied(&house.ask("else.consul.", RecordType::A), ResponseCode::NXDomain);
    for (name, kind) in [("example.com.", RecordType::A), ("consul.", RecordType::AXFR)] {
        let refused = house.ask(name, kind);
        assert_eq!((refused.code, refused.ours, refused.authorities.len()), (ResponseCode::Refused, false, 0));
    }
}

#[test]
fn whose_address_it_is_now() {
    let house = House::new();
    let whose = |address: &str| {
        let answer = house.ask(address, RecordType::PTR);
        if answer.code == ResponseCode::NXDomain { BTreeSet::new() } else { said(&answer) }
    };
    house.put("web", "a", "10.0.0.1", &[]);
    assert_eq!(whose("1.0.0.10.in-addr.arpa."), set(["web.service.dc1.consul."]));
    assert_eq!(whose("2.0.0.10.in-addr.arpa."), set([]));
    house.put("api", "a", "10.0.0.1", &[]);
    house.put("web", "b", "10.0.0.1", &[]);
    house.put("web", "a", "10.0.0.2", &[]);
    assert_eq!(whose("1.0.0.10.in-addr.arpa."), set(["api.service.dc1.consul.", "web.service.dc1.consul."]));
    assert_eq!(whose("2.0.0.10.in-addr.arpa."), set(["web.service.dc1.consul."]));
    house.submit(deregister("web", "b", None));
    assert_eq!(whose("1.0.0.10.in-addr.arpa."), set(["api.service.dc1.consul."]));
    for n in 0..70_000 {
        // More changes than are remembered.
        house.put("web", "a", if n % 2 == 0 { "10.0.0.3" } else { "10.0.0.4" }, &[]);
    }
    house.submit(deregister("api", "a", None));
    assert_eq!(whose("4.0.0.10.in-addr.arpa."), set(["web.service.dc1.consul."]));
    for gone in ["1.0.0.10.in-addr.arpa.", "2.0.0.10.in-addr.arpa.", "3.0.0.10.in-addr.arpa."] {
        assert_eq!(whose(gone), set([]), "{gone}");
    }
}
