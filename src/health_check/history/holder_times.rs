//! History of a check in a registry that several replicas share.
//!
//! Only the replica that holds an instance runs its checks. A report that arrives at another replica reaches the holder in one of two
//! ways:
//!
//! * The other replica claims the instance, and runs the check from then on. This is for instances without a lease only, because an
//!   instance with one is held where its heartbeats arrive. At most one claim is made in twice the longest interval of the instance's
//!   checks: each holder begins with a full TTL for every check, so more claims could keep a check passing that gets no reports.
//! * The other replica announces the report: it changes a number in the check, which restarts the TTL at the holder. A report that
//!   changes the status is announced at once. Another one is announced when between a half and three quarters of the TTL have passed
//!   since the holder began its TTL, as far as this replica knows: the holder then still has the rest.
//!
//! So a check expires between one TTL and one and three quarters after its last report.

use std::time::Duration;

use super::{
    CheckHistory,
    state::{CriticalSince, HistoryState, HolderTimes, millis},
};
use crate::{
    model::Check,
    registry::{ClockReading, LeaseTime},
};

/// Number of the longest intervals of an instance's checks that pass from one move of the instance to the next claim.
const INTERVALS_BETWEEN_CLAIMS: LeaseTime = 2;

impl CheckHistory {
    /// Returns whether this process holds the instance and runs the check. Otherwise the results here are not the latest.
    pub(in crate::health_check) fn is_held(&self) -> bool {
        self.0.lock().is_held
    }

    /// Begins to run the check here, with a full TTL. Does nothing if it is run here already.
    pub(in crate::health_check) fn begin_to_hold(&self, now: ClockReading) {
        self.0.lock().begin_to_hold(now);
    }

    /// Gives the check full times, because results may have been lost: a full TTL and, before its instance is removed, at least an
    /// interval and a timeout.
    pub(in crate::health_check) fn grant_full_times(&self, now: ClockReading) {
        self.0.lock().grant_full_times(now);
    }

    /// Updates the history to a check that another replica runs. `moved`: the instance has moved to another holder. Returns the time
    /// until a report that arrived here is to be announced. `None`: there is none.
    pub(in crate::health_check) fn follow(&self, check: &Check, moved: bool, now: ClockReading) -> Option<Duration> {
        let mut state = self.0.lock();
        let moved = state.stop_holding() || moved;
        if state.definition_revision != check.definition_revision {
            state.redefine(check);
        }
        state.created = check.created;
        let renewed = state.announced_reports != check.announced_reports;
        state.announced_reports = check.announced_reports;
        if moved {
            state.holder.moved = Some(now.lease);
        }
        if moved || renewed {
            state.holder_has_renewed(now);
        }
        state.set_status(check.status, now);
        // A report that is older than the TTL keeps nothing from expiring.
        state.holder.unannounced &= state.valid_until > now.lease;
        let due = state.announcement_due().saturating_sub(now.lease);
        state.holder.unannounced.then(|| Duration::from_millis(due))
    }

    /// Returns whether this replica may claim the instance. `longest`: longest interval of the instance's checks.
    pub(in crate::health_check) fn may_claim(&self, longest: Duration, now: ClockReading) -> bool {
        let state = self.0.lock();
        // If the check still counts as held, the instance has just moved away.
        let may_claim = |moved| now.lease >= moved + INTERVALS_BETWEEN_CLAIMS * millis(longest);
        !state.is_held && state.holder.moved.is_none_or(may_claim)
    }

    /// Records that a report has arrived here although another replica holds the instance. Returns false if an earlier one waits for its
    /// announcement.
    pub(in crate::health_check) fn defer_report(&self, now: ClockReading) -> bool {
        let mut state = self.0.lock();
        state.renew_ttl(now);
        !std::mem::replace(&mut state.holder.unannounced, true)
    }

    /// Returns whether a report that arrived here is to be announced now.
    pub(in crate::health_check) fn is_announcement_due(&self, now: ClockReading) -> bool {
        let state = self.0.lock();
        !state.is_held
            && state.holder.unannounced
            && state.valid_until > now.lease
            && state.announcement_due() <= now.lease
    }

    /// Records that all reports which have arrived here are announced.
    pub(in crate::health_check) fn set_announced(&self, now: ClockReading) {
        self.0.lock().holder_has_renewed(now);
    }
}

impl HistoryState {
    pub(super) fn begin_to_hold(&mut self, now: ClockReading) {
        if !self.is_held {
            self.is_held = true;
            self.holder = HolderTimes::default();
            self.grant_full_times(now);
        }
    }

    /// Removes the results, which are not the latest once another replica runs the check. Returns whether the check was run here.
    fn stop_holding(&mut self) -> bool {
        self.reported = None;
        if !self.is_held {
            return false;
        }
        self.is_held = false;
        self.results.clear();
        self.output = "".into();
        true
    }

    fn grant_full_times(&mut self, now: ClockReading) {
        self.renew_ttl(now);
        if let (Some(since), Some(deregister_after)) = (self.critical_since, self.definition.deregister_after) {
            let deregister_after = millis(deregister_after);
            let grace = millis(self.definition.interval) + millis(self.definition.time_limit());
            let critical_for = now.lease.saturating_sub(since.lease) + since.before;
            self.critical_since = Some(CriticalSince {
                lease: now.lease + grace.saturating_sub(deregister_after),
                before: critical_for.min(deregister_after.saturating_sub(grace)),
                ..since
            });
        }
        self.mark_changed();
    }

    fn holder_has_renewed(&mut self, now: ClockReading) {
        self.holder.renewed = Some(now.lease);
        self.holder.unannounced = false;
    }

    fn announcement_due(&self) -> LeaseTime {
        self.holder.renewed.map_or(0, |renewed| renewed + millis(self.definition.interval) / 2)
    }
}
