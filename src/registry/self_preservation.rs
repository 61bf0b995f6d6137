//! Protection from mass expiry: who is silent is believed to be dead, unless too many are silent at once.
//!
//! When many leases run out together, it is rather the network, or this process, that failed than all their holders. So
//! before anybody is removed, those are counted who are *weak* (less than a third of their time is left, or nothing) and those
//! who were removed for that reason within the last time to live. When that is more than a fifth of a service of three or more,
//! or a tenth of a registry of twenty or more in three services or more, nobody goes: whose time is over is a *suspect*, still
//! served, marked and counted.
//!
//! | it ends | when |
//! |---|---|
//! | for one instance | a heartbeat comes; it is deregistered, or another boot takes over |
//! | for a service | it has no suspects left, or there were not too many silent ones for a time to live: the rest goes |
//! | for the patient | a suspect has been silent for ten times to live: a fifth of the service goes in each time to live, one at least |
//! | by an operator | [`Registry::reset_protection`]: who is silent now goes when its time is over |
//!
//! So nobody empties a service of three or more by silence alone within a time to live. By the same rule a service of three or
//! four holds a single silent instance; one of one or two lets its dead go at once.
//!
//! *Weak* leases and suspects are tracked in one list, from the moment the wheel finds them weak. Each sweep looks at all of
//! them, or, where they are many, at some of them; a heartbeat touches nothing here. What has been expired counts as removed
//! at once, whenever its event is applied.
//!
//! What is not here: expiring itself ([`super::lease`]), marking and removing instances (`decide`, by the commands that a sweep
//! returns), telling people ([`Registry::notices`] is for that).

mod event;
mod lease_counter;
mod service_records;
mod sliding_counter;
mod sweep;
mod threshold;

use std::sync::{Arc, atomic::Ordering};

use super::{
    Registry,
    command::Command,
    event::ClockReading,
    lease::{Lease, LeaseStanding, LeaseTime},
};
use crate::{model::ServiceName, sync::Mutex};

use event::SelfPreservationLog;
pub use event::{EventKind, SelfPreservationEvent, SelfPreservationStatus};
pub(super) use lease_counter::LeaseCounter;
use lease_counter::TotalLeaseCounter;
use service_records::{RecordIndex, ServiceRecords};
use sweep::SweepResult;
pub use threshold::ThresholdInput;
use threshold::{REGISTRY, ThresholdState};

/// Whom protection holds, and whom it watches.
#[derive(Debug)]
pub(super) struct SelfPreservation {
    total: TotalLeaseCounter,
    /// Guards what sweeps decide by. Taken by sweeps, operators and adoptions, never by a heartbeat; under it, only a look at the
    /// map of services.
    state: Mutex<SelfPreservationState>,
}

#[derive(Debug)]
struct SelfPreservationState {
    records: ServiceRecords,
    /// The registry as a whole.
    all: ThresholdState,
    /// Who is weak, suspect or condemned; and for a while some who no longer are.
    tracked: Vec<TrackedLease>,
    /// Where the next sweep goes on.
    cursor: usize,
    notices: SelfPreservationLog,
}

#[derive(Debug)]
struct TrackedLease {
    lease: Arc<Lease>,
    place: RecordIndex,
}

impl SelfPreservation {
    pub(super) fn new() -> Self {
        let state = SelfPreservationState {
            records: ServiceRecords::default(),
            all: ThresholdState::new(REGISTRY),
            tracked: Vec::new(),
            cursor: 0,
            notices: SelfPreservationLog::default(),
        };
        Self { total: TotalLeaseCounter::default(), state: Mutex::new(state) }
    }

    /// A lease begins to hold. `suspect`: its instance is marked already, as it may be when it was stored.
    pub(super) fn begins(&self, lease: &Arc<Lease>, of: &Arc<LeaseCounter>, suspect: bool) {
        self.total.begins(lease, of);
        if suspect {
            let mut state = self.state.lock();
            let place = state.records.open(&lease.service, of);
            state.track(lease, place, LeaseStanding::Suspect);
        }
    }

    /// A lease has ended.
    pub(super) fn ends(&self, lease: &Lease, of: &LeaseCounter) {
        self.total.ends(lease, of);
    }
}

