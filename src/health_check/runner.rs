//! The thread that makes checks: what is due is probed, what comes of it is told to the registry.

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

use super::{
    CheckHistory, HealthCheckThread, HealthChecks, Key,
    change_queue::{InstanceChange, Owner},
    probe::Prober,
    schedule::Schedule,
};
use crate::{
    model::{Check, CheckDefinition, CheckId, CheckStatus, Probe, ServerActor, ServiceName, node_service},
    random,
    registry::{Command, Entry, Registry},
};

/// Most probes under way at once. Each needs a descriptor, and those of connections are not touched.
const MOST_PROBES: usize = 2_048;
/// How often is looked who has been critical for too long, and which records belong to nobody. Not at all records: there may be
/// hundreds of thousands.
const SWEEP: Duration = Duration::from_secs(1);
/// What changes within so long after a look is looked at together: a thread that is woken for each costs more than the look.
const GATHER: Duration = Duration::from_millis(10);

/// What came of a probe.
#[derive(Debug)]
struct FinishedProbe {
    key: Key,
    definition: Arc<CheckDefinition>,
    verdict: CheckStatus,
    output: String,
    took: Duration,
}

#[derive(Debug)]
struct CheckRunner {
    checks: Arc<HealthChecks>,
    prober: Arc<Prober>,
    schedule: Schedule<Key>,
    /// The checks of each instance that has some.
    known: HashMap<Owner, Vec<CheckId>>,
    /// Those of them that go if a check of theirs stays critical.
    doomed: HashSet<Owner>,
    under_way: HashSet<Key>,
    /// Due, and not begun because too many are under way: in order, and each once.
    waiting: VecDeque<Key>,
    queued: HashSet<Key>,
    probes: JoinSet<FinishedProbe>,
    /// Verdicts on their way to the registry.
    judging: JoinSet<()>,
    /// What was ordered by then, in microseconds, it may have heard of.
    heard: u64,
}

pub(super) fn start(checks: Arc<HealthChecks>, alarm: impl FnOnce() + Send + 'static) -> io::Result<HealthCheckThread> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = thread::Builder::new().name("callboard-checks".to_owned()).spawn(move || {
        runtime.block_on(async {
            let running = tokio::spawn(CheckRunner::new(Arc::clone(&checks)).run());
            tokio::select! {
                _ = stopped => {}
                // It does not end but by a defect.
                _ = running => alarm(),
            }
            checks.save();
        });
    })?;
    Ok(HealthCheckThread { stop: Some(stop), thread: Some(thread) })
}

impl CheckRunner {
    fn new(checks: Arc<HealthChecks>) -> Self {
        let prober = Arc::new(Prober::new(checks.rules.clone()));
        Self {
            checks,
            prober,
            schedule: Schedule::default(),
            known: HashMap::new(),
            doomed: HashSet::new(),
            under_way: HashSet::new(),
            waiting: VecDeque::new(),
            queued: HashSet::new(),
            probes: JoinSet::new(),
            judging: JoinSet::new(),
            heard: 0,
        }
    }

    async fn run(mut self) {
        let checks = Arc::clone(&self.checks);
        self.find_all();
        let mut sweeps = interval(SWEEP);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_look = Duration::ZERO;
        loop {
            let now = checks.clock.since_start();
            let due = self.schedule.next_due().map(|due| due.saturating_sub(now));
            let gathered = next_look.saturating_sub(now);
            tokio::select! {
                changed = checks.inbox.changed_after(gathered) => {
                    self.hear(changed);
                    next_look = checks.clock.since_start() + GATHER;
                }
                Some(done) = self.probes.join_next(), if !self.probes.is_empty() => {
                    if let Ok(done) = done {
                        self.finish(done);
                    }
                }
                () = until(due) => self.begin_due(),
                _ = sweeps.tick() => {
                    self.sweep();
                    checks.save();
                }
            }
            while self.judging.try_join_next().is_some() {}
        }
    }

