//! Server that receives requests and sends responses.
//!
//! UDP requests are answered one after another. A response that the kernel does not accept immediately is dropped, as a network
//! would drop it. TCP connections count towards the limits of all connections, and are closed when they are idle or slow.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hickory_proto::op::ResponseCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};

use super::{
    answer::DnsAnswer,
    authority::{AnswerContext, Authority},
    connections::{OpenConnection, OpenConnections},
    packet::{DnsQuery, DnsTransport},
    reverse::IndexBehind,
};
use crate::{
    app::QueryRate,
    clock::Clock,
    engine::Engine,
    metrics::{DnsResponseCode, Metrics, RejectReason},
    model::UnixMillis,
    registry::Registry,
    transport::{Acceptor, ConnectionLimiter, ConnectionPermit, Protocol},
};

/// Name of the listener in logs and metrics.
pub(super) const LISTENER_NAME: &str = "dns";
/// Maximum bytes of a request.
const MAX_REQUEST_BYTES: usize = 4 * 1024;
/// Number of UDP requests that are answered in a row before other tasks run.
const REQUESTS_PER_TURN: u32 = 64;
/// Maximum number of UDP requests that wait for the index of addresses.
const MAX_WAITING_REQUESTS: usize = 16;
/// Maximum time between the requests of a connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time for receiving the rest of a request, and for sending a response.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after an error of the UDP socket.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Answers a request. Returns the response, if there is one, and its code for the metrics.
///
/// # Errors
///
/// [`IndexBehind`] if the index of addresses is not up to date: call again, after a yield.
pub(crate) fn respond(
    authority: &Authority,
    registry: &Registry,
    now: UnixMillis,
    packet: &[u8],
    transport: DnsTransport,
) -> Result<(Option<Vec<u8>>, DnsResponseCode), IndexBehind> {
    let Some((request, query)) = DnsQuery::decode(packet) else { return Ok((None, DnsResponseCode::Dropped)) };
    let max_bytes = request.max_response_bytes(transport);
    let answer = match query {
        Ok(query) => authority.answer(AnswerContext { registry, now }, &query, max_bytes.into())?,
        Err(code) => DnsAnswer::with_code(code),
    };
    let code = match answer.code {
        ResponseCode::NoError => DnsResponseCode::NoError,
        ResponseCode::NXDomain => DnsResponseCode::NoName,
        ResponseCode::Refused => DnsResponseCode::Refused,
        ResponseCode::NotImp | ResponseCode::BADVERS => DnsResponseCode::NotImplemented,
        _ => DnsResponseCode::Malformed,
    };
    match request.encode_response(&answer, max_bytes) {
        Ok(bytes) => Ok((Some(bytes), code)),
        Err(error) => {
            tracing::debug!(%error, "cannot encode a DNS response");
            Ok((None, DnsResponseCode::Dropped))
        }
    }
}

/// Admits a connection within the limits. It counts as a gRPC connection, so that it does not use the connections that are reserved
/// for operators over HTTP.
///
/// A connection that its client has closed counts until its task has run. So tasks run before a connection is rejected: a client that
/// opens one connection for each request is not rejected because of connections that it has closed.
///
/// # Errors
///
/// The limit that is reached.
async fn admit(
    open_connections: &Arc<OpenConnections>,
    limiter: &Arc<ConnectionLimiter>,
    peer: SocketAddr,
) -> Result<(OpenConnection, ConnectionPermit), RejectReason> {
    let admit = || {
        let connection = open_connections.admit(peer.ip())?;
        Ok((connection, limiter.admit(peer, LISTENER_NAME, Protocol::Http2)?))
    };
    if let Ok(permits) = admit() {
        return Ok(permits);
    }
    yield_now().await;
    admit()
}

/// Server over UDP and TCP.
#[derive(Debug)]
pub(super) struct DnsServer {
    engine: Arc<dyn Engine>,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    /// Rates of queries over UDP and over TCP.
    rates: [Arc<QueryRate>; 2],
    authority: Authority,
}

impl DnsServer {
    pub(super) fn new(
        engine: &Arc<dyn Engine>,
        clock: &Arc<Clock>,
        metrics: &Arc<Metrics>,
        rates: [Arc<QueryRate>; 2],
        authority: Authority,
    ) -> Self {
        Self { engine: Arc::clone(engine), clock: Arc::clone(clock), metrics: Arc::clone(metrics), rates, authority }
    }

