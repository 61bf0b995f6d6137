//! Failures of the disk: the engine stops, and acknowledges nothing that may be missing.

use std::sync::mpsc;

use super::{
    backend::{load, store},
    *,
};

fn start(store: Store) -> (Disk, mpsc::Receiver<StoreError>) {
    let (failure, failed) = mpsc::channel();
    let found = LoadedRecords::default();
    let on_failure: OnFailure = Box::new(move |error| failure.send(error).unwrap());
    (Disk::start(store, found, Durability::Durable, dependencies(), on_failure).unwrap(), failed)
}

#[test]
fn failed_sync_stops_the_engine_with_unknown_outcome() {
    let (backend, store) = store();
    let (disk, failed) = start(store);
    register_instance(&disk, "web", "a", 1);
    backend.fail_after(0);
    let lost = submit(&disk, Command::Register(register("web", "b", "boot", 2)));
    assert_eq!(lost.unwrap_err(), EngineError::OutcomeUnknown, "it may be on the disk");
    assert!(disk.registry().get(&name("web"), "b").is_none(), "readers have not seen it");
    let message = failed.recv().unwrap().to_string();
    assert!(message.contains("cannot write disk: Input/output error"), "{message}");
    // The engine does not try again on a disk whose content is unknown.
    let after = submit(&disk, Command::Register(register("web", "c", "boot", 3)));
    assert_eq!(after.unwrap_err(), EngineError::Stopped, "the command was not executed");
    disk.close();
    let (_, found) = load(backend.synced()).unwrap();
    assert_eq!(found.instances.len(), 1);
}

#[test]
fn full_disk_stops_the_engine_and_keeps_acknowledged_changes() {
    let (backend, store) = store();
    let (disk, failed) = start(store);
    backend.fill();
    let mut acknowledged = 0;
    for n in 0..100_000 {
        match submit(&disk, Command::Register(register("web", &format!("i{n}"), "boot", n))) {
            Ok(_) => acknowledged += 1,
            Err(error) => {
                assert_eq!(error, EngineError::OutcomeUnknown);
                break;
            }
        }
    }
    let message = failed.recv().unwrap().to_string();
    assert!(message.contains("free some space and start the registry again"), "{message}");
    let (_, found) = load(backend.synced()).unwrap();
    assert!(acknowledged > 0 && found.instances.len() >= acknowledged, "{acknowledged} {}", found.instances.len());
}
