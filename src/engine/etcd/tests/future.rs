//! Records of a later version, rewritten by this one.

use std::time::Duration;

use prost::{
    Message,
    encoding::{self, DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field},
};

use super::{stored, *};
use crate::{
    engine::record::StoredLease,
    model::{Address, CheckDefinition, CheckId, CheckStatus, LeaseTerms, Probe, ServerActor},
};

/// First number of the fields of the later version.
const NEW: u32 = 200;

/// Returns a message with a number appended to the message at this path: fields, and positions among those with the same number.
fn extend(message: &[u8], path: &[(u32, usize)], number: u32, value: u64) -> Vec<u8> {
    let Some(((wanted, position), inner)) = path.split_first() else {
        let mut extended = message.to_vec();
        encoding::uint64::encode(number, &value, &mut extended);
        return extended;
    };
    let (mut extended, mut rest, mut found) = (Vec::new(), message, 0);
    while !rest.is_empty() {
        let start = rest;
        let (field, wire_type) = decode_key(&mut rest).unwrap();
        let mut content = rest;
        skip_field(wire_type, field, &mut rest, DecodeContext::default()).unwrap();
        if field == *wanted && found == *position {
            let length = decode_varint(&mut content).unwrap();
            let replaced = extend(&content[..usize::try_from(length).unwrap()], inner, number, value);
            encode_key(field, WireType::LengthDelimited, &mut extended);
            encode_varint(replaced.len() as u64, &mut extended);
            extended.extend(replaced);
        } else {
            extended.extend(&start[..start.len() - rest.len()]);
        }
        found += usize::from(field == *wanted);
    }
    assert!(found > *position, "no field {wanted} at position {position}");
    extended
}

// The messages of the later version, without the fields that both versions have and the test does not look at.

#[derive(Clone, PartialEq, Message)]
struct FutureInstance {
    #[prost(message, optional, tag = "4")]
    record: Option<FutureRecord>,
    #[prost(uint64, tag = "200")]
    new: u64,
}

#[derive(Clone, PartialEq, Message)]
struct FutureRecord {
    #[prost(message, repeated, tag = "1")]
    addresses: Vec<FutureAddress>,
    #[prost(message, optional, tag = "5")]
    locality: Option<FuturePart>,
    #[prost(message, optional, tag = "12")]
    lease: Option<FuturePart>,
    #[prost(message, repeated, tag = "14")]
    checks: Vec<FutureCheck>,
    #[prost(message, optional, tag = "15")]
    registration: Option<FutureRegistration>,
    #[prost(uint64, tag = "200")]
    new: u64,
}

#[derive(Clone, PartialEq, Message)]
struct FutureAddress {
    #[prost(uint32, tag = "2")]
    port: u32,
    #[prost(uint64, tag = "200")]
    new: u64,
}

#[derive(Clone, PartialEq, Message)]
struct FutureCheck {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, repeated, tag = "6")]
    headers: Vec<FuturePart>,
    #[prost(message, optional, tag = "8")]
    tls: Option<FuturePart>,
    #[prost(message, optional, tag = "31")]
    description: Option<FuturePart>,
    #[prost(uint64, tag = "200")]
    new: u64,
}

#[derive(Clone, PartialEq, Message)]
struct FutureRegistration {
    #[prost(message, repeated, tag = "4")]
    tagged_addresses: Vec<FuturePart>,
    #[prost(uint64, tag = "200")]
    new: u64,
}

#[derive(Clone, PartialEq, Message)]
struct FuturePart {
    #[prost(uint64, tag = "200")]
    new: u64,
}

fn parts(values: &[u64]) -> Vec<FuturePart> {
    values.iter().map(|new| FuturePart { new: *new }).collect()
}

const RECORD: (u32, usize) = (4, 0);

