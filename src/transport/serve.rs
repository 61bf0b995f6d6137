//! Life of a connection, from its first byte to its last.
//!
//! ```text
//!   handshake ──► served ──┬─► ended by the peer
//!   (deadline)             ├─► evicted                              at once, with what is not sent
//!                          ├─► maximum age: GOAWAY, notices ───────► grace ──► dropped
//!                          ├─► rejected: GOAWAY with the reason, notices ─► grace ──► dropped
//!                          └─► shutdown: notices, GOAWAY ──────────► dropped by the worker at its deadline
//! ```

use std::{
    error::Error as _,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::{
    Connection, ConnectionIo, ListenerConfig, Protocol,
    accounted_task::{AccountedExecutor, AccountedTask},
    h2_io::H2WriteShim,
    preface::read_preface,
    request_service::RequestService,
    tls::{TlsState, perform_handshake},
};
use crate::{metrics::EvictReason, random};

/// Interval between pings.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Time within which a peer has to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that streams have to send their notices on shutdown, before GOAWAY.
const NOTICE_DELAY: Duration = Duration::from_millis(50);
/// Maximum bytes of one stream that are buffered beyond the peer's window. The default of 400 KiB is for downloads.
const MAX_SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Flow-control window of a stream.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Flow-control window of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Maximum time that an HTTP/1.1 connection may be idle, or that the head of a later request may take. Longer than the minute between two scrapes
/// of Prometheus.
const HTTP1_IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Serves a connection that was accepted on a listener, until it ends.
pub(super) async fn serve_accepted(
    socket: TcpStream,
    connection: Arc<Connection>,
    config: &ListenerConfig,
    shutdown: CancellationToken,
) {
    let io = ConnectionIo::new(socket, Arc::clone(&connection));
    match &config.tls {
        None => serve(Box::pin(open(io)), connection, config, shutdown).await,
        Some(tls) => {
            let opening = Box::pin(open_tls(io, Arc::clone(&connection), tls, config.protocol));
            serve(opening, connection, config, shutdown).await;
        }
    }
}

/// Waits for the first byte. Runs within the deadline of the handshake.
async fn open(io: ConnectionIo) -> io::Result<ConnectionIo> {
    io.readable().await?;
    Ok(io)
}

/// Performs the TLS handshake, which gives the connection its identity.
async fn open_tls(
    io: ConnectionIo,
    connection: Arc<Connection>,
    tls: &TlsState,
    protocol: Protocol,
) -> io::Result<TlsStream<ConnectionIo>> {
    let first = io.peek_first_byte().await?;
    let (stream, identity) = perform_handshake(first, io, tls, protocol).await.map_err(io::Error::other)?;
    if let Some(name) = identity {
        tracing::debug!(peer = %connection.peer(), identity = &*name, "client certificate accepted");
        connection.identify(name);
    }
    Ok(stream)
}

/// Serves one connection until it ends: by its peer, by eviction, at its maximum age, or after the GOAWAY of a shutdown, once its streams are done.
/// The caller sets the deadline of a shutdown.
///
/// Each stage is boxed, because a task with space for the largest stage, the TLS handshake, would keep that space for the life of the
/// connection.
pub async fn serve<I>(
    opening: impl Future<Output = io::Result<I>>,
    connection: Arc<Connection>,
    config: &ListenerConfig,
    shutdown: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let _inspected = connection.worker_state().inspect(&connection);
    let limiter = connection.permit().limiter();
    let mut deadline = pin!(sleep(limiter.limits().handshake));
    let opening = AccountedTask::new(Arc::clone(&connection), async {
        read_preface(opening.await?, config.protocol, &connection).await
    });
    let io = tokio::select! {
        opened = opening => match opened {
            Ok(io) => TokioIo::new(io),
            Err(error) => {
                limiter.metrics().connections.handshake_failed(config.name);
                return tracing::debug!(peer = %connection.peer(), listener = config.name, %error, "handshake failed");
            }
        },
        () = &mut deadline => return connection.evict(EvictReason::Handshake),
        // The peer has sent no request yet.
        () = shutdown.cancelled() => return,
    };
    let service = RequestService { routes: config.routes.clone(), connection: Arc::clone(&connection) };
    match config.protocol {
        Protocol::Http2 => {
            let served = Box::pin(http2(&connection).serve_connection(io, service));
            AccountedTask::new(Arc::clone(&connection), run(served, &connection, None, shutdown)).await;
        }
        Protocol::Http1 => {
            let served = Box::pin(http1().serve_connection(io, service));
            AccountedTask::new(Arc::clone(&connection), run(served, &connection, Some(deadline), shutdown)).await;
        }
    }
}

fn http2(connection: &Arc<Connection>) -> http2::Builder<AccountedExecutor> {
    let streams = connection.permit().limiter().limits().streams_per_connection;
    let mut builder = http2::Builder::new(AccountedExecutor(Arc::clone(connection)));
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(streams)
        // Calls whose deadlines pass while this thread is busy arrive together with their cancellation. The default limit of 20 would close the
        // connection of a well-behaved client, and end the heartbeats on it.
        .max_pending_accept_reset_streams(Some(streams as usize))
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder
}

fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HTTP1_IDLE_TIMEOUT).max_buf_size(MAX_SEND_BUFFER_BYTES);
    // Some programs written for Consul compare header names in the case in which Go writes them.
    builder.title_case_headers(true);
    builder
}

