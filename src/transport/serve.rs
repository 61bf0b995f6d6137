//! A connection's life, from its first byte to its last.
//!
//! ```text
//!   handshake ──► served ──┬─► ended by the peer
//!   (deadline)             ├─► evicted                    at once, unsent bytes and all
//!                          ├─► too old: GOAWAY, notices ──► a grace ──► dropped
//!                          ├─► sent away: GOAWAY with the reason, notices ──► a grace ──► dropped
//!                          └─► the server leaves: notices, GOAWAY ───► dropped by whoever waits for it
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
    sync::watch,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

use super::{
    Connection, ConnectionIo, ListenerConfig, Protocol, WorkerState,
    cpu_share::{AccountedTask, Spawner},
    h2_io::H2WriteShim,
    preface::greet,
    request_service::RequestService,
    tls::{TlsState, shake_hands},
};
use crate::{metrics::EvictReason, random};

/// A peer that does not answer a ping is gone.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_ANSWER: Duration = Duration::from_secs(10);
/// How long streams have to tell their peers that we leave, before the connection says it.
const NOTICE: Duration = Duration::from_millis(50);
/// What one stream may have in our buffers beyond the peer's window. The default of 400 KiB is for downloads.
const SEND_BUFFER: usize = 64 * 1024;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// How long an HTTP/1.1 connection may be idle, or take to the end of a later request's head. Longer than the minute
/// between two visits of Prometheus.
const IDLE: Duration = Duration::from_secs(75);

/// Serves what was accepted on a port, until it ends.
pub(super) async fn receive(
    socket: TcpStream,
    connection: Arc<Connection>,
    port: &ListenerConfig,
    leaving: watch::Receiver<bool>,
) {
    let line = ConnectionIo::new(socket, Arc::clone(&connection));
    match &port.tls {
        None => serve(Box::pin(open(line)), connection, port, leaving).await,
        Some(tls) => {
            let opening = Box::pin(open_tls(line, Arc::clone(&connection), tls, port.protocol));
            serve(opening, connection, port, leaving).await;
        }
    }
}

/// What is spoken over, made of a fresh socket. Runs where the connection is served, within its handshake's deadline.
async fn open(line: ConnectionIo) -> io::Result<ConnectionIo> {
    line.stirs().await?;
    Ok(line)
}

/// The same with TLS. Whom the peer's certificate names is known from here on.
async fn open_tls(
    line: ConnectionIo,
    connection: Arc<Connection>,
    tls: &TlsState,
    protocol: Protocol,
) -> io::Result<TlsStream<ConnectionIo>> {
    let first = line.first_byte().await?;
    let (stream, identity) = shake_hands(first, line, tls, protocol).await.map_err(io::Error::other)?;
    if let Some(name) = identity {
        tracing::debug!(peer = %connection.peer(), identity = &*name, "a client has shown its certificate");
        connection.identify(name);
    }
    Ok(stream)
}

/// Serves one connection until it ends: by itself, by eviction, of age, or, after GOAWAY, when the server leaves and its
/// streams are done. Whoever calls sets the last deadline.
///
/// Each stage has its own place: a task that had room for the largest of them, a handshake of TLS, would keep it for as long as the
/// connection lives.
pub async fn serve<I>(
    opening: impl Future<Output = io::Result<I>>,
    connection: Arc<Connection>,
    port: &ListenerConfig,
    mut leaving: watch::Receiver<bool>,
) where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let _guest = WorkerState::enter(&connection);
    let metrics = &connection.ticket().gate().metrics().connections;
    let mut deadline = pin!(sleep(connection.ticket().gate().rules().handshake));
    let opening =
        AccountedTask::new(Arc::clone(&connection), async { greet(opening.await?, port.protocol, &connection).await });
    let io = tokio::select! {
        opened = opening => match opened {
            Ok(io) => TokioIo::new(io),
            Err(error) => {
                metrics.handshake_failed(port.name);
                return tracing::debug!(peer = %connection.peer(), port = port.name, %error, "no connection came of it");
            }
        },
        () = &mut deadline => return connection.evict(EvictReason::Handshake),
        // There is nobody to be told.
        _ = leaving.wait_for(|leaving| *leaving) => return,
    };
    let door = RequestService { routes: port.routes.clone(), connection: Arc::clone(&connection) };
    match port.protocol {
        Protocol::Http2 => {
            let served = Box::pin(http2(&connection).serve_connection(io, door));
            AccountedTask::new(Arc::clone(&connection), live(served, &connection, None, leaving)).await;
        }
        Protocol::Http1 => {
            let served = Box::pin(http1().serve_connection(io, door));
            AccountedTask::new(Arc::clone(&connection), live(served, &connection, Some(deadline), leaving)).await;
        }
    }
}

