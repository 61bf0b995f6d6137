//! Effective weights of the instances, which all protocols send in place of the configured ones.
//!
//! One task brings them up to date each second, for the services whose policies have a slow start or weights by response time;
//! others cost nothing. It reads the instances, their last load reports and what clients report, and publishes a service's weights when
//! [`balancing`](crate::balancing) says so. Published weights are replaced as a whole; then the readers of the service are woken.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use dashmap::DashMap;
use parking_lot::Mutex;

use super::reported_calls::ReportedCalls;
use crate::{
    balancing::{
        CallCounts, ObservedInstance, ServiceWeights, WeightConditions, WeightSettings, WeightState, WeightUpdate,
    },
    model::{EffectivePolicy, PolicyScope, Revision, ServiceName},
    registry::{Chunks, LeaseTime, Registry},
    transport::Notifier,
};

/// Number of policies that are read at a time.
const POLICIES_PER_PAGE: usize = 1_000;

/// Effective weights of all services.
#[derive(Debug, Default)]
pub struct EffectiveWeights {
    /// Weights of the services in which an instance has another weight than the configured one.
    published: DashMap<ServiceName, Arc<ServiceWeights>>,
    /// Number of entries in `published`, so that a lookup costs nothing while there are none.
    count: AtomicUsize,
    /// Calls to instances that clients have reported since the last update.
    reported: ReportedCalls,
    /// Locked by updates only.
    calculation: Mutex<WeightCalculation>,
}

/// State of the updates.
#[derive(Debug, Default)]
struct WeightCalculation {
    /// Newest revision of any policy at the last update. `None`: there was no update.
    policies: Option<Revision>,
    /// Services with a policy of their own that has effective weights.
    named: Vec<ServiceName>,
    /// Set if the defaults have effective weights, so that every service has to be looked at.
    by_default: bool,
    services: BTreeMap<ServiceName, ServiceCalculation>,
    /// Number of updates.
    updates: u64,
    /// Last version of any weights.
    version: u64,
}

/// State of the updates of one service.
#[derive(Debug)]
struct ServiceCalculation {
    state: WeightState,
    settings: WeightSettings,
    /// Revision of the instances at the last update. `None`: there were none.
    instances: Option<Revision>,
    /// Number of the update that last found the service.
    update: u64,
}

impl EffectiveWeights {
    /// Returns the effective weights of a service. `None`: all instances have their configured weights.
    #[must_use]
    pub fn of(&self, service: &ServiceName) -> Option<Arc<ServiceWeights>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.published.get(service).map(|found| Arc::clone(found.value()))
    }

    /// Takes in calls to the instances of a service, which a client reports by the hashes of their ids.
    pub fn report_calls(&self, service: &ServiceName, calls: &[(u32, CallCounts)]) {
        self.reported.add(service, calls);
    }

    /// Brings the weights of all services to this time, and wakes the readers of those that have changed. Called once a second, by one
    /// task.
    pub fn update(&self, registry: &Registry, notifier: &Notifier, now: LeaseTime) {
        let mut calculation = self.calculation.lock();
        for ChangedWeights { service, weights, wakes } in calculation.update(registry, &self.reported, now) {
            match weights {
                Some(weights) => drop(self.published.insert(service.clone(), Arc::new(weights))),
                None => drop(self.published.remove(&service)),
            }
            self.count.store(self.published.len(), Ordering::Release);
            if wakes {
                notifier.service_changed(&service);
            }
        }
    }
}

/// Change of the weights of a service.
#[derive(Debug)]
struct ChangedWeights {
    service: ServiceName,
    weights: Option<ServiceWeights>,
    /// Set if the weight of a present instance has changed.
    wakes: bool,
}

