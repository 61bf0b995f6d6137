//! What people are told of protection: how things are, and what began and ended.

use std::collections::VecDeque;

use super::{
    service_records::ServiceRecord,
    threshold::{ThresholdInput, ThresholdState},
};
use crate::{
    model::ServiceName,
    registry::{event::ClockReading, lease::LeaseTime},
};

/// Notices that are remembered.
const REMEMBERED: usize = 4_096;

/// How a service, or the registry as a whole, stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfPreservationStatus {
    /// `None`: the registry as a whole.
    pub service: Option<ServiceName>,
    /// Since when it is protected. `None`: it is not.
    pub since: Option<ClockReading>,
    /// When, on the lease clock, the first suspects go, if they stay silent: not before this.
    pub dead_go: Option<LeaseTime>,
    /// What the rule looks at.
    pub numbers: ThresholdInput,
}

impl SelfPreservationStatus {
    pub(super) fn of(service: Option<ServiceName>, ward: &ThresholdState, numbers: ThresholdInput) -> Self {
        let dead_go = ward.guard.map(|guard| guard.dead_go).filter(|time| *time != LeaseTime::MAX);
        Self { service, since: ward.guard.map(|guard| guard.since), dead_go, numbers }
    }
}

impl ServiceRecord {
    /// As people see it.
    pub(super) fn shown(&self, now: LeaseTime) -> SelfPreservationStatus {
        let span = self.ward.guard.map_or_else(|| self.head.longest(), |guard| guard.span);
        let numbers = self.ward.numbers(self.head.leases(), now, span);
        SelfPreservationStatus::of(Some(self.name.clone()), &self.ward, numbers)
    }
}

/// Protection began or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfPreservationEvent {
    /// Rises by one with each, from 1.
    pub number: u64,
    /// When.
    pub at: ClockReading,
    /// What it was at.
    pub turned: EventKind,
    /// Where, and the numbers then.
    pub what: SelfPreservationStatus,
}

/// Whether it began or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Too many are silent.
    Began,
    /// By itself: nobody is held any more, or too few are silent.
    Ended,
    /// An operator ended it.
    Reset,
}

/// The latest notices.
#[derive(Debug, Default)]
pub(super) struct SelfPreservationLog {
    latest: VecDeque<SelfPreservationEvent>,
    /// How many there were in all.
    all: u64,
}

impl SelfPreservationLog {
    pub(super) fn add(&mut self, at: ClockReading, turned: EventKind, what: SelfPreservationStatus) {
        self.all += 1;
        self.latest.push_back(SelfPreservationEvent { number: self.all, at, turned, what });
        if self.latest.len() > REMEMBERED {
            self.latest.pop_front();
        }
    }

    pub(super) fn after(&self, seen: u64) -> Vec<SelfPreservationEvent> {
        let known = self.latest.partition_point(|notice| notice.number <= seen);
        self.latest.range(known..).cloned().collect()
    }

    pub(super) fn before(&self, number: u64, limit: usize) -> Vec<SelfPreservationEvent> {
        let end = self.latest.partition_point(|notice| notice.number < number);
        self.latest.range(..end).rev().take(limit).cloned().collect()
    }
}
