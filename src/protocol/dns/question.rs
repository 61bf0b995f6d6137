//! Interpretation of the names in questions, without access to the registry.
//!
//! ```text
//!   [tag.]web.service[.dc1].consul        node1.node[.dc1].consul        0a000001.addr[.dc1].consul
//!   _web._tcp[.service][.dc1].consul      _web._tag.service[.dc1].consul
//! ```
//!
//! Names of services and tags may contain dots. So `v1.web.service.consul` is the service `v1.web` if that exists, and otherwise the
//! service `web` with the tag `v1`: the longest service name wins.

use std::net::IpAddr;

use hickory_proto::rr::Name;

use super::zone::Zone;

/// Maximum number of labels of a service name with its tag: each label is one more reading to look up.
const MAX_SERVICE_LABELS: usize = 32;

/// Subject of a question, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    /// The zone itself.
    Apex,
    /// A service.
    Service(ServiceQuestion),
    /// A node, by its name in the client's spelling.
    Node(String),
    /// An address that the name spells out.
    Address(IpAddr),
    /// The nodes or services that have an address.
    Reverse(IpAddr),
    /// A name without records that may have names below it, so that it must not be answered with NXDOMAIN (RFC 8020).
    EmptyNonTerminal,
    /// A name of the zone that cannot exist.
    Nonexistent,
    /// A name outside the zone.
    OutOfZone,
}

/// Question for the name of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceQuestion {
    /// Possible readings of the name: those with longer service names first.
    pub(super) readings: Vec<Reading>,
    /// Labels before `service`, in the client's spelling.
    pub(super) prefix: String,
}

impl ServiceQuestion {
    /// Returns `web` for the prefix `web._tcp`, which has no records itself but is above `_v1.web._tcp` if there is a service
    /// `v1.web`. `None`: the prefix has another form.
    pub(super) fn service_suffix(&self) -> Option<&str> {
        let (service, _) = self.prefix.split_once("._")?;
        (!service.starts_with('_')).then_some(service)
    }
}

/// Possible reading of the name of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    /// Name of the service, in the client's spelling.
    pub(super) service: String,
    /// Tag, in lower case.
    pub(super) tag: Option<String>,
}

impl Question {
    /// Interprets a name.
    pub(super) fn of(name: &Name, zone: &Zone) -> Self {
        let labels: Option<Vec<&str>> = name.iter().map(|label| std::str::from_utf8(label).ok()).collect();
        // The names of the zone are ASCII.
        let Some(labels) = labels else {
            return if zone.domain().zone_of(name) { Self::Nonexistent } else { Self::OutOfZone };
        };
        if let Some(rest) = strip_domain(&labels, &zone.labels) {
            return in_zone(rest, zone);
        }
        match strip_domain(&labels, &["in-addr", "arpa"]) {
            Some(rest) => reverse_v4(rest),
            None => strip_domain(&labels, &["ip6", "arpa"]).map_or(Self::OutOfZone, reverse_v6),
        }
    }
}

/// Returns the labels before a domain, if a name ends with that domain.
fn strip_domain<'a, 'b>(labels: &'a [&'b str], domain: &[impl AsRef<str>]) -> Option<&'a [&'b str]> {
    let (rest, end) = labels.split_at_checked(labels.len().checked_sub(domain.len())?)?;
    end.iter().zip(domain).all(|(label, known)| label.eq_ignore_ascii_case(known.as_ref())).then_some(rest)
}

/// Label below which the names of one kind are: `service`, `node` or `addr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NonTerminal {
    Service,
    Node,
    Address,
}

impl NonTerminal {
    fn of(label: &str) -> Option<Self> {
        let labels = [("service", Self::Service), ("node", Self::Node), ("addr", Self::Address)];
        labels.into_iter().find(|(name, _)| label.eq_ignore_ascii_case(name)).map(|(_, kind)| kind)
    }
}

/// Interprets the labels before the zone's domain.
fn in_zone(labels: &[&str], zone: &Zone) -> Question {
    let is_datacenter = |label: &str| label.eq_ignore_ascii_case(&zone.datacenter);
    let Some((last, before)) = labels.split_last() else { return Question::Apex };
    if let Some(kind) = NonTerminal::of(last) {
        return below(kind, before);
    }
    if let Some((kind, rest)) = before.split_last()
        && let Some(kind) = NonTerminal::of(kind)
    {
        // The registry has no names of other datacenters.
        return if is_datacenter(last) { below(kind, rest) } else { Question::Nonexistent };
    }
    // Without a kind, only the short form of RFC 2782 is left: `_web._tcp.consul`.
    let rest = if is_datacenter(last) { before } else { labels };
    match rest {
        [] => Question::EmptyNonTerminal,
        [protocol] if is_underscored(protocol) => Question::EmptyNonTerminal,
        [service, protocol] if is_underscored(service) && is_underscored(protocol) => {
            rfc2782(rest).unwrap_or(Question::Nonexistent)
        }
        _ => Question::Nonexistent,
    }
}

