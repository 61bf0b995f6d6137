use std::time::Duration;

use super::*;
use crate::{
    model::{BootId, CheckDefinition, CheckId, Probe, ServerActor, Status, Weight},
    registry::{
        command::{CommandOutcome, NewCheck},
        lease::HeartbeatStreamId,
        test_support::{NoListener, at, deregister, description, register, update},
    },
};

/// Returns an engine, which adds nothing but an order to decisions.
fn engine() -> crate::engine::Memory {
    crate::engine::Memory::new(crate::model::Incarnation(1), at(0), Arc::new(NoListener))
}

fn held(outcome: &CommandOutcome) -> &Arc<Lease> {
    outcome.entry.as_ref().unwrap().lease.as_ref().unwrap()
}

fn submit_register(engine: &crate::engine::Memory, request: Register, ms: u64) -> Result<CommandOutcome, CommandError> {
    engine.submit(Command::Register(request), at(ms))
}

#[test]
fn repeated_register_changes_nothing_and_renews() {
    let engine = engine();
    let first = submit_register(&engine, register("web", "a", "boot", 1), 0).unwrap();
    let again = submit_register(&engine, register("web", "a", "boot", 2), 1_000).unwrap();
    assert!(first.changed && !again.changed);
    assert_eq!(again.revision, first.revision);
    assert!(Arc::ptr_eq(held(&first), held(&again)), "the lease stays");
    assert_eq!(held(&again).deadline(1_000), 4_000);
}

#[test]
fn repeated_register_with_another_description_updates_the_registration() {
    let engine = engine();
    let first = submit_register(&engine, register("web", "a", "boot", 1), 0).unwrap();
    let other = Register { description: description(&["v2"], 1), ..register("web", "a", "boot", 2) };
    let again = submit_register(&engine, other, 1_000).unwrap();
    let (before, after) = (&first.entry.unwrap().instance, &again.entry.unwrap().instance);
    assert_eq!(after.registered_revision, before.registered_revision);
    assert_eq!(after.registered_at, before.registered_at);
    assert!(after.revision > before.revision);
}

#[test]
fn register_of_another_boot_is_rejected_until_a_heartbeat_is_missing() {
    let engine = engine();
    let first = submit_register(&engine, register("web", "a", "one", 1), 0).unwrap();
    let rejected = submit_register(&engine, register("web", "a", "two", 2), 1_000).unwrap_err();
    assert!(matches!(rejected, CommandError::HeldByOther { retry, .. } if retry == Duration::from_millis(500)));
    let second = submit_register(&engine, register("web", "a", "two", 3), 1_500).unwrap();
    assert_eq!(held(&first).renew(1_600, None), Err(EndReason::Superseded));
    assert_eq!(held(&second).id, LeaseId(3));
    assert!(second.entry.unwrap().instance.registered_revision > first.revision);
}

#[test]
fn register_of_another_boot_takes_over_after_a_broken_stream_or_with_replace() {
    let engine = engine();
    let first = submit_register(&engine, register("web", "a", "one", 1), 0).unwrap();
    let stream = HeartbeatStreamId::numbered(1);
    held(&first).renew(10, Some(stream)).unwrap();
    assert!(submit_register(&engine, register("web", "a", "two", 2), 20).is_err());
    engine.registry().leases().stream_broken(held(&first), stream, 30);
    let second = submit_register(&engine, register("web", "a", "two", 2), 40).unwrap();
    held(&second).renew(50, Some(stream)).unwrap();
    let forced = Register { replace: true, ..register("web", "a", "three", 3) };
    assert!(submit_register(&engine, forced, 60).is_ok());
    assert_eq!(held(&second).renew(70, None), Err(EndReason::Superseded));
}

#[test]
fn stale_deregister_removes_nothing() {
    let engine = engine();
    submit_register(&engine, register("web", "a", "one", 1), 0).unwrap();
    let forced = Register { replace: true, ..register("web", "a", "two", 2) };
    submit_register(&engine, forced, 10).unwrap();
    assert!(!engine.submit(deregister("web", "a", Some(1)), at(20)).unwrap().changed);
    let boot = DeregisterGuard::Holder { lease: None, boot: Some(BootId::parse("one").unwrap()) };
    let (service, id) = (ServiceName::parse("web").unwrap(), InstanceId::parse("a").unwrap());
    let late = Command::Deregister { service, id, guard: boot };
    assert!(!engine.submit(late, at(20)).unwrap().changed);
    assert!(engine.submit(deregister("web", "a", Some(2)), at(30)).unwrap().changed);
    assert!(!engine.submit(deregister("web", "a", Some(2)), at(40)).unwrap().changed, "repeating it is no error");
    assert!(matches!(engine.submit(deregister("web", "a", None), at(50)), Err(CommandError::NoSuchInstance { .. })));
}

