//! Address at which an instance listens.

use std::net::IpAddr;

use super::{FieldError, label};

/// Maximum number of addresses of an instance.
const MAX_ADDRESSES: usize = 16;
/// Maximum length of a host name in bytes.
const MAX_HOST_BYTES: usize = 253;
/// Maximum length of the name of an address in bytes.
const MAX_NAME_BYTES: usize = 128;

/// Address at which an instance listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// IP literal without brackets, or host name.
    pub host: Box<str>,
    /// Port. 0 for none, which only registrations through the Consul API may have.
    pub port: u16,
    /// Name that distinguishes several addresses. May be empty.
    pub name: Box<str>,
}

impl Address {
    /// Parses an address with a port from 1 to 65535.
    ///
    /// # Errors
    ///
    /// When the host is neither an IP literal nor a host name, or is an unspecified address (`0.0.0.0`), when the port is out of
    /// range, or the name is too long.
    pub fn parse(host: &str, port: u32, name: &str) -> Result<Self, FieldError> {
        if port == 0 {
            return Err(invalid_port(port));
        }
        Self::with_any_port(host, port, name)
    }

    /// Parses an address whose port may be 0 for none, as in Consul.
    ///
    /// # Errors
    ///
    /// As [`Address::parse`].
    pub fn with_any_port(host: &str, port: u32, name: &str) -> Result<Self, FieldError> {
        let port = u16::try_from(port).map_err(|_| invalid_port(port))?;
        validate_host(host)?;
        if !name.is_empty() {
            label::validate_text("name", name, MAX_NAME_BYTES)?;
        }
        Ok(Self { host: host.into(), port, name: name.into() })
    }

    /// Parses the stored addresses of an instance. Those of a Consul registration may have no port.
    ///
    /// # Errors
    ///
    /// As [`Address::parse_all`].
    pub fn parse_all_stored<'a>(
        given: impl ExactSizeIterator<Item = (&'a str, u32, &'a str)>,
    ) -> Result<Box<[Self]>, FieldError> {
        Self::parse_each(given, Self::with_any_port)
    }

    /// Parses all addresses of an instance, given as host, port and name.
    ///
    /// # Errors
    ///
    /// When there is no address, there are more than 16, or one is invalid.
    pub fn parse_all<'a>(
        given: impl ExactSizeIterator<Item = (&'a str, u32, &'a str)>,
    ) -> Result<Box<[Self]>, FieldError> {
        Self::parse_each(given, Self::parse)
    }

    fn parse_each<'a>(
        given: impl ExactSizeIterator<Item = (&'a str, u32, &'a str)>,
        parse: impl Fn(&str, u32, &str) -> Result<Self, FieldError>,
    ) -> Result<Box<[Self]>, FieldError> {
        match given.len() {
            0 => Err(FieldError::without_value("addresses", "are empty", "give at least one host and port")),
            1..=MAX_ADDRESSES => given
                .enumerate()
                .map(|(at, (host, port, name))| {
                    parse(host, port, name).map_err(|error| error.within(&format!("addresses[{at}]")))
                })
                .collect(),
            count => Err(FieldError::without_value("addresses", format!("have {count} entries"), "give at most 16")),
        }
    }
}

fn invalid_port(port: u32) -> FieldError {
    let hint = "give the port on which the instance listens, 1 to 65535";
    FieldError::new("port", &port.to_string(), "is not a port", hint)
}

fn validate_host(host: &str) -> Result<(), FieldError> {
    let hint = "give an IP address without brackets, or a host name, that clients can reach";
    let error = |problem: &'static str| Err(FieldError::new("host", host, problem, hint));
    if let Ok(address) = host.parse::<IpAddr>() {
        return if address.is_unspecified() { error("is not an address that clients can reach") } else { Ok(()) };
    }
    if host.is_empty() {
        return error("is empty");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let dotted_number = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if host.len() > MAX_HOST_BYTES || !host.bytes().all(allowed) || host.starts_with(['-', '.']) || dotted_number {
        return error("is neither an IP address nor a host name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_with_invalid_host_or_port_is_rejected() {
        for good in ["10.0.0.1", "::1", "fe80::1", "web-1.internal", "localhost", "my_host"] {
            assert!(Address::parse(good, 80, "").is_ok(), "{good}");
        }
        for bad in ["", "0.0.0.0", "::", "[::1]", "a b", "300.1.1.1", "1.2.3", "-x", "http://x", "x\n"] {
            assert_eq!(Address::parse(bad, 80, "").unwrap_err().field, "host", "{bad}");
        }
        for port in [0, 65_536, u32::MAX] {
            assert_eq!(Address::parse("::1", port, "").unwrap_err().field, "port");
        }
    }

    #[test]
    fn addresses_of_an_instance_are_one_to_sixteen() {
        let error = Address::parse_all([("::1", 80, ""), ("::1", 0, "")].into_iter()).unwrap_err();
        assert_eq!(error.field, "addresses[1].port");
        assert!(Address::parse_all(std::iter::empty()).is_err());
        assert!(Address::parse_all([("::1", 80, ""); 17].into_iter()).is_err());
    }
}
