//! Properties of documents: valid policies survive a round trip, and any document yields a policy or an error with a remedy.

use std::{collections::BTreeMap, time::Duration};

use proptest::{collection::vec, option, prelude::*, sample::subsequence};

use super::service;
use crate::model::{
    DocumentTable, DocumentValue, EffectivePolicy, EmptySubset, HeaderCondition, HeaderMatch, InstanceFilter,
    LoadBalancing, MethodMatch, OutlierDetection, PolicyDocument, PolicyRoute, PolicyScope, PolicySettings,
    RetryPolicy, RetryableCode, Revision, ServiceName, ServicePolicy, Split, Subset, SubsetName, WeightSource,
    ZoneMode,
};

const FILTERS: [&str; 4] =
    ["\"v1\" in tags", "metadata[\"version\"] == \"2\"", "id == `a`", "weight == 3 or zone == z"];

fn name<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(all)
}

fn millis(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn timeout() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(Duration::ZERO), millis(10..=86_400_000)]
}

fn retry() -> impl Strategy<Value = RetryPolicy> {
    use RetryableCode::{Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable};
    let codes = subsequence(vec![Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable], 1..=5);
    let custom = (0..=4_u8, codes, millis(1..=60_000), millis(0..=60_000));
    let custom = custom.prop_map(|(attempts, on, backoff, more)| RetryPolicy {
        attempts,
        on: on.into_iter().collect(),
        backoff,
        max_backoff: (backoff + more).min(Duration::from_mins(1)),
    });
    prop_oneof![(0..=4_u8).prop_map(RetryPolicy::new), custom]
}

fn outlier() -> impl Strategy<Value = OutlierDetection> {
    let custom =
        (1..=99_u8, 1..=10_000_u32, 1..=1_000_000_u32, millis(100..=3_600_000), millis(100..=86_400_000), 1..=100_u8);
    let custom = custom.prop_map(|(failure_percent, hosts, calls, interval, eject, max_percent)| OutlierDetection {
        failure_percent,
        hosts,
        calls,
        interval,
        eject,
        max_percent,
    });
    prop_oneof![Just(OutlierDetection::default()), custom]
}

fn settings() -> impl Strategy<Value = PolicySettings> {
    use LoadBalancing::{LeastRequest, RingHash, RoundRobin, Weighted};
    let some = (
        option::of(name(&[RoundRobin, LeastRequest, RingHash, Weighted])),
        option::of(timeout()),
        option::of(any::<u32>()),
        option::of(retry()),
        option::of(option::of(outlier())),
        option::of(name(&[WeightSource::Configured, WeightSource::ResponseTime])),
        option::of(prop_oneof![Just(Duration::ZERO), millis(1_000..=3_600_000)]),
        option::of(name(&[ZoneMode::Off, ZoneMode::Prefer])),
        option::of(0..=100_u8),
    );
    some.prop_map(|(lb, timeout, max_requests, retry, outlier, weights, slow_start, zone, shed)| PolicySettings {
        lb,
        timeout,
        max_requests,
        retry,
        outlier,
        weights,
        slow_start,
        zone,
        shed,
    })
}

/// Strategy of splits between some of the subsets, of which there is at least one.
fn split(subsets: Vec<SubsetName>) -> impl Strategy<Value = Split> {
    let count = subsets.len();
    let chosen = (subsequence(subsets, 1..=count), vec(1..=20_u8, 16), name(&[EmptySubset::Spill, EmptySubset::Fail]));
    chosen.prop_map(|(names, sizes, empty)| {
        let mut left = 100;
        let last = names.len() - 1;
        let shares = names.into_iter().enumerate().map(|(at, name)| {
            // Each share leaves at least 1 for each of those that follow.
            let rest = u8::try_from(last - at).unwrap();
            let share = if at == last { left } else { sizes[at].min(left - rest) };
            left -= share;
            (name, share)
        });
        Split { shares: shares.collect(), empty }
    })
}

/// Returns a strategy for names of headers. A binary header is no valid condition.
fn header_name() -> impl Strategy<Value = String> {
    "x-[a-z]{1,5}".prop_filter("binary header", |name| !name.ends_with("-bin"))
}

fn header_match() -> impl Strategy<Value = HeaderMatch> {
    prop_oneof![
        "[!-~]([ -~]{0,20}[!-~])?".prop_map(|value| HeaderMatch::Exact(value.into())),
        Just(HeaderMatch::Present),
        Just(HeaderMatch::Absent),
        name(&["v[12]", "(a|b)+", "\\d{1,3}\\.\\d*", "[^,]*"]).prop_map(|pattern| HeaderMatch::Regex(pattern.into())),
    ]
}

fn route(subsets: Vec<SubsetName>) -> impl Strategy<Value = PolicyRoute> {
    let split = if subsets.is_empty() { Just(None).boxed() } else { option::of(split(subsets)).boxed() };
    let method = prop_oneof![
        "/[a-z.]{1,9}/[A-Za-z]{1,9}".prop_map(|path| MethodMatch::Exact(path.into())),
        "/[a-z.]{1,9}/".prop_map(|prefix| MethodMatch::Service(prefix.into())),
    ];
    let headers = prop::collection::btree_map(header_name(), header_match(), 0..4);
    let parts =
        (headers, option::of(method), split, option::of(timeout()), option::of(retry()), option::of(header_name()));
    parts.prop_map(|(headers, method, split, timeout, retry, hash_header)| PolicyRoute {
        headers: headers.into_iter().map(|(name, matches)| HeaderCondition { name: name.into(), matches }).collect(),
        method,
        split,
        timeout,
        retry,
        hash_header: hash_header.map(Into::into),
    })
}