    /// Whoever has checks from the start: a store was loaded.
    fn find_all(&mut self) {
        let checks = Arc::clone(&self.checks);
        let registry = checks.commands.registry();
        let mut found = with_checks(registry, &node_service());
        found.extend(registry.each_service().flat_map(|summary| with_checks(registry, &summary.name)));
        for entry in found {
            self.look((entry.instance.service.clone(), entry.instance.id.clone()), Some(&entry));
        }
        checks.forget_others();
        self.heard = self.checks.clock.now().monotonic_us;
    }

    fn hear(&mut self, changed: HashMap<Owner, InstanceChange>) {
        let heard = self.checks.clock.now().monotonic_us;
        for (owner, InstanceChange { at, entry, .. }) in changed {
            // Writers may tell of what they did in the other order: what is older than what was heard last may be over. To look
            // everybody up would take longer than all the rest.
            let entry =
                if at > self.heard { entry } else { self.checks.commands.registry().get(&owner.0, owner.1.as_str()) };
            self.look(owner, entry.as_ref());
        }
        self.heard = heard;
    }

    /// Makes what is scheduled fit what an instance has. `None`: it is gone.
    fn look(&mut self, owner: Owner, entry: Option<&Arc<Entry>>) {
        let before = self.known.remove(&owner).unwrap_or_default();
        let mut after = Vec::new();
        if let Some(entry) = entry {
            for check in &entry.instance.checks {
                self.follow(entry, check, before.contains(check.id()));
                after.push(check.id().clone());
            }
        }
        for gone in before.into_iter().filter(|check| !after.contains(check)) {
            let key = (owner.0.clone(), owner.1.clone(), gone);
            self.schedule.remove(&key);
            self.checks.forget(key);
        }
        if entry.is_some_and(|entry| is_doomed(entry)) {
            self.doomed.insert(owner.clone());
        } else {
            self.doomed.remove(&owner);
        }
        if !after.is_empty() {
            self.known.insert(owner, after);
        }
    }

    fn follow(&mut self, entry: &Entry, check: &Check, known: bool) {
        let record = self.checks.record_of(entry, check);
        let same = known && Arc::ptr_eq(&record.definition(), &check.definition);
        let key = (entry.instance.service.clone(), entry.instance.id.clone(), check.id().clone());
        let reported = record.follow(check, self.checks.clock.now());
        self.checks.note(&record, || key.clone());
        if let Some(verdict) = reported {
            self.judge(&key, &check.definition, verdict);
        }
        if same || check.definition.probe == Probe::Static {
            return;
        }
        let interval = check.definition.interval;
        let now = self.checks.clock.since_start();
        // At any point of the first interval: checks that were registered together are not made together.
        let first =
            if check.definition.probe.is_active() { part(interval) } else { record.time_left(self.checks.clock.now()) };
        self.schedule.insert(key, now + first, interval);
    }

    fn begin_due(&mut self) {
        let now = self.checks.clock.since_start();
        while let Some(key) = self.schedule.pop(now) {
            let Some(record) = self.checks.records.get(&key).map(|record| Arc::clone(&record)) else { continue };
            if record.definition().probe == Probe::Ttl {
                self.starve(key, &record, now);
            } else if self.under_way.len() < MOST_PROBES {
                self.begin(key, &record);
            } else if self.queued.insert(key.clone()) {
                self.waiting.push_back(key);
            }
        }
    }

    /// A check that is fed: it is critical if nobody has, or is looked at again when it would be.
    fn starve(&mut self, key: Key, record: &CheckHistory, now: Duration) {
        let starved = record.starves(self.checks.clock.now());
        self.checks.note(record, || key.clone());
        match starved {
            Ok(()) => self.judge(&key, &record.definition(), CheckStatus::Critical),
            Err(left) => {
                let interval = record.definition().interval;
                self.schedule.insert(key, now + Duration::from_millis(left), interval);
            }
        }
    }

    /// A probe that is still under way is not made twice.
    fn begin(&mut self, key: Key, record: &CheckHistory) {
        if !self.under_way.insert(key.clone()) {
            return;
        }
        let (definition, prober, checks) = (record.definition(), Arc::clone(&self.prober), Arc::clone(&self.checks));
        self.probes.spawn(async move {
            let began = checks.clock.since_start();
            let (verdict, output) = prober.make(&definition).await;
            let took = checks.clock.since_start().saturating_sub(began);
            FinishedProbe { key, definition, verdict, output, took }
        });
    }

