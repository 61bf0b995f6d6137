//! Contents of an export, the sizes of its parts, and writers that write meanwhile.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::*;
use crate::{
    engine::{Engine, Memory, disk::LoadedRecords},
    model::{Incarnation, PolicyScope, ServerActor, ServicePolicy},
    registry::{
        ClockReading, Command, PolicyCommand, Register,
        test_support::{NoListener, at, deregister, name, register},
    },
};

const INCARNATION: Incarnation = Incarnation(7);
/// TTL of the instances in milliseconds.
const TTL: u64 = 3_000;

fn memory() -> Memory {
    Memory::new(INCARNATION, at(0), Arc::new(NoListener))
}

fn register_instance(engine: &Memory, service: &str, instance: &str, lease: u128) {
    engine.submit(Command::Register(register(service, instance, "boot", lease)), at(0)).unwrap();
}

fn set_policy(engine: &dyn Engine, scope: PolicyScope, document: &str) {
    let policy = ServicePolicy::from_document(&scope, &serde_json::from_str(document).unwrap()).unwrap();
    let command = PolicyCommand { scope, policy, expected_revision: None };
    engine.submit_policy(command, ServerActor::InProcess.caller(), at(0)).wait().unwrap();
}

fn parts(mut export: LiveExport) -> Vec<Bytes> {
    std::iter::from_fn(|| export.next_part().unwrap()).collect()
}

fn text(export: LiveExport) -> String {
    String::from_utf8(parts(export).concat()).unwrap()
}

fn imported(text: &str) -> LoadedRecords {
    export::read(text.as_bytes(), |_| {}).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn export_has_instances_and_policies_and_no_id_of_a_lease() {
    let engine = memory();
    register_instance(&engine, "web", "b", 0xAB_CDEF);
    register_instance(&engine, "db", "a", 0x12_3456);
    let web = || PolicyScope::Service(name("web"));
    set_policy(&engine, PolicyScope::Defaults, r#"{"lb":"least_request"}"#);
    set_policy(&engine, web(), r#"{"timeout":"1s"}"#);
    set_policy(&engine, web(), "{}");
    let export = LiveExport::collect(engine.registry());
    assert_eq!((export.revision(), export.instances(), export.policies()), (engine.registry().applied(), 2, 2));
    // What happens later is not in it.
    register_instance(&engine, "web", "c", 3);
    let text = text(export);
    assert!(!text.contains("abcdef") && !text.contains("123456"), "{text}");

    let records = imported(&text);
    let names: Vec<_> = records.instances.iter().map(|stored| stored.instance.service.as_str()).collect();
    assert_eq!(names, ["db", "web"]);
    for stored in &records.instances {
        let entry = engine.registry().get(&stored.instance.service, stored.instance.id.as_str()).unwrap();
        assert_eq!(stored.instance, entry.instance);
        let (lease, exported) = (StoredLease::of(entry.lease.as_ref().unwrap()), stored.lease.unwrap());
        assert_eq!((exported.boot, exported.terms), (lease.boot, lease.terms), "the program may register again");
        assert_ne!(exported.id, lease.id);
    }
    let kept = |scope: &PolicyScope| -> Vec<_> {
        let newest_first = engine.registry().policies().revisions(scope);
        newest_first.into_iter().rev().collect()
    };
    let policies: Vec<_> = records.policies.into_iter().map(|stored| (stored.scope, stored.revisions)).collect();
    let expected = [PolicyScope::Defaults, web()].map(|scope| (scope.clone(), kept(&scope)));
    assert_eq!(policies, expected);
    assert_eq!(policies[1].1.len(), 2, "the removed policy has its history");
}

#[test]
fn parts_of_a_large_export_have_one_size() {
    let engine = memory();
    let instances = 1_000;
    for number in 0..instances {
        register_instance(&engine, &format!("s{}", number % 7), &format!("i{number}"), number + 1);
    }
    let parts = parts(LiveExport::collect(engine.registry()));
    let (last, others) = parts.split_last().unwrap();
    assert!(others.len() > 3 && others.iter().all(|part| part.len() == PART_BYTES) && last.len() <= PART_BYTES);
    let records = imported(std::str::from_utf8(&parts.concat()).unwrap());
    assert_eq!(records.instances.len() as u128, instances);
}

#[test]
fn empty_registry_has_an_export() {
    assert!(imported(&text(LiveExport::collect(memory().registry()))).instances.is_empty());
}

#[test]
fn export_is_one_state_while_an_instance_moves_between_services() {
    let engine = memory();
    register_instance(&engine, "a", "moving", 1);
    // Between the two services of the instance there are many others, so that a collection that does not stop writers takes long.
    for number in 0..1_000 {
        register_instance(&engine, &format!("between-{number}"), "other", number + 10_000);
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut from, mut to, mut lease) = ("a", "z", 2);
            while !stop.load(Ordering::Relaxed) {
                let arrival = Command::Register(register(to, "moving", "boot", lease));
                let commands = vec![arrival, deregister(from, "moving", None)];
                let engine: &dyn Engine = &engine;
                engine.submit_together(commands, ServerActor::InProcess.caller(), at(0)).wait().unwrap();
                (from, to, lease) = (to, from, lease + 1);
            }
            lease
        });
        let mut revisions = Vec::new();
        for _ in 0..60 {
            let export = LiveExport::collect(engine.registry());
            let revision = export.revision();
            let records = imported(&text(export));
            let moving = records.instances.iter().filter(|stored| stored.instance.id.as_str() == "moving").count();
            let newest = records.instances.iter().map(|stored| stored.instance.revision).max();
            if moving != 1 || newest > Some(revision) {
                stop.store(true, Ordering::Relaxed);
                panic!("{moving} instances move, and the newest of {newest:?} is in an export at {revision}");
            }
            revisions.push(revision);
        }
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 60, "the instance moved");
        revisions.dedup();
        assert!(revisions.len() > 10, "it moved between exports: {revisions:?}");
    });
}

