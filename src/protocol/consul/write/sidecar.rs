//! Sidecars: proxies that are registered together with their service, as Consul's agents register them.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value as Json;

use super::service::named_checks;
use crate::{
    model::Instance,
    protocol::consul::{
        Consul, ConsulError,
        body::{ServiceRequest, sidecar_id},
    },
    registry::{Entry, RegisterWithoutLease},
};

/// Ports for sidecars that give none.
const PORTS: std::ops::RangeInclusive<u16> = 21_000..=21_255;

impl Consul {
    /// Returns the registration of the sidecar of a service with this id and port. The caller holds `sidecar_ports`.
    pub(super) fn sidecar_registration(
        &self,
        (service, service_port): (&str, u16),
        host: impl FnOnce() -> String,
        mut sidecar: ServiceRequest<'_>,
        replace_checks: bool,
    ) -> Result<RegisterWithoutLease, ConsulError> {
        if sidecar.port == 0 {
            let port = self.sidecar_port(service, service_port);
            let error = "Invalid SidecarService: none of the ports 21000 to 21255 is free: give a Port";
            sidecar.set_port(port.ok_or(ConsulError::BadRequest(error))?);
        }
        sidecar.check_port()?;
        let checks = named_checks(&sidecar)?;
        self.service_registration("", host, sidecar, checks, replace_checks)
    }

    /// Returns the port of the registered sidecar of a service, or the first port that no service of the local node has.
    fn sidecar_port(&self, service: &str, service_port: u16) -> Option<u16> {
        if let Some(known) = self.sidecar_of(service) {
            return port(&known.instance);
        }
        let used: BTreeSet<_> = self.local_instances().iter().filter_map(|entry| port(&entry.instance)).collect();
        PORTS.into_iter().find(|port| *port != service_port && !used.contains(port))
    }

    /// Returns the registered sidecar of a service.
    pub(super) fn sidecar_of(&self, service: &str) -> Option<Arc<Entry>> {
        let entry = self.local_instance(&sidecar_id(service))?;
        let registration = entry.instance.consul_registration.as_deref()?;
        let proxy: Json = serde_json::from_str(&registration.proxy).ok()?;
        let is_sidecar = &*registration.kind == "connect-proxy" && proxy["DestinationServiceID"] == service;
        is_sidecar.then_some(entry)
    }
}

fn port(instance: &Instance) -> Option<u16> {
    instance.addresses.first().map(|address| address.port)
}
