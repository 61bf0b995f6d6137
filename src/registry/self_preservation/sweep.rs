//! A sweep: decides which overdue leases expire, which are held as suspects, and which recover.

use std::{
    mem,
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use super::{
    SelfPreservationState, TrackedLease,
    event::{EventKind, SelfPreservationStatus},
    lease_counter::{LeaseCounter, TotalLeaseCounter},
    service_records::RecordIndex,
    sliding_counter::SlidingCounter,
    threshold::{REGISTRY_MIN_SERVICES, release_time},
};
use crate::{
    model::{Caller, LeaseTerms, ServiceName},
    registry::{
        command::Command,
        event::ClockReading,
        lease::{Lease, LeasePhase, LeaseTime, TrackingState, millis},
        timing_wheel::TickResult,
    },
};

/// Minimum number of tracked leases that a sweep looks at, if there are as many.
const MIN_LEASES_PER_SWEEP: usize = 4_096;
/// Number of sweeps in which all tracked leases are looked at, where they are more: with ten sweeps a second, a second.
const SWEEPS_PER_ROUND: usize = 10;
/// Maximum number of tracked leases that a sweep looks at: when hundreds of thousands recover together, it must not delay the next
/// sweeps.
const MAX_LEASES_PER_SWEEP: usize = 16_384;

/// Result of a sweep.
#[derive(Debug, Default)]
pub(super) struct SweepResult {
    /// Commands to submit, in this order.
    pub commands: Vec<Command>,
    /// Leases that were ended.
    pub expired: Vec<Arc<Lease>>,
    /// Leases to put back into the timing wheel, because heartbeats arrived.
    pub fresh: Vec<Arc<Lease>>,
}

/// State of one sweep.
#[derive(Debug)]
struct SweepContext<'a> {
    now: ClockReading,
    total: &'a TotalLeaseCounter,
    /// Record and TTL of the last assessment: the next is often the same.
    assessed: Option<(RecordIndex, LeaseTime)>,
    result: SweepResult,
}

impl SelfPreservationState {
    /// Sweeps with the leases that the timing wheel found. `counter_of` returns the counter of a service that has instances.
    pub(super) fn sweep(
        &mut self,
        found: &TickResult,
        total: &TotalLeaseCounter,
        now: ClockReading,
        counter_of: impl Fn(&ServiceName) -> Option<Arc<LeaseCounter>>,
    ) -> SweepResult {
        let mut sweep = SweepContext { now, total, assessed: None, result: SweepResult::default() };
        for lease in &found.expiring {
            self.start_tracking(lease, now.lease, &counter_of);
        }
        // All expiring leases are counted before the first is decided, and recovered ones no longer are.
        let due: Vec<_> =
            found.overdue.iter().filter_map(|lease| self.track_overdue(lease, &mut sweep, &counter_of)).collect();
        let (window, dropped) = self.review(&mut sweep);
        for at in window.clone() {
            let TrackedLease { lease, record } = &self.tracked[at];
            if lease.tracking_state() == TrackingState::Suspect {
                let (ttl, index) = (lease.ttl_ms(), *record);
                self.assess(index, ttl, &mut sweep);
            }
        }
        for (lease, index) in &due {
            self.assess(*index, lease.ttl_ms(), &mut sweep);
        }
        for at in window.clone() {
            self.decide_held(at, &mut sweep);
        }
        for (lease, index) in &due {
            self.decide_overdue(lease, *index, &mut sweep);
        }
        let kept: Vec<_> = self.tracked[window].iter().map(|tracked| tracked.record).collect();
        let touched = kept.into_iter().chain(dropped).chain(due.into_iter().map(|(_, index)| index));
        touched.for_each(|index| self.end_if_over(index, &sweep));
        self.end_all_if_over(&sweep);
        sweep.result
    }

    /// Tracks a lease whose heartbeat is missing. `None`: the heartbeat has arrived in the meantime, or the lease has
    /// ended.
    fn start_tracking(
        &mut self,
        lease: &Arc<Lease>,
        now: LeaseTime,
        counter_of: impl Fn(&ServiceName) -> Option<Arc<LeaseCounter>>,
    ) -> Option<RecordIndex> {
        if !matches!(lease.phase(now), LeasePhase::Expiring | LeasePhase::Overdue) || !lease.expires_here() {
            return None;
        }
        if lease.tracking_state() != TrackingState::Trusted {
            return self.records.find(&lease.service);
        }
        let index = self.records.open(&lease.service, &counter_of(&lease.service)?);
        self.track(lease, index, TrackingState::Expiring);
        Some(index)
    }

