use std::time::Duration;

use super::*;
use crate::{
    model::{LoadBalancing, PolicyRoute, PolicySettings, ServerActor, WeightSource},
    registry::test_support::name,
};

fn service(service: &str) -> PolicyScope {
    PolicyScope::Service(name(service))
}

fn command(scope: PolicyScope, policy: ServicePolicy) -> PolicyCommand {
    PolicyCommand { scope, policy, expected_revision: None }
}

fn with_settings(settings: PolicySettings) -> ServicePolicy {
    ServicePolicy { settings, ..ServicePolicy::default() }
}

fn with_timeout(seconds: u64) -> ServicePolicy {
    with_settings(PolicySettings { timeout: Some(Duration::from_secs(seconds)), ..PolicySettings::default() })
}

fn with_lb(lb: LoadBalancing) -> ServicePolicy {
    with_settings(PolicySettings { lb: Some(lb), ..PolicySettings::default() })
}

fn with_fallback(fallback: &[&str]) -> ServicePolicy {
    ServicePolicy { fallback: fallback.iter().map(|service| name(service)).collect(), ..ServicePolicy::default() }
}

/// Carries out a command at the revision after the newest one, as an engine does.
fn execute(table: &PolicyTable, command: PolicyCommand) -> Result<PolicyOutcome, PolicyError> {
    match table.decide(command)? {
        PolicyDecision::NoOp(unchanged) => Ok(unchanged),
        PolicyDecision::Apply(proposed) => {
            let revision = table.revision().next();
            let change = proposed.at(revision, UnixMillis(revision.0), Arc::clone(ServerActor::InProcess.caller()));
            table.apply(&change);
            Ok(change.into_outcome())
        }
    }
}

fn set(table: &PolicyTable, scope: PolicyScope, policy: ServicePolicy) -> Revision {
    let outcome = execute(table, command(scope, policy)).unwrap();
    assert!(outcome.changed);
    outcome.newest.unwrap().revision
}

fn rejection(table: &PolicyTable, scope: PolicyScope, policy: ServicePolicy) -> String {
    let before = table.revision();
    let error = execute(table, command(scope, policy)).unwrap_err();
    assert_eq!(table.revision(), before);
    error.to_string()
}

#[test]
fn effective_policy_is_one_object_until_its_policy_or_the_defaults_change() {
    let table = PolicyTable::default();
    let (web, db) = (name("web"), name("db"));
    assert_eq!(*table.effective(&web), EffectivePolicy::default());
    assert!(Arc::ptr_eq(&table.effective(&web), &table.effective(&db)));
    let first = set(&table, service("web"), with_timeout(5));
    let effective = table.effective(&web);
    assert_eq!((effective.timeout, effective.revision), (Duration::from_secs(5), first));
    let others = table.effective(&db);
    set(&table, service("other"), with_timeout(1));
    assert!(Arc::ptr_eq(&effective, &table.effective(&web)));
    assert!(Arc::ptr_eq(&others, &table.effective(&db)));

    let defaults = set(&table, PolicyScope::Defaults, with_lb(LoadBalancing::LeastRequest));
    let merged = table.effective(&web);
    assert_eq!(
        (merged.timeout, merged.lb, merged.revision),
        (effective.timeout, LoadBalancing::LeastRequest, defaults)
    );
    assert_eq!((table.effective(&db).lb, table.effective(&db).revision), (LoadBalancing::LeastRequest, defaults));

    let removed = set(&table, service("web"), ServicePolicy::default());
    let after = table.effective(&web);
    assert_eq!((after.timeout, after.revision), (Duration::ZERO, removed), "the revision does not fall");
    assert_eq!((table.revision(), table.len()), (removed, 2));
}

#[test]
fn same_policy_changes_nothing() {
    let table = PolicyTable::default();
    let absent = execute(&table, command(service("web"), ServicePolicy::default())).unwrap();
    assert!(!absent.changed && absent.newest.is_none());
    let revision = set(&table, service("web"), with_timeout(5));
    let again = execute(&table, command(service("web"), with_timeout(5))).unwrap();
    assert!(!again.changed);
    assert_eq!(again.newest.unwrap().revision, revision);
    assert_eq!(table.revisions(&service("web")).len(), 1);
}

