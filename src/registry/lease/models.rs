//! Heartbeats, broken streams and expiry against each other, in every order.

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

/// Lives until 4,000, by heartbeats on the first stream; a broken one leaves it 500.
fn lease() -> Arc<Lease> {
    let terms = LeaseTerms::grant(Some(Duration::from_secs(3)), Some(Duration::from_millis(500)));
    let lease = Lease::new(LeaseId(1), name("web"), id("a"), BootId::parse("b").unwrap(), terms, 1_000);
    lease.renew(1_000, Some(FIRST)).unwrap();
    Arc::new(lease)
}

/// Does something with the lease on a thread of its own.
fn aside<T: 'static>(lease: &Arc<Lease>, act: impl FnOnce(&Lease) -> T + 'static) -> thread::JoinHandle<T> {
    let lease = Arc::clone(lease);
    thread::spawn(move || act(&lease))
}

#[test]
fn loom_a_heartbeat_that_is_answered_held_is_not_followed_by_a_removal() {
    loom::model(|| {
        let lease = lease();
        let expired = aside(&lease, |lease| lease.expire(4_001));
        let again = aside(&lease, |lease| lease.expire(4_002));
        let held = lease.renew(5_000, Some(SECOND)).is_ok();
        let removed = [expired, again].map(|expired| expired.join().unwrap());
        let removals = removed.iter().filter(|removed| **removed).count();
        assert_eq!(removals, usize::from(!held), "one of three wins");
        assert_eq!(lease.is_alive(), held);
        assert!(!held || lease.deadline() == 8_000);
    });
}

#[test]
fn loom_a_broken_stream_shortens_nothing_that_another_has_carried_since() {
    loom::model(|| {
        let lease = lease();
        let broken = aside(&lease, |lease| lease.broken(FIRST, 2_000));
        lease.renew(2_000, Some(SECOND)).unwrap();
        let nearer = broken.join().unwrap();
        assert!(nearer.is_none_or(|deadline| deadline == 2_500));
        assert_eq!(lease.deadline(), 5_000, "whichever came first");
        assert!(lease.is_connected(), "by the second stream");
    });
}

#[test]
fn loom_a_stream_breaks_against_its_own_release_and_a_call() {
    loom::model(|| {
        let lease = lease();
        let broken = aside(&lease, |lease| lease.broken(FIRST, 2_000));
        let called = aside(&lease, |lease| lease.renew(2_000, None));
        lease.released(FIRST);
        let nearer = broken.join().unwrap();
        called.join().unwrap().unwrap();
        assert!(!lease.is_connected());
        // Whichever of release and break came first took the carrier away: the other found another.
        assert_eq!(lease.can_be_taken_over(2_000).is_ok(), nearer.is_some());
        // A break after the call shortens what the call gave; before it, the call makes it good.
        assert!(matches!((nearer, lease.deadline()), (None, 5_000) | (Some(2_500), 5_000 | 2_500)));
    });
}

#[test]
fn loom_whoever_lost_its_lease_is_told_how() {
    loom::model(|| {
        let lease = lease();
        let ended = aside(&lease, |lease| lease.end(EndReason::Superseded, 4_001, Duration::from_mins(1)));
        let expired = aside(&lease, |lease| lease.expire(4_001));
        let heard = lease.renew(4_001, Some(FIRST)).err();
        ended.join().unwrap();
        let expired = expired.join().unwrap();
        let ending = if expired { EndReason::Expired } else { EndReason::Superseded };
        assert_eq!(lease.renew(4_002, None), Err(ending));
        assert!(heard.is_none_or(|heard| heard == ending), "it ended once");
    });
}

#[test]
fn loom_the_wheel_loses_no_lease() {
    loom::model(|| {
        let engine = Arc::new(Memory::new(Incarnation(1), at(0), Arc::new(NoListener)));
        engine.submit(Command::Register(register("web", "a", "boot", 1)), at(1_000)).unwrap();
        let there = |registry: &Registry| registry.get(&name("web"), "a").is_some();
        let lease = engine.registry().leases().get(LeaseId(1)).unwrap();
        let held = aside(&lease, |lease| lease.renew(4_500, Some(FIRST)).is_ok());
        let expiring = thread::spawn({
            let engine = Arc::clone(&engine);
            move || engine.expire(at(4_200))
        });
        let removed = expiring.join().unwrap();
        let held = held.join().unwrap();
        assert_eq!(removed, usize::from(!held));
        assert_eq!(there(engine.registry()), held);
        engine.expire(at(7_400));
        assert_eq!(there(engine.registry()), held, "not before its time");
        engine.expire(at(7_700));
        assert!(!there(engine.registry()), "the wheel looks at it again");
    });
}
