//! The sockets: one for packets, one for connections, on the same port.
//!
//! Packets are answered one after the other, as they come; a packet that the system does not take at once is dropped, as the
//! network would. Connections are counted with all others, and end when they are silent or take nothing.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use hickory_proto::op::ResponseCode;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    answer::DnsAnswer,
    authority::{AnswerContext, Authority},
    connections::{OpenConnection, OpenConnections},
    packet::{DnsQuery, DnsTransport},
    reverse::IndexBehind,
};
use crate::{
    app::ServerContext,
    metrics::DnsResponseCode,
    model::UnixMillis,
    registry::Registry,
    transport::{self, Acceptor, ConnectionLimiter, ConnectionPermit, Listener},
};

/// As logs and metrics name it.
const NAME: &str = "dns";
/// How often a pair of ports is looked for, where the system chooses.
const ATTEMPTS: usize = 16;
/// Bytes that the kernel keeps of questions until we come to them, and of answers: a burst of thousands.
const BUFFER: usize = 1024 * 1024;
/// Longest question, in bytes.
const LONGEST: usize = 4 * 1024;
/// Questions in a row before others have a turn.
const BURST: u32 = 64;
/// Most questions that wait until enough has been read to answer them.
const MAX_LATE: usize = 16;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// How long one may take to send the rest of a question, or to take an answer.
const SLOW: Duration = Duration::from_secs(5);
/// How long to wait when the system gives nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// Two sockets on one address, which nobody has come through yet.
#[derive(Debug)]
pub struct DnsListener {
    packets: UdpSocket,
    listener: Listener,
}

