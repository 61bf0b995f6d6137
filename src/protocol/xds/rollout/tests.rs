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
fn policy_with_the_same_destinations_takes_one_step() {
    let mut rollout = accepted(&policy(7, &["v1", "v2"]));
    assert!(rollout.set_target(&policy(8, &["v1", "v2"])));
    assert_eq!(rollout.selecting().revision, Revision(8));
    assert!(!rollout.advance(StepAnswer::Accepted, ms(1)));
    assert!(rollout.is_complete());
}

#[test]
fn cluster_that_loses_its_calls_keeps_its_definition_until_the_routes_are_confirmed() {
    let mut rollout = accepted(&policy(7, &["v1", "v2", "v3"]));
    let revision = |rollout: &PolicyRollout, cluster: &str| rollout.policy_of(cluster).revision;
    assert!(rollout.set_target(&policy(8, &["v2", "v1", "v3"])));
    assert_eq!((revision(&rollout, "web|v1"), revision(&rollout, "web|v2")), (Revision(7), Revision(8)));
    assert!(rollout.set_target(&policy(9, &["v3", "v1", "v2"])), "the routes of 7 and of 8 may still be in use");
    assert_eq!((revision(&rollout, "web|v1"), revision(&rollout, "web|v2")), (Revision(7), Revision(8)));
    assert!(!rollout.advance(StepAnswer::Accepted, ms(1)));
    assert!(rollout.advance(StepAnswer::Accepted, ms(101)), "the definitions change");
    assert_eq!((revision(&rollout, "web|v1"), revision(&rollout, "web|v2")), (Revision(9), Revision(9)));
    assert!(!rollout.advance(StepAnswer::Accepted, ms(102)));
    assert!(rollout.is_complete());
}

#[test]
fn policies_that_may_still_be_in_use_are_bounded() {
    let mut rollout = accepted(&policy(7, &["v1", "v2"]));
    for revision in 8..40 {
        let subsets = if revision % 2 == 0 { ["v2", "v1"] } else { ["v1", "v2"] };
        rollout.set_target(&policy(revision, &subsets));
        assert!(rollout.leaving.len() <= MAX_LEAVING);
    }
    assert_eq!(rollout.policy_of("web|v2").revision, Revision(38));
}

#[test]
fn routes_of_an_incomplete_change_are_those_of_the_policy_before() {
    let mut rollout = accepted(&policy(7, &["v1"]));
    assert_eq!(rollout.selected_until(), None);
    rollout.set_target(&policy(12, &["v2"]));
    rollout.set_target(&policy(15, &["v3"]));
    assert_eq!(rollout.selected_until(), Some(Revision(11)));
    follow(&mut rollout);
    assert_eq!((rollout.selected_until(), rollout.selecting().revision), (None, Revision(15)));
    rollout.set_target(&policy(20, &["v4"]));
    assert!(rollout.reject(&"no".into()));
    assert_eq!(rollout.selected_until(), Some(Revision(15)), "the policy to which the client returns");
    follow(&mut rollout);
    assert_eq!((rollout.selected_until(), rollout.selecting().revision), (Some(Revision(15)), Revision(15)));
    rollout.set_target(&policy(30, &["v3"]));
    assert_eq!(rollout.selected_until(), None, "it is selected at once");
}