#[test]
fn holder_of_removed_instance_gets_the_reason() {
    let engine = engine();
    let first = submit_register(&engine, register("web", "a", "one", 1), 0).unwrap();
    engine.submit(deregister("web", "a", None), at(10)).unwrap();
    assert_eq!(held(&first).renew(20, None), Err(EndReason::Removed));
    assert!(engine.registry().leases().get(LeaseId(1)).is_some(), "remembered for its next heartbeat");
    engine.expire(at(70_000));
    assert!(engine.registry().leases().is_empty(), "and then removed from the table");
}

#[test]
fn drain_by_operator_outlives_the_boot_and_drain_by_itself_does_not() {
    let engine = engine();
    submit_register(&engine, register("web", "a", "one", 1), 0).unwrap();
    let drain = |draining| Patch { draining: Some(draining), ..Patch::default() };
    let status = |outcome: CommandOutcome| outcome.entry.unwrap().instance.status();
    assert_eq!(status(engine.submit(update("web", "a", drain(true)), at(10)).unwrap()), Status::Draining);
    assert!(!engine.submit(update("web", "a", drain(true)), at(10)).unwrap().changed);
    assert_eq!(status(submit_register(&engine, register("web", "a", "one", 2), 20).unwrap()), Status::Draining);
    let forced = Register { replace: true, ..register("web", "a", "two", 3) };
    assert_eq!(status(submit_register(&engine, forced, 30).unwrap()), Status::Draining, "outlives the boot");
    assert_eq!(status(engine.submit(update("web", "a", drain(false)), at(40)).unwrap()), Status::Serving);

    let (service, id) = (ServiceName::parse("web").unwrap(), InstanceId::parse("a").unwrap());
    let leaving = Command::Update { service, id, lease: Some(LeaseId(3)), patch: drain(true) };
    assert_eq!(status(engine.submit(leaving.clone(), at(50)).unwrap()), Status::Draining);
    let forced = Register { replace: true, ..register("web", "a", "three", 4) };
    assert_eq!(status(submit_register(&engine, forced, 60).unwrap()), Status::Serving, "ended with the boot");
    assert!(matches!(engine.submit(leaving, at(70)), Err(CommandError::LeaseLost { .. })));
}

#[test]
fn update_changes_only_the_named_fields() {
    let engine = engine();
    let request = Register { description: description(&["v1"], 5), starting: true, ..register("web", "a", "one", 1) };
    submit_register(&engine, request, 0).unwrap();
    let patch = Patch { starting: Some(false), weight: Some(Weight::parse(7).unwrap()), ..Patch::default() };
    let instance = &engine.submit(update("web", "a", patch), at(10)).unwrap().entry.unwrap().instance;
    assert_eq!(instance.status(), Status::Serving);
    assert_eq!(instance.weight.get(), 7);
    assert_eq!(instance.tags.iter().collect::<Vec<_>>(), ["v1"]);
    assert!(engine.submit(update("web", "zz", Patch::default()), at(20)).is_err());
}

#[test]
fn register_after_expiry_and_before_removal_continues_with_a_new_lease() {
    let engine = engine();
    let first = submit_register(&engine, register("web", "a", "one", 1), 0).unwrap();
    let commands = engine.registry().sweep(at(10_000));
    assert!(matches!(&*commands, [Command::Expire(_)]), "{commands:?}");
    let again = submit_register(&engine, register("web", "a", "one", 2), 10_000).unwrap();
    assert_eq!(held(&again).id, LeaseId(2));
    let late = engine.submit(Command::Expire(Arc::clone(held(&first))), at(10_000)).unwrap();
    assert!(!late.changed, "the removal under way no longer fits");
    assert_eq!(
        again.entry.unwrap().instance.revision,
        first.entry.unwrap().instance.revision,
        "readers see no difference"
    );
}

