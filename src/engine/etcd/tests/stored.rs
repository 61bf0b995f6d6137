//! Instances with all kinds of parts, and values that an earlier version stored.

use std::{fs, path::Path, sync::Arc, time::Duration};

use super::*;
use crate::{
    engine::{
        etcd::{NotedCommand, RegistryKey},
        record::{self, StoredLease},
    },
    model::{
        Address, BootId, Caller, CallerProtocol, CheckDefinition, CheckDescription, CheckId, CheckStatus, Conditions,
        HttpProbe, LeaseId, LeaseTerms, Locality, Metadata, Probe, ProbeTls, ServerActor, ServicePolicy, Tags, Weight,
    },
    registry::{EndReason, RemovalReason},
};

/// Instance with a lease and two checks.
pub fn instance() -> StoredInstance {
    let http = HttpProbe {
        headers: [("a", "b"), ("c", "d")].map(|(name, value)| (name.into(), value.into())).into(),
        tls: ProbeTls { server_name: "db".into(), skip_verify: true },
        ..HttpProbe::get("https://10.0.0.1/health")
    };
    let check = |id: &str, probe, description: Option<CheckDescription>| {
        let id = CheckId::parse(id).unwrap();
        let definition = CheckDefinition {
            interval: Duration::from_secs(10),
            description: description.map(Box::new),
            ..CheckDefinition::new(id, "name", probe)
        };
        Check {
            created: Revision(0x1001),
            revision: Revision(0x2003),
            definition_revision: Revision(0x2002),
            ..Check::new(Arc::new(definition.validated().unwrap()), CheckStatus::Warning)
        }
    };
    let description = CheckDescription {
        output: "slow".into(),
        kind: "http".into(),
        interval: "10s".into(),
        timeout: "1s".into(),
        definition: "{}".into(),
    };
    let metadata = std::collections::BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let instance = Instance {
        addresses: [("10.0.0.1", 80, ""), ("::1", 81, "admin")]
            .map(|(host, port, name)| Address::parse(host, port, name).unwrap())
            .into(),
        tags: Tags::parse(&["v1"]).unwrap(),
        metadata: Metadata::parse(metadata.iter()).unwrap(),
        weight: Weight::parse(7).unwrap(),
        locality: Locality::parse("eu", "eu-1", "a").unwrap(),
        checks: InstanceChecks::new(vec![
            check("http", Probe::Http(http), None),
            check("static", Probe::Static, Some(description)),
        ])
        .unwrap(),
        conditions: Conditions { suspect: true, was_healthy: true, ..Conditions::default() },
        registered_at: UnixMillis(1_700_000_000_123),
        registered_revision: Revision(0x1001),
        revision: Revision(0x3001),
        ..test_support::entry("web", "a", 7).instance.clone()
    };
    let terms = LeaseTerms::grant(Some(Duration::from_secs(9)), Some(Duration::ZERO));
    let lease = StoredLease { id: LeaseId(u128::MAX / 7), boot: BootId::parse("boot").unwrap(), terms };
    StoredInstance { instance, lease: Some(lease) }
}

/// Instance with a Consul registration.
pub fn registration() -> StoredInstance {
    let registration = ConsulRegistration {
        node: "n2".into(),
        id: "web1".into(),
        tagged_addresses: [("lan", "10.0.0.1", 1), ("wan", "192.0.2.1", 2)]
            .map(|(name, host, port)| (name.into(), host.into(), port))
            .into(),
        warning_weight: 3,
        maintenance: "why".into(),
        description_revision: Revision(0x1001),
        ..ConsulRegistration::default()
    };
    let instance = Instance {
        id: crate::model::InstanceId::on_node("n2", "web1"),
        consul_registration: Some(Arc::new(registration)),
        registered_revision: Revision(0x1001),
        revision: Revision(0x3001),
        ..test_support::entry("web", "a", 7).instance.clone()
    };
    StoredInstance { instance, lease: None }
}

