//! Committer: the queue of requests, their batches in flight, and their outcomes.
//!
//! Outcomes come from the watch, not from the replies: once the watch has applied the revision with the note of a batch, a command
//! whose keys changed at that revision is done.

mod giving_up;

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    applier::{AppliedBatch, AppliedNote},
    batch::{Batch, ExpirationChange, InFlightRequest, Lane, QueuedRequest},
    decision::{CommandEffect, Decider},
    instance_value::SessionHolder,
    keys::KeySpace,
    own_session::OwnSession,
    registry_meta::RegistryMeta,
    releases::Releases,
    request_queue::RequestQueue,
    status::ReplicaStatus,
    stored_keys::StoredKeys,
};
use crate::{
    engine::{
        EngineError,
        write_request::{WriteRequest, WriteTarget},
    },
    etcd::EtcdTransaction,
    metrics::EtcdMetrics,
    model::{ServerActor, ServiceName},
    registry::{ClockReading, Command, CommandOutcome, PolicyOutcome, Registry},
};

/// Number of lanes. Each has at most one batch in flight.
pub const LANES: usize = 4;
/// Maximum number of commands in a batch. A nested transaction may have up to 28 operations then.
const MAX_COMMANDS: usize = 100;
/// Maximum number of commands that belong together and share a batch with others.
const MAX_SHARED_TOGETHER: usize = 25;
/// Size of the values from which on a batch takes no further command, in bytes.
const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// Time after which a batch without an outcome counts as stalled.
const STALL_TIME: Duration = Duration::from_millis(200);

/// Queue of requests, and the batches in flight.
#[derive(Debug)]
pub struct Committer {
    registry: Arc<Registry>,
    keys: KeySpace,
    meta: RegistryMeta,
    status: Arc<ReplicaStatus>,
    metrics: EtcdMetrics,
    replica: Box<str>,
    session: OwnSession,
    queue: RequestQueue,
    lanes: [Lane; LANES],
    in_flight: HashSet<WriteTarget>,
    releases: Releases,
    /// Deregistrations that would change nothing, until this replica has all changes.
    unconfirmed: Vec<QueuedRequest>,
}

impl Committer {
    /// Creates a committer without requests.
    pub fn new(
        registry: Arc<Registry>,
        (keys, meta): (KeySpace, RegistryMeta),
        status: Arc<ReplicaStatus>,
        metrics: EtcdMetrics,
        replica: Box<str>,
        session: OwnSession,
    ) -> Self {
        let (queue, lanes, in_flight) = (RequestQueue::default(), Default::default(), HashSet::new());
        let releases = Releases::new(Arc::clone(&registry));
        let unconfirmed = Vec::new();
        Self { registry, keys, meta, status, metrics, replica, session, queue, lanes, in_flight, releases, unconfirmed }
    }

    /// Adds a request.
    pub fn push(&mut self, request: WriteRequest, now: Duration) {
        let (done, is_alone, is_confirmed) = (Vec::new(), false, false);
        self.queue.push_back(QueuedRequest { request, done, since: now, is_alone, is_confirmed });
    }

    /// Adds a command of the replica itself, whose outcome is not awaited.
    pub fn push_command(&mut self, command: Command, now: Duration) {
        let (request, _) = WriteRequest::one(command, ServerActor::Recovery.caller());
        self.status.waiting.fetch_add(1, Ordering::Relaxed);
        self.push(request, now);
    }

    /// Takes note that the registry has changed: a request that changed something may now change nothing.
    pub fn registry_changed(&mut self) {
        self.queue.forget_changing();
    }

    /// Session by which batches are written.
    pub fn session(&self) -> &OwnSession {
        &self.session
    }

