//! What a check has found lately. The last result, and since when it counts, outlive the process where the engine has a store.

use std::{borrow::Cow, collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::threshold_counter::ThresholdCounter;
use crate::{
    engine::{SavedCheck, SavedResult},
    model::{Check, CheckDefinition, CheckStatus, Probe, Revision, UnixMillis},
    registry::{ClockReading, LeaseTime},
};

/// How many results are kept.
const KEPT: usize = 50;
/// Most bytes that are kept of the last result's output. It holds what the check's own limit lets through, and the URL before that.
const MAX_OUTPUT_BYTES: usize = 16 * 1024;
/// Most bytes that are kept of the output of each earlier result.
const BRIEF: usize = 128;

/// What one probe, or one report, came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// When.
    pub at: UnixMillis,
    /// What was found, before thresholds.
    pub verdict: CheckStatus,
    /// How long the probe took. `None`: it was reported.
    pub took: Option<Duration>,
    /// What was said, in brief.
    pub output: Arc<str>,
}

/// Times of a check before it was renewed.
#[derive(Debug, Clone, Copy)]
pub struct CheckTimes {
    fed_until: LeaseTime,
    ttl_from: UnixMillis,
    critical_since: Option<CriticalSince>,
    /// Value of `fed_until` after the renewal.
    renewed_until: LeaseTime,
}

/// What a check has found lately. Behind a mutex: one probe writes it, and hardly anybody reads.
#[derive(Debug)]
pub struct CheckHistory(Mutex<HistoryState>);

#[derive(Debug, Clone)]
struct HistoryState {
    definition: Arc<CheckDefinition>,
    tally: ThresholdCounter,
    /// What it says, as far as was found here.
    verdict: CheckStatus,
    output: Arc<str>,
    /// The newest first.
    findings: VecDeque<CheckResult>,
    changes: u64,
    /// Since when it says that nothing works.
    critical_since: Option<CriticalSince>,
    /// What was reported last, if that holds.
    fed: Option<CheckStatus>,
    /// Until when it does.
    fed_until: LeaseTime,
    /// Revision at which the check was added.
    created: Revision,
    /// Time from which the TTL counts, for the next process.
    ttl_from: UnixMillis,
    saving: SaveState,
}

/// Time at which a check became critical.
#[derive(Debug, Clone, Copy)]
struct CriticalSince {
    /// Wall-clock time, for the next process.
    wall: UnixMillis,
    /// In this process.
    lease: LeaseTime,
    /// Milliseconds that count from before this process.
    before: LeaseTime,
}

/// State of saving a record to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SaveState {
    Done,
    Needed,
    /// It will be given to the engine with others.
    Queued,
}

impl CheckHistory {
    /// Of a check that says what it says.
    pub(super) fn new(check: &Check, now: ClockReading) -> Self {
        let definition = Arc::clone(&check.definition);
        Self(Mutex::new(HistoryState {
            fed: None,
            fed_until: now.lease + millis(definition.interval),
            definition,
            tally: ThresholdCounter::default(),
            verdict: check.status,
            output: "".into(),
            findings: VecDeque::new(),
            changes: 0,
            critical_since: (check.status == CheckStatus::Critical).then(|| CriticalSince::now(now)),
            created: check.created,
            ttl_from: now.wall,
            saving: SaveState::Needed,
        }))
    }

    /// Of a check that an earlier process knew. `uncertain`: how much later than saved the last report may have been.
    pub(super) fn restored(check: &Check, saved: SavedCheck, uncertain: Duration, now: ClockReading) -> Self {
        let record = Self::new(check, now);
        record.0.lock().restore(saved, millis(uncertain), now);
        record
    }

    /// Returns true, once, if the state has to be saved.
    pub(super) fn needs_saving(&self) -> bool {
        let mut state = self.0.lock();
        let needed = state.saving == SaveState::Needed;
        if needed {
            state.saving = SaveState::Queued;
        }
        needed
    }

    /// The state for the next process.
    pub(super) fn save(&self) -> SavedCheck {
        let mut state = self.0.lock();
        state.saving = SaveState::Done;
        let output = &state.output;
        let result = |&CheckResult { at, verdict, took, .. }: &CheckResult| {
            let output = Arc::clone(output);
            SavedResult { at, status: verdict, took, output }
        };
        SavedCheck {
            created: state.created,
            ttl_from: state.ttl_from,
            critical_since: state.critical_since.map(|since| since.wall),
            changes: state.changes,
            last: state.findings.front().map(result),
        }
    }

