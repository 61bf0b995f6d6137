//! Arguments that describe an instance, and the output of its registration's events, for `register` and `run`.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use clap::Args;
use serde::Serialize;

use super::{
    error::{call, call_exit_code, lost},
    terminal::{ErrorPrinter, escape},
    view::host_port,
};
use crate::{
    client::{RegistrationEnd, RegistrationEvent},
    pb::callboard::v1::{Address, Locality, RegisterRequest},
};

#[derive(Debug, Args)]
pub(crate) struct InstanceArgs {
    /// Instance id, unique within the service [default: HOST-PORT of the address]
    #[arg(long)]
    id: Option<String>,
    /// Time to live of the lease: how long the instance stays listed without heartbeats [default: 15s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// Time that the instance stays listed after its connection breaks [default: its TTL]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    disconnect_grace: Option<Duration>,
    /// Tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Metadata entry; may be repeated
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Weight for load balancing, relative to the other instances [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65535))]
    weight: Option<u32>,
    /// Region that it runs in, for example eu-west
    #[arg(long)]
    region: Option<String>,
    /// Zone within the region, for example eu-west-1a
    #[arg(long)]
    zone: Option<String>,
    /// Sub-zone within the zone, for example a rack
    #[arg(long)]
    sub_zone: Option<String>,
    /// Take over the id even if another instance holds it and is alive
    #[arg(long)]
    replace: bool,
}

impl InstanceArgs {
    /// Returns the request to register the instance.
    pub(crate) fn request(self, service: String, address: Address, starting: bool) -> RegisterRequest {
        // The address is unique and stays the same over a restart, so a restarted program takes over its own registration
        // instead of adding a second one.
        let id = self.id.unwrap_or_else(|| format!("{}-{}", address.host, address.port));
        let has_locality = self.region.is_some() || self.zone.is_some() || self.sub_zone.is_some();
        RegisterRequest {
            service,
            id,
            addresses: vec![address],
            tags: self.tags,
            metadata: self.metadata.into_iter().collect::<HashMap<_, _>>(),
            weight: self.weight,
            locality: has_locality.then(|| Locality {
                region: self.region.unwrap_or_default(),
                zone: self.zone.unwrap_or_default(),
                sub_zone: self.sub_zone.unwrap_or_default(),
            }),
            ttl: self.ttl.and_then(|ttl| ttl.try_into().ok()),
            disconnect_grace: self.disconnect_grace.and_then(|grace| grace.try_into().ok()),
            replace: self.replace,
            starting,
            ..RegisterRequest::default()
        }
    }
}

/// Parses `HOST:PORT`, with an IPv6 address in brackets.
pub(crate) fn address(text: &str) -> Result<Address, String> {
    let (host, port) = text.rsplit_once(':').ok_or("the port is missing; write HOST:PORT, as in 127.0.0.1:9001")?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bare.is_none() && host.contains(':') {
        return Err("an IPv6 address needs brackets, as in [::1]:9001".to_owned());
    }
    let host = bare.unwrap_or(host);
    if host.is_empty() {
        return Err("the host is missing; write HOST:PORT, as in 127.0.0.1:9001".to_owned());
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(Address { host: host.to_owned(), port: u32::from(port), name: String::new() }),
        _ => Err(format!("`{port}` is not a port; write a number from 1 to 65535")),
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it has no key; write KEY=VALUE, as in team=checkout".to_owned()),
    }
}

/// Event of a registration, as JSON.
#[derive(Debug, Default, Serialize)]
pub(crate) struct RegistrationReport {
    #[serde(rename = "type")]
    kind: &'static str,
    service: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    again: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    starting: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    draining: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_in_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
}

/// Printer of a registration's events.
#[derive(Debug, Clone)]
pub(crate) struct RegistrationPrinter {
    /// Addresses of the registry.
    pub(crate) servers: String,
    pub(crate) service: String,
    pub(crate) id: String,
    pub(crate) address: String,
    errors: ErrorPrinter,
}

impl RegistrationPrinter {
    pub(crate) fn new(servers: String, request: &RegisterRequest) -> Self {
        let address = request.addresses.first();
        Self {
            servers,
            service: request.service.clone(),
            id: request.id.clone(),
            address: address.map(|address| host_port(&address.host, address.port)).unwrap_or_default(),
            errors: ErrorPrinter::default(),
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.service, self.id)
    }