    fn respond(&self, packet: &[u8], transport: DnsTransport) -> Result<Option<Vec<u8>>, IndexBehind> {
        let (registry, now) = (self.engine.registry(), self.clock.now());
        let (response, code) = respond(&self.authority, registry, now.wall, packet, transport)?;
        let [udp, tcp] = &self.rates;
        let rate = match transport {
            DnsTransport::Udp | DnsTransport::LoopbackUdp => udp,
            DnsTransport::Tcp => tcp,
        };
        rate.record(now.monotonic_us);
        self.metrics.dns.replied(code);
        Ok(response)
    }

    /// Answers a request once the index of addresses is up to date, and yields to other tasks in the meantime.
    async fn respond_when_current(&self, packet: &[u8], transport: DnsTransport) -> Option<Vec<u8>> {
        loop {
            match self.respond(packet, transport) {
                Ok(response) => return response,
                Err(IndexBehind) => yield_now().await,
            }
        }
    }

    /// Answers requests over UDP.
    pub(super) async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut packet = vec![0; MAX_REQUEST_BYTES];
        let mut answered = 0_u32;
        // Requests that wait for the index of addresses, while others are answered.
        let mut waiting = JoinSet::new();
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut packet) => received,
                Some(_) = waiting.join_next() => continue,
            };
            match received {
                Ok((length, peer)) => {
                    let (packet, transport) = (&packet[..length], DnsTransport::udp_to(peer.ip()));
                    match self.respond(packet, transport) {
                        Ok(response) => self.send(&socket, response.as_deref(), peer),
                        Err(IndexBehind) if waiting.len() < MAX_WAITING_REQUESTS => {
                            let (server, socket, packet) = (Arc::clone(&self), Arc::clone(&socket), packet.to_vec());
                            waiting.spawn(async move {
                                let response = server.respond_when_current(&packet, transport).await;
                                server.send(&socket, response.as_deref(), peer);
                            });
                        }
                        // The request is dropped, and the client sends it again.
                        Err(IndexBehind) => self.metrics.dns.replied(DnsResponseCode::Dropped),
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot receive a DNS request");
                    sleep(ERROR_PAUSE).await;
                }
            }
            answered = answered.wrapping_add(1);
            if answered.is_multiple_of(REQUESTS_PER_TURN) {
                yield_now().await;
            }
        }
    }

    fn send(&self, socket: &UdpSocket, response: Option<&[u8]>, peer: SocketAddr) {
        if let Some(response) = response
            && let Err(error) = socket.try_send_to(response, peer)
        {
            self.metrics.dns.replied(DnsResponseCode::Dropped);
            tracing::debug!(%peer, %error, "dropped a DNS response that the socket did not accept");
        }
    }

    /// Accepts connections within the limits, and answers their requests.
    pub(super) async fn serve_tcp(self: Arc<Self>, mut acceptor: Acceptor, limiter: Arc<ConnectionLimiter>) {
        let open_connections = Arc::new(OpenConnections::default());
        // Dropped at shutdown, which closes all connections: clients ask again over another one.
        let mut tasks = JoinSet::new();
        loop {
            let (socket, peer) = tokio::select! {
                accepted = acceptor.accept() => accepted,
                Some(_) = tasks.join_next() => continue,
            };
            match admit(&open_connections, &limiter, peer).await {
                Ok(permits) => {
                    let server = Arc::clone(&self);
                    tasks.spawn(async move {
                        let _permits: (OpenConnection, ConnectionPermit) = permits;
                        if let Err(error) = server.serve_connection(socket).await {
                            tracing::debug!(%peer, %error, "DNS connection closed");
                        }
                    });
                }
                Err(reason) => {
                    limiter.metrics().connections.rejected(reason);
                    drop(socket);
                    acceptor.pace_rejections().await;
                }
            }
        }
    }

    /// Answers the requests of a connection, one after another, until it is closed or idle.
    async fn serve_connection(&self, mut socket: TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let mut packet = Vec::new();
        loop {
            let Ok(length) = timeout(IDLE_TIMEOUT, socket.read_u16()).await else { return Ok(()) };
            let length = match length {
                Ok(length) => usize::from(length),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            };
            if length > MAX_REQUEST_BYTES {
                let error = format!("request of {length} bytes: the limit is {MAX_REQUEST_BYTES}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            packet.resize(length, 0);
            timeout(TRANSFER_TIMEOUT, socket.read_exact(&mut packet)).await??;
            let Some(response) = self.respond_when_current(&packet, DnsTransport::Tcp).await else { return Ok(()) };
            let length = u16::try_from(response.len()).unwrap_or(u16::MAX);
            let framed = [&length.to_be_bytes(), &*response].concat();
            timeout(TRANSFER_TIMEOUT, socket.write_all(&framed)).await??;
        }
    }
}

#[cfg(test)]
#[path = "server/tests.rs"]
mod tests;
