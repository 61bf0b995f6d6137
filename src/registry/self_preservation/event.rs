//! Self-preservation as operators see it: its status, and a log of its beginnings and ends.

use std::{collections::VecDeque, sync::Arc};

use super::threshold::{ThresholdInput, ThresholdState};
use crate::{
    model::{Caller, ServerActor, ServiceName},
    registry::{event::ClockReading, lease::LeaseTime},
};

/// Maximum number of logged events.
const MAX_LOGGED_EVENTS: usize = 4_096;

/// Self-preservation status of a service, or of the registry as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfPreservationStatus {
    /// Service. `None`: the registry as a whole.
    pub service: Option<ServiceName>,
    /// Time at which self-preservation began. `None`: it is not active.
    pub since: Option<ClockReading>,
    /// Lease time before which no suspect is released.
    pub first_release_at: Option<LeaseTime>,
    /// Numbers that the threshold is compared with.
    pub input: ThresholdInput,
}

impl SelfPreservationStatus {
    pub(super) fn new(service: Option<ServiceName>, threshold: &ThresholdState, input: ThresholdInput) -> Self {
        let activation = threshold.activation;
        let first_release_at =
            activation.map(|activation| activation.first_release_at).filter(|time| *time != LeaseTime::MAX);
        Self { service, since: activation.map(|activation| activation.since), first_release_at, input }
    }
}

/// Beginning or end of self-preservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfPreservationEvent {
    /// Number of the event: 1 for the first, one more for each later one.
    pub number: u64,
    /// Time of the event.
    pub at: ClockReading,
    /// Kind of the event.
    pub kind: EventKind,
    /// Status at that time.
    pub status: SelfPreservationStatus,
    /// Operator of a reset. Other events are caused by self-preservation itself.
    pub caller: Arc<Caller>,
}

/// Kind of a [`SelfPreservationEvent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The threshold was exceeded.
    Began,
    /// It ended without an operator: there are no suspects left, or the threshold is no longer exceeded.
    Ended,
    /// An operator ended it.
    Reset,
}

/// Latest events.
#[derive(Debug, Default)]
pub(super) struct SelfPreservationLog {
    latest: VecDeque<SelfPreservationEvent>,
    /// Number of the last event.
    last_number: u64,
}

impl SelfPreservationLog {
    /// Logs the beginning of self-preservation, or an end that no operator caused.
    pub(super) fn add(&mut self, at: ClockReading, kind: EventKind, status: SelfPreservationStatus) {
        self.push(at, kind, status, ServerActor::SelfPreservation.caller());
    }

    /// Logs an end that an operator caused.
    pub(super) fn add_reset(&mut self, at: ClockReading, status: SelfPreservationStatus, caller: &Arc<Caller>) {
        self.push(at, EventKind::Reset, status, caller);
    }

    fn push(&mut self, at: ClockReading, kind: EventKind, status: SelfPreservationStatus, caller: &Arc<Caller>) {
        self.last_number += 1;
        let (number, caller) = (self.last_number, Arc::clone(caller));
        self.latest.push_back(SelfPreservationEvent { number, at, kind, status, caller });
        if self.latest.len() > MAX_LOGGED_EVENTS {
            self.latest.pop_front();
        }
    }

    pub(super) fn after(&self, number: u64) -> Vec<SelfPreservationEvent> {
        let start = self.latest.partition_point(|event| event.number <= number);
        self.latest.range(start..).cloned().collect()
    }

    pub(super) fn before(&self, number: u64, limit: usize) -> Vec<SelfPreservationEvent> {
        let end = self.latest.partition_point(|event| event.number < number);
        self.latest.range(..end).rev().take(limit).cloned().collect()
    }
}
