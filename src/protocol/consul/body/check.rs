//! Checks in requests.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use super::{ConsulError, Fields, object};
use crate::{
    model::{
        CheckDefinition, CheckDescription, CheckId, CheckStatus, HttpProbe, Probe, ProbeTarget, ProbeTls, Thresholds,
    },
    registry::NewCheck,
};

const INTERVAL: &str = "Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks";
const BOTH: &str = "Invalid check: Interval and TTL cannot both be specified";
const TTL: &str = "Invalid check: TTL must be > 0 for TTL checks";
const OUTPUT_MAX_SIZE: &str = "Invalid check: MaxOutputMaxSize must be positive";
const STATUS: &str = "Status for checks must 'passing', 'warning', 'critical'";
const SCRIPTS: &str =
    "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' to true";

/// Check that a request registers, before it is assigned to a service or a node.
#[derive(Debug)]
pub(crate) struct CheckRequest<'a> {
    /// Id. Empty: one is derived.
    pub(crate) id: Cow<'a, str>,
    /// Name. Empty: one is derived.
    pub(crate) name: Cow<'a, str>,
    notes: Cow<'a, str>,
    status: Cow<'a, str>,
    /// Id of the service that the check is for. Empty: the service of the same request, or else the node.
    pub(crate) service: Cow<'a, str>,
    probe: Probe,
    interval: Duration,
    timeout: Duration,
    thresholds: Thresholds,
    deregister_after: Duration,
    /// Maximum size of its output as sent: 0 is the default, and a negative size is an error.
    output_max_size: i64,
    /// Set if the check has a request of its own.
    separate: bool,
    description: Option<Box<CheckDescription>>,
}

/// Body of `check/update`.
#[derive(Debug)]
pub(crate) struct CheckUpdate<'a> {
    pub(crate) status: CheckStatus,
    pub(crate) output: Cow<'a, str>,
}

impl<'a> CheckUpdate<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, ConsulError> {
        let mut fields = object(bytes, "api.checkUpdate")?;
        let (status, output) = (fields.text(&["Status"])?, fields.text(&["Output"])?);
        fields.end()?;
        let invalid = || ConsulError::BadValue(format!("Invalid check status: '{status}'"));
        let status = CheckStatus::parse(&status).ok_or_else(invalid)?;
        Ok(Self { status, output })
    }
}

impl<'a> CheckRequest<'a> {
    /// Reads a check. `None`: all fields are null.
    pub(super) fn of(fields: Fields<'a>) -> Result<Option<Self>, ConsulError> {
        if fields.is_empty() { Ok(None) } else { Self::read_all(fields).map(Some) }
    }

