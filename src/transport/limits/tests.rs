//! Limits, counted.

use super::*;

fn gate(rules: ConnectionLimits) -> Arc<ConnectionLimiter> {
    ConnectionLimiter::new(rules, Metrics::new())
}

fn peer(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 1)
}

fn few() -> ConnectionLimits {
    ConnectionLimits {
        connections: 16,
        connections_per_address: PerAddress { most: 2, loopback: false },
        streams: 10,
        streams_per_address: PerAddress { most: 5, loopback: false },
        ..ConnectionLimits::default()
    }
}

#[test]
fn an_address_has_a_limit_and_room_comes_back() {
    let gate = gate(few());
    let admit = |address| gate.admit(peer(address), "test", Protocol::Http2);
    let (one, _two) = (admit("192.0.2.1").unwrap(), admit("192.0.2.1").unwrap());
    assert_eq!(admit("192.0.2.1").unwrap_err(), RejectReason::Address);
    assert_eq!(admit("::ffff:192.0.2.1").unwrap_err(), RejectReason::Address, "the same in other words");
    let _other = admit("192.0.2.2").unwrap();
    drop(one);
    assert!(admit("192.0.2.1").is_ok());
}

#[test]
fn a_network_of_one_owner_counts_as_one_address() {
    let gate = gate(few());
    let admit = |address| gate.admit(peer(address), "test", Protocol::Http2);
    let _open = (admit("2001:db8::1").unwrap(), admit("2001:db8::ffff:2").unwrap());
    assert_eq!(admit("2001:db8::3").unwrap_err(), RejectReason::Address);
    assert!(admit("2001:db8:0:1::1").is_ok());
}

#[test]
fn this_machine_is_exempt_unless_told_otherwise() {
    let mut rules = few();
    let many = |rules: &ConnectionLimits, address| {
        let gate = gate(rules.clone());
        let open: Vec<_> = (0..3).map(|_| gate.admit(peer(address), "test", Protocol::Http2)).collect();
        open.iter().all(Result::is_ok)
    };
    assert!(many(&rules, "127.0.0.1") && many(&rules, "::1") && many(&rules, "::ffff:127.0.0.1"));
    rules.connections_per_address.loopback = true;
    assert!(!many(&rules, "127.0.0.1") && !many(&rules, "::1"));
}

#[test]
fn http_keeps_some_room_when_grpc_is_full() {
    let gate = gate(few());
    let admit = |protocol| gate.admit(peer("127.0.0.1"), "test", protocol);
    let grpc: Vec<_> = std::iter::from_fn(|| admit(Protocol::Http2).ok()).collect();
    assert_eq!(grpc.len(), 14);
    let http: Vec<_> = std::iter::from_fn(|| admit(Protocol::Http1).ok()).collect();
    assert_eq!(http.len(), 2);
    assert_eq!(admit(Protocol::Http1).unwrap_err(), RejectReason::All);
}

#[test]
fn what_goes_first_may_use_all_and_the_rest_less() {
    let gate = gate(few());
    let open = |address, streams: usize| {
        let ticket = gate.admit(peer(address), "test", Protocol::Http2).unwrap();
        (0..streams).for_each(|_| ticket.stream_opens(None));
        ticket
    };
    let one = open("192.0.2.1", 4);
    assert_eq!(one.busy(None, false), None);
    one.stream_opens(None);
    assert_eq!(one.busy(None, true), None);
    assert_eq!(one.busy(None, false), Some(LimitError::Streams(LimitLevel::Address, 5)));
    one.stream_opens(None);
    assert_eq!(one.busy(None, true), Some(LimitError::Streams(LimitLevel::Address, 5)));
    one.stream_ends(None);
    let two = open("192.0.2.2", 5);
    assert_eq!(two.busy(None, true), None);
    assert_eq!(two.busy(None, false), Some(LimitError::Streams(LimitLevel::All, 10)));
}

#[test]
fn an_identity_has_a_limit_over_all_its_addresses() {
    let gate = gate(few());
    let tickets = ["192.0.2.1", "192.0.2.2"].map(|address| gate.admit(peer(address), "test", Protocol::Http2).unwrap());
    let identities = [0, 1].map(|at: usize| tickets[at].identify("spiffe://a/b".into()));
    for at in [0, 1, 0, 1] {
        tickets[at].stream_opens(Some(&identities[at]));
    }
    assert_eq!(tickets[0].busy(Some(&identities[0]), false), None);
    tickets[0].stream_opens(Some(&identities[0]));
    assert_eq!(tickets[0].busy(Some(&identities[0]), false), Some(LimitError::Streams(LimitLevel::Identity, 5)));
    assert_eq!(tickets[0].busy(None, false), None, "its address has room");
}

#[test]
fn nobody_is_remembered_who_has_left() {
    let gate = gate(few());
    let tickets: Vec<_> =
        ["192.0.2.1", "192.0.2.2", "192.0.2.1"].map(|at| gate.admit(peer(at), "test", Protocol::Http1).unwrap()).into();
    let identity = tickets[0].identify("a".into());
    assert_eq!(gate.accounts.len(), 3);
    drop((identity, tickets));
    assert!(gate.accounts.is_empty());
    assert_eq!((gate.all.connections.load(Relaxed), gate.http.load(Relaxed)), (0, 0));
}
