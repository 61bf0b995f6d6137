use super::*;

/// Start of a test's lease, on the lease clock: an ordinary one, and some from which the time in the state word wraps within
/// the test.
const STARTS: [LeaseTime; 6] = [
    0,
    LeaseState::PERIOD - 100_000,
    LeaseState::PERIOD - 2_000,
    LeaseState::PERIOD - 1,
    3 * LeaseState::PERIOD / 2,
    40 * LeaseState::PERIOD - 3_500,
];

/// Lease that was granted 1,000 ms after `start`.
fn lease(start: LeaseTime, ttl_ms: u64, grace_ms: Option<u64>) -> Lease {
    let terms = LeaseTerms::grant(Some(Duration::from_millis(ttl_ms)), grace_ms.map(Duration::from_millis));
    let service = ServiceName::parse("web").unwrap();
    let (instance, boot) = (InstanceId::parse("a").unwrap(), BootId::parse("b").unwrap());
    Lease::new(LeaseId(1), service, instance, boot, terms, start + 1_000)
}

/// Runs a test of a lease at each start.
fn at_each_start(test: impl Fn(LeaseTime)) {
    STARTS.into_iter().for_each(test);
}

#[test]
fn lease_expires_after_its_ttl_and_not_before() {
    at_each_start(|start| {
        let lease = lease(start, 3_000, None);
        assert!(!lease.expire(start + 4_000), "{start}");
        assert!(lease.expire(start + 4_001), "{start}");
        assert!(!lease.expire(start + 4_002), "it ends once");
        assert_eq!(lease.renew(start + 4_002, None), Err(EndReason::Expired));
    });
}

#[test]
fn overdue_lease_with_late_heartbeat_continues() {
    at_each_start(|start| {
        let lease = lease(start, 3_000, None);
        assert_eq!(lease.phase(start + 9_000), LeasePhase::Overdue);
        assert_eq!(lease.renew(start + 9_000, None), Ok(Duration::from_secs(3)));
        assert!(!lease.expire(start + 12_000));
        assert!(lease.expire(start + 12_001));
    });
}

#[test]
fn lease_renewed_for_twenty_years_keeps_its_deadline_and_phase() {
    let lease = lease(0, 24 * 3_600_000, None);
    let mut now = 1_000;
    while now < 5 * LeaseState::PERIOD {
        now += 20 * 3_600_000;
        assert_eq!(lease.phase(now), LeasePhase::Expiring, "{now}");
        assert_eq!(lease.renew(now, None), Ok(Duration::from_hours(24)), "{now}");
        assert_eq!(lease.deadline(now), now + 24 * 3_600_000);
        assert_eq!((lease.phase(now), lease.is_overdue(now)), (LeasePhase::Fresh, false), "{now}");
    }
    assert!(lease.expire(now + 24 * 3_600_000 + 1));
}

#[test]
fn lease_far_past_its_deadline_is_overdue() {
    at_each_start(|start| {
        let lease = lease(start, 1_000, None);
        let year = 365 * 24 * 3_600_000;
        assert_eq!(lease.phase(start + year), LeasePhase::Overdue);
        assert_eq!(lease.deadline(start + year), start + 2_000);
    });
}

#[test]
fn broken_stream_shortens_deadline_only_if_it_renewed_last() {
    at_each_start(|start| {
        let lease = lease(start, 10_000, Some(1_000));
        let (first, second) = (HeartbeatStreamId::numbered(1), HeartbeatStreamId::numbered(2));
        lease.renew(start + 1_000, Some(first)).unwrap();
        lease.renew(start + 2_000, Some(second)).unwrap();
        assert_eq!(lease.stream_broken(first, start + 3_000), None, "the second stream has renewed it since");
        assert_eq!(lease.deadline(start + 3_000), start + 12_000);
        assert!(lease.is_connected());
        assert_eq!(lease.stream_broken(second, start + 3_000), Some(start + 4_000));
        assert!(!lease.is_connected());
        lease.renew(start + 3_500, Some(first)).unwrap();
        assert_eq!(lease.deadline(start + 3_500), start + 13_500, "a heartbeat on another stream ends the grace");
    });
}

