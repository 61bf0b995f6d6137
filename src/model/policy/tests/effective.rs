//! Tests of effective policies: documents, inherited fields, and fields that exclude each other.

use super::{DEFAULTS, document, parse};
use crate::model::{EffectivePolicy, PolicyDocument, PolicyScope, Revision, ServicePolicy};

fn defaults(text: &str) -> ServicePolicy {
    ServicePolicy::from_document(&PolicyScope::Defaults, &document(text)).unwrap()
}

fn effective(service: &str, common: &str) -> EffectivePolicy {
    EffectivePolicy::merge(Some(&parse(service).unwrap()), Some(&defaults(common)), Revision(7))
}

#[test]
fn service_field_is_rejected_in_the_defaults() {
    let error = ServicePolicy::from_document(&PolicyScope::Defaults, &document("fallback = [\"a\"]")).unwrap_err();
    assert_eq!(error.to_string(), "fallback is not a field of the defaults: set it in the policy of a service");
}

#[test]
fn built_in_values_are_those_of_an_empty_policy() {
    assert_eq!(effective("", DEFAULTS), EffectivePolicy { revision: Revision(7), ..EffectivePolicy::default() });
}

#[test]
fn effective_document_has_all_fields() {
    let policy = effective(
        "timeout = \"5s\"\nretry = { attempts = 2 }\nsubsets = { v1 = \"id == a\" }\ndefault = { v1 = 100 }",
        "timeout = \"1s\"\nshed = 20\noutlier = { hosts = 5 }",
    );
    let expected = r#"
        lb = "round_robin"
        timeout = "5s"
        max_requests = 0
        retry = { attempts = 2, on = ["unavailable"], backoff = "25ms", max_backoff = "250ms" }
        weights = "configured"
        slow_start = "0s"
        zone = "off"
        shed = 20
        subsets = { v1 = "id == a" }
        default = { v1 = 100 }
        empty = "spill"
        fallback = []
        route = []
        [outlier]
        failure_percent = 50
        hosts = 5
        calls = 20
        interval = "10s"
        eject = "30s"
        max_percent = 30
    "#;
    assert_eq!(policy.to_document(), document(expected));
}

#[test]
fn inherited_fields_are_those_that_only_the_defaults_set() {
    let (own, common) =
        (parse("timeout = \"5s\"").unwrap(), defaults("timeout = \"1s\"\nzone = \"prefer\"\nlb = \"weighted\""));
    assert_eq!(EffectivePolicy::inherited_fields(Some(&own), Some(&common)), ["lb", "zone"]);
    assert_eq!(EffectivePolicy::inherited_fields(None, Some(&common)), ["lb", "timeout", "zone"]);
    assert!(EffectivePolicy::inherited_fields(Some(&own), None).is_empty());
}

#[test]
fn maximum_backoff_is_ten_times_the_backoff_unless_given() {
    let max = |text: &str| parse(text).unwrap().settings.retry.unwrap().max_backoff.as_millis();
    assert_eq!(max("retry = { attempts = 1 }"), 250);
    assert_eq!(max("retry = { attempts = 1, backoff = \"1s\" }"), 10_000);
    assert_eq!(max("retry = { attempts = 1, backoff = \"50s\" }"), 60_000);
    let text = "retry = { attempts = 1, backoff = \"1s\", max_backoff = \"2s\" }";
    assert_eq!(parse(text).unwrap().to_document(), document(text));
}

#[test]
fn ring_hash_excludes_weights_that_change_and_hash_header_needs_it() {
    let error = |service: &str, common: &str| effective(service, common).validate().unwrap_err().to_string();
    assert_eq!(
        error("lb = \"ring_hash\"", "weights = \"response_time\""),
        "weights \"response_time\" does not go with lb = \"ring_hash\": set weights = \"configured\", or another lb"
    );
    assert_eq!(
        error("slow_start = \"90s\"", "lb = \"ring_hash\""),
        "slow_start \"1m 30s\" does not go with lb = \"ring_hash\": set slow_start = \"0s\", or another lb"
    );
    assert_eq!(
        error("route = [{ method = \"/a/b\" }, { hash_header = \"x-user\" }]", "lb = \"weighted\""),
        "route[1].hash_header \"x-user\" has no effect with lb = \"weighted\": remove it, or set lb = \"ring_hash\""
    );
    let hashed = "route = [{ hash_header = \"x-user\" }]";
    assert_eq!(effective(hashed, "lb = \"ring_hash\"").validate(), Ok(()));
    assert_eq!(effective("slow_start = \"0s\"\nlb = \"ring_hash\"", "slow_start = \"1m\"").validate(), Ok(()));
}

#[test]
fn number_of_json_and_of_protobuf_is_a_whole_number_in_both() {
    let parse = |text: &str| serde_json::from_str::<PolicyDocument>(text).unwrap();
    assert_eq!(parse("{\"shed\": 20}"), parse("{\"shed\": 20.0}"));
    assert_eq!(serde_json::to_string(&parse("{\"shed\": 20.0}")).unwrap(), "{\"shed\":20}");
}

#[test]
fn repeated_name_in_a_document_is_rejected() {
    let error = serde_json::from_str::<PolicyDocument>("{\"retry\": {\"on\": [], \"on\": []}}").unwrap_err();
    assert!(error.to_string().starts_with("\"on\" occurs twice: remove one"), "{error}");
}
