//! Protocol Buffers message of a saved check state. A line of an export has the same form as JSON.

use std::time::Duration;

use prost::Message;
use serde::{Deserialize, Serialize};

use super::check::decode_status;
use crate::{
    engine::{SavedCheck, SavedResult},
    model::{CheckId, FieldError, Revision, UnixMillis},
};

// Field numbers never change.

/// Saved state of one check. Times are milliseconds since 1970.
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

/// Last result of a check.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SavedResultRecord {
    #[prost(uint64, tag = "1")]
    at_ms: u64,
    /// Status, as [`CheckStatus::as_str`](crate::model::CheckStatus::as_str) names it.
    #[prost(string, tag = "2")]
    #[serde(alias = "verdict")]
    status: String,
    #[prost(uint64, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ns: Option<u64>,
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    output: String,
}

impl SavedCheckRecord {
    /// Encodes the state of a check.
    #[must_use]
    pub fn new(check: &CheckId, state: &SavedCheck) -> Self {
        let SavedCheck { created, ttl_from, critical_since, changes, last } = state;
        let result = |SavedResult { at, status, took, output }: &SavedResult| SavedResultRecord {
            at_ms: at.0,
            status: status.as_str().to_owned(),
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

    /// Decodes the id of the check and its state.
    ///
    /// # Errors
    ///
    /// When the id or the status is invalid.
    pub fn into_saved(self) -> Result<(CheckId, SavedCheck), FieldError> {
        let result = |SavedResultRecord { at_ms, status, took_ns, output }: SavedResultRecord| {
            let (status, took) = (decode_status(&status)?, took_ns.map(Duration::from_nanos));
            Ok(SavedResult { at: UnixMillis(at_ms), status, took, output: output.into() })
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