#[test]
fn policy_with_other_revision_than_expected_is_rejected_with_both() {
    let table = PolicyTable::default();
    let expecting = |policy, revision| PolicyCommand {
        expected_revision: Some(Revision(revision)),
        ..command(service("web"), policy)
    };
    let error = execute(&table, expecting(with_timeout(1), 7)).unwrap_err();
    assert!(matches!(error, PolicyError::OtherRevision { expected: Revision(7), present: Revision(0), .. }));
    assert!(error.to_string().starts_with("the policy of service \"web\" has revision 0, not 7: "), "{error}");
    let first = execute(&table, expecting(with_timeout(1), 0)).unwrap().newest.unwrap().revision;
    assert!(execute(&table, expecting(with_timeout(2), 0)).is_err());
    assert!(execute(&table, expecting(with_timeout(1), 0)).is_err(), "also if nothing would change");
    let removed = execute(&table, expecting(ServicePolicy::default(), first.0)).unwrap().newest.unwrap().revision;
    assert!(execute(&table, expecting(with_timeout(2), first.0)).is_err());
    // After its removal, a policy is absent and has the revision of the removal.
    assert!(table.decide(expecting(with_timeout(2), removed.0)).is_ok());
    assert!(table.decide(expecting(with_timeout(2), 0)).is_ok());
}

#[test]
fn last_twenty_revisions_are_kept_removals_included() {
    let table = PolicyTable::default();
    for round in 1..=15 {
        set(&table, service("web"), with_timeout(round));
        set(&table, service("web"), ServicePolicy::default());
    }
    let revisions = table.revisions(&service("web"));
    let numbers: Vec<_> = revisions.iter().map(|revision| revision.revision.0).collect();
    assert_eq!(numbers, (11..=30).rev().collect::<Vec<_>>());
    assert!(revisions[0].policy.is_empty() && revisions[1].policy == with_timeout(15));
    assert!(table.page(None, 10).is_empty(), "the policy is removed");
}

#[test]
fn pages_have_the_defaults_first_and_then_the_services_by_name() {
    let table = PolicyTable::default();
    for of in ["b", "c", "a", "gone"] {
        set(&table, service(of), with_timeout(1));
    }
    set(&table, PolicyScope::Defaults, with_timeout(2));
    set(&table, service("gone"), ServicePolicy::default());
    let scopes = |after: Option<&PolicyScope>, limit| -> Vec<_> {
        table.page(after, limit).into_iter().map(|(scope, _)| scope).collect()
    };
    assert_eq!(scopes(None, 2), [PolicyScope::Defaults, service("a")]);
    assert_eq!(scopes(Some(&PolicyScope::Defaults), 2), [service("a"), service("b")]);
    assert_eq!(scopes(Some(&service("aa")), 9), [service("b"), service("c")]);
}

#[test]
fn fallback_that_leads_back_to_the_service_is_rejected() {
    let table = PolicyTable::default();
    assert!(rejection(&table, service("a"), with_fallback(&["x", "a"])).contains("fallback \"a\" leads back"));
    set(&table, service("a"), with_fallback(&["b", "x"]));
    set(&table, service("b"), with_fallback(&["c"]));
    let error = rejection(&table, service("c"), with_fallback(&["y", "a"]));
    assert!(error.starts_with("fallback \"a\" leads back to the service (c -> a -> b -> c): "), "{error}");
    set(&table, service("b"), ServicePolicy::default());
    set(&table, service("c"), with_fallback(&["y", "a"]));
}

#[test]
fn more_than_four_fallbacks_in_a_chain_are_rejected_wherever_it_grows() {
    let table = PolicyTable::default();
    set(&table, service("b"), with_fallback(&["c"]));
    set(&table, service("d"), with_fallback(&["z", "e"]));
    set(&table, service("e"), with_fallback(&["f"]));
    set(&table, service("c"), with_fallback(&["d"]));
    let error = rejection(&table, service("a"), with_fallback(&["b"]));
    assert!(error.contains("a chain of 5 fallbacks (a -> b -> c -> d -> e -> f)"), "{error}");
    assert!(rejection(&table, service("f"), with_fallback(&["g"])).contains("5 fallbacks"), "at its end");
    set(&table, service("c"), ServicePolicy::default());
    set(&table, service("a"), with_fallback(&["b"]));
    assert!(rejection(&table, service("c"), with_fallback(&["d"])).contains("5 fallbacks"), "in its middle");
    assert!(table.decide(command(service("c"), with_fallback(&["e"]))).is_ok());
}

