//! How much may be open: in all, for each address, for each identity.
//!
//! Connections are counted where they are accepted, streams and unread answers where they are served. Whoever is over a
//! limit is refused at once, and told so; nobody waits for room.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use dashmap::DashMap;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    AnswerSize, LimitError, LimitLevel, Protocol,
    unread_answers::{UnreadBuffers, UnreadBytes, UnreadLimits},
};
use crate::metrics::{Metrics, RejectReason};

/// Of the limits on streams, what watches and lists may use, in percent: the rest is for heartbeats.
const BULK: usize = 90;
/// Of all connections, what HTTP may have, in percent, so that gRPC cannot be shut out by it: programs written for Consul park
/// queries by thousands, a connection each...
const HTTP: usize = 75;
/// ...and that it has to itself, so that operators see what happens where gRPC is full.
const KEPT_FOR_HTTP: usize = 64;
/// Connections that are told at once why they end. Each has a descriptor for some seconds.
const FAREWELLS: usize = 64;

/// A limit for each address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerAddress {
    /// How many.
    pub most: usize,
    /// Whether it holds for this machine itself too.
    pub loopback: bool,
}

/// What connections are held to.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address.
    pub connections_per_address: PerAddress,
    /// Open streams in all.
    pub streams: usize,
    /// Open streams of one address, or of one identity.
    pub streams_per_address: PerAddress,
    /// Open streams of one connection.
    pub streams_per_connection: u32,
    /// Calls that one connection may cancel within a second, beside those that answered calls allow.
    pub cancelled_calls: usize,
    /// Bytes of answers that may wait for their readers in all.
    pub unread_answers: usize,
    /// How long a connection may take to its first request, or to its HTTP/2 SETTINGS.
    pub handshake: Duration,
    /// After how long, give or take a tenth, a connection is asked to come back as another. `None`: never.
    pub age: Option<Duration>,
    /// How long its streams have then.
    pub grace: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: PerAddress { most: 200, loopback: false },
            streams: 100_000,
            streams_per_address: PerAddress { most: 20_000, loopback: false },
            streams_per_connection: 1_024,
            cancelled_calls: 5_000,
            unread_answers: 64 << 20,
            handshake: Duration::from_secs(5),
            age: None,
            grace: Duration::from_secs(30),
        }
    }
}

/// Whose account something is put on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum AccountKey {
    /// An IPv4 address, or the first 64 bits of an IPv6 one: whoever has one of those has them all.
    Address(IpAddr),
    /// A name that a certificate proves.
    Identity(Arc<str>),
}

impl AccountKey {
    fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                let [a, b, c, d, ..] = address.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            address => address,
        })
    }
}

/// What is open on somebody's account.
#[derive(Debug, Default)]
struct Account {
    connections: AtomicUsize,
    streams: AtomicUsize,
    /// Bytes of answers that are made and not taken. Of all, `UnreadBuffers` knows.
    unread: AtomicUsize,
    /// Answers that were taken so far; may wrap around.
    taken: AtomicUsize,
}

/// Lets connections in, and counts them and their streams.
#[derive(Debug)]
pub struct ConnectionLimiter {
    rules: ConnectionLimits,
    metrics: Arc<Metrics>,
    all: Account,
    http: AtomicUsize,
    accounts: DashMap<AccountKey, Arc<Account>>,
    unread: UnreadBuffers,
    farewells: Arc<Semaphore>,
}

