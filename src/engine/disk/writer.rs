//! The thread that decides, writes and applies: group commit.
//!
//! While one transaction is on its way to the disk, commands gather for the next. Where many clients wait, each transaction
//! answers all of them, and their next commands come a moment later, one by one: so after a transaction of several, the
//! next waits for about as many, at most [`GATHER`].

use std::{
    collections::HashSet,
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use super::{Durability, OnFailure, Store, StoreError, StoredLease, Write};
use crate::{
    clock::Clock,
    engine::EngineError,
    metrics::StoreMetrics,
    model::Revision,
    registry::{Command, Decision, Entry, Outcome, Planned, Registry},
};

/// Most commands of a transaction: more bring little, and all of them wait for the last.
const MOST: usize = 1_024;
/// How long a transaction waits for company.
const GATHER: Duration = Duration::from_millis(2);
/// How long a relaxed store may keep what it acknowledged from the disk.
const FLUSH: Duration = Duration::from_secs(1);

/// A command and who waits for it.
#[derive(Debug)]
pub struct Request {
    pub command: Command,
    pub answer: oneshot::Sender<Result<Outcome, EngineError>>,
}

/// What is decided and will be applied once it is on the disk.
#[derive(Debug)]
struct Pending {
    planned: Planned,
    present: Option<Arc<Entry>>,
    revision: Revision,
    answer: oneshot::Sender<Result<Outcome, EngineError>>,
}

/// The writer.
#[derive(Debug)]
pub struct Writer {
    registry: Arc<Registry>,
    store: Store,
    durability: Durability,
    clock: Arc<Clock>,
    metrics: StoreMetrics,
    waiting: Arc<AtomicUsize>,
    /// What came while its instance had a command in the transaction at hand: before all that came later.
    put_off: Vec<Request>,
    /// How many the last transaction had.
    last: usize,
    /// When what is not on the disk yet has to be.
    flush_at: Option<Duration>,
}

/// What a look into the inbox brings.
enum Gathered {
    Requests(Vec<Request>),
    /// Nobody sends any more.
    Closed,
}

impl Writer {
    pub fn new(
        registry: Arc<Registry>,
        store: Store,
        durability: Durability,
        clock: Arc<Clock>,
        metrics: StoreMetrics,
        waiting: Arc<AtomicUsize>,
    ) -> Self {
        Self { registry, store, durability, clock, metrics, waiting, put_off: Vec::new(), last: 0, flush_at: None }
    }

    /// Until nobody sends any more, or the disk fails.
    pub fn run(self, inbox: &Receiver<Request>, on_failure: OnFailure) {
        let mut last_words =
            LastWords { defect: Some((StoreError::Defect { path: self.store.path().to_owned() }, on_failure)) };
        let ended = self.work(inbox);
        if let Some((_, on_failure)) = last_words.defect.take()
            && let Err(error) = ended
        {
            on_failure(error);
        }
    }

    fn work(mut self, inbox: &Receiver<Request>) -> Result<(), StoreError> {
        loop {
            match self.gather(inbox) {
                Gathered::Requests(requests) => self.transact(requests)?,
                Gathered::Closed => return self.store.close(),
            }
            if self.flush_at.is_some_and(|at| at <= self.clock.since_start()) {
                self.store.flush()?;
                self.flush_at = None;
            }
        }
    }

    /// Waits for commands, and for company where the last transaction had some. Empty when it is time to flush.
    fn gather(&mut self, inbox: &Receiver<Request>) -> Gathered {
        let mut requests = mem::take(&mut self.put_off);
        if requests.is_empty() {
            let first = match self.flush_at {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => inbox.recv_timeout(at.saturating_sub(self.clock.since_start())),
            };
            match first {
                Ok(first) => requests.push(first),
                Err(RecvTimeoutError::Timeout) => return Gathered::Requests(requests),
                Err(RecvTimeoutError::Disconnected) => return Gathered::Closed,
            }
        }
        let company = if self.last > 1 { GATHER } else { Duration::ZERO };
        let until = self.clock.since_start() + company;
        while requests.len() < MOST {
            let patience = if requests.len() < self.last {
                until.saturating_sub(self.clock.since_start())
            } else {
                Duration::ZERO
            };
            match inbox.recv_timeout(patience) {
                Ok(request) => requests.push(request),
                Err(_) => break,
            }
        }
        self.last = requests.len();
        Gathered::Requests(requests)
    }

    fn transact(&mut self, requests: Vec<Request>) -> Result<(), StoreError> {
        let pending = self.decide(requests);
        if pending.is_empty() {
            return Ok(());
        }
        let began = self.clock.since_start();
        let durable = self.durability == Durability::Durable;
        let newest = pending.last().map_or(self.registry.applied(), |last| last.revision);
        let mut writes: Vec<_> = pending.iter().filter_map(Pending::write).collect();
        // Neighbours share pages: a tree is walked faster in its own order.
        writes.sort_unstable_by(|one, other| one.key().cmp(&other.key()));
        if let Err(error) = self.store.write(writes.into_iter(), newest, durable) {
            // Whether they are on the disk is not known: who asked is told so.
            drop(pending);
            return Err(error);
        }
        if !durable {
            self.flush_at.get_or_insert(began + FLUSH);
        }
        self.metrics.commit.observe(self.clock.since_start().saturating_sub(began).as_secs_f64());
        self.metrics.changes.inc_by(pending.len() as u64);
        self.apply(pending);
        Ok(())
    }

    /// What the commands mean. Those that change nothing are answered.
    fn decide(&mut self, requests: Vec<Request>) -> Vec<Pending> {
        let mut pending = Vec::with_capacity(requests.len());
        let mut in_flight = HashSet::new();
        let mut newest = self.registry.applied();
        // Not when they were sent: a heartbeat may have come since, and its deadline must not move back.
        let now = self.clock.now();
        for request in requests {
            let (service, id) = request.command.target();
            let target = (service.clone(), id.clone());
            if in_flight.contains(&target) {
                self.put_off.push(request);
                continue;
            }
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let Request { command, answer } = request;
            let outcome = match self.registry.order().decide(command, now) {
                Ok((Decision::Apply(draft), present)) => {
                    newest = newest.next();
                    let planned = draft.at(newest, present.as_ref());
                    in_flight.insert(target);
                    pending.push(Pending { planned, present, revision: newest, answer });
                    continue;
                }
                Ok((Decision::Keep, entry)) => Ok(Outcome { entry, revision: self.registry.applied(), changed: false }),
                Err(refusal) => Err(refusal.into()),
            };
            // Whoever no longer waits does not need to know.
            let _ = answer.send(outcome);
        }
        pending
    }

    fn apply(&self, pending: Vec<Pending>) {
        let now = self.clock.now();
        let mut done = Vec::with_capacity(pending.len());
        let mut order = self.registry.order();
        for Pending { planned, present, revision, answer } in pending {
            let (entry, event) = order.apply(planned, present, revision, now);
            done.push((event, answer, Outcome { entry, revision, changed: true }));
        }
        drop(order);
        for (event, answer, outcome) in done {
            if let Some(event) = event {
                self.registry.announce(&event);
            }
            let _ = answer.send(Ok(outcome));
        }
    }
}

impl Pending {
    fn write(&self) -> Option<Write<'_>> {
        match (&self.planned, &self.present) {
            (Planned::Put { instance, lease, .. }, _) => {
                Some(Write::Put(instance, lease.as_deref().map(StoredLease::of)))
            }
            (Planned::Remove { .. }, Some(before)) => {
                Some(Write::Remove(&before.instance.service, &before.instance.id))
            }
            (Planned::Remove { .. }, None) => None,
        }
    }
}

/// Reports a writer that ends by a panic.
struct LastWords {
    defect: Option<(StoreError, OnFailure)>,
}

impl Drop for LastWords {
    fn drop(&mut self) {
        if let Some((defect, on_failure)) = self.defect.take() {
            on_failure(defect);
        }
    }
}
