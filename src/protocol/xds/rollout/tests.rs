use super::*;
use crate::model::{InstanceFilter, Split, Subset, SubsetName};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn subset(name: &str) -> SubsetName {
    SubsetName::parse(name).unwrap()
}

/// Policy with these subsets, whose first one gets all calls. Without subsets, calls go to the whole service.
fn policy(revision: u64, subsets: &[&str]) -> Arc<EffectivePolicy> {
    let filter = |name: &str| InstanceFilter::parse(&format!("\"{name}\" in tags")).unwrap().unwrap();
    Arc::new(EffectivePolicy {
        revision: Revision(revision),
        subsets: subsets.iter().map(|name| (subset(name), Subset { filter: filter(name) })).collect(),
        default_split: subsets
            .first()
            .map(|name| Split { shares: vec![(subset(name), 100)], empty: crate::model::EmptySubset::Spill }),
        ..EffectivePolicy::default()
    })
}

/// Client at the start: it has accepted this policy.
fn accepted(policy: &Arc<EffectivePolicy>) -> PolicyRollout {
    let mut rollout = PolicyRollout::new("web".into(), Arc::clone(policy), false);
    assert!(!rollout.advance(StepAnswer::Accepted, ms(0)));
    assert!(rollout.is_complete());
    rollout
}

fn listed(rollout: &PolicyRollout) -> Vec<&str> {
    rollout.listed().iter().map(|cluster| &**cluster).collect()
}

#[test]
fn new_clusters_are_listed_then_selected_then_the_old_ones_are_dropped() {
    let (old, new) = (policy(0, &[]), policy(7, &["v1", "v2"]));
    let mut rollout = accepted(&old);
    assert!(rollout.set_target(&new));
    assert_eq!((listed(&rollout), rollout.selecting().revision), (vec!["web", "web|v1", "web|v2"], Revision(0)));

    assert!(!rollout.advance(StepAnswer::Waiting, ms(5)));
    assert!(!rollout.advance(StepAnswer::RoutesAccepted, ms(10)));
    assert!(!rollout.advance(StepAnswer::Accepted, ms(20)));
    assert_eq!(rollout.wake_at(), Some(ms(120)));
    assert!(!rollout.advance(StepAnswer::Accepted, ms(119)));
    assert!(rollout.advance(StepAnswer::Accepted, ms(120)));
    assert_eq!((listed(&rollout), rollout.selecting().revision), (vec!["web", "web|v1", "web|v2"], Revision(7)));

    assert!(!rollout.advance(StepAnswer::Accepted, ms(130)));
    assert!(rollout.advance(StepAnswer::Accepted, ms(230)));
    assert_eq!(listed(&rollout), ["web|v1", "web|v2"]);
    assert!(!rollout.is_complete());
    assert!(!rollout.advance(StepAnswer::Accepted, ms(240)));
    assert!(rollout.is_complete(), "the last step needs no delay");
    assert_eq!(rollout.wake_at(), None);
}

#[test]
fn policy_with_the_same_clusters_takes_one_step() {
    let mut rollout = accepted(&policy(7, &["v1", "v2"]));
    assert!(rollout.set_target(&policy(8, &["v2", "v1"])));
    assert_eq!(rollout.selecting().revision, Revision(8));
    assert!(!rollout.advance(StepAnswer::Accepted, ms(1)));
    assert!(rollout.is_complete());
}

#[test]
fn newer_policy_replaces_one_whose_clusters_are_being_listed() {
    let mut rollout = accepted(&policy(0, &[]));
    rollout.set_target(&policy(7, &["v1"]));
    assert!(rollout.set_target(&policy(8, &["v2"])));
    assert_eq!((listed(&rollout), rollout.selecting().revision), (vec!["web", "web|v1", "web|v2"], Revision(0)));
    let mut at = 0;
    while !rollout.is_complete() {
        at += 100;
        assert_ne!(rollout.selecting().revision, Revision(7), "a replaced policy is never selected");
        rollout.advance(StepAnswer::Accepted, ms(at));
        assert!(at < 2_000);
    }
    assert_eq!((listed(&rollout), rollout.selecting().revision), (vec!["web|v2"], Revision(8)));
}

