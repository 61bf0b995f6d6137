//! One connection: HTTP/2 around the gRPC routes.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body::{Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, watch},
    time::sleep,
};
use tonic::{body::Body, service::Routes};
use tower::Service;

use super::socket::Gathering;

/// A peer that does not answer a ping is gone.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_ANSWER: Duration = Duration::from_secs(10);
/// How long streams have to tell their peers that we leave, before the connection says it.
const NOTICE: Duration = Duration::from_millis(50);
/// What one stream may have in our buffers beyond the peer's window. The default of 400 KiB is for downloads.
const SEND_BUFFER: usize = 64 * 1024;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What one connection may do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open streams at a time.
    pub streams: u32,
}

/// One peer's connection, as its streams know it.
#[derive(Debug)]
pub struct Connection {
    peer: SocketAddr,
    worker: usize,
    /// Open streams of the whole worker.
    streams: Arc<AtomicUsize>,
    /// Some request came.
    used: AtomicBool,
    evicted: AtomicBool,
    evict: Notify,
}

impl Connection {
    /// A connection from this peer, served by this worker, whose open streams are counted here.
    #[must_use]
    pub fn new(peer: SocketAddr, worker: usize, streams: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self {
            peer,
            worker,
            streams,
            used: AtomicBool::new(false),
            evicted: AtomicBool::new(false),
            evict: Notify::new(),
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
        self.worker
    }

    /// Cuts it off.
    pub fn evict(&self, why: &str) {
        if !self.evicted.swap(true, Ordering::AcqRel) {
            tracing::warn!(peer = %self.peer, why, "connection cut off");
            self.evict.notify_one();
        }
    }

    /// Whether it was we who cut it off.
    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire)
    }
}

/// Serves one connection until it ends: by itself, by eviction, or, after GOAWAY, when the server leaves and its streams
/// are done. Whoever calls sets the last deadline.
pub async fn serve<I>(
    io: I,
    connection: Arc<Connection>,
    routes: Routes,
    limits: Limits,
    mut leaving: watch::Receiver<bool>,
) where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let door = Door { routes, connection: Arc::clone(&connection) };
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER)
        .max_concurrent_streams(limits.streams)
        // Calls whose deadlines pass while we are busy arrive with their cancellation: the default of 20 would end the
        // connection of an honest client, and with it the heartbeats on it.
        .max_pending_accept_reset_streams(Some(limits.streams as usize))
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(TokioIo::new(Gathering::new(io)), door);
    let mut served = pin!(served);
    tokio::select! {
        ended = &mut served => return log_end(&connection, ended),
        () = connection.evict.notified() => return,
        _ = leaving.wait_for(|leaving| *leaving) => {}
    }
    if !connection.used.load(Ordering::Relaxed) {
        // Nobody to be told; and a peer that has not even shaken hands would make us wait until the deadline.
        return;
    }
    tokio::select! {
        ended = &mut served => return log_end(&connection, ended),
        () = sleep(NOTICE) => served.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = served => log_end(&connection, ended),
        () = connection.evict.notified() => {}
    }
}

fn log_end(connection: &Connection, ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(peer = %connection.peer, %error, "connection ended");
    }
}

/// hyper's view of the routes: tells each request which connection it came on, and counts it while it is open.
#[derive(Debug, Clone)]
struct Door {
    routes: Routes,
    connection: Arc<Connection>,
}

impl hyper::service::Service<Request<Incoming>> for Door {
    type Response = Response<Counted>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.connection.used.store(true, Ordering::Relaxed);
        let open = Open::new(&self.connection);
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Arc::clone(&self.connection));
        let answer = self.routes.clone().call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Counted { body, _open: open })) })
    }
}

/// One open stream, counted.
#[derive(Debug)]
struct Open(Arc<Connection>);

impl Open {
    fn new(connection: &Arc<Connection>) -> Self {
        connection.streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connection))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer whose stream counts as open until all of it is sent.
#[derive(Debug)]
struct Counted {
    body: Body,
    _open: Open,
}

impl http_body::Body for Counted {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
