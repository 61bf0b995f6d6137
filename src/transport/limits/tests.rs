//! Tests of the limits on connections and streams.

use super::*;
use crate::transport::{LimitError, LimitLevel};

fn limiter(limits: ConnectionLimits) -> Arc<ConnectionLimiter> {
    ConnectionLimiter::new(limits, Metrics::new())
}

fn peer(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 1)
}

fn few() -> ConnectionLimits {
    ConnectionLimits {
        connections: 16,
        connections_per_address: PerAddress { max: 2, loopback: false },
        streams: 10,
        streams_per_address: PerAddress { max: 5, loopback: false },
        ..ConnectionLimits::default()
    }
}

#[test]
fn address_at_its_limit_is_rejected_until_a_connection_ends() {
    let limiter = limiter(few());
    let admit = |address| limiter.admit(peer(address), "test", Protocol::Http2);
    let (one, _two) = (admit("192.0.2.1").unwrap(), admit("192.0.2.1").unwrap());
    assert_eq!(admit("192.0.2.1").unwrap_err(), RejectReason::Address);
    assert_eq!(admit("::ffff:192.0.2.1").unwrap_err(), RejectReason::Address, "the same address in IPv6");
    let _other = admit("192.0.2.2").unwrap();
    drop(one);
    assert!(admit("192.0.2.1").is_ok());
}

#[test]
fn ipv6_network_counts_as_one_address() {
    let limiter = limiter(few());
    let admit = |address| limiter.admit(peer(address), "test", Protocol::Http2);
    let _open = (admit("2001:db8::1").unwrap(), admit("2001:db8::ffff:2").unwrap());
    assert_eq!(admit("2001:db8::3").unwrap_err(), RejectReason::Address);
    assert!(admit("2001:db8:0:1::1").is_ok());
}

#[test]
fn loopback_is_exempt_from_limits_per_address_unless_configured() {
    let mut limits = few();
    let many = |limits: &ConnectionLimits, address| {
        let limiter = limiter(limits.clone());
        let open: Vec<_> = (0..3).map(|_| limiter.admit(peer(address), "test", Protocol::Http2)).collect();
        open.iter().all(Result::is_ok)
    };
    assert!(many(&limits, "127.0.0.1") && many(&limits, "::1") && many(&limits, "::ffff:127.0.0.1"));
    limits.connections_per_address.loopback = true;
    assert!(!many(&limits, "127.0.0.1") && !many(&limits, "::1"));
}

#[test]
fn http_has_reserved_connections_when_grpc_is_full() {
    let limiter = limiter(few());
    let admit = |protocol| limiter.admit(peer("127.0.0.1"), "test", protocol);
    let grpc: Vec<_> = std::iter::from_fn(|| admit(Protocol::Http2).ok()).collect();
    assert_eq!(grpc.len(), 14);
    let http: Vec<_> = std::iter::from_fn(|| admit(Protocol::Http1).ok()).collect();
    assert_eq!(http.len(), 2);
    assert_eq!(admit(Protocol::Http1).unwrap_err(), RejectReason::All);
}

#[test]
fn preferred_streams_may_use_the_whole_limit_and_others_nine_tenths() {
    let limiter = limiter(few());
    let open = |address, streams: usize| {
        let permit = limiter.admit(peer(address), "test", Protocol::Http2).unwrap();
        (0..streams).for_each(|_| permit.stream_opens(None));
        permit
    };
    let one = open("192.0.2.1", 4);
    assert_eq!(one.exceeded_stream_limit(None, false), None);
    one.stream_opens(None);
    assert_eq!(one.exceeded_stream_limit(None, true), None);
    assert_eq!(one.exceeded_stream_limit(None, false), Some(LimitError::Streams(LimitLevel::Address, 5)));
    one.stream_opens(None);
    assert_eq!(one.exceeded_stream_limit(None, true), Some(LimitError::Streams(LimitLevel::Address, 5)));
    one.stream_ends(None);
    let two = open("192.0.2.2", 5);
    assert_eq!(two.exceeded_stream_limit(None, true), None);
    assert_eq!(two.exceeded_stream_limit(None, false), Some(LimitError::Streams(LimitLevel::Registry, 10)));
}

#[test]
fn identity_has_one_limit_over_all_its_addresses() {
    let limiter = limiter(few());
    let permits =
        ["192.0.2.1", "192.0.2.2"].map(|address| limiter.admit(peer(address), "test", Protocol::Http2).unwrap());
    let identities = [0, 1].map(|at: usize| permits[at].identify("spiffe://a/b".into()));
    for at in [0, 1, 0, 1] {
        permits[at].stream_opens(Some(&identities[at]));
    }
    assert_eq!(permits[0].exceeded_stream_limit(Some(&identities[0]), false), None);
    permits[0].stream_opens(Some(&identities[0]));
    assert_eq!(
        permits[0].exceeded_stream_limit(Some(&identities[0]), false),
        Some(LimitError::Streams(LimitLevel::Identity, 5))
    );
    assert_eq!(permits[0].exceeded_stream_limit(None, false), None, "its address is below the limit");
}

#[test]
fn accounts_without_connections_are_removed() {
    let limiter = limiter(few());
    let permits: Vec<_> = ["192.0.2.1", "192.0.2.2", "192.0.2.1"]
        .map(|at| limiter.admit(peer(at), "test", Protocol::Http1).unwrap())
        .into();
    let identity = permits[0].identify("a".into());
    assert_eq!(limiter.accounts.len(), 3);
    drop((identity, permits));
    assert!(limiter.accounts.is_empty());
    assert_eq!((limiter.all.connections.load(Relaxed), limiter.http.load(Relaxed)), (0, 0));
}
