//! One sweep: who goes, who is held, who is believed again.

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
    threshold::{FEWEST_SERVICES, patience},
};
use crate::{
    model::{LeaseTerms, ServiceName},
    registry::{
        command::Command,
        event::ClockReading,
        lease::{Lease, LeasePhase, LeaseStanding, LeaseTime, millis},
        timing_wheel::TickResult,
    },
};

/// Tracked leases that a sweep looks at in any case.
const AT_ONCE: usize = 4_096;
/// And where there are more, one in so many: at ten sweeps a second each is looked at once a second.
const PORTION: usize = 10;
/// But no more than these: when hundreds of thousands come back together, a sweep must not hold up the next ones.
const AT_MOST: usize = 16_384;

/// What comes of a sweep.
#[derive(Debug, Default)]
pub(super) struct SweepResult {
    /// To be submitted, in this order.
    pub commands: Vec<Command>,
    /// These were ended.
    pub expired: Vec<Arc<Lease>>,
    /// These are to be looked at by the wheel again: heartbeats came.
    pub fresh: Vec<Arc<Lease>>,
}

/// What a sweep works with.
#[derive(Debug)]
struct SweepContext<'a> {
    now: ClockReading,
    total: &'a TotalLeaseCounter,
    /// What was assessed last: the next is often the same.
    assessed: Option<(RecordIndex, LeaseTime)>,
    harvest: SweepResult,
}

impl SelfPreservationState {
    /// Takes what the wheel found; `count` finds the count of a service that is there.
    pub(super) fn sweep(
        &mut self,
        turn: &TickResult,
        total: &TotalLeaseCounter,
        now: ClockReading,
        count: impl Fn(&ServiceName) -> Option<Arc<LeaseCounter>>,
    ) -> SweepResult {
        let mut round = SweepContext { now, total, assessed: None, harvest: SweepResult::default() };
        for lease in &turn.weak {
            self.take_in(lease, now.lease, &count);
        }
        // All that is weak counts before the first is judged; and who has come back does not.
        let due: Vec<_> = turn.overdue.iter().filter_map(|lease| self.due(lease, &mut round, &count)).collect();
        let (window, left) = self.look(&mut round);
        for at in window.clone() {
            let TrackedLease { lease, place } = &self.tracked[at];
            if lease.standing() == LeaseStanding::Suspect {
                let (ttl, place) = (lease.ttl_ms(), *place);
                self.assess(place, ttl, &mut round);
            }
        }
        for (lease, place) in &due {
            self.assess(*place, lease.ttl_ms(), &mut round);
        }
        for at in window.clone() {
            self.judge_held(at, &mut round);
        }
        for (lease, place) in &due {
            self.judge_due(lease, *place, &mut round);
        }
        let kept: Vec<_> = self.tracked[window].iter().map(|tracked| tracked.place).collect();
        let touched = kept.into_iter().chain(left).chain(due.into_iter().map(|(_, place)| place));
        touched.for_each(|place| self.close(place, &round));
        self.tidy(&round);
        round.harvest
    }

    /// Tracks a lease whose heartbeat is missing. `None`: it has come, or the lease has ended.
    fn take_in(
        &mut self,
        lease: &Arc<Lease>,
        now: LeaseTime,
        count: impl Fn(&ServiceName) -> Option<Arc<LeaseCounter>>,
    ) -> Option<RecordIndex> {
        if !matches!(lease.pulse(now), LeasePhase::Weak | LeasePhase::Overdue) {
            return None;
        }
        if lease.standing() != LeaseStanding::Trusted {
            return self.records.find(&lease.service);
        }
        let place = self.records.open(&lease.service, &count(&lease.service)?);
        self.track(lease, place, LeaseStanding::Doubted);
        Some(place)
    }

    /// A lease that the wheel found overdue, if it is to be judged now. The wheel has let go of it.
    fn due(
        &mut self,
        lease: &Arc<Lease>,
        round: &mut SweepContext<'_>,
        count: impl Fn(&ServiceName) -> Option<Arc<LeaseCounter>>,
    ) -> Option<(Arc<Lease>, RecordIndex)> {
        let place = if lease.is_overdue(round.now.lease) { self.take_in(lease, round.now.lease, count) } else { None };
        let Some(place) = place else {
            round.harvest.fresh.extend(lease.is_alive().then(|| Arc::clone(lease)));
            return None;
        };
        // Suspects and condemned are judged when they are looked at.
        (lease.standing() == LeaseStanding::Doubted).then(|| (Arc::clone(lease), place))
    }