#[test]
fn registry_from_an_export_has_its_contents_and_full_ttls() {
    let first = memory();
    register_instance(&first, "web", "a", 1);
    let first_revision = first.registry().applied();
    set_policy(&first, PolicyScope::Defaults, r#"{"lb":"least_request"}"#);
    let records = imported(&text(LiveExport::collect(first.registry())));

    // The clock of the machine is behind, and the lease clock of the process is at five minutes.
    let five_minutes = 300_000;
    let late = ClockReading { wall: at(0).wall, ..at(five_minutes) };
    let second = Memory::from_export(Incarnation(8), records, late, Arc::new(NoListener));
    let registry = second.registry();
    assert_eq!((registry.incarnation(), registry.applied()), (Incarnation(8), first.registry().applied()));
    let entry = registry.get(&name("web"), "a").unwrap();
    assert_eq!((entry.instance.revision, registry.instance_count()), (first_revision, 1));
    assert_eq!(registry.policies().all_revisions(), first.registry().policies().all_revisions());
    assert_eq!(second.expire(at(five_minutes + TTL - 100)), 0, "the lease has its full TTL");

    // Its program registers again: the lease continues, and its holder learns the id.
    let again = Command::Register(Register { lease: LeaseId(99), ..register("web", "a", "boot", 99) });
    let outcome = second.submit(again, at(five_minutes + TTL - 100)).unwrap();
    assert_eq!(outcome.entry.unwrap().lease.as_ref().unwrap().id, entry.lease.as_ref().unwrap().id);
    assert_eq!(second.expire(at(five_minutes + TTL + 1_000)), 0);
    assert_eq!(second.expire(at(five_minutes + 2 * TTL + 1_000)), 1, "the lease expires without heartbeats");
}

#[test]
fn registry_from_an_export_has_its_check_states_once() {
    let lines = [
        r#"{"callboard_export":1,"revision":9,"instances":1}"#,
        r#"{"service":"web","id":"a","addresses":[{"host":"::1","port":80}],"weight":1,"checks":[{"id":"c","status":"passing","created":3}],"#,
        r#""check_states":[{"check":"c","created":3,"last":{"at_ms":5,"status":"critical"}}],"#,
        r#""registered_at":"2026-01-31T12:00:00Z","registered_revision":1,"revision":8}"#,
    ];
    let records = imported(&format!("{}\n{}", lines[0], lines[1..].concat()));
    let states = records.check_states.clone();
    let engine = Memory::from_export(INCARNATION, records, at(0), Arc::new(NoListener));
    let saved = Engine::take_saved_checks(&engine).unwrap();
    assert_eq!((saved.states, saved.unsaved_window), (states, Duration::ZERO));
    assert!(Engine::take_saved_checks(&engine).is_none());
    assert!(Engine::take_saved_checks(&memory()).is_none());
}