/// Paths of all messages of the value of [`stored::instance`] without a registration.
const NATIVE: [&[(u32, usize)]; 11] = [
    &[],
    &[RECORD],
    &[RECORD, (1, 0)],
    &[RECORD, (1, 1)],
    &[RECORD, (5, 0)],
    &[RECORD, (12, 0)],
    &[RECORD, (14, 0)],
    &[RECORD, (14, 0), (6, 1)],
    &[RECORD, (14, 0), (8, 0)],
    &[RECORD, (14, 1)],
    &[RECORD, (14, 1), (31, 0)],
];

fn position(etcd_revision: u64) -> CommitPosition {
    CommitPosition::new(etcd_revision, CommitSlot::FIRST).unwrap()
}

/// Encodes an instance as the later version does: each message at a path has a new field, whose value is its number, from 1.
fn of_later_version(stored: &StoredInstance, paths: &[&[(u32, usize)]]) -> InstanceValue {
    let StoredInstance { instance, lease } = stored;
    let holder = SessionHolder { epoch: SessionEpoch(5), replica: "r".into() };
    let value = InstanceValue::encode(instance, *lease, &holder, CommitSlot::FIRST, &UnknownFields::default());
    let value = paths.iter().zip(1..).fold(value, |value, (path, number)| extend(&value, path, NEW, number));
    let decoded = decode_instance(instance, &value, position(9));
    assert_eq!(decoded.stored, *stored);
    decoded
}

/// Decodes an instance that this version has changed as the later version does.
fn rewritten(value: &InstanceValue, instance: &Instance, lease: Option<StoredLease>) -> FutureInstance {
    let bytes = InstanceValue::encode(instance, lease, &value.holder, CommitSlot::FIRST, &value.unknown);
    let again = decode_instance(instance, &bytes, position(10));
    assert_eq!((&again.stored.instance, again.stored.lease), (instance, lease));
    FutureInstance::decode(&*bytes).unwrap()
}

#[test]
fn unknown_fields_of_every_message_survive_a_change_of_the_instance() {
    let stored = stored::instance();
    let value = of_later_version(&stored, &NATIVE);
    let mut instance = stored.instance.clone();
    instance.conditions.operator_draining = true;
    instance.revision = position(10).revision();
    let terms = LeaseTerms::grant(Some(Duration::from_secs(77)), None);
    let lease = stored.lease.map(|lease| StoredLease { terms, ..lease });
    let check = |id: &str, new, headers: &[u64], tls, description| FutureCheck {
        id: id.into(),
        headers: parts(headers),
        tls,
        description,
        new,
    };
    let part = |new| Some(FuturePart { new });
    let expected = FutureRecord {
        addresses: vec![FutureAddress { port: 80, new: 3 }, FutureAddress { port: 81, new: 4 }],
        locality: part(5),
        lease: part(6),
        checks: vec![check("http", 7, &[0, 8], part(9), None), check("static", 10, &[], None, part(11))],
        registration: None,
        new: 2,
    };
    assert_eq!(rewritten(&value, &instance, lease), FutureInstance { record: Some(expected), new: 1 });
}

#[test]
fn unknown_fields_go_with_the_part_that_is_removed() {
    let stored = stored::instance();
    let value = of_later_version(&stored, &NATIVE);
    let mut instance = stored.instance.clone();
    instance.addresses[0].port = 8_080;
    instance.locality = None;
    let added = CheckDefinition::new(CheckId::parse("added").unwrap(), "added", Probe::Ttl);
    let added = CheckDefinition { interval: Duration::from_secs(10), ..added }.validated().unwrap();
    let added = Check {
        created: position(10).revision(),
        revision: position(10).revision(),
        definition_revision: position(10).revision(),
        ..Check::new(added.into(), CheckStatus::Passing)
    };
    let kept = instance.checks.get("static").unwrap().clone();
    instance.checks = InstanceChecks::new(vec![added, kept]).unwrap();
    let lease = stored.lease.map(|lease| StoredLease { id: crate::model::LeaseId(5), ..lease });
    let FutureInstance { record, new } = rewritten(&value, &instance, lease);
    let record = record.unwrap();
    assert_eq!((new, record.new), (1, 2));
    let addresses: Vec<_> = record.addresses.iter().map(|address| (address.port, address.new)).collect();
    assert_eq!(addresses, [(8_080, 0), (81, 4)]);
    assert_eq!((record.locality, record.lease), (None, Some(FuturePart { new: 0 })), "of another lease");
    let checks: Vec<_> = record.checks.iter().map(|check| (&*check.id, check.new)).collect();
    assert_eq!(checks, [("added", 0), ("static", 10)]);
    assert_eq!(record.checks[1].description, Some(FuturePart { new: 11 }));
}