impl ConnectionLimiter {
    /// With nothing open.
    #[must_use]
    pub fn new(rules: ConnectionLimits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            rules,
            metrics,
            all: Account::default(),
            http: AtomicUsize::new(0),
            accounts: DashMap::new(),
            unread: UnreadBuffers::default(),
            farewells: Arc::new(Semaphore::new(FAREWELLS)),
        })
    }

    /// What connections are held to.
    #[must_use]
    pub fn rules(&self) -> &ConnectionLimits {
        &self.rules
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn unread_buffers(&self) -> &UnreadBuffers {
        &self.unread
    }

    /// A permit to spend time and a descriptor on telling a peer why its connection ends. `None`: too many are told already.
    pub(super) fn farewell(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.farewells).try_acquire_owned().ok()
    }

    /// Lets a connection in, on this port.
    ///
    /// # Errors
    ///
    /// Which limit it would exceed.
    pub fn admit(
        self: &Arc<Self>,
        peer: SocketAddr,
        port: &'static str,
        protocol: Protocol,
    ) -> Result<ConnectionPermit, RejectReason> {
        // Counted first, asked then: two at once cannot both be the last one. Dropping the ticket takes it back.
        let (address, of_address) = self.open(AccountKey::at(peer.ip()));
        let connections = self.all.connections.fetch_add(1, Relaxed) + 1;
        let http = match protocol {
            Protocol::Http1 => self.http.fetch_add(1, Relaxed) + 1,
            Protocol::Http2 => 0,
        };
        let loopback = peer.ip().to_canonical().is_loopback();
        let open = self.metrics.connections.open(port);
        open.inc();
        let ticket = ConnectionPermit { gate: Arc::clone(self), protocol, address, loopback, open };
        let most = match protocol {
            Protocol::Http1 => self.rules.connections,
            Protocol::Http2 => self.rules.connections - KEPT_FOR_HTTP.min(self.rules.connections / 8),
        };
        if connections > most || http > (self.rules.connections * HTTP / 100).max(1) {
            return Err(RejectReason::All);
        }
        if ticket.exceeds(self.rules.connections_per_address, of_address) {
            return Err(RejectReason::Address);
        }
        Ok(ticket)
    }

    /// Puts a connection on somebody's account, and tells how many those are.
    fn open(&self, who: AccountKey) -> ((AccountKey, Arc<Account>), usize) {
        let entry = self.accounts.entry(who.clone()).or_default();
        let number = entry.connections.fetch_add(1, Relaxed) + 1;
        ((who, Arc::clone(&entry)), number)
    }

    /// Takes a connection off, and forgets who has none. Within the entry's lock, as when one is put on.
    fn close(&self, who: &AccountKey) {
        self.accounts.remove_if(who, |_, account| account.connections.fetch_sub(1, Relaxed) == 1);
    }
}

/// A connection's place among those that are let in. Dropping it makes room.
#[derive(Debug)]
pub struct ConnectionPermit {
    gate: Arc<ConnectionLimiter>,
    protocol: Protocol,
    address: (AccountKey, Arc<Account>),
    loopback: bool,
    open: Gauge,
}

impl ConnectionPermit {
    /// Who let it in.
    #[must_use]
    pub fn gate(&self) -> &Arc<ConnectionLimiter> {
        &self.gate
    }

    /// The account of a name that was proved, for as long as the caller has it.
    #[must_use]
    pub fn identify(&self, name: Arc<str>) -> PeerIdentity {
        let (account, _) = self.gate.open(AccountKey::Identity(Arc::clone(&name)));
        PeerIdentity { account, gate: Arc::clone(&self.gate), name }
    }

    fn exceeds(&self, limit: PerAddress, number: usize) -> bool {
        number > limit.most && (limit.loopback || !self.loopback)
    }

    fn accounts<'a>(&'a self, identity: Option<&'a PeerIdentity>) -> impl Iterator<Item = &'a Account> {
        let identity = identity.map(|identity| &*identity.account.1);
        [&self.gate.all, &*self.address.1].into_iter().chain(identity)
    }

