//! A server in this process.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use callboard::{config::Config, server::Server};

use super::{Peer, within};

/// A server on ports of its own. Dropping it ends it without a goodbye.
#[derive(Debug)]
pub struct House {
    server: Server,
}

impl House {
    /// Two workers, bookmarks often, and no settling.
    pub fn open() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            grpc: "127.0.0.1:0".parse().unwrap(),
            http: "127.0.0.1:0".parse().unwrap(),
            workers: NonZeroUsize::new(2).unwrap(),
            bookmark_interval: Duration::from_millis(100),
            settle: Duration::ZERO,
            ..Config::default()
        };
        change(&mut config);
        Self { server: Server::start(&config).unwrap() }
    }

    pub fn grpc(&self) -> SocketAddr {
        self.server.grpc()
    }

    pub fn http(&self) -> SocketAddr {
        self.server.http()
    }

    /// A connection of its own.
    pub async fn peer(&self) -> Peer {
        Peer::connect(self.grpc()).await
    }

    /// What a termination signal does.
    pub async fn leave(self) {
        within("the server leaves", self.server.shutdown()).await;
    }
}
