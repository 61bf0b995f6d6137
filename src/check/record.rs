//! What a check has found lately.

use std::{borrow::Cow, collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::tally::Tally;
use crate::{
    model::{Check, Definition, Probe, Verdict, WallTime},
    registry::{LeaseTime, Now},
};

/// How many results are kept.
const KEPT: usize = 50;
/// Most bytes that are kept of the last result's output. It holds what the check's own limit lets through, and the URL before that.
const MAX_OUTPUT_BYTES: usize = 16 * 1024;
/// Most bytes that are kept of the output of each earlier result.
const BRIEF: usize = 128;

/// What one probe, or one report, came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// When.
    pub at: WallTime,
    /// What was found, before thresholds.
    pub verdict: Verdict,
    /// How long the probe took. `None`: it was reported.
    pub took: Option<Duration>,
    /// What was said, in brief.
    pub output: Arc<str>,
}

/// Times of a check before it was renewed.
#[derive(Debug, Clone, Copy)]
pub struct CheckTimes {
    fed_until: LeaseTime,
    critical_since: Option<LeaseTime>,
    /// What the first became by that.
    renewed_until: LeaseTime,
}

/// What a check has found lately. Behind a mutex: one probe writes it, and hardly anybody reads.
#[derive(Debug)]
pub struct Record(Mutex<State>);

#[derive(Debug, Clone)]
struct State {
    definition: Arc<Definition>,
    tally: Tally,
    /// What it says, as far as was found here.
    verdict: Verdict,
    output: Arc<str>,
    /// The newest first.
    findings: VecDeque<Finding>,
    changes: u64,
    /// Since when it says that nothing works.
    critical_since: Option<LeaseTime>,
    /// What was reported last, if that holds.
    fed: Option<Verdict>,
    /// Until when it does.
    fed_until: LeaseTime,
}

impl Record {
    /// Of a check that says what it says.
    pub(super) fn new(check: &Check, now: Now) -> Self {
        let definition = Arc::clone(&check.definition);
        Self(Mutex::new(State {
            fed: None,
            fed_until: now.lease + millis(definition.interval),
            definition,
            tally: Tally::default(),
            verdict: check.verdict,
            output: "".into(),
            findings: VecDeque::new(),
            changes: 0,
            critical_since: (check.verdict == Verdict::Critical).then_some(now.lease),
        }))
    }

    /// What was said with the last result.
    #[must_use]
    pub fn output(&self) -> Arc<str> {
        Arc::clone(&self.0.lock().output)
    }

