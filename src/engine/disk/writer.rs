//! Thread that decides, writes and applies commands, with group commit.
//!
//! While one transaction is written, the commands for the next one queue up. A transaction answers all its clients at the same
//! time, and their next commands arrive a moment later, one by one. So after a transaction of several commands the writer waits
//! for about as many, but at most [`MAX_GATHER_TIME`].
//!
//! While there are commands, saved check states have no transaction of their own: each transaction takes some of them along.

mod request;

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{Durability, OnFailure, RecordChange, Store, StoreError};
use crate::{
    clock::Clock,
    engine::{CheckKey, EngineError, SavedCheck, policy_log::log_policy_change, write_request::WriteRequest},
    metrics::StoreMetrics,
    model::{Caller, Revision},
    registry::{ClockReading, Command, CommandError, CommandOutcome, Decision, PolicyDecision, Registry, WriteGuard},
};
use request::{AppliedRequest, DecidedCommand, DecidedRequest};

pub use request::WriterMessage;

/// Maximum number of requests in a transaction. A larger one gains little, and all its callers wait for the last request.
const MAX_REQUESTS: usize = 1_024;
/// Maximum time that a transaction waits for further commands.
const MAX_GATHER_TIME: Duration = Duration::from_millis(2);
/// Maximum time from an acknowledgement of a relaxed store until the change is on the disk.
const MAX_UNFLUSHED_TIME: Duration = Duration::from_secs(1);
/// Maximum number of check states in a transaction, because they delay its commands.
const MAX_STATES: usize = 512;

/// Check states to be written, by service, instance and check. `None` removes the state of a check that no longer exists.
pub type UnsavedStates = BTreeMap<CheckKey, Option<SavedCheck>>;

/// Queues that the engine shares with the writer.
#[derive(Debug, Clone, Default)]
pub struct WriterQueues {
    /// Number of requests that wait.
    pub waiting: Arc<AtomicUsize>,
    /// Check states that the writer has not taken yet.
    pub unsaved: Arc<Mutex<UnsavedStates>>,
}

/// Owner of the store: the only thread that changes the registry.
#[derive(Debug)]
pub struct Writer {
    registry: Arc<Registry>,
    store: Store,
    durability: Durability,
    clock: Arc<Clock>,
    metrics: StoreMetrics,
    queues: WriterQueues,
    /// Check states that are taken from the queue, in order, and not written yet.
    saving: UnsavedStates,
    /// Requests whose instance had a change in the last transaction. They precede all requests in the channel.
    deferred: Vec<WriteRequest>,
    /// Number of requests in the last transaction.
    last_batch: usize,
    /// Time by which unflushed changes have to be on the disk.
    flush_at: Option<Duration>,
}

/// Result of waiting for requests.
enum WriteBatch {
    Requests(Vec<WriteRequest>),
    /// All senders are dropped.
    Closed,
}

impl Writer {
    /// A writer that has not started.
    pub fn new(
        registry: Arc<Registry>,
        store: Store,
        durability: Durability,
        clock: Arc<Clock>,
        metrics: StoreMetrics,
        queues: WriterQueues,
    ) -> Self {
        let (saving, deferred) = (UnsavedStates::new(), Vec::new());
        let (last_batch, flush_at) = (0, None);
        let writer =
            Self { registry, store, durability, clock, metrics, queues, saving, deferred, last_batch, flush_at };
        writer.count_unreadable();
        writer
    }

    /// Executes requests until all senders are dropped or the disk fails.
    pub fn run(self, requests: Receiver<WriterMessage>, on_failure: OnFailure) {
        let panicked = StoreError::Defect {
            operation: "write",
            path: self.store.path().to_owned(),
            reason: "the writer panicked".to_owned(),
        };
        let mut reporter = PanicReporter { report: Some((panicked, on_failure)) };
        let result = self.work(&requests);
        for message in requests.try_iter() {
            if let WriterMessage::Request(request) = message {
                request.reject(EngineError::Stopped);
            }
        }
        // From here on, sending fails, and the sender answers that the engine has stopped.
        drop(requests);
        if let Some((_, on_failure)) = reporter.report.take()
            && let Err(error) = result
        {
            on_failure(error);
        }
    }

    fn work(mut self, requests: &Receiver<WriterMessage>) -> Result<(), StoreError> {
        loop {
            match self.gather(requests) {
                WriteBatch::Requests(requests) => self.transact(requests)?,
                WriteBatch::Closed => {
                    self.take_unsaved();
                    while !self.saving.is_empty() {
                        self.transact(Vec::new())?;
                    }
                    return self.store.close();
                }
            }
            if self.flush_at.is_some_and(|at| at <= self.clock.since_start()) {
                self.store.flush()?;
                self.flush_at = None;
            }
        }
    }