    /// What was said with the last result.
    #[must_use]
    pub fn output(&self) -> Arc<str> {
        Arc::clone(&self.0.lock().output)
    }

    /// The last results, the newest first.
    #[must_use]
    pub fn findings(&self) -> Vec<CheckResult> {
        self.0.lock().findings.iter().cloned().collect()
    }

    /// How many times its verdict has changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.0.lock().changes
    }

    /// The check that it is of, as it is defined.
    pub(super) fn definition(&self) -> Arc<CheckDefinition> {
        Arc::clone(&self.0.lock().definition)
    }

    /// The same record, for an instance that takes the check over.
    pub(super) fn carried(&self) -> Self {
        Self(Mutex::new(HistoryState { saving: SaveState::Needed, ..self.0.lock().clone() }))
    }

    /// Takes what came to another record after this one was made of it: while the check went over to another instance.
    pub(super) fn catch_up(&self, from: &Self) {
        let from = from.0.lock().clone();
        let mut state = self.0.lock();
        let newest = |findings: &VecDeque<CheckResult>| findings.front().map(|finding| finding.at);
        if newest(&from.findings) > newest(&state.findings) {
            (state.output, state.findings, state.changes) = (from.output, from.findings, from.changes);
        }
        if from.fed_until > state.fed_until {
            (state.fed, state.fed_until, state.ttl_from) = (from.fed, from.fed_until, from.ttl_from);
        }
        state.changed();
    }

    /// How long what was said last still holds, of a check that is fed.
    pub(super) fn time_left(&self, now: ClockReading) -> Duration {
        Duration::from_millis(self.0.lock().fed_until.saturating_sub(now.lease))
    }

    /// The check is as the registry has it, perhaps with another definition, or another verdict, which somebody else knew. Returned is
    /// what was reported meanwhile, where the registry knows no better: a report that comes when the one before runs out may get there
    /// before the word that it has.
    pub(super) fn follow(&self, check: &Check, now: ClockReading) -> Option<CheckStatus> {
        let mut state = self.0.lock();
        if !Arc::ptr_eq(&state.definition, &check.definition) {
            state.definition = Arc::clone(&check.definition);
            state.tally = ThresholdCounter::default();
            state.fed = None;
            state.renew(now);
        }
        if state.created != check.created {
            state.created = check.created;
            state.changed();
        }
        let reported = state.fed.filter(|fed| *fed != check.status);
        if reported.is_none() {
            state.says(check.status, now);
        }
        reported
    }

    /// Has the times of the check begin anew: its instance is registered once more, with this very check. Returns the times before.
    pub(super) fn renew(&self, now: ClockReading) -> CheckTimes {
        let mut state = self.0.lock();
        let (fed_until, ttl_from, critical_since) = (state.fed_until, state.ttl_from, state.critical_since);
        state.renew(now);
        CheckTimes { fed_until, ttl_from, critical_since, renewed_until: state.fed_until }
    }

    /// Takes back a renewal, unless something was reported or found since.
    pub(super) fn take_back(&self, before: CheckTimes) {
        let mut state = self.0.lock();
        if state.fed_until == before.renewed_until && state.critical_since.is_some() == before.critical_since.is_some()
        {
            let CheckTimes { fed_until, ttl_from, critical_since, .. } = before;
            (state.fed_until, state.ttl_from, state.critical_since) = (fed_until, ttl_from, critical_since);
            state.changed();
        }
    }

    /// A probe was made. What the check says now, if that was found out.
    pub(super) fn probed(
        &self,
        found: CheckStatus,
        output: &str,
        took: Duration,
        now: ClockReading,
    ) -> Option<CheckStatus> {
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
    pub(super) fn fed(&self, verdict: CheckStatus, output: &str, now: ClockReading) {
        let mut state = self.0.lock();
        state.fed_until = now.lease + millis(state.definition.interval);
        state.ttl_from = now.wall;
        state.fed = Some(verdict);
        let output = captured(output, state.definition.output_max_size as usize);
        state.note(verdict, &output, None, now);
        state.says(verdict, now);
    }

    /// Until when what was said holds; at the latest now, it is critical, and says so.
    pub(super) fn starves(&self, now: ClockReading) -> Result<(), LeaseTime> {
        let mut state = self.0.lock();
        if state.fed_until > now.lease {
            return Err(state.fed_until - now.lease);
        }
        state.fed_until = now.lease + millis(state.definition.interval);
        state.fed = None;
        if state.verdict != CheckStatus::Critical {
            let output = match &*state.output {
                "" => "TTL expired".to_owned(),
                last => format!("TTL expired (last output before timeout follows): {last}"),
            };
            state.note(CheckStatus::Critical, &output, None, now);
            state.says(CheckStatus::Critical, now);
        }
        Ok(())
    }

    /// The check, if it has been critical for longer than its instance may be.
    pub(super) fn condemns(&self, now: ClockReading) -> Option<Arc<CheckDefinition>> {
        let state = self.0.lock();
        let reprieve = millis(state.definition.deregister_after?);
        let since = state.critical_since.filter(|_| state.definition.probe != Probe::Static)?;
        (now.lease.saturating_sub(since.lease) + since.before >= reprieve).then(|| Arc::clone(&state.definition))
    }
}

