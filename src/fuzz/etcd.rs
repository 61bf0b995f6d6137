//! Keys and values of a registry in etcd.

use crate::{
    engine::etcd::{
        BatchNote, ExpirationWindow, InstanceValue, KeySpace, PolicyValue, RegistryMeta, ReleaseRequest, ReplicaSession,
    },
    model::{InstanceId, PolicyScope, ServiceName},
};

/// Revision of etcd at which the input was written.
const MOD_REVISION: u64 = 9;

/// Verifies that a key or a value that is decoded survives encoding, together with its unknown fields.
pub(super) fn run(input: &[u8]) {
    let keys = KeySpace::new("default");
    if let Ok(key) = keys.decode(input) {
        assert_eq!(keys.encode(&key).as_bytes(), input);
    }
    if let (Ok(service), Ok(id)) = (ServiceName::parse("web"), InstanceId::parse("a")) {
        instance(&service, &id, input);
        // The other seed of an instance.
        instance(&service, &InstanceId::on_node("n2", "web1"), input);
        policy(&PolicyScope::Service(service), input);
    }
    if let Ok(note) = BatchNote::decode(input) {
        assert_eq!(BatchNote::decode(&note.encode()), Ok(note));
    }
    if let Ok(session) = ReplicaSession::decode(input) {
        assert_eq!(ReplicaSession::decode(&session.encode()), Ok(session));
    }
    if let Ok(request) = ReleaseRequest::decode(input) {
        assert_eq!(ReleaseRequest::decode(&request.encode()), Ok(request));
    }
    if let Ok(window) = ExpirationWindow::decode(input) {
        assert_eq!(ExpirationWindow::decode(&window.encode()), Ok(window));
    }
    if let Ok(meta) = RegistryMeta::decode(input) {
        assert_eq!(RegistryMeta::decode(&meta.encode()), Ok(meta));
    }
}

fn instance(service: &ServiceName, id: &InstanceId, input: &[u8]) {
    let decode = |bytes: &[u8]| InstanceValue::decode(service, id, bytes, MOD_REVISION);
    let encode = |InstanceValue { stored, holder, position, unknown }: &InstanceValue| {
        InstanceValue::encode(&stored.instance, stored.lease, holder, position.slot(), unknown)
    };
    let Ok(value) = decode(input) else { return };
    let bytes = encode(&value);
    let Ok(again) = decode(&bytes) else { panic!("{value:?} is encoded wrongly") };
    assert_eq!((&again.stored, &again.holder, again.position), (&value.stored, &value.holder, value.position));
    // The unknown fields of the input may belong to messages that occur twice.
    assert_eq!(encode(&again), bytes);
}

fn policy(scope: &PolicyScope, input: &[u8]) {
    let encode = |PolicyValue { stored, position, forgotten, unknown }: &PolicyValue| {
        PolicyValue::encode(&stored.revisions, *forgotten, position.slot(), unknown)
    };
    let Ok(value) = PolicyValue::decode(scope, input, MOD_REVISION) else { return };
    let bytes = encode(&value);
    let Ok(again) = PolicyValue::decode(scope, &bytes, MOD_REVISION) else { panic!("{value:?} is encoded wrongly") };
    assert_eq!((&again.stored.revisions, again.forgotten), (&value.stored.revisions, value.forgotten));
    assert_eq!(encode(&again), bytes);
}
