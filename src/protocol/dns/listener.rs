//! Sockets: one for UDP and one for TCP, on the same port.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;

use super::{
    authority::Authority,
    server::{DnsServer, LISTENER_NAME},
};
use crate::{
    app::ServerContext,
    transport::{Acceptor, ConnectionLimiter, Listener},
};

/// Maximum number of attempts to find a port that is free for UDP and TCP.
const MAX_BIND_ATTEMPTS: usize = 16;
/// Bytes of the kernel's buffers for received requests and for responses, enough for a burst of thousands.
const UDP_BUFFER_BYTES: usize = 1024 * 1024;

/// Bound sockets of the DNS server.
#[derive(Debug)]
pub struct DnsListener {
    udp: UdpSocket,
    tcp: Listener,
}

impl DnsListener {
    /// Binds an address for UDP and TCP. With port 0, the operating system chooses a port that is free for both.
    ///
    /// # Errors
    ///
    /// If the address is taken for UDP or TCP, or is not an address of this host.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let mut attempts = if address.port() == 0 { MAX_BIND_ATTEMPTS } else { 1 };
        loop {
            let tcp = Listener::bind(address)?;
            attempts -= 1;
            match bind_udp(tcp.address()) {
                Ok(udp) => return Ok(Self { udp, tcp }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the bound address, with the actual port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.tcp.address()
    }

    /// Returns the tasks that answer until `shutdown` is cancelled: the first one over UDP, the second one over TCP.
    ///
    /// # Errors
    ///
    /// If the poller does not take the sockets, or there is no descriptor to keep in reserve.
    pub fn open(
        self,
        context: &ServerContext,
        authority: Authority,
        limiter: Arc<ConnectionLimiter>,
        shutdown: &CancellationToken,
    ) -> io::Result<(impl Future<Output = ()> + Send + 'static, impl Future<Output = ()> + Send + 'static)> {
        let socket = tokio::net::UdpSocket::from_std(self.udp)?;
        let acceptor = Acceptor::new(self.tcp, LISTENER_NAME, Arc::clone(&limiter))?;
        let ServerContext { engine, clock, metrics, watchers, .. } = context;
        let rates = [Arc::clone(&watchers.dns_udp), Arc::clone(&watchers.dns_tcp)];
        let server = Arc::new(DnsServer::new(engine, clock, metrics, rates, authority));
        let udp = Arc::clone(&server).serve_udp(socket);
        let tcp = server.serve_tcp(acceptor, limiter);
        let (stop_udp, stop_tcp) = (shutdown.clone(), shutdown.clone());
        Ok((
            async move {
                stop_udp.run_until_cancelled(udp).await;
            },
            async move {
                stop_tcp.run_until_cancelled(tcp).await;
            },
        ))
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // The operating system may set less.
    socket.set_recv_buffer_size(UDP_BUFFER_BYTES)?;
    socket.set_send_buffer_size(UDP_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
