//! What `register` and `run` say of an instance, and how they tell what became of it.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use clap::Args;
use serde::Serialize;

use super::{
    error::{call, call_exit_code},
    output::{complain, escape},
    view::host_port,
};
use crate::{
    client::{RegistrationEnd, RegistrationEvent},
    pb::callboard::v1::{Address, Locality, RegisterRequest},
};

#[derive(Debug, Args)]
pub(crate) struct InstanceArgs {
    /// Unique within the service [default: HOST-PORT of its address]
    #[arg(long)]
    id: Option<String>,
    /// How long it stays listed without a sign of life [default: the registry's, 15s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// How long it stays listed when its connection breaks, if that is to be shorter
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    disconnect_grace: Option<Duration>,
    /// A label; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A label with a value; may be repeated
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Its share of the load beside its peers
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65535))]
    weight: Option<u32>,
    /// Where it runs, for example eu-west
    #[arg(long)]
    region: Option<String>,
    /// Where in the region, for example eu-west-1a
    #[arg(long)]
    zone: Option<String>,
    /// Where in the zone, for example a rack
    #[arg(long)]
    sub_zone: Option<String>,
    /// Take the id over from an instance that is still alive
    #[arg(long)]
    replace: bool,
}

impl InstanceArgs {
    /// What to ask of the registry.
    pub(crate) fn request(self, service: String, address: Address, starting: bool) -> RegisterRequest {
        // The address is as unique as an id can be, and the same after a restart: so a restarted program takes its own
        // place again instead of standing beside its ghost.
        let id = self.id.unwrap_or_else(|| format!("{}-{}", address.host, address.port));
        let somewhere = self.region.is_some() || self.zone.is_some() || self.sub_zone.is_some();
        RegisterRequest {
            service,
            id,
            addresses: vec![address],
            tags: self.tags,
            metadata: self.metadata.into_iter().collect::<HashMap<_, _>>(),
            weight: self.weight,
            locality: somewhere.then(|| Locality {
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

/// `HOST:PORT`, an IPv6 address in brackets.
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

/// One event of a registration, as JSON.
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
}

/// Who speaks of whom.
#[derive(Debug, Clone)]
pub(crate) struct RegistrationPrinter {
    /// The registry's address.
    pub(crate) server: String,
    pub(crate) service: String,
    pub(crate) id: String,
    pub(crate) address: String,
    /// The last trouble told. A registry that is away for hours is worth one line, not one every five seconds.
    told: Option<String>,
}

impl RegistrationPrinter {
    pub(crate) fn new(server: String, request: &RegisterRequest) -> Self {
        let address = request.addresses.first();
        Self {
            server,
            service: request.service.clone(),
            id: request.id.clone(),
            address: address.map(|address| host_port(&address.host, address.port)).unwrap_or_default(),
            told: None,
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.service, self.id)
    }

    /// Trouble, for stderr: told once, until it changes or ends.
    pub(crate) fn trouble(&mut self, event: &RegistrationEvent) {
        let name = self.name();
        let trouble = match event {
            RegistrationEvent::Interrupted { error, .. } => {
                format!("{name}: {}; trying on", call(&self.server, error))
            }
            RegistrationEvent::Degraded => format!("{name}: the registry cannot reach its store; the lease is kept"),
            RegistrationEvent::Ended(RegistrationEnd::Superseded) => {
                format!("{name}: another boot has taken this id over")
            }
            RegistrationEvent::Ended(RegistrationEnd::Removed) => format!("{name}: an operator removed it"),
            RegistrationEvent::Ended(RegistrationEnd::Refused(error)) => {
                format!("error: {}", call(&self.server, error))
            }
            RegistrationEvent::Ended(RegistrationEnd::Unanswered(error)) => {
                format!(
                    "{name}: its goodbye was not answered ({error}); if it was listed, it goes with its time to live"
                )
            }
            RegistrationEvent::Registered { .. }
            | RegistrationEvent::Updated { .. }
            | RegistrationEvent::Resumed { .. }
            | RegistrationEvent::Ended(RegistrationEnd::Deregistered { .. }) => {
                self.told = None;
                return;
            }
        };
        if self.told.as_ref() != Some(&trouble) {
            complain(&escape(&trouble));
            self.told = Some(trouble);
        }
    }

    /// What went well, in words. Trouble has none: it goes to stderr.
    pub(crate) fn success(&self, event: &RegistrationEvent) -> Option<String> {
        let (name, address) = (self.name(), &self.address);
        let text = match event {
            RegistrationEvent::Registered { ttl, revision, again, .. } => {
                let again = if *again { " again" } else { "" };
                let ttl = humantime::format_duration(*ttl);
                format!("registered {name} at {address}{again} (ttl {ttl}, revision {revision})")
            }
            RegistrationEvent::Updated { revision, starting, draining } => {
                let now = match (*draining, *starting) {
                    (true, _) => "draining",
                    (false, true) => "starting",
                    (false, false) => "ready",
                };
                format!("{name} is {now} (revision {revision})")
            }
            RegistrationEvent::Resumed { .. } => format!("resumed {name}: the registry still holds it"),
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

    /// The event for programs.
    pub(crate) fn announcement(&self, event: &RegistrationEvent) -> RegistrationReport {
        let mut said =
            RegistrationReport { service: self.service.clone(), id: self.id.clone(), ..RegistrationReport::default() };
        match event {
            RegistrationEvent::Registered { lease_id, ttl, revision, again } => {
                said.kind = "registered";
                said.lease_id = Some(hexadecimal(lease_id));
                said.ttl_seconds = Some(ttl.as_secs_f64());
                said.revision = Some(*revision);
                said.again = Some(*again);
            }
            RegistrationEvent::Updated { revision, starting, draining } => {
                said.kind = "updated";
                said.revision = Some(*revision);
                said.starting = Some(*starting);
                said.draining = Some(*draining);
            }
            RegistrationEvent::Interrupted { error, retry_in } => {
                said.kind = "interrupted";
                said.error = Some(error.to_string());
                said.retry_in_seconds = Some(retry_in.as_secs_f64());
            }
            RegistrationEvent::Resumed { .. } => said.kind = "resumed",
            RegistrationEvent::Degraded => said.kind = "degraded",
            RegistrationEvent::Ended(departure) => ended(&mut said, departure),
        }
        said
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _infallible = write!(text, "{byte:02x}");
    }
    text
}

fn ended(said: &mut RegistrationReport, departure: &RegistrationEnd) {
    said.kind = match departure {
        RegistrationEnd::Deregistered { removed } => {
            said.removed = Some(*removed);
            "deregistered"
        }
        RegistrationEnd::Superseded => "superseded",
        RegistrationEnd::Removed => "removed",
        RegistrationEnd::Unanswered(error) => {
            said.error = Some(error.to_string());
            "unanswered"
        }
        RegistrationEnd::Refused(error) => {
            said.error = Some(error.to_string());
            "refused"
        }
    };
}

/// What a shell should learn of how a registration ended.
pub(crate) fn departure_exit_code(departure: &RegistrationEnd) -> u8 {
    match departure {
        RegistrationEnd::Deregistered { .. } => 0,
        RegistrationEnd::Superseded | RegistrationEnd::Removed => 1,
        RegistrationEnd::Unanswered(error) | RegistrationEnd::Refused(error) => call_exit_code(error),
    }
}

#[cfg(test)]
mod tests;
