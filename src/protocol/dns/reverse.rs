//! Index of services by the addresses of their instances.
//!
//! The index subscribes to all services. It reads nothing before the first question; from then on, each question reads the changes
//! since the previous one. The first question has to read all instances. So one call reads a bounded number and returns, and the
//! caller yields between calls, because the thread that answers also runs other tasks.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    model::{Instance, InstanceId, Selector, ServiceName},
    registry::{DeltaKind, Registry, SnapshotChunk, Step, Subscription},
};

/// Number of instances and changes after which one call stops reading. The last step may exceed this number by a chunk of
/// instances.
pub(super) const MAX_READS_PER_CALL: usize = 1_024;

/// Error of an index with more changes to read than one call reads. The call can be repeated, after a yield.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexBehind;

type Key = (ServiceName, InstanceId);

/// Services by address. A call holds the lock only for its own bounded number of reads.
#[derive(Debug)]
pub(super) struct ReverseIndex(Mutex<AddressIndex>);

#[derive(Debug)]
struct AddressIndex {
    subscription: Subscription,
    /// Address of each instance that has one.
    addresses: HashMap<Key, IpAddr>,
    /// Instances at each address.
    instances: HashMap<IpAddr, BTreeSet<Key>>,
}

impl ReverseIndex {
    /// Returns an index that has read nothing yet.
    pub(super) fn new() -> Self {
        let subscription = Subscription::new(Arc::new(Selector::Everything), None, None);
        Self(Mutex::new(AddressIndex { subscription, addresses: HashMap::new(), instances: HashMap::new() }))
    }

    /// Returns the services with an instance at this address, routable or not, in the order of their names.
    ///
    /// # Errors
    ///
    /// [`IndexBehind`] if this call has not read all changes.
    pub(super) fn services(&self, registry: &Registry, address: IpAddr) -> Result<Vec<ServiceName>, IndexBehind> {
        let mut index = self.0.lock();
        index.catch_up(registry)?;
        let mut services: Vec<ServiceName> = Vec::new();
        for (service, _) in index.instances.get(&address.to_canonical()).into_iter().flatten() {
            if services.last() != Some(service) {
                services.push(service.clone());
            }
        }
        Ok(services)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().addresses.len()
    }
}

impl AddressIndex {
    fn catch_up(&mut self, registry: &Registry) -> Result<(), IndexBehind> {
        let mut read = 0;
        while read < MAX_READS_PER_CALL {
            match self.subscription.next(registry) {
                Step::Idle | Step::Settling | Step::Behind(_) => return Ok(()),
                Step::Synced(_) => {}
                Step::Reset(_) => {
                    self.addresses.clear();
                    self.instances.clear();
                }
                Step::Snapshot(SnapshotChunk::Chunk(chunk)) => {
                    read += chunk.entries().len();
                    for entry in chunk.entries() {
                        self.put(&entry.instance);
                    }
                }
                Step::Snapshot(SnapshotChunk::Matching(entries)) => {
                    read += entries.len();
                    for entry in &entries {
                        self.put(&entry.instance);
                    }
                }
                Step::Changes(deltas, _) => {
                    read += deltas.len();
                    for delta in deltas {
                        match (delta.kind, delta.event.after()) {
                            (DeltaKind::Updated, Some(entry)) => self.put(&entry.instance),
                            _ => self.remove(&(delta.event.service().clone(), delta.event.id().clone())),
                        }
                    }
                }
            }
        }
        Err(IndexBehind)
    }

    fn put(&mut self, instance: &Instance) {
        let key = (instance.service.clone(), instance.id.clone());
        let host = instance.addresses.first().and_then(|first| first.host.parse::<IpAddr>().ok());
        let address = host.map(|address| address.to_canonical());
        if self.addresses.get(&key) == address.as_ref() {
            return;
        }
        self.remove(&key);
        if let Some(address) = address {
            self.instances.entry(address).or_default().insert(key.clone());
            self.addresses.insert(key, address);
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(address) = self.addresses.remove(key) else { return };
        if let Some(instances) = self.instances.get_mut(&address) {
            instances.remove(key);
            if instances.is_empty() {
                self.instances.remove(&address);
            }
        }
    }
}
