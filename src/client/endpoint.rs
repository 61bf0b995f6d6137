//! Where a registry is, and connections to it.

#[cfg(feature = "tls")]
use std::sync::Arc;
use std::{fmt, str::FromStr, time::Duration};

#[cfg(feature = "tls")]
use rustls::{ClientConfig, pki_types::ServerName};
use tonic::transport::{self, Channel};

use super::{ClientError, connect_error::ConnectErrorCell};
#[cfg(feature = "tls")]
use super::{TlsConfig, connector::Connector};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A server that went away without a word is noticed after this and [`PING_TIMEOUT`], on an idle watch too.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const USER_AGENT: &str = concat!("callboard/", env!("CARGO_PKG_VERSION"));

/// The gRPC address of a registry: `host:port`, `http://host:port`, or `https://host:port` for one that speaks TLS.
#[derive(Debug, Clone)]
pub struct Endpoint {
    address: String,
    transport: transport::Endpoint,
    trouble: ConnectErrorCell,
    #[cfg(feature = "tls")]
    tls: Option<EndpointTls>,
}

/// How TLS is spoken there.
#[cfg(feature = "tls")]
#[derive(Debug, Clone)]
struct EndpointTls {
    config: TlsConfig,
    name: ServerName<'static>,
    /// As the files were at first.
    read: Arc<ClientConfig>,
}

impl Endpoint {
    /// The address of a registry that speaks TLS, with or without `https://` before it.
    ///
    /// # Errors
    ///
    /// [`ClientError::Address`] when it is none, [`ClientError::Credentials`] when what the files hold cannot be used.
    #[cfg(feature = "tls")]
    pub fn with_tls(text: &str, tls: TlsConfig) -> Result<Self, ClientError> {
        let EndpointAddress { authority, scheme } = EndpointAddress::parse(text)?;
        if scheme == Some(EndpointScheme::Http) {
            return Err(refuse(text, "http:// is without TLS, but TLS is asked for"));
        }
        let address = format!("https://{authority}");
        let transport = transport(&address).map_err(|reason| refuse(text, reason))?;
        let host = transport.uri().host().unwrap_or_default();
        let name = tls.name(host).ok_or_else(|| refuse(text, "no certificate can have the server's name"))?;
        let tls = EndpointTls { name, read: tls.read()?, config: tls };
        Ok(Self { address, transport, trouble: ConnectErrorCell::default(), tls: Some(tls) })
    }

    /// Whether this is the address of a registry, as far as one can see.
    ///
    /// # Errors
    ///
    /// [`ClientError::Address`].
    pub fn check(text: &str) -> Result<(), ClientError> {
        let EndpointAddress { authority, .. } = EndpointAddress::parse(text)?;
        transport(&format!("http://{authority}")).map(drop).map_err(|reason| refuse(text, reason))
    }

    /// A new connection, made when the first call needs it and remade when it breaks. Call it within a tokio runtime.
    ///
    /// Files for TLS are read anew, so that a certificate may be renewed while a registration or a watch lives on; where they
    /// cannot be used, those that were read first are.
    #[must_use]
    pub fn channel(&self) -> Channel {
        #[cfg(feature = "tls")]
        {
            let tls = self.tls.as_ref().map(|EndpointTls { config, name, read }| {
                let config = config.read().unwrap_or_else(|error| {
                    tracing::warn!(%error, "the files read at first are used instead");
                    Arc::clone(read)
                });
                (config, name.clone())
            });
            self.transport.connect_with_connector_lazy(Connector::new(tls, self.trouble.clone()))
        }
        #[cfg(not(feature = "tls"))]
        self.transport.connect_lazy()
    }

    /// The same failure, with its cause where that is known: a [`Channel`] tells that a connection was closed, and seldom that
    /// it was for want of a certificate.
    #[must_use]
    pub fn explain(&self, error: ClientError) -> ClientError {
        self.trouble.explain(error)
    }

    pub(super) fn trouble(&self) -> ConnectErrorCell {
        self.trouble.clone()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl FromStr for Endpoint {
    type Err = ClientError;

    /// `https://` trusts what the system trusts.
    fn from_str(text: &str) -> Result<Self, ClientError> {
        let EndpointAddress { authority, scheme } = EndpointAddress::parse(text)?;
        if scheme == Some(EndpointScheme::Https) {
            #[cfg(feature = "tls")]
            return Self::with_tls(text, TlsConfig::default());
            #[cfg(not(feature = "tls"))]
            return Err(refuse(text, "this program was built without callboard's feature `tls`"));
        }
        Ok(Self {
            address: authority.to_owned(),
            transport: transport(&format!("http://{authority}")).map_err(|reason| refuse(text, reason))?,
            trouble: ConnectErrorCell::default(),
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

/// An address in its parts.
#[derive(Debug)]
struct EndpointAddress<'text> {
    scheme: Option<EndpointScheme>,
    authority: &'text str,
}

impl<'text> EndpointAddress<'text> {
    fn parse(text: &'text str) -> Result<Self, ClientError> {
        let refuse = |reason| refuse(text, reason);
        let schemes = [("http://", EndpointScheme::Http), ("https://", EndpointScheme::Https)];
        let found = schemes.iter().find_map(|(start, scheme)| Some((text.strip_prefix(start)?, Some(*scheme))));
        let (address, scheme) = found.unwrap_or((text, None));
        let address = address.strip_suffix('/').unwrap_or(address);
        if address.contains("://") {
            return Err(refuse("only http and https are spoken"));
        }
        let (host, port) = address.rsplit_once(':').ok_or_else(|| refuse("the port is missing"))?;
        if host.is_empty() {
            return Err(refuse("the host is missing"));
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(refuse("an IPv6 address needs brackets"));
        }
        if port.parse::<u16>().map_or(true, |port| port == 0) {
            return Err(refuse("the port is not a number from 1 to 65535"));
        }
        if address.contains(['/', '?', '#', '@']) {
            return Err(refuse("it has more than a host and a port"));
        }
        Ok(Self { scheme, authority: address })
    }
}

fn refuse(text: &str, reason: &'static str) -> ClientError {
    ClientError::Address { address: text.to_owned(), reason }
}

fn transport(uri: &str) -> Result<transport::Endpoint, &'static str> {
    let endpoint = transport::Endpoint::from_shared(uri.to_owned())
        .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
        .map_err(|_| "the host is malformed")?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, address) in [
            ("127.0.0.1:8502", "127.0.0.1:8502"),
            ("http://registry.internal:80/", "registry.internal:80"),
            ("[::1]:8502", "[::1]:8502"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), address);
        }
    }

    #[test]
    fn anything_else_is_refused_with_a_remedy() {
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
