//! Addresses of registries, and connections to them.

#[cfg(feature = "tls")]
use std::sync::Arc;
use std::{fmt, str::FromStr, time::Duration};

#[cfg(feature = "tls")]
use rustls::{ClientConfig, pki_types::ServerName};
use tonic::transport::{self, Channel};

use super::{ClientError, connect_error::ConnectErrorCell};
#[cfg(feature = "tls")]
use super::{TlsConfig, connector::Connector};

/// Timeout of the attempt to open a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval between pings. A server that vanished without closing the connection is noticed after this interval and
/// [`PING_TIMEOUT`], on an idle watch too.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const USER_AGENT: &str = concat!("callboard/", env!("CARGO_PKG_VERSION"));

/// Address of a registry: `host:port`, `http://host:port`, or `https://host:port` with TLS.
#[derive(Debug, Clone)]
pub struct Endpoint {
    address: String,
    transport: transport::Endpoint,
    connect_error: ConnectErrorCell,
    #[cfg(feature = "tls")]
    tls: Option<EndpointTls>,
}

/// TLS settings of an endpoint.
#[cfg(feature = "tls")]
#[derive(Debug, Clone)]
struct EndpointTls {
    config: TlsConfig,
    name: ServerName<'static>,
    /// Configuration read when the endpoint was created, used when the files cannot be read later.
    initial: Arc<ClientConfig>,
}

impl Endpoint {
    /// Parses the address of a registry that speaks TLS. The prefix `https://` is optional.
    ///
    /// # Errors
    ///
    /// [`ClientError::Address`] if the address is invalid, [`ClientError::Credentials`] if a file cannot be used.
    #[cfg(feature = "tls")]
    pub fn with_tls(text: &str, tls: TlsConfig) -> Result<Self, ClientError> {
        let EndpointAddress { authority, scheme } = EndpointAddress::parse(text)?;
        if scheme == Some(EndpointScheme::Http) {
            return Err(invalid(text, "http:// means no TLS, but TLS is configured"));
        }
        let address = format!("https://{authority}");
        let transport = transport(&address).map_err(|reason| invalid(text, reason))?;
        let host = transport.uri().host().unwrap_or_default();
        let name = tls.name(host).ok_or_else(|| invalid(text, "the server's name cannot occur in a certificate"))?;
        let tls = EndpointTls { name, initial: tls.read()?, config: tls };
        Ok(Self { address, transport, connect_error: ConnectErrorCell::default(), tls: Some(tls) })
    }

    /// Checks the syntax of an address.
    ///
    /// # Errors
    ///
    /// [`ClientError::Address`].
    pub fn check(text: &str) -> Result<(), ClientError> {
        let EndpointAddress { authority, .. } = EndpointAddress::parse(text)?;
        transport(&format!("http://{authority}")).map(drop).map_err(|reason| invalid(text, reason))
    }

    /// Returns a channel that connects at the first call and reconnects when the connection breaks. Must be called within a
    /// tokio runtime.
    ///
    /// The TLS files are read again for each channel, so that a certificate can be renewed during a registration or a watch.
    /// If they cannot be read, those read first are used.
    #[must_use]
    pub fn channel(&self) -> Channel {
        #[cfg(feature = "tls")]
        {
            let tls = self.tls.as_ref().map(|EndpointTls { config, name, initial }| {
                let config = config.read().unwrap_or_else(|error| {
                    tracing::warn!(%error, "cannot read the TLS files again: the certificates read first stay in use");
                    Arc::clone(initial)
                });
                (config, name.clone())
            });
            self.transport.connect_with_connector_lazy(Connector::new(tls, self.connect_error.clone()))
        }
        #[cfg(not(feature = "tls"))]
        self.transport.connect_lazy()
    }

