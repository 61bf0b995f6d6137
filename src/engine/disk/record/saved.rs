//! Saved state of a check: as a record, and as a part of a line of an export, in the same form.

use std::time::Duration;

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::{
    engine::{SavedCheck, SavedResult},
    model::{CheckId, CheckStatus, FieldError, Revision, UnixMillis},
};

// Field numbers are for good, as in the record of an instance.

/// State of one check. Times are milliseconds since 1970.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SavedCheckRecord {
    #[prost(string, tag = "1")]
    check: String,
    #[prost(uint64, tag = "2")]
    created: u64,
    #[prost(uint64, tag = "3")]
    ttl_from_ms: u64,
    #[prost(uint64, optional, tag = "4")]
    #[serde(skip_serializing_if = "Option::is_none")]
    critical_since_ms: Option<u64>,
    #[prost(uint64, tag = "5")]
    changes: u64,
    #[prost(message, optional, tag = "6")]
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<SavedResultRecord>,
}

/// A result.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SavedResultRecord {
    #[prost(uint64, tag = "1")]
    at_ms: u64,
    /// As [`CheckStatus::as_str`] writes it.
    #[prost(string, tag = "2")]
    verdict: String,
    #[prost(uint64, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ns: Option<u64>,
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    output: String,
}

impl SavedCheckRecord {
    /// The state of a check, to be kept.
    #[must_use]
    pub fn new(check: &CheckId, state: &SavedCheck) -> Self {
        let SavedCheck { created, ttl_from, critical_since, changes, last } = state;
        let result = |SavedResult { at, status: verdict, took, output }: &SavedResult| SavedResultRecord {
            at_ms: at.0,
            verdict: verdict.as_str().to_owned(),
            took_ns: took.map(|took| u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)),
            output: output.to_string(),
        };
        Self {
            check: check.to_string(),
            created: created.0,
            ttl_from_ms: ttl_from.0,
            critical_since_ms: critical_since.map(|since| since.0),
            changes: *changes,
            last: last.as_ref().map(result),
        }
    }

    /// The check and its state, as they were kept.
    ///
    /// # Errors
    ///
    /// When the id or a status is none.
    pub fn restore(self) -> Result<(CheckId, SavedCheck), FieldError> {
        let result = |SavedResultRecord { at_ms, verdict, took_ns, output }: SavedResultRecord| {
            let known = CheckStatus::parse(&verdict).ok_or_else(|| {
                FieldError::new("check.verdict", &verdict, "is no verdict", "write passing, warning or critical")
            })?;
            let took = took_ns.map(Duration::from_nanos);
            Ok(SavedResult { at: UnixMillis(at_ms), status: known, took, output: output.into() })
        };
        let state = SavedCheck {
            created: Revision(self.created),
            ttl_from: UnixMillis(self.ttl_from_ms),
            critical_since: self.critical_since_ms.map(UnixMillis),
            changes: self.changes,
            last: self.last.map(result).transpose()?,
        };
        Ok((CheckId::parse(&self.check)?, state))
    }
}
