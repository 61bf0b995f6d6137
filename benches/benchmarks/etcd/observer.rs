//! Observation of a registry from outside: changes of instances in etcd, and deliveries to a watcher.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use callboard::{
    etcd::{EtcdChange, EtcdClient, EtcdWatch, EtcdWatchEvent},
    pb::callboard::v1::{RegisterRequest, registry_service_client::RegistryServiceClient},
};
use parking_lot::Mutex;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout_at},
};
use tonic::transport::Channel;

use super::{SERVICES, replicas::INSTANCE_KEYS};
use crate::{
    client::{Watch, instance, milliseconds},
    now,
};

/// Interval of the changes that a watcher receives.
const STEADY_INTERVAL: Duration = Duration::from_millis(50);

/// Changes of the instances in etcd after a revision.
#[derive(Debug)]
pub struct KeyChanges {
    watch: EtcdWatch,
    /// Instances that were changed at least once.
    pub changed: HashSet<Vec<u8>>,
    /// Number of removals.
    pub removals: usize,
}

impl KeyChanges {
    /// Watches from the revision after this one on.
    pub async fn after(client: &EtcdClient, revision: u64) -> Result<Self> {
        let watch = client.watch(INSTANCE_KEYS, revision + 1).await?;
        Ok(Self { watch, changed: HashSet::new(), removals: 0 })
    }

    /// Reads until so many instances have changed, or until a time.
    pub async fn read(&mut self, wanted: usize, until: Instant) -> Result<()> {
        while self.changed.len() < wanted {
            let Ok(event) = timeout_at(until.into(), self.watch.next()).await else { break };
            let EtcdWatchEvent::Batch(batch) = event? else { continue };
            for change in batch.changes {
                match change {
                    EtcdChange::Put(entry) => drop(self.changed.insert(entry.key)),
                    EtcdChange::Delete { .. } => self.removals += 1,
                }
            }
        }
        Ok(())
    }
}

/// Watcher of a service that changes all the time, at another replica.
#[derive(Debug)]
pub struct SteadyWatch {
    /// Longest time between two deliveries, in milliseconds.
    longest: Arc<Mutex<f64>>,
    tasks: [JoinHandle<Result<()>>; 2],
}

impl Drop for SteadyWatch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl SteadyWatch {
    /// Starts to write through one replica and to watch at another one.
    pub async fn start(writer: &Channel, reader: &Channel) -> Result<Self> {
        // No other instance belongs to this service.
        let service = SERVICES;
        let (mut watch, _) = Watch::open(reader, service).await?;
        let mut registry = RegistryServiceClient::new(writer.clone());
        let writing = tokio::spawn(async move {
            let mut ticks = interval(STEADY_INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for number in 0_u32.. {
                ticks.tick().await;
                let request = RegisterRequest { weight: Some(1 + number % 1_000), ..instance(service, 0) };
                registry.register(request).await?;
            }
            Ok(())
        });
        let longest = Arc::new(Mutex::new(0.0_f64));
        let reading = tokio::spawn({
            let longest = Arc::clone(&longest);
            async move {
                let mut last = now();
                loop {
                    watch.changes().await?;
                    let at = now();
                    let pause = milliseconds(at.duration_since(last));
                    let mut longest = longest.lock();
                    *longest = longest.max(pause);
                    drop(longest);
                    last = at;
                }
            }
        });
        Ok(Self { longest, tasks: [writing, reading] })
    }

    /// Returns the longest time between two deliveries since the last call, in milliseconds.
    pub fn longest_pause(&self) -> f64 {
        std::mem::take(&mut *self.longest.lock())
    }
}
