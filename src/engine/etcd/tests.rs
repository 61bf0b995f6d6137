//! Values through encoding, of every field and of earlier and later versions.

mod future;
mod stored;

use proptest::{collection::vec, option, prelude::*};

use super::{
    BatchNote, CommitPosition, CommitSlot, ExpirationWindow, InstanceValue, PolicyValue, RegistryMeta, ReplicaSession,
    SessionHolder,
};
use crate::{
    engine::record::{
        StoredInstance,
        policy::StoredPolicy,
        test_values::{self, maybe},
        unknown_fields::UnknownFields,
    },
    model::{
        Check, ConsulRegistration, Incarnation, Instance, InstanceChecks, PolicyScope, Revision, UnixMillis,
        node_service,
    },
    registry::{PolicyRevision, SessionEpoch, test_support},
};

fn slot() -> impl Strategy<Value = CommitSlot> {
    (1..=4_095_u64).prop_map(|slot| CommitSlot::parse(slot).unwrap())
}

/// Position of a change, with revisions above and below those of other test values.
fn position() -> impl Strategy<Value = CommitPosition> {
    let etcd_revision = prop_oneof![1..=3_u64, 1_000..=CommitPosition::MAX_ETCD_REVISION];
    (etcd_revision, slot()).prop_map(|(revision, slot)| CommitPosition::new(revision, slot).unwrap())
}

fn holder() -> impl Strategy<Value = SessionHolder> {
    (any::<u64>(), maybe(64)).prop_map(|(epoch, replica)| SessionHolder { epoch: SessionEpoch(epoch), replica })
}

/// Returns the revision that a stored one stands for.
fn resolve(stored: Revision, this: Revision) -> Revision {
    if stored == Revision(0) { this } else { stored.min(this) }
}

/// Returns an instance with all its revisions resolved.
fn resolve_all(instance: &Instance, this: Revision) -> Instance {
    let check = |check: &Check| Check {
        created: resolve(check.created, this),
        revision: resolve(check.revision, this),
        definition_revision: resolve(check.definition_revision, this),
        ..check.clone()
    };
    let registration = |registration: &ConsulRegistration| ConsulRegistration {
        description_revision: resolve(registration.description_revision, this),
        ..registration.clone()
    };
    Instance {
        checks: InstanceChecks::new(instance.checks.iter().map(check).collect()).unwrap(),
        consul_registration: instance.consul_registration.as_deref().map(registration).map(Into::into),
        revision: resolve(instance.revision, this),
        registered_revision: resolve(instance.registered_revision, this),
        ..instance.clone()
    }
}

/// Sets all revisions of an instance to 0, for this revision, of which some are chosen by `keep`.
fn unset_some(mut instance: Instance, keep: [bool; 6]) -> Instance {
    let unset = |revision: Revision, keep: bool| if keep { revision } else { Revision(0) };
    let check = |check: &Check| Check {
        created: unset(check.created, keep[0]),
        revision: unset(check.revision, keep[1]),
        definition_revision: unset(check.definition_revision, keep[2]),
        ..check.clone()
    };
    instance.checks = InstanceChecks::new(instance.checks.iter().map(check).collect()).unwrap();
    let description_revision = |registration: &ConsulRegistration| unset(registration.description_revision, keep[3]);
    let registration = instance.consul_registration.as_deref().map(|registration| ConsulRegistration {
        description_revision: description_revision(registration),
        ..registration.clone()
    });
    Instance {
        consul_registration: registration.map(Into::into),
        revision: unset(instance.revision, keep[4]),
        registered_revision: unset(instance.registered_revision, keep[5]),
        ..instance
    }
}

