//! Recent results of one check, and its times. An engine with a store keeps the last result and the times for the next process.

use std::{borrow::Cow, collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;

use self::state::{CriticalSince, HistoryState, HolderTimes, SaveState, millis, prefix};
use super::threshold_counter::ThresholdCounter;
use crate::{
    engine::{SavedCheck, SavedResult},
    model::{Check, CheckDefinition, CheckStatus, Probe, Revision, UnixMillis},
    registry::{ClockReading, LeaseTime},
};

mod holder_times;
mod state;

/// Result of one probe or one report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// Time of the result.
    pub at: UnixMillis,
    /// Status of this result, before thresholds are applied.
    pub status: CheckStatus,
    /// Duration of the probe. `None`: the result was reported.
    pub took: Option<Duration>,
    /// Start of the output.
    pub output: Arc<str>,
}

/// Times of a check before a renewal, to undo it.
#[derive(Debug, Clone, Copy)]
pub struct CheckTimes {
    valid_until: LeaseTime,
    ttl_from: UnixMillis,
    critical_since: Option<CriticalSince>,
    /// Value of `valid_until` after the renewal.
    renewed_until: LeaseTime,
}

/// Recent results of one check, and its times. The mutex is rarely contended, because each check has one writer at a time.
#[derive(Debug)]
pub struct CheckHistory(Mutex<HistoryState>);

impl CheckHistory {
    /// Returns the history of a check that has no results yet. `is_held`: this process runs the check already.
    pub(super) fn new(check: &Check, is_held: bool, now: ClockReading) -> Self {
        let definition = Arc::clone(&check.definition);
        Self(Mutex::new(HistoryState {
            reported: None,
            valid_until: now.lease + millis(definition.interval),
            definition,
            definition_revision: check.definition_revision,
            counter: ThresholdCounter::default(),
            status: check.status,
            output: "".into(),
            results: VecDeque::new(),
            changes: 0,
            critical_since: (check.status == CheckStatus::Critical).then(|| CriticalSince::now(now)),
            created: check.created,
            ttl_from: now.wall,
            saving: SaveState::Needed,
            announced_reports: check.announced_reports,
            is_held,
            holder: HolderTimes::default(),
        }))
    }

    /// Returns the history of a check that an earlier process saved. `max_missing`: length of the time before the end of that process
    /// from which reports may be missing.
    pub(super) fn restored(check: &Check, saved: SavedCheck, max_missing: Duration, now: ClockReading) -> Self {
        let history = Self::new(check, true, now);
        history.0.lock().restore(saved, millis(max_missing), now);
        history
    }

    /// Returns whether the state has changed and is not queued for saving; from now on it counts as queued.
    pub(super) fn needs_saving(&self) -> bool {
        let mut state = self.0.lock();
        let needed = state.saving == SaveState::Needed;
        if needed {
            state.saving = SaveState::Queued;
        }
        needed
    }

    /// Returns the state for the next process; from now on it counts as saved.
    pub(super) fn save(&self) -> SavedCheck {
        let mut state = self.0.lock();
        state.saving = SaveState::Done;
        let output = &state.output;
        let saved = |&CheckResult { at, status, took, .. }: &CheckResult| {
            let output = Arc::clone(output);
            SavedResult { at, status, took, output }
        };
        SavedCheck {
            created: state.created,
            ttl_from: state.ttl_from,
            critical_since: state.critical_since.map(|since| since.wall),
            changes: state.changes,
            last: state.results.front().map(saved),
        }
    }

    /// Returns the output of the last result.
    #[must_use]
    pub fn output(&self) -> Arc<str> {
        Arc::clone(&self.0.lock().output)
    }

    /// Returns the results, the newest first.
    #[must_use]
    pub fn results(&self) -> Vec<CheckResult> {
        self.0.lock().results.iter().cloned().collect()
    }

