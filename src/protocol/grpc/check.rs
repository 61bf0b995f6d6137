//! Conversions of health checks from and to the contract's messages.

use std::{sync::Arc, time::Duration};

use super::{
    ApiError,
    time::{duration, parse_duration, timestamp},
};
use crate::{
    health_check::{CheckResult, HealthChecks as Results},
    model::{
        Check, CheckDefinition, CheckId, CheckStatus, FieldError, HttpProbe, Instance, Probe, ProbeTarget, ProbeTls,
        Thresholds,
    },
    pb::callboard::v1 as pb,
    registry::NewCheck,
};

/// Interval of a check that gives none.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

/// Decodes the checks of a registration.
pub(super) fn decode_all(checks: &[pb::Check]) -> Result<Vec<NewCheck>, ApiError> {
    let decode = |(at, check): (usize, &pb::Check)| {
        self::decode(check).map_err(|error| match error {
            ApiError::Invalid(invalid) => ApiError::Invalid(invalid.within(&format!("checks[{at}]"))),
            other => other,
        })
    };
    checks.iter().enumerate().map(decode).collect()
}

fn decode(message: &pb::Check) -> Result<NewCheck, ApiError> {
    let probe = decode_probe(message.probe.as_ref())?;
    let id = if message.id.is_empty() { probe.kind() } else { &message.id };
    let name = if message.name.is_empty() { id } else { &message.name };
    let definition = CheckDefinition {
        notes: message.notes.as_str().into(),
        interval: parse_duration("interval", message.interval.as_ref())?.unwrap_or(DEFAULT_INTERVAL),
        timeout: parse_duration("timeout", message.timeout.as_ref())?.unwrap_or_default(),
        thresholds: Thresholds {
            passing: message.successes_before_passing,
            warning: message.failures_before_warning,
            critical: message.failures_before_critical,
        },
        deregister_after: parse_duration("deregister_critical_after", message.deregister_critical_after.as_ref())?,
        output_max_size: message.output_max_size,
        ..CheckDefinition::new(CheckId::parse(id)?, name, probe.clone())
    };
    let status = match message.initial_status() {
        pb::CheckStatus::Unspecified => CheckStatus::Critical,
        _ => decode_status("initial_status", message.initial_status)?,
    };
    Ok(NewCheck { definition: Arc::new(definition.validated()?), status })
}

fn decode_probe(message: Option<&pb::check::Probe>) -> Result<Probe, ApiError> {
    let tls = |message: &pb::ProbeTls| ProbeTls {
        server_name: message.server_name.as_str().into(),
        skip_verify: message.skip_verify,
    };
    Ok(match message {
        Some(pb::check::Probe::Http(http)) => {
            let mut headers: Vec<(Box<str>, Box<str>)> =
                http.headers.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect();
            headers.sort_unstable();
            headers
                .extend(http.more_headers.iter().map(|more| (more.name.as_str().into(), more.value.as_str().into())));
            Probe::Http(HttpProbe {
                headers: headers.into(),
                body: http.body.as_str().into(),
                disable_redirects: http.disable_redirects,
                tls: http.tls.as_ref().map(tls).unwrap_or_default(),
                ..HttpProbe::get(&http.url).with_method(&http.method)
            })
        }
        Some(pb::check::Probe::Tcp(tcp)) => {
            Probe::Tcp { target: ProbeTarget::parse("tcp.target", &tcp.target)?, tls: tcp.tls.as_ref().map(tls) }
        }
        Some(pb::check::Probe::Grpc(grpc)) => Probe::Grpc {
            target: ProbeTarget::parse("grpc.target", &grpc.target)?,
            service: grpc.service.as_str().into(),
            tls: grpc.tls.as_ref().map(tls),
        },
        Some(pb::check::Probe::Ttl(_)) => Probe::Ttl,
        None => {
            return Err(FieldError::without_value("probe", "is not given", "give one of http, tcp, grpc, ttl").into());
        }
    })
}

/// Decodes the status in a report or in a registration.
pub(super) fn decode_status(field: &'static str, status: i32) -> Result<CheckStatus, ApiError> {
    match pb::CheckStatus::try_from(status) {
        Ok(pb::CheckStatus::Passing) => Ok(CheckStatus::Passing),
        Ok(pb::CheckStatus::Warning) => Ok(CheckStatus::Warning),
        Ok(pb::CheckStatus::Critical) => Ok(CheckStatus::Critical),
        Ok(pb::CheckStatus::Unspecified) | Err(_) => {
            let hint = "send CHECK_STATUS_PASSING, CHECK_STATUS_WARNING or CHECK_STATUS_CRITICAL";
            Err(FieldError::new(field, &status.to_string(), "is not a check status", hint).into())
        }
    }
}

/// Encodes the present state of a check.
pub(super) fn encode_state(check: &Check) -> pb::CheckState {
    pb::CheckState {
        id: check.id().to_string(),
        name: check.definition.name.to_string(),
        kind: check.definition.probe.kind().to_owned(),
        status: status(check.status).into(),
        revision: check.revision.0,
    }
}

/// Encodes the recent results of an instance's checks.
pub(super) fn encode_reports(instance: &Instance, results: &Results) -> Vec<pb::CheckReport> {
    let report = |check: &Check| {
        let known = results.history(&instance.service, &instance.id, check.id());
        pb::CheckReport {
            state: Some(encode_state(check)),
            output: known.as_ref().map(|known| known.output().to_string()).unwrap_or_default(),
            results: known.as_ref().map(|known| known.results().iter().map(result).collect()).unwrap_or_default(),
            changes: known.map_or(0, |known| known.changes()),
        }
    };
    instance.checks.iter().map(report).collect()
}

fn result(result: &CheckResult) -> pb::CheckResult {
    pb::CheckResult {
        time: Some(timestamp(result.at)),
        status: status(result.status).into(),
        took: result.took.and_then(duration),
        output: result.output.to_string(),
    }
}

fn status(status: CheckStatus) -> pb::CheckStatus {
    match status {
        CheckStatus::Passing => pb::CheckStatus::Passing,
        CheckStatus::Warning => pb::CheckStatus::Warning,
        CheckStatus::Critical => pb::CheckStatus::Critical,
    }
}
