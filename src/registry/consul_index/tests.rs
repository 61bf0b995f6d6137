//! Ids and checks that pass from one instance to another, in every order.

use std::time::Duration;

use super::*;
use crate::{
    engine::Memory,
    model::{CheckDefinition, CheckStatus, ConsulRegistration, Incarnation, InstanceChecks, Probe},
    registry::{
        Command, CommandOutcome, NewCheck, RegisterWithoutLease,
        test_support::{NoListener, at, description, name},
    },
};

fn engine() -> Memory {
    Memory::new(Incarnation(7), at(0), Arc::new(NoListener))
}

fn check(id: &str) -> CheckId {
    CheckId::parse(id).unwrap()
}

/// Registers an instance with checks of this status.
fn register_with_checks(
    engine: &Memory,
    service: &str,
    (node, id): (&str, &str),
    checks: &[(&str, CheckStatus)],
) -> CommandOutcome {
    let asked = |(id, status): &(&str, CheckStatus)| {
        let definition =
            CheckDefinition { interval: Duration::from_secs(9), ..CheckDefinition::new(check(id), "c", Probe::Ttl) };
        NewCheck { definition: definition.into(), status: *status }
    };
    let register_with_checks = RegisterWithoutLease {
        service: name(service),
        id: InstanceId::on_node(node, id),
        description: description(&[], 1),
        consul_registration: ConsulRegistration { node: node.into(), id: id.into(), ..ConsulRegistration::default() },
        checks: checks.iter().map(asked).collect(),
        replace_checks: false,
    };
    engine.submit(Command::RegisterWithoutLease(Box::new(register_with_checks)), at(0)).unwrap()
}

fn set_status(engine: &Memory, service: &str, id: &str, status: CheckStatus) {
    let (service, id) = (name(service), InstanceId::parse_any(id).unwrap());
    engine
        .submit(Command::SetCheckStatus { service, id, check: check("x"), definition_revision: None, status }, at(0))
        .unwrap();
}

fn remove(engine: &Memory, TakenCheck { service, id, check, created }: TakenCheck) -> bool {
    let command = Command::RemoveCheck { service, id, check, created: Some(created) };
    engine.submit(command, at(0)).unwrap().changed
}

fn owner(engine: &Memory, node: &str) -> Option<(String, String)> {
    let owner = engine.registry().consul_index().owner_of(node, "x");
    owner.map(|(service, id)| (service.to_string(), id.to_string()))
}

fn instance(service: &str, id: &str) -> (String, String) {
    (service.to_owned(), id.to_owned())
}

fn checks(outcome: &CommandOutcome) -> InstanceChecks {
    outcome.entry.as_ref().unwrap().instance.checks.clone()
}

#[test]
fn check_belongs_to_the_instance_that_registered_it_last() {
    let engine = engine();
    register_with_checks(&engine, "a", ("", "a"), &[("x", CheckStatus::Warning)]);
    let second = register_with_checks(&engine, "b", ("", "b"), &[("x", CheckStatus::Critical)]);
    assert_eq!(checks(&second).aggregate_status(), CheckStatus::Warning, "the status is unchanged");
    assert_eq!(owner(&engine, ""), Some(instance("b", "b")));
    set_status(&engine, "a", "a", CheckStatus::Passing);
    assert_eq!(
        owner(&engine, ""),
        Some(instance("b", "b")),
        "a change of the earlier owner does not take the check back"
    );
    let taken = engine.registry().consul_index().taken_from("", &check("x"));
    assert_eq!(taken.iter().map(|taken| taken.id.as_str()).collect::<Vec<_>>(), ["a"]);

    register_with_checks(&engine, "a", ("", "a"), &[("x", CheckStatus::Critical)]);
    assert_eq!(owner(&engine, ""), Some(instance("a", "a")), "a new registration does");
    assert!(!remove(&engine, taken.into_iter().next().unwrap()), "the check that it lost before is a different one");
    let taken = engine.registry().consul_index().taken_from("", &check("x"));
    assert!(taken.into_iter().all(|taken| remove(&engine, taken)));
    assert!(engine.registry().get(&name("b"), "b").unwrap().instance.checks.is_empty());
    assert_eq!(owner(&engine, ""), Some(instance("a", "a")));
    assert_eq!(engine.registry().consul_index().taken_from("", &check("x")), []);
}

#[test]
fn check_of_a_removed_owner_belongs_to_the_latest_remaining_instance() {
    let engine = engine();
    for id in ["a", "b", "c"] {
        register_with_checks(&engine, id, ("", id), &[("x", CheckStatus::Passing)]);
    }
    for (goes, left) in [("c", Some(instance("b", "b"))), ("a", Some(instance("b", "b"))), ("b", None)] {
        engine.submit(crate::registry::test_support::deregister(goes, goes, None), at(0)).unwrap();
        assert_eq!(owner(&engine, ""), left);
    }
}

#[test]
fn nodes_have_checks_of_their_own_under_any_spelling() {
    let engine = engine();
    register_with_checks(&engine, "a", ("", "a"), &[("x", CheckStatus::Passing)]);
    register_with_checks(&engine, "a", ("N2", "a"), &[("x", CheckStatus::Passing)]);
    register_with_checks(&engine, "b", ("n2", "b"), &[("x", CheckStatus::Passing)]);
    assert_eq!(owner(&engine, ""), Some(instance("a", "a")));
    assert_eq!(owner(&engine, "n2"), Some(instance("b", "@n2/b")));
    assert_eq!(owner(&engine, "n3"), None);
    let here = |node: &str| engine.registry().consul_index().on_node(&crate::model::node_id(node)).len();
    assert_eq!([here(""), here("N2"), here("n3")], [1, 2, 0]);
}

#[test]
fn moved_id_belongs_to_the_new_service() {
    let engine = engine();
    let old = register_with_checks(&engine, "old", ("", "r"), &[("x", CheckStatus::Critical)]);
    set_status(&engine, "old", "r", CheckStatus::Passing);
    let new = register_with_checks(&engine, "new", ("", "r"), &[]);
    let (before, after) = (checks(&old), checks(&new));
    assert_eq!(
        (after.aggregate_status(), after.get("x").unwrap().created),
        (CheckStatus::Passing, before.get("x").unwrap().created)
    );
    set_status(&engine, "old", "r", CheckStatus::Critical);
    let index = engine.registry().consul_index();
    assert_eq!(index.service_of("r"), Some(name("new")));
    assert_eq!(owner(&engine, ""), Some(instance("new", "r")));
    assert_eq!(index.taken_from("", &check("x")), [], "the old entry is removed as a whole");
    engine.submit(crate::registry::test_support::deregister("old", "r", None), at(0)).unwrap();
    assert_eq!((index.service_of("r"), owner(&engine, "")), (Some(name("new")), Some(instance("new", "r"))));
    // The instance moves back to the service that still has its old entry.
    register_with_checks(&engine, "old", ("", "r"), &[]);
    set_status(&engine, "old", "r", CheckStatus::Warning);
    let again = register_with_checks(&engine, "new", ("", "r"), &[]);
    assert_eq!(checks(&again).aggregate_status(), CheckStatus::Warning);
    assert_eq!((index.service_of("r"), owner(&engine, "")), (Some(name("new")), Some(instance("new", "r"))));
}
