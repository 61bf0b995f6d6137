//! Connection of one peer, as its streams and its worker see it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    ConnectionPermit, LimitError, WorkerState,
    fairness::{CpuShare, ReadProgress, StallDetector},
    limits::PeerIdentity,
    worker_state::Inspected,
};
use crate::{
    metrics::EvictReason,
    model::{Caller, CallerProtocol},
};

/// Number of calls that a peer may cancel for each answered call. A client that hedges makes up to five attempts of a call and cancels all but the first
/// that succeeds.
const MAX_CANCELLED_PER_ANSWERED: usize = 4;

/// Connection of one peer.
#[derive(Debug)]
pub struct Connection {
    peer: SocketAddr,
    worker: Arc<WorkerState>,
    permit: ConnectionPermit,
    identity: OnceLock<PeerIdentity>,
    caller: OnceLock<Arc<Caller>>,
    /// Set once a request has arrived.
    used: AtomicBool,
    /// Set once the streams are asked to continue on another connection.
    retiring: AtomicBool,
    evicted: AtomicBool,
    /// Notified when the connection is evicted or rejected.
    ending: Notify,
    /// Progress of the peer in reading from the socket.
    socket: (ReadProgress, Mutex<StallDetector>),
    /// Locked when a stream begins or ends, and once a second.
    streams: Mutex<OpenStreams>,
    /// Bytes of unread answers.
    unread: AtomicUsize,
    /// Number of calls that the peer has cancelled since the last inspection, and number of answered calls.
    cancelled: AtomicUsize,
    answered: AtomicUsize,
    /// Reason in the GOAWAY of a rejected connection.
    rejection: OnceLock<Box<str>>,
    cpu_share: CpuShare,
}

/// Open streams of a connection, each with the progress of its reader.
#[derive(Debug, Default)]
struct OpenStreams {
    next_id: usize,
    open: Vec<(usize, Arc<ReadProgress>, StallDetector)>,
}

impl Connection {
    /// Creates a connection from this peer, admitted with this permit and served by this worker.
    #[must_use]
    pub fn new(peer: SocketAddr, worker: &Arc<WorkerState>, permit: ConnectionPermit) -> Arc<Self> {
        Arc::new(Self {
            peer,
            worker: Arc::clone(worker),
            permit,
            identity: OnceLock::new(),
            caller: OnceLock::new(),
            used: AtomicBool::new(false),
            retiring: AtomicBool::new(false),
            evicted: AtomicBool::new(false),
            ending: Notify::new(),
            socket: Default::default(),
            streams: Mutex::default(),
            unread: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            rejection: OnceLock::new(),
            cpu_share: CpuShare::new(worker.now()),
        })
    }

