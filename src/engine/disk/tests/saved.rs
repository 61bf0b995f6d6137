//! Saved check states through restarts, crashes and changes from outside.

use redb::{Database, TableDefinition};

use super::{
    backend::{self, load},
    *,
};
use crate::{
    engine::{SavedCheck, SavedResult},
    model::{CheckId, CheckStatus, InstanceId, ServiceName, UnixMillis},
};

fn key(check: &str) -> CheckKey {
    let parse = |check| CheckId::parse(check).unwrap();
    (ServiceName::parse("web").unwrap(), InstanceId::parse("a").unwrap(), parse(check))
}

fn state(at: u64) -> SavedCheck {
    let last =
        SavedResult { at: UnixMillis(at), status: CheckStatus::Passing, took: None, output: format!("{at}").into() };
    SavedCheck { created: Revision(1), ttl_from: UnixMillis(at), critical_since: None, changes: 2, last: Some(last) }
}

fn states(disk: &Disk) -> Vec<(CheckKey, SavedCheck)> {
    disk.take_saved_checks().unwrap().states
}

#[test]
fn newest_state_of_each_check_survives_a_close_and_removed_ones_do_not() {
    let directory = TempDir::new().unwrap();
    let disk = open(directory.path(), Durability::Durable);
    assert_eq!(states(&disk), []);
    // More states than fit in one transaction.
    let many = || (0..2_000).map(|n| key(&format!("c{n}")));
    disk.save_checks(many().map(|key| (key, Some(state(1)))).collect());
    disk.save_checks(many().map(|key| (key, Some(state(2)))).collect());
    disk.save_checks(many().skip(1).map(|key| (key, None)).collect());
    disk.close();
    drop(disk);
    let disk = open(directory.path(), Durability::Durable);
    let saved = disk.take_saved_checks().unwrap();
    assert_eq!(saved.states, [(key("c0"), state(2))]);
    assert_eq!(saved.unsaved_window, Duration::ZERO, "it was closed");
    assert_eq!(states(&disk), [], "they can be taken once");
    // Taking them does not remove them from the store.
    disk.close();
    drop(disk);
    assert_eq!(Store::read(directory.path()).unwrap().check_states, [(key("c0"), state(2))]);
}

#[test]
fn states_reach_the_disk_without_any_other_write() {
    for durability in [Durability::Durable, Durability::Relaxed] {
        let (backend, store) = backend::store();
        let disk = Disk::start(store, LoadedRecords::default(), durability, dependencies(), never_fails()).unwrap();
        disk.save_checks((0..1_500).map(|n| (key(&format!("c{n}")), Some(state(1)))).collect());
        let clock = Clock::new(0);
        while load(backend.synced()).is_ok_and(|(_, found)| found.check_states.len() < 1_500) {
            assert!(clock.since_start() < Duration::from_secs(5), "not flushed");
            thread::yield_now();
        }
        disk.close();
    }
}

#[test]
fn killed_process_leaves_states_with_an_unsaved_window() {
    let (backend, store) = backend::store();
    let disk =
        Disk::start(store, LoadedRecords::default(), Durability::Durable, dependencies(), never_fails()).unwrap();
    register_instance(&disk, "web", "a", 1);
    disk.save_checks(vec![(key("c"), Some(state(1)))]);
    register_instance(&disk, "web", "b", 2);
    let copy = backend.synced();
    disk.close();
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("registry.redb"), copy).unwrap();
    // `backend::store` does not mark the store as open. `open` does, and the copy is that of a killed process.
    let killed = open(directory.path(), Durability::Durable);
    let elsewhere = TempDir::new().unwrap();
    std::fs::copy(directory.path().join("registry.redb"), elsewhere.path().join("registry.redb")).unwrap();
    killed.close();
    let saved = open(elsewhere.path(), Durability::Durable).take_saved_checks().unwrap();
    assert_eq!(saved.states, [(key("c"), state(1))]);
    assert!(saved.unsaved_window > Duration::ZERO);
}

#[test]
fn states_that_were_changed_from_outside_are_forgotten_and_instances_kept() {
    const CHECK_STATES: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("check_states");
    let directory = TempDir::new().unwrap();
    let disk = open(directory.path(), Durability::Durable);
    register_instance(&disk, "web", "a", 1);
    disk.save_checks(vec![(key("c"), Some(state(1))), (key("d"), Some(state(1)))]);
    disk.close();
    drop(disk);
    let database = Database::open(directory.path().join("registry.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(CHECK_STATES).unwrap().remove(("web", "a", "c")).unwrap();
    transaction.commit().unwrap();
    drop(database);
    for _ in 0..2 {
        let disk = open(directory.path(), Durability::Durable);
        assert_eq!(states(&disk), []);
        assert_eq!(contents(&disk).len(), 1);
        disk.save_checks(vec![(key("e"), None)]);
        disk.close();
    }
    let disk = open(directory.path(), Durability::Durable);
    disk.save_checks(vec![(key("e"), Some(state(3)))]);
    disk.close();
    drop(disk);
    assert_eq!(Store::read(directory.path()).unwrap().check_states, [(key("e"), state(3))]);
}
