use super::*;
use crate::{
    model::{CheckId, Thresholds},
    registry::test_support::at,
};

fn record(probe: Probe, reprieve: Option<Duration>) -> CheckHistory {
    let definition = CheckDefinition {
        interval: Duration::from_secs(10),
        deregister_after: reprieve,
        thresholds: Thresholds { passing: 1, warning: 2, critical: 2 },
        ..CheckDefinition::new(CheckId::parse("c").unwrap(), "c", probe)
    };
    CheckHistory::new(&Check::new(definition.into(), CheckStatus::Passing), at(0))
}

#[test]
fn the_last_results_are_kept_and_flapping_is_counted() {
    let record = record(Probe::Ttl, None);
    for n in 0..60 {
        record.fed(if n % 2 == 0 { CheckStatus::Critical } else { CheckStatus::Passing }, &"ü".repeat(3_000), at(n));
    }
    let findings = record.findings();
    assert_eq!((findings.len(), findings[0].at, record.changes()), (KEPT, at(59).wall, 60));
    assert_eq!(findings[0].output.len(), BRIEF);
    assert_eq!(*record.output(), format!("{} ... (captured 4096 of 6000 bytes)", "ü".repeat(2_048)));
    assert!(Arc::ptr_eq(&findings[0].output, &findings[49].output));
}

#[test]
fn what_was_said_holds_for_an_interval() {
    let record = record(Probe::Ttl, None);
    record.fed(CheckStatus::Passing, "well", at(5_000));
    assert_eq!(record.starves(at(14_999)), Err(1));
    assert_eq!(record.starves(at(15_000)), Ok(()));
    assert_eq!(&*record.output(), "TTL expired (last output before timeout follows): well");
    assert_eq!(record.starves(at(25_000)), Ok(()), "it stays so");
    assert_eq!(&*record.output(), "TTL expired (last output before timeout follows): well");
}

#[test]
fn report_longer_than_output_max_size_is_cut_and_says_so() {
    let record = record(Probe::Ttl, None);
    let definition = CheckDefinition { output_max_size: 5, ..CheckDefinition::clone(&record.definition()) };
    record.follow(&Check::new(definition.into(), CheckStatus::Passing), at(1));
    for (said, kept) in
        [("12345", "12345"), ("123456", "12345 ... (captured 5 of 6 bytes)"), ("üüü", "üü ... (captured 4 of 6 bytes)")]
    {
        record.fed(CheckStatus::Passing, said, at(2));
        assert_eq!(&*record.output(), kept);
    }
}

#[test]
fn expired_check_without_output_says_only_that() {
    let record = record(Probe::Ttl, None);
    assert_eq!(record.starves(at(10_000)), Ok(()));
    assert_eq!(&*record.output(), "TTL expired");
}

#[test]
fn a_report_outlives_the_word_that_none_came() {
    let record = record(Probe::Ttl, None);
    let registry_says = |verdict| Check::new(record.definition(), verdict);
    assert_eq!(record.starves(at(10_000)), Ok(()));
    record.fed(CheckStatus::Passing, "late", at(10_001));
    assert_eq!(record.follow(&registry_says(CheckStatus::Critical), at(10_002)), Some(CheckStatus::Passing));
    assert_eq!(record.follow(&registry_says(CheckStatus::Passing), at(10_003)), None);
    assert_eq!(record.starves(at(20_001)), Ok(()));
    assert_eq!(record.follow(&registry_says(CheckStatus::Critical), at(20_002)), None, "this time none came");
}

#[test]
fn a_check_that_is_registered_again_has_all_its_time_again() {
    let fed = record(Probe::Ttl, None);
    fed.renew(at(9_000));
    assert_eq!(fed.starves(at(18_999)), Err(1));

    let record = record(Probe::Ttl, Some(Duration::from_mins(1)));
    record.fed(CheckStatus::Critical, "", at(1_000));
    let definition = CheckDefinition { notes: "another".into(), ..CheckDefinition::clone(&record.definition()) };
    record.follow(&Check::new(definition.into(), CheckStatus::Critical), at(60_000));
    assert!(record.condemns(at(119_999)).is_none());
    assert!(record.condemns(at(120_000)).is_some());
}

#[test]
fn who_is_critical_for_too_long_is_condemned() {
    let target = crate::model::ProbeTarget::parse("tcp", "127.0.0.1:1").unwrap();
    let record = record(Probe::Tcp { target, tls: None }, Some(Duration::from_mins(1)));
    let probe = |found, ms| record.probed(found, "", Duration::ZERO, at(ms));
    assert_eq!(probe(CheckStatus::Critical, 1_000), None, "once is not enough");
    assert_eq!(probe(CheckStatus::Critical, 2_000), Some(CheckStatus::Critical));
    assert!(record.condemns(at(61_999)).is_none());
    assert!(record.condemns(at(62_000)).is_some());
    record.renew(at(62_000));
    assert!(record.condemns(at(121_999)).is_none(), "it was registered again");
    assert!(record.condemns(at(122_000)).is_some());
    assert_eq!(probe(CheckStatus::Passing, 122_000), Some(CheckStatus::Passing));
    record.renew(at(123_000));
    assert!(record.condemns(at(200_000)).is_none());
}

