//! Errors of the database, each distinguished from damage.

use redb::{Database, MultimapTableDefinition, TableDefinition};

use super::{
    backend::{FaultyDisk, load, store},
    *,
};

/// Offsets of the version of the file format in the two commit slots of redb's header.
const VERSION_OFFSETS: [usize; 2] = [64, 192];

fn closed_store() -> Vec<u8> {
    let (disk, store) = store();
    store.close().unwrap();
    disk.synced()
}

#[test]
fn store_after_failed_write_reports_the_earlier_error_and_no_damage() {
    let (disk, mut store) = store();
    disk.fail_after(0);
    assert!(matches!(store.flush(), Err(StoreError::Io { .. })));
    let error = store.flush().unwrap_err();
    assert!(matches!(error, StoreError::PoisonedByIo { .. }), "{error}");
    assert!(error.to_string().contains("check the disk, and start the registry again"), "{error}");
}

#[test]
fn unreadable_disk_is_an_io_error_and_no_damage() {
    let disk = FaultyDisk::holding(closed_store());
    for reads in 0.. {
        disk.fail_reads_after(reads);
        let Err(error) = Store::load_from(disk.clone(), "disk".into(), tempfile::tempfile().unwrap()) else {
            assert!(reads > 1);
            break;
        };
        assert!(matches!(error, StoreError::Io { .. }), "after {reads} reads: {error}");
    }
}

#[test]
fn database_of_an_old_file_format_requires_an_upgrade() {
    let mut bytes = closed_store();
    for offset in VERSION_OFFSETS {
        assert_eq!(bytes[offset], 3);
        bytes[offset] = 2;
    }
    let error = load(bytes).unwrap_err();
    assert!(matches!(error, StoreError::DatabaseUpgradeRequired { found: 2, .. }), "{error}");
}

#[test]
fn database_of_another_program_is_foreign_and_left_alone() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("registry.redb");
    drop(Database::create(&file).unwrap());
    let error = || Store::open(directory.path(), Durability::Durable, START).unwrap_err();
    assert!(matches!(error(), StoreError::ForeignDatabase { .. }), "{}", error());

    let other_key: TableDefinition<'_, u64, u64> = TableDefinition::new("meta");
    let database = Database::create(&file).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(other_key).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(error().to_string().contains("is not a callboard store: meta has key type u64"), "{}", error());

    std::fs::remove_file(&file).unwrap();
    let multimap: MultimapTableDefinition<'_, &str, &str> = MultimapTableDefinition::new("meta");
    let database = Database::create(&file).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_multimap_table(multimap).unwrap().insert("a", "b").unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(error().to_string().contains("is not a callboard store: meta is a multimap table"), "{}", error());
}

#[test]
fn database_that_is_open_elsewhere_is_in_use() {
    let directory = TempDir::new().unwrap();
    open(directory.path(), Durability::Durable).close();
    wait_for_unlock(directory.path());
    let _open = Database::open(directory.path().join("registry.redb")).unwrap();
    let error = Store::read(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { holder: None, .. }), "{error}");
}
