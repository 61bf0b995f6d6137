//! Tests that the work of one call is bounded in a large registry.

use std::time::{Duration, Instant};

use super::{
    super::reverse::MAX_READS_PER_CALL,
    test_support::{TestAuthority, assert_empty, set},
    *,
};

/// Maximum number of instances in one chunk of a snapshot.
const MAX_CHUNK: usize = 256;

#[test]
fn first_reverse_question_reads_50_000_instances_in_bounded_calls() {
    const INSTANCES: usize = 50_000;
    let dns = TestAuthority::new();
    for n in 0..INSTANCES {
        let (high, low) = (n / 250, n % 250);
        dns.register(&format!("web{}", n % 50), &format!("i{n}"), &format!("10.0.{high}.{low}"), &[]);
    }
    let name = "7.3.0.10.in-addr.arpa.";
    let mut read = 0;
    while dns.ask_once(name, RecordType::PTR, 10_000) == Err(IndexBehind) {
        let now = dns.authority.reverse.len();
        assert!(now > read && now - read < MAX_READS_PER_CALL + MAX_CHUNK, "{read} to {now} instances in one call");
        read = now;
    }
    assert!(INSTANCES - read < MAX_READS_PER_CALL + MAX_CHUNK, "{read} instances before the last call");
    assert_eq!(dns.authority.reverse.len(), INSTANCES);
    let answer = dns.ask_once(name, RecordType::PTR, 10_000);
    assert!(answer.is_ok(), "an index that is up to date has nothing to read");
    dns.register("web1", "late", "10.9.9.9", &[]);
    assert_eq!(dns.reverse("9.9.9.10.in-addr.arpa."), set(["web1.service.dc1.consul."]));
    dns.register_node("bare", "10.0.3.8");
    assert_eq!(dns.reverse("8.3.0.10.in-addr.arpa."), set(["bare.node.dc1.consul."]));
}

/// Returns the time of the fastest of many questions for a node that does not exist: other processes delay only some of them.
#[expect(clippy::disallowed_methods, reason = "the test measures")]
fn fastest_answer_about_unknown_node(dns: &TestAuthority) -> Duration {
    let once = |n: usize| {
        let name = format!("unknown{n}.node.consul.");
        let before = Instant::now();
        let answer = dns.ask(&name, RecordType::A);
        let took = before.elapsed();
        assert_empty(&answer, ResponseCode::NXDomain);
        took
    };
    (0..200).map(once).min().unwrap()
}

/// A scan of 20,000 nodes would take about 1,000 times as long as a lookup.
#[test]
fn question_about_unknown_node_takes_as_long_with_many_nodes_as_with_few() {
    let dns = TestAuthority::new();
    dns.register_node("n0", "198.51.100.1");
    let with_one = fastest_answer_about_unknown_node(&dns);
    for n in 1..20_000 {
        dns.register_node(&format!("n{n}"), &format!("198.{}.{}.1", n / 250, n % 250));
    }
    let with_many = fastest_answer_about_unknown_node(&dns);
    assert!(with_many < with_one * 20, "{with_one:?} with 1 node, {with_many:?} with 20,000");
}