#[test]
fn unknown_fields_of_a_consul_registration_survive() {
    let stored = stored::registration();
    let paths: [&[(u32, usize)]; 2] = [&[RECORD, (15, 0)], &[RECORD, (15, 0), (4, 1)]];
    let value = of_later_version(&stored, &paths);
    let mut instance = stored.instance.clone();
    let lan_and_wan = instance.consul_registration.as_deref().unwrap().clone();
    let [lan, wan] = [0, 1].map(|at| lan_and_wan.tagged_addresses[at].clone());
    let swapped = ConsulRegistration { tagged_addresses: [wan, lan].into(), ..lan_and_wan };
    instance.consul_registration = Some(swapped.into());
    instance.addresses = [Address::parse("10.0.0.9", 9, "").unwrap()].into();
    let registration = rewritten(&value, &instance, None).record.unwrap().registration.unwrap();
    assert_eq!(registration, FutureRegistration { tagged_addresses: parts(&[2, 0]), new: 1 });
}

#[derive(Clone, PartialEq, Message)]
struct FuturePolicy {
    #[prost(message, optional, tag = "2")]
    record: Option<FuturePolicyRecord>,
    #[prost(uint64, tag = "200")]
    new: u64,
}

#[derive(Clone, PartialEq, Message)]
struct FuturePolicyRecord {
    #[prost(message, repeated, tag = "1")]
    revisions: Vec<FutureRevision>,
    #[prost(uint64, tag = "200")]
    new: u64,
}

#[derive(Clone, PartialEq, Message)]
struct FutureRevision {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(message, optional, tag = "3")]
    caller: Option<FuturePart>,
    #[prost(uint64, tag = "200")]
    new: u64,
}

#[test]
fn unknown_fields_of_a_policy_stay_with_their_revision() {
    let scope = PolicyScope::Service(test_support::name("web"));
    let revision = |revision| PolicyRevision {
        revision: Revision(revision),
        time: UnixMillis(1),
        caller: ServerActor::InProcess.caller().clone(),
        policy: crate::model::ServicePolicy::default(),
    };
    let value = PolicyValue::encode(
        &[revision(3).into(), revision(0).into()],
        None,
        CommitSlot::FIRST,
        &UnknownFields::default(),
    );
    let paths: [&[(u32, usize)]; 5] = [&[], &[(2, 0)], &[(2, 0), (1, 0)], &[(2, 0), (1, 1)], &[(2, 0), (1, 1), (3, 0)]];
    let value = paths.iter().zip(1..).fold(value, |value, (path, number)| extend(&value, path, NEW, number));
    let PolicyValue { stored: StoredPolicy { mut revisions, .. }, unknown, .. } =
        PolicyValue::decode(&scope, &value, 9).unwrap();
    // The newest revision was written as 0. It is an earlier one now, and another has no revision.
    revisions.push(revision(0).into());
    let bytes = PolicyValue::encode(&revisions, None, CommitSlot::FIRST, &unknown);
    let FuturePolicy { record, new } = FuturePolicy::decode(&*bytes).unwrap();
    let record = record.unwrap();
    assert_eq!((new, record.new), (1, 2));
    let of = |revision, new, caller| FutureRevision { revision, new, caller: Some(FuturePart { new: caller }) };
    assert_eq!(record.revisions, [of(3, 3, 0), of(position(9).revision().0, 4, 5), of(0, 0, 0)]);
}
