//! One peer's connection, as its streams and those who look after it know it.

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
    cpu_share::CpuShare,
    limits::PeerIdentity,
    request_service::CallQueue,
    stall::{ReadProgress, StallDetector},
};
use crate::{
    metrics::EvictReason,
    model::{Caller, CallerProtocol},
};

/// Calls that a peer may cancel for each that it lets be answered: a client that hedges makes up to five attempts of a call and
/// cancels those that lose.
const CANCELLED_PER_ANSWERED: usize = 4;

/// One peer's connection.
#[derive(Debug)]
pub struct Connection {
    peer: SocketAddr,
    place: Arc<WorkerState>,
    ticket: ConnectionPermit,
    identity: OnceLock<PeerIdentity>,
    caller: OnceLock<Arc<Caller>>,
    /// Some request came.
    used: AtomicBool,
    /// It was asked to come back as another.
    retiring: AtomicBool,
    evicted: AtomicBool,
    evict: Notify,
    /// What its socket takes.
    socket: (ReadProgress, Mutex<StallDetector>),
    /// Its open streams. Touched when one comes or goes, and once a second.
    streams: Mutex<Streams>,
    /// Bytes of answers that are made and not taken.
    unread: AtomicUsize,
    /// Calls that the peer has cancelled since the last look, and those that were answered.
    cancelled: AtomicUsize,
    answered: AtomicUsize,
    /// Why it is closed with GOAWAY.
    going_away: OnceLock<Box<str>>,
    beginnings: CallQueue,
    share: CpuShare,
}

#[derive(Debug, Default)]
struct Streams {
    next: usize,
    open: Vec<(usize, Arc<ReadProgress>, StallDetector)>,
}

impl Connection {
    /// A connection from this peer that was let in with this ticket and is served at this place.
    #[must_use]
    pub fn new(peer: SocketAddr, place: &Arc<WorkerState>, ticket: ConnectionPermit) -> Arc<Self> {
        Arc::new(Self {
            peer,
            place: Arc::clone(place),
            ticket,
            identity: OnceLock::new(),
            caller: OnceLock::new(),
            used: AtomicBool::new(false),
            retiring: AtomicBool::new(false),
            evicted: AtomicBool::new(false),
            evict: Notify::new(),
            socket: Default::default(),
            streams: Mutex::default(),
            unread: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            going_away: OnceLock::new(),
            beginnings: CallQueue::default(),
            share: CpuShare::new(place.now()),
        })
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Which worker serves it.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.place.index()
    }

    /// Where it is served.
    #[must_use]
    pub fn place(&self) -> &Arc<WorkerState> {
        &self.place
    }

    /// One of its tasks has had the thread since `began`.
    pub(super) fn spend(&self, began: Duration) {
        let now = self.place.now();
        let span = now.saturating_sub(began);
        self.place.thread().spend(span, now, self.share.spend(span, now));
    }

    /// For how long it should not be read, so that others have the thread. See `share`.
    pub(super) fn pause(&self) -> Option<Duration> {
        let now = self.is_greedy().then(|| self.place.now())?;
        self.share.pause(now)
    }

    /// Whether it is to be given little at a time, so that others have the thread.
    pub(super) fn is_greedy(&self) -> bool {
        self.share.has_had_much() && self.place.thread().is_contended(self.place.now())
    }

    /// Which of its turns on the thread it is.
    pub(super) fn turn(&self) -> u64 {
        self.share.turns()
    }

    pub(super) fn beginnings(&self) -> &CallQueue {
        &self.beginnings
    }

    pub(super) fn ticket(&self) -> &ConnectionPermit {
        &self.ticket
    }

