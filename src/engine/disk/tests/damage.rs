//! Crashes at any moment, torn writes, flipped bits, truncated files: all acknowledged changes are loaded, or the store is rejected.

use std::collections::BTreeSet;

use redb::{Database, TableDefinition};

use super::{backend::load, *};

/// Xorshift generator.
fn numbers(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % below
    }
}

fn keys(found: &LoadedRecords) -> BTreeSet<(String, String)> {
    let key = |stored: &StoredInstance| (stored.instance.service.to_string(), stored.instance.id.to_string());
    found.instances.iter().map(key).collect()
}

fn instance(n: usize) -> Instance {
    let entry = crate::registry::test_support::entry("web", &format!("i{n}"), 1);
    Instance { revision: Revision(n as u64), ..entry.instance.clone() }
}

#[test]
fn crash_at_any_moment_loses_no_acknowledged_change() {
    for seed in 0..400 {
        let mut random = numbers(seed);
        let (disk, mut store) = backend::store();
        let mut acknowledged = BTreeSet::new();
        for round in 0..=random(6) {
            let some: Vec<_> = (0..=random(30)).map(|n| instance(round * 100 + n)).collect();
            let writes = some.iter().map(|instance| RecordChange::Put(instance, None));
            store.write(writes, Revision(round as u64 + 1), true).unwrap();
            acknowledged.extend(some.iter().map(|instance| ("web".to_owned(), instance.id.to_string())));
        }
        // All changes of a transaction that is being written are loaded, or none.
        let in_flight: Vec<_> = (0..40).map(|n| instance(9_000 + n)).collect();
        disk.fail_after(0);
        assert!(
            store
                .write(in_flight.iter().map(|instance| RecordChange::Put(instance, None)), Revision(99), true)
                .is_err()
        );
        let (_, found) = load(disk.torn(&mut random)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let keys = keys(&found);
        assert!(keys.is_superset(&acknowledged), "seed {seed}");
        let more = keys.len() - acknowledged.len();
        assert!(more == 0 || more == in_flight.len(), "seed {seed}: {more} of a transaction");
    }
}

/// Returns the bytes of a closed store of 300 records, and their keys.
fn closed() -> (Vec<u8>, BTreeSet<(String, String)>) {
    let (disk, mut store) = backend::store();
    let some: Vec<_> = (0..300).map(instance).collect();
    store.write(some.iter().map(|instance| RecordChange::Put(instance, None)), Revision(300), true).unwrap();
    store.close().unwrap();
    let bytes = disk.synced();
    let keys = keys(&load(bytes.clone()).unwrap().1);
    assert_eq!(keys.len(), 300);
    (bytes, keys)
}

#[test]
fn damaged_store_is_rejected_or_complete() {
    let (bytes, keys) = closed();
    let mut random = numbers(1);
    let mut rejected = 0;
    for round in 0..600 {
        let mut damaged = bytes.clone();
        match round % 3 {
            0 => damaged[random(bytes.len())] ^= 1 << random(8),
            1 => damaged.truncate(random(bytes.len())),
            _ => {
                let (from, length) = (random(bytes.len()), random(4_096));
                let end = bytes.len().min(from + length);
                damaged[from..end].fill(0);
            }
        }
        match load(damaged) {
            Err(StoreError::Corrupt { .. } | StoreError::DatabaseUpgradeRequired { .. }) => rejected += 1,
            Ok((_, found)) => assert_eq!(self::keys(&found), keys, "round {round}"),
            Err(other) => panic!("round {round}: {other}"),
        }
    }
    assert!(rejected > 200, "only {rejected} were rejected");
}

#[test]
fn store_with_record_moved_or_removed_from_outside_is_rejected() {
    const INSTANCES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("instances");
    let (bytes, _) = closed();
    for change in 0..2 {
        let disk = backend::FaultyDisk::holding(bytes.clone());
        let database = Database::builder().create_with_backend(disk.clone()).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(INSTANCES).unwrap();
            let taken = table.remove(("web", "i7")).unwrap().unwrap().value().to_vec();
            if change == 1 {
                table.insert(("web", "i7x"), taken.as_slice()).unwrap();
            }
        }
        transaction.commit().unwrap();
        drop(database);
        let error = load(disk.synced()).unwrap_err().to_string();
        assert!(error.contains("is damaged"), "{error}");
    }
}

#[test]
fn file_that_is_not_a_database_is_rejected_and_left_alone() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("registry.redb");
    for text in ["", "hello", &"x".repeat(100_000)] {
        std::fs::write(&file, text).unwrap();
        let error = Store::open(directory.path(), Durability::Durable, START).unwrap_err().to_string();
        assert!(error.contains("registry.redb is damaged"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
}

#[test]
fn store_of_a_later_version_is_rejected_and_left_alone() {
    const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
    let directory = TempDir::new().unwrap();
    let disk = open(directory.path(), Durability::Durable);
    register_instance(&disk, "web", "a", 1);
    disk.close();
    drop(disk);
    let file = directory.path().join("registry.redb");
    let set = |format: u32| {
        let database = Database::open(&file).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("format", format.to_be_bytes().as_slice()).unwrap();
        transaction.commit().unwrap();
    };
    set(99);
    let error = Store::open(directory.path(), Durability::Durable, START).unwrap_err().to_string();
    assert!(error.contains("has format 99, and this version reads formats up to 4"), "{error}");
    set(1);
    assert_eq!(contents(&open(directory.path(), Durability::Durable)).len(), 1);
}
