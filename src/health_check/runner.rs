//! Thread that schedules probes, and submits the statuses that result from them.

mod schedule_update;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::pending,
    io, mem,
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{CheckHistory, HealthChecks, change_queue::Owner, probe::Prober, schedule::Schedule};
use crate::{
    engine::CheckKey,
    model::{CheckStatus, Probe, Revision, ServerActor},
    registry::{Command, SessionEpoch},
};
use schedule_update::KnownInstance;

/// Maximum number of probes in flight. Each needs a file descriptor, in addition to those of connections.
const MAX_PROBES_IN_FLIGHT: usize = 2_048;
/// Interval at which the runner looks for instances to deregister and saves states.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum interval at which the runner takes changes: under many writes, waking the thread for each of them would cost
/// more than the work itself.
const MIN_CHANGES_INTERVAL: Duration = Duration::from_millis(10);

/// Name of the thread, by which liveness reports it.
const THREAD_NAME: &str = "callboard-checks";

/// Thread of the health checks. Dropping it stops the thread.
#[derive(Debug)]
pub struct HealthCheckThread {
    /// Dropped to stop the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl HealthCheckThread {
    /// Starts the thread. `on_failure`: called if it ends without being stopped, which is a defect.
    ///
    /// # Errors
    ///
    /// If the operating system cannot create a thread or a poller.
    pub fn start(checks: &Arc<HealthChecks>, on_failure: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let checks = Arc::clone(checks);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || {
            runtime.block_on(async {
                let clock = Arc::clone(&checks.clock);
                let running = clock.monitored(THREAD_NAME, CheckRunner::new(Arc::clone(&checks)).run());
                let running = tokio::spawn(running);
                tokio::select! {
                    _ = stopped => {}
                    _ = running => on_failure(),
                }
                checks.save();
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
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

/// Result of a probe.
#[derive(Debug)]
struct FinishedProbe {
    key: CheckKey,
    /// Revision of the definition that was probed. The result does not count if the check has a different definition by
    /// now.
    definition_revision: Revision,
    status: CheckStatus,
    output: String,
    took: Duration,
}

#[derive(Debug)]
struct CheckRunner {
    checks: Arc<HealthChecks>,
    prober: Arc<Prober>,
    schedule: Schedule<CheckKey>,
    /// Instances with histories here.
    known: HashMap<Owner, KnownInstance>,
    /// Instances that are deregistered if one of their critical checks stays critical.
    removal_candidates: HashSet<Owner>,
    in_flight: HashSet<CheckKey>,
    /// Checks whose probes are due but exceed the limit of probes in flight, in order, each once.
    waiting: VecDeque<CheckKey>,
    /// Keys in `waiting`, as a set.
    waiting_keys: HashSet<CheckKey>,
    probes: JoinSet<FinishedProbe>,
    /// Commands that the engine has not answered yet.
    submissions: JoinSet<()>,
    /// Monotonic time in microseconds. The schedule may already include changes that were ordered before.
    current_to_us: u64,
    /// Session for which the schedule was made.
    session: SessionEpoch,
    /// Set while the engine lets nothing expire.
    is_paused: bool,
}

impl CheckRunner {
    fn new(checks: Arc<HealthChecks>) -> Self {
        let prober = Arc::new(Prober::new(checks.policy().clone()));
        Self {
            checks,
            prober,
            schedule: Schedule::default(),
            known: HashMap::new(),
            removal_candidates: HashSet::new(),
            in_flight: HashSet::new(),
            waiting: VecDeque::new(),
            waiting_keys: HashSet::new(),
            probes: JoinSet::new(),
            submissions: JoinSet::new(),
            current_to_us: 0,
            session: SessionEpoch::default(),
            is_paused: false,
        }
    }

    async fn run(mut self) {
        let checks = Arc::clone(&self.checks);
        self.load_all();
        let mut sweeps = interval(SWEEP_INTERVAL);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_changes = Duration::ZERO;
        loop {
            let now = checks.clock.since_start();
            let until_due = self.schedule.next_due().map(|due| due.saturating_sub(now));
            tokio::select! {
                changes = checks.changes.take_after(next_changes.saturating_sub(now)) => {
                    self.apply_changes(changes);
                    next_changes = checks.clock.since_start() + MIN_CHANGES_INTERVAL;
                }
                Some(finished) = self.probes.join_next(), if !self.probes.is_empty() => {
                    if let Ok(finished) = finished {
                        self.finish_probe(finished);
                    }
                }
                () = sleep_or_pend(until_due) => self.start_due(),
                _ = sweeps.tick() => {
                    self.sweep();
                    checks.save();
                }
            }
            while self.submissions.try_join_next().is_some() {}
        }
    }

    /// Starts the probes that are due, expires TTLs, and announces reports.
    fn start_due(&mut self) {
        let now = self.checks.clock.since_start();
        let may_expire = self.may_expire();
        while let Some(key) = self.schedule.pop(now) {
            let Some(history) = self.checks.history_by_key(&key) else { continue };
            if !history.is_held() {
                self.announce_report(key, &history);
            } else if history.definition().probe == Probe::Ttl {
                if may_expire {
                    self.expire_ttl(key, &history, now);
                }
            } else if self.in_flight.len() < MAX_PROBES_IN_FLIGHT {
                self.start_probe(key, &history);
            } else if self.waiting_keys.insert(key.clone()) {
                self.waiting.push_back(key);
            }
        }
    }

    /// Returns whether TTLs may expire and instances may be removed now. After a pause, all checks get full times, because reports may
    /// have been lost.
    fn may_expire(&mut self) -> bool {
        let may_expire = self.checks.commands.may_expire();
        if mem::replace(&mut self.is_paused, !may_expire) && may_expire {
            let now = self.checks.clock.now();
            for ((service, id), known) in self.known.iter().filter(|(_, known)| known.is_held) {
                let keys = known.checks.iter().map(|check| (service.clone(), id.clone(), check.clone()));
                keys.filter_map(|key| self.checks.history_by_key(&key))
                    .for_each(|history| history.grant_full_times(now));
            }
        }
        may_expire
    }

    /// Announces a report that arrived here to the replica that holds the instance.
    fn announce_report(&mut self, key: CheckKey, history: &CheckHistory) {
        if !history.is_announcement_due(self.checks.clock.now()) {
            return self.schedule.remove(&key);
        }
        if !self.is_paused {
            let (service, id, check) = key;
            self.submit(Command::AnnounceReport { service, id, check, status: None });
        }
    }

    /// Sets a TTL check to critical if its last report has expired; otherwise schedules the check for the time at which
    /// the report expires.
    fn expire_ttl(&mut self, key: CheckKey, history: &CheckHistory, now: Duration) {
        let expired = history.expire_ttl(self.checks.clock.now());
        self.checks.queue_saving(history, || key.clone());
        match expired {
            Ok(()) => self.submit_status(&key, history.definition_revision(), CheckStatus::Critical),
            Err(left) => {
                let interval = history.definition().interval;
                self.schedule.insert(key, now + Duration::from_millis(left), interval);
            }
        }
    }

    /// Starts a probe, unless the last one of the check is still in flight.
    fn start_probe(&mut self, key: CheckKey, history: &CheckHistory) {
        if !self.in_flight.insert(key.clone()) {
            return;
        }
        let (definition, definition_revision) = history.versioned_definition();
        let (prober, checks) = (Arc::clone(&self.prober), Arc::clone(&self.checks));
        self.probes.spawn(async move {
            let started = checks.clock.since_start();
            let (status, output) = prober.probe(&definition).await;
            let took = checks.clock.since_start().saturating_sub(started);
            FinishedProbe { key, definition_revision, status, output, took }
        });
    }

    /// Records the result of a probe, and starts a waiting probe.
    fn finish_probe(&mut self, finished: FinishedProbe) {
        let FinishedProbe { key, definition_revision, status, output, took } = finished;
        self.in_flight.remove(&key);
        self.checks.results.inc();
        let history = self.checks.history_by_key(&key);
        let is_current =
            |history: &Arc<CheckHistory>| history.is_held() && history.definition_revision() == definition_revision;
        if let Some(history) = history.filter(is_current) {
            let status = history.record_probe(status, &output, took, self.checks.clock.now());
            self.checks.queue_saving(&history, || key.clone());
            if let Some(status) = status {
                self.submit_status(&key, definition_revision, status);
            }
        }
        while self.in_flight.len() < MAX_PROBES_IN_FLIGHT
            && let Some(next) = self.waiting.pop_front()
        {
            self.waiting_keys.remove(&next);
            // A check that was removed in the meantime has no history, and one that was moved is not held.
            if let Some(history) = self.checks.history_by_key(&next).filter(|history| history.is_held()) {
                self.start_probe(next, &history);
            }
        }
    }

    /// Submits the status of a check, if the registry has a different one. After an error, the next result is submitted
    /// again.
    fn submit_status(&mut self, (service, id, check): &CheckKey, definition_revision: Revision, status: CheckStatus) {
        let entry = self.checks.commands.registry().get(service, id.as_str());
        let known = entry.as_ref().and_then(|entry| entry.instance.checks.get(check.as_str()));
        if known.is_none_or(|known| known.status == status) {
            return;
        }
        let (service, id, check) = (service.clone(), id.clone(), check.clone());
        let definition_revision = Some(definition_revision);
        self.submit(Command::SetCheckStatus { service, id, check, definition_revision, status });
    }

    fn submit(&mut self, command: Command) {
        let checks = Arc::clone(&self.checks);
        self.submissions.spawn(async move {
            let (service, instance) = command.target();
            let (service, instance) = (service.clone(), instance.clone());
            if let Err(error) = checks.set_status(command, ServerActor::HealthCheck.caller()).await {
                tracing::debug!(%service, %instance, %error, "the status of a check was not stored");
            }
        });
    }

    /// Deregisters instances that have been critical for too long, and removes histories of checks that do not exist any more.
    fn sweep(&mut self) {
        if self.checks.commands.registry().session() != self.session {
            // The holders have not changed, but the instances that this process held in its last session are not held here any more.
            self.load_all();
        }
        if self.may_expire() {
            self.remove_critical();
        }
        let unconfirmed = mem::take(&mut *self.checks.unconfirmed.lock());
        for (service, id, check) in unconfirmed {
            let owner = (service, id);
            if self.known.get(&owner).is_some_and(|known| known.checks.contains(&check)) {
                continue;
            }
            let entry = self.checks.commands.registry().get(&owner.0, owner.1.as_str());
            match entry.filter(|entry| entry.instance.checks.get(check.as_str()).is_some()) {
                Some(entry) => self.update(owner, Some(&entry)),
                None => self.checks.forget((owner.0, owner.1, check)),
            }
        }
    }

    /// Deregisters instances that have been critical for too long.
    fn remove_critical(&mut self) {
        let now = self.checks.clock.now();
        let mut commands = Vec::new();
        for owner in &self.removal_candidates {
            for check in self.known.get(owner).iter().flat_map(|known| &known.checks) {
                let (service, id) = owner;
                let history = self.checks.history(service, id, check);
                if let Some(definition_revision) = history.and_then(|history| history.removal_due(now)) {
                    let (service, id, check) = (service.clone(), id.clone(), check.clone());
                    commands.push(Command::Reap { service, id, check, definition_revision });
                }
            }
        }
        for command in commands {
            self.submit(command);
        }
    }
}

/// Sleeps. `None`: never completes.
async fn sleep_or_pend(delay: Option<Duration>) {
    match delay {
        Some(delay) => sleep(delay).await,
        None => pending().await,
    }
}

#[cfg(test)]
#[path = "runner/tests.rs"]
mod tests;