impl DnsListener {
    /// Binds an address for packets and connections; port 0 lets the system choose one that is free for both.
    ///
    /// # Errors
    ///
    /// When it is taken for either, or no address of this host.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let mut attempts = if address.port() == 0 { ATTEMPTS } else { 1 };
        loop {
            let listener = Listener::bind(address)?;
            attempts -= 1;
            match packets(listener.address()) {
                Ok(packets) => return Ok(Self { packets, listener }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The address, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Returns the tasks that answer until `shutdown` is cancelled: packets in the first, connections in the second.
    ///
    /// # Errors
    ///
    /// When the poller does not take the sockets, or no descriptor is left to keep in reserve.
    pub fn open(
        self,
        shared: &Arc<ServerContext>,
        oracle: Authority,
        limiter: Arc<ConnectionLimiter>,
        shutdown: &CancellationToken,
    ) -> io::Result<(impl Future<Output = ()> + Send + 'static, impl Future<Output = ()> + Send + 'static)> {
        let socket = tokio::net::UdpSocket::from_std(self.packets)?;
        let acceptor = Acceptor::new(self.listener, NAME, Arc::clone(&limiter))?;
        let desk = Arc::new(DnsServer { shared: Arc::clone(shared), oracle });
        let packets = Arc::clone(&desk).packets(socket);
        let connections = desk.connections(acceptor, limiter);
        let (stop_packets, stop_connections) = (shutdown.clone(), shutdown.clone());
        Ok((
            async move {
                stop_packets.run_until_cancelled(packets).await;
            },
            async move {
                stop_connections.run_until_cancelled(connections).await;
            },
        ))
    }
}

fn packets(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // The system may allow less.
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_send_buffer_size(BUFFER)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The answer to a packet, and what kind it is.
///
/// # Errors
///
/// When it can be answered only after more has been read: ask again, after others had a turn.
pub(crate) fn reply(
    oracle: &Authority,
    registry: &Registry,
    now: UnixMillis,
    packet: &[u8],
    way: DnsTransport,
) -> Result<(Option<Vec<u8>>, DnsResponseCode), IndexBehind> {
    let Some((asked, found)) = DnsQuery::decode(packet) else { return Ok((None, DnsResponseCode::Dropped)) };
    let room = asked.max_response_bytes(way);
    let answer = match found {
        Ok(query) => oracle.answer(AnswerContext { registry, now }, &query, room.into())?,
        Err(code) => DnsAnswer::with_code(code),
    };
    let how = match answer.code {
        ResponseCode::NoError => DnsResponseCode::NoError,
        ResponseCode::NXDomain => DnsResponseCode::NoName,
        ResponseCode::Refused => DnsResponseCode::Refused,
        ResponseCode::NotImp | ResponseCode::BADVERS => DnsResponseCode::NotImplemented,
        _ => DnsResponseCode::Malformed,
    };
    match asked.encode_response(&answer, room) {
        Ok(bytes) => Ok((Some(bytes), how)),
        Err(error) => {
            tracing::debug!(%error, "an answer of DNS could not be written");
            Ok((None, DnsResponseCode::Dropped))
        }
    }
}

/// Where questions are answered.
#[derive(Debug)]
struct DnsServer {
    shared: Arc<ServerContext>,
    oracle: Authority,
}

impl DnsServer {
    fn reply(&self, packet: &[u8], way: DnsTransport) -> Result<Option<Vec<u8>>, IndexBehind> {
        let ServerContext { engine, clock, metrics, .. } = &*self.shared;
        let (bytes, how) = reply(&self.oracle, engine.registry(), clock.now().wall, packet, way)?;
        metrics.dns.replied(how);
        Ok(bytes)
    }

    /// The same, after everything has been read that it takes: in portions, between which others have their turn.
    async fn reply_in_time(&self, packet: &[u8], way: DnsTransport) -> Option<Vec<u8>> {
        loop {
            match self.reply(packet, way) {
                Ok(bytes) => return bytes,
                Err(IndexBehind) => yield_now().await,
            }
        }
    }

    async fn packets(self: Arc<Self>, socket: tokio::net::UdpSocket) {
        let socket = Arc::new(socket);
        let mut packet = vec![0; LONGEST];
        let mut answered = 0_u32;
        // Answers that take longer, so that those to other questions do not wait for them.
        let mut late = JoinSet::new();
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut packet) => received,
                Some(_) = late.join_next() => continue,
            };
            match received {
                Ok((length, peer)) => match self.reply(&packet[..length], DnsTransport::udp_to(peer.ip())) {
                    Ok(bytes) => self.send(&socket, bytes.as_deref(), peer),
                    Err(IndexBehind) if late.len() < MAX_LATE => {
                        let (desk, socket, packet) =
                            (Arc::clone(&self), Arc::clone(&socket), packet[..length].to_vec());
                        late.spawn(async move {
                            let bytes = desk.reply_in_time(&packet, DnsTransport::udp_to(peer.ip())).await;
                            desk.send(&socket, bytes.as_deref(), peer);
                        });
                    }
                    // It is asked again.
                    Err(IndexBehind) => self.shared.metrics.dns.replied(DnsResponseCode::Dropped),
                },
                Err(error) => {
                    tracing::debug!(%error, "a packet of DNS was lost");
                    sleep(PAUSE).await;
                }
            }
            answered = answered.wrapping_add(1);
            if answered.is_multiple_of(BURST) {
                yield_now().await;
            }
        }
    }

    fn send(&self, socket: &tokio::net::UdpSocket, bytes: Option<&[u8]>, peer: SocketAddr) {
        if let Some(bytes) = bytes
            && let Err(error) = socket.try_send_to(bytes, peer)
        {
            self.shared.metrics.dns.replied(DnsResponseCode::Dropped);
            tracing::debug!(%peer, %error, "an answer of DNS was dropped");
        }
    }

    async fn connections(self: Arc<Self>, mut acceptor: Acceptor, limiter: Arc<ConnectionLimiter>) {
        let counted = Arc::new(OpenConnections::default());
        // Dropping it ends them all: whoever asks over a connection that ends asks again.
        let mut open = JoinSet::new();
        loop {
            let (socket, peer) = tokio::select! {
                accepted = acceptor.accept() => accepted,
                Some(_) = open.join_next() => continue,
            };
            // Counted as one of gRPC too: what HTTP keeps for operators stays theirs.
            let admitted = counted
                .admit(peer.ip())
                .and_then(|connection| Ok((connection, limiter.admit(peer, NAME, transport::Protocol::Http2)?)));
            match admitted {
                Ok(admitted) => {
                    let desk = Arc::clone(&self);
                    open.spawn(async move {
                        let _admitted: (OpenConnection, ConnectionPermit) = admitted;
                        if let Err(error) = desk.serve(socket).await {
                            tracing::debug!(%peer, %error, "connection of DNS ended");
                        }
                    });
                }
                Err(why) => {
                    limiter.metrics().connections.rejected(why);
                    drop(socket);
                    acceptor.pace_rejections().await;
                }
            }
        }
    }

    /// Answers the questions of a connection, one after the other, until it ends or is silent.
    async fn serve(&self, mut socket: TcpStream) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let mut packet = Vec::new();
        loop {
            let Ok(length) = timeout(SILENCE, socket.read_u16()).await else { return Ok(()) };
            let length = match length {
                Ok(length) => usize::from(length),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            };
            if length > LONGEST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a question that long is none"));
            }
            packet.resize(length, 0);
            timeout(SLOW, socket.read_exact(&mut packet)).await??;
            let Some(answer) = self.reply_in_time(&packet, DnsTransport::Tcp).await else { return Ok(()) };
            let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
            let framed = [&length.to_be_bytes(), &*answer].concat();
            timeout(SLOW, socket.write_all(&framed)).await??;
        }
    }
}
