//! Values of every stored type, made by the constructors that protocols use.
//!
//! Each struct is constructed with all its fields, so that a new field does not compile until it has values.

use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    engine::{
        SavedCheck, SavedResult,
        record::{StoredInstance, StoredLease, policy::StoredPolicy},
    },
    model::{
        Address, BootId, Caller, CallerProtocol, Check, CheckDefinition, CheckDescription, CheckId, CheckStatus,
        Conditions, ConsulRegistration, HttpProbe, Instance, InstanceChecks, InstanceId, LeaseId, LeaseTerms, Locality,
        Metadata, PolicyScope, Probe, ProbeTarget, ProbeTls, Revision, ServerActor, ServiceName, ServicePolicy,
        TaggedAddress, Tags, Thresholds, UnixMillis, Weight, node_service,
    },
    registry::{MAX_POLICY_REVISIONS, PolicyRevision},
};

use std::{sync::Arc, time::Duration};

/// Text as programs send it: mostly plain, sometimes with special characters, sometimes of maximum length.
fn text(longest: usize) -> BoxedStrategy<String> {
    prop_oneof![
        4 => "[a-zA-Z0-9._-]{1,12}",
        2 => "\\PC{1,20}",
        1 => any::<String>(),
        1 => Just("x".repeat(longest)),
    ]
    .boxed()
}

pub fn maybe(longest: usize) -> BoxedStrategy<Box<str>> {
    prop_oneof![1 => Just(String::new()), 2 => text(longest)].prop_map(String::into_boxed_str).boxed()
}

fn number() -> BoxedStrategy<u64> {
    prop_oneof![Just(0), 0..1_000_u64, any::<u64>(), Just(u64::MAX)].boxed()
}

/// Revision that an export may contain.
fn revision() -> BoxedStrategy<Revision> {
    prop_oneof![0..1_000_u64, 0..=1_u64 << 62].prop_map(Revision).boxed()
}

fn length() -> BoxedStrategy<Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        (0..2_000_000_u64).prop_map(Duration::from_nanos),
        (0..100_000_u64).prop_map(Duration::from_millis),
        (0..3_000_000_000_000_000_u64).prop_map(Duration::from_nanos),
    ]
    .boxed()
}

fn check_status() -> BoxedStrategy<CheckStatus> {
    select(vec![CheckStatus::Passing, CheckStatus::Warning, CheckStatus::Critical]).boxed()
}

pub fn service() -> BoxedStrategy<ServiceName> {
    prop_oneof![
        6 => text(253).prop_filter_map("a name", |name| ServiceName::parse(&name).ok()),
        1 => Just(node_service()),
    ]
    .boxed()
}

pub fn id() -> BoxedStrategy<InstanceId> {
    prop_oneof![text(253), "[!-~]{1,30}"].prop_filter_map("an id", |id| InstanceId::parse(&id).ok()).boxed()
}

/// Id of an instance with this Consul registration. A node always has one.
fn id_of(service: &ServiceName, registration: Option<&ConsulRegistration>, native: InstanceId) -> InstanceId {
    match registration {
        Some(registration) if *service == node_service() => InstanceId::of_node(&registration.node),
        Some(registration) => InstanceId::on_node(&registration.node, &registration.id),
        None => native,
    }
}

pub fn addresses() -> BoxedStrategy<Box<[Address]>> {
    let host = prop_oneof![
        Just("10.0.0.1".to_owned()),
        Just("fe80::1%eth0".to_owned()),
        Just("2001:DB8::1".to_owned()),
        text(253)
    ];
    let one = (host, 0..=u32::from(u16::MAX), maybe(128));
    let one = one.prop_filter_map("an address", |(host, port, name)| Address::with_any_port(&host, port, &name).ok());
    vec(one, 1..4).prop_map(Vec::into_boxed_slice).boxed()
}

pub fn tags() -> BoxedStrategy<Tags> {
    prop_oneof![
        4 => vec(prop_oneof![8 => text(4_096), 1 => Just(String::new())], 0..4),
        1 => (60..=1_024_usize).prop_map(|many| (0..many).map(|n| n.to_string()).collect()),
    ]
    .prop_filter_map("tags", |tags| Tags::parse_stored(&tags).ok())
    .boxed()
}

