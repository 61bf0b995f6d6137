//! Tests of warnings.

use super::parse;
use crate::{
    model::{EffectivePolicy, Instance, Revision, Tags},
    registry::test_support::entry,
};

fn instance(id: &str, tags: &[&str]) -> Instance {
    let mut instance = entry("payments", id, 1).instance.clone();
    instance.tags = Tags::parse(tags).unwrap();
    instance
}

/// Returns the warnings about a policy with three instances, the last of which is draining.
fn warnings(text: &str) -> Vec<String> {
    let mut instances = [instance("a", &["v1"]), instance("b", &["v1", "v2"]), instance("c", &["v3"])];
    instances[2].conditions.operator_draining = true;
    warnings_with(text, &instances.iter().collect::<Vec<_>>())
}

fn warnings_with(text: &str, instances: &[&Instance]) -> Vec<String> {
    let policy = EffectivePolicy::merge(Some(&parse(text).unwrap()), None, Revision(0));
    let warnings = policy.warnings(instances, |service| service.as_str() == "up");
    warnings.iter().map(|warning| format!("{} {}: {}", warning.field, warning.problem, warning.hint)).collect()
}

#[test]
fn policy_that_reaches_all_instances_has_no_warnings() {
    let text = "
        outlier = { hosts = 2 }
        subsets = { v1 = '\"v1\" in tags', v3 = '\"v3\" in tags' }
        fallback = [\"up\"]
        route = [{ header = { x = \"1\" }, to = { v1 = 100 } }]";
    assert_eq!(warnings(text), [""; 0]);
}

#[test]
fn subset_that_matches_nothing_or_overlaps_is_reported() {
    let text = "subsets = { v1 = '\"v1\" in tags', v2 = '\"v2\" in tags', v4 = '\"v4\" in tags' }";
    assert_eq!(
        warnings(text),
        [
            "subsets.v2 has 1 instance in common with v1: let the filters exclude each other: most clients connect once for each \
             subset of an instance",
            "subsets.v4 matches none of the 3 instances: change the filter, or register instances that it matches",
        ]
    );
    assert_eq!(
        warnings_with(text, &[]),
        ["subsets match nothing: the service has no instances: register instances, or correct the name of the service"]
    );
}

#[test]
fn split_to_a_subset_without_routable_instances_is_reported() {
    let text = "
        subsets = { v1 = '\"v1\" in tags', v3 = '\"v3\" in tags' }
        default = { v1 = 90, v3 = 10 }
        empty = \"fail\"
        route = [{ method = \"/a/b\", to = { v3 = 100 } }]";
    assert_eq!(
        warnings(text),
        [
            "route[0].to.v3 sends 100 % of its calls to a subset without routable instances: register instances of it; until \
             then, the rest of the service takes the calls",
            "default.v3 sends 10 % of its calls to a subset without routable instances: register instances of it; until then, the \
             calls fail",
        ]
    );
}

#[test]
fn instances_that_no_split_reaches_are_reported() {
    let subsets = "subsets = { v2 = '\"v2\" in tags' }\n";
    let expected = "leaves 1 of 2 routable instances without calls: they are in no subset: add a subset for them, or change a filter";
    assert_eq!(warnings(&format!("{subsets}default = {{ v2 = 100 }}")), [format!("default {expected}")]);
    assert_eq!(warnings(&format!("{subsets}route = [{{ to = {{ v2 = 100 }} }}]")), [format!("route[0].to {expected}")]);
    let finished = "subsets = { v1 = '\"v2\" not in tags', v2 = '\"v2\" in tags' }\ndefault = { v2 = 100 }";
    assert_eq!(warnings(finished), [""; 0], "the canary is finished, and v1 is listed without calls");
    let through_a_route = format!("{subsets}default = {{ v2 = 100 }}\nroute = [{{ method = \"/a/*\" }}]");
    assert_eq!(warnings(&through_a_route), [""; 0]);
}

#[test]
fn route_behind_a_wider_one_is_reported() {
    let shadowed = |routes: &str| warnings(&format!("route = [{routes}]"));
    for (wide, narrow) in [
        ("{ method = \"/a/*\" }", "{ method = \"/a/b\", header = { x = \"1\" } }"),
        ("{ header = { x = \"*\" } }", "{ header = { x = \"~a\", y = \"1\" } }"),
        ("{ header = { x = \"!\" } }", "{ header = { x = \"!\" }, method = \"/a/b\" }"),
    ] {
        let expected = "route[1] is never reached: route[0] matches all of its calls: move it before route[0]";
        assert_eq!(shadowed(&format!("{wide}, {narrow}")), [expected]);
        assert_eq!(shadowed(&format!("{narrow}, {wide}")), [""; 0]);
    }
    assert_eq!(shadowed("{ header = { x = \"*\" } }, { header = { x = \"!\" } }"), [""; 0]);
    assert_eq!(shadowed("{ method = \"/a/*\" }, { method = \"/ab/c\" }"), [""; 0]);
}

#[test]
fn fallback_without_instances_and_outlier_detection_of_more_hosts_are_reported() {
    assert_eq!(
        warnings("fallback = [\"up\", \"down\"]\noutlier = {}"),
        [
            "fallback[1] names \"down\", which has no routable instance: register instances of it, or remove it",
            "outlier.hosts is 3: with 2 routable, no instance is ever ejected: write at most 2, or register more instances",
        ]
    );
}
