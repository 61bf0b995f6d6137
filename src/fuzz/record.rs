//! Records of a store, and lines of an export.

use crate::{
    engine::{
        disk::{
            export,
            signer::{RecordSigner, TagMismatch},
        },
        record::{StoredInstance, decode, decode_policy},
    },
    model::Revision,
};

/// Verifies that a record without the tag of the store is rejected, and that a message of an instance or a policy survives encoding.
pub(super) fn run(input: &[u8]) {
    let signer = RecordSigner::new(7);
    assert_eq!(signer.verify("web", "a", input), Err(TagMismatch), "the input cannot know the key");
    assert_eq!(signer.verify_policy("web", input), Err(TagMismatch), "the input cannot know the key");
    if let Ok(stored) = decode_policy("web", input) {
        let (bytes, _) = signer.encode_policy("web", &stored.revisions);
        let Ok((message, _)) = signer.verify_policy("web", &bytes) else { panic!("{stored:?} fails verification") };
        let Ok(again) = decode_policy("web", message) else { panic!("{stored:?} is encoded wrongly") };
        assert_eq!((again.scope, again.revisions), (stored.scope, stored.revisions));
    }
    let Ok(stored) = decode("web", "a", input) else { return };
    let (bytes, tag) = signer.encode_instance(&stored.instance, stored.lease);
    // The id of a Consul registration is made of its node and id, whatever the key of the record is.
    let id = stored.instance.id.to_string();
    let Ok((message, verified)) = signer.verify("web", &id, &bytes) else { panic!("{stored:?} fails verification") };
    assert_eq!(verified, tag);
    assert_eq!(decode("web", &id, message), Ok(stored));
}

/// Verifies that an export which is valid survives another export.
pub(super) fn import(input: &[u8]) {
    let Ok(mut records) = export::read(input, |_| {}) else { return };
    assert!(records.revision <= Revision(1 << 62), "no registry reaches the revision");
    let newest = |StoredInstance { instance, .. }: &StoredInstance| instance.revision.max(instance.registered_revision);
    assert!(records.instances.iter().all(|stored| newest(stored) <= records.revision));
    let mut lines = Vec::new();
    assert!(export::write(&records, &mut lines, || {}).is_ok());
    let Ok(read) = export::read(&*lines, |_| {}) else { panic!("{}", String::from_utf8_lossy(&lines)) };
    // An export leaves out the revisions that were skipped.
    records.policies.iter_mut().for_each(|stored| stored.skipped.clear());
    assert_eq!(read, records);
}