    /// Reads the body of `check/register`.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, ConsulError> {
        Ok(Self { separate: true, ..Self::read_all(object(bytes, ".Alias")?)? })
    }

    /// Returns a TCP check of a target with an interval of 10 s.
    pub(super) fn tcp(name: &'static str, target: &str) -> Result<Self, ConsulError> {
        Ok(Self {
            id: Cow::default(),
            name: name.into(),
            notes: Cow::default(),
            status: Cow::default(),
            service: Cow::default(),
            probe: Probe::Tcp { target: ProbeTarget::parse("TCP", target)?, tls: None },
            interval: Duration::from_secs(10),
            timeout: Duration::ZERO,
            thresholds: Thresholds::default(),
            deregister_after: Duration::ZERO,
            output_max_size: 0,
            separate: false,
            description: None,
        })
    }

    fn read_all(mut fields: Fields<'a>) -> Result<Self, ConsulError> {
        let given = fields.text(&["CheckID"])?;
        let id = fields.text(&["ID"])?;
        let (interval, ttl) = (fields.duration(&["Interval"])?, fields.duration(&["TTL"])?);
        let probe = probe(&mut fields)?;
        let request = Self {
            id: if given.is_empty() { id } else { given },
            name: fields.text(&["Name"])?,
            notes: fields.text(&["Notes"])?,
            status: fields.text(&["Status"])?,
            service: fields.text(&["ServiceID", "service_id"])?,
            interval: if probe == Probe::Ttl { ttl } else { interval },
            probe,
            timeout: fields.duration(&["Timeout"])?,
            thresholds: Thresholds {
                passing: count(&mut fields, &["SuccessBeforePassing", "success_before_passing"])?,
                warning: count(&mut fields, &["FailuresBeforeWarning", "failures_before_warning"])?,
                critical: count(&mut fields, &["FailuresBeforeCritical", "failures_before_critical"])?,
            },
            deregister_after: fields
                .duration(&["DeregisterCriticalServiceAfter", "deregister_critical_service_after"])?,
            output_max_size: fields.number(&["OutputMaxSize", "output_max_size"])?.unwrap_or_default(),
            separate: false,
            description: None,
        };
        for known in [
            "Token",
            "ServiceName",
            "ServiceTags",
            "Node",
            "Output",
            "Type",
            "ExposedPort",
            "Shell",
            "ProxyHTTP",
            "ProxyGRPC",
            "CreateIndex",
            "ModifyIndex",
            "PeerName",
        ] {
            fields.ignore(&[known]);
        }
        fields.end()?;
        request.valid(interval, ttl)
    }

    /// Validates the check as Consul does.
    fn valid(self, interval: Duration, ttl: Duration) -> Result<Self, ConsulError> {
        if !interval.is_zero() && !ttl.is_zero() {
            return Err(ConsulError::BadRequest(BOTH));
        }
        CheckDefinition::validate_ttl(ttl)
            .map_err(|invalid| ConsulError::BadValue(format!("Invalid check: {invalid}")))?;
        if self.probe.is_active() && interval.is_zero() {
            return Err(ConsulError::BadRequest(INTERVAL));
        }
        if self.output_max_size < 0 {
            return Err(ConsulError::BadRequest(OUTPUT_MAX_SIZE));
        }
        if !self.status.is_empty() && CheckStatus::parse(&self.status).is_none() {
            return Err(ConsulError::BadRequest(STATUS));
        }
        Ok(self)
    }

    /// Returns the check. `id` and `name` are used where the request has none.
    pub(crate) fn check(&self, id: &str, name: &str) -> Result<NewCheck, ConsulError> {
        if self.probe == Probe::Ttl && self.interval.is_zero() {
            return Err(ConsulError::BadRequest(TTL));
        }
        let (id, name) = (non_empty_or(&self.id, id), non_empty_or(&self.name, name));
        let definition = CheckDefinition {
            notes: (&*self.notes).into(),
            interval: self.interval,
            timeout: self.timeout,
            thresholds: self.thresholds,
            deregister_after: Some(self.deregister_after),
            output_max_size: u32::try_from(self.output_max_size).unwrap_or(u32::MAX),
            separate: self.separate,
            description: self.description.clone(),
            ..CheckDefinition::new(CheckId::parse(id)?, name, self.probe.clone())
        };
        let status = CheckStatus::parse(&self.status).unwrap_or(CheckStatus::Critical);
        Ok(NewCheck { definition: Arc::new(definition.validated()?), status })
    }

    /// Returns the check as a check of the catalog, which this registry does not run. Its description is only shown.
    pub(super) fn with_description(mut self, description: CheckDescription) -> Self {
        self.probe = Probe::Static;
        self.description = Some(Box::new(description)).filter(|text| **text != CheckDescription::default());
        self
    }
}

fn non_empty_or<'a>(own: &'a str, other: &'a str) -> &'a str {
    if own.is_empty() { other } else { own }
}

fn count(fields: &mut Fields<'_>, names: &[&str]) -> Result<u32, ConsulError> {
    Ok(fields.number(names)?.map_or(0, |number| u32::try_from(number.max(0)).unwrap_or(u32::MAX)))
}