pub fn metadata() -> BoxedStrategy<Metadata> {
    let values = prop_oneof![4 => any::<String>(), 1 => Just("v".repeat(512))];
    prop::collection::btree_map(text(128), values, 0..5)
        .prop_filter_map("metadata", |pairs| Metadata::parse_stored(pairs.iter()).ok())
        .boxed()
}

pub fn weight() -> BoxedStrategy<Weight> {
    (1..=u32::from(u16::MAX)).prop_filter_map("a weight", |weight| Weight::parse(weight).ok()).boxed()
}

pub fn locality() -> BoxedStrategy<Option<Arc<Locality>>> {
    let parts = (maybe(128), maybe(128), maybe(128));
    parts
        .prop_filter_map("a locality", |(region, zone, sub_zone)| {
            let locality = Locality::parse(&region, &zone, &sub_zone).ok()?;
            if let Some(locality) = locality.as_deref() {
                // A new field does not compile here.
                let Locality { region: _, zone: _, sub_zone: _ } = locality;
            }
            Some(locality)
        })
        .boxed()
}

fn tls() -> BoxedStrategy<ProbeTls> {
    (maybe(64), any::<bool>()).prop_map(|(server_name, skip_verify)| ProbeTls { server_name, skip_verify }).boxed()
}

fn target() -> BoxedStrategy<ProbeTarget> {
    let plain = select(vec!["127.0.0.1:80", "[::1]:80", "db.internal:5432", "[fe80::1%eth0]:1", "Üb:65535"]);
    let any = "[\\[\\]:a-z0-9%.]{1,8}:[0-9]{1,5}";
    prop_oneof![plain.prop_map(str::to_owned), any]
        .prop_filter_map("a target", |target| ProbeTarget::parse("target", &target).ok())
        .boxed()
}

fn probe() -> BoxedStrategy<Probe> {
    let url = select(vec!["http://10.0.0.1/health?x=1#y", "HTTPS://user:secret@[::1]:8443", "http://h:99999/ü|{}"]);
    let header = ("[A-Za-z-]{1,10}", maybe(64));
    let headers = vec(header.prop_map(|(name, value)| (name.into_boxed_str(), value)), 0..4);
    let request = (url, "[A-Z]{1,8}", headers, any::<String>(), any::<bool>(), tls());
    let request = request.prop_map(|(url, method, headers, body, disable_redirects, tls)| HttpProbe {
        url: url.into(),
        method: method.into(),
        headers: headers.into(),
        body: body.into(),
        disable_redirects,
        tls,
    });
    prop_oneof![
        request.prop_map(Probe::Http),
        (target(), option::of(tls())).prop_map(|(target, tls)| Probe::Tcp { target, tls }),
        (target(), maybe(64), option::of(tls())).prop_map(|(target, service, tls)| Probe::Grpc {
            target,
            service,
            tls
        }),
        Just(Probe::Ttl),
        Just(Probe::Static),
    ]
    .boxed()
}

/// Number of a kind of probe. A new kind does not compile until it is among the values.
pub fn kind(probe: &Probe) -> usize {
    match probe {
        Probe::Http(_) => 0,
        Probe::Tcp { .. } => 1,
        Probe::Grpc { .. } => 2,
        Probe::Ttl => 3,
        Probe::Static => 4,
    }
}

fn check_description() -> BoxedStrategy<CheckDescription> {
    let texts = (maybe(4_096), maybe(512), maybe(512), maybe(512), maybe(8_192));
    texts
        .prop_map(|(output, kind, interval, timeout, definition)| CheckDescription {
            output,
            kind,
            interval,
            timeout,
            definition,
        })
        .boxed()
}

