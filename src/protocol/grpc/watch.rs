//! The watch stream: turns the steps of a subscription into messages, whenever its hub wakes it.
//!
//! It is polled when the peer's window has room. So a peer that does not read costs a cursor and what was ready for it;
//! what happens meanwhile waits in the registry's rings, or is replaced by the newest state.

mod body;
mod frame;

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};

use super::{ApiError, encode};
use crate::{
    app::{ServerContext, WatcherGuard},
    metrics::WorkerLabel,
    model::{InstanceFilter, ResumeToken, Revision, Selector},
    pb::callboard::v1 as pb,
    registry::{ClockReading, Delta, SnapshotChunk, Step, Subscription},
    transport::{Connection, Interest, WakeRegistration},
};
pub(super) use body::answer;
use frame::MessageChunks;

/// One watch.
#[derive(Debug)]
struct WatchStream {
    context: Arc<ServerContext>,
    seat: WakeRegistration,
    subscription: Subscription,
    /// It waits until the registry has settled, and while all come back nothing wakes it.
    inattentive: bool,
    listed: WatcherGuard,
    propagation: Histogram,
    outgoing: SendBuffer,
    /// A step that was met while a message of the snapshot was filled.
    held: Option<Step>,
    /// When the oldest change in the message at hand happened.
    oldest: Option<ClockReading>,
    /// The revision that the peer was last told.
    told: Revision,
    /// When it was last told anything.
    last: ClockReading,
    end: StreamState,
}

/// What is taken from the subscription and not yet sent.
#[derive(Debug)]
enum SendBuffer {
    /// Nothing.
    Nothing,
    /// Pieces of the snapshot.
    Pieces(VecDeque<Bytes>),
    /// The differences of a step to this revision.
    Deltas(std::vec::IntoIter<Delta>, Revision),
}

#[derive(Debug)]
enum StreamState {
    Open,
    Told,
    Ended,
}

impl WatchStream {
    fn new(
        context: &Arc<ServerContext>,
        connection: &Arc<Connection>,
        user_agent: &str,
        (selection, filter, token): (Selector, Option<InstanceFilter>, Option<ResumeToken>),
    ) -> Self {
        let (selection, filter) = (Arc::new(selection), filter.map(Arc::new));
        let subscription = Subscription::new(Arc::clone(&selection), filter.clone(), token);
        // The seat first: what changes after it rings, what changed before it is read.
        let waits = subscription.awaits_settling(context.engine.registry());
        let interest = if waits { Interest::Nothing } else { Interest::Changes(Arc::clone(&selection)) };
        let seat = context.notifier.seat(connection, interest);
        let listed = context.watchers.enter(connection, user_agent, &selection, filter.as_ref(), context.clock.now());
        let worker = WorkerLabel { worker: connection.worker() as u64 };
        Self {
            seat,
            subscription,
            inattentive: waits,
            listed,
            propagation: context.metrics.propagation.get_or_create(&worker).clone(),
            outgoing: SendBuffer::Nothing,
            held: None,
            oldest: None,
            told: Revision(0),
            last: context.clock.now(),
            end: StreamState::Open,
            context: Arc::clone(context),
        }
    }

