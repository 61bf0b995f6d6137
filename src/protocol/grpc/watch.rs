//! Watch stream: turns the steps of a subscription into messages whenever the notifier wakes it.
//!
//! It is polled when the client's flow-control window is open. A client that does not read therefore costs a cursor and one
//! prepared message; what changes in the meantime stays in the registry's event logs, or is replaced by the newest state.

mod balancing;
mod call;
mod frame;
mod relocation;

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};

use super::{ApiError, decode::WatchOptions, discovery::subset_filter, encode, time};
use crate::{
    app::{ReaderMemory, ServerContext, UserAgent, WatchProtocol, WatchedResource, WatcherGuard},
    engine::PendingCommand,
    metrics::WorkerLabel,
    model::{InstanceFilter, ResumeToken, Revision, ServiceName, SubsetName, topic_of_policies},
    pb::callboard::v1 as pb,
    registry::{ClockReading, Delta, SnapshotChunk, Step, Subscription},
    transport::{Connection, Interest, MessageSource, NextMessage, WakeRegistration},
};
use balancing::BalancingState;
pub(super) use call::answer;
use frame::MessageChunks;
use relocation::{WatchRelocation, WatchRelocationStep};

/// Stream of one watch.
#[derive(Debug)]
struct WatchStream {
    context: Arc<ServerContext>,
    wake: WakeRegistration,
    subscription: Subscription,
    subset: Option<WatchedSubset>,
    /// Set if the client asked for Balancing messages.
    balancing: Option<BalancingState>,
    /// Newest revision of any policy when the policies were last read, if the watch depends on them. `None`: never yet.
    policies: Option<Revision>,
    /// Set while the watch waits until the registry has settled. Changes do not wake it until then.
    waits_for_settling: bool,
    /// Wait for the revision of the token, which another replica has sent.
    catching_up: Option<Box<PendingCommand<()>>>,
    /// Set if the last bookmark said that the engine cannot reach its store.
    is_known_stale: bool,
    entry: WatcherGuard,
    propagation: Histogram,
    outgoing: SendBuffer,
    /// Step that ended a snapshot message and is not sent yet.
    next_step: Option<Step>,
    /// Time of the oldest change in the present message.
    oldest: Option<ClockReading>,
    /// Last revision that the client was sent.
    sent: Revision,
    /// Time of the last message.
    last_message: ClockReading,
    relocation: WatchRelocation,
    state: StreamState,
}

/// Subset that a watch is restricted to.
#[derive(Debug)]
struct WatchedSubset {
    service: ServiceName,
    name: SubsetName,
    /// Present filter, or the last one if the subset was removed.
    filter: InstanceFilter,
}

/// Part of a step that is taken from the subscription and not sent yet.
#[derive(Debug)]
enum SendBuffer {
    /// Nothing.
    Nothing,
    /// Pieces of a snapshot.
    Pieces(VecDeque<Bytes>),
    /// Deltas of a step to this revision.
    Deltas(std::vec::IntoIter<Delta>, Revision),
}

/// Progress of the end of a watch.
#[derive(Debug)]
enum StreamState {
    Open,
    /// The client was sent the notice to reconnect.
    NoticeSent,
    Ended,
}

impl WatchStream {
    fn new(
        context: &Arc<ServerContext>,
        connection: &Arc<Connection>,
        user_agent: UserAgent,
        options: WatchOptions,
    ) -> Result<Self, ApiError> {
        let WatchOptions { selector, filter, token, subset, balancing } = options;
        let (selector, filter) = (Arc::new(selector), filter.map(Arc::new));
        let mut subscription = Subscription::new(Arc::clone(&selector), filter.clone(), token);
        let waits = token.is_some_and(|token| context.must_settle(ReaderMemory::Incarnation(token.incarnation)));
        let interest = if waits { Interest::Nothing } else { Interest::Changes(Arc::clone(&selector)) };
        let mut wake = if balancing {
            context.notifier.register_for_names(connection, interest)
        } else {
            context.notifier.register(connection, interest)
        };
        if balancing || subset.is_some() {
            wake.add(&topic_of_policies());
        }
        let subset = subset.map(|(service, name)| {
            let filter = subset_filter(context, &service, &name)?;
            subscription.set_subset(name.clone(), filter.clone(), context.clock.now());
            Ok::<_, ApiError>(WatchedSubset { service, name, filter })
        });
        let subset = subset.transpose()?;
        let resource = WatchedResource::Services(Arc::clone(&selector));
        let entry = context.watchers.enter(
            WatchProtocol::Grpc,
            connection,
            user_agent,
            (resource, filter.as_ref()),
            context.clock.now(),
        );
        let worker = WorkerLabel { worker: connection.worker() as u64 };
        Ok(Self {
            wake,
            subscription,
            subset,
            balancing: balancing.then(BalancingState::default),
            policies: None,
            waits_for_settling: waits,
            catching_up: None,
            is_known_stale: false,
            entry,
            propagation: context.metrics.propagation.get_or_create(&worker).clone(),
            outgoing: SendBuffer::Nothing,
            next_step: None,
            oldest: None,
            sent: Revision(0),
            last_message: context.clock.now(),
            relocation: WatchRelocation::new(context),
            state: StreamState::Open,
            context: Arc::clone(context),
        })
    }

