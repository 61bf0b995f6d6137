//! Workers: one thread and one `current_thread` runtime each, on which connections live and die.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
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
use tonic::service::Routes;

use super::{Alarm, Connection, Hubs, Limits, connection::serve};
use crate::clock::Clock;

/// How often a worker says that it has done all that waited for it. Expiry lags behind by up to twice that.
const TURN: Duration = Duration::from_millis(50);
/// Tasks through which a heartbeat goes, and one more.
const HOPS: usize = 3;
/// How long streams have to end once their peers were told.
const GOODBYE: Duration = Duration::from_secs(4);

/// What every worker needs.
#[derive(Debug, Clone)]
pub struct Worker {
    /// What is served.
    pub routes: Routes,
    /// Who wakes streams.
    pub hubs: Arc<Hubs>,
    /// What time it is.
    pub clock: Arc<Clock>,
    /// What a connection may do.
    pub limits: Limits,
    /// How often idle streams get a bookmark.
    pub bookmarks: Duration,
    /// Becomes true when the server leaves.
    pub leaving: watch::Receiver<bool>,
    /// Told when what wakes streams has ended.
    pub alarm: Alarm,
}

/// All workers.
#[derive(Debug)]
pub struct Workers {
    doors: Vec<Entrance>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Where connections are handed to a worker.
#[derive(Debug)]
struct Entrance {
    connections: mpsc::UnboundedSender<(TcpStream, SocketAddr)>,
    streams: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts this many.
    ///
    /// # Errors
    ///
    /// When the system gives no thread or no poller.
    pub fn start(count: usize, worker: &Worker) -> io::Result<Self> {
        let mut workers = Self { doors: Vec::new(), threads: Mutex::default() };
        for index in 0..count {
            let (connections, arrivals) = mpsc::unbounded_channel();
            let streams = Arc::new(AtomicUsize::new(0));
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let (worker, counted) = (worker.clone(), Arc::clone(&streams));
            let thread = thread::Builder::new()
                .name(format!("callboard-{index}"))
                .spawn(move || runtime.block_on(worker.run(index, counted, arrivals)))?;
            workers.doors.push(Entrance { connections, streams });
            workers.threads.get_mut().push(thread);
        }
        Ok(workers)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.doors.len()
    }

    /// How many streams are open on a worker.
    #[must_use]
    pub fn open_streams(&self, worker: usize) -> usize {
        self.doors[worker].streams.load(Ordering::Relaxed)
    }

    /// Hands a connection to a worker.
    pub fn hand_over(&self, worker: usize, stream: TcpStream, peer: SocketAddr) {
        // A worker ends only after the server leaves; then the connection is closed by being dropped.
        let _ = self.doors[worker].connections.send((stream, peer));
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

impl Worker {
    async fn run(
        self,
        index: usize,
        streams: Arc<AtomicUsize>,
        mut arrivals: mpsc::UnboundedReceiver<(TcpStream, SocketAddr)>,
    ) {
        let (hubs, clock, bookmarks) = (Arc::clone(&self.hubs), Arc::clone(&self.clock), self.bookmarks);
        let hub = async move { hubs.run(index, &clock, bookmarks).await };
        tokio::spawn(self.alarm.clone().guard("a hub", hub));
        tokio::spawn(self.alarm.clone().guard("a worker's clock", turns(Arc::clone(&self.clock), index)));
        let mut leaving = self.leaving.clone();
        // Every connection holds a copy of this; when the last is dropped, all have ended.
        let (open, mut all_closed) = mpsc::channel::<()>(1);
        loop {
            tokio::select! {
                arrival = arrivals.recv() => match arrival {
                    Some((stream, peer)) => self.admit(stream, peer, index, &streams, open.clone()),
                    None => break,
                },
                _ = leaving.wait_for(|leaving| *leaving) => break,
            }
        }
        drop(open);
        if timeout(GOODBYE, all_closed.recv()).await.is_err() {
            tracing::warn!(
                worker = index,
                streams = streams.load(Ordering::Relaxed),
                "streams dropped at the deadline"
            );
        }
    }

    fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        index: usize,
        streams: &Arc<AtomicUsize>,
        open: mpsc::Sender<()>,
    ) {
        let stream = match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%peer, %error, "connection refused: the poller does not take it"),
        };
        let connection = Connection::new(peer, index, Arc::clone(streams));
        let (routes, limits, leaving) = (self.routes.clone(), self.limits, self.leaving.clone());
        tokio::spawn(async move {
            serve(stream, connection, routes, limits, leaving).await;
            drop(open);
        });
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
