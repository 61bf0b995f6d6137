//! Checks and listings as they are kept: in a record, and in a line of an export, in the same form.

mod description;

use std::{sync::Arc, time::Duration};

use prost::Message;
use serde::{Deserialize, Serialize};

use description::RecordCheckDescription;

use crate::model::{
    Check, CheckDefinition, CheckId, CheckStatus, ConsulRegistration, FieldError, HttpProbe, InstanceChecks, Probe,
    ProbeTarget, ProbeTls, Revision, Thresholds,
};

// Field numbers are for good, as in the record itself.

/// One check.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordCheck {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    notes: String,
    /// As [`Probe::kind`] says it.
    #[prost(string, tag = "4")]
    kind: String,
    /// A URL, or host and port.
    #[prost(string, tag = "5")]
    #[serde(skip_serializing_if = "String::is_empty")]
    target: String,
    #[prost(message, repeated, tag = "6")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<RecordPair>,
    #[prost(string, tag = "7")]
    #[serde(skip_serializing_if = "String::is_empty")]
    service: String,
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<RecordProbeTls>,
    #[prost(uint64, tag = "9")]
    interval_ms: u64,
    #[prost(uint64, tag = "10")]
    timeout_ms: u64,
    #[prost(uint32, tag = "11")]
    successes: u32,
    #[prost(uint32, tag = "12")]
    failures_to_warn: u32,
    #[prost(uint32, tag = "13")]
    failures: u32,
    #[prost(uint64, optional, tag = "14")]
    #[serde(skip_serializing_if = "Option::is_none")]
    deregister_after_ms: Option<u64>,
    /// As [`CheckStatus::as_str`] says it.
    #[prost(string, tag = "15")]
    verdict: String,
    #[prost(uint64, tag = "16")]
    created: u64,
    #[prost(uint64, tag = "17")]
    revision: u64,
    #[prost(bool, tag = "30")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    separate: bool,
    #[prost(message, optional, tag = "31")]
    #[serde(skip_serializing_if = "Option::is_none")]
    stated: Option<RecordCheckDescription>,
    /// Nanoseconds that the lengths of time have beyond their milliseconds.
    #[prost(uint32, tag = "50")]
    #[serde(skip_serializing_if = "is_zero")]
    interval_more_ns: u32,
    #[prost(uint32, tag = "51")]
    #[serde(skip_serializing_if = "is_zero")]
    timeout_more_ns: u32,
    #[prost(uint32, tag = "52")]
    #[serde(skip_serializing_if = "is_zero")]
    deregister_after_more_ns: u32,
    /// Method of an HTTP request. Empty: GET.
    #[prost(string, tag = "40")]
    #[serde(skip_serializing_if = "String::is_empty")]
    method: String,
    /// Body of an HTTP request.
    #[prost(string, tag = "41")]
    #[serde(skip_serializing_if = "String::is_empty")]
    body: String,
    /// Judges redirects instead of following them.
    #[prost(bool, tag = "42")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disable_redirects: bool,
    /// Most bytes of output. 0: the usual.
    #[prost(uint32, tag = "43")]
    output_max_size: u32,
    /// Revision at which the definition last changed. 0: the one at which the check was added.
    #[prost(uint64, tag = "44")]
    #[serde(skip_serializing_if = "is_zero")]
    definition_revision: u64,
}

/// A name and what goes with it.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// How a probe speaks TLS.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordProbeTls {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    server_name: String,
    #[prost(bool, tag = "2")]
    skip_verify: bool,
}

/// What was said in Consul's words.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordConsulRegistration {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    node: String,
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    address: String,
    #[prost(message, repeated, tag = "4")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tagged_addresses: Vec<RecordTaggedAddress>,
    #[prost(uint32, tag = "5")]
    warning_weight: u32,
    #[prost(bool, tag = "6")]
    enable_tag_override: bool,
    #[prost(string, tag = "7")]
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    #[prost(string, tag = "8")]
    #[serde(skip_serializing_if = "String::is_empty")]
    socket_path: String,
    #[prost(string, tag = "9")]
    #[serde(skip_serializing_if = "String::is_empty")]
    maintenance: String,
    #[prost(uint64, tag = "10")]
    described: u64,
    #[prost(string, tag = "20")]
    #[serde(skip_serializing_if = "String::is_empty")]
    proxy: String,
    #[prost(bool, tag = "21")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    connect_native: bool,
    #[prost(bool, tag = "22")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    from_catalog: bool,
}

