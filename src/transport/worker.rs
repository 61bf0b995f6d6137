//! Workers: one thread with one `current_thread` runtime each. A connection lives on one of them from its first byte to its last.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    runtime,
    sync::mpsc,
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{FatalReporter, Notifier, WorkerState, accepted_connection::AcceptedConnection};
use crate::clock::Clock;

/// Time between two reports of a worker's progress. Expiry lags behind by up to twice this time.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);
/// Number of tasks that a heartbeat passes through, plus one.
const HEARTBEAT_HOPS: usize = 3;
/// Time that connections have to end on shutdown, after their streams were notified.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(4);

/// Configuration of every worker.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Wakes the streams of each worker.
    pub notifier: Arc<Notifier>,
    /// Clock that the worker reports its progress to.
    pub clock: Arc<Clock>,
    /// Time between two bookmarks of an idle stream.
    pub bookmark_interval: Duration,
    /// Cancelled when connections are to close.
    pub shutdown: CancellationToken,
    /// Receives a report when a part of a worker has ended.
    pub fatal: FatalReporter,
}

/// All workers: some for gRPC, and one for HTTP, which has the last index.
#[derive(Debug)]
pub struct Workers {
    inboxes: Vec<WorkerInbox>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Queue of connections for one worker.
#[derive(Debug)]
struct WorkerInbox {
    connections: mpsc::UnboundedSender<AcceptedConnection>,
    worker: Arc<WorkerState>,
}

impl Workers {
    /// Starts this many workers for gRPC, and one for HTTP.
    ///
    /// # Errors
    ///
    /// When the operating system cannot create a thread or a poller.
    pub fn start(count: usize, config: &WorkerConfig) -> io::Result<Self> {
        let mut workers = Self { inboxes: Vec::new(), threads: Mutex::default() };
        for index in 0..=count {
            let (sender, connections) = mpsc::unbounded_channel();
            let worker = WorkerState::new(index, &config.clock);
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let name = if index < count { format!("callboard-{index}") } else { "callboard-http".to_owned() };
            let (config, own, monitored) = (config.clone(), Arc::clone(&worker), name.clone());
            let thread = thread::Builder::new()
                .name(name)
                .spawn(move || runtime.block_on(config.run(own, monitored, connections)))?;
            workers.inboxes.push(WorkerInbox { connections: sender, worker });
            workers.threads.get_mut().push(thread);
        }
        Ok(workers)
    }

    /// Number of gRPC workers.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inboxes.len() - 1
    }

    /// Number of open streams of a worker.
    #[must_use]
    pub fn open_streams(&self, worker: usize) -> usize {
        self.inboxes[worker].worker.open_streams()
    }

    /// Gives a connection to a worker.
    pub(super) fn send(&self, worker: usize, connection: AcceptedConnection) {
        // A worker ends only on shutdown. Then the connection is dropped, which closes it.
        let _ = self.inboxes[worker].connections.send(connection);
    }

    /// Waits until all threads have ended, which they do on shutdown. Blocks.
    pub fn join_all(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("the thread of a worker panicked");
            }
        }
    }
}

impl WorkerConfig {
    async fn run(
        self,
        worker: Arc<WorkerState>,
        name: String,
        mut arrivals: mpsc::UnboundedReceiver<AcceptedConnection>,
    ) {
        let index = worker.index();
        let (notifier, clock, interval) = (Arc::clone(&self.notifier), Arc::clone(&self.clock), self.bookmark_interval);
        let notifying = async move { notifier.run(index, &clock, interval).await };
        tokio::spawn(self.fatal.clone().guard("the notifier of a worker", notifying));
        let progress = report_progress(Arc::clone(&self.clock), index, name);
        tokio::spawn(self.fatal.clone().guard("the progress report of a worker", progress));
        let inspected = Arc::clone(&worker);
        let inspecting = async move { inspected.inspect_connections().await };
        tokio::spawn(self.fatal.clone().guard("the inspection of connections", inspecting));
        // Connections wait for a child token of their worker. Each of their polls takes the lock of the token, and no
        // other thread uses this lock.
        let shutdown = self.shutdown.child_token();
        let connections = TaskTracker::new();
        let serving = async {
            while let Some(arrival) = arrivals.recv().await {
                connections.spawn(arrival.serve(Arc::clone(&worker), shutdown.clone()));
            }
        };
        shutdown.run_until_cancelled(serving).await;
        connections.close();
        if timeout(SHUTDOWN_GRACE, connections.wait()).await.is_err() {
            tracing::warn!(worker = index, streams = worker.open_streams(), "streams dropped at the deadline");
        }
    }
}