    /// The next message, if there is anything to tell.
    fn message(&mut self) -> Option<(MessageChunks, &Counter)> {
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
            match self.next_step() {
                Step::Reset(reason) => {
                    self.listed.line.waiting.store(false, Ordering::Relaxed);
                    self.listed.line.resets.fetch_add(1, Ordering::Relaxed);
                    return Some((frame::reset(reason), &self.context.metrics.watch.reset));
                }
                Step::Snapshot(part) => self.outgoing = SendBuffer::Pieces(pieces(&part)),
                Step::Changes(deltas, revision) => self.outgoing = SendBuffer::Deltas(deltas.into_iter(), revision),
                Step::Synced(revision) => {
                    let message = frame::synced(self.arrive(revision));
                    return Some((message, &self.context.metrics.watch.synced));
                }
                Step::Idle => return self.bookmark(),
                Step::Settling => return self.wait(),
            }
        }
    }

    fn next_step(&mut self) -> Step {
        if self.inattentive && !self.subscription.awaits_settling(self.context.engine.registry()) {
            self.inattentive = false;
            self.seat.turn_to(Interest::Changes(Arc::clone(self.subscription.selector())));
        }
        self.held.take().unwrap_or_else(|| self.subscription.next(self.context.engine.registry()))
    }

    /// A message of at least one piece. Small services share one.
    fn snapshot(&mut self, mut pieces: VecDeque<Bytes>) -> MessageChunks {
        let mut message = Vec::new();
        let mut size = 0;
        while size < frame::PIECE {
            if let Some(piece) = pieces.pop_front() {
                size += piece.len();
                message.push(piece);
                continue;
            }
            match self.next_step() {
                Step::Snapshot(part) => pieces = self::pieces(&part),
                other => {
                    self.held = Some(other);
                    break;
                }
            }
        }
        self.outgoing = SendBuffer::Pieces(pieces);
        frame::snapshot(message)
    }

    /// As many differences as fit a message; the last of them ends the step.
    fn changes(&mut self, mut deltas: std::vec::IntoIter<Delta>, revision: Revision) -> MessageChunks {
        // What a reader missed while it was away did not take that long to arrive.
        self.oldest = deltas
            .as_slice()
            .iter()
            .map(|delta| delta.event.at)
            .min_by_key(|at| at.monotonic_us)
            .filter(|_| self.subscription.is_live());
        if let [only] = deltas.as_slice()
            && only.event.revision == revision
        {
            let token = self.arrive(revision);
            return frame::step(only, token);
        }
        let mut parts = Vec::with_capacity(deltas.len().min(64) + 2);
        let mut size = 0;
        while size < frame::PIECE
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
        let token = self.arrive(revision);
        frame::changes(parts, Some(token))
    }

    /// In quiet times, tells the peer that it stands at a newer revision, so that its token stays young.
    fn bookmark(&mut self) -> Option<(MessageChunks, &Counter)> {
        let cursor = self.subscription.cursor();
        if cursor <= self.told || encode::since(self.last, self.context.clock.now()) < self.context.bookmarks {
            return None;
        }
        let message = frame::bookmark(self.arrive(cursor));
        Some((message, &self.context.metrics.watch.bookmark))
    }

    /// The registry settles, and the peer has a set that may be better than ours: it is told why it hears nothing, once.
    fn wait(&mut self) -> Option<(MessageChunks, &Counter)> {
        let told = self.listed.line.waiting.swap(true, Ordering::Relaxed);
        (!told).then(|| (frame::notice(pb::Notice::Settling), &self.context.metrics.watch.notice))
    }

    /// The peer will stand at this revision.
    fn arrive(&mut self, revision: Revision) -> ResumeToken {
        self.told = revision;
        self.subscription.token(self.context.engine.registry(), revision)
    }

    /// The peer has been told everything there is for it. What it was not told is none of its business, so the operators' list
    /// shows it at its cursor.
    fn rest(&mut self) {
        if self.listed.line.waiting.load(Ordering::Relaxed) {
            return;
        }
        self.listed.line.sent.store(self.subscription.cursor().0, Ordering::Relaxed);
        self.listed.line.synced_at.store(self.last.wall.0, Ordering::Relaxed);
    }
}

fn pieces(part: &SnapshotChunk) -> VecDeque<Bytes> {
    match part {
        SnapshotChunk::Chunk(block) => frame::block(block).iter().cloned().collect(),
        SnapshotChunk::Matching(entries) => frame::pieces(entries.iter().map(|entry| &**entry)).into(),
    }
}

/// What a watch has for its peer.
#[derive(Debug)]
enum NextMessage {
    Message(MessageChunks),
    /// The end of the stream, and why.
    End(ApiError),
}

impl WatchStream {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<NextMessage>> {
        loop {
            match self.end {
                StreamState::Ended => return Poll::Ready(None),
                StreamState::Told => {
                    self.end = StreamState::Ended;
                    return Poll::Ready(Some(NextMessage::End(ApiError::Leaving)));
                }
                StreamState::Open => {}
            }
            let next = if self.seat.is_leaving() {
                self.end = StreamState::Told;
                Some((frame::notice(pb::Notice::Reconnect), &self.context.metrics.watch.notice))
            } else {
                self.message()
            };
            if let Some((message, counter)) = next {
                counter.inc();
                self.last = self.context.clock.now();
                if let Some(oldest) = self.oldest.take() {
                    self.propagation.observe(encode::since(oldest, self.last).as_secs_f64());
                }
                return Poll::Ready(Some(NextMessage::Message(message)));
            }
            self.rest();
            ready!(self.seat.poll_rung(context));
        }
    }
}