    /// Waits for requests, and for further ones if the last transaction had several. Returns none when it is time to flush.
    fn gather(&mut self, inbox: &Receiver<WriterMessage>) -> WriteBatch {
        let mut requests = mem::take(&mut self.deferred);
        if requests.is_empty() {
            let first = match self.flush_at {
                _ if !self.saving.is_empty() => inbox.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                }),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => inbox.recv_timeout(at.saturating_sub(self.clock.since_start())),
            };
            match first {
                Ok(WriterMessage::Request(first)) => requests.push(first),
                Ok(WriterMessage::Save) => self.take_unsaved(),
                Err(RecvTimeoutError::Timeout) => return WriteBatch::Requests(requests),
                Err(RecvTimeoutError::Disconnected) => return WriteBatch::Closed,
            }
        }
        // Check states wait for a command with which to be written, because the command for a changed status follows
        // its check state immediately.
        let expected = self.last_batch.max(usize::from(!self.saving.is_empty()));
        let gather_time =
            if self.last_batch > 1 || expected > requests.len() { MAX_GATHER_TIME } else { Duration::ZERO };
        let until = self.clock.since_start() + gather_time;
        while requests.len() < MAX_REQUESTS {
            let remaining =
                if requests.len() < expected { until.saturating_sub(self.clock.since_start()) } else { Duration::ZERO };
            match inbox.recv_timeout(remaining) {
                Ok(WriterMessage::Request(request)) => requests.push(request),
                Ok(WriterMessage::Save) => self.take_unsaved(),
                Err(_) => break,
            }
        }
        self.last_batch = requests.len();
        WriteBatch::Requests(requests)
    }

    /// Takes the queued check states, if the ones taken before are written.
    fn take_unsaved(&mut self) {
        if self.saving.is_empty() {
            self.saving = mem::take(&mut *self.queues.unsaved.lock());
        }
    }

    /// Decides, writes, applies and answers requests, and writes some check states.
    fn transact(&mut self, requests: Vec<WriteRequest>) -> Result<(), StoreError> {
        let (decided, newest) = self.decide(requests);
        let states = self.take_some_states();
        if decided.is_empty() && states.is_empty() {
            return Ok(());
        }
        let began = self.clock.since_start();
        // Where there are only states, the transaction with the last of them brings all to the disk.
        let durable = self.durability == Durability::Durable && (!decided.is_empty() || self.saving.is_empty());
        let newest = if decided.is_empty() { self.store.revision() } else { newest };
        let mut changes: Vec<_> = decided.iter().flat_map(DecidedRequest::record_changes).collect();
        // Adjacent keys share pages of the tree, so writing in the order of keys is faster.
        changes.sort_unstable_by(|one, other| one.key().cmp(&other.key()));
        let states = states.iter().map(|(key, saved)| RecordChange::State(key, saved.as_ref()));
        if let Err(error) = self.store.write(changes.into_iter().chain(states), newest, durable) {
            // The changes may be on the disk: dropping the senders tells the callers that the outcome is unknown.
            drop(decided);
            return Err(error);
        }
        self.flush_at = if durable { None } else { self.flush_at.or(Some(began + MAX_UNFLUSHED_TIME)) };
        self.metrics.commit.observe(self.clock.since_start().saturating_sub(began).as_secs_f64());
        self.metrics.changes.inc_by(decided.iter().map(DecidedRequest::change_count).sum::<usize>() as u64);
        self.count_unreadable();
        self.apply(decided);
        if self.saving.is_empty() {
            self.take_unsaved();
        }
        Ok(())
    }

    /// Takes the first [`MAX_STATES`] of the check states that are to be saved.
    fn take_some_states(&mut self) -> UnsavedStates {
        let Some((bound, _)) = self.saving.iter().nth(MAX_STATES) else { return mem::take(&mut self.saving) };
        let bound = bound.clone();
        let rest = self.saving.split_off(&bound);
        mem::replace(&mut self.saving, rest)
    }

    fn count_unreadable(&self) {
        let unreadable = self.store.unreadable();
        self.metrics.unreadable.set(i64::try_from(unreadable).unwrap_or(i64::MAX));
    }

    /// Decides requests. Returns those that change something, with the newest revision among them, and answers the others.
    fn decide(&mut self, requests: Vec<WriteRequest>) -> (Vec<DecidedRequest>, Revision) {
        let mut changing = Vec::with_capacity(requests.len());
        let mut in_flight = HashSet::new();
        let mut newest = self.registry.applied();
        // Not the time at which the command was sent: a heartbeat may have arrived since then, and must not be undone.
        let now = self.clock.now();
        for request in requests {
            let targets = request.targets();
            if targets.iter().any(|target| in_flight.contains(target)) {
                // Later requests for one of its instances must not overtake it.
                in_flight.extend(targets);
                self.deferred.push(request);
                continue;
            }
            self.queues.waiting.fetch_sub(1, Ordering::Relaxed);
            let before = newest;
            // Answers to a caller that no longer waits are dropped.
            match request {
                WriteRequest::One(command, caller, sender) => {
                    match self.decide_one(command, caller, &mut newest, now) {
                        Ok(decided) if decided.is_change() => changing.push(DecidedRequest::One(decided, sender)),
                        Ok(decided) => drop(sender.send(Ok(decided.into_unchanged(self.registry.applied())))),
                        Err(error) => drop(sender.send(Err(error.into()))),
                    }
                }
                WriteRequest::Together(commands, caller, sender) => {
                    let decide = |command| self.decide_one(command, Arc::clone(&caller), &mut newest, now);
                    let decided = commands.into_iter().map(decide);
                    match decided.collect::<Result<Vec<_>, _>>() {
                        Ok(decided) if decided.iter().any(DecidedCommand::is_change) => {
                            changing.push(DecidedRequest::Together(decided, sender));
                        }
                        Ok(decided) => {
                            let applied = self.registry.applied();
                            let outcomes = decided.into_iter().map(|decided| decided.into_unchanged(applied));
                            drop(sender.send(Ok(outcomes.collect())));
                        }
                        Err(error) => {
                            newest = before;
                            drop(sender.send(Err(error.into())));
                        }
                    }
                }
                WriteRequest::Policy(command, caller, sender) => match self.registry.order().decide_policy(*command) {
                    Ok(PolicyDecision::Apply(proposed)) => {
                        newest = newest.next();
                        changing.push(DecidedRequest::Policy(proposed.at(newest, now.wall, caller), sender));
                    }
                    Ok(PolicyDecision::NoOp(unchanged)) => drop(sender.send(Ok(unchanged))),
                    Err(error) => drop(sender.send(Err(error.into()))),
                },
            }
            if newest > before {
                in_flight.extend(targets);
            }
        }
        (changing, newest)
    }

    fn decide_one(
        &self,
        command: Command,
        caller: Arc<Caller>,
        newest: &mut Revision,
        now: ClockReading,
    ) -> Result<DecidedCommand, CommandError> {
        let (decision, present) = self.registry.order().decide(command, now)?;
        let Decision::Apply(proposed) = decision else { return Ok(DecidedCommand::NoOp(present)) };
        *newest = newest.next();
        let change = proposed.at(*newest, present.as_ref());
        Ok(DecidedCommand::Change { change, present, revision: *newest, caller })
    }

    /// Applies requests that are on the disk, notifies the listener and answers.
    fn apply(&self, decided: Vec<DecidedRequest>) {
        let now = self.clock.now();
        let mut events = Vec::with_capacity(decided.len());
        let mut applied = Vec::with_capacity(decided.len());
        let mut guard = self.registry.order();
        let unchanged = self.registry.applied();
        let apply = |guard: &mut WriteGuard<'_>, events: &mut Vec<_>, command| match command {
            DecidedCommand::NoOp(entry) => CommandOutcome { entry, revision: unchanged, changed: false },
            DecidedCommand::Change { change, present, revision, caller } => {
                let (entry, event) = guard.apply(change, present, revision, now, &caller);
                events.extend(event);
                CommandOutcome { entry, revision, changed: true }
            }
        };
        for request in decided {
            applied.push(match request {
                DecidedRequest::One(command, sender) => {
                    AppliedRequest::One(apply(&mut guard, &mut events, command), sender)
                }
                DecidedRequest::Together(commands, sender) => {
                    let outcomes = commands.into_iter().map(|command| apply(&mut guard, &mut events, command));
                    AppliedRequest::Together(outcomes.collect(), sender)
                }
                DecidedRequest::Policy(change, sender) => {
                    guard.apply_policy(&change);
                    AppliedRequest::Policy(change, sender)
                }
            });
        }
        drop(guard);
        for event in events {
            self.registry.notify(&event);
        }
        for change in applied.iter().filter_map(AppliedRequest::policy_change) {
            self.registry.notify_policy(change);
            log_policy_change(change);
        }
        applied.into_iter().for_each(AppliedRequest::answer);
    }
}

/// Reports a writer that ends by a panic.
struct PanicReporter {
    report: Option<(StoreError, OnFailure)>,
}

impl Drop for PanicReporter {
    fn drop(&mut self) {
        if let Some((error, on_failure)) = self.report.take() {
            on_failure(error);
        }
    }
}
