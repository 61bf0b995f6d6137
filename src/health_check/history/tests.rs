use super::{
    state::{MAX_EARLIER_OUTPUT_BYTES, MAX_RESULTS},
    *,
};
use crate::{
    model::{CheckId, Thresholds},
    registry::test_support::at,
};

/// Returns the history of a passing check with an interval of 10 s, two failures to become critical, and this time of removal.
fn history(probe: Probe, deregister_after: Option<Duration>) -> CheckHistory {
    let definition = CheckDefinition {
        interval: Duration::from_secs(10),
        deregister_after,
        thresholds: Thresholds { passing: 1, warning: 2, critical: 2 },
        ..CheckDefinition::new(CheckId::parse("c").unwrap(), "c", probe)
    };
    CheckHistory::new(&Check::new(definition.into(), CheckStatus::Passing), true, at(0))
}

#[test]
fn last_results_are_kept_and_all_status_changes_are_counted() {
    let history = history(Probe::Ttl, None);
    for n in 0..60 {
        history.report(
            if n % 2 == 0 { CheckStatus::Critical } else { CheckStatus::Passing },
            &"ü".repeat(3_000),
            at(n),
        );
    }
    let results = history.results();
    assert_eq!((results.len(), results[0].at, history.changes()), (MAX_RESULTS, at(59).wall, 60));
    assert_eq!(results[0].output.len(), MAX_EARLIER_OUTPUT_BYTES);
    assert_eq!(*history.output(), format!("{} ... (captured 4096 of 6000 bytes)", "ü".repeat(2_048)));
    assert!(Arc::ptr_eq(&results[0].output, &results[49].output));
}

#[test]
fn report_is_valid_for_the_interval() {
    let history = history(Probe::Ttl, None);
    history.report(CheckStatus::Passing, "well", at(5_000));
    assert_eq!(history.expire_ttl(at(14_999)), Err(1));
    assert_eq!(history.expire_ttl(at(15_000)), Ok(()));
    assert_eq!(&*history.output(), "TTL expired (last output before timeout follows): well");
    assert_eq!(history.expire_ttl(at(25_000)), Ok(()), "it stays expired");
    assert_eq!(&*history.output(), "TTL expired (last output before timeout follows): well");
}

/// Returns the check of a history with another definition.
fn redefined(definition: CheckDefinition, status: CheckStatus) -> Check {
    Check { definition_revision: Revision(2), ..Check::new(definition.into(), status) }
}

#[test]
fn definition_is_identified_by_its_revision_and_not_by_its_address() {
    let history = history(Probe::Ttl, None);
    history.report(CheckStatus::Passing, "", at(1_000));
    let copy = || CheckDefinition::clone(&history.definition());
    history.update(&Check::new(Arc::new(copy()), CheckStatus::Passing), at(5_000));
    assert_eq!(history.ttl_left(at(5_000)), Duration::from_secs(6), "the TTL continues");
    history.update(&redefined(copy(), CheckStatus::Passing), at(5_000));
    assert_eq!(history.ttl_left(at(5_000)), Duration::from_secs(10), "the TTL begins again");
    assert_eq!(history.definition_revision(), Revision(2));
}

#[test]
fn report_longer_than_output_max_size_is_cut_with_a_note() {
    let history = history(Probe::Ttl, None);
    let definition = CheckDefinition { output_max_size: 5, ..CheckDefinition::clone(&history.definition()) };
    history.update(&redefined(definition, CheckStatus::Passing), at(1));
    for (output, kept) in
        [("12345", "12345"), ("123456", "12345 ... (captured 5 of 6 bytes)"), ("üüü", "üü ... (captured 4 of 6 bytes)")]
    {
        history.report(CheckStatus::Passing, output, at(2));
        assert_eq!(&*history.output(), kept);
    }
}

#[test]
fn expired_ttl_without_earlier_output_has_short_output() {
    let history = history(Probe::Ttl, None);
    assert_eq!(history.expire_ttl(at(10_000)), Ok(()));
    assert_eq!(&*history.output(), "TTL expired");
}

