//! Hubs wake streams.
//!
//! A writer that woke every watcher itself would pay for all of them: 8 to 20 ms a change with 10,000 watchers. So it only
//! leaves the name of the service with the hub of each worker that has a watcher of it, and rings that hub's bell if
//! nobody has. The hub wakes the streams on its own thread; what changes meanwhile is in its next round.
//!
//! The first change rings at once. No timer delays it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    future::poll_fn,
    mem,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use dashmap::DashMap;
use tokio::{
    task::yield_now,
    time::{MissedTickBehavior, interval},
};

use super::{Connection, wake_flag::WakeFlag};
use crate::{
    clock::Clock,
    model::{Selector, ServiceName},
    registry::{ChangeListener, Event, MAX_HISTORY_BYTES, MAX_HISTORY_EVENTS},
    sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, fence},
};

/// How often a hub looks after its seats: bookmarks, and connections of age.
const ROUND: Duration = Duration::from_secs(1);
/// Streams that are woken together: enough that one write to a socket carries the messages of many.
const AT_A_TIME: usize = 256;

/// How far history may move, in bytes, before everybody is woken to keep up with it.
const QUARTER: u64 = MAX_HISTORY_BYTES as u64 / 4;

/// What a seat wants to be woken for.
#[derive(Debug, Clone)]
pub enum Interest {
    /// Changes of these services.
    Changes(Arc<Selector>),
    /// Nothing but what all seats are told: rounds and goodbye.
    Nothing,
}

/// The hubs of all workers; at most 64.
#[derive(Debug)]
pub struct Notifier {
    workers: Box<[WorkerNotifier]>,
    /// For each service that is watched by name: how many seats each hub has for it.
    interest: DashMap<ServiceName, Box<[u32]>>,
    /// Seats that are taken for topics, which are not the names of services: while there are none, nobody looks for topics.
    topics: AtomicU32,
    /// How far history has moved, to wake everybody before it moves on without them: in bytes, where an event counts for no
    /// less than its share of a history that is full by number.
    moved: AtomicU64,
    leaving: AtomicBool,
}

/// One worker's hub.
#[derive(Debug, Default)]
struct WorkerNotifier {
    /// The services that changed since the last round.
    inbox: Mutex<HashSet<ServiceName>>,
    bell: WakeFlag,
    /// All seats are to be woken.
    all: AtomicBool,
    /// Touched by the hub's own thread, except when streams are torn down elsewhere: so hardly ever contended.
    seats: Mutex<WakeRegistrations>,
    /// Seats that want to hear of services that they did not name.
    wide: AtomicU32,
}

/// Which seat: its connection, by its address, and a number. So the seats of a connection are next to each other.
type Id = (usize, u64);

#[derive(Debug, Default)]
struct WakeRegistrations {
    next: u64,
    all: BTreeMap<Id, Arc<NotifierState>>,
    by_service: HashMap<ServiceName, BTreeMap<Id, Arc<NotifierState>>>,
    wide: BTreeMap<Id, (Arc<Selector>, Arc<NotifierState>)>,
}

#[derive(Debug)]
struct NotifierState {
    bell: WakeFlag,
    connection: Arc<Connection>,
}

impl NotifierState {
    fn ring(&self) {
        self.bell.ring();
    }
}

