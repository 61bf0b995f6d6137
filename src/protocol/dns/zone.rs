//! The zone that the server is authoritative for, and the names in it.

use std::{net::IpAddr, time::Duration};

use hickory_proto::rr::{
    Name, RData,
    rdata::{SOA, SRV},
};

/// Refresh interval in the SOA record, in seconds. This and the next two values are for secondary servers, of which there are
/// none; they are those of Consul.
const SOA_REFRESH_SECONDS: i32 = 3_600;
/// Retry interval in the SOA record, in seconds.
const SOA_RETRY_SECONDS: i32 = 600;
/// Expiry time in the SOA record, in seconds.
const SOA_EXPIRE_SECONDS: i32 = 86_400;
/// Priority of all SRV records: only weights distinguish instances.
const SRV_PRIORITY: u16 = 1;

/// Zone that the server is authoritative for.
#[derive(Debug, Clone)]
pub struct Zone {
    domain: Name,
    /// Labels of the domain, in lower case.
    pub(super) labels: Vec<String>,
    /// The datacenter that names may contain.
    pub(super) datacenter: String,
    /// Name of the local node.
    pub(super) node: String,
    /// Address of the local node, unless it is registered with another one.
    pub(super) address: IpAddr,
    /// Seconds for which clients may cache answers.
    pub(super) ttl: u32,
}

impl Zone {
    /// Returns a zone. `domain`: such as `consul`, without a dot at the end. `address`: of the local node, unless it is registered
    /// with another one.
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

    /// Returns the name of the zone.
    pub(super) fn domain(&self) -> &Name {
        &self.domain
    }

    /// Returns the data of the SOA record: `ns.consul. hostmaster.consul. <serial> …`.
    pub(super) fn soa(&self, serial: u32) -> Option<RData> {
        let (server, mailbox) = (self.relative("ns")?, self.relative("hostmaster")?);
        let (refresh, retry, expire) = (SOA_REFRESH_SECONDS, SOA_RETRY_SECONDS, SOA_EXPIRE_SECONDS);
        Some(RData::SOA(SOA::new(server, mailbox, serial, refresh, retry, expire, 0)))
    }

    /// Returns the name of the local node. `None`: it is not a valid DNS name.
    pub(super) fn local_node_name(&self) -> Option<Name> {
        self.node_name(&self.node)
    }

    /// Returns whether the local node's name ends with these labels, and has more in front of them.
    pub(super) fn is_above_local_node(&self, suffix: &str) -> bool {
        let (node, suffix) = (self.node.to_ascii_lowercase(), suffix.to_ascii_lowercase());
        node.strip_suffix(&suffix).is_some_and(|rest| rest.ends_with('.'))
    }

    /// Returns the name of a node. `None`: it is not a valid DNS name.
    pub(super) fn node_name(&self, node: &str) -> Option<Name> {
        self.relative(&format!("{node}.node.{}", self.datacenter))
    }

    /// Returns the name of a service. `None`: it is not a valid DNS name.
    pub(super) fn service_name(&self, service: &str) -> Option<Name> {
        self.relative(&format!("{service}.service.{}", self.datacenter))
    }

    /// Returns the name that spells out an address: `0a000001.addr.dc1.consul.`.
    pub(super) fn address_name(&self, address: IpAddr) -> Option<Name> {
        let digits = match address {
            IpAddr::V4(address) => format!("{:08x}", address.to_bits()),
            IpAddr::V6(address) => format!("{:032x}", address.to_bits()),
        };
        self.relative(&format!("{digits}.addr.{}", self.datacenter))
    }

    /// Returns a lower bound of the bytes of that name, without building it.
    pub(super) fn min_address_name_bytes(&self, address: IpAddr) -> usize {
        let digits = if address.is_ipv4() { 8 } else { 32 };
        digits + ".addr.".len() + self.datacenter.len() + ".".len() + self.domain.len()
    }

    /// Returns the data of an SRV record: `1 <weight> <port> <target>`.
    pub(super) fn srv(weight: u16, port: u16, target: Name) -> RData {
        RData::SRV(SRV::new(SRV_PRIORITY, weight, port, target))
    }

    fn relative(&self, labels: &str) -> Option<Name> {
        let mut found = name(labels)?;
        found.set_fqdn(false);
        found.append_domain(&self.domain).ok()
    }
}

/// Returns the absolute name with these labels, without escapes. `None`: a label is empty, or a length exceeds the limits of DNS.
pub(super) fn name(labels: &str) -> Option<Name> {
    let labels = labels.strip_suffix('.').unwrap_or(labels).split('.').map(str::as_bytes);
    let mut found = Name::from_labels(labels).ok()?;
    found.set_fqdn(true);
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_builds_names_below_its_domain() {
        let zone = Zone::new("svc.example", "dc1", "n1", Duration::from_secs(5), [127, 0, 0, 1].into());
        let text = |found: Option<Name>| found.unwrap().to_string();
        assert_eq!(text(zone.address_name([10, 0, 0, 1].into())), "0a000001.addr.dc1.svc.example.");
        let six = "2001:db8::1".parse().unwrap();
        assert_eq!(text(zone.address_name(six)), "20010db8000000000000000000000001.addr.dc1.svc.example.");
        assert_eq!(text(zone.local_node_name()), "n1.node.dc1.svc.example.");
        assert_eq!(text(zone.service_name("Web.v2")), "Web.v2.service.dc1.svc.example.");
        assert_eq!(zone.service_name(&"a".repeat(64)), None, "a label has at most 63 bytes");
        assert_eq!(zone.service_name("a..b"), None);
        assert_eq!(text(name("db.internal")), "db.internal.");
        assert_eq!(name(""), None);
    }

    #[test]
    fn address_name_length_is_known_before_it_is_built() {
        let label = "d".repeat(63);
        let zone = Zone::new(&format!("{label}.{label}"), &label, "n1", Duration::ZERO, [127, 0, 0, 1].into());
        assert_eq!(
            zone.address_name([10, 0, 0, 1].into()).map(|name| name.len()),
            Some(zone.min_address_name_bytes([10, 0, 0, 1].into()))
        );
        let six = "2001:db8::1".parse().unwrap();
        assert!(zone.address_name(six).is_none_or(|name: Name| name.len() == zone.min_address_name_bytes(six)));
    }
}
