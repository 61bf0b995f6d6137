//! Checks in answers: those that exist, and synthetic ones for a lease, for a node that is alive, and for maintenance.

use std::{borrow::Cow, time::Duration};

use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::{registered_text, service_id};
use crate::{
    health_check::HealthChecks,
    model::{Check, CheckDescription, CheckStatus, Conditions, Instance, InstanceId, Probe, ServiceName, Status},
};

/// Type of the synthetic check of a service or node in maintenance.
const MAINTENANCE: &str = "maintenance";
/// Note on a service in maintenance without a reason.
const NO_REASON: &str =
    "Maintenance mode is enabled for this service, but no reason was provided. This is a default message.";
/// Note on a node in maintenance without a reason.
const NO_NODE_REASON: &str =
    "Maintenance mode is enabled for this node, but no reason was provided. This is a default message.";

/// Check in an answer.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::protocol::consul) struct HealthCheck<'a> {
    node: Cow<'a, str>,
    #[serde(rename = "CheckID")]
    pub check_id: Cow<'a, str>,
    name: Cow<'a, str>,
    pub status: &'static str,
    notes: Cow<'a, str>,
    output: Cow<'a, str>,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: Vec<&'a str>,
    #[serde(rename = "Type")]
    kind: Cow<'a, str>,
    interval: Cow<'a, str>,
    timeout: Cow<'a, str>,
    exposed_port: u16,
    definition: Map<String, Json>,
    create_index: u64,
    modify_index: u64,
}

impl<'a> HealthCheck<'a> {
    /// Returns a synthetic check.
    fn synthetic(node: Cow<'a, str>, id: String, name: &'static str, kind: &'static str) -> Self {
        Self {
            node,
            check_id: id.into(),
            name: name.into(),
            status: CheckStatus::Critical.as_str(),
            notes: "".into(),
            output: "".into(),
            service_id: "",
            service_name: "",
            service_tags: Vec::new(),
            kind: kind.into(),
            interval: "".into(),
            timeout: "".into(),
            exposed_port: 0,
            definition: Map::new(),
            create_index: 0,
            modify_index: 0,
        }
    }

    /// Assigns the check to an instance.
    fn of(self, instance: &'a Instance) -> Self {
        Self {
            service_id: service_id(instance),
            service_name: instance.service.as_str(),
            service_tags: instance.tags.iter().collect(),
            ..self
        }
    }

    /// Returns the key that sorts checks by node, then by id.
    pub(in crate::protocol::consul) fn by_node(&self) -> (String, String) {
        (self.node.to_ascii_lowercase(), self.check_id.to_ascii_lowercase())
    }

    /// Returns whether it is the synthetic check of maintenance.
    pub(in crate::protocol::consul) fn is_maintenance(&self) -> bool {
        self.kind == MAINTENANCE
    }

    /// Returns the check without indexes, as an agent shows it.
    pub(in crate::protocol::consul) fn without_indexes(self) -> Self {
        Self { create_index: 0, modify_index: 0, ..self }
    }

