//! What is known of the services that have, or lately had, silent instances. The others cost nothing.

use std::{collections::HashMap, sync::Arc};

use super::{
    lease_counter::LeaseCounter,
    threshold::{SERVICE, ThresholdState},
};
use crate::{model::ServiceName, registry::lease::LeaseTime};

/// Removals are remembered for the longest time to live that the service ever granted, and for so many milliseconds at least: a
/// longer one may yet be granted.
const REMEMBERED: LeaseTime = 60_000;
/// Records that a sweep looks over, at least, for those of no more use.
const TIDIED: usize = 64;

/// The place of a record. It stays while leases are tracked under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RecordIndex(usize);

/// One service.
#[derive(Debug)]
pub(super) struct ServiceRecord {
    pub name: ServiceName,
    pub head: Arc<LeaseCounter>,
    pub ward: ThresholdState,
    /// How many tracked leases have this place.
    pub tracked: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct ServiceRecords {
    places: Vec<Option<ServiceRecord>>,
    by_name: HashMap<ServiceName, RecordIndex>,
    free: Vec<RecordIndex>,
    /// Where tidying goes on.
    tidy: usize,
}

impl ServiceRecords {
    /// The record of a service, made if need be.
    pub(super) fn open(&mut self, name: &ServiceName, head: &Arc<LeaseCounter>) -> RecordIndex {
        if let Some(place) = self.find(name) {
            if let Some(record) = self.get_mut(place) {
                // A service may have gone and come back since.
                record.head = Arc::clone(head);
            }
            return place;
        }
        let record = ServiceRecord {
            name: name.clone(),
            head: Arc::clone(head),
            ward: ThresholdState::new(SERVICE),
            tracked: 0,
        };
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            RecordIndex(self.places.len() - 1)
        });
        self.places[place.0] = Some(record);
        self.by_name.insert(name.clone(), place);
        place
    }

    pub(super) fn find(&self, name: &ServiceName) -> Option<RecordIndex> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, place: RecordIndex) -> Option<&ServiceRecord> {
        self.places.get(place.0)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: RecordIndex) -> Option<&mut ServiceRecord> {
        self.places.get_mut(place.0)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ServiceRecord> {
        self.places.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut ServiceRecord> {
        self.places.iter_mut().flatten()
    }

    /// Forgets removals that no longer matter, and records that say nothing: some of them each time.
    pub(super) fn tidy(&mut self, now: LeaseTime) {
        let most = self.places.len().div_ceil(100).max(TIDIED).min(self.places.len());
        for _ in 0..most {
            self.tidy = (self.tidy + 1) % self.places.len();
            let slot = &mut self.places[self.tidy];
            let Some(record) = slot else { continue };
            record.ward.removals.forget(now, record.head.longest().max(REMEMBERED));
            if record.tracked == 0 && record.ward.guard.is_none() && record.ward.removals.is_empty() {
                self.by_name.remove(&record.name);
                *slot = None;
                self.free.push(RecordIndex(self.tidy));
            }
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }
}
