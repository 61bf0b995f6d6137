//! Address and TLS settings of a probe.

use std::{fmt, net::Ipv6Addr};

use crate::model::FieldError;

/// Maximum length of a host in bytes: that of a DNS name.
const MAX_HOST_BYTES: usize = 253;

/// TLS settings of a probe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbeTls {
    /// Name that the certificate must have; empty for the host of the target.
    pub server_name: Box<str>,
    /// True to accept any certificate.
    pub skip_verify: bool,
}

/// Address that a probe connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeTarget {
    /// IP address without brackets, or host name.
    pub host: Box<str>,
    /// Port.
    pub port: u16,
}

impl ProbeTarget {
    /// Parses `host:port`. An IPv6 address must be in brackets, and nothing else may be.
    ///
    /// # Errors
    ///
    /// When there is no host, or no port from 1 to 65535, or an IPv6 address has no brackets and so no clear end.
    pub fn parse(field: &'static str, text: &str) -> Result<Self, FieldError> {
        let error = |problem| {
            FieldError::new(field, text, problem, "write host:port, with an IPv6 address in brackets, such as [::1]:80")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| error("has no port"))?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port > 0);
        let port = port.ok_or_else(|| error("has no port from 1 to 65535"))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or_else(|| error("has a bracket that is not closed"))?;
                let (address, zone) = inner.split_once('%').map_or((inner, None), |(at, zone)| (at, Some(zone)));
                if address.parse::<Ipv6Addr>().is_err() || zone == Some("") {
                    return Err(error("has something other than an IPv6 address in brackets"));
                }
                inner
            }
            None if host.contains(':') => return Err(error("has too many colons")),
            None => host,
        };
        let invalid = |c: char| c.is_whitespace() || c.is_control() || "/[]@?#".contains(c);
        if host.is_empty() || host.len() > MAX_HOST_BYTES || host.contains(invalid) {
            return Err(error("has no host"));
        }
        Ok(Self { host: host.into(), port })
    }
}

impl fmt::Display for ProbeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