    /// Returns the check without its definition, as an agent shows it with the health of a service.
    pub(in crate::protocol::consul) fn brief(self) -> BriefCheck<'a> {
        BriefCheck {
            node: self.node,
            check_id: self.check_id,
            name: self.name,
            status: self.status,
            notes: self.notes,
            output: self.output,
            service_id: self.service_id,
            service_name: self.service_name,
            service_tags: (!self.service_id.is_empty()).then_some(self.service_tags),
            kind: "",
            exposed_port: 0,
            definition: NoDefinition::default(),
            create_index: 0,
            modify_index: 0,
        }
    }

    pub(in crate::protocol::consul) fn new(node: Cow<'a, str>, check: &'a Check, output: String) -> Self {
        let definition = &check.definition;
        let shown = Self {
            name: Cow::Borrowed(&*definition.name),
            status: check.status.as_str(),
            notes: Cow::Borrowed(&*definition.notes),
            create_index: check.created.0,
            modify_index: check.revision.0,
            ..Self::synthetic(node, definition.id.to_string(), "", definition.probe.kind())
        };
        if definition.probe == Probe::Static {
            return match definition.description.as_deref() {
                None => shown,
                Some(description) => shown.with_description(description),
            };
        }
        let interval = if definition.probe == Probe::Ttl { Duration::ZERO } else { definition.interval };
        // Consul leaves zero durations out of checks that were registered with their service.
        let span = |span: Duration| {
            if span.is_zero() && !definition.separate { "".into() } else { go_duration(span).into() }
        };
        Self { output: output.into(), interval: span(interval), timeout: span(definition.timeout), ..shown }
    }

    /// Fills in the description of a check of the catalog.
    fn with_description(self, description: &'a CheckDescription) -> Self {
        Self {
            output: Cow::Borrowed(&*description.output),
            kind: Cow::Borrowed(&*description.kind),
            interval: Cow::Borrowed(&*description.interval),
            timeout: Cow::Borrowed(&*description.timeout),
            definition: serde_json::from_str(&description.definition).unwrap_or_default(),
            ..self
        }
    }

    /// Returns the synthetic check that every node with an agent has in Consul.
    pub(in crate::protocol::consul) fn serf_health(node: Cow<'a, str>, index: u64) -> Self {
        Self {
            status: CheckStatus::Passing.as_str(),
            output: "Agent alive and reachable".into(),
            create_index: index,
            modify_index: index,
            ..Self::synthetic(node, "serfHealth".to_owned(), "Serf Health Status", "")
        }
    }
}

/// Check without its definition, as an agent shows it with the health of a service.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::protocol::consul) struct BriefCheck<'a> {
    node: Cow<'a, str>,
    #[serde(rename = "CheckID")]
    check_id: Cow<'a, str>,
    name: Cow<'a, str>,
    status: &'static str,
    notes: Cow<'a, str>,
    output: Cow<'a, str>,
    #[serde(rename = "ServiceID")]
    service_id: &'a str,
    service_name: &'a str,
    service_tags: Option<Vec<&'a str>>,
    #[serde(rename = "Type")]
    kind: &'static str,
    exposed_port: u16,
    definition: NoDefinition,
    create_index: u64,
    modify_index: u64,
}

/// Definition of a check where answers leave it empty.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NoDefinition {
    interval: &'static str,
    timeout: &'static str,
    deregister_critical_service_after: &'static str,
    #[serde(rename = "HTTP")]
    http: &'static str,
    header: Option<()>,
    method: &'static str,
    body: &'static str,
    #[serde(rename = "TLSServerName")]
    tls_server_name: &'static str,
    #[serde(rename = "TLSSkipVerify")]
    tls_skip_verify: bool,
    #[serde(rename = "TCP")]
    tcp: &'static str,
    #[serde(rename = "TCPUseTLS")]
    tcp_use_tls: bool,
    #[serde(rename = "UDP")]
    udp: &'static str,
    #[serde(rename = "GRPC")]
    grpc: &'static str,
    #[serde(rename = "OSService")]
    os_service: &'static str,
    #[serde(rename = "GRPCUseTLS")]
    grpc_use_tls: bool,
}

impl Default for NoDefinition {
    fn default() -> Self {
        Self {
            interval: "0s",
            timeout: "0s",
            deregister_critical_service_after: "0s",
            http: "",
            header: None,
            method: "",
            body: "",
            tls_server_name: "",
            tls_skip_verify: false,
            tcp: "",
            tcp_use_tls: false,
            udp: "",
            grpc: "",
            os_service: "",
            grpc_use_tls: false,
        }
    }
}