/// An address under a name.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordTaggedAddress {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    host: String,
    #[prost(uint32, tag = "3")]
    port: u32,
}

/// All checks of an instance, to be kept.
#[must_use]
pub fn keep(checks: &InstanceChecks) -> Vec<RecordCheck> {
    checks.iter().map(RecordCheck::new).collect()
}

/// All checks of an instance, as they were kept.
///
/// # Errors
///
/// When one is none that the registry takes.
pub fn restore(kept: &[RecordCheck]) -> Result<InstanceChecks, FieldError> {
    InstanceChecks::new(kept.iter().map(RecordCheck::check).collect::<Result<_, _>>()?)
}

impl RecordCheck {
    fn new(check: &Check) -> Self {
        let CheckDefinition {
            id,
            name,
            notes,
            probe,
            interval,
            timeout,
            thresholds,
            deregister_after,
            output_max_size,
            separate,
            description: stated,
        } = &*check.definition;
        Self {
            id: id.to_string(),
            name: name.to_string(),
            notes: notes.to_string(),
            interval_ms: millis(*interval),
            interval_more_ns: beyond_millis(*interval),
            timeout_ms: millis(*timeout),
            timeout_more_ns: beyond_millis(*timeout),
            successes: thresholds.passing,
            failures_to_warn: thresholds.warning,
            failures: thresholds.critical,
            deregister_after_ms: deregister_after.map(millis),
            deregister_after_more_ns: deregister_after.map_or(0, beyond_millis),
            verdict: check.status.as_str().to_owned(),
            created: check.created.0,
            revision: check.revision.0,
            definition_revision: if check.definition_revision == check.created {
                0
            } else {
                check.definition_revision.0
            },
            separate: *separate,
            stated: stated.as_deref().map(RecordCheckDescription::new),
            output_max_size: *output_max_size,
            ..Self::of_probe(probe)
        }
    }

    /// Fields that say how the check is made; the others are empty.
    fn of_probe(probe: &Probe) -> Self {
        let kept_tls =
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
                    tls: Some(kept_tls(tls)),
                    ..Self::default()
                }
            }
            Probe::Tcp { target, tls } => {
                Self { kind, target: target.to_string(), tls: tls.as_ref().map(kept_tls), ..Self::default() }
            }
            Probe::Grpc { target, service, tls } => Self {
                kind,
                target: target.to_string(),
                service: service.to_string(),
                tls: tls.as_ref().map(kept_tls),
                ..Self::default()
            },
            Probe::Ttl | Probe::Static => Self { kind, ..Self::default() },
        }
    }

    fn check(&self) -> Result<Check, FieldError> {
        let verdict = CheckStatus::parse(&self.verdict).ok_or_else(|| {
            FieldError::new("check.verdict", &self.verdict, "is no verdict", "write passing, warning or critical")
        })?;
        let definition = CheckDefinition {
            notes: self.notes.as_str().into(),
            interval: span(self.interval_ms, self.interval_more_ns),
            timeout: span(self.timeout_ms, self.timeout_more_ns),
            thresholds: Thresholds { passing: self.successes, warning: self.failures_to_warn, critical: self.failures },
            deregister_after: self.deregister_after_ms.map(|ms| span(ms, self.deregister_after_more_ns)),
            output_max_size: self.output_max_size,
            separate: self.separate,
            description: self.stated.as_ref().map(|kept| Box::new(kept.stated())),
            ..CheckDefinition::new(CheckId::parse(&self.id)?, &self.name, self.probe()?)
        };
        let check = Check::new(Arc::new(definition.kept()?), verdict);
        let defined = if self.definition_revision == 0 { self.created } else { self.definition_revision };
        Ok(Check {
            created: Revision(self.created),
            revision: Revision(self.revision),
            definition_revision: Revision(defined),
            ..check
        })
    }

    fn probe(&self) -> Result<Probe, FieldError> {
        let tls = self
            .tls
            .as_ref()
            .map(|tls| ProbeTls { server_name: tls.server_name.as_str().into(), skip_verify: tls.skip_verify });
        let target = || stored_target(&self.target);
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
                let remedy = "write http, tcp, grpc, ttl or nothing";
                return Err(FieldError::new("check.kind", other, "is no kind of check", remedy));
            }
        })
    }
}