    /// Looks at tracked leases and lets go of those that are no longer weak. Returns which it looked at and kept, and where the
    /// others were.
    fn look(&mut self, round: &mut SweepContext<'_>) -> (Range<usize>, Vec<RecordIndex>) {
        let most = self.tracked.len().div_ceil(PORTION).clamp(AT_ONCE, AT_MOST);
        let start = if self.tracked.len() <= most || self.cursor >= self.tracked.len() { 0 } else { self.cursor };
        let (mut at, mut end, mut left) = (start, self.tracked.len().min(start + most), Vec::new());
        while at < end {
            let lease = &self.tracked[at].lease;
            let (standing, pulse) = (lease.standing(), lease.pulse(round.now.lease));
            let stays = match (standing, pulse) {
                // A suspect that is only weak: a heartbeat came, and the stream that carried it broke.
                (LeaseStanding::Trusted, _)
                | (_, LeasePhase::Steady | LeasePhase::Ended)
                | (LeaseStanding::Suspect, LeasePhase::Weak) => false,
                (LeaseStanding::Doubted | LeaseStanding::Condemned, LeasePhase::Weak) | (_, LeasePhase::Overdue) => {
                    true
                }
            };
            if stays {
                at += 1;
                continue;
            }
            let TrackedLease { lease, place } = self.tracked.swap_remove(at);
            end = end.min(self.tracked.len());
            self.strike(&lease, place, LeaseStanding::Trusted);
            if let Some(record) = self.records.get_mut(place) {
                record.tracked -= 1;
            }
            left.push(place);
            if pulse != LeasePhase::Ended && matches!(standing, LeaseStanding::Suspect | LeaseStanding::Condemned) {
                round.harvest.commands.push(Command::Recover(Arc::clone(&lease)));
                round.harvest.fresh.push(lease);
            }
        }
        self.cursor = end;
        (start..end, left)
    }

    /// Says whether too many are silent, by the time to live of one who is.
    fn assess(&mut self, place: RecordIndex, ttl: LeaseTime, round: &mut SweepContext<'_>) {
        let before = round.assessed.replace((place, ttl));
        if before == Some((place, ttl)) {
            return;
        }
        let Some(record) = self.records.get_mut(place) else { return };
        let now = round.now;
        let numbers = record.ward.numbers(record.head.leases(), now.lease, ttl);
        if record.ward.is_exceeded(numbers) && record.ward.storm(now, ttl) {
            let what = record.shown(now.lease);
            self.notices.add(now, EventKind::Began, what);
        }
        if before.is_some_and(|(_, before)| before == ttl) {
            return;
        }
        let numbers = self.all.numbers(round.total.leases.load(Ordering::Relaxed), now.lease, ttl);
        let services = round.total.services.load(Ordering::Relaxed);
        if self.all.is_exceeded(numbers) && services >= FEWEST_SERVICES && self.all.storm(now, ttl) {
            self.notices.add(now, EventKind::Began, SelfPreservationStatus::of(None, &self.all, numbers));
        }
    }

    /// A tracked lease that has been judged before.
    fn judge_held(&mut self, at: usize, round: &mut SweepContext<'_>) {
        let TrackedLease { lease, place } = &self.tracked[at];
        let inferred = match lease.standing() {
            LeaseStanding::Suspect if self.goes(lease, *place, round) => true,
            LeaseStanding::Condemned if lease.is_overdue(round.now.lease) => false,
            LeaseStanding::Trusted | LeaseStanding::Doubted | LeaseStanding::Suspect | LeaseStanding::Condemned => {
                return;
            }
        };
        let (lease, place) = (Arc::clone(lease), *place);
        self.expire(&lease, place, inferred, round);
    }

    fn judge_due(&mut self, lease: &Arc<Lease>, place: RecordIndex, round: &mut SweepContext<'_>) {
        if lease.standing() != LeaseStanding::Doubted {
            round.harvest.fresh.push(Arc::clone(lease)); // a heartbeat came this very moment
            return;
        }
        if self.goes(lease, place, round) {
            return self.expire(lease, place, true, round);
        }
        lease.stand(LeaseStanding::Suspect);
        let until = patience(lease.deadline(), lease.ttl_ms());
        let record = self.records.get_mut(place).map(|record| &mut record.ward);
        record.into_iter().chain([&mut self.all]).for_each(|ward| ward.hold(until));
        round.harvest.commands.push(Command::Suspect(Arc::clone(lease)));
    }