impl Notifier {
    /// One hub for each worker.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| WorkerNotifier::default()).collect(),
            interest: DashMap::new(),
            topics: AtomicU32::new(0),
            moved: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
        }
    }

    /// Takes a seat for a stream of this connection, on its worker's hub.
    #[must_use]
    pub fn seat(self: &Arc<Self>, connection: &Arc<Connection>, interest: Interest) -> WakeRegistration {
        let worker = connection.worker();
        let state = Arc::new(NotifierState { bell: WakeFlag::default(), connection: Arc::clone(connection) });
        let hub = &self.workers[worker];
        // Interest first: a change between the two rings a hub that finds nobody, and the stream reads after both.
        match &interest {
            Interest::Changes(selection) => match &**selection {
                Selector::Names(names) => names.iter().for_each(|name| self.count(name, worker)),
                Selector::Prefix(_) | Selector::Everything => {
                    hub.wide.fetch_add(1, Ordering::AcqRel);
                }
            },
            Interest::Nothing => {}
        }
        // Either the writer sees that interest, or the stream what was written: see `changed`.
        fence(Ordering::SeqCst);
        let id = hub.seats.lock().take(&state, &interest);
        WakeRegistration { hubs: Arc::clone(self), id, interest, state }
    }

    /// Serves the hub of this worker, for as long as it is polled. On the worker's own thread.
    pub async fn run(&self, worker: usize, clock: &Clock, bookmarks: Duration) {
        let hub = &self.workers[worker];
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_sweep = clock.since_start();
        loop {
            tokio::select! {
                () = poll_fn(|context| hub.bell.poll(context)) => ring(&hub.to_be_told()).await,
                _ = rounds.tick() => {
                    ring(&hub.retiring()).await;
                    if clock.since_start().saturating_sub(last_sweep) >= bookmarks {
                        last_sweep = clock.since_start();
                        ring(&hub.everybody()).await;
                    }
                }
            }
        }
    }

    /// Wakes all streams to tell their peers that this process is going.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.ring_all();
    }

    /// Whether this process is going away.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// How many streams have a seat.
    #[must_use]
    pub fn seat_count(&self) -> usize {
        self.workers.iter().map(|hub| hub.seats.lock().all.len()).sum()
    }

    /// Wakes all streams: something has happened that is for each of them to look at.
    pub fn ring_all(&self) {
        for hub in &self.workers {
            hub.all.store(true, Ordering::Release);
            hub.bell.ring();
        }
    }

    fn count(&self, name: &ServiceName, worker: usize) {
        if name.is_reserved() {
            self.topics.fetch_add(1, Ordering::AcqRel);
        }
        let mut counts = self.interest.entry(name.clone()).or_insert_with(|| vec![0; self.workers.len()].into());
        counts[worker] += 1;
    }

    /// A bit for each hub that has a seat for this service by name.
    fn watched_by(&self, name: &ServiceName) -> u64 {
        let bit = |(worker, count): (usize, &u32)| u64::from(*count > 0) << worker;
        self.interest.get(name).map_or(0, |counts| counts.iter().enumerate().map(bit).sum())
    }

    fn discount(&self, name: &ServiceName, worker: usize) {
        if name.is_reserved() {
            self.topics.fetch_sub(1, Ordering::AcqRel);
        }
        if let Some(mut counts) = self.interest.get_mut(name) {
            counts[worker] -= 1;
        }
        self.interest.remove_if(name, |_, counts| counts.iter().all(|count| *count == 0));
    }
}

impl ChangeListener for Notifier {
    fn changed(&self, event: &Event) {
        // Published, then looked who cares; a stream says that it cares, then looks what is published. Without the fences
        // both may look before the other's word has got through, and a stream that resumes takes no lock that would help.
        fence(Ordering::SeqCst);
        // A seat for a name in lower case also hears of its other spellings: readers over HTTP and DNS do not tell them apart.
        let folded = event.service().folded();
        let by_spelling = folded.as_ref().map_or(0, |folded| self.watched_by(folded));
        let watched = self.watched_by(event.service());
        for (worker, hub) in self.workers.iter().enumerate() {
            let by_spelling = folded.as_ref().filter(|_| by_spelling & 1 << worker != 0);
            let by_name = watched & 1 << worker != 0 || hub.wide.load(Ordering::Acquire) > 0;
            if by_name || by_spelling.is_some() {
                let mut inbox = hub.inbox.lock();
                inbox.extend(by_spelling.cloned());
                inbox.extend(by_name.then(|| event.service().clone()));
                drop(inbox);
                hub.bell.ring();
            }
        }
        // Readers that heard of nothing stand where they were. Before what they would have to look through falls out of
        // history, they look once, and stand at the newest revision.
        let moved = event.size().max(MAX_HISTORY_BYTES / MAX_HISTORY_EVENTS) as u64;
        let before = self.moved.fetch_add(moved, Ordering::Relaxed);
        if before / QUARTER != (before + moved) / QUARTER {
            self.ring_all();
        }
    }

    fn topics_changed(&self, topics: &dyn Fn() -> BTreeSet<ServiceName>) {
        // Loaded after the fence of `changed`, as interest is.
        if self.topics.load(Ordering::Acquire) == 0 {
            return;
        }
        for topic in topics() {
            let watched = self.watched_by(&topic);
            for (_, hub) in self.workers.iter().enumerate().filter(|(worker, _)| watched & 1 << worker != 0) {
                hub.inbox.lock().insert(topic.clone());
                hub.bell.ring();
            }
        }
    }
}

