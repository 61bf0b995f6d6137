//! Bytes on the disk, and lines of an export.

use crate::{
    engine::disk::{
        StoredInstance, export,
        record::{DecodeError, RecordSigner, decode},
    },
    model::Revision,
};

/// What is no record of this store is refused; what is a message of an instance survives being written again.
pub(super) fn run(input: &[u8]) {
    let seal = RecordSigner::new(7);
    assert_eq!(seal.open("web", "a", input), Err(DecodeError::Tag), "nobody here knows the key");
    let Ok(stored) = decode("web", "a", input) else { return };
    let (bytes, tag) = seal.encode(&stored.instance, stored.lease);
    // What was registered through Consul's API has an id that its node and its id there make, whatever the record's key is.
    let id = stored.instance.id.to_string();
    let Ok((message, read)) = seal.open("web", &id, &bytes) else { panic!("{stored:?} is not found again") };
    assert_eq!(read, tag);
    assert_eq!(decode("web", &id, message), Ok(stored));
}

/// What is no export is refused; what is one survives being exported again.
pub(super) fn import(input: &[u8]) {
    let Ok(found) = export::read(input, |_| {}) else { return };
    assert!(found.revision <= Revision(1 << 62), "no registry gets there");
    let newest = |StoredInstance { instance, .. }: &StoredInstance| instance.revision.max(instance.registered_revision);
    assert!(found.instances.iter().all(|stored| newest(stored) <= found.revision));
    let mut again = Vec::new();
    assert!(export::write(&found, &mut again, || {}).is_ok());
    let Ok(read) = export::read(&*again, |_| {}) else { panic!("{}", String::from_utf8_lossy(&again)) };
    assert_eq!(read, found);
}
