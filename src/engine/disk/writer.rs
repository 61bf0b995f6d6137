//! The thread that decides, writes and applies: group commit.
//!
//! While one transaction is on its way to the disk, commands gather for the next. Where many clients wait, each transaction
//! answers all of them, and their next commands come a moment later, one by one: so after a transaction of several, the
//! next waits for about as many, at most [`GATHER`].
//!
//! States of checks have no transaction of their own while there are commands: each takes some of them along.

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

use super::{Durability, OnFailure, RecordChange, Store, StoreError, StoredLease};
use crate::{
    clock::Clock,
    engine::{CheckKey, EngineError, OutcomeSender, SavedCheck},
    metrics::StoreMetrics,
    model::{Caller, InstanceId, Revision, ServiceName},
    registry::{ClockReading, Command, CommandError, CommandOutcome, Decision, Entry, Registry, StampedChange},
};

/// Most commands of a transaction: more bring little, and all of them wait for the last.
const MOST: usize = 1_024;
/// How long a transaction waits for company.
const GATHER: Duration = Duration::from_millis(2);
/// How long a relaxed store may keep what it acknowledged from the disk.
const FLUSH: Duration = Duration::from_secs(1);

/// Maximum number of states of checks in a transaction: those who wait for its commands wait for them, too.
const MAX_STATES: usize = 512;

/// States of checks to be written, by service, instance and check. `None`: the check is gone.
pub type Unsaved = BTreeMap<CheckKey, Option<SavedCheck>>;

/// What the writer is sent.
#[derive(Debug)]
pub enum WriterMessage {
    Request(WriteRequest),
    /// There are unsaved states of checks.
    Save,
}

/// Commands, and where their outcome is sent to.
#[derive(Debug)]
pub enum WriteRequest {
    /// One command.
    One(Command, Arc<Caller>, OutcomeSender),
    /// Commands about different instances, of which all are done or none is.
    Together(Vec<Command>, Arc<Caller>, OutcomeSender<Vec<CommandOutcome>>),
}

/// What is decided and will be answered once it is on the disk and applied.
#[derive(Debug)]
enum DecidedRequest {
    One(DecidedCommand, OutcomeSender),
    Together(Vec<DecidedCommand>, OutcomeSender<Vec<CommandOutcome>>),
}

/// What one command comes to.
#[derive(Debug)]
enum DecidedCommand {
    /// Nothing changes.
    Kept(Option<Arc<Entry>>),
    /// This is what will be there.
    Changed { planned: StampedChange, present: Option<Arc<Entry>>, revision: Revision, caller: Arc<Caller> },
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
    unsaved: Arc<Mutex<Unsaved>>,
    /// Taken out of `unsaved`, in order, and not written yet.
    saving: Unsaved,
    /// What came while its instance had a command in the transaction at hand: before all that came later.
    put_off: Vec<WriteRequest>,
    /// How many the last transaction had.
    last: usize,
    /// When what is not on the disk yet has to be.
    flush_at: Option<Duration>,
}