/// Reports in a loop that the worker has handled everything that had arrived at a certain time, and that its event loop
/// makes progress.
///
/// It takes the time, sleeps, and then reports, instead of using an interval: after a stall of the worker, missed ticks would follow one another, and
/// report times whose messages the worker has not read yet. A message takes two hops, from the task of the connection to the task of the stream. Each
/// yield lets the tasks that were woken before run first.
async fn report_progress(clock: Arc<Clock>, worker: usize, name: String) {
    let monitor = clock.monitor(name);
    loop {
        let arrived_before = clock.now().lease;
        sleep(PROGRESS_INTERVAL).await;
        for _ in 0..HEARTBEAT_HOPS {
            yield_now().await;
        }
        clock.worker_has_handled(worker, arrived_before);
        monitor.report();
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::mpsc::channel};

    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        metrics::Metrics,
        transport::{ConnectionLimiter, ConnectionLimits, ListenerConfig, Protocol},
    };

    const DEADLINE: Duration = Duration::from_secs(30);
    const SILENT: Duration = Duration::from_millis(500);

    async fn until(what: &str, reached: impl Fn() -> bool) {
        let waiting = async {
            while !reached() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("{what} takes too long"));
    }

    /// In both kinds of workers, a request whose handler blocks the thread makes that worker silent, and no other.
    #[tokio::test]
    async fn worker_whose_thread_blocks_is_silent() {
        for (blocked, name) in [(0, "callboard-0"), (1, "callboard-http")] {
            let clock = Arc::new(Clock::new(1));
            let shutdown = CancellationToken::new();
            let config = WorkerConfig {
                notifier: Arc::new(Notifier::new(2)),
                clock: Arc::clone(&clock),
                bookmark_interval: DEADLINE,
                shutdown: shutdown.clone(),
                fatal: FatalReporter::new().0,
            };
            let workers = Arc::new(Workers::start(1, &config).unwrap());
            until("the first report", || clock.event_loops().len() == 2).await;

            let (unblock, blocks) = channel::<()>();
            let blocks = Arc::new(Mutex::new(blocks));
            let handler = move || async move { blocks.lock().recv().unwrap() };
            let routes = axum::Router::new().route("/", axum::routing::get(handler)).into();
            let config = ListenerConfig { name: "test", protocol: Protocol::Http1, tls: None, routes };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (socket, peer) = listener.accept().await.unwrap();
            workers.send(blocked, accepted(socket, peer, config));
            client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();

            let silent = |silent: bool, which: &str| {
                let loops = clock.event_loops();
                loops.iter().any(|status| status.name == which && (status.silent_for >= SILENT) == silent)
            };
            until("the silence", || silent(true, name)).await;
            let other = if blocked == 0 { "callboard-http" } else { "callboard-0" };
            assert!(silent(false, other), "{:?}", clock.event_loops());
            unblock.send(()).unwrap();
            until("the next report", || silent(false, name)).await;
            shutdown.cancel();
            tokio::task::spawn_blocking(move || workers.join_all()).await.unwrap();
            assert_eq!(clock.event_loops(), []);
        }
    }

    fn accepted(socket: TcpStream, peer: SocketAddr, config: ListenerConfig) -> AcceptedConnection {
        let limiter = ConnectionLimiter::new(ConnectionLimits::default(), Metrics::new());
        let permit = limiter.admit(peer, config.name, config.protocol).unwrap();
        AcceptedConnection { socket: socket.into_std().unwrap(), peer, permit, config: Arc::new(config) }
    }
}
