use super::*;

fn lease(ttl_ms: u64, grace_ms: Option<u64>) -> Lease {
    let terms = LeaseTerms::grant(Some(Duration::from_millis(ttl_ms)), grace_ms.map(Duration::from_millis));
    let service = ServiceName::parse("web").unwrap();
    Lease::new(LeaseId(1), service, InstanceId::parse("a").unwrap(), BootId::parse("b").unwrap(), terms, 1_000)
}

#[test]
fn lives_for_its_ttl_and_not_a_millisecond_less() {
    let lease = lease(3_000, None);
    assert!(!lease.expire(4_000));
    assert!(lease.expire(4_001));
    assert!(!lease.expire(4_002), "it ends once");
    assert_eq!(lease.renew(4_002, None), Err(EndReason::Expired));
}

#[test]
fn a_late_heartbeat_before_the_expiry_saves_it() {
    let lease = lease(3_000, None);
    assert_eq!(lease.renew(9_000, None), Ok(Duration::from_secs(3)));
    assert!(!lease.expire(12_000));
    assert!(lease.expire(12_001));
}

#[test]
fn the_last_carrier_counts() {
    let lease = lease(10_000, Some(1_000));
    let (first, second) = (HeartbeatStreamId::numbered(1), HeartbeatStreamId::numbered(2));
    lease.renew(1_000, Some(first)).unwrap();
    lease.renew(2_000, Some(second)).unwrap();
    assert_eq!(lease.broken(first, 3_000), None, "it no longer carried the lease");
    assert_eq!(lease.deadline(), 12_000);
    assert!(lease.is_connected());
    assert_eq!(lease.broken(second, 3_000), Some(4_000));
    assert!(!lease.is_connected());
    lease.renew(3_500, Some(first)).unwrap();
    assert_eq!(lease.deadline(), 13_500, "a heartbeat on another stream ends the grace");
}

#[test]
fn without_a_grace_a_broken_stream_changes_no_deadline() {
    let lease = lease(10_000, None);
    lease.renew(1_000, Some(HeartbeatStreamId::numbered(1))).unwrap();
    assert_eq!(lease.broken(HeartbeatStreamId::numbered(1), 2_000), None);
    assert_eq!(lease.deadline(), 11_000);
    assert_eq!(lease.can_be_taken_over(2_000), Ok(()), "but another boot may take over at once");
}

#[test]
fn a_grace_never_lengthens_a_life() {
    let lease = lease(2_000, Some(2_000));
    lease.renew(1_000, Some(HeartbeatStreamId::numbered(7))).unwrap();
    assert_eq!(lease.broken(HeartbeatStreamId::numbered(7), 2_900), None);
    assert_eq!(lease.deadline(), 3_000);
}

#[test]
fn streams_that_we_end_start_no_grace() {
    let lease = lease(10_000, Some(1_000));
    lease.renew(1_000, Some(HeartbeatStreamId::numbered(7))).unwrap();
    lease.released(HeartbeatStreamId::numbered(7));
    assert_eq!(lease.broken(HeartbeatStreamId::numbered(7), 2_000), None);
    assert_eq!(lease.deadline(), 11_000);
    assert!(lease.can_be_taken_over(2_000).is_err(), "its holder is alive and will be back");
}

#[test]
fn yields_once_a_heartbeat_is_missing() {
    let lease = lease(6_000, None);
    assert_eq!(lease.can_be_taken_over(1_000), Err(Duration::from_secs(3)));
    assert_eq!(lease.can_be_taken_over(3_999), Err(Duration::from_millis(1)));
    assert_eq!(lease.can_be_taken_over(4_000), Ok(()));
}

#[test]
fn remembers_how_it_ended() {
    for ending in [EndReason::Expired, EndReason::Superseded, EndReason::Removed, EndReason::Deregistered] {
        let lease = lease(6_000, None);
        lease.end(ending, 2_000, Duration::from_mins(1));
        assert_eq!(lease.renew(2_001, Some(HeartbeatStreamId::numbered(1))), Err(ending));
        assert_eq!(lease.deadline(), 62_000);
        assert!(!lease.is_alive());
        assert!(!lease.expire(99_000));
    }
}

#[test]
fn carrier_numbers_come_round_without_meaning_none() {
    for n in [0, 1, (1 << 26) - 3, (1 << 26) - 2, u64::MAX] {
        let lease = lease(6_000, Some(0));
        let carrier = HeartbeatStreamId::numbered(n);
        lease.renew(1_000, Some(carrier)).unwrap();
        assert!(lease.is_connected(), "{n}");
        assert_eq!(lease.broken(carrier, 1_001), Some(1_001), "{n}");
    }
}

#[test]
fn heartbeat_against_expiry_has_one_winner() {
    for _ in 0..200 {
        let lease = lease(1_000, None);
        let (renewed, expired) = std::thread::scope(|threads| {
            let renewing = threads.spawn(|| lease.renew(5_000, Some(HeartbeatStreamId::numbered(1))).is_ok());
            let expiring = threads.spawn(|| lease.expire(2_001));
            (renewing.join().unwrap(), expiring.join().unwrap())
        });
        assert!(renewed != expired, "told HELD and removed, or neither");
        assert_eq!(lease.is_alive(), renewed);
    }
}
