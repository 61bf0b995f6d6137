//! Parsers of the values of settings: one function for each kind, the same for all places that a text comes from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::engine::Durability;
use crate::model::Metadata;
use crate::telemetry::{LogFilter, LogFormat};

/// Parser of one kind of value.
pub(super) type Parse<T> = fn(&str) -> Result<T, ValueError>;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Error of a value: what is wrong with it, and what to write instead. It is displayed after the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueError {
    reason: String,
    hint: String,
}

impl ValueError {
    fn new(reason: impl fmt::Display, hint: impl fmt::Display) -> Self {
        Self { reason: reason.to_string(), hint: hint.to_string() }
    }

    /// Returns what to write instead, as an imperative: `write 1 to 63`.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}; {}", self.reason, self.hint)
    }
}

/// Parses `IP:PORT`. Host names other than `localhost` are rejected, because a name may have several addresses.
pub(super) fn address(text: &str) -> Result<SocketAddr, ValueError> {
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| {
        ValueError::new(
            "is not an address",
            "write IP:PORT, such as 127.0.0.1:8502 or [::1]:8502; port 0 means any free port",
        )
    })
}

/// Parses an address, or `off`.
pub(super) fn listener(text: &str) -> Result<Option<SocketAddr>, ValueError> {
    if text == "off" {
        return Ok(None);
    }
    let parsed = address(text).map(Some);
    parsed.map_err(|error| ValueError::new(error.reason, format_args!("{}, or off", error.hint)))
}

/// Parses the path of a file, which is opened later.
pub(super) fn path(text: &str) -> Result<PathBuf, ValueError> {
    if text.is_empty() { Err(ValueError::new("is empty", "write the path of a file")) } else { Ok(text.into()) }
}

/// Parses `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, ValueError> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(ValueError::new("is neither true nor false", "write true or false")),
    }
}

/// Parses the path of a directory, which is opened later.
pub(super) fn directory(text: &str) -> Result<PathBuf, ValueError> {
    if text.is_empty() || text.contains('\0') {
        return Err(ValueError::new("is not a path", "write the path of a directory, such as /var/lib/callboard"));
    }
    Ok(text.into())
}

/// Parses the URLs of etcd's members.
pub(super) fn etcd_endpoints(text: &str) -> Result<Vec<String>, ValueError> {
    let hint = "write URLs separated by commas, such as http://10.0.0.1:2379,http://10.0.0.2:2379";
    let endpoint = |part: &str| {
        let part = part.trim();
        let host = part.strip_prefix("http://").or_else(|| part.strip_prefix("https://"));
        match host {
            Some(host) if !host.is_empty() => Ok(part.to_owned()),
            Some(_) | None => {
                Err(ValueError::new(format!("contains {part:?}, which is not a URL of a member of etcd"), hint))
            }
        }
    };
    text.split(',').map(endpoint).collect()
}

/// Parses the name of a user of etcd or of a cluster.
pub(super) fn etcd_name(text: &str) -> Result<String, ValueError> {
    if (1..=128).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(ValueError::new("is not a name", "write 1 to 128 bytes without control characters"))
}

/// Parses a durability.
pub(super) fn durability(text: &str) -> Result<Durability, ValueError> {
    match text {
        "durable" => Ok(Durability::Durable),
        "relaxed" => Ok(Durability::Relaxed),
        _ => Err(ValueError::new("is not a durability", "write durable or relaxed")),
    }
}

/// Parses a number of workers.
pub(super) fn workers(text: &str) -> Result<NonZeroUsize, ValueError> {
    number(text, NonZeroUsize::MIN..=super::MAX_WORKERS)
}

/// Parses a limit: 1 to 1,000,000.
pub(super) fn limit(text: &str) -> Result<NonZeroU32, ValueError> {
    number(text, NonZeroU32::MIN..=NonZeroU32::MIN.saturating_add(999_999))
}

/// Parses a limit whose default is not a number.
pub(super) fn some_limit(text: &str) -> Result<Option<NonZeroU32>, ValueError> {
    limit(text).map(Some)
}

