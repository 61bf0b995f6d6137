//! Committer: decides commands, and makes batches of the changes.
//!
//! A batch is one transaction of etcd. It compares that the session of this replica exists and that the note of its lane is the one
//! that the watch has shown last, so that a batch whose reply was lost is not applied twice. Each command has a nested transaction
//! with a comparison of its own: if another replica has changed the instance, only that command is decided again.
//!
//! Outcomes come from the watch, not from the replies: once the watch has applied the revision with the note of a batch, a command
//! whose keys changed at that revision is done.

use std::{
    collections::{HashSet, VecDeque},
    mem, slice,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    applier::{AppliedBatch, AppliedNote},
    batch_note::{BatchNote, NotedCommand},
    instance_value::{InstanceValue, SessionHolder},
    keys::{KeySpace, RegistryKey},
    own_session::OwnSession,
    policy_value::PolicyValue,
    position::CommitSlot,
    status::ReplicaStatus,
    stored_keys::StoredKeys,
};
use crate::{
    engine::{
        EngineError, PendingCommand,
        record::StoredLease,
        write_request::{WriteRequest, WriteTarget},
    },
    etcd::{EtcdCompare, EtcdOperation, EtcdRange, EtcdTransaction},
    metrics::EtcdMetrics,
    model::{Caller, InstanceId, LeaseId, PolicyScope, Revision, ServerActor, ServiceName},
    registry::{
        ClockReading, Command, CommandOutcome, Decision, EndReason, Entry, PolicyChange, PolicyDecision,
        ProposedChange, Registry, StampedChange,
    },
};

/// Number of batches that are in flight at the same time.
pub const LANES: usize = 4;
/// Maximum number of commands in a batch. A nested transaction may have up to 28 operations then.
const MAX_COMMANDS: usize = 100;
/// Maximum number of commands that belong together and share a batch with others.
const MAX_SHARED_TOGETHER: usize = 25;
/// Maximum number of commands that are executed together. Of more, each part is executed as a whole.
const MAX_TOGETHER: usize = 120;
/// Size of the values from which on a batch takes no further command, in bytes.
const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// Maximum time that a caller waits for etcd.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time after which a caller should try again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Revision in a record that is being written: the revision that its batch will have.
const THIS_REVISION: Revision = Revision(0);

/// Request in the queue.
#[derive(Debug)]
struct QueuedRequest {
    request: WriteRequest,
    /// Outcomes of the commands that belong together and are done.
    done: Vec<CommandOutcome>,
    /// Time at which it arrived, since the start of the process.
    since: Duration,
}

/// Change that a batch makes to one key.
#[derive(Debug)]
struct KeyChange {
    key: RegistryKey,
    /// Revision of etcd at which the key was last changed; 0 if it does not exist.
    guard: u64,
    /// New value. `None` removes the key.
    value: Option<Vec<u8>>,
    note: NotedCommand,
}

/// Request of a batch, with its keys in the order of its commands. A command without a change has the present entry instead.
#[derive(Debug)]
struct InFlightRequest {
    queued: QueuedRequest,
    commands: Vec<CommandKey>,
    /// Guards that have no change: keys that the decision depends on.
    compares: Vec<EtcdCompare>,
    changes: Vec<KeyChange>,
}

#[derive(Debug)]
enum CommandKey {
    Changes(RegistryKey),
    NoOp(Option<Arc<Entry>>),
}

/// Batch that was sent.
#[derive(Debug)]
struct Batch {
    sequence: u64,
    /// Time of the first attempt to send it, since the start of the process.
    since: Duration,
    requests: Vec<InFlightRequest>,
}

/// One of the sequences of batches of a session.
#[derive(Debug, Default)]
struct Lane {
    /// Sequence number of the last batch.
    sequence: u64,
    /// Revision of etcd of the note that the watch showed last.
    note_revision: u64,
    in_flight: Option<Batch>,
}

/// Queue of requests, and the batches in flight.
#[derive(Debug)]
pub struct Committer {
    registry: Arc<Registry>,
    keys: KeySpace,
    status: Arc<ReplicaStatus>,
    metrics: EtcdMetrics,
    replica: Box<str>,
    session: OwnSession,
    queue: VecDeque<QueuedRequest>,
    lanes: [Lane; LANES],
    in_flight: HashSet<WriteTarget>,
}

