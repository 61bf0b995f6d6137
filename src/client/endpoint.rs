//! Where a registry is, and connections to it.

use std::{fmt, str::FromStr, time::Duration};

use tonic::transport::{self, Channel};

use super::ClientError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A server that went away without a word is noticed after this and [`PING_TIMEOUT`], on an idle watch too.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const USER_AGENT: &str = concat!("callboard/", env!("CARGO_PKG_VERSION"));

/// The gRPC address of a registry, as `host:port` or `http://host:port`.
#[derive(Debug, Clone)]
pub struct Endpoint {
    address: String,
    transport: transport::Endpoint,
}

impl Endpoint {
    /// A new connection, made when the first call needs it and remade when it breaks. Call it within a tokio runtime.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.transport.connect_lazy()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl FromStr for Endpoint {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let refuse = |reason: &'static str| ClientError::Address { address: text.to_owned(), reason };
        let address = text.strip_prefix("http://").unwrap_or(text);
        let address = address.strip_suffix('/').unwrap_or(address);
        if address.contains("://") {
            return Err(refuse("only plain http is spoken"));
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
        let transport = transport::Endpoint::from_shared(format!("http://{address}"))
            .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
            .map_err(|_| refuse("the host is malformed"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        Ok(Self { address: address.to_owned(), transport })
    }
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
            ("https://host:443", "plain http"),
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