/// Returns the checks of an instance, by id, with the synthetic ones of its lease and of maintenance.
pub(in crate::protocol::consul) fn checks_of<'a>(
    instance: &'a Instance,
    node: &Cow<'a, str>,
    checks: &HealthChecks,
) -> Vec<HealthCheck<'a>> {
    let mut all: Vec<_> =
        own_checks(&instance.service, &instance.id, instance, node, checks).map(|check| check.of(instance)).collect();
    let Conditions { self_draining, operator_draining, .. } = instance.conditions;
    if self_draining || operator_draining {
        let id = format!("_service_maintenance:{}", service_id(instance));
        let reason = registered_text(instance, |registration| &registration.maintenance);
        let check = HealthCheck::synthetic(node.clone(), id, "Service Maintenance Mode", MAINTENANCE).of(instance);
        all.push(HealthCheck {
            notes: if reason.is_empty() { NO_REASON.into() } else { reason.into() },
            create_index: instance.revision.0,
            modify_index: instance.revision.0,
            ..check
        });
    }
    if instance.consul_registration.is_none() {
        all.push(lease_of(instance, node));
    }
    all.sort_by(|one, other| one.check_id.cmp(&other.check_id));
    all
}

/// Returns the checks of a node itself, by id, with the synthetic one of maintenance.
pub(in crate::protocol::consul) fn checks_of_node<'a>(
    node: &'a Instance,
    name: &Cow<'a, str>,
    checks: &HealthChecks,
) -> Vec<HealthCheck<'a>> {
    let mut all: Vec<_> = own_checks(&node.service, &node.id, node, name, checks).collect();
    if node.conditions.operator_draining {
        let reason = registered_text(node, |registration| &registration.maintenance);
        let id = "_node_maintenance".to_owned();
        all.push(HealthCheck {
            notes: if reason.is_empty() { NO_NODE_REASON.into() } else { reason.into() },
            create_index: node.revision.0,
            modify_index: node.revision.0,
            ..HealthCheck::synthetic(name.clone(), id, "Node Maintenance Mode", MAINTENANCE)
        });
    }
    all
}

fn own_checks<'a>(
    service: &'a ServiceName,
    id: &'a InstanceId,
    instance: &'a Instance,
    node: &Cow<'a, str>,
    checks: &HealthChecks,
) -> impl Iterator<Item = HealthCheck<'a>> {
    let output = move |check: &Check| {
        checks.history(service, id, check.id()).map(|history| history.output().to_string()).unwrap_or_default()
    };
    instance.checks.iter().map(move |check| HealthCheck::new(node.clone(), check, output(check)))
}

/// Returns the synthetic check of a lease.
fn lease_of<'a>(instance: &'a Instance, node: &Cow<'a, str>) -> HealthCheck<'a> {
    let (status, output) = match instance.status() {
        Status::Starting if instance.conditions.starting => (CheckStatus::Critical, "the instance is starting"),
        Status::Suspect => (CheckStatus::Passing, "the lease has expired, and self-preservation holds the instance"),
        Status::Serving | Status::Starting | Status::Draining | Status::Unhealthy => {
            (CheckStatus::Passing, "the lease is held")
        }
    };
    let id = format!("lease:{}", instance.id);
    HealthCheck {
        status: status.as_str(),
        output: output.into(),
        create_index: instance.registered_revision.0,
        modify_index: instance.revision.0,
        ..HealthCheck::synthetic(node.clone(), id, "Lease", "ttl").of(instance)
    }
}

/// Returns a duration as Go writes it: `1m30s`, `1.5s`, `200ms`.
pub(in crate::protocol::consul) fn go_duration(span: Duration) -> String {
    let nanoseconds = span.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let fraction = |value: u128, unit: u128, name: &str| {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            return format!("{whole}{name}");
        }
        let digits = unit.ilog10() as usize;
        let rest = format!("{rest:0digits$}");
        format!("{whole}.{}{name}", rest.trim_end_matches('0'))
    };
    match nanoseconds {
        0..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => fraction(nanoseconds, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(nanoseconds, 1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (span.as_secs() / 60, nanoseconds % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_is_written_as_in_go() {
        let cases = [
            (0, "0s"),
            (200_000_000, "200ms"),
            (1_500_000, "1.5ms"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (5_400_000_000_000, "1h30m0s"),
            (7, "7ns"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(go_duration(Duration::from_nanos(nanoseconds)), text);
        }
    }
}