#[test]
fn more_than_sixteen_services_that_take_over_are_rejected() {
    let table = PolicyTable::default();
    let names = |prefix: &str| -> Vec<_> { (0..8).map(|number| format!("{prefix}{number}")).collect() };
    let (first, second) = (names("a"), names("b"));
    let fallback = |names: &[String]| with_fallback(&names.iter().map(String::as_str).collect::<Vec<_>>());
    set(&table, service("web"), fallback(&first));
    set(&table, service("a0"), fallback(&second));
    let error = rejection(&table, service("b0"), with_fallback(&["c"]));
    assert!(error.starts_with("fallback lets more than 16 services take over from \"web\": "), "{error}");
    assert!(table.decide(command(service("b0"), with_fallback(&["a1", "b1"]))).is_ok(), "these are counted already");
}

#[test]
fn dependents_are_the_services_whose_fallbacks_include_a_service() {
    let table = PolicyTable::default();
    let names = |of: &str| -> Vec<_> { table.dependents_of(&name(of)).iter().map(ToString::to_string).collect() };
    set(&table, service("a"), with_fallback(&["dr"]));
    set(&table, service("b"), with_fallback(&["other", "dr"]));
    set(&table, service("dr"), with_fallback(&["last"]));
    set(&table, service("c"), with_fallback(&["a"]));
    assert_eq!(
        (names("dr"), names("last"), names("a")),
        (
            vec!["a".to_owned(), "b".into(), "c".into()],
            vec!["a".to_owned(), "b".into(), "c".into(), "dr".into()],
            vec!["c".to_owned()],
        )
    );
    set(&table, service("a"), with_timeout(1));
    assert_eq!((names("dr"), names("a")), (vec!["b".to_owned()], vec!["c".to_owned()]));
    assert_eq!(names("nothing"), [""; 0]);
}

#[test]
fn conflict_between_a_service_and_the_defaults_is_rejected_from_either_side() {
    let table = PolicyTable::default();
    let slow = with_settings(PolicySettings { weights: Some(WeightSource::ResponseTime), ..PolicySettings::default() });
    set(&table, service("web"), slow.clone());
    let error = rejection(&table, PolicyScope::Defaults, with_lb(LoadBalancing::RingHash));
    assert!(
        error.contains("lb \"ring_hash\" in the defaults does not go with the policies of web (weights"),
        "{error}"
    );
    let others = ["a", "b", "c", "d"].map(service);
    for other in &others {
        set(&table, other.clone(), slow.clone());
    }
    let error = rejection(&table, PolicyScope::Defaults, with_lb(LoadBalancing::RingHash));
    assert!(error.contains("the policies of a, b, c and 2 more (weights"), "{error}");
    for other in others {
        set(&table, other, ServicePolicy::default());
    }
    set(&table, service("web"), ServicePolicy::default());
    set(&table, PolicyScope::Defaults, with_lb(LoadBalancing::RingHash));
    assert!(rejection(&table, service("web"), slow).contains("weights"));

    let hashed = PolicyRoute {
        headers: Vec::new(),
        method: None,
        split: None,
        timeout: None,
        retry: None,
        hash_header: Some("x-user".into()),
    };
    set(&table, service("keyed"), ServicePolicy { routes: vec![hashed], ..ServicePolicy::default() });
    let error = rejection(&table, PolicyScope::Defaults, ServicePolicy::default());
    assert!(error.contains("the policies of keyed (route[0].hash_header"), "{error}");
}

/// Table with as many scopes as fit, whose policies are present.
fn full_table() -> PolicyTable {
    let table = PolicyTable::default();
    for number in 1..MAX_POLICIES {
        set(&table, service(&format!("s{number}")), with_timeout(1));
    }
    table
}

