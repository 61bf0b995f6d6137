//! Replicas of a registry, and failover between them.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tonic::transport::Channel;

#[cfg(feature = "tls")]
use super::TlsConfig;
use super::{ClientError, Endpoint, balance::RandomSequence};

/// Source of the channels on which streams are opened, one after the other.
pub(crate) trait StreamConnector: Send + Sync {
    /// Returns the channel for the next stream.
    fn channel(&self) -> Channel;

    /// Takes note that the last stream failed, and returns the error with its cause, if one is known. The next stream is opened
    /// on another server, if there is one.
    fn failed(&self, error: ClientError) -> ClientError {
        error
    }

    /// Returns the address of the server of the last channel. `None` on a connection that the program opened.
    fn server(&self) -> Option<String> {
        None
    }

    /// Returns the number of servers.
    fn server_count(&self) -> usize {
        1
    }
}

impl<F: Fn() -> Channel + Send + Sync> StreamConnector for F {
    fn channel(&self) -> Channel {
        self()
    }
}

/// Replicas of a registry, of which a client uses one: `a:8502,b:8502`.
///
/// Each stream has an order of its own in which it uses them, drawn at random, so that the clients of many programs spread over
/// all replicas. It stays with a replica while that works. After a failure, and when a replica asks for a new stream because it
/// shuts down or a connection has reached its maximum age, the stream is opened at the next one in its order, with the jittered
/// delays of [`Backoff`](super::Backoff); after the last comes the first again. So the clients of a replica that fails spread
/// over all others, and one that comes back gets clients again within the maximum age of a connection.
///
/// All addresses must be replicas of one registry. Separate registries know different instances.
///
/// ```
/// use callboard::client::Servers;
///
/// let servers: Servers = "10.0.0.1:8502, 10.0.0.2:8502".parse()?;
/// assert_eq!(servers.endpoints().len(), 2);
/// assert!("10.0.0.1".parse::<Servers>().is_err(), "the port is missing");
/// # Ok::<_, callboard::client::ClientError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Servers(Arc<[Endpoint]>);

impl Servers {
    /// Parses addresses of replicas that speak TLS, separated by commas. The prefix `https://` is optional.
    ///
    /// # Errors
    ///
    /// [`ClientError::Address`] if an address is invalid or there is none, [`ClientError::Credentials`] if a file cannot be
    /// used.
    #[cfg(feature = "tls")]
    pub fn with_tls(text: &str, tls: &TlsConfig) -> Result<Self, ClientError> {
        Self::parse(text, |address| Endpoint::with_tls(address, tls.clone()))
    }

    /// Returns the replicas as they were listed.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.0
    }

    /// Returns the list of these replicas.
    #[cfg(feature = "server")]
    pub(crate) fn of(endpoints: Vec<Endpoint>) -> Self {
        Self(endpoints.into())
    }

    /// Returns the replicas in random order.
    pub(crate) fn shuffled(&self) -> Vec<Endpoint> {
        let random = RandomSequence::new(getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id())));
        let mut endpoints = self.0.to_vec();
        for end in (1..endpoints.len()).rev() {
            endpoints.swap(end, random.index(end + 1));
        }
        endpoints
    }

    fn parse(text: &str, parse: impl Fn(&str) -> Result<Endpoint, ClientError>) -> Result<Self, ClientError> {
        let addresses = text.split(',').map(str::trim).filter(|address| !address.is_empty());
        let endpoints = addresses.map(parse).collect::<Result<Arc<[_]>, _>>()?;
        if endpoints.is_empty() {
            return Err(ClientError::Address { address: text.to_owned(), reason: "the list has no address" });
        }
        Ok(Self(endpoints))
    }

    /// Returns the connector of one stream. Each stream has its own, so that a failed stream does not move the others.
    pub(crate) fn connector(&self) -> Box<dyn StreamConnector> {
        Box::new(ServerSelector { order: self.shuffled(), failures: AtomicUsize::new(0) })
    }
}