    /// Address of the peer.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Index of the worker that serves the connection.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.worker.index()
    }

    /// State of the worker that serves the connection.
    #[must_use]
    pub fn worker_state(&self) -> &Arc<WorkerState> {
        &self.worker
    }

    /// Counts a poll of one of the connection's tasks. The poll began at `began` and ends now.
    pub(super) fn count_poll(&self, began: Duration) {
        let now = self.worker.now();
        let span = now.saturating_sub(began);
        self.worker.load().count(span, now, self.cpu_share.count(span, now));
    }

    /// Returns the time for which the connection should not be read, so that lighter connections can use the thread.
    pub(super) fn read_pause(&self) -> Option<Duration> {
        let now = self.is_throttled().then(|| self.worker.now())?;
        self.cpu_share.pause(now)
    }

    /// Returns whether the connection should be read in small pieces, so that lighter connections can use the thread.
    pub(super) fn is_throttled(&self) -> bool {
        self.cpu_share.is_heavy() && self.worker.load().is_contended(self.worker.now())
    }

    /// Number of polls of the connection's tasks so far.
    pub(super) fn poll_count(&self) -> u64 {
        self.cpu_share.polls()
    }

    pub(super) fn permit(&self) -> &ConnectionPermit {
        &self.permit
    }

    /// Name that the peer's certificate proves. `None` where no certificate is asked for.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<str>> {
        self.identity.get().map(PeerIdentity::name)
    }

    /// Sets the name that the peer's certificate proves. Called once, before the first stream.
    pub fn identify(&self, name: Arc<str>) {
        self.identity.get_or_init(|| self.permit.identify(name));
    }

    /// Returns the caller of commands from this connection. All commands share the value, because a connection has one
    /// protocol.
    #[must_use]
    pub fn caller(&self, protocol: CallerProtocol) -> &Arc<Caller> {
        let caller = || Caller::Client { protocol, peer: self.peer, identity: self.identity().cloned() };
        self.caller.get_or_init(|| Arc::new(caller()))
    }

    /// Closes the connection immediately, and discards data that the peer has not read.
    pub fn evict(&self, reason: EvictReason) {
        if !self.evicted.swap(true, Ordering::AcqRel) {
            self.note_eviction(reason, "connection evicted");
            self.ending.notify_one();
        }
    }

    /// Closes the connection with a GOAWAY that contains this text. Its streams are notified, and have the grace period
    /// to end.
    fn reject(&self, reason: EvictReason, text: String) {
        if self.rejection.set(text.into()).is_ok() {
            self.note_eviction(reason, "connection rejected");
            self.ending.notify_one();
        }
    }

    fn note_eviction(&self, reason: EvictReason, what: &str) {
        self.permit.limiter().metrics().connections.evicted(reason);
        let identity = self.identity().map(|name| &**name);
        tracing::debug!(peer = %self.peer, identity, reason = reason.text(), "{what}");
    }

    /// Returns the reason in the GOAWAY of the connection, if it is rejected.
    pub(super) fn rejection(&self) -> Option<&str> {
        self.rejection.get().map(|reason| &**reason)
    }

    /// Records that h2 itself has closed the connection with GOAWAY, because of a flood from the peer.
    pub(super) fn flooded(&self, reason: String) {
        if self.rejection.set(reason.into()).is_ok() {
            self.permit.limiter().metrics().connections.evicted(EvictReason::Flood);
        }
    }

    /// Returns whether the registry has evicted the connection.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire)
    }

    /// Waits until the connection is evicted or rejected.
    pub(super) async fn ending(&self) {
        self.ending.notified().await;
    }

    /// Asks the streams to continue on another connection.
    pub(super) fn retire(&self) {
        self.retiring.store(true, Ordering::Release);
    }

    /// Returns whether the streams are asked to continue on another connection.
    #[must_use]
    pub fn is_retiring(&self) -> bool {
        self.retiring.load(Ordering::Acquire)
    }

    /// Returns whether the peer has made a request.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the limit that the open streams exceed, including the caller's, which is the newest. `preferred`: true for a stream that may use the
    /// reserved tenth of the limit.
    #[must_use]
    pub fn exceeded_stream_limit(&self, preferred: bool) -> Option<LimitError> {
        self.permit.exceeded_stream_limit(self.identity.get(), preferred)
    }

    pub(super) fn peer_identity(&self) -> Option<&PeerIdentity> {
        self.identity.get()
    }

    /// Bytes of answers that are made and not taken.
    pub(super) fn unread_bytes(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    /// Counts a stream that begins. Returns its id, and the progress of its reader.
    pub(super) fn stream_opens(&self) -> (usize, Arc<ReadProgress>) {
        self.used.store(true, Ordering::Relaxed);
        self.worker.stream_opens();
        self.permit.stream_opens(self.identity.get());
        let progress = Arc::new(ReadProgress::default());
        let mut streams = self.streams.lock();
        let id = streams.next_id;
        streams.next_id += 1;
        streams.open.push((id, Arc::clone(&progress), StallDetector::default()));
        (id, progress)
    }

    /// Counts a stream that ends.
    pub(super) fn stream_ends(&self, id: usize) {
        self.worker.stream_ends();
        self.permit.stream_ends(self.identity.get());
        let mut streams = self.streams.lock();
        // Ids rise, and removing keeps the order.
        if let Ok(at) = streams.open.binary_search_by_key(&id, |(id, ..)| *id) {
            streams.open.remove(at);
        }
    }

    /// Counts a call whose answer was passed on.
    pub(super) fn call_answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call that was cancelled before its answer was passed on. Each costs the registry as much as a call, and the peer
    /// almost nothing.
    pub(super) fn call_cancelled(&self) {
        let limit = self.permit.limiter().limits().cancelled_calls;
        let cancelled = self.cancelled.fetch_add(1, Ordering::Relaxed) + 1;
        if cancelled <= limit + MAX_CANCELLED_PER_ANSWERED * self.answered.load(Ordering::Relaxed) {
            return;
        }
        if self.rejection().is_some() {
            // The peer has received the reason, and continues.
            return self.evict(EvictReason::Resets);
        }
        self.cancelled.store(0, Ordering::Relaxed);
        self.reject(
            EvictReason::Resets,
            format!(
                "more than {limit} calls were cancelled within a second, besides {MAX_CANCELLED_PER_ANSWERED} for each answered call: cancel \
                 fewer, or raise --max-cancelled-calls-per-second where the registry runs"
            ),
        );
    }

    /// Adds the bytes of an answer to the unread bytes.
    pub(super) fn answer_made(&self, bytes: usize) {
        self.unread.fetch_add(bytes, Ordering::Relaxed);
        self.permit.answer_made(self.identity.get(), bytes);
    }

    /// Subtracts the bytes of an answer that was read.
    pub(super) fn answer_taken(&self, bytes: usize) {
        self.unread.fetch_sub(bytes, Ordering::Relaxed);
        self.permit.answer_taken(self.identity.get(), bytes);
    }

    /// Records the result of a write to the socket.
    pub(super) fn wrote(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.socket.0.wait(),
            Poll::Ready(_) => self.socket.0.take_all(),
        }
    }
}

