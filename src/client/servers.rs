//! Lists of registries, and failover between them.

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
use super::{ClientError, Endpoint};

/// Source of the channels on which streams are opened, one after the other.
pub(crate) trait StreamConnector: Send + Sync {
    /// Returns the channel for the next stream.
    fn channel(&self) -> Channel;

    /// Takes note that the last stream failed, and returns the error with its cause, if one is known.
    fn failed(&self, error: ClientError) -> ClientError {
        error
    }
}

impl<F: Fn() -> Channel + Send + Sync> StreamConnector for F {
    fn channel(&self) -> Channel {
        self()
    }
}

/// Registries of which a client uses one: `a:8502,b:8502`.
///
/// A stream uses the first registry that can be reached, and stays with it while it works. After a failure it is opened at
/// the next one, with the jittered delays of [`Backoff`](super::Backoff); after the last comes the first again. A registry
/// that asks for a new stream, because a connection has reached its maximum age, is tried once more before the next.
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
    /// Parses addresses of registries that speak TLS, separated by commas. The prefix `https://` is optional.
    ///
    /// # Errors
    ///
    /// [`ClientError::Address`] if an address is invalid or there is none, [`ClientError::Credentials`] if a file cannot be
    /// used.
    #[cfg(feature = "tls")]
    pub fn with_tls(text: &str, tls: &TlsConfig) -> Result<Self, ClientError> {
        Self::parse(text, |address| Endpoint::with_tls(address, tls.clone()))
    }

    /// Returns the registries in the order in which they are tried.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.0
    }

    fn parse(text: &str, parse: impl Fn(&str) -> Result<Endpoint, ClientError>) -> Result<Self, ClientError> {
        let addresses = text.split(',').map(str::trim).filter(|address| !address.is_empty());
        let endpoints = addresses.map(parse).collect::<Result<Arc<[_]>, _>>()?;
        if endpoints.is_empty() {
            return Err(ClientError::Address { address: text.to_owned(), reason: "the list has no address" });
        }
        Ok(Self(endpoints))
    }

    /// Returns the connector of one stream. Each stream has its own, so that one that fails does not move the others.
    pub(crate) fn connector(&self) -> Box<dyn StreamConnector> {
        Box::new(ServerSelector { servers: self.clone(), current: AtomicUsize::new(0) })
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

/// Registry that a stream uses, and those that it can use instead.
#[derive(Debug)]
struct ServerSelector {
    servers: Servers,
    /// Number of failures, whose remainder is the index of the registry in use.
    current: AtomicUsize,
}

impl ServerSelector {
    fn endpoint(&self) -> &Endpoint {
        // A list is never empty.
        &self.servers.0[self.current.load(Ordering::Relaxed) % self.servers.0.len()]
    }
}

impl StreamConnector for ServerSelector {
    fn channel(&self) -> Channel {
        self.endpoint().channel()
    }

    fn failed(&self, error: ClientError) -> ClientError {
        let error = self.endpoint().explain(error);
        // A registry that goes away for good refuses the next connection.
        if !matches!(error, ClientError::GoingAway) {
            self.current.fetch_add(1, Ordering::Relaxed);
        }
        error
    }
}

#[cfg(test)]
mod tests {
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
    fn stream_moves_to_the_next_registry_after_a_failure_only() {
        let servers: Servers = "a:1,b:2".parse().unwrap();
        let selector = ServerSelector { servers, current: AtomicUsize::new(0) };
        let current = || selector.endpoint().to_string();
        assert_eq!(current(), "a:1");
        selector.failed(ClientError::GoingAway);
        assert_eq!(current(), "a:1", "a connection that has reached its maximum age is no failure");
        selector.failed(ClientError::StreamEnded);
        assert_eq!(current(), "b:2");
        selector.failed(ClientError::Transport("connection refused".to_owned()));
        assert_eq!(current(), "a:1");
    }
}