impl Committer {
    /// Creates a committer without requests.
    pub fn new(
        registry: Arc<Registry>,
        keys: KeySpace,
        status: Arc<ReplicaStatus>,
        metrics: EtcdMetrics,
        replica: Box<str>,
        session: OwnSession,
    ) -> Self {
        let (queue, lanes, in_flight) = (VecDeque::new(), Default::default(), HashSet::new());
        Self { registry, keys, status, metrics, replica, session, queue, lanes, in_flight }
    }

    /// Adds a request.
    pub fn push(&mut self, request: WriteRequest, now: Duration) {
        self.queue.push_back(QueuedRequest { request, done: Vec::new(), since: now });
    }

    /// Adds a claim, whose outcome is not awaited.
    pub fn push_claim(&mut self, service: ServiceName, id: InstanceId, lease: Option<LeaseId>, now: Duration) {
        let (sender, _) = PendingCommand::waiting();
        let command = Command::Claim { service, id, lease };
        let caller = Arc::clone(ServerActor::Recovery.caller());
        self.status.waiting.fetch_add(1, Ordering::Relaxed);
        self.push(WriteRequest::One(command, caller, sender), now);
    }

    /// Session by which batches are written.
    pub fn session(&self) -> &OwnSession {
        &self.session
    }

    /// Returns whether nothing waits and nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.lanes.iter().all(|lane| lane.in_flight.is_none())
    }

    /// Decides waiting requests and fills the free lanes. Returns the lanes with a new batch, and its transaction.
    pub fn fill(&mut self, stored: &StoredKeys, now: ClockReading) -> Vec<(usize, EtcdTransaction)> {
        let mut started = Vec::new();
        for lane in 0..LANES {
            if self.queue.is_empty() {
                break;
            }
            if self.lanes[lane].in_flight.is_none() {
                let requests = self.next_requests(stored, now);
                if requests.is_empty() {
                    break;
                }
                self.lanes[lane].sequence += 1;
                let sequence = self.lanes[lane].sequence;
                let since = Duration::from_micros(now.monotonic_us);
                self.lanes[lane].in_flight = Some(Batch { sequence, since, requests });
                started.extend(self.transaction(lane).map(|transaction| (lane, transaction)));
            }
        }
        started
    }

    /// Returns the transaction of the batch in a lane, to send it again.
    pub fn transaction(&self, lane: usize) -> Option<EtcdTransaction> {
        let Lane { note_revision, in_flight, .. } = self.lanes.get(lane)?;
        let batch = in_flight.as_ref()?;
        let note_key = self.note_key(lane);
        let changes = batch.requests.iter().flat_map(|request| &request.changes);
        let note =
            BatchNote { sequence: batch.sequence, commands: changes.map(|change| change.note.clone()).collect() };
        let put_note = EtcdOperation::put_with_lease(note_key.clone(), note.encode(), self.session.lease);
        let nested = batch.requests.iter().map(|request| EtcdOperation::Nested(self.nested(request)));
        Some(EtcdTransaction {
            compares: vec![
                EtcdCompare::create_revision(self.session.key.clone(), self.session.epoch.0),
                EtcdCompare::mod_revision(note_key.clone(), *note_revision),
            ],
            success: [put_note].into_iter().chain(nested).collect(),
            failure: vec![EtcdOperation::Range(EtcdRange::key(self.session.key.clone()))],
        })
    }

    fn nested(&self, request: &InFlightRequest) -> EtcdTransaction {
        let guard = |change: &KeyChange| EtcdCompare::mod_revision(self.keys.encode(&change.key), change.guard);
        let operation = |change: &KeyChange| match &change.value {
            Some(value) => EtcdOperation::put(self.keys.encode(&change.key), value.clone()),
            None => EtcdOperation::delete(self.keys.encode(&change.key)),
        };
        EtcdTransaction {
            compares: request.compares.iter().cloned().chain(request.changes.iter().map(guard)).collect(),
            success: request.changes.iter().map(operation).collect(),
            failure: vec![],
        }
    }

    fn note_key(&self, lane: usize) -> String {
        let lane = u8::try_from(lane).unwrap_or(u8::MAX);
        self.keys.encode(&RegistryKey::BatchNote(self.session.id, lane))
    }

    /// Takes requests from the queue that share no target with each other or with a batch in flight, and decides them.
    fn next_requests(&mut self, stored: &StoredKeys, now: ClockReading) -> Vec<InFlightRequest> {
        let (mut requests, mut bytes, mut slot) = (Vec::new(), 0, Some(CommitSlot::FIRST));
        let mut blocked = HashSet::new();
        let mut skipped = VecDeque::new();
        while let Some(queued) = self.queue.pop_front() {
            let targets = queued.request.targets();
            let is_alone = targets.len() > MAX_SHARED_TOGETHER;
            if targets.iter().any(|target| self.in_flight.contains(target) || blocked.contains(target))
                || (is_alone && !requests.is_empty())
            {
                // Later requests for one of its targets must not overtake it.
                blocked.extend(targets);
                skipped.push_back(queued);
                continue;
            }
            let Some(decided) = self.decide(queued, stored, &mut slot, now) else { continue };
            self.in_flight.extend(targets);
            bytes += decided.changes.iter().filter_map(|change| change.value.as_ref()).map(Vec::len).sum::<usize>();
            requests.push(decided);
            if requests.len() >= MAX_COMMANDS || bytes >= MAX_BATCH_BYTES || is_alone {
                break;
            }
        }
        skipped.append(&mut self.queue);
        self.queue = skipped;
        requests
    }

    /// Decides a request. Answers it and returns `None` if it is rejected or changes nothing.
    fn decide(
        &self,
        queued: QueuedRequest,
        stored: &StoredKeys,
        slot: &mut Option<CommitSlot>,
        now: ClockReading,
    ) -> Option<InFlightRequest> {
        let QueuedRequest { request, done, since } = queued;
        let mut decided = RequestDecision { commands: Vec::new(), compares: Vec::new(), changes: Vec::new() };
        let result = match &request {
            WriteRequest::One(command, caller, _) => {
                self.decide_commands(slice::from_ref(command), caller, &mut decided, stored, slot, now)
            }
            WriteRequest::Together(commands, caller, _) => {
                let part = &commands[..commands.len().min(MAX_TOGETHER)];
                self.decide_commands(part, caller, &mut decided, stored, slot, now)
            }
            WriteRequest::Policy(command, caller, _) => {
                match self.registry.order().decide_policy((**command).clone()) {
                    Ok(PolicyDecision::NoOp(unchanged)) => {
                        if let WriteRequest::Policy(_, _, sender) = request {
                            self.answered();
                            drop(sender.send(Ok(unchanged)));
                        }
                        return None;
                    }
                    Ok(PolicyDecision::Apply(proposed)) => {
                        let change = proposed.at(THIS_REVISION, now.wall, Arc::clone(caller));
                        decided.add_policy(&change, caller, stored, slot, &self.keys);
                        Ok(())
                    }
                    Err(error) => Err(error.into()),
                }
            }
        };
        if let Err(error) = result {
            self.reject(request, error);
            return None;
        }
        let RequestDecision { commands, compares, changes } = decided;
        let queued = QueuedRequest { request, done, since };
        if changes.is_empty() {
            let outcomes = commands.into_iter().map(|command| self.unchanged(command)).collect();
            return self.finish_part(queued, outcomes).and_then(|rest| self.decide(rest, stored, slot, now));
        }
        Some(InFlightRequest { queued, commands, compares, changes })
    }

    fn unchanged(&self, command: CommandKey) -> CommandOutcome {
        let entry = match command {
            CommandKey::NoOp(entry) => entry,
            CommandKey::Changes(_) => None,
        };
        CommandOutcome { entry, revision: self.registry.applied(), changed: false }
    }

    fn decide_commands(
        &self,
        commands: &[Command],
        caller: &Arc<Caller>,
        decided: &mut RequestDecision,
        stored: &StoredKeys,
        slot: &mut Option<CommitSlot>,
        now: ClockReading,
    ) -> Result<(), EngineError> {
        for command in commands {
            let claims =
                matches!(command, Command::Register(_) | Command::RegisterWithoutLease(_) | Command::Claim { .. });
            let (service, id) = command.target();
            let key = RegistryKey::Instance(service.clone(), id.clone());
            let (decision, present) = self.registry.order().decide(command.clone(), now)?;
            // A registration that changes nothing proves that its program reaches this replica.
            let is_held = present.as_ref().is_none_or(|present| self.registry.holds(present));
            let proposed = match (decision, &present) {
                (Decision::Apply(proposed), _) if may_apply(command, present.as_deref()) => proposed,
                (Decision::NoOp, Some(present)) if claims && !is_held => ProposedChange::Put {
                    instance: present.instance.clone(),
                    lease: present.lease.clone(),
                    is_new: false,
                    terms: None,
                    end_reason: EndReason::Superseded,
                },
                (Decision::NoOp | Decision::Apply(_), _) => {
                    decided.commands.push(CommandKey::NoOp(present));
                    continue;
                }
            };
            let guard = stored.guard(&key, present.as_deref());
            let Some(this) = slot.take() else { return Err(self.overloaded()) };
            *slot = this.next();
            let change = proposed.at(THIS_REVISION, present.as_ref());
            let holder = match &present {
                Some(present) if !claims => stored.holder(present),
                Some(_) | None => SessionHolder { epoch: self.session.epoch, replica: self.replica.clone() },
            };
            decided.add(change, (key, guard), &holder, this, caller, stored);
        }
        Ok(())
    }

    /// Completes the requests of the batch whose note this is. Those whose guards failed are decided again.
    pub fn resolve(&mut self, note: AppliedNote, applied: &AppliedBatch, now: Duration) {
        let Some(known) = self.lanes.get_mut(usize::from(note.lane)) else { return };
        if note.session != self.session.id {
            return;
        }
        known.note_revision = note.mod_revision;
        if known.in_flight.as_ref().is_none_or(|batch| batch.sequence != note.sequence) {
            return; // its callers were told that the outcome is not known
        }
        let Some(batch) = known.in_flight.take() else { return };
        self.metrics.batches.inc();
        self.metrics.commit.observe(now.saturating_sub(batch.since).as_secs_f64());
        for request in batch.requests.into_iter().rev() {
            for target in request.queued.request.targets() {
                self.in_flight.remove(&target);
            }
            // After a snapshot it shows when the request is decided again: a change that was made is then the present state.
            let is_done = !applied.is_snapshot
                && request.changes.first().is_some_and(|change| applied.changed.contains_key(&change.key));
            if !is_done {
                self.metrics.conflicts.inc();
                self.queue.push_front(request.queued);
            } else if let Some(rest) = self.complete(request, applied) {
                self.queue.push_front(rest);
            }
        }
    }

    /// Answers a request whose changes are applied. Returns what is left of it.
    fn complete(&self, request: InFlightRequest, applied: &AppliedBatch) -> Option<QueuedRequest> {
        let InFlightRequest { queued, commands, .. } = request;
        if let WriteRequest::Policy(_, _, sender) = queued.request {
            self.answered();
            match applied.policy.clone() {
                Some(outcome) => drop(sender.send(Ok(outcome))),
                None => drop(sender.send(Err(unconfirmed()))),
            }
            return None;
        }
        let outcome = |command: CommandKey| match command {
            CommandKey::NoOp(_) => self.unchanged(command),
            CommandKey::Changes(key) => match applied.changed.get(&key) {
                Some((entry, revision)) => CommandOutcome { entry: entry.clone(), revision: *revision, changed: true },
                None => CommandOutcome { entry: None, revision: self.registry.applied(), changed: true },
            },
        };
        let outcomes = commands.into_iter().map(outcome).collect();
        self.finish_part(queued, outcomes)
    }

    /// Answers a request once all its parts are done. Returns the rest otherwise.
    fn finish_part(&self, queued: QueuedRequest, outcomes: Vec<CommandOutcome>) -> Option<QueuedRequest> {
        let QueuedRequest { request, mut done, since } = queued;
        match request {
            WriteRequest::One(_, _, sender) => {
                self.answered();
                if let Some(outcome) = outcomes.into_iter().next() {
                    drop(sender.send(Ok(outcome)));
                }
                None
            }
            WriteRequest::Together(mut commands, caller, sender) => {
                commands.drain(..outcomes.len());
                done.extend(outcomes);
                if commands.is_empty() {
                    self.answered();
                    drop(sender.send(Ok(done)));
                    return None;
                }
                Some(QueuedRequest { request: WriteRequest::Together(commands, caller, sender), done, since })
            }
            // Policies are answered where they are decided or applied.
            WriteRequest::Policy(..) => None,
        }
    }

    /// Answers the callers that have waited for too long, and drops their requests.
    pub fn expire_callers(&mut self, now: Duration) {
        let is_late =
            |queued: &QueuedRequest| !is_internal(&queued.request) && now.saturating_sub(queued.since) > WRITE_TIMEOUT;
        if self.queue.front().is_none_or(|first| now.saturating_sub(first.since) <= WRITE_TIMEOUT)
            && self.lanes.iter().all(|lane| lane.in_flight.is_none())
        {
            return;
        }
        for queued in mem::take(&mut self.queue) {
            if is_late(&queued) {
                let error = if queued.done.is_empty() { unavailable() } else { unconfirmed() };
                self.reject(queued.request, error);
            } else {
                self.queue.push_back(queued);
            }
        }
        for lane in 0..LANES {
            let is_over = self.lanes[lane].in_flight.as_ref().is_some_and(|batch| {
                // A batch without callers ends, too, so that it does not keep its lane from others while etcd is away.
                now.saturating_sub(batch.since) > WRITE_TIMEOUT
                    || batch.requests.iter().any(|request| is_late(&request.queued))
            });
            if is_over && let Some(batch) = self.lanes[lane].in_flight.take() {
                self.give_up(batch, now);
            }
        }
    }

    /// Ends a batch whose callers have waited for too long. The commands of the replica itself are decided again.
    fn give_up(&mut self, batch: Batch, now: Duration) {
        for request in batch.requests.into_iter().rev() {
            for target in request.queued.request.targets() {
                self.in_flight.remove(&target);
            }
            let waited = now.saturating_sub(request.queued.since);
            if is_internal(&request.queued.request) {
                self.queue.push_front(request.queued);
            } else if waited > WRITE_TIMEOUT / 2 {
                let error = unconfirmed();
                self.reject(request.queued.request, error);
            } else {
                // Whether it was executed shows when it is decided again.
                self.queue.push_front(request.queued);
            }
        }
    }

    /// Continues with a new session. The batches of the earlier one cannot be executed any more, so they are decided again.
    pub fn set_session(&mut self, session: OwnSession) {
        self.session = session;
        for lane in mem::take(&mut self.lanes).into_iter().rev() {
            for request in lane.in_flight.into_iter().flat_map(|batch| batch.requests.into_iter().rev()) {
                self.queue.push_front(request.queued);
            }
        }
        self.in_flight.clear();
    }

    /// Removes the waiting expirations, and returns their instances: a heartbeat may not have arrived.
    pub fn take_expirations(&mut self) -> Vec<(ServiceName, InstanceId)> {
        let mut taken = Vec::new();
        for queued in mem::take(&mut self.queue) {
            if let WriteRequest::One(Command::Expire(lease), ..) = &queued.request {
                taken.push((lease.service.clone(), lease.instance.clone()));
                self.finish_part(
                    queued,
                    vec![CommandOutcome { entry: None, revision: self.registry.applied(), changed: false }],
                );
            } else {
                self.queue.push_back(queued);
            }
        }
        taken
    }

    /// Rejects everything that waits.
    pub fn stop(&mut self) {
        for queued in mem::take(&mut self.queue) {
            self.reject(queued.request, EngineError::Stopped);
        }
        for lane in &mut mem::take(&mut self.lanes) {
            for request in lane.in_flight.take().into_iter().flat_map(|batch| batch.requests) {
                self.reject(request.queued.request, EngineError::OutcomeUnknown);
            }
        }
    }

    fn reject(&self, request: WriteRequest, error: EngineError) {
        self.answered();
        request.reject(error);
    }

    fn answered(&self) {
        self.status.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    fn overloaded(&self) -> EngineError {
        let waiting = self.status.waiting.load(Ordering::Relaxed);
        EngineError::Overloaded { waiting, retry: RETRY_DELAY }
    }
}