    /// Returns whether nothing waits and nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.lanes.iter().all(|lane| lane.in_flight.is_none())
    }

    /// Decides waiting requests and fills the free lanes. Returns each lane that has a new batch, with the transaction of the batch.
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
                let expirations = self.expiration_changes(&requests, stored, now);
                self.lanes[lane].sequence += 1;
                let sequence = self.lanes[lane].sequence;
                let since = Duration::from_micros(now.monotonic_us);
                self.lanes[lane].in_flight = Some(Batch { sequence, since, requests, expirations });
                started.extend(self.transaction(lane).map(|transaction| (lane, transaction)));
            }
        }
        started
    }

    /// Returns the transaction of the batch in a lane, to send it again.
    pub fn transaction(&self, lane: usize) -> Option<EtcdTransaction> {
        self.lanes.get(lane)?.transaction(lane, &self.keys, self.meta, &self.session)
    }

    /// Takes requests from the queue that share no target with each other or with a batch in flight, and decides them.
    fn next_requests(&mut self, stored: &StoredKeys, now: ClockReading) -> Vec<InFlightRequest> {
        let registry = Arc::clone(&self.registry);
        let mut decider = Decider::new(&registry, stored, self.holder(), now);
        let (mut requests, mut bytes) = (Vec::new(), 0);
        let mut blocked = HashSet::new();
        let mut skipped = Vec::new();
        let (elsewhere, mut here) = (self.services_expiring(), HashSet::new());
        // Heartbeats may have been lost since the leases expired: they begin again.
        let may_expire = !self.status.is_frozen();
        while let Some(queued) = self.queue.pop_front() {
            let targets = queued.request.targets();
            let is_alone = queued.is_alone || targets.len() > MAX_SHARED_TOGETHER;
            let expires = queued.request.expiring_service();
            if targets.iter().any(|target| self.in_flight.contains(target) || blocked.contains(target))
                || expires.is_some_and(|service| !may_expire || elsewhere.contains(service))
                || (is_alone && !requests.is_empty())
            {
                // Later requests for one of its targets must not overtake it.
                blocked.extend(targets);
                skipped.push(queued);
                continue;
            }
            let Some(request) = self.decide(queued, &mut decider) else { continue };
            if bytes > 0 && bytes + request.decision.size() > MAX_BATCH_BYTES {
                skipped.push(request.queued);
                break;
            }
            self.in_flight.extend(targets);
            bytes += request.decision.size();
            here.extend(request.decision.expiring.clone());
            requests.push(request);
            if requests.len() + here.len() >= MAX_COMMANDS || bytes >= MAX_BATCH_BYTES || is_alone {
                break;
            }
        }
        skipped.into_iter().rev().for_each(|queued| self.queue.push_front(queued));
        requests
    }

    /// Returns the services with expirations in flight. Another batch with some of them would not know of these.
    fn services_expiring(&self) -> HashSet<ServiceName> {
        let in_flight = self.lanes.iter().filter_map(|lane| lane.in_flight.as_ref());
        in_flight.flat_map(|batch| &batch.expirations).map(|change| change.service.clone()).collect()
    }

    /// Returns the changes of the counted expirations by the requests of a batch: one for each service.
    fn expiration_changes(
        &self,
        requests: &[InFlightRequest],
        stored: &StoredKeys,
        now: ClockReading,
    ) -> Vec<ExpirationChange> {
        let mut counts = BTreeMap::new();
        for service in requests.iter().filter_map(|request| request.decision.expiring.as_ref()) {
            *counts.entry(service).or_insert(0) += 1;
        }
        let change = |(service, count): (&ServiceName, u64)| {
            let window = self.registry.expiration_memory(service);
            let value = stored.expirations_of(service).after(count, now.wall, window).encode();
            ExpirationChange { service: service.clone(), guard: stored.expirations_guard(service), value }
        };
        counts.into_iter().map(change).collect()
    }

    /// Returns whether no lane will be free soon, because etcd is slow or away.
    pub fn is_stalled(&self, now: Duration) -> bool {
        let is_stalled = |batch: &Batch| now.saturating_sub(batch.since) > STALL_TIME;
        self.lanes.iter().all(|lane| lane.in_flight.as_ref().is_some_and(is_stalled))
    }

    /// Answers the waiting requests that change nothing. Other requests stay, and so do those behind them for the same instance.
    pub fn answer_unchanged(&mut self, stored: &StoredKeys, now: ClockReading) {
        let (registry, replica) = (Arc::clone(&self.registry), self.holder());
        let (mut queue, in_flight) = (mem::take(&mut self.queue), mem::take(&mut self.in_flight));
        queue.answer_unchanged(
            |target| in_flight.contains(target),
            |queued| {
                let mut decider = Decider::new(&registry, stored, replica.clone(), now);
                self.decide(queued, &mut decider).map(|request| request.queued)
            },
        );
        (self.queue, self.in_flight) = (queue, in_flight);
    }

    fn holder(&self) -> SessionHolder {
        SessionHolder { epoch: self.session.epoch, replica: self.replica.clone() }
    }

    /// Decides a request. Answers it and returns `None` if it is rejected or changes nothing.
    fn decide(&mut self, queued: QueuedRequest, decider: &mut Decider<'_>) -> Option<InFlightRequest> {
        let decision = decider.decide(&queued.request);
        let changes = decision.as_ref().is_ok_and(|decision| !decision.changes.is_empty());
        if !changes && !queued.is_confirmed && queued.request.is_deregistration() {
            // This replica may not have the registration yet, which another one has acknowledged.
            self.unconfirmed.push(queued);
            return None;
        }
        let decision = match decision {
            Ok(decision) if decision.changes.is_empty() => decision,
            Ok(decision) => return Some(InFlightRequest { queued, decision }),
            Err(error) => {
                if let Some(rejected) = self.releases.set_aside(queued, &error, decider.now()) {
                    self.reject(rejected.request, error);
                }
                return None;
            }
        };
        if let (WriteRequest::Policy(..), Some(unchanged)) = (&queued.request, decision.unchanged_policy) {
            self.answer_policy(queued.request, Ok(unchanged));
            return None;
        }
        let outcomes = decision.commands.into_iter().map(|command| self.unchanged(command)).collect();
        self.finish_part(queued, outcomes).and_then(|rest| self.decide(rest, decider))
    }

    /// Takes the deregistrations that would change nothing. [`Self::confirm`] decides them again once this replica has all changes.
    pub fn take_unconfirmed(&mut self) -> Vec<QueuedRequest> {
        mem::take(&mut self.unconfirmed)
    }

    /// Decides deregistrations again, or rejects them if this replica may not have all changes.
    pub fn confirm(&mut self, deregistrations: Vec<QueuedRequest>, confirmed: &Result<(), EngineError>) {
        for queued in deregistrations {
            match confirmed {
                Ok(()) => self.queue.push_back(QueuedRequest { is_confirmed: true, ..queued }),
                Err(error) => self.reject(queued.request, error.clone()),
            }
        }
    }

    fn unchanged(&self, command: CommandEffect) -> CommandOutcome {
        let entry = match command {
            CommandEffect::NoOp(entry) => entry,
            CommandEffect::Changes(_) => None,
        };
        CommandOutcome { entry, revision: self.registry.applied(), changed: false }
    }

    /// Returns the transaction by which this replica asks others to release instances, if it has to.
    pub fn release_request(&mut self) -> Option<EtcdTransaction> {
        self.releases.next_request(&self.keys, &self.session)
    }

    /// Takes note of the requests of others to release instances, and decides registrations again whose instance was released.
    pub fn take_releases(&mut self, applied: &AppliedBatch, now: ClockReading) {
        for queued in self.releases.take_applied(applied, Duration::from_micros(now.monotonic_us)) {
            self.queue.push_front(queued);
        }
        self.release(now);
    }

    /// Releases the instances that others have asked for and whose heartbeat stream is broken.
    pub fn release(&mut self, now: ClockReading) {
        for command in self.releases.take_releases(now) {
            self.push_command(command, Duration::from_micros(now.monotonic_us));
        }
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
            self.free_targets(&request.queued.request);
            // After a snapshot, only another decision shows the outcome: a change that was made is then the present state.
            let is_done = !applied.is_snapshot
                && request.decision.changes.first().is_some_and(|change| applied.changed.contains_key(&change.key));
            if !is_done {
                self.metrics.conflicts.inc();
                self.queue.push_front(request.queued);
            } else if let Some(rest) = self.complete(request, applied) {
                self.queue.push_front(rest);
            }
        }
    }

    /// Lets other batches change what a request of an ended batch changes.
    fn free_targets(&mut self, request: &WriteRequest) {
        for target in request.targets() {
            self.in_flight.remove(&target);
        }
    }

    /// Answers a request whose changes are applied. Returns what is left of it.
    fn complete(&self, request: InFlightRequest, applied: &AppliedBatch) -> Option<QueuedRequest> {
        let InFlightRequest { queued, decision } = request;
        if matches!(queued.request, WriteRequest::Policy(..)) {
            self.answer_policy(queued.request, applied.policy.clone().ok_or_else(unconfirmed));
            return None;
        }
        let outcome = |command: CommandEffect| match command {
            CommandEffect::NoOp(_) => self.unchanged(command),
            CommandEffect::Changes(key) => match applied.changed.get(&key) {
                Some((entry, revision)) => CommandOutcome { entry: entry.clone(), revision: *revision, changed: true },
                None => CommandOutcome { entry: None, revision: self.registry.applied(), changed: true },
            },
        };
        let outcomes = decision.commands.into_iter().map(outcome).collect();
        self.finish_part(queued, outcomes)
    }

    /// Answers a request once all its parts are done. Returns the rest otherwise.
    fn finish_part(&self, queued: QueuedRequest, outcomes: Vec<CommandOutcome>) -> Option<QueuedRequest> {
        let QueuedRequest { request, mut done, since, is_alone, is_confirmed } = queued;
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
                let request = WriteRequest::Together(commands, caller, sender);
                Some(QueuedRequest { request, done, since, is_alone, is_confirmed })
            }
            // Policies are answered where they are decided or applied.
            WriteRequest::Policy(..) => None,
        }
    }

    fn answer_policy(&self, request: WriteRequest, outcome: Result<PolicyOutcome, EngineError>) {
        if let WriteRequest::Policy(_, _, sender) = request {
            self.answered();
            drop(sender.send(outcome));
        }
    }

    /// Continues in another incarnation.
    pub fn set_meta(&mut self, meta: RegistryMeta) {
        self.meta = meta;
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

    fn reject(&self, request: WriteRequest, error: EngineError) {
        self.answered();
        request.reject(error);
    }

    fn answered(&self) {
        self.status.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

fn unconfirmed() -> EngineError {
    EngineError::Unconfirmed { reason: "etcd did not confirm the write within 2 s".to_owned() }
}
