//! What a name asks for. Pure.
//!
//! ```text
//!   [tag.]web.service[.dc1].consul        node1.node[.dc1].consul        0a000001.addr[.dc1].consul
//!   _web._tcp[.service][.dc1].consul      _web._tag.service[.dc1].consul
//! ```
//!
//! Services and tags may have dots. So `v1.web.service.consul` is the service `v1.web` if there is one, and else `web` with the
//! tag `v1`: the longest name wins, for it says the most.

use std::net::IpAddr;

use hickory_proto::rr::Name;

use super::zone::Zone;

/// Most labels that a name of a service with its tags is taken apart at.
const MOST_LABELS: usize = 32;

/// What a name asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    /// The zone itself.
    Apex,
    /// A service.
    Service(ServiceQuestion),
    /// A node, as spelt.
    Node(String),
    /// An address that the name spells out.
    Literal(IpAddr),
    /// Whose address that is.
    Reverse(IpAddr),
    /// A name that has no records of its own, but may have names below it: so it must not be denied (RFC 8020).
    EmptyNonTerminal,
    /// Nothing in this zone can have the name.
    Nothing,
    /// Another zone's.
    OutOfZone,
}

/// A name among those of services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceQuestion {
    /// What the name may mean, the likeliest first.
    pub(super) readings: Vec<Reading>,
    /// The labels before `service`, as spelt, with dots between them.
    pub(super) text: String,
}

impl ServiceQuestion {
    /// The service part of `web._tcp`: a name that is not there itself, but is above `_v1.web._tcp`, if there is a service
    /// `v1.web`. `None`: the name has another form.
    pub(super) fn above_service(&self) -> Option<&str> {
        let (service, _) = self.text.split_once("._")?;
        (!service.starts_with('_')).then_some(service)
    }
}

/// A service, as spelt, and perhaps a tag, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) service: String,
    pub(super) tag: Option<String>,
}

impl Question {
    /// What this name asks for.
    pub(super) fn of(name: &Name, zone: &Zone) -> Self {
        let labels: Option<Vec<&str>> = name.iter().map(|label| std::str::from_utf8(label).ok()).collect();
        // Names of ours are ASCII.
        let Some(labels) = labels else {
            return if zone.domain().zone_of(name) { Self::Nothing } else { Self::OutOfZone };
        };
        if let Some(rest) = below(&labels, &zone.labels) {
            return within(rest, zone);
        }
        match below(&labels, &["in-addr", "arpa"]) {
            Some(rest) => v4(rest),
            None => below(&labels, &["ip6", "arpa"]).map_or(Self::OutOfZone, v6),
        }
    }
}

/// The labels before those of a domain, if a name ends with them.
fn below<'a, 'b>(labels: &'a [&'b str], domain: &[impl AsRef<str>]) -> Option<&'a [&'b str]> {
    let (rest, end) = labels.split_at_checked(labels.len().checked_sub(domain.len())?)?;
    end.iter().zip(domain).all(|(label, known)| label.eq_ignore_ascii_case(known.as_ref())).then_some(rest)
}

/// What stands between the name of a thing and its datacenter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NonTerminal {
    Service,
    Node,
    Address,
}

impl NonTerminal {
    fn of(label: &str) -> Option<Self> {
        let kinds = [("service", Self::Service), ("node", Self::Node), ("addr", Self::Address)];
        kinds.into_iter().find(|(name, _)| label.eq_ignore_ascii_case(name)).map(|(_, kind)| kind)
    }
}

fn within(labels: &[&str], zone: &Zone) -> Question {
    let here = |label: &str| label.eq_ignore_ascii_case(&zone.datacenter);
    let Some((last, before)) = labels.split_last() else { return Question::Apex };
    if let Some(kind) = NonTerminal::of(last) {
        return of_kind(kind, before);
    }
    if let Some((kind, rest)) = before.split_last()
        && let Some(kind) = NonTerminal::of(kind)
    {
        // Of other datacenters nothing is known.
        return if here(last) { of_kind(kind, rest) } else { Question::Nothing };
    }
    // What is left has no kind: the short form of a name for SRV.
    let rest = if here(last) { before } else { labels };
    match rest {
        [] => Question::EmptyNonTerminal,
        [protocol] if labelled(protocol) => Question::EmptyNonTerminal,
        [service, protocol] if labelled(service) && labelled(protocol) => srv(rest).unwrap_or(Question::Nothing),
        _ => Question::Nothing,
    }
}

