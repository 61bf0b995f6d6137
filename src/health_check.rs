//! Health checks: made again and again, on a thread of their own.
//!
//! ```text
//!   registry ─► inbox: whose checks changed ─► runner ─► probe ─► tally ─► Judge ─► engine
//!                                                 │                  └──► record: what was found lately
//!                                                 └─ schedule: what is due
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `schedule` | what is due when (pure) |
//! | `tally` | how many results change a verdict (pure) |
//! | `rules` | where probes may go (pure) |
//! | `record` | what a check has found lately |
//! | `inbox` | whose checks changed |
//! | `place` | what is known of checks that change hands |
//! | `probe` | one probe: HTTP, TCP, gRPC |
//! | `url` | URLs of HTTP checks, and where redirects lead (pure) |
//! | `runner` | the thread |
//!
//! What a check says is kept in the registry, as part of its instance: every door tells it, and a restart does not forget it.
//! What was said with each result is kept here. Once a second the engine is given what changed of the last results and of the times
//! that TTLs count from, and has it for the next process. A verdict is knowledge: protection from mass expiry does not hold it.

mod change_queue;
mod history;
mod place;
mod policy;
mod probe;
mod runner;
mod schedule;
mod threshold_counter;
mod url;

use std::{
    collections::{BTreeSet, HashMap},
    io, mem,
    sync::{Arc, Weak},
    time::Duration,
};

use dashmap::DashMap;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

pub use change_queue::ChangeQueue;
pub use history::{CheckHistory, CheckResult};
pub use policy::ProbePolicy;

use history::CheckTimes;

use crate::{
    app::Commands,
    clock::Clock,
    engine::{CheckKey, EngineError, SavedCheck},
    model::{Caller, Check, CheckId, CheckStatus, FieldError, InstanceId, Probe, ServiceName},
    registry::{Command, CommandError, Entry},
};

/// Which check: whose, and its id.
pub type Key = CheckKey;

