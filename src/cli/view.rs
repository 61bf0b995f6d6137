//! Instances and other values in the form that JSON, YAML and tables show.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::output::Printable;
use crate::pb::callboard::v1::{Address, Instance, InstanceStatus, RemovalReason};

/// Instance as printed. Its keys are stable, because scripts read them.
#[derive(Debug, Serialize)]
pub(crate) struct InstanceView {
    pub(crate) service: String,
    pub(crate) id: String,
    host: Option<String>,
    port: Option<u32>,
    addresses: Vec<AddressView>,
    pub(crate) status: &'static str,
    weight: u32,
    tags: Vec<String>,
    metadata: BTreeMap<String, String>,
    zone: Option<String>,
    region: Option<String>,
    sub_zone: Option<String>,
    registered_at: Option<String>,
    registered_revision: u64,
    pub(crate) revision: u64,
    /// Replica that holds the instance. Only in lists, and only if the registry has replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct AddressView {
    host: String,
    port: u32,
    name: Option<String>,
}

impl From<Instance> for InstanceView {
    fn from(instance: Instance) -> Self {
        let status = status(instance.status());
        let locality = instance.locality.unwrap_or_default();
        let primary = instance.addresses.first();
        Self {
            service: instance.service,
            id: instance.id,
            host: primary.map(|address| address.host.clone()),
            port: primary.map(|address| address.port),
            addresses: instance.addresses.into_iter().map(AddressView::from).collect(),
            status,
            weight: instance.weight,
            tags: instance.tags,
            metadata: instance.metadata.into_iter().collect(),
            zone: set(locality.zone),
            region: set(locality.region),
            sub_zone: set(locality.sub_zone),
            registered_at: time(instance.registered_at),
            registered_revision: instance.registered_revision,
            revision: instance.revision,
            holder: None,
        }
    }
}

impl From<Address> for AddressView {
    fn from(address: Address) -> Self {
        Self { host: address.host, port: address.port, name: set(address.name) }
    }
}

impl AddressView {
    /// Returns `host:port`, after the name if the address has one.
    pub(crate) fn text(&self) -> String {
        let at = host_port(&self.host, self.port);
        self.name.as_ref().map_or_else(|| at.clone(), |name| format!("{name}={at}"))
    }
}

impl InstanceView {
    /// Adds the name of the replica that holds the instance, if it is not empty.
    pub(crate) fn with_holder(self, holder: String) -> Self {
        Self { holder: set(holder), ..self }
    }

    /// Returns the primary address.
    pub(crate) fn address(&self) -> String {
        self.addresses.first().map(|first| host_port(&first.host, first.port)).unwrap_or_default()
    }

    /// Returns weight, zone and tags as phrases; those with default values are omitted.
    pub(crate) fn traits(&self) -> Vec<String> {
        let mut traits = Vec::new();
        if self.weight != 1 {
            traits.push(format!("weight={}", self.weight));
        }
        traits.extend(self.zone.iter().map(|zone| format!("zone={zone}")));
        if !self.tags.is_empty() {
            traits.push(format!("tags={}", self.tags.join(",")));
        }
        traits
    }

    /// Returns the metadata as `k=v,k=v`.
    pub(crate) fn metadata(&self) -> String {
        let pairs = self.metadata.iter().map(|(key, value)| format!("{key}={value}"));
        pairs.collect::<Vec<_>>().join(",")
    }
}

impl Printable for InstanceView {
    const COLUMNS: (&'static [&'static str], &'static [&'static str]) = (
        &["ID", "ADDRESS", "STATUS", "WEIGHT", "ZONE", "TAGS"],
        &["METADATA", "REGION", "SUB-ZONE", "OTHER ADDRESSES", "REGISTERED", "REVISION", "HOLDER"],
    );

    fn cells(&self) -> Vec<String> {
        let others = self.addresses.iter().skip(1).map(AddressView::text);
        vec![
            self.id.clone(),
            self.address(),
            self.status.to_owned(),
            self.weight.to_string(),
            or_dash(self.zone.as_deref()),
            or_dash(set(self.tags.join(",")).as_deref()),
            or_dash(set(self.metadata()).as_deref()),
            or_dash(self.region.as_deref()),
            or_dash(self.sub_zone.as_deref()),
            or_dash(set(others.collect::<Vec<_>>().join(",")).as_deref()),
            or_dash(self.registered_at.as_deref()),
            self.revision.to_string(),
            or_dash(self.holder.as_deref()),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.service, self.id)
    }
}

/// Returns the name without its prefix: `SERVING` for `INSTANCE_STATUS_SERVING`.
pub(crate) fn status(status: InstanceStatus) -> &'static str {
    let name = status.as_str_name();
    name.strip_prefix("INSTANCE_STATUS_").unwrap_or(name)
}

/// Returns the name of the status, or `None` if it is unspecified.
pub(crate) fn known_status(of: InstanceStatus) -> Option<&'static str> {
    (of != InstanceStatus::Unspecified).then(|| status(of))
}

/// Returns the reason of a removal, in lower case.
pub(crate) fn removal(reason: RemovalReason) -> &'static str {
    match reason {
        RemovalReason::Deregistered => "deregistered",
        RemovalReason::Expired => "expired",
        RemovalReason::Reaped => "reaped",
        RemovalReason::Superseded => "superseded",
        RemovalReason::NoLongerMatches => "no_longer_matches",
        RemovalReason::Unspecified => "unspecified",
    }
}

/// Formats a time as RFC 3339 in UTC, with milliseconds.
pub(crate) fn time(time: Option<prost_types::Timestamp>) -> Option<String> {
    rfc3339(SystemTime::try_from(time?).ok()?)
}

/// Formats a time as RFC 3339, or returns `None` if its year is out of range.
pub(crate) fn rfc3339(time: SystemTime) -> Option<String> {
    let mut text = String::new();
    // `to_string` would panic on a time that cannot be formatted, and the server may send any time.
    write!(text, "{}", humantime::format_rfc3339_millis(time)).ok()?;
    Some(text)
}

/// Converts a duration; a negative one becomes `None`.
pub(crate) fn duration(duration: Option<prost_types::Duration>) -> Option<Duration> {
    Duration::try_from(duration?).ok()
}

/// Formats `host:port`, with brackets around an IPv6 address.
pub(crate) fn host_port(host: &str, port: u32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Returns the text, or `None` if it is empty.
pub(crate) fn set(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Returns the text, or a dash for an empty cell, so that scripts can count columns.
pub(crate) fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

#[cfg(test)]
pub(crate) mod tests;
