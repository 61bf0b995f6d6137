//! Documents of policies.

use crate::model::{
    EffectivePolicy, FieldError, HeaderMatch, PolicyDocument, PolicyScope, Revision, ServiceName, ServicePolicy,
};

/// Parses any TOML text as the policy of a service and as the defaults. A policy must survive its documents, the shortest and the one
/// with all fields, and an error must name the field and the remedy.
pub(super) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(document) = toml::from_str::<PolicyDocument>(text) else { return };
    let service = ServiceName::parse("payments").unwrap_or_else(|error| panic!("{error}"));
    for scope in [PolicyScope::Service(service), PolicyScope::Defaults] {
        match ServicePolicy::from_document(&scope, &document) {
            Ok(policy) => check_policy(&scope, &policy),
            Err(error) => check_error(&error),
        }
    }
}

fn check_policy(scope: &PolicyScope, policy: &ServicePolicy) {
    let parse = |document: &PolicyDocument| {
        ServicePolicy::from_document(scope, document).unwrap_or_else(|error| panic!("{error}: {document:?}"))
    };
    let shortest = policy.to_document();
    assert_eq!(parse(&shortest), *policy);
    let text = toml::to_string(&shortest).unwrap_or_else(|error| panic!("{error}: {shortest:?}"));
    assert_eq!(toml::from_str(&text).as_ref(), Ok(&shortest), "{text}");
    if *scope != PolicyScope::Defaults {
        let effective = EffectivePolicy::merge(Some(policy), None, Revision(0));
        let all = parse(&effective.to_document());
        assert_eq!(EffectivePolicy::merge(Some(&all), None, Revision(0)), effective);
        if let Err(error) = effective.validate() {
            check_error(&error);
        }
        assert!(effective.warnings(&[], |_| false).len() >= policy.fallback.len());
    }
    for condition in policy.routes.iter().flat_map(|route| &route.headers) {
        if let HeaderMatch::Regex(pattern) = &condition.matches {
            assert!(regex::Regex::new(pattern).is_ok(), "{pattern}");
        }
    }
}

fn check_error(error: &FieldError) {
    let message = error.to_string();
    assert!(message.rsplit_once(": ").is_some_and(|(_, remedy)| !remedy.trim().is_empty()), "no remedy: {message}");
    assert!(!error.field.is_empty() && message.len() < 2_000, "{message}");
}
