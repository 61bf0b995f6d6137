//! Records of policies that were changed from outside, or that this version cannot use.

use redb::{Database, ReadableTable as _, TableDefinition};

use super::{
    super::{
        backend::{self, load},
        *,
    },
    META, set, timeout,
};
use crate::engine::disk::{
    header::StoreHeader,
    signer::{self, RecordSigner},
};

const POLICIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("policies");

/// Returns the bytes of a closed store with an instance, the defaults, and policies of `a` and `b`.
fn closed() -> Vec<u8> {
    let (backend, store) = backend::store();
    let disk = Disk::start(store, LoadedRecords::default(), Durability::Durable, dependencies(), never_fails());
    let disk = disk.unwrap();
    register_instance(&disk, "web", "a", 1);
    set(&disk, "", &timeout(1));
    set(&disk, "a", &timeout(2));
    set(&disk, "b", &timeout(3));
    disk.close();
    backend.synced()
}

/// Changes the table of policies in these bytes.
fn change(bytes: Vec<u8>, change: impl FnOnce(&mut redb::Table<'_, &'static str, &'static [u8]>)) -> Vec<u8> {
    let disk = backend::FaultyDisk::holding(bytes);
    let database = Database::builder().create_with_backend(disk.clone()).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&mut transaction.open_table(POLICIES).unwrap());
    transaction.commit().unwrap();
    drop(database);
    disk.synced()
}

#[test]
fn store_whose_policies_were_changed_from_outside_is_rejected() {
    let removed = change(closed(), |table| drop(table.remove("a").unwrap()));
    let moved = change(closed(), |table| {
        let taken = table.remove("a").unwrap().unwrap().value().to_vec();
        table.insert("c", taken.as_slice()).unwrap();
    });
    let older = change(closed(), |table| {
        let mut bytes = table.get("a").unwrap().unwrap().value().to_vec();
        bytes[3] ^= 1;
        table.insert("a", bytes.as_slice()).unwrap();
    });
    let reasons =
        ["it has 2 policies that are not the 3 written", "the policy of service \"c\"", "the policy of service \"a\""];
    for (bytes, reason) in [removed, moved, older].into_iter().zip(reasons) {
        let error = load(bytes).unwrap_err().to_string();
        assert!(error.contains("is damaged") && error.contains(reason), "{error}");
    }
    let disk = backend::FaultyDisk::holding(closed());
    let database = Database::builder().create_with_backend(disk.clone()).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.delete_table(POLICIES).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = load(disk.synced()).unwrap_err().to_string();
    assert!(error.contains("it has no table of policies"), "{error}");
}

/// Returns these bytes with a message as the record of the policy of `a`, and a valid tag.
fn with_message(bytes: Vec<u8>, message: &[u8]) -> Vec<u8> {
    let disk = backend::FaultyDisk::holding(bytes);
    let database = Database::builder().create_with_backend(disk.clone()).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        let key = u128::from_be_bytes(meta.get("key").unwrap().unwrap().value().try_into().unwrap());
        let signer = RecordSigner::new(key);
        let tag = signer.tag("a", "a policy", message);
        let mut table = transaction.open_table(POLICIES).unwrap();
        let bytes = [message, &tag.to_be_bytes()].concat();
        let before = table.insert("a", bytes.as_slice()).unwrap().unwrap();
        let before = signer::unverified_tag(before.value()).unwrap();
        let state = meta.get("state").unwrap().unwrap().value().to_vec();
        let mut header = StoreHeader::verify(&state, signer).unwrap();
        header.count_policy(Some(before), Some(tag));
        meta.insert("state", header.sign(signer).as_slice()).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    disk.synced()
}

/// Message with one revision, whose document has a field that no version knows.
const UNKNOWN_FIELD: &[u8] = b"\x0a\x0b\x22\x09{\"lc\":\"x\"}";