    /// Tracks a lease that the timing wheel found overdue, and no longer holds. Returns it if it is to be decided now.
    fn track_overdue(
        &mut self,
        lease: &Arc<Lease>,
        sweep: &mut SweepContext<'_>,
        counter_of: impl Fn(&ServiceName) -> Option<Arc<LeaseCounter>>,
    ) -> Option<(Arc<Lease>, RecordIndex)> {
        let now = sweep.now.lease;
        let index = if lease.is_overdue(now) { self.start_tracking(lease, now, counter_of) } else { None };
        let Some(index) = index else {
            sweep.result.fresh.extend(lease.is_alive().then(|| Arc::clone(lease)));
            return None;
        };
        // Suspect and released leases are decided when they are reviewed.
        (lease.tracking_state() == TrackingState::Expiring).then(|| (Arc::clone(lease), index))
    }

    /// Looks at tracked leases, and drops those with heartbeats. Returns the range of those that it kept, and the records of the
    /// dropped ones.
    fn review(&mut self, sweep: &mut SweepContext<'_>) -> (Range<usize>, Vec<RecordIndex>) {
        let most = self.tracked.len().div_ceil(SWEEPS_PER_ROUND).clamp(MIN_LEASES_PER_SWEEP, MAX_LEASES_PER_SWEEP);
        let start = if self.tracked.len() <= most || self.cursor >= self.tracked.len() { 0 } else { self.cursor };
        let (mut at, mut end, mut dropped) = (start, self.tracked.len().min(start + most), Vec::new());
        while at < end {
            let lease = &self.tracked[at].lease;
            let (tracking_state, phase) = (lease.tracking_state(), lease.phase(sweep.now.lease));
            let stays = match (tracking_state, phase) {
                // A suspect that is only expiring had a heartbeat, and the stream that carried it broke.
                (TrackingState::Trusted, _)
                | (_, LeasePhase::Fresh | LeasePhase::Ended)
                | (TrackingState::Suspect, LeasePhase::Expiring) => false,
                (TrackingState::Expiring | TrackingState::Released, LeasePhase::Expiring)
                | (_, LeasePhase::Overdue) => true,
            };
            if stays {
                at += 1;
                continue;
            }
            let TrackedLease { lease, record: index } = self.tracked.swap_remove(at);
            end = end.min(self.tracked.len());
            self.uncount(&lease, index, TrackingState::Trusted);
            if let Some(record) = self.records.get_mut(index) {
                record.tracked -= 1;
            }
            dropped.push(index);
            if phase != LeasePhase::Ended && matches!(tracking_state, TrackingState::Suspect | TrackingState::Released)
            {
                sweep.result.commands.push(Command::Recover(Arc::clone(&lease)));
                sweep.result.fresh.push(lease);
            }
        }
        self.cursor = end;
        (start..end, dropped)
    }

    /// Compares the thresholds of a service and of the registry, by the TTL of an overdue lease.
    fn assess(&mut self, index: RecordIndex, ttl: LeaseTime, sweep: &mut SweepContext<'_>) {
        let before = sweep.assessed.replace((index, ttl));
        if before == Some((index, ttl)) {
            return;
        }
        let Some(record) = self.records.get_mut(index) else { return };
        let now = sweep.now;
        let input = record.threshold.input(record.counter.leases(), now.lease, ttl);
        if record.threshold.is_exceeded(input) && record.threshold.activate(now, ttl) {
            let status = record.status(now.lease);
            self.log.add(now, EventKind::Began, status);
        }
        if before.is_some_and(|(_, before)| before == ttl) {
            return;
        }
        let input = self.all.input(sweep.total.leases.load(Ordering::Relaxed), now.lease, ttl);
        let services = sweep.total.services.load(Ordering::Relaxed);
        if self.all.is_exceeded(input) && services >= REGISTRY_MIN_SERVICES && self.all.activate(now, ttl) {
            self.log.add(now, EventKind::Began, SelfPreservationStatus::new(None, &self.all, input));
        }
    }

    /// Decides a tracked lease that was held by an earlier sweep, or that an operator released.
    fn decide_held(&mut self, at: usize, sweep: &mut SweepContext<'_>) {
        let TrackedLease { lease, record } = &self.tracked[at];
        let counts_as_removal = match lease.tracking_state() {
            TrackingState::Suspect if self.may_expire(lease, *record, sweep) => true,
            TrackingState::Released if lease.is_overdue(sweep.now.lease) => false,
            TrackingState::Trusted | TrackingState::Expiring | TrackingState::Suspect | TrackingState::Released => {
                return;
            }
        };
        let (lease, index) = (Arc::clone(lease), *record);
        self.expire(&lease, index, counts_as_removal, sweep);
    }