/// The record after a restart at this time, of a check that says this.
fn restarted(record: &CheckHistory, verdict: CheckStatus, uncertain: u64, ms: u64) -> CheckHistory {
    let check = Check::new(record.definition(), verdict);
    let wall = at(ms).wall;
    // The clock of leases begins anew.
    CheckHistory::restored(
        &check,
        record.save(),
        Duration::from_millis(uncertain),
        ClockReading { wall, ..ClockReading::default() },
    )
}

fn time_left(record: &CheckHistory) -> u128 {
    record.time_left(ClockReading::default()).as_millis()
}

#[test]
fn ttl_counts_the_time_over_restarts_and_keeps_the_output() {
    let first = record(Probe::Ttl, None);
    first.fed(CheckStatus::Passing, "well", at(5_000));
    let second = restarted(&first, CheckStatus::Passing, 0, 9_000);
    assert_eq!((time_left(&second), &*second.output()), (6_000, "well"));
    let third = restarted(&second, CheckStatus::Passing, 0, 14_000);
    assert_eq!(time_left(&third), 1_000);
    assert_eq!(third.findings()[0].at, at(5_000).wall);
    let late = restarted(&third, CheckStatus::Passing, 0, 60_000);
    assert_eq!(late.starves(ClockReading::default()), Ok(()));
    assert_eq!(&*late.output(), "TTL expired (last output before timeout follows): well");
    let still = restarted(&late, CheckStatus::Critical, 0, 61_000);
    assert_eq!(&*still.output(), "TTL expired (last output before timeout follows): well");
    assert_eq!(still.changes(), 1);
}

#[test]
fn ttl_is_never_longer_than_it_was_and_full_when_the_clock_went_back() {
    let first = record(Probe::Ttl, None);
    first.fed(CheckStatus::Passing, "well", at(5_000));
    assert_eq!(time_left(&restarted(&first, CheckStatus::Passing, 2_000, 9_000)), 8_000, "a report may be missing");
    assert_eq!(time_left(&restarted(&first, CheckStatus::Passing, 2_000, 6_000)), 10_000);
    let back = restarted(&first, CheckStatus::Passing, 0, 1_000);
    assert_eq!(time_left(&back), 10_000);
    assert!(back.needs_saving());
    assert_eq!(time_left(&restarted(&back, CheckStatus::Passing, 0, 4_000)), 7_000, "it counts from then on");
}

#[test]
fn critical_time_counts_over_a_restart_but_for_one_more_chance() {
    let critical = record(Probe::Ttl, Some(Duration::from_mins(1)));
    critical.fed(CheckStatus::Critical, "no", at(1_000));
    let soon = restarted(&critical, CheckStatus::Critical, 0, 11_000);
    assert!(soon.condemns(ClockReading { lease: 49_999, ..ClockReading::default() }).is_none());
    assert!(soon.condemns(ClockReading { lease: 50_000, ..ClockReading::default() }).is_some());
    let late = restarted(&soon, CheckStatus::Critical, 0, 3_600_000);
    let chance = 10_000 + millis(critical.definition().time_limit());
    assert!(late.condemns(ClockReading { lease: chance - 1, ..ClockReading::default() }).is_none());
    assert!(late.condemns(ClockReading { lease: chance, ..ClockReading::default() }).is_some());
    let recovered = restarted(&soon, CheckStatus::Passing, 0, 3_600_000);
    assert!(recovered.condemns(ClockReading { lease: 1 << 40, ..ClockReading::default() }).is_none());
}

#[test]
fn state_is_saved_once_for_all_results_since_the_last_time() {
    let record = record(Probe::Ttl, None);
    assert!(record.needs_saving());
    assert!(!record.needs_saving(), "it is queued");
    record.fed(CheckStatus::Passing, "1", at(1));
    assert!(!record.needs_saving());
    assert_eq!(&*record.save().last.unwrap().output, "1");
    record.follow(&Check::new(record.definition(), CheckStatus::Passing), at(2));
    assert!(!record.needs_saving(), "nothing has changed");
    record.fed(CheckStatus::Passing, "1", at(3));
    assert!(record.needs_saving());
}

#[test]
fn renewal_for_a_refused_registration_is_taken_back_unless_a_report_came_since() {
    let fed = record(Probe::Ttl, None);
    let before = fed.renew(at(9_000));
    fed.take_back(before);
    assert_eq!(fed.starves(at(10_000)), Ok(()));

    let reported = record(Probe::Ttl, None);
    let before = reported.renew(at(9_000));
    reported.fed(CheckStatus::Passing, "", at(9_500));
    reported.take_back(before);
    assert_eq!(reported.starves(at(19_499)), Err(1));

    let condemned = record(Probe::Ttl, Some(Duration::from_mins(1)));
    condemned.fed(CheckStatus::Critical, "", at(1_000));
    let before = condemned.renew(at(50_000));
    condemned.take_back(before);
    assert!(condemned.condemns(at(61_000)).is_some());
}

#[test]
fn renewal_that_was_saved_and_is_taken_back_is_saved_again() {
    let record = record(Probe::Ttl, None);
    let first = record.save();
    let before = record.renew(at(9_000));
    assert_ne!(record.save(), first);
    record.take_back(before);
    assert!(record.needs_saving());
    assert_eq!(record.save(), first);
}