    /// Follows changes of policies: the filter of the subset, and the policies that the client is sent.
    fn follow_policies(&mut self) {
        if self.subset.is_none() && self.balancing.is_none() {
            return;
        }
        let policies = self.context.engine.registry().policies();
        let newest = policies.revision();
        if self.policies == Some(newest) {
            return;
        }
        self.policies = Some(newest);
        if let Some(watched) = &mut self.subset
            && let Some(subset) = policies.effective(&watched.service).subsets.get(&watched.name)
            && subset.filter.as_str() != watched.filter.as_str()
        {
            watched.filter = subset.filter.clone();
            self.subscription.set_subset(watched.name.clone(), subset.filter.clone(), self.context.clock.now());
        }
        if let Some(balancing) = &mut self.balancing {
            balancing.check_all(&self.context, self.subscription.selector());
        }
    }

    /// Returns the next message, if there is one.
    fn message(&mut self) -> Option<(MessageChunks, &Counter)> {
        self.follow_policies();
        loop {
            match mem::replace(&mut self.outgoing, SendBuffer::Nothing) {
                SendBuffer::Deltas(deltas, revision) => {
                    let message = self.changes(deltas, revision);
                    return Some((message, &self.context.metrics.watch.changes));
                }
                SendBuffer::Pieces(pieces) if !pieces.is_empty() => {
                    let message = self.snapshot(pieces);
                    return Some((message, &self.context.metrics.watch.snapshot));
                }
                SendBuffer::Pieces(_) | SendBuffer::Nothing => {}
            }
            if let Some(balancing) = &mut self.balancing
                && let Some(message) = balancing.next(&self.context)
            {
                return Some((message, &self.context.metrics.watch.balancing));
            }
            match self.next_step() {
                Step::Reset(reason) => {
                    self.balancing.iter_mut().for_each(BalancingState::reset);
                    self.entry.watcher.waiting.store(false, Ordering::Relaxed);
                    self.entry.watcher.resets.fetch_add(1, Ordering::Relaxed);
                    return Some((frame::reset(reason), &self.context.metrics.watch.reset));
                }
                Step::Snapshot(chunk) => self.outgoing = SendBuffer::Pieces(pieces(&chunk)),
                Step::Changes(deltas, revision) => {
                    if let Some(balancing) = &mut self.balancing {
                        balancing.instances_changed(&self.context, &deltas);
                    }
                    self.outgoing = SendBuffer::Deltas(deltas.into_iter(), revision);
                }
                Step::Synced(revision) => {
                    if let Some(balancing) = &mut self.balancing {
                        balancing.synced(&self.context, self.subscription.selector());
                    }
                    let message = frame::synced(self.advance(revision));
                    return Some((message, &self.context.metrics.watch.synced));
                }
                Step::Idle => return self.bookmark(),
                Step::Settling => return self.notify_settling(),
                Step::Behind(revision) => {
                    let engine = &self.context.engine;
                    self.catching_up.get_or_insert_with(|| Box::new(engine.reach(revision)));
                    return None;
                }
            }
        }
    }

    fn next_step(&mut self) -> Step {
        if self.waits_for_settling && !self.context.engine.registry().is_settling() {
            self.waits_for_settling = false;
            self.wake.set_interest(Interest::Changes(Arc::clone(self.subscription.selector())));
        }
        self.next_step.take().unwrap_or_else(|| self.subscription.next(self.context.engine.registry()))
    }

    /// Builds a message of at least one piece. The pieces of several small services share a message.
    fn snapshot(&mut self, mut pieces: VecDeque<Bytes>) -> MessageChunks {
        let mut message = Vec::new();
        let mut size = 0;
        while size < frame::PIECE_BYTES {
            if let Some(piece) = pieces.pop_front() {
                size += piece.len();
                message.push(piece);
                continue;
            }
            match self.next_step() {
                Step::Snapshot(chunk) => pieces = self::pieces(&chunk),
                other => {
                    self.next_step = Some(other);
                    break;
                }
            }
        }
        self.outgoing = SendBuffer::Pieces(pieces);
        frame::snapshot(message)
    }