    /// Returns the number of changes of the status.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.0.lock().changes
    }

    /// Returns the definition of the check.
    pub(super) fn definition(&self) -> Arc<CheckDefinition> {
        Arc::clone(&self.0.lock().definition)
    }

    /// Returns the revision of the definition, which identifies it among those that the check has had.
    pub(super) fn definition_revision(&self) -> Revision {
        self.0.lock().definition_revision
    }

    /// Returns the definition of the check, and its revision.
    pub(super) fn versioned_definition(&self) -> (Arc<CheckDefinition>, Revision) {
        let state = self.0.lock();
        (Arc::clone(&state.definition), state.definition_revision)
    }

    /// Returns a copy for an instance that takes over the check.
    pub(super) fn copied(&self) -> Self {
        Self(Mutex::new(HistoryState { saving: SaveState::Needed, ..self.0.lock().clone() }))
    }

    /// Takes over the results and reports that `source` got after it was copied to this history.
    pub(super) fn merge(&self, source: &Self) {
        let source = source.0.lock().clone();
        let mut state = self.0.lock();
        let newest = |results: &VecDeque<CheckResult>| results.front().map(|result| result.at);
        if newest(&source.results) > newest(&state.results) {
            (state.output, state.results, state.changes) = (source.output, source.results, source.changes);
        }
        if source.valid_until > state.valid_until {
            (state.reported, state.valid_until, state.ttl_from) =
                (source.reported, source.valid_until, source.ttl_from);
        }
        state.mark_changed();
    }

    /// Returns the time until the TTL of the last report expires.
    pub(super) fn ttl_left(&self, now: ClockReading) -> Duration {
        Duration::from_millis(self.0.lock().valid_until.saturating_sub(now.lease))
    }

    /// Updates the history to the check in the registry, which may have another definition or status.
    ///
    /// Returns the last reported status if it is still valid and the registry has a different one, so that the caller submits it. A
    /// report that arrives just after the TTL expired may find the earlier status in the registry; the expiry then overwrites that
    /// status.
    pub(super) fn update(&self, check: &Check, now: ClockReading) -> Option<CheckStatus> {
        let mut state = self.0.lock();
        if state.definition_revision != check.definition_revision {
            state.redefine(check);
            state.renew(now);
        }
        if state.created != check.created {
            state.created = check.created;
            state.mark_changed();
        }
        if state.announced_reports != check.announced_reports {
            state.announced_reports = check.announced_reports;
            state.renew_ttl(now);
            // The announced report is newer than the last one that arrived here.
            state.reported = None;
        }
        let unsubmitted = state.reported.filter(|reported| *reported != check.status);
        if unsubmitted.is_none() {
            state.set_status(check.status, now);
        }
        unsubmitted
    }

    /// Restarts the times of the check, because its instance is registered again with the same check. Returns the earlier times.
    pub(super) fn renew(&self, now: ClockReading) -> CheckTimes {
        let mut state = self.0.lock();
        let (valid_until, ttl_from, critical_since) = (state.valid_until, state.ttl_from, state.critical_since);
        state.renew(now);
        CheckTimes { valid_until, ttl_from, critical_since, renewed_until: state.valid_until }
    }

    /// Undoes a renewal, unless the check got a result since.
    pub(super) fn undo_renewal(&self, before: CheckTimes) {
        let mut state = self.0.lock();
        let is_critical = state.critical_since.is_some();
        if state.valid_until == before.renewed_until && is_critical == before.critical_since.is_some() {
            let CheckTimes { valid_until, ttl_from, critical_since, .. } = before;
            (state.valid_until, state.ttl_from, state.critical_since) = (valid_until, ttl_from, critical_since);
            state.mark_changed();
        }
    }

    /// Records the result of a probe. Returns the status of the check, if the thresholds are reached.
    pub(super) fn record_probe(
        &self,
        result: CheckStatus,
        output: &str,
        took: Duration,
        now: ClockReading,
    ) -> Option<CheckStatus> {
        let mut state = self.0.lock();
        state.push_result(result, output, Some(took), now);
        let thresholds = state.definition.thresholds;
        let status = state.counter.count(result, thresholds);
        if let Some(status) = status {
            state.set_status(status, now);
        }
        status
    }

    /// Records a report that arrives at the replica which holds the instance. It is valid for the TTL.
    pub(super) fn report(&self, status: CheckStatus, output: &str, now: ClockReading) {
        let mut state = self.0.lock();
        state.begin_to_hold(now);
        state.renew_ttl(now);
        state.reported = Some(status);
        let output = limited_output(output, state.definition.output_max_size as usize);
        state.push_result(status, &output, None, now);
        state.set_status(status, now);
    }

    /// Sets the check to critical if the TTL of the last report has expired. Otherwise returns the milliseconds until it
    /// expires.
    pub(super) fn expire_ttl(&self, now: ClockReading) -> Result<(), LeaseTime> {
        let mut state = self.0.lock();
        if state.valid_until > now.lease {
            return Err(state.valid_until - now.lease);
        }
        state.valid_until = now.lease + millis(state.definition.interval);
        state.reported = None;
        if state.status != CheckStatus::Critical {
            let output = match &*state.output {
                "" => "TTL expired".to_owned(),
                last => format!("TTL expired (last output before timeout follows): {last}"),
            };
            state.push_result(CheckStatus::Critical, &output, None, now);
            state.set_status(CheckStatus::Critical, now);
        }
        Ok(())
    }

    /// Returns the revision of the definition, if the check has been critical for the time after which its instance is deregistered.
    pub(super) fn removal_due(&self, now: ClockReading) -> Option<Revision> {
        let state = self.0.lock();
        let deregister_after = millis(state.definition.deregister_after?);
        let since = state.critical_since.filter(|_| state.definition.probe != Probe::Static)?;
        let critical_for = now.lease.saturating_sub(since.lease) + since.before;
        (critical_for >= deregister_after).then_some(state.definition_revision)
    }
}

/// Limits the output of a report to the size that its check allows, with Consul's note about the rest.
fn limited_output(output: &str, max_bytes: usize) -> Cow<'_, str> {
    if output.len() <= max_bytes {
        return Cow::Borrowed(output);
    }
    let kept = prefix(output, max_bytes);
    Cow::Owned(format!("{kept} ... (captured {} of {} bytes)", kept.len(), output.len()))
}

#[cfg(test)]
#[path = "history/tests.rs"]
mod tests;
