//! Takes connections and hands each to the least loaded worker.
//!
//! `SO_REUSEPORT` would let the kernel choose, by a hash: with few long connections that is as bad as it gets.

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{sync::watch, time::sleep};

use super::Workers;
use crate::clock::Clock;

/// Connections that wait to be accepted; the kernel may allow fewer.
const BACKLOG: i32 = 4_096;
/// A new connection weighs as much as this many streams...
const NEWCOMER: usize = 8;
/// ...for so long: by then it has opened its own.
const NEW: Duration = Duration::from_secs(1);
/// How long to wait when the system gives no connection, mostly for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// How long sent data may go unacknowledged.
#[cfg(target_os = "linux")]
const UNREAD: Duration = Duration::from_secs(30);

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
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
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
    pub fn into_tokio(self) -> io::Result<tokio::net::TcpListener> {
        tokio::net::TcpListener::from_std(self.listener)
    }
}

/// Accepts until the server leaves.
pub async fn accept(
    listener: tokio::net::TcpListener,
    workers: Arc<Workers>,
    clock: Arc<Clock>,
    mut leaving: watch::Receiver<bool>,
) {
    let mut newcomers: Vec<VecDeque<Duration>> = vec![VecDeque::new(); workers.count()];
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = leaving.wait_for(|leaving| *leaving) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                sleep(PAUSE).await;
                continue;
            }
        };
        // A peer that is gone already fails here, and that is its own affair.
        match prepare(stream) {
            Ok(stream) => {
                let now = clock.since_start();
                let worker = choose(&workers, &mut newcomers, now);
                newcomers[worker].push_back(now);
                workers.hand_over(worker, stream, peer);
            }
            Err(error) => tracing::debug!(%peer, %error, "connection lost before it began"),
        }
    }
}

fn prepare(stream: tokio::net::TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    forget_unread(&stream)?;
    stream.into_std()
}

/// What a peer does not take must not stay in the kernel after we gave up on it.
#[cfg(target_os = "linux")]
fn forget_unread(stream: &tokio::net::TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNREAD))
}

/// Other systems give up by themselves, later.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
fn forget_unread(_: &tokio::net::TcpStream) -> io::Result<()> {
    Ok(())
}

fn choose(workers: &Workers, newcomers: &mut [VecDeque<Duration>], now: Duration) -> usize {
    for new in newcomers.iter_mut() {
        while new.front().is_some_and(|since| now.saturating_sub(*since) > NEW) {
            new.pop_front();
        }
    }
    let load = |worker: &usize| workers.open_streams(*worker) + NEWCOMER * newcomers[*worker].len();
    (0..workers.count()).min_by_key(load).unwrap_or(0)
}