#[test]
fn broken_stream_without_grace_keeps_deadline_and_permits_takeover() {
    let lease = lease(0, 10_000, None);
    lease.renew(1_000, Some(HeartbeatStreamId::numbered(1))).unwrap();
    assert_eq!(lease.stream_broken(HeartbeatStreamId::numbered(1), 2_000), None);
    assert_eq!(lease.deadline(2_000), 11_000);
    assert_eq!(lease.can_be_taken_over(2_000), Ok(()));
}

#[test]
fn grace_never_lengthens_a_lease() {
    let lease = lease(0, 2_000, Some(2_000));
    lease.renew(1_000, Some(HeartbeatStreamId::numbered(7))).unwrap();
    assert_eq!(lease.stream_broken(HeartbeatStreamId::numbered(7), 2_900), None);
    assert_eq!(lease.deadline(2_900), 3_000);
}

#[test]
fn stream_closed_by_server_starts_no_grace() {
    at_each_start(|start| {
        let lease = lease(start, 10_000, Some(1_000));
        let stream = HeartbeatStreamId::numbered(7);
        lease.renew(start + 1_000, Some(stream)).unwrap();
        lease.stream_released(stream);
        assert_eq!(lease.stream_broken(stream, start + 2_000), None);
        assert_eq!(lease.deadline(start + 2_000), start + 11_000);
        assert!(lease.can_be_taken_over(start + 2_000).is_err(), "the holder is alive and reconnects");
    });
}

#[test]
fn lease_can_be_taken_over_once_a_heartbeat_is_missing() {
    at_each_start(|start| {
        let lease = lease(start, 6_000, None);
        assert_eq!(lease.can_be_taken_over(start + 1_000), Err(Duration::from_secs(3)));
        assert_eq!(lease.can_be_taken_over(start + 3_999), Err(Duration::from_millis(1)));
        assert_eq!(lease.can_be_taken_over(start + 4_000), Ok(()));
    });
}

#[test]
fn ended_lease_remembers_its_reason() {
    for start in STARTS {
        for reason in [EndReason::Expired, EndReason::Superseded, EndReason::Removed, EndReason::Deregistered] {
            let lease = lease(start, 6_000, None);
            lease.end(reason, start + 2_000, Duration::from_mins(1));
            assert_eq!(lease.renew(start + 2_001, Some(HeartbeatStreamId::numbered(1))), Err(reason));
            assert_eq!(lease.deadline(start + 2_001), start + 62_000);
            assert!(!lease.is_alive());
            assert!(!lease.expire(start + 99_000));
        }
    }
}

#[test]
fn repeating_stream_ids_never_mean_no_stream() {
    for n in [0, 1, (1 << 26) - 3, (1 << 26) - 2, u64::MAX] {
        let lease = lease(0, 6_000, Some(0));
        let stream = HeartbeatStreamId::numbered(n);
        lease.renew(1_000, Some(stream)).unwrap();
        assert!(lease.is_connected(), "{n}");
        assert_eq!(lease.stream_broken(stream, 1_001), Some(1_001), "{n}");
    }
}

#[test]
fn heartbeat_against_expiry_has_one_winner() {
    for _ in 0..200 {
        let lease = lease(0, 1_000, None);
        let (renewed, expired) = std::thread::scope(|threads| {
            let renewing = threads.spawn(|| lease.renew(5_000, Some(HeartbeatStreamId::numbered(1))).is_ok());
            let expiring = threads.spawn(|| lease.expire(2_001));
            (renewing.join().unwrap(), expiring.join().unwrap())
        });
        assert!(renewed != expired, "answered HELD and removed, or neither");
        assert_eq!(lease.is_alive(), renewed);
    }
}
