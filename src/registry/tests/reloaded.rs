//! A registry that was loaded again from a store has the same registrations as other objects, and must not look changed.

use std::time::Duration;

use super::super::{
    test_support::{NoListener, at, name, register, update},
    *,
};
use crate::{
    engine::Memory,
    model::{
        Check, CheckDefinition, CheckId, CheckStatus, Incarnation, InstanceChecks, InstanceId, LeaseId, Probe,
        ServerActor, Tags, node_service,
    },
};

fn definition(interval: u64) -> Arc<CheckDefinition> {
    let interval = Duration::from_secs(interval);
    Arc::new(CheckDefinition {
        interval,
        deregister_after: Some(Duration::from_mins(1)),
        ..CheckDefinition::new(check_id(), "c", Probe::Ttl)
    })
}

fn check_id() -> CheckId {
    CheckId::parse("c").unwrap()
}

/// Registration of `web/a` with a critical check.
fn request() -> Register {
    let checks = vec![NewCheck { definition: definition(10), status: CheckStatus::Critical }];
    Register { checks, ..register("web", "a", "boot", 1) }
}

fn engine() -> Memory {
    Memory::new(Incarnation(1), at(0), Arc::new(NoListener))
}

/// Loads all instances into another registry, as an engine with a store does: no object is the same.
fn reload(registry: &Registry) -> Memory {
    let engine = engine();
    let services = registry.each_service().map(|summary| summary.name).chain([node_service()]);
    let mut order = engine.registry().order();
    for entry in services.flat_map(|service| registry.page(&service, "", usize::MAX)) {
        let mut instance = entry.instance.clone();
        let copied = |check: &Check| Check { definition: Arc::new((*check.definition).clone()), ..check.clone() };
        instance.checks = InstanceChecks::new(instance.checks.iter().map(copied).collect()).unwrap();
        order.restore(Entry::new(instance, entry.lease.as_deref().map(copy_of)));
    }
    drop(order);
    engine
}

fn copy_of(lease: &Lease) -> Arc<Lease> {
    Arc::new(Lease::new(lease.id, lease.service.clone(), lease.instance.clone(), lease.boot, lease.terms(), 0))
}

fn web_a(engine: &Memory) -> Option<Arc<Entry>> {
    engine.registry().get(&name("web"), "a")
}

fn check(engine: &Memory) -> Check {
    web_a(engine).unwrap().instance.checks.get("c").unwrap().clone()
}

fn set_status(definition_revision: Revision, status: CheckStatus) -> Command {
    Command::SetCheckStatus {
        service: name("web"),
        id: InstanceId::parse("a").unwrap(),
        check: check_id(),
        definition_revision: Some(definition_revision),
        status,
    }
}

fn add_check(definition: Arc<CheckDefinition>) -> Command {
    let (service, id) = (name("web"), InstanceId::parse("a").unwrap());
    Command::AddCheck { service, id, check: NewCheck { definition, status: CheckStatus::Critical } }
}

fn reap(definition_revision: Revision) -> Command {
    let (service, id) = (name("web"), InstanceId::parse("a").unwrap());
    Command::Reap { service, id, check: check_id(), definition_revision }
}

fn submit(engine: &Memory, command: Command, ms: u64) -> bool {
    engine.submit(command, at(ms)).unwrap().changed
}

#[test]
fn repeated_requests_to_a_reloaded_registry_change_nothing() {
    let before = engine();
    submit(&before, Command::Register(request()), 0);
    let after = reload(before.registry());
    assert!(!submit(&after, Command::Register(request()), 100));
    assert!(!submit(&after, add_check(definition(10)), 100), "an equal definition as another object");
    assert!(!submit(&after, update("web", "a", Patch { tags: Some(Tags::default()), ..Patch::default() }), 100));
    assert_eq!(web_a(&after).unwrap().instance, web_a(&before).unwrap().instance);
}

#[test]
fn reloaded_registry_takes_results_of_its_definitions_and_no_others() {
    let before = engine();
    submit(&before, Command::Register(request()), 0);
    let known = check(&before).definition_revision;
    let after = reload(before.registry());
    assert!(submit(&after, set_status(known, CheckStatus::Passing), 100));
    assert!(submit(&after, add_check(definition(20)), 200));
    let redefined = check(&after).definition_revision;
    assert!(redefined > known, "it rises with each change");
    assert!(!submit(&after, set_status(known, CheckStatus::Critical), 300), "found by the earlier definition");
    assert!(submit(&after, set_status(redefined, CheckStatus::Critical), 300));
    assert_eq!(check(&after).definition_revision, redefined, "a status is no definition");
    assert!(!submit(&after, reap(known), 400) && web_a(&after).is_some());
    assert!(submit(&after, reap(redefined), 400) && web_a(&after).is_none());
}

#[test]
fn reloaded_registry_knows_leases_by_their_ids() {
    let before = engine();
    submit(&before, Command::Register(request()), 0);
    let lease = web_a(&before).unwrap().lease.clone().unwrap();
    let after = reload(before.registry());
    assert!(!submit(&after, Command::Expire(Arc::clone(&lease)), 100), "it is alive");
    assert!(submit(&after, Command::Suspect(Arc::clone(&lease)), 3_500));
    let known = after.registry().leases().get(LeaseId(1)).unwrap();
    known.renew(3_600, None).unwrap();
    assert!(submit(&after, Command::Recover(Arc::clone(&lease)), 3_600));
    assert!(!submit(&after, Command::Suspect(Arc::clone(&lease)), 3_700), "a heartbeat came");
    assert!(known.expire(9_000));
    assert!(submit(&after, Command::Expire(lease), 9_000) && web_a(&after).is_none());
}

#[test]
fn change_with_a_copy_of_the_lease_keeps_the_one_that_heartbeats_renew() {
    let engine = engine();
    submit(&engine, Command::Register(request()), 0);
    let (registry, present) = (engine.registry(), web_a(&engine).unwrap());
    let change = ProposedChange::Put {
        instance: present.instance.clone(),
        lease: present.lease.as_deref().map(copy_of),
        is_new: false,
        terms: None,
        end_reason: EndReason::Superseded,
    };
    let revision = registry.applied().next();
    let stamped = change.at(revision, Some(&present));
    let (entry, event) =
        registry.order().apply(stamped, Some(present), revision, at(100), ServerActor::InProcess.caller());
    assert!(event.is_none());
    registry.leases().get(LeaseId(1)).unwrap().renew(2_000, None).unwrap();
    assert_eq!(entry.unwrap().lease.as_ref().unwrap().deadline(2_000), 5_000);
    assert_eq!(engine.expire(at(4_000)), 0);
    assert_eq!(engine.expire(at(5_200)), 1);
}
