//! Releases: an instance is registered for another boot at a replica that does not hold it.
//!
//! Only the holder knows that the heartbeat stream of the old boot is broken. The replica that receives the registration sets it
//! aside and asks the holder, by a key in etcd, to release the instance. The holder makes the asking replica the holder if the stream is
//! broken, or breaks within a second. Then the registration is decided again; it is rejected if nothing has happened within a second.

use std::{collections::HashMap, mem, sync::Arc, time::Duration};

use super::{
    applier::AppliedBatch,
    batch::QueuedRequest,
    keys::{KeySpace, RegistryKey},
    own_session::OwnSession,
    release_request::ReleaseRequest,
};
use crate::{
    engine::{EngineError, write_request::WriteRequest},
    etcd::{EtcdCompare, EtcdOperation, EtcdTransaction},
    model::{InstanceId, ServiceName},
    registry::{ClockReading, Command, CommandError, Registry, SessionEpoch},
};

/// Time that a registration waits for a release, and that a request to release is remembered.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);
/// Minimum time between two requests for one instance, so that programs that compete for an id cost few writes.
const MIN_REQUEST_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum number of instances in a request, and of those that are remembered.
const MAX_REQUESTED: usize = 1_000;

/// Service and id of an instance.
type InstanceKey = (ServiceName, InstanceId);

/// Requests of this replica to others, and of others to this replica.
#[derive(Debug)]
pub struct Releases {
    registry: Arc<Registry>,
    /// Time of the last request for each instance.
    asked: HashMap<InstanceKey, Duration>,
    /// Instances that the next request is for.
    unsent: Vec<InstanceKey>,
    /// Registrations that wait, and the time at which they are rejected.
    waiting: Vec<(InstanceKey, QueuedRequest, Duration)>,
    /// Instances that this replica holds and others asked for: the session that asked, and the time until which this replica may release.
    requested: Vec<(InstanceKey, SessionEpoch, Duration)>,
}

impl Releases {
    /// Creates the state of a replica without requests.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, asked: HashMap::new(), unsent: Vec::new(), waiting: Vec::new(), requested: Vec::new() }
    }

    /// Sets a registration aside that was rejected, if another replica may release its instance. Returns any other request.
    pub fn set_aside(&mut self, queued: QueuedRequest, error: &EngineError, now: Duration) -> Option<QueuedRequest> {
        let EngineError::Rejected(CommandError::HeldByOther { service, id, .. }) = error else { return Some(queued) };
        let key = (service.clone(), id.clone());
        let entry = self.registry.get(service, id.as_str());
        let is_held_elsewhere = entry.and_then(|entry| entry.lease.clone()).is_some_and(|lease| !lease.expires_here());
        let was_asked = self.asked.get(&key).is_some_and(|at| now.saturating_sub(*at) < MIN_REQUEST_INTERVAL);
        let is_single = matches!(queued.request, WriteRequest::One(..));
        if !is_held_elsewhere || was_asked || !is_single || self.unsent.len() >= MAX_REQUESTED {
            return Some(queued);
        }
        self.asked.insert(key.clone(), now);
        self.unsent.push(key.clone());
        self.waiting.push((key, queued, now + RELEASE_TIMEOUT));
        None
    }

    /// Returns the transaction of the next request, if there is something to ask for.
    pub fn next_request(&mut self, keys: &KeySpace, session: &OwnSession) -> Option<EtcdTransaction> {
        if self.unsent.is_empty() {
            return None;
        }
        let request = ReleaseRequest { instances: mem::take(&mut self.unsent) };
        let key = keys.encode(&RegistryKey::ReleaseRequest(session.id));
        Some(EtcdTransaction {
            compares: vec![EtcdCompare::create_revision(session.key.clone(), session.epoch.0)],
            success: vec![EtcdOperation::put_with_lease(key, request.encode(), session.lease)],
            failure: vec![],
        })
    }

    /// Takes note of the requests of others, and of changes that registrations wait for. Returns the registrations that have to be
    /// decided again.
    pub fn take_applied(&mut self, applied: &AppliedBatch, now: Duration) -> Vec<QueuedRequest> {
        for (session, request) in &applied.release_requests {
            for key in &request.instances {
                let entry = self.registry.get(&key.0, key.1.as_str());
                if entry.is_some_and(|entry| self.registry.holds(&entry)) && self.requested.len() < MAX_REQUESTED {
                    self.requested.push((key.clone(), *session, now + RELEASE_TIMEOUT));
                }
            }
        }
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let registry = Arc::clone(&self.registry);
        self.take_waiting(|(service, id), _| {
            let key = RegistryKey::Instance(service.clone(), id.clone());
            let Some((entry, _)) = applied.changed.get(&key) else { return false };
            let Some(entry) = entry else { return true };
            let is_released = registry.holds(entry);
            if is_released && let Some(lease) = &entry.lease {
                lease.stream_broke_elsewhere();
            }
            is_released
        })
    }

    /// Returns the registrations that have waited for too long.
    pub fn expire(&mut self, now: Duration) -> Vec<QueuedRequest> {
        self.requested.retain(|(_, _, until)| now < *until);
        self.asked.retain(|_, at| now.saturating_sub(*at) < MIN_REQUEST_INTERVAL);
        self.take_waiting(|_, until| now >= until)
    }

    /// Takes the registrations that wait, to reject them when the replica ends.
    pub fn stop(&mut self) -> Vec<QueuedRequest> {
        self.take_waiting(|_, _| true)
    }

    /// Takes the instances that were asked for and whose lease another boot can take over now. Returns the commands that release them.
    pub fn take_releases(&mut self, now: ClockReading) -> Vec<Command> {
        let registry = &self.registry;
        let taken = self.requested.extract_if(.., |((service, id), ..)| {
            let entry = registry.get(service, id.as_str()).filter(|entry| registry.holds(entry));
            entry.and_then(|entry| entry.lease.clone()).is_none_or(|lease| lease.can_be_taken_over(now.lease).is_ok())
        });
        taken.map(|((service, id), to, _)| Command::Release { service, id, to }).collect()
    }

    fn take_waiting(&mut self, mut is_wanted: impl FnMut(&InstanceKey, Duration) -> bool) -> Vec<QueuedRequest> {
        let taken = self.waiting.extract_if(.., |(key, _, until)| is_wanted(key, *until));
        taken.map(|(_, queued, _)| queued).collect()
    }
}