impl WorkerNotifier {
    /// Who is to hear of what has changed since it was last asked. What changes meanwhile rings again.
    fn to_be_told(&self) -> Vec<Arc<NotifierState>> {
        if self.all.swap(false, Ordering::AcqRel) {
            self.inbox.lock().clear();
            return self.everybody();
        }
        let changed = mem::take(&mut *self.inbox.lock());
        let seats = self.seats.lock();
        let mut told = Vec::new();
        for service in &changed {
            if let Some(named) = seats.by_service.get(service) {
                told.extend(named.values().cloned());
            }
            let wide = seats.wide.values().filter(|(selection, _)| selection.includes(service));
            told.extend(wide.map(|(_, seat)| Arc::clone(seat)));
        }
        told
    }

    fn everybody(&self) -> Vec<Arc<NotifierState>> {
        self.seats.lock().all.values().cloned().collect()
    }

    /// The streams of connections that are asked to come back as others.
    fn retiring(&self) -> Vec<Arc<NotifierState>> {
        self.seats.lock().all.values().filter(|seat| seat.connection.is_retiring()).cloned().collect()
    }
}

/// Wakes streams, some at a time: those run, and then whatever came in meanwhile, before the next. So a heartbeat does not
/// wait for thousands of watches to be told; and what changes meanwhile is told together.
async fn ring(seats: &[Arc<NotifierState>]) {
    for some in seats.chunks(AT_A_TIME) {
        for seat in some {
            seat.ring();
        }
        yield_now().await;
    }
}

impl WakeRegistrations {
    fn take(&mut self, state: &Arc<NotifierState>, interest: &Interest) -> Id {
        let id = (Arc::as_ptr(&state.connection) as usize, self.next);
        self.next += 1;
        self.all.insert(id, Arc::clone(state));
        if let Interest::Changes(selection) = interest {
            if let Selector::Names(names) = &**selection {
                for name in names {
                    self.by_service.entry(name.clone()).or_default().insert(id, Arc::clone(state));
                }
            } else {
                self.wide.insert(id, (Arc::clone(selection), Arc::clone(state)));
            }
        }
        id
    }

    fn leave(&mut self, id: Id, interest: &Interest) {
        self.all.remove(&id);
        self.wide.remove(&id);
        if let Interest::Changes(selection) = interest
            && let Selector::Names(names) = &**selection
        {
            for name in names {
                if let Some(seats) = self.by_service.get_mut(name) {
                    seats.remove(&id);
                    if seats.is_empty() {
                        self.by_service.remove(name);
                    }
                }
            }
        }
    }
}

/// A stream's place at its worker's hub. Dropping it leaves the hub.
#[derive(Debug)]
pub struct WakeRegistration {
    hubs: Arc<Notifier>,
    id: Id,
    interest: Interest,
    state: Arc<NotifierState>,
}

impl WakeRegistration {
    /// Ready once for each time, or several, that the seat was woken.
    pub fn poll_rung(&self, context: &Context<'_>) -> Poll<()> {
        self.state.bell.poll(context)
    }

    /// From now on it is woken for this. What happened before is to be read after.
    pub fn turn_to(&mut self, interest: Interest) {
        let other = self.hubs.seat(&self.state.connection, interest);
        *self = other;
    }

    /// Whether the stream is to end, with a notice to its peer: the process is going away, or its connection is.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.hubs.is_leaving() || self.state.connection.is_retiring()
    }
}

impl Drop for WakeRegistration {
    fn drop(&mut self) {
        let worker = self.state.connection.worker();
        let hub = &self.hubs.workers[worker];
        hub.seats.lock().leave(self.id, &self.interest);
        if let Interest::Changes(selection) = &self.interest {
            match &**selection {
                Selector::Names(names) => names.iter().for_each(|name| self.hubs.discount(name, worker)),
                Selector::Prefix(_) | Selector::Everything => {
                    hub.wide.fetch_sub(1, Ordering::AcqRel);
                }
            }
        }
    }
}