    /// Decides a lease that has just become overdue.
    fn decide_overdue(&mut self, lease: &Arc<Lease>, index: RecordIndex, sweep: &mut SweepContext<'_>) {
        if lease.tracking_state() != TrackingState::Expiring {
            sweep.result.fresh.push(Arc::clone(lease)); // a heartbeat arrived at this moment
            return;
        }
        if self.may_expire(lease, index, sweep) {
            return self.expire(lease, index, true, sweep);
        }
        lease.set_tracking_state(TrackingState::Suspect);
        let until = release_time(lease.deadline(sweep.now.lease), lease.ttl_ms());
        let threshold = self.records.get_mut(index).map(|record| &mut record.threshold);
        threshold.into_iter().chain([&mut self.all]).for_each(|threshold| threshold.add_suspect(until));
        sweep.result.commands.push(Command::Suspect(Arc::clone(lease)));
    }

    /// Returns whether an overdue lease may expire: self-preservation does not hold it, or releases it.
    fn may_expire(&self, lease: &Lease, index: RecordIndex, sweep: &SweepContext<'_>) -> bool {
        let Some(record) = self.records.get(index) else { return true };
        let (ttl, now) = (lease.ttl_ms(), sweep.now.lease);
        let all_hold = self.all.holds(now, ttl);
        if !all_hold && !record.threshold.holds(now, ttl) {
            return true;
        }
        let input = || record.threshold.input(record.counter.leases(), now, ttl);
        let all_input = || self.all.input(sweep.total.leases.load(Ordering::Relaxed), now, ttl);
        release_time(lease.deadline(now), ttl) < now
            && record.threshold.permits_release(input(), now, ttl)
            && (!all_hold || self.all.permits_release(all_input(), now, ttl))
    }

    fn expire(
        &mut self,
        lease: &Arc<Lease>,
        index: RecordIndex,
        counts_as_removal: bool,
        sweep: &mut SweepContext<'_>,
    ) {
        let now = sweep.now.lease;
        if !lease.expire(now) {
            sweep.result.fresh.push(Arc::clone(lease)); // a heartbeat arrived at this moment
            return;
        }
        // The next review drops it from the list.
        self.uncount(lease, index, TrackingState::Trusted);
        if let Some(record) = self.records.get_mut(index) {
            sweep.total.remove(lease, &record.counter);
            lease.set_judged_by(if counts_as_removal { record.last_elsewhere } else { Lease::RELEASED });
            if counts_as_removal {
                record.threshold.expirations.add(now);
                self.all.expirations.add(now);
            }
        }
        sweep.result.expired.push(Arc::clone(lease));
        sweep.result.commands.push(Command::Expire(Arc::clone(lease)));
    }

    fn end_if_over(&mut self, index: RecordIndex, sweep: &SweepContext<'_>) {
        let now = sweep.now;
        if let Some(record) = self.records.get_mut(index)
            && record.threshold.is_over(now.lease)
        {
            let status = record.status(now.lease);
            record.threshold.activation = None;
            self.log.add(now, EventKind::Ended, status);
        }
    }

    fn end_all_if_over(&mut self, sweep: &SweepContext<'_>) {
        let now = sweep.now;
        if self.all.is_over(now.lease) {
            let ttl = self.all.activation.take().map_or(0, |activation| activation.longest_ttl);
            let input = self.all.input(sweep.total.leases.load(Ordering::Relaxed), now.lease, ttl);
            self.log.add(now, EventKind::Ended, SelfPreservationStatus::new(None, &self.all, input));
        }
        self.all.expirations.forget(now.lease, millis(LeaseTerms::MAX_TTL));
        self.records.drop_unneeded(now.lease);
    }

    /// Releases the silent instances of a service or of all, and forgets removals.
    pub(super) fn reset(
        &mut self,
        service: Option<&ServiceName>,
        total: &TotalLeaseCounter,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> usize {
        let wanted = service.map(|service| self.records.find(service));
        let is_wanted = |index: RecordIndex| wanted.is_none_or(|wanted| wanted == Some(index));
        let tracked = mem::take(&mut self.tracked);
        let mut released = 0;
        for TrackedLease { lease, record } in tracked.iter().filter(|tracked| is_wanted(tracked.record)) {
            let is_silent = matches!(lease.phase(now.lease), LeasePhase::Expiring | LeasePhase::Overdue);
            if is_silent && matches!(lease.tracking_state(), TrackingState::Expiring | TrackingState::Suspect) {
                self.uncount(lease, *record, TrackingState::Released);
                released += 1;
            }
        }
        self.tracked = tracked;
        for record in self.records.iter_mut().filter(|record| service.is_none_or(|service| *service == record.name)) {
            record.threshold.expirations = SlidingCounter::default();
            let status = record.status(now.lease);
            if record.threshold.activation.take().is_some() {
                self.log.add_reset(now, status, caller);
            }
        }
        if service.is_none() {
            self.all.expirations = SlidingCounter::default();
            let input = self.all.input(total.leases.load(Ordering::Relaxed), now.lease, 0);
            let status = SelfPreservationStatus::new(None, &self.all, input);
            if self.all.activation.take().is_some() {
                self.log.add_reset(now, status, caller);
            }
        }
        released
    }
}
