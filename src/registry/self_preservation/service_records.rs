//! Records of the services that have or recently had silent instances. Other services have no record.

use std::{collections::HashMap, sync::Arc};

use super::{
    event::SelfPreservationStatus,
    lease_counter::LeaseCounter,
    threshold::{SERVICE_RULE, ThresholdState},
};
use crate::{model::ServiceName, registry::lease::LeaseTime};

/// Minimum time for which removals are remembered, in milliseconds. Removals are remembered for the longest TTL that the service
/// has granted, but a longer one may be granted later.
const MIN_REMOVAL_MEMORY_MS: LeaseTime = 60_000;
/// Minimum number of records of which a sweep checks whether they are still needed.
const MIN_CHECKED_RECORDS: usize = 64;

/// Index of a record. It stays valid while leases are tracked under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RecordIndex(usize);

/// Record of one service.
#[derive(Debug)]
pub(super) struct ServiceRecord {
    pub name: ServiceName,
    pub counter: Arc<LeaseCounter>,
    pub threshold: ThresholdState,
    /// Number of the last expiration at another replica; 0: there was none.
    pub last_elsewhere: u32,
    /// Number of tracked leases with this index.
    pub tracked: usize,
}

impl ServiceRecord {
    pub(super) fn status(&self, now: LeaseTime) -> SelfPreservationStatus {
        let activation = self.threshold.activation;
        let ttl = activation.map_or_else(|| self.counter.longest_ttl(), |activation| activation.longest_ttl);
        let input = self.threshold.input(self.counter.leases(), now, ttl);
        SelfPreservationStatus::new(Some(self.name.clone()), &self.threshold, input)
    }
}

/// All records.
#[derive(Debug, Default)]
pub(super) struct ServiceRecords {
    slots: Vec<Option<ServiceRecord>>,
    by_name: HashMap<ServiceName, RecordIndex>,
    free: Vec<RecordIndex>,
    /// Index at which the next check for records that are no longer needed continues.
    cursor: usize,
}

impl ServiceRecords {
    /// Returns the record of a service, and creates it if there is none.
    pub(super) fn open(&mut self, name: &ServiceName, counter: &Arc<LeaseCounter>) -> RecordIndex {
        if let Some(index) = self.find(name) {
            if let Some(record) = self.get_mut(index) {
                // The service may have been removed and created again since.
                record.counter = Arc::clone(counter);
            }
            return index;
        }
        let record = ServiceRecord {
            name: name.clone(),
            counter: Arc::clone(counter),
            threshold: ThresholdState::new(SERVICE_RULE),
            last_elsewhere: 0,
            tracked: 0,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            RecordIndex(self.slots.len() - 1)
        });
        self.slots[index.0] = Some(record);
        self.by_name.insert(name.clone(), index);
        index
    }

    pub(super) fn find(&self, name: &ServiceName) -> Option<RecordIndex> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, index: RecordIndex) -> Option<&ServiceRecord> {
        self.slots.get(index.0)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, index: RecordIndex) -> Option<&mut ServiceRecord> {
        self.slots.get_mut(index.0)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &ServiceRecord> {
        self.slots.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut ServiceRecord> {
        self.slots.iter_mut().flatten()
    }

    /// Forgets removals that no longer matter, and drops records that are no longer needed. Each call checks some of them.
    pub(super) fn drop_unneeded(&mut self, now: LeaseTime) {
        let checked = self.slots.len().div_ceil(100).max(MIN_CHECKED_RECORDS).min(self.slots.len());
        for _ in 0..checked {
            self.cursor = (self.cursor + 1) % self.slots.len();
            let slot = &mut self.slots[self.cursor];
            let Some(record) = slot else { continue };
            let memory = record.counter.longest_ttl().max(MIN_REMOVAL_MEMORY_MS);
            record.threshold.expirations.forget(now, memory);
            let is_active = record.threshold.activation.is_some();
            if record.tracked == 0 && !is_active && record.threshold.expirations.is_empty() {
                self.by_name.remove(&record.name);
                *slot = None;
                self.free.push(RecordIndex(self.cursor));
            }
        }
    }

    /// Number of records.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }
}
