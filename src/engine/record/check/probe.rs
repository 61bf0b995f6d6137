//! Fields of a check record that describe its probe.

use prost::Message;
use serde::{Deserialize, Serialize};

use super::{super::unknown_fields::KnownFields, RecordCheck};
use crate::model::{FieldError, HttpProbe, Probe, ProbeTarget, ProbeTls};

pub const PAIR_FIELDS: KnownFields = KnownFields { numbers: &[1..=2], messages: &[] };
pub const TLS_FIELDS: KnownFields = KnownFields { numbers: &[1..=2], messages: &[] };

/// Name and value of a header.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordPair {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

/// TLS settings of a probe.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordProbeTls {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    server_name: String,
    #[prost(bool, tag = "2")]
    skip_verify: bool,
}

impl RecordCheck {
    /// Returns a record with the fields of the probe; the others are empty.
    pub(super) fn from_probe(probe: &Probe) -> Self {
        let record_tls =
            |tls: &ProbeTls| RecordProbeTls { server_name: tls.server_name.to_string(), skip_verify: tls.skip_verify };
        let kind = probe.kind().to_owned();
        match probe {
            Probe::Http(HttpProbe { url, method, headers, body, disable_redirects, tls }) => {
                let pair = |(name, value): &(Box<str>, Box<str>)| RecordPair {
                    name: name.to_string(),
                    value: value.to_string(),
                };
                Self {
                    kind,
                    target: url.to_string(),
                    method: if &**method == "GET" { String::new() } else { method.to_string() },
                    headers: headers.iter().map(pair).collect(),
                    body: body.to_string(),
                    disable_redirects: *disable_redirects,
                    tls: Some(record_tls(tls)),
                    ..Self::default()
                }
            }
            Probe::Tcp { target, tls } => {
                Self { kind, target: target.to_string(), tls: tls.as_ref().map(record_tls), ..Self::default() }
            }
            Probe::Grpc { target, service, tls } => Self {
                kind,
                target: target.to_string(),
                service: service.to_string(),
                tls: tls.as_ref().map(record_tls),
                ..Self::default()
            },
            Probe::Ttl | Probe::Static => Self { kind, ..Self::default() },
        }
    }

    /// Returns the probe of the record.
    pub(super) fn to_probe(&self) -> Result<Probe, FieldError> {
        let tls = self
            .tls
            .as_ref()
            .map(|tls| ProbeTls { server_name: tls.server_name.as_str().into(), skip_verify: tls.skip_verify });
        let target = || parse_stored_target(&self.target);
        let headers = self.headers.iter().map(|pair| (pair.name.as_str().into(), pair.value.as_str().into()));
        Ok(match self.kind.as_str() {
            "http" => Probe::Http(HttpProbe {
                headers: headers.collect(),
                body: self.body.as_str().into(),
                disable_redirects: self.disable_redirects,
                tls: tls.unwrap_or_default(),
                ..HttpProbe::get(&self.target).with_method(&self.method)
            }),
            "tcp" => Probe::Tcp { target: target()?, tls },
            "grpc" => Probe::Grpc { target: target()?, service: self.service.as_str().into(), tls },
            "ttl" => Probe::Ttl,
            "" => Probe::Static,
            other => {
                let hint = "write http, tcp, grpc, ttl or nothing";
                return Err(FieldError::new("check.kind", other, "is not a kind of check", hint));
            }
        })
    }
}

/// Parses a stored target. Earlier versions accepted hosts that are invalid now: a check of such a host is critical, but its record
/// is valid.
fn parse_stored_target(text: &str) -> Result<ProbeTarget, FieldError> {
    ProbeTarget::parse("check.target", text).or_else(|error| {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| error.clone())?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(|| error.clone())?;
        if host.is_empty() { Err(error) } else { Ok(ProbeTarget { host: host.into(), port }) }
    })
}