fn decode_instance(instance: &Instance, value: &[u8], position: CommitPosition) -> InstanceValue {
    InstanceValue::decode(&instance.service, &instance.id, value, position.etcd_revision()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_field_of_an_instance_survives_encoding(
        stored in test_values::stored(), keep in any::<[bool; 6]>(), holder in holder(), position in position(),
    ) {
        let StoredInstance { instance, lease } = stored;
        let instance = unset_some(instance, keep);
        let none = UnknownFields::default();
        let value = InstanceValue::encode(&instance, lease, &holder, position.slot(), &none);
        let decoded = decode_instance(&instance, &value, position);
        let instance = resolve_all(&instance, position.revision());
        let stored = StoredInstance { instance, lease };
        let expected = InstanceValue { stored, holder, position, unknown: none };
        prop_assert_eq!(&decoded, &expected);
        // A change that is written later keeps the revisions of earlier changes.
        let later = CommitPosition::new(position.etcd_revision(), CommitSlot::LAST).unwrap();
        let InstanceValue { stored, holder, unknown, .. } = decoded;
        let value = InstanceValue::encode(&stored.instance, stored.lease, &holder, later.slot(), &unknown);
        let again = decode_instance(&stored.instance, &value, later);
        prop_assert_eq!(again.stored, stored);
    }

    #[test]
    fn every_field_of_a_policy_survives_encoding(
        policies in test_values::policies(), defaults in any::<bool>(), slot in slot(),
        etcd_revision in 1_000..=CommitPosition::MAX_ETCD_REVISION, forgotten in option::of(0..4_000_000_u64),
    ) {
        let position = CommitPosition::new(etcd_revision, slot).unwrap();
        for mut stored in policies {
            // The defaults have no subsets and no routes, which some documents have.
            if defaults && stored.revisions.iter().all(|revision| is_of_defaults(revision)) {
                stored.scope = PolicyScope::Defaults;
            }
            let newest = stored.revisions.pop().unwrap();
            let with_revision = |revision| PolicyRevision { revision, ..(*newest).clone() }.into();
            let mut written = stored.revisions.clone();
            written.push(with_revision(Revision(0)));
            let forgotten = forgotten.map(Revision);
            let value = PolicyValue::encode(&written, forgotten, slot, &UnknownFields::default());
            stored.revisions.push(with_revision(position.revision()));
            let decoded = PolicyValue::decode(&stored.scope, &value, etcd_revision);
            let forgotten = forgotten.map(|revision| resolve(revision, position.revision()));
            prop_assert_eq!(decoded, Ok(PolicyValue { stored, position, forgotten, unknown: UnknownFields::default() }));
        }
    }

    #[test]
    fn every_field_of_a_session_survives_encoding(
        texts in [maybe(64), maybe(64), maybe(64), maybe(64)], http_listener in option::of(maybe(64)), time in any::<u64>(),
    ) {
        let [replica, version, grpc_listener, grpc_address] = texts;
        let started_at = UnixMillis(time);
        let session = ReplicaSession { replica, version, started_at, grpc_listener, grpc_address, http_listener };
        prop_assert_eq!(ReplicaSession::decode(&session.encode()), Ok(session));
    }

    #[test]
    fn every_field_of_meta_and_of_expirations_survives_encoding(numbers in any::<[u64; 3]>(), unknown in any::<u64>()) {
        let meta = RegistryMeta { incarnation: Incarnation(numbers[0]), revision_offset: numbers[1] };
        prop_assert_eq!(RegistryMeta::decode(&meta.encode()), Ok(meta));
        let [_, count, start] = numbers;
        let window = ExpirationWindow { count, start: UnixMillis(start), ..ExpirationWindow::default() };
        prop_assert_eq!(ExpirationWindow::decode(&window.encode()), Ok(window.clone()));
        // A field of a later version.
        let mut later = window.encode();
        prost::encoding::uint64::encode(3, &unknown, &mut later);
        let decoded = ExpirationWindow::decode(&later).unwrap();
        prop_assert_eq!((decoded.count, decoded.start), (count, UnixMillis(start)));
        prop_assert_eq!(decoded.encode(), later);
    }

    #[test]
    fn any_bytes_are_decoded_or_rejected(bytes in vec(any::<u8>(), 0..200), mod_revision in any::<u64>()) {
        let (web, a) = (test_support::name("web"), test_support::id("a"));
        let decoded = [
            InstanceValue::decode(&web, &a, &bytes, mod_revision).is_ok(),
            PolicyValue::decode(&PolicyScope::Defaults, &bytes, mod_revision).is_ok(),
        ];
        prop_assert!(mod_revision > 0 || decoded == [false, false], "no key has revision 0");
        let _: Result<ReplicaSession, _> = ReplicaSession::decode(&bytes);
        let _: Result<BatchNote, _> = BatchNote::decode(&bytes);
        let _: Result<ExpirationWindow, _> = ExpirationWindow::decode(&bytes);
        let _: Result<RegistryMeta, _> = RegistryMeta::decode(&bytes);
    }
}

/// Returns whether the defaults may have a policy.
fn is_of_defaults(revision: &PolicyRevision) -> bool {
    let policy = &revision.policy;
    policy.subsets.is_empty()
        && policy.default_split.is_none()
        && policy.fallback.is_empty()
        && policy.routes.is_empty()
}

#[test]
fn instance_with_another_id_than_its_key_is_rejected() {
    let registration = ConsulRegistration { node: "n2".into(), id: "web".into(), ..ConsulRegistration::default() };
    let instance = Instance {
        service: node_service(),
        consul_registration: Some(registration.into()),
        ..test_support::entry("web", "a", 1).instance.clone()
    };
    let holder = SessionHolder { epoch: SessionEpoch(1), replica: "r".into() };
    let value = InstanceValue::encode(&instance, None, &holder, CommitSlot::FIRST, &UnknownFields::default());
    let error = InstanceValue::decode(&instance.service, &instance.id, &value, 5).unwrap_err();
    assert!(error.to_string().contains("\"@n2\" is not the id of the key, a"), "{error}");
}

#[test]
fn debug_output_of_a_value_has_neither_lease_id_nor_boot_id() {
    let stored = stored::instance();
    let holder = SessionHolder { epoch: SessionEpoch(1), replica: "r".into() };
    let StoredInstance { instance, lease } = &stored;
    let mut value = InstanceValue::encode(instance, *lease, &holder, CommitSlot::FIRST, &UnknownFields::default());
    prost::encoding::bytes::encode(99, &b"a later secret".to_vec(), &mut value);
    let text = format!("{:?}", InstanceValue::decode(&instance.service, &instance.id, &value, 5).unwrap());
    let lease = lease.unwrap();
    for secret in [format!("{}", lease.id.0), format!("{:x}", lease.id.0), lease.boot.digest().to_string()] {
        assert!(!text.contains(&secret), "{text}");
    }
    assert!(
        text.contains("LeaseId(…)") && text.contains("BootId(…)") && text.contains("UnknownFields(17 bytes)"),
        "{text}"
    );
}