#[test]
fn unreadable_policy_stays_in_the_store_until_the_policy_is_set_again() {
    for message in [UNKNOWN_FIELD, &[0xff, 0xff], &[]] {
        let bytes = with_message(closed(), message);
        let (_, found) = load(bytes.clone()).unwrap();
        let unreadable: Vec<_> = found.unreadable.iter().map(ToString::to_string).collect();
        assert_eq!((found.policies.len(), found.instances.len(), unreadable.len()), (2, 1, 1));
        assert!(unreadable[0].starts_with("the policy of service \"a\" cannot be used: "), "{unreadable:?}");

        let backend = backend::FaultyDisk::holding(bytes);
        let (store, found) = Store::load_from(backend.clone(), "disk".into(), tempfile::tempfile().unwrap()).unwrap();
        let metrics = Metrics::new();
        let dependencies = DiskDependencies { metrics: metrics.store.clone(), ..dependencies() };
        let disk = Disk::start(store, found, Durability::Durable, dependencies, never_fails()).unwrap();
        set(&disk, "b", &timeout(9));
        let (_, found) = load(backend.synced()).unwrap();
        assert_eq!((found.policies.len(), found.unreadable.len()), (2, 1), "the record is kept");
        assert!(metrics.to_text().contains("callboard_store_unreadable_records 1"));
        set(&disk, "a", &timeout(9));
        assert!(metrics.to_text().contains("callboard_store_unreadable_records 0"));
        disk.close();
        let (_, found) = load(backend.synced()).unwrap();
        assert_eq!((found.policies.len(), found.unreadable.len()), (3, 0));
    }
}

/// Returns the message of a revision.
fn revision_message(revision: u8, document: &str) -> Vec<u8> {
    let caller = b"\x1a\x0c\x0a\x0ain_process";
    let length = u8::try_from(document.len()).unwrap();
    let fields = [&[0x08, revision], &caller[..], &[0x22, length], document.as_bytes()].concat();
    [&[0x0a, u8::try_from(fields.len()).unwrap()], &*fields].concat()
}

#[test]
fn earlier_revision_that_is_invalid_costs_neither_the_policy_nor_the_other_revisions() {
    let seconds = |seconds: u8| timeout(seconds.into());
    let messages = [(1, seconds(1)), (2, r#"{"lc":"x"}"#.to_owned()), (3, seconds(3))];
    let message = messages.map(|(revision, document)| revision_message(revision, &document)).concat();
    let backend = backend::FaultyDisk::holding(with_message(closed(), &message));
    let (store, found) = Store::load_from(backend.clone(), "disk".into(), tempfile::tempfile().unwrap()).unwrap();
    assert_eq!((found.policies.len(), found.unreadable.len()), (3, 0));
    let skipped: Vec<_> = found.skipped_revisions().map(ToString::to_string).collect();
    assert!(skipped.len() == 1 && skipped[0].starts_with("revision 2 of the policy of service \"a\""), "{skipped:?}");

    let disk = Disk::start(store, found, Durability::Durable, dependencies(), never_fails()).unwrap();
    let a = name("a");
    let numbers =
        |disk: &Disk| -> Vec<_> { super::revisions(disk, "a").iter().map(|revision| revision.revision.0).collect() };
    let timeout_at = |disk: &Disk, revision| {
        let effective = disk.registry().policies().effective_at(&a, Revision(revision))?;
        Some(effective.timeout.as_secs())
    };
    assert_eq!((disk.registry().policies().effective(&a).timeout.as_secs(), numbers(&disk)), (3, vec![3, 1]));
    assert_eq!([2, 3].map(|revision| timeout_at(&disk, revision)), [None, Some(3)], "revision 2 is not revision 1");
    let newest = set(&disk, "a", &timeout(9));
    assert_eq!([2, 3, newest.0].map(|revision| timeout_at(&disk, revision)), [None, Some(3), Some(9)]);
    disk.close();
    let (_, found) = load(backend.synced()).unwrap();
    assert_eq!((found.policies[1].revisions.len(), found.skipped_revisions().count()), (3, 0));
}
