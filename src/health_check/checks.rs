//! Histories of all checks.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::{Arc, Weak},
    time::Duration,
};

use dashmap::DashMap;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use super::{ChangeQueue, CheckHistory, ProbePolicy};
use crate::{
    app::Commands,
    clock::Clock,
    engine::{CheckKey, EngineError, SavedCheck},
    model::{Caller, Check, CheckId, FieldError, InstanceId, Probe, ServiceName},
    registry::{Command, Entry, SessionEpoch},
};

/// Checks of all instances, with their recent results.
#[derive(Debug)]
pub struct HealthChecks {
    pub(super) commands: Commands,
    pub(super) clock: Arc<Clock>,
    /// Changes that the runner has not seen yet.
    pub(super) changes: Arc<ChangeQueue>,
    policy: ProbePolicy,
    pub(super) histories: DashMap<CheckKey, Arc<CheckHistory>>,
    /// Histories that the runner has not confirmed: a report or a handover created them, and their checks may not exist any
    /// more.
    pub(super) unconfirmed: Mutex<Vec<CheckKey>>,
    /// States that an earlier process saved, until their checks are found.
    saved: Mutex<HashMap<CheckKey, SavedCheck>>,
    /// Length of the time before the end of that process from which reports may be missing in the saved states.
    max_missing: Duration,
    /// Checks whose states are to be saved. `None`: the engine saves none.
    unsaved: Option<Mutex<Vec<CheckKey>>>,
    /// Number of probes and reports.
    pub(super) results: Counter,
    /// Number of changes of a check's status.
    status_changes: Counter,
}

impl HealthChecks {
    /// Returns the checks of a registry. `changes` must have been its listener from the start. `counters`: of results, and of changes
    /// of a check's status.
    #[must_use]
    pub fn new(
        commands: &Commands,
        clock: &Arc<Clock>,
        changes: Arc<ChangeQueue>,
        policy: ProbePolicy,
        counters: (Counter, Counter),
    ) -> Arc<Self> {
        let (results, status_changes) = counters;
        let saved = commands.take_saved_checks();
        let unsaved = saved.is_some().then(Mutex::default);
        let saved = saved.unwrap_or_default();
        let checks = Arc::new(Self {
            commands: commands.clone(),
            clock: Arc::clone(clock),
            changes,
            policy,
            histories: DashMap::new(),
            unconfirmed: Mutex::default(),
            saved: Mutex::new(saved.states.into_iter().collect()),
            max_missing: saved.unsaved_window,
            unsaved,
            results,
            status_changes,
        });
        // A strong reference would form a cycle, because the checks hold the commands.
        let memory: Weak<Self> = Arc::downgrade(&checks);
        commands.remember_checks(memory);
        checks
    }

    /// Returns the policy for the targets of probes.
    #[must_use]
    pub fn policy(&self) -> &ProbePolicy {
        &self.policy
    }

    /// Returns the recent results of a check. `None`: it has none yet, or another replica runs it and has its results.
    #[must_use]
    pub fn history(&self, service: &ServiceName, id: &InstanceId, check: &CheckId) -> Option<Arc<CheckHistory>> {
        let history = self.history_by_key(&(service.clone(), id.clone(), check.clone()));
        history.filter(|history| history.is_held())
    }

    pub(super) fn history_by_key(&self, key: &CheckKey) -> Option<Arc<CheckHistory>> {
        self.histories.get(key).map(|history| Arc::clone(&history))
    }

    /// Returns the number of checks that this process runs.
    #[must_use]
    pub fn count(&self) -> usize {
        self.histories.iter().filter(|history| history.is_held()).count()
    }

    /// Submits a command that may change the status of a check.
    pub(super) async fn set_status(&self, command: Command, caller: &Arc<Caller>) -> Result<(), EngineError> {
        if let Command::SetCheckStatus { service, id, check, .. } = &command
            && self.unsaved.is_some()
            && let Some(history) = self.history(service, id, check)
        {
            // Queued first, so that the engine usually writes the output in the same transaction.
            let key = (service.clone(), id.clone(), check.clone());
            self.commands.save_checks(vec![(key, Some(history.save()))]);
        }
        let keeps_status = matches!(command, Command::AnnounceReport { status: None, .. });
        if self.commands.on_behalf_of(caller).submit(command).await?.changed && !keeps_status {
            self.status_changes.inc();
        }
        Ok(())
    }

    /// Returns the history of a check, and creates it if there is none.
    pub(super) fn history_of(&self, entry: &Entry, check: &Check) -> Arc<CheckHistory> {
        let key = (entry.instance.service.clone(), entry.instance.id.clone(), check.id().clone());
        if let Some(history) = self.history_by_key(&key) {
            return history;
        }
        let saved = self.saved.lock().remove(&key).filter(|saved| saved.created == check.created);
        let create = || {
            let now = self.clock.now();
            Arc::new(match saved {
                Some(saved) => CheckHistory::restored(check, saved, self.max_missing, now),
                // With other replicas, the history may be that of a check which another replica runs, or has run until now.
                None => CheckHistory::new(check, entry.holder == SessionEpoch::default(), now),
            })
        };
        let history = Arc::clone(&self.histories.entry(key.clone()).or_insert_with(create));
        self.queue_saving(&history, || key);
        history
    }

    /// Queues the state of a check for saving, if it has changed and is not queued yet.
    pub(super) fn queue_saving(&self, history: &CheckHistory, key: impl FnOnce() -> CheckKey) {
        if let Some(unsaved) = &self.unsaved
            && history.needs_saving()
        {
            unsaved.lock().push(key());
        }
    }

    /// Removes the history of a check that no longer exists.
    pub(super) fn forget(&self, key: CheckKey) {
        self.histories.remove(&key);
        if let Some(unsaved) = &self.unsaved {
            unsaved.lock().push(key);
        }
    }

    /// Removes the saved states of checks that do not exist any more. Call it once the histories of all checks exist.
    pub(super) fn forget_unclaimed(&self) {
        let unclaimed = mem::take(&mut *self.saved.lock());
        if let Some(unsaved) = &self.unsaved {
            unsaved.lock().extend(unclaimed.into_keys());
        }
    }

    /// Gives the engine the states that have changed since the last call.
    pub(super) fn save(&self) {
        let Some(unsaved) = &self.unsaved else { return };
        let keys = mem::take(&mut *unsaved.lock());
        if keys.is_empty() {
            return;
        }
        let state = |key: CheckKey| {
            let history = self.history_by_key(&key);
            (key, history.map(|history| history.save()))
        };
        self.commands.save_checks(keys.into_iter().map(state).collect());
    }

    /// Checks whether an instance with the hosts `own` may be registered with these probes.
    ///
    /// # Errors
    ///
    /// If the policy rejects active checks, or the target of one of them.
    pub fn admit<'a>(
        &self,
        probes: impl Iterator<Item = &'a Probe>,
        own: impl Iterator<Item = &'a str>,
    ) -> Result<(), FieldError> {
        let mut active = probes.filter(|probe| probe.is_active()).peekable();
        if active.peek().is_none() {
            return Ok(());
        }
        let own: BTreeSet<&str> = own.collect();
        active.try_for_each(|probe| self.policy.admit(probe, &own))
    }
}
