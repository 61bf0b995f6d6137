//! Services by the addresses of their instances.
//!
//! A subscription to everything: it costs nothing before the first question, and from then on each question costs the changes
//! since the one before. Where those are many, as before the first question, they are read in portions: the thread that
//! answers has other things to do.

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

/// Most instances and changes that are read for one question.
const PORTION: usize = 1_024;

/// More changes have to be read before a question can be answered: ask again, after others had a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexBehind;

type Key = (ServiceName, InstanceId);

/// The services at each address. The lock is held while changes are followed.
#[derive(Debug)]
pub(super) struct ReverseIndex(Mutex<AddressIndex>);

#[derive(Debug)]
struct AddressIndex {
    follow: Subscription,
    /// The address of each instance.
    address: HashMap<Key, IpAddr>,
    /// The instances at each address.
    at: HashMap<IpAddr, BTreeSet<Key>>,
}

impl ReverseIndex {
    pub(super) fn new() -> Self {
        let follow = Subscription::new(Arc::new(Selector::Everything), None, None);
        Self(Mutex::new(AddressIndex { follow, address: HashMap::new(), at: HashMap::new() }))
    }

    /// The services that have an instance at this address, by name. It need not be one to be called.
    ///
    /// # Errors
    ///
    /// When there was more to read than one portion.
    pub(super) fn services(&self, registry: &Registry, address: IpAddr) -> Result<Vec<ServiceName>, IndexBehind> {
        let mut index = self.0.lock();
        index.catch_up(registry)?;
        let mut services: Vec<ServiceName> = Vec::new();
        for (service, _) in index.at.get(&address.to_canonical()).into_iter().flatten() {
            if services.last() != Some(service) {
                services.push(service.clone());
            }
        }
        Ok(services)
    }
}

impl AddressIndex {
    fn catch_up(&mut self, registry: &Registry) -> Result<(), IndexBehind> {
        let mut read = 0;
        while read < PORTION {
            match self.follow.next(registry) {
                Step::Idle | Step::Settling => return Ok(()),
                Step::Synced(_) => {}
                Step::Reset(_) => {
                    self.address.clear();
                    self.at.clear();
                }
                Step::Snapshot(SnapshotChunk::Block(block)) => {
                    read += block.entries().len();
                    block.entries().iter().for_each(|entry| self.put(&entry.instance));
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
                        match (delta.effect, delta.event.after()) {
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
        let host = host.map(|address| address.to_canonical());
        if self.address.get(&key) == host.as_ref() {
            return;
        }
        self.remove(&key);
        if let Some(address) = host {
            self.at.entry(address).or_default().insert(key.clone());
            self.address.insert(key, address);
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(address) = self.address.remove(key) else { return };
        if let Some(there) = self.at.get_mut(&address) {
            there.remove(key);
            if there.is_empty() {
                self.at.remove(&address);
            }
        }
    }
}
