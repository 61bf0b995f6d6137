//! Updates of the schedule to the instances of the registry and their holders.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::CheckRunner;
use crate::{
    health_check::change_queue::{InstanceChange, Owner},
    model::{Check, CheckId, CheckStatus, Probe, ServiceName, node_service},
    random,
    registry::{Entry, Registry, SessionEpoch},
};

/// Interval at which a report that the engine did not accept is announced again.
const ANNOUNCEMENT_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Instance with histories here.
#[derive(Debug, Default)]
pub(super) struct KnownInstance {
    holder: SessionEpoch,
    /// Set if this process holds the instance, and so runs its checks.
    pub(super) is_held: bool,
    /// Checks that have a history here: all checks of an instance that is held here.
    pub(super) checks: Vec<CheckId>,
}

impl CheckRunner {
    /// Schedules the checks of all instances that this process holds.
    pub(super) fn load_all(&mut self) {
        let checks = Arc::clone(&self.checks);
        let registry = checks.commands.registry();
        self.session = registry.session();
        let mut found = entries_with_checks(registry, &node_service());
        found.extend(registry.each_service().flat_map(|summary| entries_with_checks(registry, &summary.name)));
        for entry in found {
            self.update((entry.instance.service.clone(), entry.instance.id.clone()), Some(&entry));
        }
        checks.forget_unclaimed();
        self.current_to_us = self.checks.clock.now().monotonic_us;
    }

    pub(super) fn apply_changes(&mut self, changes: HashMap<Owner, InstanceChange>) {
        let now_us = self.checks.clock.now().monotonic_us;
        for (owner, InstanceChange { at_us, entry, .. }) in changes {
            // Writers may notify in a different order than they wrote, so a change from before the last call may be outdated. Only
            // for such changes the instance is looked up, because looking up all of them would take longer than everything else
            // here.
            let is_latest = at_us > self.current_to_us;
            let entry = if is_latest { entry } else { self.checks.commands.registry().get(&owner.0, owner.1.as_str()) };
            self.update(owner, entry.as_ref());
        }
        self.current_to_us = now_us;
    }

    /// Updates the schedule to the checks of an instance. `None`: the instance was removed.
    pub(super) fn update(&mut self, owner: Owner, entry: Option<&Arc<Entry>>) {
        let before = self.known.remove(&owner).unwrap_or_default();
        let registry = self.checks.commands.registry();
        let mut after = KnownInstance {
            holder: entry.map_or_else(SessionEpoch::default, |entry| entry.holder),
            is_held: entry.is_some_and(|entry| registry.holds(entry)),
            checks: Vec::new(),
        };
        if let Some(entry) = entry {
            for check in &entry.instance.checks {
                let is_known = before.checks.contains(check.id());
                if after.is_held {
                    self.schedule_check(entry, check, before.is_held && is_known);
                } else if !self.follow_check(entry, check, is_known && before.holder != entry.holder) {
                    continue;
                }
                after.checks.push(check.id().clone());
            }
        }
        for removed in before.checks.into_iter().filter(|check| !after.checks.contains(check)) {
            let key = (owner.0.clone(), owner.1.clone(), removed);
            self.schedule.remove(&key);
            self.checks.forget(key);
        }
        if after.is_held && entry.is_some_and(|entry| is_removal_candidate(entry)) {
            self.removal_candidates.insert(owner.clone());
        } else {
            self.removal_candidates.remove(&owner);
        }
        if !after.checks.is_empty() {
            self.known.insert(owner, after);
        }
    }

    /// Updates the history of a check that another replica runs. Returns false if it has no history here. `moved`: the instance has moved
    /// to another holder.
    fn follow_check(&mut self, entry: &Entry, check: &Check, moved: bool) -> bool {
        let key = (entry.instance.service.clone(), entry.instance.id.clone(), check.id().clone());
        let Some(history) = self.checks.history_by_key(&key) else { return false };
        match history.follow(check, moved, self.checks.clock.now()) {
            Some(left) => {
                // At a random time, because another replica that waits as well need not announce its report after this one.
                let spread = random_part(check.definition.interval / 4);
                let due = self.checks.clock.since_start() + left + spread;
                self.schedule.insert(key, due, ANNOUNCEMENT_RETRY_INTERVAL);
            }
            None => self.schedule.remove(&key),
        }
        true
    }

    /// Schedules a check, unless it is scheduled with the same definition.
    fn schedule_check(&mut self, entry: &Entry, check: &Check, is_scheduled: bool) {
        let history = self.checks.history_of(entry, check);
        let is_unchanged = is_scheduled && history.definition_revision() == check.definition_revision;
        let key = (entry.instance.service.clone(), entry.instance.id.clone(), check.id().clone());
        history.begin_to_hold(self.checks.clock.now());
        let unsubmitted = history.update(check, self.checks.clock.now());
        self.checks.queue_saving(&history, || key.clone());
        if let Some(status) = unsubmitted {
            self.submit_status(&key, check.definition_revision, status);
        }
        if is_unchanged || check.definition.probe == Probe::Static {
            return;
        }
        let interval = check.definition.interval;
        let now = self.checks.clock.since_start();
        // The first probe starts at a random time within the interval, so that checks which are registered together are
        // spread over it.
        let is_active = check.definition.probe.is_active();
        let first = if is_active { random_part(interval) } else { history.ttl_left(self.checks.clock.now()) };
        self.schedule.insert(key, now + first, interval);
    }
}

/// Returns whether an instance is deregistered if its checks keep their status. Nodes are not deregistered by checks.
fn is_removal_candidate(entry: &Entry) -> bool {
    let may_remove =
        |check: &Check| check.status == CheckStatus::Critical && check.definition.deregister_after.is_some();
    !entry.instance.service.is_reserved() && entry.instance.checks.iter().any(may_remove)
}

fn entries_with_checks(registry: &Registry, service: &ServiceName) -> Vec<Arc<Entry>> {
    let chunks = registry.chunks(service);
    let entries = chunks.iter().flat_map(|chunk| chunk.entries());
    entries.filter(|entry| !entry.instance.checks.is_empty()).cloned().collect()
}

/// Returns a random part of a time span.
fn random_part(span: Duration) -> Duration {
    let nanoseconds = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(random::u64() % nanoseconds)
}