impl WeightCalculation {
    fn update(&mut self, registry: &Registry, reported: &ReportedCalls, now: LeaseTime) -> Vec<ChangedWeights> {
        let newest = registry.policies().revision();
        let policies_changed = self.policies != Some(newest);
        if policies_changed {
            self.read_policies(registry);
            self.policies = Some(newest);
        }
        if self.named.is_empty() && !self.by_default && self.services.is_empty() {
            return Vec::new();
        }
        // While the registry settles, programs that were registered before it started register again.
        let adopts = registry.is_settling();
        self.updates += 1;
        let mut changed = Vec::new();
        let named = mem::take(&mut self.named);
        for service in &named {
            self.update_service((registry, reported), service, (now, adopts, policies_changed), &mut changed);
        }
        self.named = named;
        if self.by_default {
            for summary in registry.each_service() {
                self.update_service((registry, reported), &summary.name, (now, adopts, policies_changed), &mut changed);
            }
        }
        let updates = self.updates;
        self.services.retain(|service, known| {
            let is_current = known.update == updates;
            if !is_current && known.state.is_weighed() {
                changed.push(ChangedWeights { service: service.clone(), weights: None, wakes: true });
            }
            if !is_current {
                reported.forget(service);
            }
            is_current
        });
        changed
    }

    /// Finds the services that have effective weights.
    fn read_policies(&mut self, registry: &Registry) {
        self.named.clear();
        self.by_default = false;
        let mut after = None;
        loop {
            let page = registry.policies().page(after.as_ref(), POLICIES_PER_PAGE);
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (scope, newest) in page {
                let effective = EffectivePolicy::merge(Some(&newest.policy), None, newest.revision);
                match scope {
                    PolicyScope::Defaults => self.by_default = WeightSettings::of(&effective).is_some(),
                    PolicyScope::Service(service) => {
                        self.named.extend(WeightSettings::of(&effective).map(|_| service));
                    }
                }
            }
        }
    }

    fn update_service(
        &mut self,
        (registry, reported): (&Registry, &ReportedCalls),
        service: &ServiceName,
        (now, adopts, policies_changed): (LeaseTime, bool, bool),
        changed: &mut Vec<ChangedWeights>,
    ) {
        let Some(settings) = WeightSettings::of(&registry.policies().effective(service)) else { return };
        // Read before the instances, which may be newer.
        let instances = registry.view_revision(service);
        let is_new = !self.services.contains_key(service);
        let known = self.services.entry(service.clone()).or_insert_with(|| ServiceCalculation {
            state: WeightState::default(),
            settings,
            instances: None,
            update: 0,
        });
        let was_updated = mem::replace(&mut known.update, self.updates) == self.updates;
        let adopts = adopts || is_new && policies_changed;
        let is_same = known.settings == settings && known.instances == instances && !adopts;
        if was_updated || is_same && known.state.is_stable(settings) {
            return;
        }
        (known.settings, known.instances) = (settings, instances);
        let chunks = registry.chunks(service);
        let calls = if settings.follows_calls() {
            reported.take(service)
        } else {
            reported.forget(service);
            HashMap::new()
        };
        let observed = observe(&chunks, &calls);
        let conditions = WeightConditions { now, settings, adopts, next_version: self.version + 1 };
        let (weights, wakes) = match known.state.update(conditions, &observed) {
            WeightUpdate::Unchanged => return,
            WeightUpdate::Replaced(weights) => (weights, false),
            WeightUpdate::Published(weights) => (weights, true),
        };
        self.version += 1;
        changed.push(ChangedWeights { service: service.clone(), weights, wakes });
    }
}

/// Reads the instances of a service, in the order of their ids. `calls`: by the hashes of their ids.
fn observe<'a>(chunks: &'a Chunks, calls: &HashMap<u32, CallCounts>) -> Vec<ObservedInstance<'a>> {
    let entries = chunks.iter().flat_map(|chunk| chunk.entries());
    let observed = entries.map(|entry| {
        let load = entry.lease.as_ref().and_then(|lease| lease.load());
        let calls_of = |hash| calls.get(&hash).copied().unwrap_or_default();
        let calls = if calls.is_empty() { CallCounts::default() } else { calls_of(entry.instance.id.short_hash()) };
        ObservedInstance { instance: &entry.instance, load, calls }
    });
    observed.collect()
}

#[cfg(test)]
mod tests;
