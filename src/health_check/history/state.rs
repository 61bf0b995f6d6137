//! State of the history of one check.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{CheckResult, ThresholdCounter};
use crate::{
    engine::{SavedCheck, SavedResult},
    model::{Check, CheckDefinition, CheckStatus, Revision, UnixMillis},
    registry::{ClockReading, LeaseTime},
};

/// Maximum number of results.
pub(super) const MAX_RESULTS: usize = 50;
/// Maximum bytes of the output of the last result: more than the largest limit of a check, because the output also contains
/// the URL.
pub(super) const MAX_OUTPUT_BYTES: usize = 16 * 1024;
/// Maximum bytes of the output of each earlier result.
pub(super) const MAX_EARLIER_OUTPUT_BYTES: usize = 128;

/// State of the history of one check.
#[derive(Debug, Clone)]
pub(super) struct HistoryState {
    pub(super) definition: Arc<CheckDefinition>,
    /// Identifies the definition among those that the check has had.
    pub(super) definition_revision: Revision,
    pub(super) counter: ThresholdCounter,
    /// Current status.
    pub(super) status: CheckStatus,
    /// Output of the last result.
    pub(super) output: Arc<str>,
    /// Results, the newest first.
    pub(super) results: VecDeque<CheckResult>,
    /// Number of changes of the status.
    pub(super) changes: u64,
    /// Start of the current critical status.
    pub(super) critical_since: Option<CriticalSince>,
    /// Last reported status, until its TTL expires.
    pub(super) reported: Option<CheckStatus>,
    /// Time at which the TTL of the last report expires.
    pub(super) valid_until: LeaseTime,
    /// Revision at which the check was added.
    pub(super) created: Revision,
    /// Wall-clock time from which the TTL counts, for the next process.
    pub(super) ttl_from: UnixMillis,
    pub(super) saving: SaveState,
    /// Number of announced reports ([`Check::announced_reports`](crate::model::Check::announced_reports)) that the TTL includes.
    pub(super) announced_reports: u32,
    /// Set while this process holds the instance and runs the check.
    pub(super) is_held: bool,
    /// Times of the holder, if that is another replica.
    pub(super) holder: HolderTimes,
}

/// Times of the replica that holds the instance of a check, as another replica sees them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HolderTimes {
    /// Time at which the instance last moved to another holder. `None`: unknown, or long ago.
    pub(super) moved: Option<LeaseTime>,
    /// Time at which the holder last began the TTL, because the instance moved or a report was announced. `None`: unknown, or long ago.
    pub(super) renewed: Option<LeaseTime>,
    /// Set if a report has arrived here since `renewed`.
    pub(super) unannounced: bool,
}

/// Time at which a check became critical.
#[derive(Debug, Clone, Copy)]
pub(super) struct CriticalSince {
    /// Wall-clock time, for the next process.
    pub(super) wall: UnixMillis,
    /// Time in this process.
    pub(super) lease: LeaseTime,
    /// Milliseconds before this process that count as critical.
    pub(super) before: LeaseTime,
}

/// Progress of saving a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SaveState {
    /// The engine has the current state.
    Done,
    /// The state has changed since it was saved.
    Needed,
    /// The state has changed, and is queued for saving.
    Queued,
}

impl HistoryState {
    /// Takes over another definition.
    pub(super) fn redefine(&mut self, check: &Check) {
        self.definition_revision = check.definition_revision;
        self.definition = Arc::clone(&check.definition);
        self.counter = ThresholdCounter::default();
        self.reported = None;
    }

    /// Restarts the times, as in Consul: an instance that registers again just before it would be deregistered gets another probe.
    pub(super) fn renew(&mut self, now: ClockReading) {
        self.renew_ttl(now);
        self.critical_since = self.critical_since.map(|_| CriticalSince::now(now));
        self.mark_changed();
    }

    /// Restarts the TTL.
    pub(super) fn renew_ttl(&mut self, now: ClockReading) {
        self.valid_until = now.lease + millis(self.definition.interval);
        self.ttl_from = now.wall;
    }

    /// Continues from the saved state of an earlier process. The time since then counts, by the wall clock. If that went back, no time
    /// has passed. No TTL gets longer than its interval.
    pub(super) fn restore(&mut self, saved: SavedCheck, max_missing: LeaseTime, now: ClockReading) {
        let SavedCheck { created: _, ttl_from, critical_since, changes, last } = saved;
        let interval = millis(self.definition.interval);
        self.changes = changes;
        if let Some(SavedResult { at, status, took, output }) = last {
            let start = prefix(&output, MAX_EARLIER_OUTPUT_BYTES).into();
            self.results.push_front(CheckResult { at, status, took, output: start });
            self.output = output;
        }
        if ttl_from <= now.wall {
            self.ttl_from = ttl_from;
            let passed = (now.wall.0 - ttl_from.0).saturating_sub(max_missing);
            self.valid_until = now.lease + interval.saturating_sub(passed);
            self.saving = SaveState::Done;
        }
        if let (Some(known), Some(wall)) = (&mut self.critical_since, critical_since)
            && wall <= now.wall
        {
            // The instance could not pass while the process was stopped, so it gets time for one more probe or report.
            let grace = interval + millis(self.definition.time_limit());
            let deregister_after = self.definition.deregister_after.map_or(0, millis);
            let before = (now.wall.0 - wall.0).min(deregister_after.saturating_sub(grace));
            *known = CriticalSince { wall, before, ..*known };
        }
    }

    pub(super) fn mark_changed(&mut self) {
        if self.saving == SaveState::Done {
            self.saving = SaveState::Needed;
        }
    }

    pub(super) fn set_status(&mut self, status: CheckStatus, now: ClockReading) {
        if self.status != status {
            self.changes += 1;
            self.mark_changed();
        }
        self.status = status;
        if status == CheckStatus::Critical {
            self.critical_since.get_or_insert_with(|| CriticalSince::now(now));
        } else {
            self.critical_since = None;
        }
    }

    pub(super) fn push_result(&mut self, status: CheckStatus, output: &str, took: Option<Duration>, now: ClockReading) {
        let output = prefix(output, MAX_OUTPUT_BYTES);
        if *self.output != *output {
            self.output = output.into();
        }
        let start = prefix(output, MAX_EARLIER_OUTPUT_BYTES);
        // Consecutive outputs are usually equal, and then share their memory.
        let last = self.results.front().filter(|last| *last.output == *start).map(|last| Arc::clone(&last.output));
        let output = last.unwrap_or_else(|| start.into());
        self.results.push_front(CheckResult { at: now.wall, status, took, output });
        self.results.truncate(MAX_RESULTS);
        self.mark_changed();
    }
}

impl CriticalSince {
    pub(super) fn now(now: ClockReading) -> Self {
        Self { wall: now.wall, lease: now.lease, before: 0 }
    }
}

/// Returns the first bytes of a text, up to the end of a character.
pub(super) fn prefix(text: &str, max_bytes: usize) -> &str {
    &text[..text.floor_char_boundary(max_bytes)]
}

pub(super) fn millis(span: Duration) -> LeaseTime {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX / 4)
}