impl FromStr for Servers {
    type Err = ClientError;

    /// Parses addresses separated by commas, each as [`Endpoint`] does.
    fn from_str(text: &str) -> Result<Self, ClientError> {
        Self::parse(text, str::parse)
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, endpoint) in self.0.iter().enumerate() {
            write!(f, "{}{endpoint}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl From<Endpoint> for Servers {
    fn from(endpoint: Endpoint) -> Self {
        Self(Arc::new([endpoint]))
    }
}

impl From<&Endpoint> for Servers {
    fn from(endpoint: &Endpoint) -> Self {
        endpoint.clone().into()
    }
}

impl From<&Servers> for Servers {
    fn from(servers: &Servers) -> Self {
        servers.clone()
    }
}

/// Replica that a stream uses, and those that it can use instead.
#[derive(Debug)]
struct ServerSelector {
    /// At least one.
    order: Vec<Endpoint>,
    /// Number of failures, whose remainder is the index of the replica in use.
    failures: AtomicUsize,
}

impl ServerSelector {
    fn endpoint(&self) -> &Endpoint {
        &self.order[self.failures.load(Ordering::Relaxed) % self.order.len()]
    }
}

impl StreamConnector for ServerSelector {
    fn channel(&self) -> Channel {
        self.endpoint().channel()
    }

    fn failed(&self, error: ClientError) -> ClientError {
        let error = self.endpoint().explain(error);
        self.failures.fetch_add(1, Ordering::Relaxed);
        error
    }

    fn server(&self) -> Option<String> {
        Some(self.endpoint().to_string())
    }

    fn server_count(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn list_is_separated_by_commas() {
        let servers: Servers = " a:8502, http://b:8503/ ,".parse().unwrap();
        assert_eq!(servers.to_string(), "a:8502,b:8503");
        let error = " , ".parse::<Servers>().unwrap_err().to_string();
        assert_eq!(
            error,
            "` , ` is not the address of a registry: the list has no address; write host:port, as in 127.0.0.1:8502"
        );
        assert!("a:8502,b".parse::<Servers>().is_err());
    }

    #[test]
    fn stream_uses_every_replica_before_one_again() {
        let servers: Servers = "a:1,b:2,c:3".parse().unwrap();
        let connector = servers.connector();
        let use_next = || {
            let server = connector.server().unwrap();
            connector.failed(ClientError::StreamEnded);
            server
        };
        let round: Vec<_> = (0..3).map(|_| use_next()).collect();
        assert_eq!(round.iter().collect::<BTreeSet<_>>().len(), 3, "{round:?}");
        assert_eq!((0..3).map(|_| use_next()).collect::<Vec<_>>(), round, "after the last comes the first again");
    }

    #[test]
    fn stream_leaves_a_replica_that_asks_for_it() {
        let servers: Servers = "a:1,b:2".parse().unwrap();
        let connector = servers.connector();
        let before = connector.server();
        connector.failed(ClientError::GoingAway);
        assert_ne!(connector.server(), before);
    }

    #[test]
    fn streams_and_those_of_a_failed_replica_spread_over_all() {
        let servers: Servers = "a:1,b:2,c:3".parse().unwrap();
        let (mut first, mut second) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..600 {
            let connector = servers.connector();
            let server = connector.server().unwrap();
            if server == "a:1" {
                connector.failed(ClientError::StreamEnded);
                *second.entry(connector.server().unwrap()).or_insert(0) += 1;
            }
            *first.entry(server).or_insert(0) += 1;
        }
        // Each would be 200, with a standard deviation of 12, and of 7 for the two parts of a third.
        assert!(first.len() == 3 && first.values().all(|count| (120..280).contains(count)), "{first:?}");
        assert!(second.len() == 2 && second.values().all(|count| (50..150).contains(count)), "{second:?}");
    }
}
