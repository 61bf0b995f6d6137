//! Tests of documents: round trips, and the message of each rule.

mod effective;
mod pattern;
mod property;
mod rules;
mod warnings;

use crate::model::{FieldError, PolicyDocument, PolicyScope, ServiceName, ServicePolicy};

/// Example of a service in the documentation of policies.
const EXAMPLE: &str = r#"
timeout = "5s"
subsets = { v1 = '"v1" in tags', v2 = 'metadata["version"] == "2"' }
default = { v1 = 90, v2 = 10 }
fallback = ["payments-dr"]
[[route]]
header = { x-canary = "true" }
method = "/pay.v1.Payments/*"
to = { v2 = 100 }
timeout = "30s"
"#;

/// Example of the defaults, with the built-in value of each field.
const DEFAULTS: &str = r#"
lb = "round_robin"
timeout = "0s"
max_requests = 0
retry = { attempts = 0 }
outlier = "off"
weights = "configured"
slow_start = "0s"
zone = "off"
shed = 0
"#;

fn service() -> PolicyScope {
    PolicyScope::Service(ServiceName::parse("payments").unwrap())
}

fn document(text: &str) -> PolicyDocument {
    toml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn parse(text: &str) -> Result<ServicePolicy, FieldError> {
    ServicePolicy::from_document(&service(), &document(text))
}

fn message(text: &str) -> String {
    parse(text).map(|policy| format!("{policy:?}")).expect_err(text).to_string()
}

#[test]
fn examples_survive_a_round_trip() {
    let policy = parse(EXAMPLE).unwrap();
    assert_eq!(policy.to_document(), document(EXAMPLE));
    let defaults = ServicePolicy::from_document(&PolicyScope::Defaults, &document(DEFAULTS)).unwrap();
    assert_eq!(defaults.to_document(), document(DEFAULTS));
    let json = serde_json::to_string(&policy.to_document()).unwrap();
    assert_eq!(serde_json::from_str::<PolicyDocument>(&json).unwrap(), document(EXAMPLE));
    let text = toml::to_string(&policy.to_document()).unwrap();
    assert_eq!(parse(&text).unwrap(), policy);
}

#[test]
fn empty_document_is_an_empty_policy() {
    let policy = parse("").unwrap();
    assert!(policy.is_empty());
    assert_eq!(policy.to_document(), PolicyDocument::default());
}
