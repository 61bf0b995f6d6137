//! Records that this version cannot use: only their instances are missing, and the records are kept.

use redb::{Database, ReadableTable as _, TableDefinition};

use super::{
    backend::{self, load},
    *,
};
use crate::engine::disk::{
    header::StoreHeader,
    signer::{self, RecordSigner},
};

const INSTANCES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("instances");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Message whose field 4, the weight, is 0, which no version accepts.
const NO_WEIGHT: [u8; 4] = [0x0a, 0x02, 0x0a, 0x00];

/// Returns the bytes of a closed store of `web/a`, `web/b` and `web/c`, with this message as the record of `b` and a valid tag.
fn with_message(message: &[u8]) -> Vec<u8> {
    let (disk, mut store) = backend::store();
    let some: Vec<_> = ["a", "b", "c"].map(|id| crate::registry::test_support::entry("web", id, 1)).into();
    store.write(some.iter().map(|entry| RecordChange::Put(&entry.instance, None)), Revision(3), true).unwrap();
    store.close().unwrap();
    let disk = backend::FaultyDisk::holding(disk.synced());
    let database = Database::builder().create_with_backend(disk.clone()).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        let key = u128::from_be_bytes(meta.get("key").unwrap().unwrap().value().try_into().unwrap());
        let signer = RecordSigner::new(key);
        let tag = signer.tag("web", "b", message);
        let mut table = transaction.open_table(INSTANCES).unwrap();
        let bytes = [message, &tag.to_be_bytes()].concat();
        let before = table.insert(("web", "b"), bytes.as_slice()).unwrap().unwrap();
        let before = signer::unverified_tag(before.value()).unwrap();
        let state = meta.get("state").unwrap().unwrap().value().to_vec();
        let mut header = StoreHeader::verify(&state, signer).unwrap();
        header.count_record(Some(before), Some(tag));
        meta.insert("state", header.sign(signer).as_slice()).unwrap();
    }
    transaction.commit().unwrap();
    drop(database);
    disk.synced()
}

fn start(bytes: Vec<u8>) -> (backend::FaultyDisk, Disk, Arc<Metrics>) {
    let backend = backend::FaultyDisk::holding(bytes);
    let (store, found) = Store::load_from(backend.clone(), "disk".into(), tempfile::tempfile().unwrap()).unwrap();
    let metrics = Metrics::new();
    let dependencies = DiskDependencies { metrics: metrics.store.clone(), ..dependencies() };
    (backend, Disk::start(store, found, Durability::Durable, dependencies, never_fails()).unwrap(), metrics)
}

fn ids(engine: &dyn Engine) -> Vec<String> {
    contents(engine).into_keys().map(|(_, id)| id).collect()
}

#[test]
fn unreadable_record_costs_its_own_instance_and_stays_in_the_store() {
    for message in [&NO_WEIGHT[..], &[0xff, 0xff]] {
        let bytes = with_message(message);
        let (_, found) = load(bytes.clone()).unwrap();
        let unreadable: Vec<_> = found.unreadable.iter().map(ToString::to_string).collect();
        assert_eq!((found.instances.len(), unreadable.len()), (2, 1));
        assert!(unreadable[0].starts_with("the record of \"web\"/\"b\" cannot be used: "), "{unreadable:?}");

        let (backend, disk, metrics) = start(bytes);
        assert_eq!(ids(&disk), ["a", "c"]);
        assert!(metrics.to_text().contains("callboard_store_unreadable_records 1"));
        register_instance(&disk, "web", "d", 1);
        submit(&disk, deregister("web", "a", None)).unwrap();
        disk.close();
        let (_, found) = load(backend.synced()).unwrap();
        assert_eq!((found.instances.len(), found.unreadable.len()), (2, 1), "the record is kept");
    }
}

#[test]
fn instance_that_registers_again_replaces_its_unreadable_record() {
    let (backend, disk, metrics) = start(with_message(&NO_WEIGHT));
    register_instance(&disk, "web", "b", 1);
    assert!(metrics.to_text().contains("callboard_store_unreadable_records 0"));
    disk.close();
    let (_, found) = load(backend.synced()).unwrap();
    assert_eq!((found.instances.len(), found.unreadable.len()), (3, 0));
}

#[test]
fn unreadable_record_is_counted_like_any_other() {
    let bytes = with_message(&NO_WEIGHT);
    let disk = backend::FaultyDisk::holding(bytes);
    let database = Database::builder().create_with_backend(disk.clone()).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(INSTANCES).unwrap().remove(("web", "b")).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = load(disk.synced()).unwrap_err().to_string();
    assert!(error.contains("it has 2 records that are not the 3 written"), "{error}");
}
