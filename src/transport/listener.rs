//! Bound addresses, and how the kernel is to treat their connections.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

/// Connections that wait to be accepted; the kernel may allow fewer.
const BACKLOG: i32 = 4_096;
/// Bytes that the kernel keeps of what a peer has not acknowledged; it doubles them for its own use.
const SENT: usize = 256 * 1024;
/// Bytes that it takes beyond what it has sent: what a peer that reads nothing leaves there.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 16 * 1024;
/// How long sent data may go unacknowledged, or unread.
#[cfg(target_os = "linux")]
const UNREAD: std::time::Duration = std::time::Duration::from_secs(30);

/// A bound address.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds an address; port 0 lets the system choose.
    ///
    /// # Errors
    ///
    /// When it is taken, or not an address of this host.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Its connections inherit it.
        socket.set_send_buffer_size(SENT)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// A socket that somebody else has opened, treated as one of our own.
    ///
    /// # Errors
    ///
    /// When it does not listen, or the system does not let it be set up.
    pub fn adopt(listener: TcpListener) -> io::Result<Self> {
        let socket = SockRef::from(&listener);
        if !listens(&socket)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
        }
        socket.set_nonblocking(true)?;
        socket.set_send_buffer_size(SENT)?;
        // Listening again changes nothing but how many may wait.
        socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The address, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For tokio.
    ///
    /// # Errors
    ///
    /// When the poller does not take it.
    pub fn for_tokio(self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.listener)
    }
}

#[cfg(target_os = "linux")]
fn listens(socket: &SockRef<'_>) -> io::Result<bool> {
    socket.is_listener()
}

/// Other systems say so when the first connection is to be accepted.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
fn listens(_: &SockRef<'_>) -> io::Result<bool> {
    Ok(true)
}

/// Sets a new connection up: small messages go at once, and what a peer does not take does not stay in the kernel.
pub(super) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    bound(socket)
}

#[cfg(target_os = "linux")]
fn bound(socket: &TcpStream) -> io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_tcp_user_timeout(Some(UNREAD))
}

/// Other systems give up by themselves, later.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
fn bound(_: &TcpStream) -> io::Result<()> {
    Ok(())
}