    /// The last results, the newest first.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        self.0.lock().findings.iter().cloned().collect()
    }

    /// How many times its verdict has changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.0.lock().changes
    }

    /// The check that it is of, as it is defined.
    pub(super) fn definition(&self) -> Arc<Definition> {
        Arc::clone(&self.0.lock().definition)
    }

    /// The same record, for an instance that takes the check over.
    pub(super) fn carried(&self) -> Self {
        Self(Mutex::new(self.0.lock().clone()))
    }

    /// Takes what came to another record after this one was made of it: while the check went over to another instance.
    pub(super) fn catch_up(&self, from: &Self) {
        let from = from.0.lock().clone();
        let mut state = self.0.lock();
        let newest = |findings: &VecDeque<Finding>| findings.front().map(|finding| finding.at);
        if newest(&from.findings) > newest(&state.findings) {
            (state.output, state.findings, state.changes) = (from.output, from.findings, from.changes);
        }
        if from.fed_until > state.fed_until {
            (state.fed, state.fed_until) = (from.fed, from.fed_until);
        }
    }

    /// How long what was said last still holds, of a check that is fed.
    pub(super) fn time_left(&self, now: Now) -> Duration {
        Duration::from_millis(self.0.lock().fed_until.saturating_sub(now.lease))
    }

    /// The check is as the registry has it, perhaps with another definition, or another verdict, which somebody else knew. Returned is
    /// what was reported meanwhile, where the registry knows no better: a report that comes when the one before runs out may get there
    /// before the word that it has.
    pub(super) fn follow(&self, check: &Check, now: Now) -> Option<Verdict> {
        let mut state = self.0.lock();
        if !Arc::ptr_eq(&state.definition, &check.definition) {
            state.definition = Arc::clone(&check.definition);
            state.tally = Tally::default();
            state.fed = None;
            state.renew(now);
        }
        let reported = state.fed.filter(|fed| *fed != check.verdict);
        if reported.is_none() {
            state.says(check.verdict, now);
        }
        reported
    }

    /// Has the times of the check begin anew: its instance is registered once more, with this very check. Returns the times before.
    pub(super) fn renew(&self, now: Now) -> CheckTimes {
        let mut state = self.0.lock();
        let (fed_until, critical_since) = (state.fed_until, state.critical_since);
        state.renew(now);
        CheckTimes { fed_until, critical_since, renewed_until: state.fed_until }
    }

    /// Takes back a renewal, unless something was reported or found since.
    pub(super) fn take_back(&self, before: CheckTimes) {
        let mut state = self.0.lock();
        if state.fed_until == before.renewed_until && state.critical_since.is_some() == before.critical_since.is_some()
        {
            (state.fed_until, state.critical_since) = (before.fed_until, before.critical_since);
        }
    }

    /// A probe was made. What the check says now, if that was found out.
    pub(super) fn probed(&self, found: Verdict, output: &str, took: Duration, now: Now) -> Option<Verdict> {
        let mut state = self.0.lock();
        state.note(found, output, Some(took), now);
        let thresholds = state.definition.thresholds;
        let verdict = state.tally.count(found, thresholds);
        if let Some(verdict) = verdict {
            state.says(verdict, now);
        }
        verdict
    }

    /// The instance has said how it is.
    pub(super) fn fed(&self, verdict: Verdict, output: &str, now: Now) {
        let mut state = self.0.lock();
        state.fed_until = now.lease + millis(state.definition.interval);
        state.fed = Some(verdict);
        let output = captured(output, state.definition.output_max_size as usize);
        state.note(verdict, &output, None, now);
        state.says(verdict, now);
    }

    /// Until when what was said holds; at the latest now, it is critical, and says so.
    pub(super) fn starves(&self, now: Now) -> Result<(), LeaseTime> {
        let mut state = self.0.lock();
        if state.fed_until > now.lease {
            return Err(state.fed_until - now.lease);
        }
        state.fed_until = now.lease + millis(state.definition.interval);
        state.fed = None;
        if state.verdict != Verdict::Critical {
            let output = match &*state.output {
                "" => "TTL expired".to_owned(),
                last => format!("TTL expired (last output before timeout follows): {last}"),
            };
            state.note(Verdict::Critical, &output, None, now);
            state.says(Verdict::Critical, now);
        }
        Ok(())
    }

    /// The check, if it has been critical for longer than its instance may be.
    pub(super) fn condemns(&self, now: Now) -> Option<Arc<Definition>> {
        let state = self.0.lock();
        let reprieve = millis(state.definition.deregister_after?);
        let since = state.critical_since.filter(|_| state.definition.probe != Probe::Stated)?;
        (now.lease >= since + reprieve).then(|| Arc::clone(&state.definition))
    }
}

impl State {
    /// Its times begin anew, as in Consul: who comes back at the end of its reprieve is not removed before the next probe.
    fn renew(&mut self, now: Now) {
        self.fed_until = now.lease + millis(self.definition.interval);
        self.critical_since = self.critical_since.map(|_| now.lease);
    }

    fn says(&mut self, verdict: Verdict, now: Now) {
        self.changes += u64::from(self.verdict != verdict);
        self.verdict = verdict;
        if verdict == Verdict::Critical {
            self.critical_since.get_or_insert(now.lease);
        } else {
            self.critical_since = None;
        }
    }

    fn note(&mut self, verdict: Verdict, output: &str, took: Option<Duration>, now: Now) {
        let output = start(output, MAX_OUTPUT_BYTES);
        if *self.output != *output {
            self.output = output.into();
        }
        let brief = start(output, BRIEF);
        // Mostly it is the same again.
        let known = self.findings.front().filter(|last| *last.output == *brief).map(|last| Arc::clone(&last.output));
        let output = known.unwrap_or_else(|| brief.into());
        self.findings.push_front(Finding { at: now.wall, verdict, took, output });
        self.findings.truncate(KEPT);
    }
}

/// The output of a report within its limit. What is left out is told as Consul tells it.
fn captured(output: &str, limit: usize) -> Cow<'_, str> {
    if output.len() <= limit {
        return Cow::Borrowed(output);
    }
    let kept = start(output, limit);
    Cow::Owned(format!("{kept} ... (captured {} of {} bytes)", kept.len(), output.len()))
}