/// Strategy of valid policies of a service.
fn policy() -> impl Strategy<Value = ServicePolicy> {
    let subsets = prop::collection::btree_map("[a-z0-9-]{1,32}", prop::sample::select(&FILTERS[..]), 0..=16);
    subsets.prop_flat_map(|filters| {
        let subset = |(name, filter): (String, &str)| {
            (SubsetName::parse(&name).unwrap(), Subset { filter: InstanceFilter::parse(filter).unwrap().unwrap() })
        };
        let subsets: BTreeMap<_, _> = filters.into_iter().map(subset).collect();
        let names: Vec<_> = subsets.keys().cloned().collect();
        let default = if names.is_empty() { Just(None).boxed() } else { option::of(split(names.clone())).boxed() };
        let fallback = prop::collection::hash_set("[a-z]{1,3}", 0..=8);
        (settings(), Just(subsets), default, fallback, vec(route(names), 0..6)).prop_map(
            |(settings, subsets, default_split, fallback, mut routes)| {
                // A route without conditions is the last one, and leaves no calls to the default split.
                if let Some(all) = routes.iter().position(PolicyRoute::matches_all) {
                    routes.truncate(all + 1);
                }
                let default_split = default_split.filter(|_| !routes.iter().any(PolicyRoute::matches_all));
                let fallback = fallback.iter().map(|name| ServiceName::parse(name).unwrap()).collect();
                ServicePolicy { settings, subsets, default_split, fallback, routes }
            },
        )
    })
}

/// Strategy of any values, many of which are near valid ones.
fn value() -> impl Strategy<Value = DocumentValue> {
    let text = prop_oneof![
        name(&[
            "5s",
            "0s",
            "off",
            "ring_hash",
            "prefer",
            "spill",
            "id == a",
            "/a/*",
            "~a|b",
            "=",
            "unavailable",
            "web"
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    let number = prop_oneof![(0..=101_i32).prop_map(f64::from), any::<f64>()];
    let leaf = prop_oneof![
        1 => Just(DocumentValue::Null),
        1 => any::<bool>().prop_map(DocumentValue::Bool),
        4 => number.prop_map(DocumentValue::Number),
        8 => text.prop_map(DocumentValue::Text),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(DocumentValue::List),
            table(inner).prop_map(DocumentValue::Table),
        ]
    })
}

fn table(value: impl Strategy<Value = DocumentValue>) -> impl Strategy<Value = DocumentTable> {
    const FIELDS: &[&str] = &[
        "lb",
        "timeout",
        "max_requests",
        "retry",
        "outlier",
        "weights",
        "slow_start",
        "zone",
        "shed",
        "subsets",
        "default",
        "empty",
        "fallback",
        "route",
        "header",
        "method",
        "to",
        "hash_header",
        "attempts",
        "on",
        "backoff",
        "max_backoff",
        "failure_percent",
        "hosts",
        "calls",
        "interval",
        "eject",
        "max_percent",
        "v1",
        "v2",
        "x-canary",
    ];
    let field = prop_oneof![9 => name(FIELDS).prop_map(str::to_owned), 1 => any::<String>()];
    prop::collection::btree_map(field, value, 0..6)
}

/// Validates a document. A policy must survive a round trip, and an error must have a remedy.
fn assert_policy_or_remedy(scope: &PolicyScope, document: &PolicyDocument) -> Result<(), TestCaseError> {
    match ServicePolicy::from_document(scope, document) {
        Ok(policy) => prop_assert_eq!(ServicePolicy::from_document(scope, &policy.to_document()), Ok(policy)),
        Err(error) => {
            let message = error.to_string();
            let remedy = message.rsplit_once(": ").map_or("", |(_, remedy)| remedy);
            prop_assert!(!remedy.trim().is_empty(), "{message}");
            prop_assert!(!error.field.is_empty() && message.len() < 2_000, "{message}");
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn valid_policy_survives_a_round_trip(policy in policy(), defaults in settings()) {
        let document = policy.to_document();
        let parsed = ServicePolicy::from_document(&service(), &document);
        prop_assert_eq!(parsed.as_ref(), Ok(&policy));
        let toml = toml::to_string(&document).unwrap();
        prop_assert_eq!(toml::from_str::<PolicyDocument>(&toml).unwrap(), document.clone());
        let json = serde_json::to_string(&document).unwrap();
        prop_assert_eq!(serde_json::from_str::<PolicyDocument>(&json).unwrap(), document);

        let defaults = ServicePolicy { settings: defaults, ..ServicePolicy::default() };
        let effective = EffectivePolicy::merge(Some(&policy), Some(&defaults), Revision(0));
        let all = ServicePolicy::from_document(&service(), &effective.to_document()).unwrap();
        prop_assert_eq!(EffectivePolicy::merge(Some(&all), None, Revision(0)), effective);
    }

    #[test]
    fn any_document_yields_a_policy_or_an_error_with_a_remedy(table in table(value())) {
        let document = PolicyDocument(table);
        assert_policy_or_remedy(&service(), &document)?;
        assert_policy_or_remedy(&PolicyScope::Defaults, &document)?;
    }

    #[test]
    fn changed_document_yields_a_policy_or_an_error_with_a_remedy(
        policy in policy(),
        field in any::<prop::sample::Index>(),
        value in value(),
    ) {
        let mut document = policy.to_document();
        if !document.0.is_empty() {
            let field = document.0.keys().nth(field.index(document.0.len())).cloned().unwrap();
            document.0.insert(field, value);
        }
        assert_policy_or_remedy(&service(), &document)?;
    }
}