    /// Builds a message of as many deltas as fit. The last delta ends the step.
    fn changes(&mut self, mut deltas: std::vec::IntoIter<Delta>, revision: Revision) -> MessageChunks {
        // Changes that a client missed while it was disconnected say nothing about propagation times.
        self.oldest = deltas
            .as_slice()
            .iter()
            .map(|delta| delta.event.at)
            .min_by_key(|at| at.monotonic_us)
            .filter(|_| self.subscription.is_live());
        if let [only] = deltas.as_slice()
            && only.event.revision == revision
        {
            let token = self.advance(revision);
            return frame::step(only, token);
        }
        let mut parts = Vec::with_capacity(deltas.len().min(64) + 2);
        let mut size = 0;
        while size < frame::PIECE_BYTES
            && let Some(delta) = deltas.next()
        {
            let part = frame::change(&delta);
            size += part.len();
            parts.push(part);
        }
        if deltas.len() > 0 {
            self.outgoing = SendBuffer::Deltas(deltas, revision);
            return frame::changes(parts, None);
        }
        let token = self.advance(revision);
        frame::changes(parts, Some(token))
    }

    /// Builds a bookmark for an idle watch at a newer revision, so that its resume token stays recent; or one that says that the engine
    /// cannot reach its store, or reaches it again.
    fn bookmark(&mut self) -> Option<(MessageChunks, &Counter)> {
        let cursor = self.subscription.cursor();
        let staleness = encode::staleness(&*self.context.engine);
        let turned = self.is_known_stale != staleness.is_some();
        let is_due = time::since(self.last_message, self.context.clock.now()) >= self.context.bookmarks;
        if !turned && !(is_due && (cursor > self.sent || staleness.is_some())) {
            return None;
        }
        self.is_known_stale = staleness.is_some();
        let message = frame::bookmark(self.advance(cursor), staleness);
        Some((message, &self.context.metrics.watch.bookmark))
    }

    /// Marks the watch as waiting for settling, and builds the notice of that once.
    fn notify_settling(&mut self) -> Option<(MessageChunks, &Counter)> {
        let notified = self.entry.watcher.waiting.swap(true, Ordering::Relaxed);
        (!notified).then(|| (frame::notice(pb::Notice::Settling), &self.context.metrics.watch.notice))
    }

    /// Records that a message brings the client to this revision, and returns the resume token of it.
    fn advance(&mut self, revision: Revision) -> ResumeToken {
        self.sent = revision;
        self.subscription.token(self.context.engine.registry(), revision)
    }

    /// Records that everything was sent. Revisions that do not concern the watch count as sent, so the list of watchers shows its cursor.
    fn record_synced(&mut self) {
        if self.entry.watcher.waiting.load(Ordering::Relaxed) {
            return;
        }
        self.entry.watcher.sent.store(self.subscription.cursor().0, Ordering::Relaxed);
        self.entry.watcher.synced_at.store(self.last_message.wall.0, Ordering::Relaxed);
    }
}

fn pieces(chunk: &SnapshotChunk) -> VecDeque<Bytes> {
    match chunk {
        SnapshotChunk::Chunk(chunk) => frame::chunk_pieces(chunk).iter().cloned().collect(),
        SnapshotChunk::Matching(entries) => frame::pieces(entries.iter().map(|entry| &**entry)).into(),
    }
}

impl MessageSource for WatchStream {
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<NextMessage>> {
        loop {
            match self.state {
                StreamState::Ended => return Poll::Ready(None),
                StreamState::NoticeSent => {
                    self.state = StreamState::Ended;
                    return Poll::Ready(Some(NextMessage::End(ApiError::ShuttingDown.into())));
                }
                StreamState::Open => {}
            }
            let next = if self.wake.must_end() {
                self.state = StreamState::NoticeSent;
                Some((frame::notice(pb::Notice::Reconnect), &self.context.metrics.watch.notice))
            } else {
                match self.relocation.step(&self.context, context) {
                    WatchRelocationStep::Stay => self.message(),
                    WatchRelocationStep::Notify => {
                        Some((frame::notice(pb::Notice::Degraded), &self.context.metrics.watch.notice))
                    }
                    WatchRelocationStep::Leave => {
                        self.state = StreamState::Ended;
                        return Poll::Ready(Some(NextMessage::End(ApiError::ReplicaDegraded.into())));
                    }
                }
            };
            if let Some((message, counter)) = next {
                counter.inc();
                self.last_message = self.context.clock.now();
                if let Some(oldest) = self.oldest.take() {
                    self.propagation.observe(time::since(oldest, self.last_message).as_secs_f64());
                }
                return Poll::Ready(Some(NextMessage::Message(message)));
            }
            self.record_synced();
            if let Some(reached) = &mut self.catching_up
                && let Poll::Ready(reached) = Pin::new(&mut **reached).poll(context)
            {
                self.catching_up = None;
                let Err(error) = reached else { continue };
                self.state = StreamState::Ended;
                return Poll::Ready(Some(NextMessage::End(ApiError::from(error).into())));
            }
            let changes = ready!(self.wake.poll_changes(context));
            if let Some(balancing) = &mut self.balancing {
                balancing.changed(&self.context, self.subscription.selector(), &changes);
            }
        }
    }
}