    /// Replaces a transport error by the TLS error that caused it, if one is known. A [`Channel`] reports that a connection
    /// was closed, but rarely the reason, for example a missing certificate.
    #[must_use]
    pub fn explain(&self, error: ClientError) -> ClientError {
        self.connect_error.explain(error)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl FromStr for Endpoint {
    type Err = ClientError;

    /// Parses an address. With `https://`, the authorities of the system's trust store are trusted.
    fn from_str(text: &str) -> Result<Self, ClientError> {
        let EndpointAddress { authority, scheme } = EndpointAddress::parse(text)?;
        if scheme == Some(EndpointScheme::Https) {
            #[cfg(feature = "tls")]
            return Self::with_tls(text, TlsConfig::default());
            #[cfg(not(feature = "tls"))]
            return Err(invalid(text, "this program was built without callboard's feature `tls`"));
        }
        Ok(Self {
            address: authority.to_owned(),
            transport: transport(&format!("http://{authority}")).map_err(|reason| invalid(text, reason))?,
            connect_error: ConnectErrorCell::default(),
            #[cfg(feature = "tls")]
            tls: None,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndpointScheme {
    Http,
    Https,
}

/// Parsed address.
#[derive(Debug)]
struct EndpointAddress<'text> {
    scheme: Option<EndpointScheme>,
    authority: &'text str,
}

impl<'text> EndpointAddress<'text> {
    fn parse(text: &'text str) -> Result<Self, ClientError> {
        let invalid = |reason| invalid(text, reason);
        let schemes = [("http://", EndpointScheme::Http), ("https://", EndpointScheme::Https)];
        let found = schemes.iter().find_map(|(start, scheme)| Some((text.strip_prefix(start)?, Some(*scheme))));
        let (address, scheme) = found.unwrap_or((text, None));
        let address = address.strip_suffix('/').unwrap_or(address);
        if address.contains("://") {
            return Err(invalid("only http and https are supported"));
        }
        let (host, port) = address.rsplit_once(':').ok_or_else(|| invalid("the port is missing"))?;
        if host.is_empty() {
            return Err(invalid("the host is missing"));
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(invalid("an IPv6 address needs brackets"));
        }
        if port.parse::<u16>().map_or(true, |port| port == 0) {
            return Err(invalid("the port is not a number from 1 to 65535"));
        }
        if address.contains(['/', '?', '#', '@']) {
            return Err(invalid("it has more than a host and a port"));
        }
        Ok(Self { scheme, authority: address })
    }
}

fn invalid(text: &str, reason: &'static str) -> ClientError {
    ClientError::Address { address: text.to_owned(), reason }
}

fn transport(uri: &str) -> Result<transport::Endpoint, &'static str> {
    let endpoint = transport::Endpoint::from_shared(uri.to_owned())
        .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
        .map_err(|_| "the host is malformed")?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        // hyper counts a connection as idle when nothing can open another stream on it, although a watch is open.
        .keep_alive_while_idle(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_a_host_and_a_port() {
        for (text, address) in [
            ("127.0.0.1:8502", "127.0.0.1:8502"),
            ("http://registry.internal:80/", "registry.internal:80"),
            ("[::1]:8502", "[::1]:8502"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), address);
        }
    }

    #[test]
    fn invalid_address_is_rejected_with_a_hint() {
        for (text, reason) in [
            ("", "the port is missing"),
            ("registry", "the port is missing"),
            (":8502", "the host is missing"),
            ("::1:8502", "brackets"),
            ("host:0", "1 to 65535"),
            ("host:99999", "1 to 65535"),
            ("host:http", "1 to 65535"),
            ("ftp://host:21", "only http and https"),
            ("https://host", "the port is missing"),
            ("user@host:80", "more than a host"),
            ("http://host/path:80", "more than a host"),
            ("ho st:80", "malformed"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            assert!(error.starts_with(&format!("`{text}`")), "{error}");
            assert!(error.ends_with("as in 127.0.0.1:8502"), "{error}");
        }
    }
}
