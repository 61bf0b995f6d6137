//! Self-preservation: when many leases run out together, their instances are marked as suspect rather than removed.
//!
//! When many leases run out together, it is more likely that the network or this process failed than that all their holders
//! did. So before an instance is removed, a sweep counts the leases that are *expiring* (overdue, or with less than a third of
//! the TTL left) and the instances that were removed because their lease expired within the last TTL. When these are more than
//! a fifth of a service of three or more, or more than a tenth of a registry of twenty or more in three services or more, the
//! threshold is exceeded: an instance whose lease is overdue becomes a *suspect*, still served, marked and counted.
//!
//! | it ends | when |
//! |---|---|
//! | for one instance | a heartbeat arrives; it is deregistered, or another boot takes over |
//! | for a service | it has no suspects left, or the threshold was not exceeded for a TTL: the other suspects are removed |
//! | for old suspects | a suspect has been silent for ten TTLs: a fifth of the service is released in each TTL, one at least |
//! | by an operator | [`Registry::reset_self_preservation`]: instances that are silent now are removed once they are overdue |
//!
//! So a service of three or more instances never loses all of them within a TTL because heartbeats are missing. By the same
//! rule, a single silent instance is held in a service of three or four, and not held in a service of one or two.
//!
//! Expiring leases and suspects are tracked in one list, from the moment the timing wheel finds them expiring. Each sweep looks at
//! all of them or, where they are many, at some of them; a heartbeat touches nothing here. An expired lease counts as a removal at
//! once, whenever its event is applied.
//!
//! Not here: expiring a lease ([`super::lease`]), marking and removing instances (`decide`, by the commands that a sweep returns),
//! and reporting to operators ([`Registry::self_preservation_events`] is for that).

mod event;
mod lease_counter;
mod service_records;
mod sliding_counter;
mod sweep;
mod threshold;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    Registry,
    command::Command,
    event::ClockReading,
    lease::{Lease, LeaseTime, TrackingState},
};
use crate::{
    model::{Caller, ServiceName},
    sync::Mutex,
};

use event::SelfPreservationLog;
pub use event::{EventKind, SelfPreservationEvent, SelfPreservationStatus};
pub(super) use lease_counter::LeaseCounter;
use lease_counter::TotalLeaseCounter;
use service_records::{RecordIndex, ServiceRecord, ServiceRecords};
use sweep::SweepResult;
pub use threshold::ThresholdInput;
use threshold::{REGISTRY_RULE, SERVICE_RULE, ThresholdState};

/// State of self-preservation of a registry.
#[derive(Debug)]
pub(super) struct SelfPreservation {
    total: TotalLeaseCounter,
    /// Guards the state that sweeps decide by. Taken by sweeps, by operators, and where a suspect is loaded; never by a
    /// heartbeat. While it is held, only the map of services is looked at.
    state: Mutex<SelfPreservationState>,
}

#[derive(Debug)]
struct SelfPreservationState {
    records: ServiceRecords,
    /// Threshold of the registry as a whole.
    all: ThresholdState,
    /// Leases that are expiring, suspect or released, and some that no longer are.
    tracked: Vec<TrackedLease>,
    /// Index at which the next sweep continues.
    cursor: usize,
    /// Number of expirations at other replicas, of all services.
    expirations_elsewhere: u32,
    log: SelfPreservationLog,
}

#[derive(Debug)]
struct TrackedLease {
    lease: Arc<Lease>,
    record: RecordIndex,
}

impl SelfPreservation {
    pub(super) fn new() -> Self {
        let state = SelfPreservationState {
            records: ServiceRecords::default(),
            all: ThresholdState::new(REGISTRY_RULE),
            tracked: Vec::new(),
            cursor: 0,
            expirations_elsewhere: 0,
            log: SelfPreservationLog::default(),
        };
        Self { total: TotalLeaseCounter::default(), state: Mutex::new(state) }
    }

    /// Records that a lease begins. `suspect`: its instance already has the suspect mark, which a loaded instance may
    /// have.
    pub(super) fn begins(&self, lease: &Arc<Lease>, counter: &Arc<LeaseCounter>, suspect: bool) {
        self.total.add(lease, counter);
        if suspect {
            let mut state = self.state.lock();
            let record = state.records.open(&lease.service, counter);
            state.track(lease, record, TrackingState::Suspect);
        }
    }

