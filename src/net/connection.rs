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
    Busy, Place, Ticket,
    door::Beginnings,
    gate::Identity,
    progress::{Mark, Progress},
    share::Share,
};
use crate::metrics::Evicted;

/// How many calls a peer may give up between two looks, which are a second apart. Each has cost us a call, and hardly
/// anything to whoever made it. More than can be open at once: so that one stall of ours, after which all have given up, is none.
const GIVEN_UP: usize = 2_000;

/// One peer's connection.
#[derive(Debug)]
pub struct Connection {
    peer: SocketAddr,
    place: Arc<Place>,
    ticket: Ticket,
    identity: OnceLock<Identity>,
    /// Some request came.
    used: AtomicBool,
    /// It was asked to come back as another.
    retiring: AtomicBool,
    evicted: AtomicBool,
    evict: Notify,
    /// What its socket takes.
    socket: (Progress, Mutex<Mark>),
    /// Its open streams. Touched when one comes or goes, and once a second.
    streams: Mutex<Streams>,
    /// Bytes of answers that are made and not taken.
    unread: AtomicUsize,
    /// Calls that the peer gave up since the last look.
    given_up: AtomicUsize,
    beginnings: Beginnings,
    share: Share,
}

#[derive(Debug, Default)]
struct Streams {
    next: usize,
    open: Vec<(usize, Arc<Progress>, Mark)>,
}

impl Connection {
    /// A connection from this peer that was let in with this ticket and is served at this place.
    #[must_use]
    pub fn new(peer: SocketAddr, place: &Arc<Place>, ticket: Ticket) -> Arc<Self> {
        Arc::new(Self {
            peer,
            place: Arc::clone(place),
            ticket,
            identity: OnceLock::new(),
            used: AtomicBool::new(false),
            retiring: AtomicBool::new(false),
            evicted: AtomicBool::new(false),
            evict: Notify::new(),
            socket: Default::default(),
            streams: Mutex::default(),
            unread: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
            beginnings: Beginnings::default(),
            share: Share::new(place.now()),
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
    pub fn place(&self) -> &Arc<Place> {
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

    pub(super) fn beginnings(&self) -> &Beginnings {
        &self.beginnings
    }

    pub(super) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Who the peer has proved to be, if it was asked.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<str>> {
        self.identity.get().map(Identity::name)
    }

    /// The peer has proved who it is. To be said before its first stream, and once.
    pub fn identify(&self, name: Arc<str>) {
        self.identity.get_or_init(|| self.ticket.identify(name));
    }

    /// Cuts it off.
    pub fn evict(&self, why: Evicted) {
        if !self.evicted.swap(true, Ordering::AcqRel) {
            self.ticket.gate().metrics().connections.evicted(why);
            tracing::debug!(peer = %self.peer, identity = self.identity().map(|name| &**name), why = why.text(), "connection cut off");
            self.evict.notify_one();
        }
    }

    /// Whether it was we who cut it off.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire)
    }

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
    pub fn busy(&self, first: bool) -> Option<Busy> {
        self.ticket.busy(self.identity.get(), first)
    }

    /// Which limit is exceeded by answers that are made and that nobody takes.
    #[must_use]
    pub fn full(&self) -> Option<Busy> {
        self.ticket.full(self.identity.get(), self.unread.load(Ordering::Relaxed))
    }

    pub(super) fn stream_opens(&self) -> (usize, Arc<Progress>) {
        self.used.store(true, Ordering::Relaxed);
        self.place.stream_opens();
        self.ticket.stream_opens(self.identity.get());
        let progress = Arc::new(Progress::default());
        let mut streams = self.streams.lock();
        let id = streams.next;
        streams.next += 1;
        streams.open.push((id, Arc::clone(&progress), Mark::default()));
        (id, progress)
    }

    /// A call was given up before its answer was made and handed on.
    pub(super) fn stream_given_up(&self) {
        if self.given_up.fetch_add(1, Ordering::Relaxed) >= GIVEN_UP {
            self.evict(Evicted::Resets);
        }
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
        self.given_up.store(0, Ordering::Relaxed);
        if self.socket.1.lock().look(&self.socket.0) {
            return self.evict(Evicted::Socket);
        }
        let stalled = self.streams.lock().open.iter_mut().any(|(_, progress, mark)| mark.look(progress));
        if stalled {
            self.evict(Evicted::Stream);
        }
    }
}
