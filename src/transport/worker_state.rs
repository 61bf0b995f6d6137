//! Where connections are served: a worker's thread.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{MissedTickBehavior, interval},
};

use super::{Connection, cpu_share::ThreadLoad};
use crate::clock::Clock;

/// How often readers are looked at.
const ROUND: Duration = Duration::from_secs(1);

/// A place and who is there.
#[derive(Debug)]
pub struct WorkerState {
    index: usize,
    streams: AtomicUsize,
    clock: Arc<Clock>,
    thread: ThreadLoad,
    /// Whoever has it may make a large answer.
    turn: Semaphore,
    /// Touched when a connection comes or goes, and once a second.
    guests: Mutex<HashMap<usize, Arc<Connection>>>,
}

impl WorkerState {
    /// An empty place. `index`: of the worker, and so of its hub.
    #[must_use]
    pub fn new(index: usize, clock: &Arc<Clock>) -> Arc<Self> {
        Arc::new(Self {
            index,
            streams: AtomicUsize::new(0),
            clock: Arc::clone(clock),
            thread: ThreadLoad::new(clock.since_start()),
            turn: Semaphore::new(1),
            guests: Mutex::default(),
        })
    }

    /// Which worker it is.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many streams are open.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    /// Lets answers that take long to make have the thread one after the other.
    #[must_use]
    pub fn turn(&self) -> &Semaphore {
        &self.turn
    }

    /// Time since the process started.
    pub(super) fn now(&self) -> Duration {
        self.clock.since_start()
    }

    /// What its connections have had of its thread.
    pub(super) fn thread(&self) -> &ThreadLoad {
        &self.thread
    }

    pub(super) fn stream_opens(&self) {
        self.streams.fetch_add(1, Relaxed);
    }

    pub(super) fn stream_ends(&self) {
        self.streams.fetch_sub(1, Relaxed);
    }

    /// Has an eye on a connection until the guard is dropped.
    pub(super) fn enter(connection: &Arc<Connection>) -> WatchedConnection {
        // Its address, which is nobody else's while it lives.
        let id = Arc::as_ptr(connection) as usize;
        connection.place().guests.lock().insert(id, Arc::clone(connection));
        WatchedConnection { place: Arc::clone(connection.place()), id }
    }

    /// Looks after the connections that are here, for as long as it is polled.
    pub async fn watch_over(&self) {
        let mut rounds = interval(ROUND);
        // Rounds tell how long a reader has stalled: those that this process was stopped for do not count.
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            let guests: Vec<_> = self.guests.lock().values().cloned().collect();
            for connection in guests {
                connection.look();
            }
        }
    }
}

/// A connection that somebody has an eye on.
#[derive(Debug)]
pub(super) struct WatchedConnection {
    place: Arc<WorkerState>,
    id: usize,
}

impl Drop for WatchedConnection {
    fn drop(&mut self) {
        self.place.guests.lock().remove(&self.id);
    }
}