#[test]
fn report_after_expiry_is_submitted_again_until_the_registry_has_it() {
    let history = history(Probe::Ttl, None);
    let in_registry = |status| Check::new(history.definition(), status);
    assert_eq!(history.expire_ttl(at(10_000)), Ok(()));
    history.report(CheckStatus::Passing, "late", at(10_001));
    assert_eq!(history.update(&in_registry(CheckStatus::Critical), at(10_002)), Some(CheckStatus::Passing));
    assert_eq!(history.update(&in_registry(CheckStatus::Passing), at(10_003)), None);
    assert_eq!(history.expire_ttl(at(20_001)), Ok(()));
    assert_eq!(
        history.update(&in_registry(CheckStatus::Critical), at(20_002)),
        None,
        "there was no report since the expiry"
    );
}

#[test]
fn registering_a_check_again_renews_its_times() {
    let silent = history(Probe::Ttl, None);
    silent.renew(at(9_000));
    assert_eq!(silent.expire_ttl(at(18_999)), Err(1));

    let history = history(Probe::Ttl, Some(Duration::from_mins(1)));
    history.report(CheckStatus::Critical, "", at(1_000));
    let definition = CheckDefinition { notes: "other".into(), ..CheckDefinition::clone(&history.definition()) };
    history.update(&redefined(definition, CheckStatus::Critical), at(60_000));
    assert!(history.removal_due(at(119_999)).is_none());
    assert!(history.removal_due(at(120_000)).is_some());
}

#[test]
fn removal_is_due_after_being_critical_for_the_configured_time() {
    let target = crate::model::ProbeTarget::parse("tcp", "127.0.0.1:1").unwrap();
    let history = history(Probe::Tcp { target, tls: None }, Some(Duration::from_mins(1)));
    let probe = |status, ms| history.record_probe(status, "", Duration::ZERO, at(ms));
    assert_eq!(probe(CheckStatus::Critical, 1_000), None, "one failure is below the threshold");
    assert_eq!(probe(CheckStatus::Critical, 2_000), Some(CheckStatus::Critical));
    assert!(history.removal_due(at(61_999)).is_none());
    assert!(history.removal_due(at(62_000)).is_some());
    history.renew(at(62_000));
    assert!(history.removal_due(at(121_999)).is_none(), "the check was renewed");
    assert!(history.removal_due(at(122_000)).is_some());
    assert_eq!(probe(CheckStatus::Passing, 122_000), Some(CheckStatus::Passing));
    history.renew(at(123_000));
    assert!(history.removal_due(at(200_000)).is_none());
}

/// Returns the history after a restart at the wall-clock time `ms`, of a check that has this status in the registry.
fn restarted(history: &CheckHistory, status: CheckStatus, max_missing: u64, ms: u64) -> CheckHistory {
    let check = Check::new(history.definition(), status);
    let wall = at(ms).wall;
    // The lease clock starts again.
    CheckHistory::restored(
        &check,
        history.save(),
        Duration::from_millis(max_missing),
        ClockReading { wall, ..ClockReading::default() },
    )
}

fn ttl_left(history: &CheckHistory) -> u128 {
    history.ttl_left(ClockReading::default()).as_millis()
}

#[test]
fn ttl_counts_across_restarts_and_output_is_kept() {
    let first = history(Probe::Ttl, None);
    first.report(CheckStatus::Passing, "well", at(5_000));
    let second = restarted(&first, CheckStatus::Passing, 0, 9_000);
    assert_eq!((ttl_left(&second), &*second.output()), (6_000, "well"));
    let third = restarted(&second, CheckStatus::Passing, 0, 14_000);
    assert_eq!(ttl_left(&third), 1_000);
    assert_eq!(third.results()[0].at, at(5_000).wall);
    let late = restarted(&third, CheckStatus::Passing, 0, 60_000);
    assert_eq!(late.expire_ttl(ClockReading::default()), Ok(()));
    assert_eq!(&*late.output(), "TTL expired (last output before timeout follows): well");
    let still = restarted(&late, CheckStatus::Critical, 0, 61_000);
    assert_eq!(&*still.output(), "TTL expired (last output before timeout follows): well");
    assert_eq!(still.changes(), 1);
}

