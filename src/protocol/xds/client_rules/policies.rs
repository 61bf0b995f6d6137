//! Random policies, as the validation of documents permits them.

use std::{collections::BTreeMap, time::Duration};

use proptest::{collection, option, prelude::*, sample};

use crate::model::{
    EffectivePolicy, EmptySubset, HeaderCondition, HeaderMatch, InstanceFilter, LoadBalancing, MethodMatch,
    OutlierDetection, PolicyRoute, RetryPolicy, RetryableCode, Revision, Split, Subset, SubsetName,
};

fn split(subsets: Vec<SubsetName>) -> impl Strategy<Value = Option<Split>> {
    if subsets.is_empty() {
        return Just(None).boxed();
    }
    let count = subsets.len();
    let chosen = sample::subsequence(subsets, 1..=count);
    let shares = chosen.prop_flat_map(|chosen| {
        let count = chosen.len();
        // Cuts of 100 into as many parts, none of which is empty.
        let cuts = sample::subsequence((1..100).collect::<Vec<u8>>(), count - 1);
        (Just(chosen), cuts).prop_map(|(chosen, mut cuts)| {
            cuts.push(100);
            let mut from = 0;
            let share = |to: u8| to - std::mem::replace(&mut from, to);
            chosen.into_iter().zip(cuts.into_iter().map(share).collect::<Vec<_>>()).collect()
        })
    });
    option::of(shares.prop_map(|shares| Split { shares, empty: EmptySubset::default() })).boxed()
}

fn retries() -> impl Strategy<Value = Option<RetryPolicy>> {
    let codes = [
        RetryableCode::Cancelled,
        RetryableCode::DeadlineExceeded,
        RetryableCode::Internal,
        RetryableCode::ResourceExhausted,
        RetryableCode::Unavailable,
    ];
    let on = sample::subsequence(codes.to_vec(), 1..=5);
    let policy = (0_u8..=4, on, 1_u64..=60_000, 0_u64..=60_000).prop_map(|(attempts, on, backoff, more)| RetryPolicy {
        attempts,
        on: on.into_iter().collect(),
        backoff: Duration::from_millis(backoff),
        max_backoff: Duration::from_millis((backoff + more).min(60_000)),
    });
    option::of(policy)
}

fn timeouts() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(0), 10..=86_400_000_u64].prop_map(Duration::from_millis)
}

fn header() -> impl Strategy<Value = HeaderCondition> {
    let matches = prop_oneof![
        "[!-~]{1,20}".prop_map(|value| HeaderMatch::Exact(value.into())),
        Just(HeaderMatch::Present),
        Just(HeaderMatch::Absent),
        "[a-z0-9]{1,5}[.][*]".prop_map(|regex| HeaderMatch::Regex(regex.into())),
    ];
    ("x-[a-z]{1,8}", matches).prop_map(|(name, matches)| HeaderCondition { name: name.into(), matches })
}

fn policy_route(subsets: Vec<SubsetName>, has_ring: bool) -> impl Strategy<Value = PolicyRoute> {
    let method = prop_oneof![
        Just(None),
        "/[a-z]{1,5}[.][A-Z][a-z]{1,5}/[A-Z][a-z]{1,5}".prop_map(|path| Some(MethodMatch::Exact(path.into()))),
        "/[a-z]{1,5}[.][A-Z][a-z]{1,5}/".prop_map(|path| Some(MethodMatch::Service(path.into()))),
    ];
    let hash_header = option::of("x-[a-z]{1,8}").prop_map(move |name| name.filter(|_| has_ring).map(Into::into));
    let headers = collection::vec(header(), 0..4);
    (headers, method, split(subsets), option::of(timeouts()), retries(), hash_header).prop_map(
        |(headers, method, split, timeout, retry, hash_header)| PolicyRoute {
            headers,
            method,
            split,
            timeout,
            retry,
            hash_header,
        },
    )
}

fn outliers() -> impl Strategy<Value = OutlierDetection> {
    (1_u8..=100, any::<u32>(), any::<u32>(), 1_u64..=86_400_000, 1_u64..=86_400_000, 1_u8..=100).prop_map(
        |(failure_percent, hosts, calls, interval, eject, max_percent)| OutlierDetection {
            failure_percent,
            hosts,
            calls,
            interval: Duration::from_millis(interval),
            eject: Duration::from_millis(eject),
            max_percent,
        },
    )
}

pub(super) fn policies() -> impl Strategy<Value = EffectivePolicy> {
    let lb = sample::select(vec![
        LoadBalancing::RoundRobin,
        LoadBalancing::LeastRequest,
        LoadBalancing::RingHash,
        LoadBalancing::Weighted,
    ]);
    let names = collection::btree_set("[a-z0-9-]{1,32}", 0..=16);
    (lb, names).prop_flat_map(|(lb, names)| {
        let subsets: Vec<_> = names.iter().map(|name| SubsetName::parse(name).unwrap()).collect();
        let filter = InstanceFilter::parse("\"v1\" in tags").unwrap().unwrap();
        let definitions: BTreeMap<_, _> =
            subsets.iter().map(|name| (name.clone(), Subset { filter: filter.clone() })).collect();
        let routes = collection::vec(policy_route(subsets.clone(), lb == LoadBalancing::RingHash), 0..6);
        let limits = option::of(1_u32..);
        (split(subsets), routes, timeouts(), retries(), limits, option::of(outliers())).prop_map(
            move |(default_split, routes, timeout, retry, max_requests, outlier)| EffectivePolicy {
                revision: Revision(1),
                lb,
                timeout,
                max_requests,
                retry,
                outlier,
                subsets: definitions.clone(),
                default_split,
                routes,
                ..EffectivePolicy::default()
            },
        )
    })
}