/// A target as it was stored. Earlier versions accepted hosts that are refused today; a check of one of those is critical, which
/// is no reason to refuse the record.
fn stored_target(text: &str) -> Result<ProbeTarget, FieldError> {
    ProbeTarget::parse("check.target", text).or_else(|refusal| {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| refusal.clone())?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(|| refusal.clone())?;
        if host.is_empty() { Err(refusal) } else { Ok(ProbeTarget { host: host.into(), port }) }
    })
}

impl RecordConsulRegistration {
    /// A listing, to be kept.
    #[must_use]
    pub fn new(listing: &ConsulRegistration) -> Self {
        let address = |(name, host, port): &(Box<str>, Box<str>, u16)| RecordTaggedAddress {
            name: name.to_string(),
            host: host.to_string(),
            port: (*port).into(),
        };
        Self {
            node: listing.node.to_string(),
            id: listing.id.to_string(),
            address: listing.address.to_string(),
            tagged_addresses: listing.tagged_addresses.iter().map(address).collect(),
            warning_weight: listing.warning_weight.into(),
            enable_tag_override: listing.enable_tag_override,
            kind: listing.kind.to_string(),
            socket_path: listing.socket_path.to_string(),
            maintenance: listing.maintenance.to_string(),
            described: listing.description_revision.0,
            proxy: listing.proxy.to_string(),
            connect_native: listing.connect_native,
            from_catalog: listing.from_catalog,
        }
    }