/// Returns whether this replica may carry out a decision. Only a lease that expires here may be removed or marked as suspect.
fn may_apply(command: &Command, present: Option<&Entry>) -> bool {
    let lease = present.and_then(|present| present.lease.as_ref());
    match command {
        Command::Expire(_) | Command::Suspect(_) | Command::Recover(_) => {
            lease.is_some_and(|lease| lease.expires_here())
        }
        Command::Register(_)
        | Command::RegisterWithoutLease(_)
        | Command::Deregister { .. }
        | Command::Update { .. }
        | Command::Claim { .. }
        | Command::SetCheckStatus { .. }
        | Command::AnnounceReport { .. }
        | Command::AddCheck { .. }
        | Command::RemoveCheck { .. }
        | Command::Reap { .. }
        | Command::RefreshNodeStatus { .. } => true,
    }
}

fn unavailable() -> EngineError {
    EngineError::Unavailable { reason: "etcd did not answer within 2 s".to_owned(), retry: RETRY_DELAY }
}

fn unconfirmed() -> EngineError {
    EngineError::Unconfirmed { reason: "etcd did not confirm the write within 2 s".to_owned() }
}

/// Returns whether the registry itself sent a request, so that no caller would repeat it.
pub fn is_internal(request: &WriteRequest) -> bool {
    let WriteRequest::One(command, ..) = request else { return false };
    matches!(
        command,
        Command::Expire(_)
            | Command::Suspect(_)
            | Command::Recover(_)
            | Command::RefreshNodeStatus { .. }
            | Command::Claim { .. }
    )
}