fn http2(connection: &Arc<Connection>) -> http2::Builder<Spawner> {
    let streams = connection.ticket().gate().rules().streams_per_connection;
    let mut builder = http2::Builder::new(Spawner(Arc::clone(connection)));
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER)
        .max_concurrent_streams(streams)
        // Calls whose deadlines pass while we are busy arrive with their cancellation: the default of 20 would end the
        // connection of an honest client, and with it the heartbeats on it.
        .max_pending_accept_reset_streams(Some(streams as usize))
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    builder
}

fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(SEND_BUFFER);
    // Some programs written for Consul compare headers as Go spells them.
    builder.title_case_headers(true);
    builder
}

/// A connection that can be asked to end.
trait ServedConnection: Future<Output = hyper::Result<()>> {
    /// Takes nothing new, and ends with what is open.
    fn wind_up(self: Pin<&mut Self>);
}

impl<I: AsyncRead + AsyncWrite + Unpin> ServedConnection
    for http2::Connection<TokioIo<H2WriteShim<I>>, RequestService, Spawner>
{
    fn wind_up(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> ServedConnection
    for http1::Connection<TokioIo<H2WriteShim<I>>, RequestService>
{
    fn wind_up(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// `first`: the deadline for the first request.
async fn live(
    mut served: Pin<Box<impl ServedConnection>>,
    connection: &Connection,
    mut first: Option<Pin<&mut Sleep>>,
    mut leaving: watch::Receiver<bool>,
) {
    let rules = connection.ticket().gate().rules();
    let mut old = pin!(sleep(rules.age.map_or(Duration::MAX, jitter)));
    let wound_up = loop {
        tokio::select! {
            ended = &mut served => return note_end(connection, ended),
            () = connection.evicted() => {
                if connection.is_evicted() {
                    return;
                }
                break CloseReason::SentAway;
            }
            _ = leaving.wait_for(|leaving| *leaving) => break CloseReason::Leaving,
            () = wait(&mut first) => {
                first = None;
                if !connection.is_used() {
                    return connection.evict(EvictReason::Handshake);
                }
            }
            () = &mut old, if rules.age.is_some() => break CloseReason::Old,
        }
    };
    if !connection.is_used() {
        // Nobody to be told.
        return;
    }
    let last = if wound_up == CloseReason::Leaving {
        tokio::select! {
            ended = &mut served => return note_end(connection, ended),
            () = sleep(NOTICE) => served.as_mut().wind_up(),
        }
        Duration::MAX
    } else {
        // The streams' notices follow: who hears one and calls again at once does so on another connection.
        if wound_up == CloseReason::Old {
            connection.ticket().gate().metrics().connections.reached_max_age();
        }
        connection.retire();
        served.as_mut().wind_up();
        rules.grace
    };
    tokio::select! {
        ended = &mut served => note_end(connection, ended),
        () = cut_off(connection) => {}
        () = sleep(last) => {
            // Whatever it was asked to do that for.
            if connection.going_away().is_none() {
                connection.evict(EvictReason::Age);
            }
        }
    }
}

/// Why a connection takes nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CloseReason {
    Old,
    SentAway,
    Leaving,
}

/// Waits until a connection is cut off. One that goes away already may also be sent away.
async fn cut_off(connection: &Connection) {
    while !connection.is_evicted() {
        connection.evicted().await;
    }
}

async fn wait(deadline: &mut Option<Pin<&mut Sleep>>) {
    match deadline {
        Some(deadline) => deadline.await,
        None => std::future::pending().await,
    }
}

/// Give or take a tenth, so that connections which came together do not leave together.
fn jitter(age: Duration) -> Duration {
    let share = u32::try_from(random::u64() >> 32).unwrap_or(u32::MAX);
    age.mul_f64(0.9 + 0.2 * f64::from(share) / f64::from(u32::MAX))
}

fn note_end(connection: &Connection, ended: hyper::Result<()>) {
    if let Err(error) = ended {
        // HTTP/1.1's only timeout, of an idle connection, has no source.
        if error.is_timeout() && error.source().is_some() {
            connection.evict(EvictReason::Ping);
        }
        if let Some(flood) = flood(&error) {
            connection.flooded(flood.to_string());
        }
        tracing::debug!(peer = %connection.peer(), %error, "connection ended");
    }
}

/// What HTTP/2 itself has sent GOAWAY with `ENHANCE_YOUR_CALM` for.
fn flood(error: &hyper::Error) -> Option<&h2::Error> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    let floods = error.is_go_away() && error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
    floods.then_some(error)
}