#[test]
fn return_to_the_selected_policy_drops_what_was_listed_once_that_is_confirmed() {
    let old = policy(6, &["v1"]);
    let mut rollout = accepted(&old);
    rollout.set_target(&policy(7, &["v1", "v2"]));
    let same = policy(8, &["v1"]);
    assert!(rollout.set_target(&same), "its only cluster is confirmed");
    assert_eq!((listed(&rollout), rollout.selecting().revision), (vec!["web|v1", "web|v2"], Revision(8)));
    assert!(!rollout.advance(StepAnswer::Accepted, ms(10)));
    assert!(rollout.advance(StepAnswer::Accepted, ms(110)));
    assert_eq!(listed(&rollout), ["web|v1"]);
}

#[test]
fn client_that_does_not_ask_for_listed_clusters_gets_the_next_step_after_two_seconds() {
    let mut rollout = accepted(&policy(0, &[]));
    rollout.set_target(&policy(7, &["v1"]));
    assert!(!rollout.advance(StepAnswer::RoutesAccepted, ms(1_000)));
    assert_eq!(rollout.wake_at(), Some(ms(3_000)));
    assert!(!rollout.advance(StepAnswer::RoutesAccepted, ms(3_000)));
    assert!(rollout.advance(StepAnswer::RoutesAccepted, ms(3_100)));
    assert_eq!(rollout.selecting().revision, Revision(7));
}

#[test]
fn client_that_accepts_nothing_stays_at_its_step() {
    let mut rollout = accepted(&policy(0, &[]));
    rollout.set_target(&policy(7, &["v1"]));
    assert!(!rollout.advance(StepAnswer::Waiting, ms(1_000_000)));
    assert_eq!((rollout.wake_at(), rollout.selecting().revision), (None, Revision(0)));
}

#[test]
fn client_that_rejects_a_policy_gets_the_one_before_until_there_is_a_newer_one() {
    let (old, rejected) = (policy(6, &["v1"]), policy(7, &["v1", "v2"]));
    let mut rollout = accepted(&old);
    rollout.set_target(&rejected);
    assert!(rollout.reject(&"no".into()));
    assert_eq!((listed(&rollout), rollout.selecting().revision), (vec!["web|v1"], Revision(6)));
    assert_eq!(rollout.rejected(), Some(&RejectedPolicy { revision: Revision(7), error: "no".into() }));
    assert!(!rollout.reject(&"no".into()), "the same rejection changes nothing more");
    assert!(!rollout.set_target(&rejected));
    assert!(rollout.set_target(&policy(8, &["v1"])));
    assert_eq!((rollout.selecting().revision, rollout.rejected()), (Revision(8), None));
}

#[test]
fn client_that_rejects_its_first_policy_gets_none() {
    let mut rollout = PolicyRollout::new("web".into(), policy(7, &["v1"]), false);
    assert!(rollout.reject(&"no".into()));
    assert_eq!((listed(&rollout), rollout.selecting().revision), (vec!["web"], Revision(0)));
}

#[test]
fn rejection_of_a_client_with_the_accepted_policy_changes_nothing() {
    let mut rollout = accepted(&policy(7, &["v1"]));
    assert!(!rollout.reject(&"no".into()));
    assert_eq!(rollout.rejected(), None);
}

#[test]
fn retired_subset_keeps_its_definition_while_the_client_subscribes_to_it() {
    let (old, new) = (policy(7, &["v1", "v2"]), policy(8, &["v2"]));
    let mut rollout = accepted(&old);
    rollout.set_target(&new);
    for at in [100, 200, 300, 400] {
        rollout.advance(StepAnswer::Accepted, ms(at));
    }
    assert!(rollout.is_complete());
    assert_eq!(rollout.policy_of("web|v1").revision, Revision(7));
    assert_eq!(rollout.policy_of("web|v2").revision, Revision(8));
    rollout.forget_retired(|_| false);
    assert_eq!(rollout.policy_of("web|v1").revision, Revision(8), "an unknown subset has no instances");
}

/// tonic-xds caches the client of a cluster for ever, and ceases to update it once the cluster has left the list.
#[test]
fn clusters_stay_listed_for_a_client_that_cannot_use_them_again() {
    let mut rollout = PolicyRollout::new("web".into(), policy(7, &["v1"]), true);
    rollout.advance(StepAnswer::Accepted, ms(0));
    rollout.set_target(&policy(8, &[]));
    for at in [100, 200, 300, 400] {
        rollout.advance(StepAnswer::Accepted, ms(at));
    }
    assert!(rollout.is_complete());
    assert_eq!((listed(&rollout), rollout.selecting().revision), (vec!["web", "web|v1"], Revision(8)));
    assert_eq!(rollout.policy_of("web|v1").revision, Revision(7), "with the endpoints that it had");
}