#[cfg(test)]
#[cfg(loom)]
mod models;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::SocketAddr};

    use super::*;
    use crate::{
        metrics::Metrics,
        model::{Metadata, Revision, ServerActor, topic_of_nodes},
        registry::{Attachment, Change, ClockReading, Entry, test_support::entry},
        transport::{ConnectionLimiter, ConnectionLimits, Protocol, WorkerState},
    };

    /// How many events with so many bytes of metadata it takes until everybody is woken.
    fn until_all_are_woken(metadata: usize) -> usize {
        let hubs = Notifier::new(1);
        let mut instance = entry("web", "a", 1).instance.clone();
        instance.metadata = Metadata::parse(BTreeMap::from([("k".to_owned(), "v".repeat(metadata))]).iter()).unwrap();
        let change = Change::Added(Arc::new(Entry { instance, lease: None }));
        let event = Event {
            revision: Revision(1),
            at: ClockReading::default(),
            change,
            caller: Arc::clone(ServerActor::InProcess.caller()),
            attachment: Attachment::new(),
        };
        let told = (1..=MAX_HISTORY_EVENTS).find(|_| {
            hubs.changed(&event);
            hubs.workers[0].all.load(Ordering::Relaxed)
        });
        told.unwrap()
    }

    #[test]
    fn seat_for_a_name_in_lower_case_hears_of_other_spellings_and_not_the_reverse() {
        let hubs = Arc::new(Notifier::new(1));
        let (peer, gate) = (
            SocketAddr::from(([127, 0, 0, 1], 1)),
            ConnectionLimiter::new(ConnectionLimits::default(), Metrics::new()),
        );
        let ticket = gate.admit(peer, "grpc", Protocol::Http2).unwrap();
        let connection = Connection::new(peer, &WorkerState::new(0, &Arc::new(Clock::new(0))), ticket);
        let changed = |name: &str| {
            let change = Change::Added(entry(name, "a", 1));
            hubs.changed(&Event {
                revision: Revision(1),
                at: ClockReading::default(),
                change,
                caller: Arc::clone(ServerActor::InProcess.caller()),
                attachment: Attachment::new(),
            });
            !hubs.workers[0].to_be_told().is_empty()
        };
        let seat = |name: &str| {
            let selection = Selector::Names([ServiceName::parse(name).unwrap()].into());
            hubs.seat(&connection, Interest::Changes(Arc::new(selection)))
        };
        let lower = seat("redis");
        assert_eq!(["redis", "Redis", "REDIS", "other", "Other"].map(changed), [true, true, true, false, false]);
        drop(lower);
        let _upper = seat("Redis");
        assert_eq!(["redis", "Redis", "REDIS"].map(changed), [false, true, false]);
    }

    #[test]
    fn seat_for_a_topic_is_told_of_that_topic_and_of_no_service() {
        let hubs = Arc::new(Notifier::new(1));
        let (peer, gate) = (
            SocketAddr::from(([127, 0, 0, 1], 1)),
            ConnectionLimiter::new(ConnectionLimits::default(), Metrics::new()),
        );
        let ticket = gate.admit(peer, "http", Protocol::Http1).unwrap();
        let connection = Connection::new(peer, &WorkerState::new(0, &Arc::new(Clock::new(0))), ticket);
        let (web, db) = (ServiceName::parse("web").unwrap(), ServiceName::parse("db").unwrap());
        let touched = |topic: &ServiceName| {
            hubs.topics_changed(&|| BTreeSet::from([topic.clone()]));
            hubs.workers[0].to_be_told().len()
        };
        hubs.topics_changed(&|| panic!("nobody waits for a topic, so nobody looks for topics"));
        let selection = Selector::Names([topic_of_nodes(&web)].into());
        let seat = hubs.seat(&connection, Interest::Changes(Arc::new(selection)));
        assert_eq!([topic_of_nodes(&web), topic_of_nodes(&db), web].map(|topic| touched(&topic)), [1, 0, 0]);
        drop(seat);
        hubs.topics_changed(&|| panic!("the only one who waited is gone"));
    }

    #[test]
    fn everybody_keeps_up_with_history_by_number_and_by_bytes() {
        assert_eq!(until_all_are_woken(0), MAX_HISTORY_EVENTS / 4);
        let large = until_all_are_woken(8_000);
        assert!(large * 16_000 <= MAX_HISTORY_BYTES / 3, "history holds fewer large events: {large}");
    }
}