/// Parses a number within a range.
fn number<T: FromStr + PartialOrd + fmt::Display>(text: &str, range: RangeInclusive<T>) -> Result<T, ValueError> {
    let (least, most) = range.into_inner();
    match text.parse::<T>() {
        Ok(number) if least <= number && number <= most => Ok(number),
        _ => {
            // A number that does not fit its type is out of range as well.
            let digits = text.strip_prefix('-').unwrap_or(text);
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let problem = if is_number { "is out of range" } else { "is not a whole number" };
            Err(ValueError::new(problem, format!("write {least} to {most}")))
        }
    }
}

/// Parses the size of a message. The minimum is enough for the largest valid registration; the maximum keeps one message
/// from filling the memory.
pub(super) fn message_size(text: &str) -> Result<usize, ValueError> {
    size(text, 64 * KIB..=64 * MIB, "write 64KiB to 64MiB, or a number of bytes")
}

/// Parses the memory for unread responses. One connection may use a sixteenth of it, which must fit several large responses.
pub(super) fn unread_size(text: &str) -> Result<usize, ValueError> {
    size(text, 16 * MIB..=16 * 1024 * MIB, "write 16MiB to 16384MiB, or a number of bytes")
}

/// Parses a number of bytes, or a number with `KiB` or `MiB`, within a range.
fn size(text: &str, range: RangeInclusive<usize>, hint: &str) -> Result<usize, ValueError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        _ => return Err(ValueError::new("is not a size", hint)),
    };
    if number.is_empty() {
        return Err(ValueError::new("is not a size", hint));
    }
    // A number that does not fit its type is out of range, not malformed.
    match number.parse::<usize>().ok().and_then(|number| number.checked_mul(unit)) {
        Some(bytes) if range.contains(&bytes) => Ok(bytes),
        _ => Err(ValueError::new("is out of range", hint)),
    }
}

/// Parses a duration from 10 ms to 1 h.
pub(super) fn interval(text: &str) -> Result<Duration, ValueError> {
    let hint = "write 10ms to 1h, with a unit, such as 15s";
    match humantime::parse_duration(text) {
        Ok(length) if (Duration::from_millis(10)..=Duration::from_hours(1)).contains(&length) => Ok(length),
        Ok(_) => Err(ValueError::new("is out of range", hint)),
        Err(_) => Err(ValueError::new("is not a duration", hint)),
    }
}

/// Parses a duration from 1 s to 24 h, or `off`.
pub(super) fn age(text: &str) -> Result<Option<Duration>, ValueError> {
    let hint = "write 1s to 24h, with a unit, such as 30m, or off";
    if text == "off" || text == "0" {
        return Ok(None);
    }
    match humantime::parse_duration(text) {
        Ok(length) if (Duration::from_secs(1)..=Duration::from_hours(24)).contains(&length) => Ok(Some(length)),
        Ok(_) => Err(ValueError::new("is out of range", hint)),
        Err(_) => Err(ValueError::new("is not a duration", hint)),
    }
}

/// Parses a duration up to 10 min; `0` turns settling off.
pub(super) fn settle(text: &str) -> Result<Duration, ValueError> {
    let hint = "write 100ms to 10min, with a unit, such as 10s, or 0";
    match humantime::parse_duration(text) {
        Ok(length) if length.is_zero() => Ok(length),
        Ok(length) if (Duration::from_millis(100)..=Duration::from_mins(10)).contains(&length) => Ok(length),
        Ok(_) => Err(ValueError::new("is out of range", hint)),
        Err(_) => Err(ValueError::new("is not a duration", hint)),
    }
}

/// Parses the TTL of DNS answers: up to a day.
pub(super) fn dns_ttl(text: &str) -> Result<Duration, ValueError> {
    match humantime::parse_duration(text) {
        Ok(length) if length <= Duration::from_hours(24) => Ok(length),
        Ok(_) => Err(ValueError::new("is out of range", "write 0s to 24h")),
        Err(_) => Err(ValueError::new("is not a duration", "write 0s to 24h, with a unit, such as 5s")),
    }
}

