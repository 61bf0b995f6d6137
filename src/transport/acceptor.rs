//! Acceptance of connections: one function for all listeners, with the same protections.
//!
//! gRPC connections are dispatched to the worker with the fewest open streams. `SO_REUSEPORT` would let the kernel choose by a hash of the
//! addresses, which balances a few long connections badly.

use std::{
    collections::VecDeque, future::poll_fn, io, net::SocketAddr, ops::Range, sync::Arc, task::Poll, time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    ConnectionLimiter, ListenerConfig, Protocol, Workers,
    accepted_connection::AcceptedConnection,
    closing::reject,
    descriptors::SpareDescriptor,
    listener::{self, Listener},
};
use crate::{clock::Clock, metrics::RejectReason};

/// Number of streams for which a new connection counts.
const NEW_CONNECTION_STREAMS: usize = 8;
/// Time for which a connection counts as new. After it, the connection has opened streams of its own.
const NEW_CONNECTION_AGE: Duration = Duration::from_secs(1);
/// Pause when a connection can be neither accepted nor closed.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// Number of connections that are rejected in a row before a pause, in which the thread runs other tasks.
const REJECTIONS_PER_PAUSE: u32 = 64;
const REJECTION_PAUSE: Duration = Duration::from_millis(10);

/// TCP listener that keeps one descriptor in reserve.
///
/// When the process has no descriptor left, a waiting connection can be neither accepted nor rejected, and the poller would report it again and
/// again. So the reserved descriptor is closed for a moment: the connection is accepted and closed at once. Its peer notices that, and the accept
/// loop does not spin.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    /// Name of the listener in logs.
    name: &'static str,
    limiter: Arc<ConnectionLimiter>,
    spare: SpareDescriptor,
    rejections: u32,
}

impl Acceptor {
    /// Registers a bound listener with the poller of the current runtime.
    ///
    /// # Errors
    ///
    /// When the listener cannot be registered with the poller, or no descriptor is left to keep in reserve.
    pub fn new(listener: Listener, name: &'static str, limiter: Arc<ConnectionLimiter>) -> io::Result<Self> {
        let listener = listener.for_tokio()?;
        Ok(Self { listener, name, limiter, spare: SpareDescriptor::new()?, rejections: 0 })
    }

    /// Accepts the next connection, and closes those for which there is no descriptor. Cancelling it loses no connection.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if SpareDescriptor::is_exhaustion(&error) => match self.close_one().await {
                    CloseOutcome::Closed => {
                        self.limiter.metrics().connections.rejected(RejectReason::Descriptors);
                        self.pace_rejections().await;
                    }
                    CloseOutcome::NoneWaiting => {}
                    CloseOutcome::NoDescriptor => sleep(EXHAUSTED_PAUSE).await,
                },
                // Usually the peer has already closed the connection.
                Err(error) => {
                    tracing::debug!(listener = self.name, %error, "connection not accepted");
                    self.pace_rejections().await;
                }
            }
        }
    }

    /// Pauses after every 64th rejection, so that a flood of connections does not occupy the thread. Called once for
    /// each rejection.
    pub async fn pace_rejections(&mut self) {
        self.rejections = self.rejections.wrapping_add(1);
        if self.rejections.is_multiple_of(REJECTIONS_PER_PAUSE) {
            sleep(REJECTION_PAUSE).await;
        }
    }

    /// Closes one waiting connection. Does not wait for one to arrive, because descriptors may be free again by then.
    async fn close_one(&mut self) -> CloseOutcome {
        if !self.spare.close() {
            return CloseOutcome::NoDescriptor;
        }
        let accepted = poll_fn(|context| Poll::Ready(self.listener.poll_accept(context))).await;
        let outcome = match accepted {
            Poll::Ready(Ok(_closed)) => CloseOutcome::Closed,
            Poll::Ready(Err(error)) if SpareDescriptor::is_exhaustion(&error) => CloseOutcome::NoDescriptor,
            Poll::Ready(Err(_)) | Poll::Pending => CloseOutcome::NoneWaiting,
        };
        self.spare.reopen();
        outcome
    }
}

/// Outcome of an attempt to close a waiting connection.
enum CloseOutcome {
    Closed,
    /// No connection waits. The system reports missing descriptors even then, because it reserves one before it looks
    /// for a connection.
    NoneWaiting,
    /// Another part of the process has taken the descriptor.
    NoDescriptor,
}

/// Accepts connections and dispatches them to workers until `shutdown` is cancelled.
///
/// # Errors
///
/// As [`Acceptor::new`].
pub fn accept(
    listener: Listener,
    config: ListenerConfig,
    limiter: Arc<ConnectionLimiter>,
    dispatch: WorkerDispatch,
    shutdown: CancellationToken,
) -> io::Result<impl Future<Output = ()> + Send> {
    let acceptor = Acceptor::new(listener, config.name, limiter)?;
    Ok(async move {
        shutdown.run_until_cancelled(accept_all(acceptor, Arc::new(config), dispatch)).await;
    })
}

async fn accept_all(mut acceptor: Acceptor, config: Arc<ListenerConfig>, mut dispatch: WorkerDispatch) {
    loop {
        let (socket, peer) = acceptor.accept().await;
        match acceptor.limiter.admit(peer, config.name, config.protocol) {
            Ok(permit) => match listener::prepare(&socket).and_then(|()| socket.into_std()) {
                Ok(socket) => {
                    dispatch.dispatch(AcceptedConnection { socket, peer, permit, config: Arc::clone(&config) });
                }
                Err(error) => tracing::debug!(%peer, %error, "connection lost before it was served"),
            },
            Err(reason) => {
                acceptor.limiter.metrics().connections.rejected(reason);
                reject(&acceptor.limiter, socket, &config, reason);
                acceptor.pace_rejections().await;
            }
        }
    }
}

/// Dispatches connections to workers.
#[derive(Debug)]
pub struct WorkerDispatch {
    workers: Arc<Workers>,
    clock: Arc<Clock>,
    /// Indexes of the workers to which connections are dispatched.
    targets: Range<usize>,
    /// Times at which each worker received its newest connections.
    recent: Vec<VecDeque<Duration>>,
}

impl WorkerDispatch {
    /// Creates a dispatch of connections of this protocol. gRPC has workers of its own, and HTTP has one of its own, because its responses may
    /// take long.
    #[must_use]
    pub fn new(workers: &Arc<Workers>, clock: &Arc<Clock>, protocol: Protocol) -> Self {
        let targets = match protocol {
            Protocol::Http2 => 0..workers.count(),
            Protocol::Http1 => workers.count()..workers.count() + 1,
        };
        let recent = vec![VecDeque::new(); targets.end];
        Self { workers: Arc::clone(workers), clock: Arc::clone(clock), targets, recent }
    }

    fn dispatch(&mut self, connection: AcceptedConnection) {
        let now = self.clock.since_start();
        for recent in &mut self.recent {
            while recent.front().is_some_and(|since| now.saturating_sub(*since) > NEW_CONNECTION_AGE) {
                recent.pop_front();
            }
        }
        let load =
            |worker: &usize| self.workers.open_streams(*worker) + NEW_CONNECTION_STREAMS * self.recent[*worker].len();
        let worker = self.targets.clone().min_by_key(load).unwrap_or(self.targets.start);
        self.recent[worker].push_back(now);
        self.workers.send(worker, connection);
    }
}
