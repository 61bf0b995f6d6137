//! Instances as endpoints, and reasons for which they are none.

use std::net::{IpAddr, SocketAddr};

use crate::{
    model::{Address, Instance, InstanceId, Status},
    pb::envoy::config::core::v3::HealthStatus,
};

/// Reason for which an instance is not among the endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::protocol::xds) enum OmissionReason {
    /// It has not become ready yet.
    Starting,
    /// Its primary address has a host name, which clients reject.
    HostName,
    /// Its primary address has no port.
    NoPort,
    /// A newer registration has the same address.
    SameAddress(InstanceId),
}

/// Endpoint of an assignment.
#[derive(Debug)]
pub(in crate::protocol::xds) struct XdsEndpoint<'a> {
    pub(in crate::protocol::xds) instance: &'a Instance,
    pub(in crate::protocol::xds) address: SocketAddr,
    /// Address of the other family.
    pub(in crate::protocol::xds) additional: Option<SocketAddr>,
}

impl<'a> XdsEndpoint<'a> {
    /// Returns the endpoint of an instance, or the reason for which it has none.
    pub(super) fn new(instance: &'a Instance) -> Result<Self, OmissionReason> {
        if instance.status() == Status::Starting {
            return Err(OmissionReason::Starting);
        }
        let primary = instance.addresses.first().ok_or(OmissionReason::NoPort)?;
        let ip = ip(primary).ok_or(OmissionReason::HostName)?;
        if primary.port == 0 {
            return Err(OmissionReason::NoPort);
        }
        // The same port under the same name at an address of the other family is the same listener.
        let is_other_family = |other: &IpAddr| other.is_ipv4() != ip.is_ipv4();
        let additional = instance.addresses[1..]
            .iter()
            .filter(|address| address.port == primary.port && address.name == primary.name)
            .find_map(|address| self::ip(address).filter(is_other_family));
        Ok(Self {
            instance,
            address: SocketAddr::new(ip, primary.port),
            additional: additional.map(|ip| SocketAddr::new(ip, primary.port)),
        })
    }

    /// Health status that clients get.
    pub(in crate::protocol::xds) fn health(&self) -> HealthStatus {
        match self.instance.status() {
            Status::Serving | Status::Suspect => HealthStatus::Healthy,
            Status::Draining => HealthStatus::Draining,
            Status::Unhealthy => HealthStatus::Unhealthy,
            // A starting instance is left out.
            Status::Starting => HealthStatus::Unknown,
        }
    }
}

fn ip(address: &Address) -> Option<IpAddr> {
    address.host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}