impl SelfPreservationState {
    fn track(&mut self, lease: &Arc<Lease>, place: RecordIndex, standing: LeaseStanding) {
        let Some(record) = self.records.get_mut(place) else { return };
        record.tracked += 1;
        lease.stand(standing);
        for ward in [&mut record.ward, &mut self.all] {
            ward.weak += 1;
            ward.suspects += usize::from(standing == LeaseStanding::Suspect);
        }
        self.tracked.push(TrackedLease { lease: Arc::clone(lease), place });
    }

    /// It no longer counts as what it was, and from now on stands so.
    fn strike(&mut self, lease: &Lease, place: RecordIndex, standing: LeaseStanding) {
        let before = lease.standing();
        lease.stand(standing);
        if let (LeaseStanding::Doubted | LeaseStanding::Suspect, Some(record)) = (before, self.records.get_mut(place)) {
            for ward in [&mut record.ward, &mut self.all] {
                ward.weak -= 1;
                ward.suspects -= usize::from(before == LeaseStanding::Suspect);
            }
        }
    }
}

impl Registry {
    /// Looks at the leases whose time for that has come, and decides who goes, who is suspected and who is believed again.
    /// Whoever runs the engine submits the commands that come of it, in this order.
    ///
    /// To be called several times a second, by one task. A lease that is to go has ended when this returns: its holder's next
    /// heartbeat is told so, and none that was answered before is lost. That of a suspect goes on.
    #[must_use]
    pub fn sweep(&self, now: ClockReading) -> Vec<Command> {
        let turn = self.leases.turn(now.lease);
        let head = |service: &ServiceName| self.services.get(service).map(|service| Arc::clone(service.headcount()));
        let SelfPreservation { total, state } = &self.protection;
        let SweepResult { commands, expired, fresh } = state.lock().sweep(&turn, total, now, head);
        self.leases.forget(&expired);
        self.leases.put_back(&fresh);
        commands
    }

    /// An operator says that the silent instances of a service, or of all, are dead: they go with the next sweep, or, if some time
    /// is left to them, when it is over without a heartbeat. Returns how many are meant.
    pub fn reset_protection(&self, service: Option<&ServiceName>, now: ClockReading) -> usize {
        let SelfPreservation { total, state } = &self.protection;
        state.lock().reset(service, total, now)
    }

    /// Up to `limit` services that are protected, with names after this one, by name.
    #[must_use]
    pub fn protected(&self, after: &str, limit: usize, now: LeaseTime) -> Vec<SelfPreservationStatus> {
        let state = self.protection.state.lock();
        let guarded =
            |record: &&service_records::ServiceRecord| record.ward.guard.is_some() && record.name.as_str() > after;
        let mut found: Vec<_> = state.records.iter().filter(guarded).collect();
        found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        found.into_iter().take(limit).map(|record| record.shown(now)).collect()
    }

    /// How a service stands, protected or not.
    #[must_use]
    pub fn protection_of(&self, service: &ServiceName, now: LeaseTime) -> SelfPreservationStatus {
        let state = self.protection.state.lock();
        let record = state.records.find(service).and_then(|place| state.records.get(place));
        record.map_or_else(
            || {
                let head = self.services.get(service).map(|service| Arc::clone(service.headcount()));
                let instances = head.map_or(0, |head| head.leases());
                let ward = ThresholdState::new(threshold::SERVICE);
                SelfPreservationStatus::of(Some(service.clone()), &ward, ward.numbers(instances, now, 0))
            },
            |record| record.shown(now),
        )
    }

    /// How the registry as a whole stands, and how many services are protected.
    #[must_use]
    pub fn protection(&self, now: LeaseTime) -> (SelfPreservationStatus, usize) {
        let state = self.protection.state.lock();
        let instances = self.protection.total.leases.load(Ordering::Relaxed);
        let span = state.all.guard.map_or(0, |guard| guard.span);
        let guarded = state.records.iter().filter(|record| record.ward.guard.is_some()).count();
        (SelfPreservationStatus::of(None, &state.all, state.all.numbers(instances, now, span)), guarded)
    }

    /// What began and ended after the notice with this number, the oldest first, as far as it is remembered.
    #[must_use]
    pub fn notices(&self, after: u64) -> Vec<SelfPreservationEvent> {
        self.protection.state.lock().notices.after(after)
    }

    /// Up to `limit` remembered notices before the one with this number, the newest first.
    #[must_use]
    pub fn notices_before(&self, number: u64, limit: usize) -> Vec<SelfPreservationEvent> {
        self.protection.state.lock().notices.before(number, limit)
    }
}

#[cfg(test)]
mod tests;
