//! What is answered for, and the names in it.

use std::{net::IpAddr, time::Duration};

use hickory_proto::rr::{
    Name, RData,
    rdata::{SOA, SRV},
};

/// Seconds after which a secondary server would look again, try again, and give up. There is none: they are what Consul says.
const REFRESH: i32 = 3_600;
const RETRY: i32 = 600;
const EXPIRE: i32 = 86_400;

/// What is answered for.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: Name,
    /// The labels of the domain, in lower case.
    pub(super) labels: Vec<String>,
    /// The datacenter that names may have in them.
    pub(super) datacenter: String,
    /// The name of our own node.
    pub(super) node: String,
    /// Its address, where no node says another.
    pub(super) address: IpAddr,
    /// Seconds for which answers may be kept.
    pub(super) ttl: u32,
}

impl Zone {
    /// A zone. `domain`: in lower case, without a dot at the end. `address`: of our own node, unless the registry knows another.
    #[must_use]
    pub fn new(domain: &str, datacenter: &str, node: &str, ttl: Duration, address: IpAddr) -> Self {
        let labels: Vec<_> = domain.split('.').filter(|label| !label.is_empty()).map(str::to_ascii_lowercase).collect();
        Self {
            domain: name(domain).unwrap_or_else(Name::root),
            labels,
            datacenter: datacenter.to_owned(),
            node: node.to_owned(),
            address: address.to_canonical(),
            ttl: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX),
        }
    }

    /// The name at its top.
    pub(super) fn domain(&self) -> &Name {
        &self.domain
    }

    /// `ns.consul. hostmaster.consul. …`, with a serial number.
    pub(super) fn authority(&self, serial: u32) -> Option<RData> {
        let (server, master) = (self.below("ns")?, self.below("hostmaster")?);
        Some(RData::SOA(SOA::new(server, master, serial, REFRESH, RETRY, EXPIRE, 0)))
    }

    /// The name of our own node.
    pub(super) fn own(&self) -> Option<Name> {
        self.node_name(&self.node)
    }

    /// Returns whether a name is a proper suffix of that of our own node.
    pub(super) fn is_above_node(&self, name: &str) -> bool {
        let (node, name) = (self.node.to_ascii_lowercase(), name.to_ascii_lowercase());
        node.strip_suffix(&name).is_some_and(|before| before.ends_with('.'))
    }

    /// The name of a node. `None`: it is none that DNS could say.
    pub(super) fn node_name(&self, node: &str) -> Option<Name> {
        self.below(&format!("{node}.node.{}", self.datacenter))
    }

    /// The name of a service. `None`: it is none that DNS could say.
    pub(super) fn service(&self, service: &str) -> Option<Name> {
        self.below(&format!("{service}.service.{}", self.datacenter))
    }

    /// The name that an address has by itself: `0a000001.addr.dc1.consul.`.
    pub(super) fn literal(&self, address: IpAddr) -> Option<Name> {
        let digits = match address {
            IpAddr::V4(address) => format!("{:08x}", address.to_bits()),
            IpAddr::V6(address) => format!("{:032x}", address.to_bits()),
        };
        self.below(&format!("{digits}.addr.{}", self.datacenter))
    }

    /// Bytes of that name, or some less.
    pub(super) fn literal_bytes(&self, address: IpAddr) -> usize {
        let digits = if address.is_ipv4() { 8 } else { 32 };
        digits + ".addr.".len() + self.datacenter.len() + ".".len() + self.domain.len()
    }

    /// `1 <weight> <port> <target>`.
    pub(super) fn srv(weight: u16, port: u16, target: Name) -> RData {
        RData::SRV(SRV::new(1, weight, port, target))
    }

    fn below(&self, relative: &str) -> Option<Name> {
        let mut found = name(relative)?;
        found.set_fqdn(false);
        found.append_domain(&self.domain).ok()
    }
}

/// A name as it is written, taken literally. `None`: it is none that DNS could say, by the lengths of it and of its labels.
pub(super) fn name(written: &str) -> Option<Name> {
    let labels = written.strip_suffix('.').unwrap_or(written).split('.').map(str::as_bytes);
    let mut found = Name::from_labels(labels).ok()?;
    found.set_fqdn(true);
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let zone = Zone::new("svc.example", "dc1", "n1", Duration::from_secs(5), [127, 0, 0, 1].into());
        let text = |found: Option<Name>| found.unwrap().to_string();
        assert_eq!(text(zone.literal([10, 0, 0, 1].into())), "0a000001.addr.dc1.svc.example.");
        let six = "2001:db8::1".parse().unwrap();
        assert_eq!(text(zone.literal(six)), "20010db8000000000000000000000001.addr.dc1.svc.example.");
        assert_eq!(text(zone.own()), "n1.node.dc1.svc.example.");
        assert_eq!(text(zone.service("Web.v2")), "Web.v2.service.dc1.svc.example.");
        assert_eq!(zone.service(&"a".repeat(64)), None, "no label is that long");
        assert_eq!(zone.service("a..b"), None);
        assert_eq!(text(name("db.internal")), "db.internal.");
        assert_eq!(name(""), None);
    }

    #[test]
    fn bytes_of_a_literal_name_are_known_before_it_is_made() {
        let label = "d".repeat(63);
        let zone = Zone::new(&format!("{label}.{label}"), &label, "n1", Duration::ZERO, [127, 0, 0, 1].into());
        assert_eq!(
            zone.literal([10, 0, 0, 1].into()).map(|name| name.len()),
            Some(zone.literal_bytes([10, 0, 0, 1].into()))
        );
        let six = "2001:db8::1".parse().unwrap();
        assert!(zone.literal(six).is_none_or(|name: Name| name.len() == zone.literal_bytes(six)));
    }
}