    /// Who the peer has proved to be, if it was asked.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<str>> {
        self.identity.get().map(PeerIdentity::name)
    }

    /// Returns the caller of commands that come on this connection, which speaks one protocol. One value for all of them.
    #[must_use]
    pub fn caller(&self, protocol: CallerProtocol) -> &Arc<Caller> {
        let caller = || Caller::Client { protocol, peer: self.peer, identity: self.identity().cloned() };
        self.caller.get_or_init(|| Arc::new(caller()))
    }

    /// The peer has proved who it is. To be said before its first stream, and once.
    pub fn identify(&self, name: Arc<str>) {
        self.identity.get_or_init(|| self.ticket.identify(name));
    }

    /// Cuts it off.
    pub fn evict(&self, why: EvictReason) {
        if !self.evicted.swap(true, Ordering::AcqRel) {
            self.ticket.gate().metrics().connections.evicted(why);
            tracing::debug!(peer = %self.peer, identity = self.identity().map(|name| &**name), why = why.text(), "connection cut off");
            self.evict.notify_one();
        }
    }

    /// Closes it with GOAWAY and this reason: its streams are told and have a grace.
    fn send_away(&self, why: EvictReason, reason: String) {
        if self.going_away.set(reason.into()).is_ok() {
            self.ticket.gate().metrics().connections.evicted(why);
            tracing::debug!(peer = %self.peer, identity = self.identity().map(|name| &**name), why = why.text(), "connection sent away");
            self.evict.notify_one();
        }
    }

    /// Why it is closed with GOAWAY, if it is.
    pub(super) fn going_away(&self) -> Option<&str> {
        self.going_away.get().map(|reason| &**reason)
    }

    /// HTTP/2 itself has closed it with GOAWAY, since it is flooded.
    pub(super) fn flooded(&self, reason: String) {
        if self.going_away.set(reason.into()).is_ok() {
            self.ticket.gate().metrics().connections.evicted(EvictReason::Flood);
        }
    }

    /// Whether it was we who cut it off.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire)
    }

    /// It has been cut off or sent away.
    pub(super) async fn evicted(&self) {
        self.evict.notified().await;
    }

    /// Asks its streams to come back on another connection.
    pub(super) fn retire(&self) {
        self.retiring.store(true, Ordering::Release);
    }

    /// Whether its streams were asked to come back on another connection.
    #[must_use]
    pub fn is_retiring(&self) -> bool {
        self.retiring.load(Ordering::Acquire)
    }

    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Which limit the open streams exceed, of which the one that asks is the last. `first`: the stream is one of those
    /// that are taken when others are refused.
    #[must_use]
    pub fn busy(&self, first: bool) -> Option<LimitError> {
        self.ticket.busy(self.identity.get(), first)
    }

    pub(super) fn proved(&self) -> Option<&PeerIdentity> {
        self.identity.get()
    }

    /// Bytes of answers that are made and not taken.
    pub(super) fn unread_bytes(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    pub(super) fn stream_opens(&self) -> (usize, Arc<ReadProgress>) {
        self.used.store(true, Ordering::Relaxed);
        self.place.stream_opens();
        self.ticket.stream_opens(self.identity.get());
        let progress = Arc::new(ReadProgress::default());
        let mut streams = self.streams.lock();
        let id = streams.next;
        streams.next += 1;
        streams.open.push((id, Arc::clone(&progress), StallDetector::default()));
        (id, progress)
    }

    /// A call was answered.
    pub(super) fn call_answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// A call was cancelled before its answer was made and handed on. Each has cost us a call, and hardly anything to whoever made it.
    pub(super) fn call_cancelled(&self) {
        let most = self.ticket.gate().rules().cancelled_calls;
        let cancelled = self.cancelled.fetch_add(1, Ordering::Relaxed) + 1;
        if cancelled <= most + CANCELLED_PER_ANSWERED * self.answered.load(Ordering::Relaxed) {
            return;
        }
        if self.going_away().is_some() {
            // It was told, and goes on.
            return self.evict(EvictReason::Resets);
        }
        self.cancelled.store(0, Ordering::Relaxed);
        self.send_away(
            EvictReason::Resets,
            format!(
                "more than {most} calls were cancelled within a second: cancel fewer, or raise --max-cancelled-calls-per-second where the \
                 registry runs"
            ),
        );
    }

    pub(super) fn stream_ends(&self, id: usize) {
        self.place.stream_ends();
        self.ticket.stream_ends(self.identity.get());
        let mut streams = self.streams.lock();
        // Ids rise, and removing keeps the order.
        if let Ok(at) = streams.open.binary_search_by_key(&id, |(id, ..)| *id) {
            streams.open.remove(at);
        }
    }

    pub(super) fn answer_made(&self, bytes: usize) {
        self.unread.fetch_add(bytes, Ordering::Relaxed);
        self.ticket.answer_made(self.identity.get(), bytes);
    }

    pub(super) fn answer_taken(&self, bytes: usize) {
        self.unread.fetch_sub(bytes, Ordering::Relaxed);
        self.ticket.answer_taken(self.identity.get(), bytes);
    }

    /// What came of writing to the socket.
    pub(super) fn wrote(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.socket.0.owes(),
            Poll::Ready(_) => self.socket.0.settles(),
        }
    }

    /// Looks at its readers, once a second, and cuts it off when one has stalled.
    pub(super) fn look(&self) {
        self.cancelled.store(0, Ordering::Relaxed);
        self.answered.store(0, Ordering::Relaxed);
        if self.socket.1.lock().look(&self.socket.0, false) {
            return self.evict(EvictReason::Socket);
        }
        let pressing = self.ticket.is_pressing(self.identity.get(), self.unread_bytes());
        let stalled = self.streams.lock().open.iter_mut().any(|(_, progress, mark)| mark.look(progress, pressing));
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
        let gate =
            ConnectionLimiter::new(ConnectionLimits { cancelled_calls, ..ConnectionLimits::default() }, Metrics::new());
        let ticket = gate.admit(peer, "test", Protocol::Http2).unwrap();
        Connection::new(peer, &WorkerState::new(0, &Arc::new(Clock::new(0))), ticket)
    }

    #[test]
    fn connection_with_too_many_cancelled_calls_is_sent_away_then_cut_off() {
        let connection = connection(10);
        (0..10).for_each(|_| connection.call_cancelled());
        assert_eq!(connection.going_away(), None);
        connection.call_cancelled();
        assert!(connection.going_away().unwrap().contains("--max-cancelled-calls-per-second"));
        (0..10).for_each(|_| connection.call_cancelled());
        assert!(!connection.is_evicted());
        connection.call_cancelled();
        assert!(connection.is_evicted());
    }

    #[test]
    fn answered_calls_allow_for_cancelled_ones() {
        let connection = connection(10);
        // A client that hedges each call four times, for longer than any second.
        for _ in 0..1_000 {
            connection.call_answered();
            (0..4).for_each(|_| connection.call_cancelled());
        }
        assert_eq!(connection.going_away(), None);
        connection.look();
        // What was answered before the last look allows for nothing.
        (0..11).for_each(|_| connection.call_cancelled());
        assert!(connection.going_away().is_some());
    }
}
