//! State of a worker: its load, and the connections that it inspects.

use std::{
    collections::HashMap,
    fmt::Debug,
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

use super::fairness::ThreadLoad;
use crate::clock::Clock;

/// Time between two inspections of a connection.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(1);

/// Connection that its worker inspects.
pub(super) trait Inspected: Debug + Send + Sync {
    /// Called once a second.
    fn inspect(&self);
}

/// Load of a worker, and its connections.
#[derive(Debug)]
pub struct WorkerState {
    index: usize,
    streams: AtomicUsize,
    clock: Arc<Clock>,
    load: ThreadLoad,
    /// Semaphore with one permit: large answers are built one after the other.
    large_answers: Semaphore,
    /// Locked when a connection begins or ends, and once a second.
    connections: Mutex<HashMap<usize, Arc<dyn Inspected>>>,
}

impl WorkerState {
    /// State of a worker without connections.
    #[must_use]
    pub fn new(index: usize, clock: &Arc<Clock>) -> Arc<Self> {
        Arc::new(Self {
            index,
            streams: AtomicUsize::new(0),
            clock: Arc::clone(clock),
            load: ThreadLoad::new(clock.since_start()),
            large_answers: Semaphore::new(1),
            connections: Mutex::default(),
        })
    }

    /// Index of the worker, by which its notifier is found.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Number of open streams.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    /// Semaphore for large answers, of which the thread builds one at a time.
    #[must_use]
    pub fn large_answers(&self) -> &Semaphore {
        &self.large_answers
    }

    /// Time since the process started.
    pub(super) fn now(&self) -> Duration {
        self.clock.since_start()
    }

    /// CPU time that all connections of the worker have used.
    pub(super) fn load(&self) -> &ThreadLoad {
        &self.load
    }

    pub(super) fn stream_opens(&self) {
        self.streams.fetch_add(1, Relaxed);
    }

    pub(super) fn stream_ends(&self) {
        self.streams.fetch_sub(1, Relaxed);
    }

    /// Adds a connection to those that its worker inspects, until the guard is dropped.
    pub(super) fn inspect<C: Inspected + 'static>(self: &Arc<Self>, connection: &Arc<C>) -> InspectionGuard {
        // The address is unique while the connection lives.
        let id = Arc::as_ptr(connection) as usize;
        self.connections.lock().insert(id, Arc::<C>::clone(connection));
        InspectionGuard { worker: Arc::clone(self), id }
    }

    /// Inspects the connections once a second, for as long as it is polled.
    pub async fn inspect_connections(&self) {
        let mut ticks = interval(INSPECTION_INTERVAL);
        // The number of inspections measures how long a reader has stalled, so inspections that were missed in a pause of the
        // process must not be made up for.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let connections: Vec<_> = self.connections.lock().values().cloned().collect();
            for connection in connections {
                connection.inspect();
            }
        }
    }
}

/// Guard that keeps a connection among those that its worker inspects.
#[derive(Debug)]
pub(super) struct InspectionGuard {
    worker: Arc<WorkerState>,
    id: usize,
}

impl Drop for InspectionGuard {
    fn drop(&mut self) {
        self.worker.connections.lock().remove(&self.id);
    }
}