impl HistoryState {
    /// Its times begin anew, as in Consul: who comes back at the end of its reprieve is not removed before the next probe.
    fn renew(&mut self, now: ClockReading) {
        self.fed_until = now.lease + millis(self.definition.interval);
        self.ttl_from = now.wall;
        self.critical_since = self.critical_since.map(|_| CriticalSince::now(now));
        self.changed();
    }

    /// Goes on where an earlier process ended. The time since then counts, by the wall clock: one that went back lets no time have
    /// passed, and no TTL is longer than it was.
    fn restore(&mut self, saved: SavedCheck, uncertain: LeaseTime, now: ClockReading) {
        let SavedCheck { created: _, ttl_from, critical_since, changes, last } = saved;
        let interval = millis(self.definition.interval);
        self.changes = changes;
        if let Some(SavedResult { at, status: verdict, took, output }) = last {
            let brief = start(&output, BRIEF).into();
            self.findings.push_front(CheckResult { at, verdict, took, output: brief });
            self.output = output;
        }
        if ttl_from <= now.wall {
            self.ttl_from = ttl_from;
            let passed = (now.wall.0 - ttl_from.0).saturating_sub(uncertain);
            self.fed_until = now.lease + interval.saturating_sub(passed);
            self.saving = SaveState::Done;
        }
        if let (Some(known), Some(wall)) = (&mut self.critical_since, critical_since)
            && wall <= now.wall
        {
            // Nobody could show that it works while the process was stopped: there is time for one more probe, or report.
            let chance = interval + millis(self.definition.time_limit());
            let reprieve = self.definition.deregister_after.map_or(0, millis);
            let before = (now.wall.0 - wall.0).min(reprieve.saturating_sub(chance));
            *known = CriticalSince { wall, before, ..*known };
        }
    }

    fn changed(&mut self) {
        if self.saving == SaveState::Done {
            self.saving = SaveState::Needed;
        }
    }

    fn says(&mut self, verdict: CheckStatus, now: ClockReading) {
        if self.verdict != verdict {
            self.changes += 1;
            self.changed();
        }
        self.verdict = verdict;
        if verdict == CheckStatus::Critical {
            self.critical_since.get_or_insert_with(|| CriticalSince::now(now));
        } else {
            self.critical_since = None;
        }
    }

    fn note(&mut self, verdict: CheckStatus, output: &str, took: Option<Duration>, now: ClockReading) {
        let output = start(output, MAX_OUTPUT_BYTES);
        if *self.output != *output {
            self.output = output.into();
        }
        let brief = start(output, BRIEF);
        // Mostly it is the same again.
        let known = self.findings.front().filter(|last| *last.output == *brief).map(|last| Arc::clone(&last.output));
        let output = known.unwrap_or_else(|| brief.into());
        self.findings.push_front(CheckResult { at: now.wall, verdict, took, output });
        self.findings.truncate(KEPT);
        self.changed();
    }
}

impl CriticalSince {
    fn now(now: ClockReading) -> Self {
        Self { wall: now.wall, lease: now.lease, before: 0 }
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
#[path = "history/tests.rs"]
mod tests;
