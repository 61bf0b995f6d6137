//! Proxies that a service asks to be registered beside it, as Consul's agents register them.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value as Json;

use super::service::named;
use crate::{
    model::Instance,
    protocol::consul::{
        Consul, ConsulError,
        body::{ServiceRequest, sidecar_id},
    },
    registry::{Entry, RegisterWithoutLease},
};

/// Ports that are given to proxies that name none.
const PORTS: std::ops::RangeInclusive<u16> = 21_000..=21_255;

impl Consul {
    /// Registration of a proxy beside the service with this id and port. `sidecar_ports` is held: no other proxy gets its port.
    pub(super) fn sidecar_enrollment(
        &self,
        (service, service_port): (&str, u16),
        host: impl FnOnce() -> String,
        mut sidecar: ServiceRequest<'_>,
        replace_checks: bool,
    ) -> Result<RegisterWithoutLease, ConsulError> {
        if sidecar.port == 0 {
            let port = self.sidecar_port(service, service_port);
            let problem = "Invalid SidecarService: none of the ports 21000 to 21255 is free: give a Port";
            sidecar.listen_at(port.ok_or(ConsulError::BadRequest(problem))?);
        }
        sidecar.check_port()?;
        let checks = named(&sidecar)?;
        self.enrollment("", host, sidecar, checks, replace_checks)
    }

    /// Returns the port that the proxy of this service has, or the first that no service of our node has.
    fn sidecar_port(&self, service: &str, service_port: u16) -> Option<u16> {
        if let Some(known) = self.sidecar_of(service) {
            return port(&known.instance);
        }
        let used: BTreeSet<_> = self.own().iter().filter_map(|entry| port(&entry.instance)).collect();
        PORTS.into_iter().find(|port| *port != service_port && !used.contains(port))
    }

    /// Returns the proxy that was registered beside this service.
    pub(super) fn sidecar_of(&self, service: &str) -> Option<Arc<Entry>> {
        let entry = self.own_by_id(&sidecar_id(service))?;
        let listing = entry.instance.consul_registration.as_deref()?;
        let proxy: Json = serde_json::from_str(&listing.proxy).ok()?;
        let stands_before = &*listing.kind == "connect-proxy" && proxy["DestinationServiceID"] == service;
        stands_before.then_some(entry)
    }
}

fn port(instance: &Instance) -> Option<u16> {
    instance.addresses.first().map(|address| address.port)
}