pub fn definition() -> BoxedStrategy<CheckDefinition> {
    let texts = (text(512), maybe(512), maybe(512));
    let thresholds = (0..4_u32, any::<u32>(), 0..9_u32);
    let spans = (length(), length(), option::of(length()));
    let more = (any::<u32>(), any::<bool>(), option::of(check_description()));
    let parts = (texts, probe(), thresholds, spans, more);
    parts
        .prop_filter_map(
            "a definition",
            |(texts, probe, thresholds, spans, (output_max_size, separate, description))| {
                let definition = CheckDefinition {
                    id: CheckId::parse(&texts.0).ok()?,
                    name: texts.1,
                    notes: texts.2,
                    probe,
                    interval: spans.0,
                    timeout: spans.1,
                    thresholds: Thresholds { passing: thresholds.0, warning: thresholds.1, critical: thresholds.2 },
                    deregister_after: spans.2,
                    output_max_size,
                    separate,
                    description: description.map(Box::new),
                };
                definition.validated().ok()
            },
        )
        .boxed()
}

fn checks() -> BoxedStrategy<InstanceChecks> {
    let one = (definition(), check_status(), revision(), revision(), revision(), any::<u32>());
    let one = one.prop_map(|(definition, verdict, created, revision, defined, announced_reports)| Check {
        definition: Arc::new(definition),
        status: verdict,
        created,
        revision,
        definition_revision: created.max(defined),
        announced_reports,
    });
    vec(one, 0..4).prop_filter_map("different ids", |checks| InstanceChecks::new(checks).ok()).boxed()
}

fn conditions() -> BoxedStrategy<Conditions> {
    any::<[bool; 8]>()
        .prop_map(|conditions| Conditions {
            starting: conditions[0],
            self_draining: conditions[1],
            operator_draining: conditions[2],
            suspect: conditions[3],
            was_healthy: conditions[4],
            node_drained: conditions[5],
            node_critical: conditions[6],
            node_warning: conditions[7],
        })
        .boxed()
}

pub fn registration() -> BoxedStrategy<ConsulRegistration> {
    let texts = (maybe(512), maybe(512), maybe(512), maybe(512), maybe(512), maybe(512));
    let tagged = (maybe(64), maybe(64), any::<u16>());
    let tagged = vec(tagged.prop_map(|(name, host, port)| -> TaggedAddress { (name, host, port) }), 0..3);
    let numbers = (any::<u16>(), any::<[bool; 3]>(), any::<String>(), revision());
    (texts, tagged, numbers)
        .prop_filter_map(
            "a registration",
            |(texts, tagged, (warning_weight, flags, maintenance, description_revision))| {
                let registration = ConsulRegistration {
                    node: texts.0,
                    id: texts.1,
                    address: texts.2,
                    tagged_addresses: tagged.into(),
                    warning_weight,
                    enable_tag_override: flags[0],
                    kind: texts.3,
                    socket_path: texts.4,
                    proxy: texts.5,
                    connect_native: flags[1],
                    from_catalog: flags[2],
                    maintenance: maintenance.into(),
                    description_revision,
                };
                registration.validated().ok()
            },
        )
        .boxed()
}

pub fn terms() -> BoxedStrategy<LeaseTerms> {
    (option::of(length()), option::of(length())).prop_map(|(ttl, grace)| LeaseTerms::grant(ttl, grace)).boxed()
}

pub fn boot() -> BoxedStrategy<BootId> {
    "[!-~]{1,64}".prop_filter_map("a boot id", |boot| BootId::parse(&boot).ok()).boxed()
}

fn instance() -> BoxedStrategy<Instance> {
    let names = (service(), id(), addresses(), tags(), metadata());
    let rest = (weight(), locality(), checks(), conditions(), option::of(registration()));
    let times = (number().prop_map(UnixMillis), revision(), revision());
    (names, rest, times)
        .prop_filter_map("a node with a registration", |(names, rest, times)| {
            let (service, native): (ServiceName, InstanceId) = (names.0, names.1);
            let registration: Option<ConsulRegistration> = rest.4;
            if service == node_service() && registration.is_none() {
                return None;
            }
            Some(Instance {
                id: id_of(&service, registration.as_ref(), native),
                service,
                addresses: names.2,
                tags: names.3,
                metadata: names.4,
                weight: rest.0,
                locality: rest.1,
                checks: rest.2,
                conditions: rest.3,
                consul_registration: registration.map(Arc::new),
                registered_at: times.0,
                registered_revision: times.1,
                revision: times.2,
            })
        })
        .boxed()
}

