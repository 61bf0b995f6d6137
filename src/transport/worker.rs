//! Workers: one thread and one `current_thread` runtime each, on which connections live and die.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    runtime,
    sync::{mpsc, watch},
    task::yield_now,
    time::{sleep, timeout},
};

use super::{FatalReporter, Notifier, WorkerState, acceptor::AcceptedConnection};
use crate::clock::Clock;

/// How often a worker says that it has done all that waited for it. Expiry lags behind by up to twice that.
const TURN: Duration = Duration::from_millis(50);
/// Tasks through which a heartbeat goes, and one more.
const HOPS: usize = 3;
/// How long streams have to end once their peers were told.
const GOODBYE: Duration = Duration::from_secs(4);

/// What every worker needs.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Who wakes streams.
    pub hubs: Arc<Notifier>,
    /// What time it is.
    pub clock: Arc<Clock>,
    /// How often idle streams get a bookmark.
    pub bookmarks: Duration,
    /// Becomes true when the server leaves.
    pub leaving: watch::Receiver<bool>,
    /// Told when what wakes streams has ended.
    pub alarm: FatalReporter,
}

/// All workers.
#[derive(Debug)]
pub struct Workers {
    doors: Vec<WorkerInbox>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Where connections are handed to a worker.
#[derive(Debug)]
struct WorkerInbox {
    arrivals: mpsc::UnboundedSender<AcceptedConnection>,
    place: Arc<WorkerState>,
}

impl Workers {
    /// Starts this many for gRPC, and one for HTTP.
    ///
    /// # Errors
    ///
    /// When the system gives no thread or no poller.
    pub fn start(count: usize, worker: &WorkerConfig) -> io::Result<Self> {
        let mut workers = Self { doors: Vec::new(), threads: Mutex::default() };
        for index in 0..=count {
            let (sender, arrivals) = mpsc::unbounded_channel();
            let place = WorkerState::new(index, &worker.clock);
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let (worker, own) = (worker.clone(), Arc::clone(&place));
            let thread = thread::Builder::new()
                .name(if index < count { format!("callboard-{index}") } else { "callboard-http".to_owned() })
                .spawn(move || runtime.block_on(worker.run(own, arrivals)))?;
            workers.doors.push(WorkerInbox { arrivals: sender, place });
            workers.threads.get_mut().push(thread);
        }
        Ok(workers)
    }

    /// How many there are for gRPC.
    #[must_use]
    pub fn count(&self) -> usize {
        self.doors.len() - 1
    }

    /// How many streams are open on a worker.
    #[must_use]
    pub fn open_streams(&self, worker: usize) -> usize {
        self.doors[worker].place.open_streams()
    }

    /// Hands a connection to a worker.
    pub(super) fn hand_over(&self, worker: usize, arrival: AcceptedConnection) {
        // A worker ends only after the server leaves; then the connection is closed by being dropped.
        let _ = self.doors[worker].arrivals.send(arrival);
    }

    /// Waits until all threads have ended, which they do once the server leaves. Blocks.
    pub fn join_all(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker's thread panicked");
            }
        }
    }
}

impl WorkerConfig {
    async fn run(self, place: Arc<WorkerState>, mut arrivals: mpsc::UnboundedReceiver<AcceptedConnection>) {
        let index = place.index();
        let (hubs, clock, bookmarks) = (Arc::clone(&self.hubs), Arc::clone(&self.clock), self.bookmarks);
        let hub = async move { hubs.run(index, &clock, bookmarks).await };
        tokio::spawn(self.alarm.clone().guard("a hub", hub));
        tokio::spawn(self.alarm.clone().guard("a worker's clock", turns(Arc::clone(&self.clock), index)));
        let watched = Arc::clone(&place);
        let care = async move { watched.watch_over().await };
        tokio::spawn(self.alarm.clone().guard("the care of connections", care));
        let mut leaving = self.leaving.clone();
        // Every connection holds a copy of this; when the last is dropped, all have ended.
        let (open, mut all_closed) = mpsc::channel::<()>(1);
        loop {
            tokio::select! {
                arrival = arrivals.recv() => match arrival {
                    Some(arrival) => {
                        let (place, leaving, open) = (Arc::clone(&place), self.leaving.clone(), open.clone());
                        tokio::spawn(async move {
                            arrival.serve(place, leaving).await;
                            drop(open);
                        });
                    }
                    None => break,
                },
                _ = leaving.wait_for(|leaving| *leaving) => break,
            }
        }
        drop(open);
        if timeout(GOODBYE, all_closed.recv()).await.is_err() {
            tracing::warn!(worker = index, streams = place.open_streams(), "streams dropped at the deadline");
        }
    }
}

/// Says again and again that all that was waiting at the last look has been done by now.
///
/// It sleeps between look and claim, and does not tick: after a stall of the worker, ticks that were missed would come one
/// after the other, and claim what nobody has read yet. What a look finds takes two hops, from the connection's task to the
/// stream's; each yield lets those that were woken before run first.
async fn turns(clock: Arc<Clock>, worker: usize) {
    loop {
        let look = clock.now().lease;
        sleep(TURN).await;
        for _ in 0..HOPS {
            yield_now().await;
        }
        clock.turned(worker, look);
    }
}