    fn finish(&mut self, done: FinishedProbe) {
        let FinishedProbe { key, definition, verdict, output, took } = done;
        self.under_way.remove(&key);
        self.checks.results.inc();
        let record = self.checks.records.get(&key).map(|record| Arc::clone(&record));
        if let Some(record) = record.filter(|record| Arc::ptr_eq(&record.definition(), &definition)) {
            let found = record.probed(verdict, &output, took, self.checks.clock.now());
            self.checks.note(&record, || key.clone());
            if let Some(verdict) = found {
                self.judge(&key, &definition, verdict);
            }
        }
        while self.under_way.len() < MOST_PROBES
            && let Some(next) = self.waiting.pop_front()
        {
            self.queued.remove(&next);
            // One that was taken away meanwhile leaves its place to the one behind it.
            if let Some(record) = self.checks.records.get(&next).map(|record| Arc::clone(&record)) {
                self.begin(next, &record);
            }
        }
    }

    /// Tells the registry, if it does not know. What does not get there is found out again with the next probe.
    fn judge(&mut self, (service, id, check): &Key, definition: &Arc<CheckDefinition>, verdict: CheckStatus) {
        let entry = self.checks.commands.registry().get(service, id.as_str());
        let known = entry.as_ref().and_then(|entry| entry.instance.checks.get(check.as_str()));
        if known.is_none_or(|known| known.status == verdict) {
            return;
        }
        let (service, id, check, of) = (service.clone(), id.clone(), check.clone(), Some(Arc::clone(definition)));
        self.order(Command::SetCheckStatus { service, id, check, of, verdict });
    }

    fn order(&mut self, command: Command) {
        let checks = Arc::clone(&self.checks);
        self.judging.spawn(async move {
            if let Err(error) = checks.judge(command, ServerActor::HealthCheck.caller()).await {
                tracing::debug!(%error, "what a check found was not taken down");
            }
        });
    }

    /// Who has been critical for too long goes; and what is left over of instances that went while they were reported on.
    fn sweep(&mut self) {
        let now = self.checks.clock.now();
        let mut condemned = Vec::new();
        for owner in &self.doomed {
            for check in self.known.get(owner).into_iter().flatten() {
                let (service, id) = owner;
                let record = self.checks.record(service, id, check);
                if let Some(check) = record.and_then(|record| record.condemns(now)) {
                    condemned.push(Command::Reap { service: service.clone(), id: id.clone(), check });
                }
            }
        }
        for command in condemned {
            self.order(command);
        }
        let unheard = mem::take(&mut *self.checks.unheard.lock());
        for (service, id, check) in unheard {
            let owner = (service, id);
            if self.known.get(&owner).is_some_and(|checks| checks.contains(&check)) {
                continue;
            }
            let entry = self.checks.commands.registry().get(&owner.0, owner.1.as_str());
            let newer = entry.is_some_and(|entry| entry.instance.checks.get(check.as_str()).is_some());
            let key = (owner.0, owner.1, check);
            if newer {
                self.checks.unheard.lock().push(key);
            } else {
                self.checks.forget(key);
            }
        }
    }
}

/// Whether an instance goes if what is found out about it stays as it is. A node does not.
fn is_doomed(entry: &Entry) -> bool {
    let dooms = |check: &Check| check.status == CheckStatus::Critical && check.definition.deregister_after.is_some();
    !entry.instance.service.is_reserved() && entry.instance.checks.iter().any(dooms)
}

fn with_checks(registry: &Registry, service: &ServiceName) -> Vec<Arc<Entry>> {
    let blocks = registry.blocks(service);
    let entries = blocks.iter().flat_map(|block| block.entries());
    entries.filter(|entry| !entry.instance.checks.is_empty()).cloned().collect()
}

/// Waits so long. `None`: for ever.
async fn until(due: Option<Duration>) {
    match due {
        Some(due) => sleep(due).await,
        None => pending().await,
    }
}

/// A random part of a span.
fn part(span: Duration) -> Duration {
    let nanoseconds = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(random::u64() % nanoseconds)
}

#[cfg(test)]
#[path = "runner/tests.rs"]
mod tests;
