//! Connections on their way from an acceptor to a worker.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{Connection, ConnectionPermit, ListenerConfig, WorkerState, serve::serve_accepted};

/// Connection that was admitted within the limits.
#[derive(Debug)]
pub(super) struct AcceptedConnection {
    pub(super) socket: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) permit: ConnectionPermit,
    pub(super) config: Arc<ListenerConfig>,
}

impl AcceptedConnection {
    /// Serves the connection on the current thread, which is that of `worker`, until it ends.
    pub(super) async fn serve(self, worker: Arc<WorkerState>, shutdown: CancellationToken) {
        let Self { socket, peer, permit, config } = self;
        match TcpStream::from_std(socket) {
            Ok(socket) => serve_accepted(socket, Connection::new(peer, &worker, permit), &config, shutdown).await,
            Err(error) => {
                tracing::warn!(%peer, %error, "connection closed: its socket cannot be registered with the poller");
            }
        }
    }
}