/// Instance with its lease, whose id is `number`.
pub fn stored() -> BoxedStrategy<StoredInstance> {
    let lease = (any::<u128>(), boot(), terms());
    let lease = lease.prop_map(|(id, boot, terms)| StoredLease { id: LeaseId(id), boot, terms });
    (instance(), option::of(lease)).prop_map(|(instance, lease)| StoredInstance { instance, lease }).boxed()
}

/// State of a check that was added at revision `created`.
pub fn saved(created: Revision) -> BoxedStrategy<SavedCheck> {
    let time = || number().prop_map(UnixMillis);
    let result = (time(), check_status(), option::of(number().prop_map(Duration::from_nanos)), any::<String>());
    let result =
        result.prop_map(|(at, verdict, took, output)| SavedResult { at, status: verdict, took, output: output.into() });
    (time(), option::of(time()), number(), option::of(result))
        .prop_map(move |(ttl_from, critical_since, changes, last)| SavedCheck {
            created,
            ttl_from,
            critical_since,
            changes,
            last,
        })
        .boxed()
}

/// Documents that have every field between them.
const DOCUMENTS: [&str; 6] = [
    "{}",
    r#"{"lb":"least_request","timeout":"1m 5s","max_requests":4294967295,"retry":{"attempts":3,"on":["unavailable","internal"]}}"#,
    r#"{"outlier":{"failure_percent":40,"interval":"5s","max_percent":20},"weights":"response_time","slow_start":"60s"}"#,
    r#"{"zone":"prefer","shed":100,"outlier":"off","retry":{"attempts":0}}"#,
    r#"{"subsets":{"v1":"\"v1\" in tags","v2":"metadata[\"version\"] == \"2 \u00e9\""},"default":{"v1":90,"v2":10},"empty":"fail"}"#,
    r#"{"lb":"ring_hash","subsets":{"v2":"\"v2\" in tags"},"route":[
        {"header":{"x-a":"=b","x-c":"*","x-d":"!","x-e":"~[a-z]+"},"method":"/a.B/C","to":{"v2":100},"timeout":"30s"},
        {"method":"/a.B/*","retry":{"attempts":1},"hash_header":"x-user"}]}"#,
];

pub fn caller() -> BoxedStrategy<Arc<Caller>> {
    let protocol = select(vec![CallerProtocol::Grpc, CallerProtocol::Consul]);
    let client = (protocol, any::<std::net::SocketAddr>(), option::of(text(64)));
    let client = client.prop_map(|(protocol, peer, identity)| {
        // A scope or a flow label has no form in an address and a port that is the same in every version.
        let peer = std::net::SocketAddr::new(peer.ip(), peer.port());
        Arc::new(Caller::Client { protocol, peer, identity: identity.map(Into::into) })
    });
    let actors = vec![
        ServerActor::Expiry,
        ServerActor::HealthCheck,
        ServerActor::Recovery,
        ServerActor::SelfPreservation,
        ServerActor::InProcess,
    ];
    prop_oneof![client, select(actors).prop_map(|actor| Arc::clone(actor.caller()))].boxed()
}

/// Policies of some services, each with some revisions.
pub fn policies() -> BoxedStrategy<Vec<StoredPolicy>> {
    let step = (1..1_000_u64, number(), caller(), select(DOCUMENTS.to_vec()));
    let revisions = vec(step, 1..=MAX_POLICY_REVISIONS);
    let all = prop::collection::btree_map(select(vec!["a", "b", "c"]), revisions, 0..3);
    all.prop_map(|all| {
        let stored = |(service, steps): (&str, Vec<_>)| {
            let scope = PolicyScope::Service(ServiceName::parse(service).unwrap());
            let mut newest = 0;
            let revision = |(step, time, caller, document): (u64, u64, Arc<Caller>, &str)| {
                newest += step;
                let document = serde_json::from_str(document).unwrap();
                let policy = ServicePolicy::from_document(&scope, &document).unwrap();
                Arc::new(PolicyRevision { revision: Revision(newest), time: UnixMillis(time), caller, policy })
            };
            let revisions = steps.into_iter().map(revision).collect();
            StoredPolicy { scope, revisions, skipped: Vec::new() }
        };
        all.into_iter().map(stored).collect()
    })
    .boxed()
}