    /// Whether a silent lease whose time is over is believed to be dead.
    fn goes(&self, lease: &Lease, place: RecordIndex, round: &SweepContext<'_>) -> bool {
        let Some(record) = self.records.get(place) else { return true };
        let (ttl, now) = (lease.ttl_ms(), round.now.lease);
        let all_hold = self.all.holds(now, ttl);
        if !all_hold && !record.ward.holds(now, ttl) {
            return true;
        }
        let leases = round.total.leases.load(Ordering::Relaxed);
        patience(lease.deadline(), ttl) < now
            && record.ward.releases(record.ward.numbers(record.head.leases(), now, ttl), now, ttl)
            && (!all_hold || self.all.releases(self.all.numbers(leases, now, ttl), now, ttl))
    }

    fn expire(&mut self, lease: &Arc<Lease>, place: RecordIndex, inferred: bool, round: &mut SweepContext<'_>) {
        let now = round.now.lease;
        if !lease.expire(now) {
            round.harvest.fresh.push(Arc::clone(lease)); // a heartbeat came this very moment
            return;
        }
        // Its line in the list is struck out with the next look.
        self.strike(lease, place, LeaseStanding::Trusted);
        if let Some(record) = self.records.get_mut(place) {
            round.total.ends(lease, &record.head);
            if inferred {
                record.ward.removals.add(now);
                self.all.removals.add(now);
            }
        }
        round.harvest.expired.push(Arc::clone(lease));
        round.harvest.commands.push(Command::Expire(Arc::clone(lease)));
    }

    fn close(&mut self, place: RecordIndex, round: &SweepContext<'_>) {
        let now = round.now;
        if let Some(record) = self.records.get_mut(place)
            && record.ward.is_over(now.lease)
        {
            let what = record.shown(now.lease);
            record.ward.guard = None;
            self.notices.add(now, EventKind::Ended, what);
        }
    }

    fn tidy(&mut self, round: &SweepContext<'_>) {
        let now = round.now;
        if self.all.is_over(now.lease) {
            let span = self.all.guard.take().map_or(0, |guard| guard.span);
            let numbers = self.all.numbers(round.total.leases.load(Ordering::Relaxed), now.lease, span);
            self.notices.add(now, EventKind::Ended, SelfPreservationStatus::of(None, &self.all, numbers));
        }
        self.all.removals.forget(now.lease, millis(LeaseTerms::MAX_TTL));
        self.records.tidy(now.lease);
    }

    /// Condemns who is silent, in a service or everywhere, and forgets who was removed.
    pub(super) fn reset(
        &mut self,
        service: Option<&ServiceName>,
        total: &TotalLeaseCounter,
        now: ClockReading,
    ) -> usize {
        let place = service.map(|service| self.records.find(service));
        let meant = |of: RecordIndex| place.is_none_or(|place| place == Some(of));
        let tracked = mem::take(&mut self.tracked);
        let mut condemned = 0;
        for TrackedLease { lease, place } in tracked.iter().filter(|tracked| meant(tracked.place)) {
            let silent = matches!(lease.pulse(now.lease), LeasePhase::Weak | LeasePhase::Overdue);
            if silent && matches!(lease.standing(), LeaseStanding::Doubted | LeaseStanding::Suspect) {
                self.strike(lease, *place, LeaseStanding::Condemned);
                condemned += 1;
            }
        }
        self.tracked = tracked;
        for record in self.records.iter_mut().filter(|record| service.is_none_or(|service| *service == record.name)) {
            record.ward.removals = SlidingCounter::default();
            let what = record.shown(now.lease);
            if record.ward.guard.take().is_some() {
                self.notices.add(now, EventKind::Reset, what);
            }
        }
        if service.is_none() {
            self.all.removals = SlidingCounter::default();
            let numbers = self.all.numbers(total.leases.load(Ordering::Relaxed), now.lease, 0);
            let what = SelfPreservationStatus::of(None, &self.all, numbers);
            if self.all.guard.take().is_some() {
                self.notices.add(now, EventKind::Reset, what);
            }
        }
        condemned
    }
}