    pub(super) fn stream_opens(&self, identity: Option<&PeerIdentity>) {
        for account in self.accounts(identity) {
            account.streams.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn stream_ends(&self, identity: Option<&PeerIdentity>) {
        for account in self.accounts(identity) {
            account.streams.fetch_sub(1, Relaxed);
        }
    }

    /// Accounts of unread answers: of all, `UnreadBuffers` knows.
    fn readers<'a>(&'a self, identity: Option<&'a PeerIdentity>) -> impl Iterator<Item = &'a Account> {
        self.accounts(identity).skip(1)
    }

    pub(super) fn answer_made(&self, identity: Option<&PeerIdentity>, bytes: usize) {
        for account in self.readers(identity) {
            account.unread.fetch_add(bytes, Relaxed);
        }
    }

    pub(super) fn answer_taken(&self, identity: Option<&PeerIdentity>, bytes: usize) {
        for account in self.readers(identity) {
            account.unread.fetch_sub(bytes, Relaxed);
            account.taken.fetch_add(1, Relaxed);
        }
    }

    /// Answers that were taken so far of those that exceed a limit.
    pub(super) fn answers_taken(&self, busy: LimitError) -> usize {
        if busy.is_of_all() { self.gate.unread.freed_count() } else { self.address.1.taken.load(Relaxed) }
    }

    /// Which limit the open streams exceed, of which the one that asks is the last. `first`: it is one of those that go first.
    pub(super) fn busy(&self, identity: Option<&PeerIdentity>, first: bool) -> Option<LimitError> {
        let ConnectionLimits { streams, streams_per_address, .. } = self.gate.rules;
        let share = |most: usize| if first { most } else { (most * BULK / 100).max(1) };
        let per_address = PerAddress { most: share(streams_per_address.most), ..streams_per_address };
        if self.gate.all.streams.load(Relaxed) > share(streams) {
            return Some(LimitError::Streams(LimitLevel::All, streams));
        }
        if self.exceeds(per_address, self.address.1.streams.load(Relaxed)) {
            return Some(LimitError::Streams(LimitLevel::Address, streams_per_address.most));
        }
        let of_identity = identity?.account.1.streams.load(Relaxed);
        (of_identity > per_address.most).then_some(LimitError::Streams(LimitLevel::Identity, streams_per_address.most))
    }

    /// The limit that leaves no room for another answer of this size. `connection`: bytes that its readers have not taken.
    pub(super) fn full(
        &self,
        identity: Option<&PeerIdentity>,
        connection: usize,
        size: AnswerSize,
    ) -> Option<LimitError> {
        self.unread_limits().exceeded(size, self.unread_bytes(identity, connection))
    }

    /// Whether a connection with so many unread bytes keeps others from their answers.
    pub(super) fn is_pressing(&self, identity: Option<&PeerIdentity>, connection: usize) -> bool {
        self.unread_limits().is_pressing(self.unread_bytes(identity, connection))
    }

    fn unread_limits(&self) -> UnreadLimits {
        UnreadLimits::new(self.gate.rules.unread_answers, self.loopback)
    }

    fn unread_bytes(&self, identity: Option<&PeerIdentity>, connection: usize) -> UnreadBytes {
        let unread = |account: &Account| account.unread.load(Relaxed);
        UnreadBytes {
            connection,
            address: unread(&self.address.1),
            identity: identity.map_or(0, |identity| unread(&identity.account.1)),
            all: self.gate.unread.bytes(),
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.open.dec();
        self.gate.all.connections.fetch_sub(1, Relaxed);
        if self.protocol == Protocol::Http1 {
            self.gate.http.fetch_sub(1, Relaxed);
        }
        self.gate.close(&self.address.0);
    }
}

/// Who a peer has proved to be.
#[derive(Debug)]
pub struct PeerIdentity {
    gate: Arc<ConnectionLimiter>,
    name: Arc<str>,
    account: (AccountKey, Arc<Account>),
}

impl PeerIdentity {
    /// As the certificate says it.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl Drop for PeerIdentity {
    fn drop(&mut self) {
        self.gate.close(&self.account.0);
    }
}

#[cfg(test)]
mod tests;