/// Returns the bytes that an earlier version stored, which are inputs of the fuzz targets as well.
fn stored_bytes(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn holder() -> SessionHolder {
    SessionHolder { epoch: SessionEpoch(0x1234), replica: "replica-1".into() }
}

fn policy() -> (PolicyScope, Vec<Arc<PolicyRevision>>) {
    let scope = PolicyScope::Service(test_support::name("web"));
    let peer = "[2001:db8::1]:50000".parse().unwrap();
    let caller = Caller::Client { protocol: CallerProtocol::Grpc, peer, identity: Some("ops".into()) };
    let revision = |revision, document: &str| {
        let document = serde_json::from_str(document).unwrap();
        let policy = ServicePolicy::from_document(&scope, &document).unwrap();
        let (time, caller) = (UnixMillis(1_700_000_000_000), Arc::new(caller.clone()));
        Arc::new(PolicyRevision { revision: Revision(revision), time, caller, policy })
    };
    let revisions = vec![revision(0x2001, "{}"), revision(0, r#"{"lb":"least_request","timeout":"5s"}"#)];
    (scope, revisions)
}

fn note() -> BatchNote {
    let instance = |id| RegistryKey::Instance(test_support::name("web"), test_support::id(id));
    let expired = (Some(RemovalReason::Expired), Some(EndReason::Expired));
    let deregistered = (Some(RemovalReason::Deregistered), Some(EndReason::Deregistered));
    let client =
        Caller::Client { protocol: CallerProtocol::Consul, peer: "10.0.0.1:50000".parse().unwrap(), identity: None };
    let (client, expiry) = (Arc::new(client), Arc::clone(ServerActor::Expiry.caller()));
    let commands = [
        (instance("a"), expired, Some(Arc::clone(&expiry))),
        (instance("b"), expired, Some(expiry)),
        (instance("c"), deregistered, Some(Arc::clone(&client))),
        (RegistryKey::Policy(PolicyScope::Defaults), (None, None), Some(client)),
        (instance("d"), (None, None), None),
    ];
    let command = |((key, (removal, lease_end), caller), slot)| NotedCommand {
        slot: CommitSlot::parse(slot).unwrap(),
        key,
        removal,
        lease_end,
        caller,
    };
    BatchNote { sequence: 300, commands: commands.into_iter().zip(1..).map(command).collect() }
}

fn session() -> ReplicaSession {
    ReplicaSession {
        replica: "replica-1".into(),
        version: "0.1.0".into(),
        started_at: UnixMillis(1_700_000_000_000),
        grpc_listener: "0.0.0.0:8502".into(),
        grpc_address: "10.0.0.1:8502".into(),
        http_listener: Some("0.0.0.0:8500".into()),
    }
}

#[test]
fn values_of_format_1_are_decoded() {
    let position = CommitPosition::new(9, CommitSlot::FIRST).unwrap();
    let (holder, unknown) = (holder(), UnknownFields::default());
    for (name, stored) in [("etcd/instance", instance()), ("etcd/registration", registration())] {
        let decoded = decode_instance(&stored.instance, &stored_bytes(name), position);
        assert_eq!(decoded, InstanceValue { stored, holder: holder.clone(), position, unknown: unknown.clone() });
    }
    let (scope, mut revisions) = policy();
    Arc::get_mut(&mut revisions[1]).unwrap().revision = position.revision();
    let stored = StoredPolicy { scope: scope.clone(), revisions, skipped: Vec::new() };
    let expected = PolicyValue { stored, position, forgotten: Some(Revision(0x1001)), unknown };
    assert_eq!(PolicyValue::decode(&scope, &stored_bytes("etcd/policy"), 9), Ok(expected));
    assert_eq!(BatchNote::decode(&stored_bytes("etcd/note")), Ok(note()));
    assert_eq!(ReplicaSession::decode(&stored_bytes("etcd/session")), Ok(session()));
    let meta = RegistryMeta { incarnation: Incarnation(0x0102_0304_0506_0708), revision_offset: 0 };
    assert_eq!(RegistryMeta::decode(&stored_bytes("etcd/meta")), Ok(meta));
    let window = ExpirationWindow { count: 300, start: UnixMillis(1_700_000_000_000), ..ExpirationWindow::default() };
    assert_eq!(ExpirationWindow::decode(&stored_bytes("etcd/expirations")), Ok(window));
}

/// A record of the disk is the same message, so an instance keeps all its fields on its way from one engine to the other.
#[test]
fn record_of_an_earlier_version_is_decoded_as_on_the_disk() {
    for name in ["record/plain", "record/rich"] {
        let record = stored_bytes(name);
        let StoredInstance { instance, lease } = record::decode("web", "a", &record).unwrap();
        let mut value = vec![0x08, 1, 0x22];
        prost::encoding::encode_varint(record.len() as u64, &mut value);
        value.extend(record);
        let position = CommitPosition::new(CommitPosition::MAX_ETCD_REVISION, CommitSlot::FIRST).unwrap();
        let decoded = decode_instance(&instance, &value, position);
        let instance = resolve_all(&instance, position.revision());
        assert_eq!(decoded.stored, StoredInstance { instance, lease }, "{name}");
        assert_eq!(decoded.holder.epoch, SessionEpoch(0), "no session holds it");
        assert!(decoded.unknown.is_empty());
    }
}