    /// As it was kept.
    ///
    /// # Errors
    ///
    /// When it is none that the registry takes.
    pub fn listing(&self) -> Result<Arc<ConsulRegistration>, FieldError> {
        let number = |field, value: u32| {
            u16::try_from(value)
                .map_err(|_| FieldError::new(field, &value.to_string(), "is too large", "write 0 to 65535"))
        };
        let address = |RecordTaggedAddress { name, host, port }: &RecordTaggedAddress| {
            Ok((name.as_str().into(), host.as_str().into(), number("port", *port)?))
        };
        let listing = ConsulRegistration {
            node: self.node.as_str().into(),
            id: self.id.as_str().into(),
            address: self.address.as_str().into(),
            tagged_addresses: self.tagged_addresses.iter().map(address).collect::<Result<_, FieldError>>()?,
            warning_weight: number("warning_weight", self.warning_weight)?,
            enable_tag_override: self.enable_tag_override,
            kind: self.kind.as_str().into(),
            socket_path: self.socket_path.as_str().into(),
            maintenance: self.maintenance.as_str().into(),
            description_revision: Revision(self.described),
            proxy: self.proxy.as_str().into(),
            connect_native: self.connect_native,
            from_catalog: self.from_catalog,
        };
        listing.check().map(Arc::new)
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn beyond_millis(span: Duration) -> u32 {
    span.subsec_nanos() % 1_000_000
}

fn span(millis: u64, more_nanos: u32) -> Duration {
    Duration::from_millis(millis).saturating_add(Duration::from_nanos(more_nanos.into()))
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CheckDescription;

    #[test]
    fn every_kind_of_check_survives() {
        let tls = ProbeTls { server_name: "db".into(), skip_verify: true };
        let target = ProbeTarget::parse("tcp", "[::1]:80").unwrap();
        let url = "https://[::1]:80/x?y";
        let probes = [
            Probe::Http(HttpProbe {
                method: "POST".into(),
                headers: [("A", "b"), ("a", "c")].map(|(name, value)| (name.into(), value.into())).into(),
                body: "{}\n\0".into(),
                disable_redirects: true,
                tls: tls.clone(),
                ..HttpProbe::get(url)
            }),
            Probe::Http(HttpProbe::get("HTTP://user:secret@h")),
            Probe::Tcp { target: target.clone(), tls: Some(tls.clone()) },
            Probe::Grpc { target, service: "s".into(), tls: None },
            Probe::Ttl,
            Probe::Static,
        ];
        let checks = probes.into_iter().enumerate().map(|(at, probe)| {
            let definition = CheckDefinition {
                notes: "line\nline".into(),
                interval: Duration::from_secs(10),
                deregister_after: Some(Duration::from_mins(2)),
                output_max_size: 64,
                separate: at % 2 == 0,
                description: (probe == Probe::Static).then(|| {
                    Box::new(CheckDescription {
                        output: "slow\n".into(),
                        kind: "http".into(),
                        interval: "10s".into(),
                        timeout: "1s".into(),
                        definition: r#"{"HTTP":"http://10.0.0.1/"}"#.into(),
                    })
                }),
                ..CheckDefinition::new(CheckId::parse(&at.to_string()).unwrap(), "n", probe)
            };
            let check = Check::new(definition.check().unwrap().into(), CheckStatus::Warning);
            let definition_revision = Revision(3 + at as u64);
            Check { created: Revision(3), revision: Revision(u64::MAX), definition_revision, ..check }
        });
        let checks = InstanceChecks::new(checks.collect()).unwrap();
        let kept = keep(&checks);
        assert_eq!(restore(&kept), Ok(checks));
        let json = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Vec<RecordCheck>>(&json).unwrap(), kept);
        assert!(restore(&[RecordCheck { kind: "tcp".into(), ..RecordCheck::default() }]).is_err());
    }

    #[test]
    fn check_of_an_earlier_version_is_restored() {
        let old = |kind: &str, target: &str| RecordCheck {
            id: "a".into(),
            kind: kind.into(),
            target: target.into(),
            interval_ms: 10_000,
            timeout_ms: 1_000,
            verdict: "passing".into(),
            ..RecordCheck::default()
        };
        let restored = |kind, target| restore(&[old(kind, target)]).unwrap().get("a").unwrap().definition.clone();
        let http = restored("http", "http://h:99999/x");
        assert_eq!(http.probe, Probe::Http(HttpProbe::get("http://h:99999/x")));
        assert_eq!(http.output_max_size, 4_096);
        for (target, host) in [("[::1]:80", "::1"), ("[a:b]:80", "a:b"), ("user@h:80", "user@h")] {
            let Probe::Tcp { target, .. } = restored("tcp", target).probe.clone() else { panic!("a TCP check") };
            assert_eq!((&*target.host, target.port), (host, 80));
        }
        assert!(restore(&[old("tcp", "h")]).is_err());
    }

    #[test]
    fn ttl_that_an_earlier_version_stored_as_zero_is_the_shortest() {
        let old =
            RecordCheck { id: "a".into(), kind: "ttl".into(), verdict: "passing".into(), ..RecordCheck::default() };
        let restored = restore(&[old]).unwrap();
        assert_eq!(restored.get("a").unwrap().definition.interval, Duration::from_secs(1));
    }

    #[test]
    fn a_listing_survives() {
        let listing = ConsulRegistration {
            node: "ext".into(),
            id: "db".into(),
            tagged_addresses: [("lan".into(), "10.0.0.1".into(), 80)].into(),
            warning_weight: 7,
            enable_tag_override: true,
            proxy: r#"{"Config":{"a":1}}"#.into(),
            connect_native: true,
            from_catalog: true,
            maintenance: "why".into(),
            description_revision: Revision(9),
            ..ConsulRegistration::default()
        };
        let kept = RecordConsulRegistration::new(&listing);
        assert_eq!(kept.listing(), Ok(listing.into()));
        assert!(RecordConsulRegistration { warning_weight: 70_000, ..kept }.listing().is_err());
    }
}
