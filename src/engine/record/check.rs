//! Protocol Buffers message of a check. A line of an export has the same form as JSON.
//!
//! Exports of earlier versions have other names for some fields, which are read as aliases.

mod description;
mod probe;

use std::sync::Arc;

use prost::Message;
use serde::{Deserialize, Serialize};

use super::{
    resolve_revision,
    span::{from_parts, millis, nanos_beyond_millis},
    unknown_fields::{KnownFields, MessageIdentity, NestedMessage},
};
use crate::model::{Check, CheckDefinition, CheckId, CheckStatus, FieldError, InstanceChecks, Revision, Thresholds};
use description::RecordCheckDescription;
use probe::{RecordPair, RecordProbeTls};

// Field numbers never change.

/// Fields of a [`RecordCheck`].
pub const CHECK_FIELDS: KnownFields = KnownFields {
    numbers: &[1..=17, 30..=31, 40..=45, 50..=52],
    messages: &[
        NestedMessage { number: 6, fields: &probe::PAIR_FIELDS, identity: MessageIdentity::Fields(&[1, 2]) },
        NestedMessage { number: 8, fields: &probe::TLS_FIELDS, identity: MessageIdentity::Single },
        NestedMessage { number: 31, fields: &description::DESCRIPTION_FIELDS, identity: MessageIdentity::Single },
    ],
};

/// Check of an instance.
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
    /// Kind of the probe, as `Probe::kind` names it.
    #[prost(string, tag = "4")]
    kind: String,
    /// URL, or host and port.
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
    /// Status, as [`CheckStatus::as_str`] names it.
    #[prost(string, tag = "15")]
    #[serde(alias = "verdict")]
    status: String,
    #[prost(uint64, tag = "16")]
    created: u64,
    #[prost(uint64, tag = "17")]
    revision: u64,
    #[prost(bool, tag = "30")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    separate: bool,
    #[prost(message, optional, tag = "31")]
    #[serde(skip_serializing_if = "Option::is_none", alias = "stated")]
    description: Option<RecordCheckDescription>,
    /// Nanoseconds of the interval beyond its milliseconds. The next two fields are those of the other durations.
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
    /// True to use the status of a redirect itself instead of following it.
    #[prost(bool, tag = "42")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    disable_redirects: bool,
    /// Maximum length of the output in bytes. 0: the default.
    #[prost(uint32, tag = "43")]
    output_max_size: u32,
    /// Revision at which the definition last changed. Absent: the one at which the check was added.
    #[prost(uint64, optional, tag = "44")]
    #[serde(skip_serializing_if = "Option::is_none")]
    definition_revision: Option<u64>,
    /// Number of reports that replicas which do not hold the instance told the holder of.
    #[prost(uint32, tag = "45")]
    #[serde(skip_serializing_if = "is_zero")]
    announced_reports: u32,
}

/// Encodes all checks of an instance.
#[must_use]
pub fn encode(checks: &InstanceChecks) -> Vec<RecordCheck> {
    checks.iter().map(RecordCheck::new).collect()
}

/// Decodes all checks of an instance.
///
/// # Errors
///
/// When the registry does not accept one of them.
pub fn decode(records: &[RecordCheck]) -> Result<InstanceChecks, FieldError> {
    InstanceChecks::new(records.iter().map(RecordCheck::to_check).collect::<Result<_, _>>()?)
}

/// Parses a stored status.
///
/// # Errors
///
/// When the text names no status.
pub fn decode_status(text: &str) -> Result<CheckStatus, FieldError> {
    CheckStatus::parse(text).ok_or_else(|| {
        FieldError::new("check.status", text, "is not a check status", "write passing, warning or critical")
    })
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
            description,
        } = &*check.definition;
        Self {
            id: id.to_string(),
            name: name.to_string(),
            notes: notes.to_string(),
            interval_ms: millis(*interval),
            interval_more_ns: nanos_beyond_millis(*interval),
            timeout_ms: millis(*timeout),
            timeout_more_ns: nanos_beyond_millis(*timeout),
            successes: thresholds.passing,
            failures_to_warn: thresholds.warning,
            failures: thresholds.critical,
            deregister_after_ms: deregister_after.map(millis),
            deregister_after_more_ns: deregister_after.map_or(0, nanos_beyond_millis),
            status: check.status.as_str().to_owned(),
            created: check.created.0,
            revision: check.revision.0,
            definition_revision: (check.definition_revision != check.created).then_some(check.definition_revision.0),
            announced_reports: check.announced_reports,
            separate: *separate,
            description: description.as_deref().map(RecordCheckDescription::new),
            output_max_size: *output_max_size,
            ..Self::from_probe(probe)
        }
    }

    /// Replaces 0, and what is above it, by the revision of this record.
    pub(super) fn resolve_revisions(&mut self, this: Revision) {
        let own = [&mut self.created, &mut self.revision];
        for revision in own.into_iter().chain(&mut self.definition_revision) {
            resolve_revision(revision, this);
        }
    }

    fn to_check(&self) -> Result<Check, FieldError> {
        let status = decode_status(&self.status)?;
        let definition = CheckDefinition {
            notes: self.notes.as_str().into(),
            interval: from_parts(self.interval_ms, self.interval_more_ns),
            timeout: from_parts(self.timeout_ms, self.timeout_more_ns),
            thresholds: Thresholds { passing: self.successes, warning: self.failures_to_warn, critical: self.failures },
            deregister_after: self.deregister_after_ms.map(|ms| from_parts(ms, self.deregister_after_more_ns)),
            output_max_size: self.output_max_size,
            separate: self.separate,
            description: self.description.as_ref().map(|record| Box::new(record.to_description())),
            ..CheckDefinition::new(CheckId::parse(&self.id)?, &self.name, self.to_probe()?)
        };
        let check = Check::new(Arc::new(definition.validated_stored()?), status);
        let defined = self.definition_revision.filter(|revision| *revision > 0);
        Ok(Check {
            created: Revision(self.created),
            revision: Revision(self.revision),
            definition_revision: Revision(defined.unwrap_or(self.created)),
            announced_reports: self.announced_reports,
            ..check
        })
    }
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

#[cfg(test)]
mod tests;