#[test]
fn policy_beyond_the_limit_takes_the_place_of_the_oldest_removed_ones() {
    let table = full_table();
    assert_eq!(execute(&table, command(service("more"), with_timeout(1))).unwrap_err(), PolicyError::TooMany);
    for number in (1..=1_001).rev() {
        set(&table, service(&format!("s{number}")), ServicePolicy::default());
    }
    set(&table, service("more"), with_timeout(1));
    assert!(table.revisions(&service("s1001")).is_empty() && table.revisions(&service("s2")).is_empty());
    assert_eq!(table.revisions(&service("s1")).len(), 2, "it was removed last");
    set(&table, PolicyScope::Defaults, with_timeout(2));
    assert_eq!(table.len(), MAX_POLICIES - 1_000);
}

#[test]
fn effective_revision_never_stands_for_two_policies_when_scopes_are_forgotten() {
    let table = full_table();
    let (s7, never_set) = (name("s7"), name("never-set"));
    let defaults = set(&table, PolicyScope::Defaults, with_lb(LoadBalancing::LeastRequest));
    let with_policy = table.effective(&s7);
    assert_eq!((with_policy.revision, with_policy.timeout), (defaults, Duration::from_secs(1)));
    let unset = table.effective(&never_set);
    let removed = set(&table, service("s7"), ServicePolicy::default());
    let without_policy = table.effective(&s7);
    let forgotten = set(&table, service("more"), with_timeout(1));
    assert!(table.revisions(&service("s7")).is_empty());

    let after = table.effective(&s7);
    assert!(after.revision >= removed, "{} repeats an earlier revision", after.revision);
    assert_eq!(EffectivePolicy { revision: removed, ..(*after).clone() }, *without_policy);
    assert!(table.effective(&never_set).revision >= unset.revision);
    // The table does not know which policy the service had before.
    assert!(table.effective_at(&s7, defaults).is_none() && table.effective_at(&s7, removed).is_none());
    assert_eq!(table.effective_at(&s7, forgotten), Some(after));
    set(&table, service("s8"), ServicePolicy::default());
    let again = set(&table, service("s7"), with_timeout(9));
    assert!(table.effective_at(&s7, removed).is_none(), "also once it has revisions again");
    assert_eq!(table.effective_at(&s7, again), Some(table.effective(&s7)));

    let restarted = PolicyTable::default();
    restarted.restore_forgotten(forgotten);
    restarted.restore(&PolicyScope::Defaults, &[table.newest(&PolicyScope::Defaults).unwrap()], Revision(0));
    assert_eq!(restarted.effective(&name("s8")).revision, forgotten, "not that of the defaults");
    assert!(restarted.effective_at(&s7, defaults).is_none());
}

#[test]
fn changes_name_the_services_unless_all_may_be_concerned() {
    let table = PolicyTable::default();
    let start = table.changes_since(Revision(0));
    assert_eq!(start, PolicyChanges { newest: Revision(0), services: Some(Vec::new()) });
    let first = set(&table, service("web"), with_timeout(1));
    let second = set(&table, service("api"), with_timeout(1));
    let since = |seen| table.changes_since(seen).services;
    assert_eq!(since(Revision(0)), Some(vec![name("web"), name("api")]));
    assert_eq!(since(first), Some(vec![name("api")]));
    assert_eq!(since(second), Some(Vec::new()));
    let defaults = set(&table, PolicyScope::Defaults, with_timeout(2));
    assert_eq!((since(second), since(defaults)), (None, Some(Vec::new())));
    assert_eq!(table.changes_since(first).newest, defaults);
}

#[test]
fn changes_of_long_ago_may_concern_all_services() {
    let table = PolicyTable::default();
    let first = set(&table, service("web"), with_timeout(1));
    for round in 0..MAX_KNOWN_CHANGES as u64 {
        set(&table, service("api"), with_timeout(1 + round % 2));
    }
    assert_eq!(table.changes_since(Revision(0)).services, None);
    assert_eq!(table.changes_since(first).services.map(|services| services.len()), Some(MAX_KNOWN_CHANGES));

    let restored = PolicyTable::default();
    let revisions: Vec<_> = table.revisions(&service("web")).into_iter().rev().collect();
    restored.restore(&service("web"), &revisions, Revision(0));
    assert_eq!(restored.changes_since(Revision(0)).services, None, "it was changed by an earlier process");
}