fn of_kind(kind: NonTerminal, labels: &[&str]) -> Question {
    if labels.is_empty() {
        return Question::EmptyNonTerminal;
    }
    match (kind, labels) {
        (NonTerminal::Node, _) => Question::Node(labels.join(".")),
        (NonTerminal::Address, [digits]) => literal(digits).map_or(Question::Nothing, Question::Literal),
        (NonTerminal::Address, _) => Question::Nothing,
        // Any protocol or tag may have services below it.
        (NonTerminal::Service, [protocol]) if labelled(protocol) => Question::EmptyNonTerminal,
        (NonTerminal::Service, _) => srv(labels).unwrap_or_else(|| plain(labels)),
    }
}

fn labelled(label: &str) -> bool {
    label.len() > 1 && label.starts_with('_')
}

fn is_protocol(label: &str) -> bool {
    label.eq_ignore_ascii_case("_tcp") || label.eq_ignore_ascii_case("_udp")
}

/// `_web._tag`, as in RFC 2782: a protocol is no tag.
fn srv(labels: &[&str]) -> Option<Question> {
    let at = labels.iter().rposition(|label| labelled(label)).filter(|at| *at > 0)?;
    let (service, tag) = labels.split_at(at);
    let service = service.join(".").strip_prefix('_').filter(|name| !name.is_empty())?.to_owned();
    let tag = match tag {
        [protocol] if is_protocol(protocol) => None,
        _ => Some(tag.join(".")[1..].to_ascii_lowercase()),
    };
    Some(Question::Service(ServiceQuestion { readings: vec![Reading { service, tag }], text: labels.join(".") }))
}

/// `tag.web`, with every number of dots in the one and the other.
fn plain(labels: &[&str]) -> Question {
    if labels.len() > MOST_LABELS {
        return Question::Nothing;
    }
    let reading = |at: usize| {
        let (tag, service) = labels.split_at(at);
        let tag = (at > 0).then(|| tag.join(".").to_ascii_lowercase());
        Reading { service: service.join("."), tag }
    };
    Question::Service(ServiceQuestion { readings: (0..labels.len()).map(reading).collect(), text: labels.join(".") })
}

/// Eight hexadecimal digits, or 32.
fn literal(digits: &str) -> Option<IpAddr> {
    let hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    match digits.len() {
        8 if hexadecimal => u32::from_str_radix(digits, 16).ok().map(|bits| IpAddr::V4(bits.into())),
        32 if hexadecimal => u128::from_str_radix(digits, 16).ok().map(|bits| IpAddr::V6(bits.into())),
        _ => None,
    }
}

/// `1.0.0.10`, backwards; or less of it, which is above some address.
fn v4(labels: &[&str]) -> Question {
    let byte = |label: &&str| label.bytes().all(|digit| digit.is_ascii_digit()).then(|| label.parse().ok()).flatten();
    let bytes: Option<Vec<u8>> = labels.iter().rev().map(byte).collect();
    match bytes.as_deref() {
        Some(&[a, b, c, d]) => Question::Reverse([a, b, c, d].into()),
        Some(bytes) if bytes.len() < 4 => Question::EmptyNonTerminal,
        Some(_) | None => Question::Nothing,
    }
}

/// 32 digits, backwards; or fewer, which are above some address.
fn v6(labels: &[&str]) -> Question {
    let digits: String = labels.iter().rev().copied().collect();
    let each = labels.iter().all(|digit| digit.len() == 1 && digit.as_bytes()[0].is_ascii_hexdigit());
    match labels.len() {
        32 if each => literal(&digits).map_or(Question::Nothing, Question::Reverse),
        0..32 if each => Question::EmptyNonTerminal,
        _ => Question::Nothing,
    }
}

#[cfg(test)]
#[path = "question/tests.rs"]
mod tests;
