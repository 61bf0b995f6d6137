//! Bound addresses, and the socket options of their connections.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

/// Maximum number of connections that wait to be accepted. The kernel may allow fewer.
const BACKLOG: i32 = 4_096;
/// Size of the send buffer in the kernel, which doubles it for its own use.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Maximum number of unsent bytes that the kernel accepts: those that stay there when a peer reads nothing.
#[cfg(target_os = "linux")]
const MAX_UNSENT_BYTES: u32 = 16 * 1024;
/// Time after which the kernel closes a connection whose data is not acknowledged, or not read.
#[cfg(target_os = "linux")]
const USER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// A bound address.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds an address; port 0 lets the operating system choose.
    ///
    /// # Errors
    ///
    /// When the address is taken, or is not an address of this host.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Accepted sockets inherit it.
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Uses a listening socket that another process has opened.
    ///
    /// # Errors
    ///
    /// When the socket does not listen, or its options cannot be set.
    pub fn adopt(listener: TcpListener) -> io::Result<Self> {
        let socket = SockRef::from(&listener);
        if !listens(&socket)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
        }
        socket.set_nonblocking(true)?;
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        // Listening again only changes the length of the queue.
        socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Bound address, with the port that the operating system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Registers the listener with the poller of the current runtime.
    ///
    /// # Errors
    ///
    /// When the listener cannot be registered.
    pub fn for_tokio(self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.listener)
    }
}

#[cfg(target_os = "linux")]
fn listens(socket: &SockRef<'_>) -> io::Result<bool> {
    socket.is_listener()
}

/// Other systems report a socket that does not listen when the first connection is accepted.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
fn listens(_: &SockRef<'_>) -> io::Result<bool> {
    Ok(true)
}

/// Sets the options of an accepted socket: small messages are sent at once, and data that a peer does not read does not stay in the kernel.
pub(super) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    bound_unsent(socket)
}

#[cfg(target_os = "linux")]
fn bound_unsent(socket: &TcpStream) -> io::Result<()> {
    let socket = socket2::SockRef::from(socket);
    socket.set_tcp_notsent_lowat(MAX_UNSENT_BYTES)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// Other systems close such connections later, without this option.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
fn bound_unsent(_: &TcpStream) -> io::Result<()> {
    Ok(())
}
