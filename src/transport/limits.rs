//! Limits on connections, streams and unread answers: in total, for each address, and for each identity.
//!
//! Connections are counted where they are accepted; streams and unread answers where they are served. A request over a limit is rejected at once with the
//! reason; it does not wait for capacity.

mod account;
mod permit;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Protocol, unread_limits::UnreadBuffers};
use crate::metrics::{Metrics, RejectReason};
use account::{Account, AccountKey, AccountRef};
pub use permit::{ConnectionPermit, PeerIdentity};

/// Percentage of all connections that HTTP may use, so that gRPC can still connect: programs written for Consul keep thousands of blocking queries
/// open, each on a connection of its own.
const MAX_HTTP_PERCENT: usize = 75;
/// Number of connections that are reserved for HTTP, so that operators can read metrics when gRPC connections have
/// reached the limit.
const RESERVED_HTTP_CONNECTIONS: usize = 64;
/// Maximum number of connections that are being closed with a reason. Each holds a descriptor for some seconds.
const MAX_EXPLAINED_CLOSES: usize = 64;

/// Limit for each address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerAddress {
    /// Maximum number.
    pub max: usize,
    /// True if the limit also applies to loopback addresses, which many programs share.
    pub loopback: bool,
}

/// Limits of connections.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Connections in total.
    pub connections: usize,
    /// Connections from one address.
    pub connections_per_address: PerAddress,
    /// Open streams in total.
    pub streams: usize,
    /// Open streams of one address, or of one identity.
    pub streams_per_address: PerAddress,
    /// Open streams of one connection.
    pub streams_per_connection: u32,
    /// Calls that one connection may cancel within a second, in addition to those that answered calls allow.
    pub cancelled_calls: usize,
    /// Bytes of unread answers in total.
    pub unread_answers: usize,
    /// Time within which a connection must send its first request, or its HTTP/2 SETTINGS.
    pub handshake: Duration,
    /// Maximum age of a connection before GOAWAY (±10 %). `None`: no maximum.
    pub age: Option<Duration>,
    /// Time that the streams of a connection have to end after the GOAWAY.
    pub grace: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: PerAddress { max: 200, loopback: false },
            streams: 100_000,
            streams_per_address: PerAddress { max: 20_000, loopback: false },
            streams_per_connection: 1_024,
            cancelled_calls: 5_000,
            unread_answers: 64 << 20,
            handshake: Duration::from_secs(5),
            age: None,
            grace: Duration::from_secs(30),
        }
    }
}

/// Admits connections, and counts them and their streams.
#[derive(Debug)]
pub struct ConnectionLimiter {
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    all: Account,
    http: AtomicUsize,
    accounts: DashMap<AccountKey, Arc<Account>>,
    unread: UnreadBuffers,
    explained_closes: Arc<Semaphore>,
}

impl ConnectionLimiter {
    /// Creates a limiter without connections.
    #[must_use]
    pub fn new(limits: ConnectionLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            metrics,
            all: Account::default(),
            http: AtomicUsize::new(0),
            accounts: DashMap::new(),
            unread: UnreadBuffers::default(),
            explained_closes: Arc::new(Semaphore::new(MAX_EXPLAINED_CLOSES)),
        })
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &ConnectionLimits {
        &self.limits
    }

    /// Metrics of connections.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn unread_buffers(&self) -> &UnreadBuffers {
        &self.unread
    }

    /// Returns a permit to close a connection with a reason, which takes time and a descriptor. `None`: too many connections are being
    /// closed with a reason.
    pub(super) fn permit_explained_close(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.explained_closes).try_acquire_owned().ok()
    }

    /// Admits a connection to this listener.
    ///
    /// # Errors
    ///
    /// The limit that the connection would exceed.
    pub fn admit(
        self: &Arc<Self>,
        peer: SocketAddr,
        listener: &'static str,
        protocol: Protocol,
    ) -> Result<ConnectionPermit, RejectReason> {
        // Counted before the comparison, so that of two connections at the same time only one can reach the limit.
        // Dropping the permit undoes the count.
        let (address, of_address) = self.open(AccountKey::of_address(peer.ip()));
        let connections = self.all.connections.fetch_add(1, Relaxed) + 1;
        let http = match protocol {
            Protocol::Http1 => self.http.fetch_add(1, Relaxed) + 1,
            Protocol::Http2 => 0,
        };
        let permit = ConnectionPermit::new(self, peer, listener, protocol, address);
        let most = match protocol {
            Protocol::Http1 => self.limits.connections,
            Protocol::Http2 => self.limits.connections - RESERVED_HTTP_CONNECTIONS.min(self.limits.connections / 8),
        };
        if connections > most || http > (self.limits.connections * MAX_HTTP_PERCENT / 100).max(1) {
            return Err(RejectReason::All);
        }
        if permit.exceeds(self.limits.connections_per_address, of_address) {
            return Err(RejectReason::Address);
        }
        Ok(permit)
    }

    /// Adds a connection to an account. Returns the account and the number of its connections.
    fn open(&self, key: AccountKey) -> (AccountRef, usize) {
        let entry = self.accounts.entry(key.clone()).or_default();
        let connections = entry.connections.fetch_add(1, Relaxed) + 1;
        (AccountRef { key, account: Arc::clone(&entry) }, connections)
    }

    /// Removes a connection from an account, and removes the account with its last connection. Runs under the lock of the
    /// entry, as in `open`.
    fn close(&self, key: &AccountKey) {
        self.accounts.remove_if(key, |_, account| account.connections.fetch_sub(1, Relaxed) == 1);
    }
}

#[cfg(test)]
mod tests;