#[test]
fn rejected_register_changes_neither_lease_nor_instance() {
    let engine = engine();
    let first = submit_register(&engine, register("web", "a", "boot", 1), 0).unwrap();
    let check = |id: usize| NewCheck {
        definition: CheckDefinition::new(CheckId::parse(&id.to_string()).unwrap(), "c", Probe::Ttl).into(),
        status: CheckStatus::Passing,
    };
    let hour = LeaseTerms::grant(Some(Duration::from_hours(1)), Some(Duration::ZERO));
    let request = |boot: &str, checks: Vec<NewCheck>| Register { checks, terms: hour, ..register("web", "a", boot, 2) };
    let rejected = [
        request("boot", (0..33).map(check).collect()),
        request("other", Vec::new()),
        request("other", (0..33).map(check).collect()),
        Register { replace: true, ..request("other", (0..33).map(check).collect()) },
    ];
    for request in rejected {
        let error = submit_register(&engine, request.clone(), 1_000).unwrap_err();
        assert!(matches!(error, CommandError::Invalid(_) | CommandError::HeldByOther { .. }), "{error}");
        let lease = held(&first);
        assert_eq!(
            (lease.deadline(1_000), lease.terms()),
            (3_000, register("web", "a", "boot", 1).terms),
            "{request:?}"
        );
    }
    let lost = Command::Update {
        service: ServiceName::parse("web").unwrap(),
        id: InstanceId::parse("a").unwrap(),
        lease: Some(LeaseId(9)),
        patch: Patch { draining: Some(true), ..Patch::default() },
    };
    assert!(matches!(engine.submit(lost, at(1_000)), Err(CommandError::LeaseLost { .. })));
    let entry = engine.registry().get(&ServiceName::parse("web").unwrap(), "a").unwrap();
    assert_eq!((held(&first).deadline(1_000), &entry.instance), (3_000, &first.entry.as_ref().unwrap().instance));
    assert_eq!(engine.registry().applied(), first.revision);
}

#[test]
fn register_with_other_terms_makes_an_invisible_change_and_with_the_same_none() {
    let engine = engine();
    let first = submit_register(&engine, register("web", "a", "boot", 1), 0).unwrap();
    let terms = |ttl, grace| LeaseTerms::grant(Some(Duration::from_secs(ttl)), grace);
    let mut newest = first.revision;
    let request = [terms(600, None), terms(600, Some(Duration::from_secs(1))), terms(2, Some(Duration::ZERO))];
    for terms in request {
        let request = Register { terms, ..register("web", "a", "boot", 2) };
        let again = submit_register(&engine, request.clone(), 1_000).unwrap();
        assert!(again.changed && again.revision == newest.next(), "{again:?}");
        newest = again.revision;
        assert!(Arc::ptr_eq(held(&first), held(&again)), "the lease stays");
        assert_eq!((held(&again).id, held(&again).terms()), (LeaseId(1), terms));
        assert_eq!(again.entry.unwrap().instance, first.entry.as_ref().unwrap().instance, "readers see the same");
        let same = submit_register(&engine, request, 1_000).unwrap();
        assert!(!same.changed && same.revision == newest, "{same:?}");
    }
    assert!(engine.registry().events(None, Revision(u64::MAX), 10).len() == 1, "no event but the registration");
    assert_eq!(engine.expire(at(3_200)), 1, "the shorter TTL counts");
}

#[test]
fn accepted_register_whose_lease_expires_before_it_is_applied_keeps_its_lease_id() {
    let engine = engine();
    let first = submit_register(&engine, register("web", "a", "boot", 1), 0).unwrap();
    let registry = engine.registry();
    let request = Register { description: description(&["v2"], 1), ..register("web", "a", "boot", 2) };
    let mut order = registry.order();
    let (decision, present) = order.decide(Command::Register(request), at(2_000)).unwrap();
    let Decision::Apply(change) = decision else { panic!("{decision:?}") };
    assert_eq!(held(&first).deadline(2_000), 5_000, "it has its full TTL while it waits for the disk");
    assert!(held(&first).expire(9_000), "the disk takes longer");
    let revision = first.revision.next();
    let stamped = change.at(revision, present.as_ref());
    let (entry, _) = order.apply(stamped, present, revision, at(9_000), ServerActor::InProcess.caller());
    drop(order);
    let lease = registry.leases().get(LeaseId(1)).unwrap();
    assert!(Arc::ptr_eq(&lease, entry.unwrap().lease.as_ref().unwrap()));
    assert_eq!((lease.is_alive(), lease.deadline(9_000)), (true, 12_000));
    let late = engine.submit(Command::Expire(Arc::clone(held(&first))), at(9_100)).unwrap();
    assert!(!late.changed, "the removal under way no longer fits");
    assert_eq!(engine.expire(at(12_200)), 1, "and its TTL goes on");
    assert!(registry.leases().is_empty());
}
