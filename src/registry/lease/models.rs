//! Heartbeats, broken streams and expiry at the same time, in every order of steps.
//!
//! The models run where the time in the state word wraps: what holds there holds at any other time.

use std::sync::Arc;

use loom::thread;

use super::*;
use crate::{
    engine::Memory,
    model::Incarnation,
    registry::{
        Command, Registry,
        test_support::{NoListener, at, id, name, register},
    },
};

const FIRST: HeartbeatStreamId = HeartbeatStreamId(2);
const SECOND: HeartbeatStreamId = HeartbeatStreamId(3);
/// Start of each model. The first deadline is beyond the wrap.
const START: LeaseTime = LeaseState::PERIOD - 2_500;

/// Lease with a deadline at 4,000 ms, renewed by the first stream; if that breaks, 500 ms are left.
fn lease() -> Arc<Lease> {
    let terms = LeaseTerms::grant(Some(Duration::from_secs(3)), Some(Duration::from_millis(500)));
    let lease = Lease::new(LeaseId(1), name("web"), id("a"), BootId::parse("b").unwrap(), terms, START + 1_000);
    lease.renew(START + 1_000, Some(FIRST)).unwrap();
    Arc::new(lease)
}

/// Calls a function with the lease on a thread of its own.
fn on_thread<T: 'static>(lease: &Arc<Lease>, act: impl FnOnce(&Lease) -> T + 'static) -> thread::JoinHandle<T> {
    let lease = Arc::clone(lease);
    thread::spawn(move || act(&lease))
}

#[test]
fn loom_heartbeat_that_is_answered_held_is_not_followed_by_removal() {
    loom::model(|| {
        let lease = lease();
        let expired = on_thread(&lease, |lease| lease.expire(START + 4_001));
        let again = on_thread(&lease, |lease| lease.expire(START + 4_002));
        let held = lease.renew(START + 5_000, Some(SECOND)).is_ok();
        let removed = [expired, again].map(|expired| expired.join().unwrap());
        let removed_count = removed.iter().filter(|removed| **removed).count();
        assert_eq!(removed_count, usize::from(!held), "one of three wins");
        assert_eq!(lease.is_alive(), held);
        assert!(!held || lease.deadline(START + 5_000) == START + 8_000);
    });
}

#[test]
fn loom_broken_stream_shortens_nothing_that_another_stream_has_renewed() {
    loom::model(|| {
        let lease = lease();
        let broken = on_thread(&lease, |lease| lease.stream_broken(FIRST, START + 2_000));
        lease.renew(START + 2_000, Some(SECOND)).unwrap();
        let nearer = broken.join().unwrap();
        assert!(nearer.is_none_or(|deadline| deadline == START + 2_500));
        assert_eq!(lease.deadline(START + 2_000), START + 5_000, "whichever came first");
        assert!(lease.is_connected(), "by the second stream");
    });
}

#[test]
fn loom_stream_breaks_while_it_is_released_and_a_request_renews() {
    loom::model(|| {
        let lease = lease();
        let broken = on_thread(&lease, |lease| lease.stream_broken(FIRST, START + 2_000));
        let renewed = on_thread(&lease, |lease| lease.renew(START + 2_000, None));
        lease.stream_released(FIRST);
        let nearer = broken.join().unwrap();
        renewed.join().unwrap().unwrap();
        assert!(!lease.is_connected());
        // Of release and break, the first one took the stream away, so the other found a different stream.
        assert_eq!(lease.can_be_taken_over(START + 2_000).is_ok(), nearer.is_some());
        // A break after the request shortens the time that it gave; the request restores it after a break.
        let deadline = lease.deadline(START + 2_000) - START;
        assert!(matches!((nearer, deadline), (None, 5_000) | (Some(_), 5_000 | 2_500)));
        assert!(nearer.is_none_or(|nearer| nearer == START + 2_500));
    });
}

#[test]
fn loom_holder_of_an_ended_lease_gets_the_reason() {
    loom::model(|| {
        let lease = lease();
        let ended = on_thread(&lease, |lease| {
            lease.end(EndReason::Superseded, START + 4_001, Duration::from_mins(1));
        });
        let expired = on_thread(&lease, |lease| lease.expire(START + 4_001));
        let answer = lease.renew(START + 4_001, Some(FIRST)).err();
        ended.join().unwrap();
        let expired = expired.join().unwrap();
        let reason = if expired { EndReason::Expired } else { EndReason::Superseded };
        assert_eq!(lease.renew(START + 4_002, None), Err(reason));
        assert!(answer.is_none_or(|answer| answer == reason), "it ended once");
    });
}

#[test]
fn loom_timing_wheel_loses_no_lease() {
    loom::model(|| {
        let engine = Arc::new(Memory::new(Incarnation(1), at(START), Arc::new(NoListener)));
        engine.submit(Command::Register(register("web", "a", "boot", 1)), at(START + 1_000)).unwrap();
        let is_registered = |registry: &Registry| registry.get(&name("web"), "a").is_some();
        let lease = engine.registry().leases().get(LeaseId(1)).unwrap();
        let held = on_thread(&lease, |lease| lease.renew(START + 4_500, Some(FIRST)).is_ok());
        let expiring = thread::spawn({
            let engine = Arc::clone(&engine);
            move || engine.expire(at(START + 4_200))
        });
        let removed = expiring.join().unwrap();
        let held = held.join().unwrap();
        assert_eq!(removed, usize::from(!held));
        assert_eq!(is_registered(engine.registry()), held);
        engine.expire(at(START + 7_400));
        assert_eq!(is_registered(engine.registry()), held, "not before its deadline");
        engine.expire(at(START + 7_700));
        assert!(!is_registered(engine.registry()), "the wheel looks at it again");
    });
}