/// The first bytes of a text, up to the end of a character.
fn start(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

fn millis(span: Duration) -> LeaseTime {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{CheckId, Thresholds},
        registry::test_support::at,
    };

    fn record(probe: Probe, reprieve: Option<Duration>) -> Record {
        let definition = Definition {
            interval: Duration::from_secs(10),
            deregister_after: reprieve,
            thresholds: Thresholds { passing: 1, warning: 2, critical: 2 },
            ..Definition::new(CheckId::parse("c").unwrap(), "c", probe)
        };
        Record::new(&Check::new(definition.into(), Verdict::Passing), at(0))
    }

    #[test]
    fn the_last_results_are_kept_and_flapping_is_counted() {
        let record = record(Probe::Ttl, None);
        for n in 0..60 {
            record.fed(if n % 2 == 0 { Verdict::Critical } else { Verdict::Passing }, &"ü".repeat(3_000), at(n));
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
        record.fed(Verdict::Passing, "well", at(5_000));
        assert_eq!(record.starves(at(14_999)), Err(1));
        assert_eq!(record.starves(at(15_000)), Ok(()));
        assert_eq!(&*record.output(), "TTL expired (last output before timeout follows): well");
        assert_eq!(record.starves(at(25_000)), Ok(()), "it stays so");
        assert_eq!(&*record.output(), "TTL expired (last output before timeout follows): well");
    }

    #[test]
    fn report_longer_than_output_max_size_is_cut_and_says_so() {
        let record = record(Probe::Ttl, None);
        let definition = Definition { output_max_size: 5, ..Definition::clone(&record.definition()) };
        record.follow(&Check::new(definition.into(), Verdict::Passing), at(1));
        for (said, kept) in [
            ("12345", "12345"),
            ("123456", "12345 ... (captured 5 of 6 bytes)"),
            ("üüü", "üü ... (captured 4 of 6 bytes)"),
        ] {
            record.fed(Verdict::Passing, said, at(2));
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
        record.fed(Verdict::Passing, "late", at(10_001));
        assert_eq!(record.follow(&registry_says(Verdict::Critical), at(10_002)), Some(Verdict::Passing));
        assert_eq!(record.follow(&registry_says(Verdict::Passing), at(10_003)), None);
        assert_eq!(record.starves(at(20_001)), Ok(()));
        assert_eq!(record.follow(&registry_says(Verdict::Critical), at(20_002)), None, "this time none came");
    }

    #[test]
    fn a_check_that_is_registered_again_has_all_its_time_again() {
        let fed = record(Probe::Ttl, None);
        fed.renew(at(9_000));
        assert_eq!(fed.starves(at(18_999)), Err(1));

        let record = record(Probe::Ttl, Some(Duration::from_mins(1)));
        record.fed(Verdict::Critical, "", at(1_000));
        let definition = Definition { notes: "another".into(), ..Definition::clone(&record.definition()) };
        record.follow(&Check::new(definition.into(), Verdict::Critical), at(60_000));
        assert!(record.condemns(at(119_999)).is_none());
        assert!(record.condemns(at(120_000)).is_some());
    }

    #[test]
    fn renewal_for_a_refused_registration_is_taken_back_unless_a_report_came_since() {
        let fed = record(Probe::Ttl, None);
        let before = fed.renew(at(9_000));
        fed.take_back(before);
        assert_eq!(fed.starves(at(10_000)), Ok(()));

        let reported = record(Probe::Ttl, None);
        let before = reported.renew(at(9_000));
        reported.fed(Verdict::Passing, "", at(9_500));
        reported.take_back(before);
        assert_eq!(reported.starves(at(19_499)), Err(1));

        let condemned = record(Probe::Ttl, Some(Duration::from_mins(1)));
        condemned.fed(Verdict::Critical, "", at(1_000));
        let before = condemned.renew(at(50_000));
        condemned.take_back(before);
        assert!(condemned.condemns(at(61_000)).is_some());
    }

    #[test]
    fn who_is_critical_for_too_long_is_condemned() {
        let target = crate::model::Target::parse("tcp", "127.0.0.1:1").unwrap();
        let record = record(Probe::Tcp { target, tls: None }, Some(Duration::from_mins(1)));
        let probe = |found, ms| record.probed(found, "", Duration::ZERO, at(ms));
        assert_eq!(probe(Verdict::Critical, 1_000), None, "once is not enough");
        assert_eq!(probe(Verdict::Critical, 2_000), Some(Verdict::Critical));
        assert!(record.condemns(at(61_999)).is_none());
        assert!(record.condemns(at(62_000)).is_some());
        record.renew(at(62_000));
        assert!(record.condemns(at(121_999)).is_none(), "it was registered again");
        assert!(record.condemns(at(122_000)).is_some());
        assert_eq!(probe(Verdict::Passing, 122_000), Some(Verdict::Passing));
        record.renew(at(123_000));
        assert!(record.condemns(at(200_000)).is_none());
    }
}