/// Connection of hyper, of either version of HTTP.
trait ServedConnection: Future<Output = hyper::Result<()>> {
    /// Stops accepting requests, and ends when the open requests have ended.
    fn start_graceful_shutdown(self: Pin<&mut Self>);
}

impl<I: AsyncRead + AsyncWrite + Unpin> ServedConnection
    for http2::Connection<TokioIo<H2WriteShim<I>>, RequestService, AccountedExecutor>
{
    fn start_graceful_shutdown(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> ServedConnection
    for http1::Connection<TokioIo<H2WriteShim<I>>, RequestService>
{
    fn start_graceful_shutdown(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs a connection to its end. `first_request`: the deadline for the first request.
async fn run(
    mut served: Pin<Box<impl ServedConnection>>,
    connection: &Connection,
    mut first_request: Option<Pin<&mut Sleep>>,
    shutdown: CancellationToken,
) {
    let limits = connection.permit().limiter().limits();
    let mut max_age = pin!(sleep(limits.age.map_or(Duration::MAX, jitter)));
    let reason = loop {
        tokio::select! {
            ended = &mut served => return record_end(connection, ended),
            () = connection.ending() => {
                if connection.is_evicted() {
                    return;
                }
                break CloseReason::Rejected;
            }
            () = shutdown.cancelled() => break CloseReason::Shutdown,
            () = wait(&mut first_request) => {
                first_request = None;
                if !connection.is_used() {
                    return connection.evict(EvictReason::Handshake);
                }
            }
            () = &mut max_age, if limits.age.is_some() => break CloseReason::Age,
        }
    };
    if !connection.is_used() {
        // The peer has sent no request yet.
        return;
    }
    let grace = if reason == CloseReason::Shutdown {
        tokio::select! {
            ended = &mut served => return record_end(connection, ended),
            () = sleep(NOTICE_DELAY) => served.as_mut().start_graceful_shutdown(),
        }
        Duration::MAX
    } else {
        // GOAWAY is sent before the notices of the streams, so that a client which reacts to the notice by a new call makes it on another
        // connection.
        if reason == CloseReason::Age {
            connection.permit().limiter().metrics().connections.reached_max_age();
        }
        connection.retire();
        served.as_mut().start_graceful_shutdown();
        limits.grace
    };
    tokio::select! {
        ended = &mut served => record_end(connection, ended),
        () = until_evicted(connection) => {}
        () = sleep(grace) => {
            // A rejected connection has already been counted.
            if connection.rejection().is_none() {
                connection.evict(EvictReason::Age);
            }
        }
    }
}

/// Reason for which a connection accepts no more requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CloseReason {
    Age,
    Rejected,
    Shutdown,
}

/// Waits until a connection is evicted. A closing connection may also be rejected in the meantime.
async fn until_evicted(connection: &Connection) {
    while !connection.is_evicted() {
        connection.ending().await;
    }
}

async fn wait(deadline: &mut Option<Pin<&mut Sleep>>) {
    match deadline {
        Some(deadline) => deadline.await,
        None => std::future::pending().await,
    }
}

/// Varies an age by up to a tenth, so that connections which began together do not end together.
fn jitter(age: Duration) -> Duration {
    let fraction = u32::try_from(random::u64() >> 32).unwrap_or(u32::MAX);
    age.mul_f64(0.9 + 0.2 * f64::from(fraction) / f64::from(u32::MAX))
}

fn record_end(connection: &Connection, ended: hyper::Result<()>) {
    if let Err(error) = ended {
        // The only timeout of HTTP/1.1, that of an idle connection, has no source.
        if error.is_timeout() && error.source().is_some() {
            connection.evict(EvictReason::Ping);
        }
        if let Some(flood) = flood_error(&error) {
            connection.flooded(flood.to_string());
        }
        tracing::debug!(peer = %connection.peer(), %error, "connection ended");
    }
}

/// Returns the error for which h2 itself has sent GOAWAY with `ENHANCE_YOUR_CALM`, if it has sent one.
fn flood_error(error: &hyper::Error) -> Option<&h2::Error> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    let is_flood = error.is_go_away() && error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
    is_flood.then_some(error)
}