    /// Prints an error to standard error, unless it was printed since the last success.
    pub(crate) fn print_error(&mut self, event: &RegistrationEvent) {
        let name = self.name();
        let message = match event {
            RegistrationEvent::Interrupted { error, server, .. } => {
                format!("{name}: {}; retrying", lost(server.as_ref().unwrap_or(&self.servers), error))
            }
            RegistrationEvent::Degraded => format!("{name}: the server cannot reach its store; it keeps the lease"),
            RegistrationEvent::Ended(RegistrationEnd::Superseded) => {
                format!("{name}: another boot took over the id")
            }
            RegistrationEvent::Ended(RegistrationEnd::Removed) => format!("{name}: an operator removed the instance"),
            RegistrationEvent::Ended(RegistrationEnd::Rejected(error)) => {
                format!("error: {}", call(&self.servers, error))
            }
            RegistrationEvent::Ended(RegistrationEnd::Unconfirmed(error)) => {
                format!(
                    "{name}: the registry did not confirm the deregistration ({error}); the instance expires with its lease"
                )
            }
            RegistrationEvent::Registered { .. }
            | RegistrationEvent::Updated { .. }
            | RegistrationEvent::Resumed { .. }
            | RegistrationEvent::Ended(RegistrationEnd::Deregistered { .. }) => {
                self.errors.clear();
                return;
            }
        };
        self.errors.print(message);
    }

    /// Returns the line of an event that is not an error.
    pub(crate) fn success(&self, event: &RegistrationEvent) -> Option<String> {
        let (name, address) = (self.name(), &self.address);
        let text = match event {
            RegistrationEvent::Registered { ttl, revision, again, server, .. } => {
                let again = if *again { " again" } else { "" };
                let ttl = humantime::format_duration(*ttl);
                let server = self.of_several(server.as_deref());
                format!("registered {name} at {address}{again} (ttl {ttl}, revision {revision}{server})")
            }
            RegistrationEvent::Updated { revision, starting, draining } => {
                let now = match (*draining, *starting) {
                    (true, _) => "draining",
                    (false, true) => "starting",
                    (false, false) => "ready",
                };
                format!("{name} is {now} (revision {revision})")
            }
            RegistrationEvent::Resumed { server, .. } => match server {
                Some(server) if self.has_several() => format!("resumed {name}: {server} holds its lease"),
                Some(_) | None => format!("resumed {name}: the registry still holds it"),
            },
            RegistrationEvent::Ended(RegistrationEnd::Deregistered { removed: true }) => format!("deregistered {name}"),
            RegistrationEvent::Ended(RegistrationEnd::Deregistered { removed: false }) => {
                format!("{name} was not registered")
            }
            RegistrationEvent::Interrupted { .. } | RegistrationEvent::Degraded | RegistrationEvent::Ended(_) => {
                return None;
            }
        };
        Some(escape(&text).into_owned())
    }

    fn has_several(&self) -> bool {
        self.servers.contains(',')
    }

    /// Returns the server in use for a list in brackets, if there are several.
    fn of_several(&self, server: Option<&str>) -> String {
        server.filter(|_| self.has_several()).map(|server| format!(", server {server}")).unwrap_or_default()
    }

    /// Returns the event as programs read it.
    pub(crate) fn report(&self, event: &RegistrationEvent) -> RegistrationReport {
        let mut report =
            RegistrationReport { service: self.service.clone(), id: self.id.clone(), ..RegistrationReport::default() };
        match event {
            RegistrationEvent::Registered { lease_id, ttl, revision, again, server } => {
                report.kind = "registered";
                report.server.clone_from(server);
                report.lease_id = Some(hexadecimal(lease_id));
                report.ttl_seconds = Some(ttl.as_secs_f64());
                report.revision = Some(*revision);
                report.again = Some(*again);
            }
            RegistrationEvent::Updated { revision, starting, draining } => {
                report.kind = "updated";
                report.revision = Some(*revision);
                report.starting = Some(*starting);
                report.draining = Some(*draining);
            }
            RegistrationEvent::Interrupted { error, retry_in, server } => {
                report.kind = "interrupted";
                report.server.clone_from(server);
                report.error = Some(error.to_string());
                report.retry_in_seconds = Some(retry_in.as_secs_f64());
            }
            RegistrationEvent::Resumed { server, .. } => {
                report.kind = "resumed";
                report.server.clone_from(server);
            }
            RegistrationEvent::Degraded => report.kind = "degraded",
            RegistrationEvent::Ended(end) => set_end(&mut report, end),
        }
        report
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

fn set_end(report: &mut RegistrationReport, end: &RegistrationEnd) {
    report.kind = match end {
        RegistrationEnd::Deregistered { removed } => {
            report.removed = Some(*removed);
            "deregistered"
        }
        RegistrationEnd::Superseded => "superseded",
        RegistrationEnd::Removed => "removed",
        RegistrationEnd::Unconfirmed(error) => {
            report.error = Some(error.to_string());
            "unconfirmed"
        }
        RegistrationEnd::Rejected(error) => {
            report.error = Some(error.to_string());
            "rejected"
        }
    };
}

/// Returns the exit code of a registration that ended.
pub(crate) fn exit_code_of_end(end: &RegistrationEnd) -> u8 {
    match end {
        RegistrationEnd::Deregistered { .. } => 0,
        RegistrationEnd::Superseded | RegistrationEnd::Removed => 1,
        RegistrationEnd::Unconfirmed(error) | RegistrationEnd::Rejected(error) => call_exit_code(error),
    }
}

#[cfg(test)]
mod tests;