    /// Records that another replica ends a lease from now on: this one no longer counts it as expiring or suspect.
    pub(super) fn leaves(&self, lease: &Lease) {
        if lease.tracking_state() == TrackingState::Trusted {
            return;
        }
        let mut state = self.state.lock();
        if let Some(record) = state.records.find(&lease.service) {
            state.uncount(lease, record, TrackingState::Trusted);
        }
    }

    /// Records that a lease expired at another replica. It counts as a removal of its service here, too.
    pub(super) fn expired_elsewhere(&self, lease: &Lease, counter: &Arc<LeaseCounter>, now: ClockReading) {
        self.state.lock().add_elsewhere(&lease.service, counter, 1, now.lease);
    }

    /// Records expirations of a service that another replica has counted and this one has not seen. They were `age` ago at most.
    pub(super) fn restore_expirations(
        &self,
        service: &ServiceName,
        counter: &Arc<LeaseCounter>,
        expirations: u64,
        at: LeaseTime,
    ) {
        self.state.lock().add_elsewhere(service, counter, expirations, at);
    }

    /// Returns whether the sweep that expired a lease did not know of an expiration of the service at another replica.
    pub(super) fn is_outdated(&self, lease: &Lease) -> bool {
        let state = self.state.lock();
        let record = state.records.find(&lease.service).and_then(|index| state.records.get(index));
        lease.counts_as_expiration() && record.map_or(0, |record| record.last_elsewhere) != lease.judged_by()
    }

    /// Takes back that a lease expired, because its instance was not removed. `at`: time at which it expired.
    pub(super) fn take_back(&self, lease: &Lease, at: LeaseTime) {
        if !lease.counts_as_expiration() {
            return;
        }
        let mut state = self.state.lock();
        let index = state.records.find(&lease.service);
        if let Some(record) = index.and_then(|index| state.records.get_mut(index)) {
            record.threshold.expirations.take_back(at);
        }
        state.all.expirations.take_back(at);
    }

    /// Records that a lease has ended.
    pub(super) fn ends(&self, lease: &Lease, counter: &LeaseCounter) {
        self.total.remove(lease, counter);
    }
}

impl SelfPreservationState {
    fn add_elsewhere(&mut self, service: &ServiceName, counter: &Arc<LeaseCounter>, expirations: u64, at: LeaseTime) {
        // The highest number means something else, and 0 that there was none.
        self.expirations_elsewhere = self.expirations_elsewhere % (Lease::RELEASED - 1) + 1;
        let number = self.expirations_elsewhere;
        let record = self.records.open(service, counter);
        if let Some(record) = self.records.get_mut(record) {
            record.last_elsewhere = number;
            (0..expirations).for_each(|_| record.threshold.expirations.add(at));
        }
        (0..expirations).for_each(|_| self.all.expirations.add(at));
    }

    fn track(&mut self, lease: &Arc<Lease>, index: RecordIndex, tracking_state: TrackingState) {
        let Some(record) = self.records.get_mut(index) else { return };
        record.tracked += 1;
        lease.set_tracking_state(tracking_state);
        for threshold in [&mut record.threshold, &mut self.all] {
            threshold.expiring += 1;
            threshold.suspects += usize::from(tracking_state == TrackingState::Suspect);
        }
        self.tracked.push(TrackedLease { lease: Arc::clone(lease), record: index });
    }

    /// Sets a state in which the lease no longer counts as expiring or suspect.
    fn uncount(&mut self, lease: &Lease, index: RecordIndex, tracking_state: TrackingState) {
        let before = lease.tracking_state();
        lease.set_tracking_state(tracking_state);
        if let (TrackingState::Expiring | TrackingState::Suspect, Some(record)) = (before, self.records.get_mut(index))
        {
            for threshold in [&mut record.threshold, &mut self.all] {
                threshold.expiring -= 1;
                threshold.suspects -= usize::from(before == TrackingState::Suspect);
            }
        }
    }
}

