//! Disks that fail: the engine stops, and nothing is acknowledged that may not be there.

use std::sync::mpsc;

use super::{
    backend::{load, store},
    *,
};

fn start(store: Store) -> (Disk, mpsc::Receiver<StoreError>) {
    let (failure, failed) = mpsc::channel();
    let found = LoadedRecords::default();
    let on_failure: OnFailure = Box::new(move |error| failure.send(error).unwrap());
    (Disk::start(store, found, Durability::Durable, surroundings(), on_failure).unwrap(), failed)
}

#[test]
fn a_failing_fsync_stops_the_engine() {
    let (backend, store) = store();
    let (disk, failed) = start(store);
    sign_in(&disk, "web", "a", 1);
    backend.fail_after(0);
    let lost = order(&disk, Command::Register(register("web", "b", "boot", 2)));
    assert_eq!(lost.unwrap_err(), EngineError::OutcomeUnknown, "it may be on the disk");
    assert!(disk.registry().get(&name("web"), "b").is_none(), "nobody has seen it");
    let said = failed.recv().unwrap().to_string();
    assert!(said.contains("cannot write disk: Input/output error"), "{said}");
    // And nothing is tried again on a disk that has lied once.
    let after = order(&disk, Command::Register(register("web", "c", "boot", 3)));
    assert_eq!(after.unwrap_err(), EngineError::Stopped, "it was never taken");
    disk.close();
    let (_, found) = load(backend.synced()).unwrap();
    assert_eq!(found.instances.len(), 1);
}

#[test]
fn a_full_disk_stops_the_engine_and_keeps_what_was_acknowledged() {
    let (backend, store) = store();
    let (disk, failed) = start(store);
    backend.fill();
    let mut acknowledged = 0;
    for n in 0..100_000 {
        match order(&disk, Command::Register(register("web", &format!("i{n}"), "boot", n))) {
            Ok(_) => acknowledged += 1,
            Err(error) => {
                assert_eq!(error, EngineError::OutcomeUnknown);
                break;
            }
        }
    }
    let said = failed.recv().unwrap().to_string();
    assert!(said.contains("free some space and start the registry again"), "{said}");
    let (_, found) = load(backend.synced()).unwrap();
    assert!(acknowledged > 0 && found.instances.len() >= acknowledged, "{acknowledged} {}", found.instances.len());
}