impl Inspected for Connection {
    /// Inspects the readers of the connection, and evicts the connection if one has stalled.
    fn inspect(&self) {
        self.cancelled.store(0, Ordering::Relaxed);
        self.answered.store(0, Ordering::Relaxed);
        if self.socket.1.lock().look(&self.socket.0, false) {
            return self.evict(EvictReason::Socket);
        }
        let pressed = self.permit.keeps_memory_from_others(self.identity.get(), self.unread_bytes());
        let stalled =
            self.streams.lock().open.iter_mut().any(|(_, progress, detector)| detector.look(progress, pressed));
        if stalled {
            self.evict(EvictReason::Stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        metrics::Metrics,
        transport::{ConnectionLimiter, ConnectionLimits, Protocol},
    };

    fn connection(cancelled_calls: usize) -> Arc<Connection> {
        let peer = SocketAddr::from(([192, 0, 2, 1], 1));
        let limits = ConnectionLimits { cancelled_calls, ..ConnectionLimits::default() };
        let permit = ConnectionLimiter::new(limits, Metrics::new()).admit(peer, "test", Protocol::Http2).unwrap();
        Connection::new(peer, &WorkerState::new(0, &Arc::new(Clock::new(0))), permit)
    }

    #[test]
    fn connection_with_too_many_cancelled_calls_is_rejected_then_evicted() {
        let connection = connection(10);
        (0..10).for_each(|_| connection.call_cancelled());
        assert_eq!(connection.rejection(), None);
        connection.call_cancelled();
        assert!(connection.rejection().unwrap().contains("--max-cancelled-calls-per-second"));
        (0..10).for_each(|_| connection.call_cancelled());
        assert!(!connection.is_evicted());
        connection.call_cancelled();
        assert!(connection.is_evicted());
    }

    #[test]
    fn answered_calls_allow_for_cancelled_ones() {
        let connection = connection(10);
        // A client that hedges each call four times, for longer than a second.
        for _ in 0..1_000 {
            connection.call_answered();
            (0..4).for_each(|_| connection.call_cancelled());
        }
        assert_eq!(connection.rejection(), None);
        connection.inspect();
        // Calls that were answered before the last inspection allow for no cancelled ones.
        (0..11).for_each(|_| connection.call_cancelled());
        assert!(connection.rejection().is_some());
    }
}