impl Registry {
    /// Decides which of the leases that are due expire, become suspect or recover. Returns the commands that carry this out, for
    /// the engine to submit in this order.
    ///
    /// Called several times a second, by one task. An expiring lease has ended when this returns: a heartbeat that was answered
    /// before keeps its lease, and a later one is answered that the lease has expired. The lease of a suspect continues.
    #[must_use]
    pub fn sweep(&self, now: ClockReading) -> Vec<Command> {
        let due = self.leases.tick(now.lease);
        let counter_of =
            |service: &ServiceName| self.services.get(service).map(|service| Arc::clone(service.lease_counter()));
        let SelfPreservation { total, state } = &self.self_preservation;
        let SweepResult { commands, expired, fresh } = state.lock().sweep(&due, total, now, counter_of);
        self.leases.forget(&expired);
        self.leases.put_back(&fresh);
        commands
    }

    /// Returns whether a lease was expired by a sweep that did not know of an expiration of the same service at another replica, which has
    /// been applied since.
    #[must_use]
    pub fn is_outdated_expiration(&self, lease: &Lease) -> bool {
        self.self_preservation.is_outdated(lease)
    }

    /// Returns the time for which the expirations of a service matter: the longest TTL that it has granted.
    #[must_use]
    pub fn expiration_memory(&self, service: &ServiceName) -> Duration {
        let longest = self.find(service).map_or(0, |service| service.lease_counter().longest_ttl());
        Duration::from_millis(longest)
    }

    /// Ends self-preservation of a service, or of all, for an operator: silent instances are removed with the next sweep or, if
    /// some of their TTL is left, when it is over without a heartbeat. Returns the number of silent instances.
    pub fn reset_self_preservation(
        &self,
        service: Option<&ServiceName>,
        caller: &Arc<Caller>,
        now: ClockReading,
    ) -> usize {
        let SelfPreservation { total, state } = &self.self_preservation;
        state.lock().reset(service, total, caller, now)
    }

    /// Returns up to `limit` services in self-preservation, with names after `after`, by name.
    #[must_use]
    pub fn preserved_services(&self, after: &str, limit: usize, now: LeaseTime) -> Vec<SelfPreservationStatus> {
        let state = self.self_preservation.state.lock();
        let is_wanted = |record: &&ServiceRecord| record.threshold.activation.is_some() && record.name.as_str() > after;
        let mut found: Vec<_> = state.records.iter().filter(is_wanted).collect();
        found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        found.into_iter().take(limit).map(|record| record.status(now)).collect()
    }

    /// Returns the self-preservation status of a service.
    #[must_use]
    pub fn self_preservation_of(&self, service: &ServiceName, now: LeaseTime) -> SelfPreservationStatus {
        let state = self.self_preservation.state.lock();
        let record = state.records.find(service).and_then(|index| state.records.get(index));
        record.map_or_else(
            || {
                let counter = self.services.get(service).map(|service| Arc::clone(service.lease_counter()));
                let instances = counter.map_or(0, |counter| counter.leases());
                let threshold = ThresholdState::new(SERVICE_RULE);
                SelfPreservationStatus::new(Some(service.clone()), &threshold, threshold.input(instances, now, 0))
            },
            |record| record.status(now),
        )
    }

    /// Returns the self-preservation status of the registry as a whole, and the number of services in self-preservation.
    #[must_use]
    pub fn self_preservation(&self, now: LeaseTime) -> (SelfPreservationStatus, usize) {
        let state = self.self_preservation.state.lock();
        let instances = self.self_preservation.total.leases.load(Ordering::Relaxed);
        let ttl = state.all.activation.map_or(0, |activation| activation.longest_ttl);
        let services = state.records.iter().filter(|record| record.threshold.activation.is_some()).count();
        (SelfPreservationStatus::new(None, &state.all, state.all.input(instances, now, ttl)), services)
    }

    /// Returns the logged events after the one with this number, the oldest first.
    #[must_use]
    pub fn self_preservation_events(&self, after: u64) -> Vec<SelfPreservationEvent> {
        self.self_preservation.state.lock().log.after(after)
    }

    /// Returns up to `limit` logged events before the one with this number, the newest first.
    #[must_use]
    pub fn self_preservation_events_before(&self, number: u64, limit: usize) -> Vec<SelfPreservationEvent> {
        self.self_preservation.state.lock().log.before(number, limit)
    }
}

#[cfg(test)]
mod tests;