/// Reads the probe. A check without a probe is a TTL check.
fn probe(fields: &mut Fields<'_>) -> Result<Probe, ConsulError> {
    let tls = ProbeTls {
        server_name: fields.text(&["TLSServerName", "tls_server_name"])?.into(),
        skip_verify: fields.flag(&["TLSSkipVerify", "tls_skip_verify"])?,
    };
    let scripts = fields.texts(&["ScriptArgs", "script_args", "Args"])?;
    let (http, tcp) = (fields.text(&["HTTP"])?, fields.text(&["TCP"])?);
    let (tcp_tls, grpc_tls) =
        (fields.flag(&["TCPUseTLS", "tcp_use_tls"])?, fields.flag(&["GRPCUseTLS", "grpc_use_tls"])?);
    let (grpc, method, body) = (fields.text(&["GRPC"])?, fields.text(&["Method"])?, fields.text(&["Body"])?);
    let headers = headers(fields)?;
    let disable_redirects = fields.flag(&["DisableRedirects", "disable_redirects"])?;
    reject_unsupported(fields)?;
    if !scripts.is_empty() {
        return Err(ConsulError::Server(SCRIPTS.to_owned()));
    }
    if !http.is_empty() {
        let body = body.into();
        let get = HttpProbe::get(&http);
        return Ok(Probe::Http(HttpProbe { headers, body, disable_redirects, tls, ..get.with_method(&method) }));
    }
    if !tcp.is_empty() {
        return Ok(Probe::Tcp { target: ProbeTarget::parse("TCP", &tcp)?, tls: tcp_tls.then_some(tls) });
    }
    if !grpc.is_empty() {
        let (target, service) = grpc.split_once('/').unwrap_or((&grpc, ""));
        let (target, tls) = (ProbeTarget::parse("GRPC", target)?, grpc_tls.then_some(tls));
        return Ok(Probe::Grpc { target, service: service.into(), tls });
    }
    Ok(Probe::Ttl)
}

/// Rejects probes that this registry does not support.
fn reject_unsupported(fields: &mut Fields<'_>) -> Result<(), ConsulError> {
    fields.ignore(&["H2PingUseTLS", "h2ping_use_tls"]);
    for (names, kind) in [
        (&["DockerContainerID", "docker_container_id"][..], "Docker"),
        (&["H2PING", "h2ping"], "H2PING"),
        (&["UDP"], "UDP"),
        (&["OSService", "os_service"], "OSService"),
        (&["AliasService", "alias_service"], "Alias"),
        (&["AliasNode", "alias_node"], "Alias"),
    ] {
        if !fields.text(names)?.is_empty() {
            return Err(ConsulError::BadValue(format!(
                "Invalid check: {kind} checks are not supported: use HTTP, TCP, GRPC or TTL"
            )));
        }
    }
    Ok(())
}

/// A header and its value.
type Header = (Box<str>, Box<str>);

/// Reads the headers, including several values of one name. Names that differ only in case are different names, as in
/// Go.
fn headers(fields: &mut Fields<'_>) -> Result<Box<[Header]>, ConsulError> {
    let Some(headers) = fields.nested(&["Header"], "map[string][]string")? else { return Ok(Box::default()) };
    let of = headers.of;
    let by_name: BTreeMap<_, _> = headers.left.into_iter().collect();
    let mut all: Vec<Header> = Vec::new();
    for (name, values) in by_name {
        let mut field = Fields { of, left: vec![(name.clone(), values)] };
        all.extend(field.texts(&[&name])?.into_iter().map(|value| ((&*name).into(), value.into())));
    }
    Ok(all.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<NewCheck, ConsulError> {
        CheckRequest::read(json.as_bytes()).and_then(|request| request.check("id", "name"))
    }

    fn request(json: &str) -> HttpProbe {
        match &read(json).unwrap().definition.probe {
            Probe::Http(request) => request.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn http_check_keeps_method_body_and_every_header() {
        let request = request(
            r#"{"HTTP":"HTTP://u:p@h/","Interval":"1s","method":"PUT","Body":"{}","disable_redirects":true,
                "Header":{"x-a":["1","2"],"X-A":["3"],"Host":["web"],"none":[]}}"#,
        );
        let headers: Vec<_> = request.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(headers, [("Host", "web"), ("X-A", "3"), ("x-a", "1"), ("x-a", "2")]);
        assert_eq!((&*request.url, &*request.method, &*request.body), ("HTTP://u:p@h/", "PUT", "{}"));
        assert!(request.disable_redirects);
    }

    #[test]
    fn output_max_size_is_limited_to_the_default_and_rejected_below_zero() {
        let size = |value: &str| {
            read(&format!(r#"{{"TTL":"10s","OutputMaxSize":{value}}}"#)).map(|check| check.definition.output_max_size)
        };
        for (given, kept) in [("0", 4_096), ("64", 64), ("100000", 4_096), ("9223372036854775807", 4_096)] {
            assert_eq!(size(given).unwrap(), kept);
        }
        assert_eq!(size("-1").unwrap_err().to_string(), "Invalid check: MaxOutputMaxSize must be positive");
    }
}