#[test]
fn clusters_of_an_earlier_stream_stay_listed_with_their_definition() {
    let (old, present) = (policy(7, &["v1"]), policy(9, &[]));
    let mut rollout = PolicyRollout::known("web".into(), Arc::clone(&present), true);
    rollout.keep(vec![("web|v1".into(), old)]);
    assert!(!rollout.advance(StepAnswer::Accepted, ms(0)));
    assert!(rollout.is_complete(), "{rollout:?}");
    assert_eq!(listed(&rollout), ["web", "web|v1"]);
    assert_eq!(rollout.policy_of("web|v1").revision, Revision(7));
    assert!(rollout.set_target(&policy(10, &["v1"])));
    assert_eq!((listed(&rollout), rollout.policy_of("web|v1").revision), (vec!["web", "web|v1"], Revision(10)));
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

/// Clusters that a client is listed, and those that calls go to.
fn push(rollout: &PolicyRollout) -> (Vec<String>, u64) {
    (listed(rollout).into_iter().map(str::to_owned).collect(), rollout.selecting().revision.0)
}

/// Has a client accept everything. Returns what it gets on the way.
fn follow(rollout: &mut PolicyRollout) -> Vec<(Vec<String>, u64)> {
    let mut pushes = Vec::new();
    for at in (0..).map(|at| ms(at * 100)) {
        if rollout.is_complete() {
            return pushes;
        }
        assert!(at < ms(3_000), "{rollout:?}");
        if rollout.advance(StepAnswer::Accepted, at) {
            pushes.push(push(rollout));
        }
    }
    unreachable!()
}

fn pushes<const N: usize>(expected: [(&[&str], u64); N]) -> Vec<(Vec<String>, u64)> {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    expected.map(|(names, revision)| (owned(names), revision)).to_vec()
}

#[test]
fn client_that_rejects_the_last_step_returns_in_steps() {
    let mut rollout = accepted(&policy(6, &["v1"]));
    rollout.set_target(&policy(7, &["v2"]));
    for at in [100, 200, 300, 400] {
        rollout.advance(StepAnswer::Accepted, ms(at));
    }
    assert_eq!(push(&rollout), (vec!["web|v2".to_owned()], 7));
    assert!(rollout.reject(&"no".into()));
    assert_eq!(push(&rollout), pushes([(&["web|v1", "web|v2"], 7)])[0], "listed, and not selected yet");
    assert_eq!(follow(&mut rollout), pushes([(&["web|v1", "web|v2"], 6), (&["web|v1"], 6)]));
    assert_eq!(rollout.rejected().map(|rejected| rejected.revision), Some(Revision(7)));
}

#[test]
fn client_that_rejects_selected_clusters_returns_in_steps() {
    let mut rollout = accepted(&policy(6, &["v1"]));
    rollout.set_target(&policy(7, &["v2"]));
    for at in [100, 200] {
        rollout.advance(StepAnswer::Accepted, ms(at));
    }
    assert_eq!(push(&rollout), pushes([(&["web|v1", "web|v2"], 7)])[0]);
    assert!(rollout.reject(&"no".into()));
    assert_eq!(push(&rollout), pushes([(&["web|v1", "web|v2"], 6)])[0], "selected, and the other one is still listed");
    assert_eq!(follow(&mut rollout), pushes([(&["web|v1"], 6)]));
}

#[test]
fn client_that_rejects_the_way_back_gets_the_accepted_policy_at_once() {
    let mut rollout = accepted(&policy(6, &["v1"]));
    rollout.set_target(&policy(7, &["v2"]));
    for at in [100, 200, 300, 400] {
        rollout.advance(StepAnswer::Accepted, ms(at));
    }
    assert!(rollout.reject(&"no".into()));
    assert!(rollout.reject(&"not that, either".into()));
    assert_eq!(push(&rollout), pushes([(&["web|v1", "web|v2"], 6)])[0]);
    assert!(!rollout.reject(&"nor that".into()), "there is nothing else");
}

#[test]
fn newer_policy_replaces_the_return_to_an_older_one() {
    let mut rollout = accepted(&policy(6, &["v1"]));
    rollout.set_target(&policy(7, &["v2"]));
    for at in [100, 200, 300, 400] {
        rollout.advance(StepAnswer::Accepted, ms(at));
    }
    rollout.reject(&"no".into());
    assert!(rollout.set_target(&policy(8, &["v3"])));
    assert_eq!(
        follow(&mut rollout),
        pushes([(&["web|v1", "web|v2", "web|v3"], 8), (&["web|v3"], 8)]),
        "the clusters that calls go to stay until the new ones are selected"
    );
    assert_eq!(rollout.rejected(), None);
}

#[test]
fn client_that_has_a_policy_from_an_earlier_stream_returns_to_it() {
    let mut rollout = PolicyRollout::known("web".into(), policy(6, &["v1"]), false);
    rollout.set_target(&policy(7, &["v2"]));
    assert!(rollout.reject(&"no".into()));
    assert_eq!(push(&rollout), pushes([(&["web|v1"], 6)])[0]);
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

#[test]
fn oldest_retired_clusters_lose_their_definition_and_leave_the_list_last() {
    for keeps_clusters in [false, true] {
        let mut rollout = PolicyRollout::new("web".into(), policy(1, &["v0"]), keeps_clusters);
        rollout.advance(StepAnswer::Accepted, ms(0));
        let mut forgotten = Vec::new();
        let last = 40;
        for round in 1..=last {
            rollout.set_target(&policy(1 + round, &[&format!("v{round}")]));
            for (names, _) in follow(&mut rollout) {
                assert!(names.len() <= MAX_RETIRED_CLUSTERS + 2, "{names:?}");
            }
            assert!(rollout.retired.len() <= MAX_RETIRED_CLUSTERS);
            forgotten.extend(rollout.take_forgotten());
        }
        let oldest = last - MAX_RETIRED_CLUSTERS as u64;
        let expected: Vec<Arc<str>> = (0..oldest).map(|round| format!("web|v{round}").into()).collect();
        assert_eq!(forgotten, expected, "{keeps_clusters}");
        let kept = (oldest..=last).map(|round| format!("web|v{round}"));
        let kept: BTreeSet<_> = kept.filter(|name| keeps_clusters || *name == format!("web|v{last}")).collect();
        assert_eq!(listed(&rollout).into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), kept);
        assert_eq!(rollout.policy_of(&format!("web|v{oldest}")).revision, Revision(1 + oldest));

        // A cluster that returns is not retired any more.
        rollout.set_target(&policy(100, &[&format!("v{oldest}")]));
        follow(&mut rollout);
        assert_eq!(rollout.policy_of(&format!("web|v{oldest}")).revision, Revision(100));
        assert!(rollout.take_forgotten().is_empty());
    }
}
