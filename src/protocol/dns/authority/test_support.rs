//! Authority over an in-memory registry, for tests.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hickory_proto::rr::Name;

use super::*;
use crate::{
    engine::{Engine, Memory},
    metrics::Metrics,
    model::{
        Address, ConsulRegistration, Incarnation, InstanceId, PolicyScope, PolicySettings, ServerActor, ServiceName,
        ServicePolicy, Tags, node_service,
    },
    registry::{
        Command, DeregisterGuard, InstanceDescription, PolicyCommand, Register, RegisterWithoutLease,
        test_support::{NoListener, at, register},
    },
};

/// Authority of the zone `consul` and the registry that it reads.
pub(super) struct TestAuthority {
    pub(super) engine: Memory,
    pub(super) authority: Authority,
    pub(super) weights: Arc<EffectiveWeights>,
}

/// Instance on a node, as Consul's API registers it. Without a host, its address is that of the node.
#[derive(Default)]
pub(super) struct NodeInstance<'a> {
    pub(super) service: &'a str,
    pub(super) id: &'a str,
    pub(super) node: &'a str,
    pub(super) host: &'a str,
    pub(super) port: u32,
    pub(super) tags: &'a [&'a str],
}

impl TestAuthority {
    /// Returns an authority whose local node is `N1`.
    pub(super) fn new() -> Self {
        Self::with_local_node("N1")
    }

    pub(super) fn with_local_node(node: &str) -> Self {
        let zone = Zone::new("consul", "dc1", node, Duration::from_secs(7), [192, 0, 2, 1].into());
        let weights = Arc::default();
        Self {
            engine: Memory::new(Incarnation(7), at(0), Arc::new(NoListener)),
            authority: Authority::new(zone, &Views::new(&Metrics::new().views), &weights),
            weights,
        }
    }

    /// Registers an instance with a lease.
    pub(super) fn register(&self, service: &str, id: &str, host: &str, tags: &[&str]) {
        let request = register(service, id, "boot", 1);
        let tags: Vec<_> = tags.iter().map(ToString::to_string).collect();
        let description = InstanceDescription {
            addresses: Address::parse_all([(host, 80, "")].into_iter()).unwrap(),
            tags: Tags::parse(&tags).unwrap(),
            ..request.description
        };
        self.submit(Command::Register(Register { description, ..request }));
    }

    pub(super) fn submit(&self, command: Command) {
        self.engine.submit(command, at(0)).unwrap();
    }

    pub(super) fn set_policy(&self, service: &str, settings: PolicySettings) {
        let scope = PolicyScope::Service(ServiceName::parse(service).unwrap());
        let policy = ServicePolicy { settings, ..ServicePolicy::default() };
        let command = PolicyCommand { scope, policy, expected_revision: None };
        drop(Engine::submit_policy(&self.engine, command, ServerActor::InProcess.caller(), at(0)));
    }

    pub(super) fn ask(&self, name: &str, record_type: RecordType) -> DnsAnswer {
        self.ask_with_limit(name, record_type, 10_000)
    }

    /// Asks until the index of addresses is up to date.
    pub(super) fn ask_with_limit(&self, name: &str, record_type: RecordType, max_bytes: usize) -> DnsAnswer {
        loop {
            if let Ok(answer) = self.ask_once(name, record_type, max_bytes) {
                return answer;
            }
        }
    }

    pub(super) fn ask_once(
        &self,
        name: &str,
        record_type: RecordType,
        max_bytes: usize,
    ) -> Result<DnsAnswer, IndexBehind> {
        let context = AnswerContext { registry: self.engine.registry(), now: at(0).wall };
        self.authority.answer(context, &Query::query(Name::from_ascii(name).unwrap(), record_type), max_bytes)
    }

    /// Returns the records of a reverse name. Empty: the name does not exist.
    pub(super) fn reverse(&self, name: &str) -> BTreeSet<String> {
        let answer = self.ask(name, RecordType::PTR);
        if answer.code == ResponseCode::NXDomain {
            assert_empty(&answer, ResponseCode::NXDomain);
            return BTreeSet::new();
        }
        records(&answer)
    }

    pub(super) fn register_node(&self, name: &str, host: &str) {
        let consul_registration =
            ConsulRegistration { node: name.into(), address: host.into(), ..ConsulRegistration::default() };
        self.register_without_lease(&node_service(), InstanceId::of_node(name), (host, 0), &[], consul_registration);
    }

    pub(super) fn deregister_node(&self, name: &str) {
        let (service, id) = (node_service(), InstanceId::of_node(name));
        self.submit(Command::Deregister { service, id, guard: DeregisterGuard::Any });
    }

    pub(super) fn register_on_node(&self, NodeInstance { service, id, node, host, port, tags }: NodeInstance<'_>) {
        let registry = self.engine.registry();
        let node_host = registry.node(node).map_or("192.0.2.1".into(), |node| node.instance.addresses[0].host.clone());
        let consul_registration = ConsulRegistration {
            node: node.into(),
            id: id.into(),
            address: host.into(),
            ..ConsulRegistration::default()
        };
        let (service, id) = (ServiceName::parse_stored(service).unwrap(), InstanceId::on_node(node, id));
        let host = if host.is_empty() { &node_host } else { host };
        self.register_without_lease(&service, id, (host, port), tags, consul_registration);
    }

    fn register_without_lease(
        &self,
        service: &ServiceName,
        id: InstanceId,
        (host, port): (&str, u32),
        tags: &[&str],
        consul_registration: ConsulRegistration,
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
            consul_registration,
            checks: Vec::new(),
            replace_checks: false,
        })));
    }
}

/// Returns the data of the answers as text.
pub(super) fn records(answer: &DnsAnswer) -> BTreeSet<String> {
    assert_eq!(answer.code, ResponseCode::NoError);
    answer.answers.iter().map(|record| record.data.rdata().to_string()).collect()
}

pub(super) fn set<const N: usize>(records: [&str; N]) -> BTreeSet<String> {
    records.into_iter().map(str::to_owned).collect()
}

/// Asserts that the answer has this code and no records but the SOA record of the zone.
pub(super) fn assert_empty(answer: &DnsAnswer, code: ResponseCode) {
    assert_eq!((answer.code, answer.answers.len(), answer.authorities.len()), (code, 0, 1), "{answer:?}");
    assert_eq!(answer.authorities[0].data.rdata().record_type(), RecordType::SOA);
}
