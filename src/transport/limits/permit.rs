//! Permits of admitted connections, and the counts that they keep.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use prometheus_client::metrics::gauge::Gauge;

use super::{
    ConnectionLimiter, ConnectionLimits, PerAddress,
    account::{Account, AccountKey, AccountRef},
};
use crate::transport::{
    AnswerSize, LimitError, LimitLevel, Protocol,
    unread_limits::{UnreadBytes, UnreadLimits},
};

/// Percentage of the limits on streams that watches and lists may use. The rest is kept for heartbeats.
const BULK_STREAM_PERCENT: usize = 90;

/// Permit of an admitted connection. Dropping it removes the connection from all counts.
#[derive(Debug)]
pub struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    protocol: Protocol,
    address: AccountRef,
    is_loopback: bool,
    open_connections: Gauge,
}

impl ConnectionPermit {
    /// Creates the permit of a connection that the limiter has already counted.
    pub(super) fn new(
        limiter: &Arc<ConnectionLimiter>,
        peer: SocketAddr,
        listener: &'static str,
        protocol: Protocol,
        address: AccountRef,
    ) -> Self {
        let is_loopback = peer.ip().to_canonical().is_loopback();
        let open_connections = limiter.metrics.connections.open(listener);
        open_connections.inc();
        Self { limiter: Arc::clone(limiter), protocol, address, is_loopback, open_connections }
    }

    /// The limiter that admitted the connection.
    #[must_use]
    pub fn limiter(&self) -> &Arc<ConnectionLimiter> {
        &self.limiter
    }

    /// Opens the account of an identity, until the returned value is dropped.
    #[must_use]
    pub fn identify(&self, name: Arc<str>) -> PeerIdentity {
        let (account, _) = self.limiter.open(AccountKey::Identity(Arc::clone(&name)));
        PeerIdentity { account, limiter: Arc::clone(&self.limiter), name }
    }

    pub(super) fn exceeds(&self, limit: PerAddress, number: usize) -> bool {
        number > limit.max && (limit.loopback || !self.is_loopback)
    }

    fn accounts<'a>(&'a self, identity: Option<&'a PeerIdentity>) -> impl Iterator<Item = &'a Account> {
        let identity = identity.map(|identity| &*identity.account.account);
        [&self.limiter.all, &*self.address.account].into_iter().chain(identity)
    }

    pub(in crate::transport) fn stream_opens(&self, identity: Option<&PeerIdentity>) {
        for account in self.accounts(identity) {
            account.streams.fetch_add(1, Relaxed);
        }
    }

    pub(in crate::transport) fn stream_ends(&self, identity: Option<&PeerIdentity>) {
        for account in self.accounts(identity) {
            account.streams.fetch_sub(1, Relaxed);
        }
    }

    /// Returns the accounts of unread answers, without the total, which `UnreadBuffers` keeps.
    fn unread_accounts<'a>(&'a self, identity: Option<&'a PeerIdentity>) -> impl Iterator<Item = &'a Account> {
        self.accounts(identity).skip(1)
    }

    pub(in crate::transport) fn answer_made(&self, identity: Option<&PeerIdentity>, bytes: usize) {
        for account in self.unread_accounts(identity) {
            account.unread.fetch_add(bytes, Relaxed);
        }
    }

    pub(in crate::transport) fn answer_taken(&self, identity: Option<&PeerIdentity>, bytes: usize) {
        for account in self.unread_accounts(identity) {
            account.unread.fetch_sub(bytes, Relaxed);
            account.taken.fetch_add(1, Relaxed);
        }
    }

    /// Number of answers read so far among those that count towards an exceeded limit; may wrap around.
    pub(in crate::transport) fn answers_taken(&self, exceeded: LimitError) -> usize {
        if exceeded.is_of_registry() {
            self.limiter.unread.freed_count()
        } else {
            self.address.account.taken.load(Relaxed)
        }
    }

    /// Returns the limit that the open streams exceed, including the caller's, which is the newest. `preferred`: true if the stream
    /// may use the whole limit.
    pub(in crate::transport) fn exceeded_stream_limit(
        &self,
        identity: Option<&PeerIdentity>,
        preferred: bool,
    ) -> Option<LimitError> {
        let ConnectionLimits { streams, streams_per_address, .. } = self.limiter.limits;
        let usable = |most: usize| if preferred { most } else { (most * BULK_STREAM_PERCENT / 100).max(1) };
        let per_address = PerAddress { max: usable(streams_per_address.max), ..streams_per_address };
        if self.limiter.all.streams.load(Relaxed) > usable(streams) {
            return Some(LimitError::Streams(LimitLevel::Registry, streams));
        }
        if self.exceeds(per_address, self.address.account.streams.load(Relaxed)) {
            return Some(LimitError::Streams(LimitLevel::Address, streams_per_address.max));
        }
        let of_identity = identity?.account.account.streams.load(Relaxed);
        (of_identity > per_address.max).then_some(LimitError::Streams(LimitLevel::Identity, streams_per_address.max))
    }

    /// Returns the limit that leaves no memory for another answer of this size. `connection`: unread bytes of the
    /// connection.
    pub(in crate::transport) fn exceeded_unread_limit(
        &self,
        identity: Option<&PeerIdentity>,
        connection: usize,
        size: AnswerSize,
    ) -> Option<LimitError> {
        self.unread_limits().exceeded(size, self.unread_bytes(identity, connection))
    }

    /// Returns whether a connection with this number of unread bytes uses memory that others need.
    pub(in crate::transport) fn keeps_memory_from_others(
        &self,
        identity: Option<&PeerIdentity>,
        connection: usize,
    ) -> bool {
        self.unread_limits().are_pressed_by(self.unread_bytes(identity, connection))
    }

    fn unread_limits(&self) -> UnreadLimits {
        UnreadLimits::new(self.limiter.limits.unread_answers, self.is_loopback)
    }

    fn unread_bytes(&self, identity: Option<&PeerIdentity>, connection: usize) -> UnreadBytes {
        let unread = |account: &Account| account.unread.load(Relaxed);
        UnreadBytes {
            connection,
            address: unread(&self.address.account),
            identity: identity.map_or(0, |identity| unread(&identity.account.account)),
            all: self.limiter.unread.bytes(),
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.open_connections.dec();
        self.limiter.all.connections.fetch_sub(1, Relaxed);
        if self.protocol == Protocol::Http1 {
            self.limiter.http.fetch_sub(1, Relaxed);
        }
        self.limiter.close(&self.address.key);
    }
}

/// Name that a peer's certificate proves, with its account.
#[derive(Debug)]
pub struct PeerIdentity {
    limiter: Arc<ConnectionLimiter>,
    name: Arc<str>,
    account: AccountRef,
}

impl PeerIdentity {
    /// Name as the certificate gives it.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Drop for PeerIdentity {
    fn drop(&mut self) {
        self.limiter.close(&self.account.key);
    }
}