/// What a look into the inbox brings.
enum WriteBatch {
    Requests(Vec<WriteRequest>),
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
        (waiting, unsaved): (Arc<AtomicUsize>, Arc<Mutex<Unsaved>>),
    ) -> Self {
        let (saving, put_off) = (Unsaved::new(), Vec::new());
        let mut writer = Self {
            registry,
            store,
            durability,
            clock,
            metrics,
            waiting,
            unsaved,
            saving,
            put_off,
            last: 0,
            flush_at: None,
        };
        writer.count_unreadable();
        writer
    }

    /// Until nobody sends any more, or the disk fails.
    pub fn run(self, inbox: Receiver<WriterMessage>, on_failure: OnFailure) {
        let mut last_words =
            PanicReporter { defect: Some((StoreError::Defect { path: self.store.path().to_owned() }, on_failure)) };
        let ended = self.work(&inbox);
        for message in inbox.try_iter() {
            if let WriterMessage::Request(request) = message {
                request.refuse(EngineError::Stopped);
            }
        }
        // From here on, nothing is taken: who sends is told so.
        drop(inbox);
        if let Some((_, on_failure)) = last_words.defect.take()
            && let Err(error) = ended
        {
            on_failure(error);
        }
    }

    fn work(mut self, inbox: &Receiver<WriterMessage>) -> Result<(), StoreError> {
        loop {
            match self.gather(inbox) {
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

    /// Waits for commands, and for company where the last transaction had some. Empty when it is time to flush.
    fn gather(&mut self, inbox: &Receiver<WriterMessage>) -> WriteBatch {
        let mut requests = mem::take(&mut self.put_off);
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
        // States of checks wait for a command to go with: one that changes a status follows them at once.
        let wanted = self.last.max(usize::from(!self.saving.is_empty()));
        let company = if self.last > 1 || wanted > requests.len() { GATHER } else { Duration::ZERO };
        let until = self.clock.since_start() + company;
        while requests.len() < MOST {
            let patience =
                if requests.len() < wanted { until.saturating_sub(self.clock.since_start()) } else { Duration::ZERO };
            match inbox.recv_timeout(patience) {
                Ok(WriterMessage::Request(request)) => requests.push(request),
                Ok(WriterMessage::Save) => self.take_unsaved(),
                Err(_) => break,
            }
        }
        self.last = requests.len();
        WriteBatch::Requests(requests)
    }

    /// Takes the states of checks that are to be saved, once those before them are.
    fn take_unsaved(&mut self) {
        if self.saving.is_empty() {
            self.saving = mem::take(&mut *self.unsaved.lock());
        }
    }

    fn transact(&mut self, requests: Vec<WriteRequest>) -> Result<(), StoreError> {
        let (pending, newest) = self.decide(requests);
        let states = self.some_states();
        if pending.is_empty() && states.is_empty() {
            return Ok(());
        }
        let began = self.clock.since_start();
        // Of states alone, the last part brings all of them to the disk.
        let durable = self.durability == Durability::Durable && (!pending.is_empty() || self.saving.is_empty());
        let newest = if pending.is_empty() { self.store.revision() } else { newest };
        let mut writes: Vec<_> =
            pending.iter().flat_map(DecidedRequest::decided).filter_map(DecidedCommand::write).collect();
        // Neighbours share pages: a tree is walked faster in its own order.
        writes.sort_unstable_by(|one, other| one.key().cmp(&other.key()));
        let states = states.iter().map(|(key, saved)| RecordChange::State(key, saved.as_ref()));
        if let Err(error) = self.store.write(writes.into_iter().chain(states), newest, durable) {
            // Whether they are on the disk is not known: who asked is told so.
            drop(pending);
            return Err(error);
        }
        self.flush_at = if durable { None } else { self.flush_at.or(Some(began + FLUSH)) };
        self.metrics.commit.observe(self.clock.since_start().saturating_sub(began).as_secs_f64());
        let changes = pending.iter().flat_map(DecidedRequest::decided).filter(|decided| decided.is_change()).count();
        self.metrics.changes.inc_by(changes as u64);
        self.count_unreadable();
        self.apply(pending);
        if self.saving.is_empty() {
            self.take_unsaved();
        }
        Ok(())
    }

    /// Takes out as many states of checks as a transaction has room for.
    fn some_states(&mut self) -> Unsaved {
        let Some((bound, _)) = self.saving.iter().nth(MAX_STATES) else { return mem::take(&mut self.saving) };
        let bound = bound.clone();
        let rest = self.saving.split_off(&bound);
        mem::replace(&mut self.saving, rest)
    }

    fn count_unreadable(&mut self) {
        let unreadable = self.store.unreadable();
        self.metrics.unreadable.set(i64::try_from(unreadable).unwrap_or(i64::MAX));
    }

    /// What the commands mean, and the newest revision among it. Those that change nothing are answered.
    fn decide(&mut self, requests: Vec<WriteRequest>) -> (Vec<DecidedRequest>, Revision) {
        let mut pending = Vec::with_capacity(requests.len());
        let mut in_flight = HashSet::new();
        let mut newest = self.registry.applied();
        // Not when they were sent: a heartbeat may have come since, and its deadline must not move back.
        let now = self.clock.now();
        for request in requests {
            let targets = request.targets();
            let waits = targets.iter().any(|target| in_flight.contains(target));
            if waits {
                // What comes later for one of its instances does not overtake it.
                in_flight.extend(targets);
                self.put_off.push(request);
                continue;
            }
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let before = newest;
            // Whoever no longer waits does not need to know an outcome.
            match request {
                WriteRequest::One(command, caller, answer) => {
                    match self.decide_one(command, caller, &mut newest, now) {
                        Ok(decided) if decided.is_change() => pending.push(DecidedRequest::One(decided, answer)),
                        Ok(decided) => drop(answer.send(Ok(decided.kept(self.registry.applied())))),
                        Err(refusal) => drop(answer.send(Err(refusal.into()))),
                    }
                }
                WriteRequest::Together(commands, caller, answer) => {
                    let decide = |command| self.decide_one(command, Arc::clone(&caller), &mut newest, now);
                    let decided = commands.into_iter().map(decide);
                    match decided.collect::<Result<Vec<_>, _>>() {
                        Ok(decided) if decided.iter().any(DecidedCommand::is_change) => {
                            pending.push(DecidedRequest::Together(decided, answer));
                        }
                        Ok(decided) => {
                            let applied = self.registry.applied();
                            drop(answer.send(Ok(decided.into_iter().map(|decided| decided.kept(applied)).collect())));
                        }
                        Err(refusal) => {
                            newest = before;
                            drop(answer.send(Err(refusal.into())));
                        }
                    }
                }
            }
            if newest > before {
                in_flight.extend(targets);
            }
        }
        (pending, newest)
    }

    fn decide_one(
        &self,
        command: Command,
        caller: Arc<Caller>,
        newest: &mut Revision,
        now: ClockReading,
    ) -> Result<DecidedCommand, CommandError> {
        let (decision, present) = self.registry.order().decide(command, now)?;
        let Decision::Apply(draft) = decision else { return Ok(DecidedCommand::Kept(present)) };
        *newest = newest.next();
        let planned = draft.at(*newest, present.as_ref());
        Ok(DecidedCommand::Changed { planned, present, revision: *newest, caller })
    }

    fn apply(&self, pending: Vec<DecidedRequest>) {
        let now = self.clock.now();
        let mut events = Vec::with_capacity(pending.len());
        let mut done = Vec::with_capacity(pending.len());
        let mut order = self.registry.order();
        let applied = self.registry.applied();
        let mut apply = |decided| match decided {
            DecidedCommand::Kept(entry) => CommandOutcome { entry, revision: applied, changed: false },
            DecidedCommand::Changed { planned, present, revision, caller } => {
                let (entry, event) = order.apply(planned, present, revision, now, &caller);
                events.extend(event);
                CommandOutcome { entry, revision, changed: true }
            }
        };
        for pending in pending {
            done.push(match pending {
                DecidedRequest::One(decided, answer) => Applied::One(apply(decided), answer),
                DecidedRequest::Together(decided, answer) => {
                    Applied::Together(decided.into_iter().map(&mut apply).collect(), answer)
                }
            });
        }
        drop(order);
        for event in events {
            self.registry.notify(&event);
        }
        for done in done {
            match done {
                Applied::One(outcome, answer) => drop(answer.send(Ok(outcome))),
                Applied::Together(outcomes, answer) => drop(answer.send(Ok(outcomes))),
            }
        }
    }
}

/// Outcomes on their way to whoever waits for them.
enum Applied {
    One(CommandOutcome, OutcomeSender),
    Together(Vec<CommandOutcome>, OutcomeSender<Vec<CommandOutcome>>),
}

impl WriteRequest {
    /// The instances that it is about.
    fn targets(&self) -> Vec<(ServiceName, InstanceId)> {
        let commands = match self {
            Self::One(command, ..) => std::slice::from_ref(command),
            Self::Together(commands, ..) => commands,
        };
        let target = |command: &Command| {
            let (service, id) = command.target();
            (service.clone(), id.clone())
        };
        commands.iter().map(target).collect()
    }

    /// Answers that nothing was done.
    pub fn refuse(self, why: EngineError) {
        // Whoever no longer waits does not need to know.
        match self {
            Self::One(_, _, answer) => drop(answer.send(Err(why))),
            Self::Together(_, _, answer) => drop(answer.send(Err(why))),
        }
    }
}

impl DecidedRequest {
    fn decided(&self) -> &[DecidedCommand] {
        match self {
            Self::One(decided, _) => std::slice::from_ref(decided),
            Self::Together(decided, _) => decided,
        }
    }
}

impl DecidedCommand {
    fn is_change(&self) -> bool {
        matches!(self, Self::Changed { .. })
    }

    /// Outcome of a command that changes nothing, at this revision.
    fn kept(self, revision: Revision) -> CommandOutcome {
        match self {
            Self::Kept(entry) | Self::Changed { present: entry, .. } => {
                CommandOutcome { entry, revision, changed: false }
            }
        }
    }

    fn write(&self) -> Option<RecordChange<'_>> {
        match self {
            Self::Changed { planned: StampedChange::Put { instance, lease, terms, .. }, .. } => {
                let stored = lease.as_deref().map(StoredLease::of);
                Some(RecordChange::Put(instance, stored.map(|stored| stored.on(*terms))))
            }
            Self::Changed { planned: StampedChange::Remove { .. }, present: Some(before), .. } => {
                Some(RecordChange::Remove(&before.instance.service, &before.instance.id))
            }
            Self::Changed { planned: StampedChange::Remove { .. }, present: None, .. } | Self::Kept(_) => None,
        }
    }
}

/// Reports a writer that ends by a panic.
struct PanicReporter {
    defect: Option<(StoreError, OnFailure)>,
}

impl Drop for PanicReporter {
    fn drop(&mut self) {
        if let Some((defect, on_failure)) = self.defect.take() {
            on_failure(defect);
        }
    }
}