/// Parses networks separated by commas.
pub(super) fn networks(text: &str) -> Result<Vec<ipnet::IpNet>, ValueError> {
    let network = |part: &str| {
        let part = part.trim();
        // A single address stands for the network of that address.
        let found = part.parse().ok().or_else(|| part.parse::<IpAddr>().ok().map(Into::into));
        found.ok_or_else(|| {
            ValueError::new(
                format!("contains {part:?}, which is not a network"),
                "write networks or addresses separated by commas, such as 10.0.0.0/8,192.168.1.7,fd00::/8",
            )
        })
    };
    text.split(',').map(network).collect()
}

/// Parses host names without ports, separated by commas, and returns them in lower case and without a final dot.
pub(super) fn host_names(text: &str) -> Result<Vec<String>, ValueError> {
    let hint = "write host names without ports, separated by commas, such as registry.example.com,callboard";
    let name = |part: &str| {
        let name = part.trim().to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let is_valid = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        if name.len() <= 253 && name.split('.').all(is_valid) {
            return Ok(name.to_owned());
        }
        Err(ValueError::new(format!("contains {part:?}, which is not a host name"), hint))
    };
    text.split(',').map(name).collect()
}

/// Parses the name of a datacenter, which is part of DNS names.
pub(super) fn datacenter(text: &str) -> Result<String, ValueError> {
    let is_valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if (1..=63).contains(&text.len()) && text.bytes().all(is_valid) {
        return Ok(text.to_owned());
    }
    Err(ValueError::new("is not a datacenter name", "write 1 to 63 of a-z, 0-9, - and _"))
}

/// Parses the name of a node, which is part of DNS names.
pub(super) fn node_name(text: &str) -> Result<Option<String>, ValueError> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=128).contains(&text.len()) && text.bytes().all(is_valid) && !text.starts_with('_') {
        return Ok(Some(text.to_owned()));
    }
    Err(ValueError::new("is not a node name", "write 1 to 128 letters, digits, -, _ and ., not beginning with _"))
}

/// Parses a UUID of 8-4-4-4-12 hexadecimal digits.
pub(super) fn uuid(text: &str) -> Result<Option<String>, ValueError> {
    let groups: Vec<_> = text.split('-').collect();
    let lengths: Vec<_> = groups.iter().map(|group| group.len()).collect();
    let digits = groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if lengths == [8, 4, 4, 4, 12] && digits {
        return Ok(Some(text.to_ascii_lowercase()));
    }
    Err(ValueError::new("is not a UUID", "write a UUID such as 8f246b77-f3e1-ff88-5b48-8ec93abf3e05"))
}

/// Parses an IP address.
pub(super) fn ip_address(text: &str) -> Result<Option<IpAddr>, ValueError> {
    let parsed = text.parse().map(Some);
    parsed.map_err(|_| ValueError::new("is not an IP address", "write an IP address such as 10.0.0.1"))
}

/// Parses metadata entries separated by commas.
pub(super) fn metadata(text: &str) -> Result<Metadata, ValueError> {
    let mut pairs = std::collections::BTreeMap::new();
    for part in text.split(',') {
        let Some((key, value)) = part.split_once('=') else {
            return Err(ValueError::new(format!("contains {part:?}, which has no value"), "write KEY=VALUE,KEY=VALUE"));
        };
        pairs.insert(key.trim().to_owned(), value.to_owned());
    }
    Metadata::parse(pairs.iter()).map_err(|invalid| ValueError::new("is not valid metadata", invalid))
}

/// Parses a domain and returns it in lower case.
pub(super) fn domain(text: &str) -> Result<String, ValueError> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let is_valid = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if name.len() <= 128 && name.split('.').all(is_valid) {
        return Ok(name);
    }
    Err(ValueError::new("is not a domain", "write a domain such as consul or discovery.example.com"))
}

/// Parses a log format.
pub(super) fn log_format(text: &str) -> Result<LogFormat, ValueError> {
    text.parse().map_err(|()| ValueError::new("is not a log format", "write auto, pretty or json"))
}

/// Parses a [`LogFilter`].
pub(super) fn log_filter(text: &str) -> Result<LogFilter, ValueError> {
    text.parse().map_err(|error| {
        ValueError::new(
            format!("is not a log filter ({error})"),
            "write a level (error, warn, info, debug, trace, off) or target=level, separated by commas, such as \
             info,callboard::registry=debug",
        )
    })
}