/// Interprets the labels before `service`, `node` or `addr`.
fn below(kind: NonTerminal, labels: &[&str]) -> Question {
    if labels.is_empty() {
        return Question::EmptyNonTerminal;
    }
    match (kind, labels) {
        (NonTerminal::Node, _) => Question::Node(labels.join(".")),
        (NonTerminal::Address, [digits]) => parse_address(digits).map_or(Question::Nonexistent, Question::Address),
        (NonTerminal::Address, _) => Question::Nonexistent,
        // Any service may exist below a protocol or a tag.
        (NonTerminal::Service, [protocol]) if is_underscored(protocol) => Question::EmptyNonTerminal,
        (NonTerminal::Service, _) => rfc2782(labels).unwrap_or_else(|| tag_and_service(labels)),
    }
}

fn is_underscored(label: &str) -> bool {
    label.len() > 1 && label.starts_with('_')
}

fn is_protocol(label: &str) -> bool {
    label.eq_ignore_ascii_case("_tcp") || label.eq_ignore_ascii_case("_udp")
}

/// Interprets `_web._tcp` and `_web._tag`, the form of RFC 2782. `None`: the labels have another form.
fn rfc2782(labels: &[&str]) -> Option<Question> {
    let at = labels.iter().rposition(|label| is_underscored(label)).filter(|at| *at > 0)?;
    let (service, tag) = labels.split_at(at);
    let service = service.join(".").strip_prefix('_').filter(|name| !name.is_empty())?.to_owned();
    let tag = match tag {
        [protocol] if is_protocol(protocol) => None,
        _ => Some(tag.join(".")[1..].to_ascii_lowercase()),
    };
    Some(Question::Service(ServiceQuestion { readings: vec![Reading { service, tag }], prefix: labels.join(".") }))
}

/// Interprets `tag.web`: each dot may be the one between tag and service.
fn tag_and_service(labels: &[&str]) -> Question {
    if labels.len() > MAX_SERVICE_LABELS {
        return Question::Nonexistent;
    }
    let reading = |at: usize| {
        let (tag, service) = labels.split_at(at);
        let tag = (at > 0).then(|| tag.join(".").to_ascii_lowercase());
        Reading { service: service.join("."), tag }
    };
    Question::Service(ServiceQuestion { readings: (0..labels.len()).map(reading).collect(), prefix: labels.join(".") })
}

/// Parses an address in 8 (IPv4) or 32 (IPv6) hexadecimal digits.
fn parse_address(digits: &str) -> Option<IpAddr> {
    let hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    match digits.len() {
        8 if hexadecimal => u32::from_str_radix(digits, 16).ok().map(|bits| IpAddr::V4(bits.into())),
        32 if hexadecimal => u128::from_str_radix(digits, 16).ok().map(|bits| IpAddr::V6(bits.into())),
        _ => None,
    }
}

/// Interprets the labels before `in-addr.arpa`: the bytes of an address, the last one first. Fewer than four are above some address.
fn reverse_v4(labels: &[&str]) -> Question {
    let byte = |label: &&str| label.bytes().all(|digit| digit.is_ascii_digit()).then(|| label.parse().ok()).flatten();
    let bytes: Option<Vec<u8>> = labels.iter().rev().map(byte).collect();
    match bytes.as_deref() {
        Some(&[a, b, c, d]) => Question::Reverse([a, b, c, d].into()),
        Some(bytes) if bytes.len() < 4 => Question::EmptyNonTerminal,
        Some(_) | None => Question::Nonexistent,
    }
}

/// Interprets the labels before `ip6.arpa`: the digits of an address, the last one first. Fewer than 32 are above some address.
fn reverse_v6(labels: &[&str]) -> Question {
    let digits: String = labels.iter().rev().copied().collect();
    let valid = labels.iter().all(|digit| digit.len() == 1 && digit.as_bytes()[0].is_ascii_hexdigit());
    match labels.len() {
        32 if valid => parse_address(&digits).map_or(Question::Nonexistent, Question::Reverse),
        0..32 if valid => Question::EmptyNonTerminal,
        _ => Question::Nonexistent,
    }
}

#[cfg(test)]
#[path = "question/tests.rs"]
mod tests;