/// All checks, and what they have found.
#[derive(Debug)]
pub struct HealthChecks {
    commands: Commands,
    clock: Arc<Clock>,
    inbox: Arc<ChangeQueue>,
    rules: ProbePolicy,
    records: DashMap<Key, Arc<CheckHistory>>,
    /// Records that a report has made: perhaps before the runner has heard of the check, perhaps after it has heard that it is gone.
    unheard: Mutex<Vec<Key>>,
    /// States that an earlier process saved, until their checks are found.
    saved: Mutex<HashMap<Key, SavedCheck>>,
    /// How much later than saved the last reports may have been.
    uncertain: Duration,
    /// Checks whose states the engine is to be given. `None`: it saves none.
    unsaved: Option<Mutex<Vec<Key>>>,
    /// Probes and reports.
    results: Counter,
    /// Verdicts that changed.
    changes: Counter,
}

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The check is not fed by whoever wants to.
    #[error("check \"{0}\" is made by the registry: report to a TTL check")]
    NotFed(CheckId),
    /// The engine did not take it.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl HealthChecks {
    /// Those of this registry, of which `inbox` has heard from the beginning.
    #[must_use]
    pub fn new(
        commands: &Commands,
        clock: &Arc<Clock>,
        inbox: Arc<ChangeQueue>,
        rules: ProbePolicy,
        (results, changes): (Counter, Counter),
    ) -> Arc<Self> {
        let clock = Arc::clone(clock);
        let saved = commands.take_saved_checks();
        let unsaved = saved.is_some().then(Mutex::default);
        let saved = saved.unwrap_or_default();
        let checks = Arc::new(Self {
            saved: Mutex::new(saved.states.into_iter().collect()),
            uncertain: saved.uncertain,
            unsaved,
            commands: commands.clone(),
            clock,
            inbox,
            rules,
            records: DashMap::new(),
            unheard: Mutex::default(),
            results,
            changes,
        });
        // Commands do not keep the checks alive, which have the commands.
        let memory: Weak<Self> = Arc::downgrade(&checks);
        commands.remember_checks(memory);
        checks
    }

    /// Makes them, on a thread of its own, until the returned guard is dropped.
    ///
    /// # Errors
    ///
    /// When the system gives no thread or no poller.
    pub fn start(self: &Arc<Self>, alarm: impl FnOnce() + Send + 'static) -> io::Result<HealthCheckThread> {
        runner::start(Arc::clone(self), alarm)
    }

    /// Where probes may go.
    #[must_use]
    pub fn rules(&self) -> &ProbePolicy {
        &self.rules
    }

    /// What a check has found lately. `None`: nothing yet.
    #[must_use]
    pub fn record(&self, service: &ServiceName, id: &InstanceId, check: &CheckId) -> Option<Arc<CheckHistory>> {
        let key = (service.clone(), id.clone(), check.clone());
        self.records.get(&key).map(|record| Arc::clone(&record))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.records.len()
    }

    /// Takes what is said of a check that is fed. When it returns, every read sees it.
    ///
    /// # Errors
    ///
    /// When there is no such check, it is not fed, or the engine does not take it.
    pub async fn report(
        &self,
        service: &ServiceName,
        id: &InstanceId,
        check: &CheckId,
        verdict: CheckStatus,
        output: &str,
        caller: &Arc<Caller>,
    ) -> Result<(), ReportError> {
        let no_instance = || CommandError::NoSuchInstance { service: service.clone(), id: id.clone() };
        let entry = self.commands.registry().get(service, id.as_str()).ok_or_else(no_instance);
        let entry = entry.map_err(EngineError::from)?;
        let Some(known) = entry.instance.checks.get(check.as_str()) else {
            let (service, id, check) = (service.clone(), id.clone(), check.clone());
            return Err(EngineError::from(CommandError::NoSuchCheck { service, id, check }).into());
        };
        if known.definition.probe != Probe::Ttl {
            return Err(ReportError::NotFed(check.clone()));
        }
        self.results.inc();
        let now = self.clock.now();
        let record = self.record(service, id, check).unwrap_or_else(|| {
            let made = self.record_of(&entry, known);
            self.unheard.lock().push((service.clone(), id.clone(), check.clone()));
            made
        });
        record.fed(verdict, output, now);
        self.note(&record, || (service.clone(), id.clone(), check.clone()));
        // What is said again of a node is submitted again: it waits for what an earlier report of it has begun.
        if known.status == verdict && !service.is_reserved() {
            return Ok(());
        }
        let (service, id, check) = (service.clone(), id.clone(), check.clone());
        self.judge(Command::SetCheckStatus { service, id, check, of: None, verdict }, caller).await?;
        Ok(())
    }

    /// Has a verdict taken down.
    async fn judge(&self, command: Command, caller: &Arc<Caller>) -> Result<(), EngineError> {
        if let Command::SetCheckStatus { service, id, check, .. } = &command
            && self.unsaved.is_some()
            && let Some(record) = self.record(service, id, check)
        {
            // What is said with a verdict is then mostly written with it.
            let key = (service.clone(), id.clone(), check.clone());
            self.commands.save_checks(vec![(key, Some(record.save()))]);
        }
        if self.commands.on_behalf_of(caller).submit(command).await?.changed {
            self.changes.inc();
        }
        Ok(())
    }

    /// The record of a check, made if need be.
    fn record_of(&self, entry: &Entry, check: &Check) -> Arc<CheckHistory> {
        let key = (entry.instance.service.clone(), entry.instance.id.clone(), check.id().clone());
        if let Some(record) = self.records.get(&key) {
            return Arc::clone(&record);
        }
        let saved = self.saved.lock().remove(&key).filter(|saved| saved.created == check.created);
        let fresh = || {
            let now = self.clock.now();
            Arc::new(match saved {
                Some(saved) => CheckHistory::restored(check, saved, self.uncertain, now),
                None => CheckHistory::new(check, now),
            })
        };
        let record = Arc::clone(&self.records.entry(key.clone()).or_insert_with(fresh));
        self.note(&record, || key);
        record
    }

    /// Notes that the state of a check has to be saved, if it has.
    fn note(&self, record: &CheckHistory, key: impl FnOnce() -> Key) {
        if let Some(unsaved) = &self.unsaved
            && record.needs_saving()
        {
            unsaved.lock().push(key());
        }
    }

    /// Forgets a check that is gone.
    fn forget(&self, key: Key) {
        self.records.remove(&key);
        if let Some(unsaved) = &self.unsaved {
            unsaved.lock().push(key);
        }
    }

    /// Forgets the saved states of checks that nobody has any more. To be called once all that have some were found.
    fn forget_others(&self) {
        let others = mem::take(&mut *self.saved.lock());
        if let Some(unsaved) = &self.unsaved {
            unsaved.lock().extend(others.into_keys());
        }
    }

    /// Gives the engine what changed since the last time.
    fn save(&self) {
        let Some(unsaved) = &self.unsaved else { return };
        let keys = mem::take(&mut *unsaved.lock());
        if keys.is_empty() {
            return;
        }
        let state = |key: Key| {
            let record = self.records.get(&key).map(|record| Arc::clone(&record));
            (key, record.map(|record| record.save()))
        };
        self.commands.save_checks(keys.into_iter().map(state).collect());
    }

    /// Whether these checks may be made of an instance with these addresses.
    ///
    /// # Errors
    ///
    /// When checks are off, or one goes elsewhere.
    pub fn admit<'a>(
        &self,
        checks: impl Iterator<Item = &'a Probe>,
        own: impl Iterator<Item = &'a str>,
    ) -> Result<(), FieldError> {
        let mut active = checks.filter(|probe| probe.is_active()).peekable();
        if active.peek().is_none() {
            return Ok(());
        }
        let own: BTreeSet<&str> = own.collect();
        active.try_for_each(|probe| self.rules.admit(probe, &own))
    }
}

/// Checks that were given all their time again, and what they had before.
#[derive(Debug)]
struct RenewedChecks(Vec<(CheckTimes, Key, Arc<CheckHistory>)>);

/// The thread that makes them. Dropping it stops it.
#[derive(Debug)]
pub struct HealthCheckThread {
    /// Closed by being dropped.
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for HealthCheckThread {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of health checks panicked");
        }
    }
}