/// Changes that a request makes.
#[derive(Debug)]
struct RequestDecision {
    commands: Vec<CommandKey>,
    compares: Vec<EtcdCompare>,
    changes: Vec<KeyChange>,
}

impl RequestDecision {
    fn add(
        &mut self,
        change: StampedChange,
        (key, guard): (RegistryKey, u64),
        holder: &SessionHolder,
        slot: CommitSlot,
        caller: &Arc<Caller>,
        stored: &StoredKeys,
    ) {
        let caller = Some(Arc::clone(caller));
        let note = |removal, lease_end| NotedCommand { slot, key: key.clone(), removal, lease_end, caller };
        let (value, note) = match change {
            StampedChange::Put { instance, lease, terms, end_reason, .. } => {
                let lease = lease.as_deref().map(|lease| StoredLease::of(lease).with_terms(terms));
                let value = InstanceValue::encode(&instance, lease, holder, slot, &stored.unknown_fields(&key));
                (Some(value), note(None, Some(end_reason)))
            }
            StampedChange::Remove { reason, end_reason } => (None, note(Some(reason), Some(end_reason))),
        };
        self.commands.push(CommandKey::Changes(key.clone()));
        self.changes.push(KeyChange { key, guard, value, note });
    }

    fn add_policy(
        &mut self,
        change: &PolicyChange,
        caller: &Arc<Caller>,
        stored: &StoredKeys,
        slot: &mut Option<CommitSlot>,
        keys: &KeySpace,
    ) {
        let forgotten = if change.forgotten.is_empty() { stored.forgotten_policies() } else { Some(THIS_REVISION) };
        let removed = change.forgotten.iter().map(|scope| (scope, None));
        for (scope, revisions) in [(&change.scope, Some(&change.revisions))].into_iter().chain(removed) {
            let Some(this) = slot.take() else { return };
            *slot = this.next();
            let key = RegistryKey::Policy(scope.clone());
            let value = revisions
                .map(|revisions| PolicyValue::encode(revisions, forgotten, this, &stored.unknown_fields(&key)));
            let note = NotedCommand {
                slot: this,
                key: key.clone(),
                removal: None,
                lease_end: None,
                caller: Some(Arc::clone(caller)),
            };
            let guard = stored.guard(&key, None);
            self.changes.push(KeyChange { key, guard, value, note });
        }
        // A policy is decided against the defaults.
        let defaults = RegistryKey::Policy(PolicyScope::Defaults);
        if self.changes.iter().all(|change| change.key != defaults) {
            self.compares.push(EtcdCompare::mod_revision(keys.encode(&defaults), stored.guard(&defaults, None)));
        }
    }
}