#[test]
fn ttl_after_restart_is_at_most_the_interval() {
    let first = history(Probe::Ttl, None);
    first.report(CheckStatus::Passing, "well", at(5_000));
    assert_eq!(ttl_left(&restarted(&first, CheckStatus::Passing, 2_000, 9_000)), 8_000, "a report may be missing");
    assert_eq!(ttl_left(&restarted(&first, CheckStatus::Passing, 2_000, 6_000)), 10_000);
    let back = restarted(&first, CheckStatus::Passing, 0, 1_000);
    assert_eq!(ttl_left(&back), 10_000);
    assert!(back.needs_saving());
    assert_eq!(ttl_left(&restarted(&back, CheckStatus::Passing, 0, 4_000)), 7_000, "the TTL counts from the restart");
}

#[test]
fn critical_time_counts_across_restart_except_for_one_more_probe() {
    let critical = history(Probe::Ttl, Some(Duration::from_mins(1)));
    critical.report(CheckStatus::Critical, "no", at(1_000));
    let soon = restarted(&critical, CheckStatus::Critical, 0, 11_000);
    assert!(soon.removal_due(ClockReading { lease: 49_999, ..ClockReading::default() }).is_none());
    assert!(soon.removal_due(ClockReading { lease: 50_000, ..ClockReading::default() }).is_some());
    let late = restarted(&soon, CheckStatus::Critical, 0, 3_600_000);
    let grace = 10_000 + millis(critical.definition().time_limit());
    assert!(late.removal_due(ClockReading { lease: grace - 1, ..ClockReading::default() }).is_none());
    assert!(late.removal_due(ClockReading { lease: grace, ..ClockReading::default() }).is_some());
    let recovered = restarted(&soon, CheckStatus::Passing, 0, 3_600_000);
    assert!(recovered.removal_due(ClockReading { lease: 1 << 40, ..ClockReading::default() }).is_none());
}

#[test]
fn state_is_queued_for_saving_once_until_saved() {
    let history = history(Probe::Ttl, None);
    assert!(history.needs_saving());
    assert!(!history.needs_saving(), "it is queued already");
    history.report(CheckStatus::Passing, "1", at(1));
    assert!(!history.needs_saving());
    assert_eq!(&*history.save().last.unwrap().output, "1");
    history.update(&Check::new(history.definition(), CheckStatus::Passing), at(2));
    assert!(!history.needs_saving(), "nothing has changed");
    history.report(CheckStatus::Passing, "1", at(3));
    assert!(history.needs_saving());
}

#[test]
fn renewal_is_undone_unless_a_report_came_since() {
    let silent = history(Probe::Ttl, None);
    let before = silent.renew(at(9_000));
    silent.undo_renewal(before);
    assert_eq!(silent.expire_ttl(at(10_000)), Ok(()));

    let reported = history(Probe::Ttl, None);
    let before = reported.renew(at(9_000));
    reported.report(CheckStatus::Passing, "", at(9_500));
    reported.undo_renewal(before);
    assert_eq!(reported.expire_ttl(at(19_499)), Err(1));

    let failing = history(Probe::Ttl, Some(Duration::from_mins(1)));
    failing.report(CheckStatus::Critical, "", at(1_000));
    let before = failing.renew(at(50_000));
    failing.undo_renewal(before);
    assert!(failing.removal_due(at(61_000)).is_some());
}

#[test]
fn undone_renewal_is_saved_again() {
    let history = history(Probe::Ttl, None);
    let first = history.save();
    let before = history.renew(at(9_000));
    assert_ne!(history.save(), first);
    history.undo_renewal(before);
    assert!(history.needs_saving());
    assert_eq!(history.save(), first);
}
