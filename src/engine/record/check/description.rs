//! Protocol Buffers message of the description of a static check.

use prost::Message;
use serde::{Deserialize, Serialize};

use super::super::unknown_fields::KnownFields;
use crate::model::CheckDescription;

pub const DESCRIPTION_FIELDS: KnownFields = KnownFields { numbers: &[1..=5], messages: &[] };

/// Description that a catalog registration gives of a check.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordCheckDescription {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    output: String,
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    interval: String,
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    timeout: String,
    #[prost(string, tag = "5")]
    #[serde(skip_serializing_if = "String::is_empty")]
    definition: String,
}

impl RecordCheckDescription {
    pub(super) fn new(description: &CheckDescription) -> Self {
        let CheckDescription { output, kind, interval, timeout, definition } = description;
        Self {
            output: output.to_string(),
            kind: kind.to_string(),
            interval: interval.to_string(),
            timeout: timeout.to_string(),
            definition: definition.to_string(),
        }
    }

    pub(super) fn to_description(&self) -> CheckDescription {
        CheckDescription {
            output: self.output.as_str().into(),
            kind: self.kind.as_str().into(),
            interval: self.interval.as_str().into(),
            timeout: self.timeout.as_str().into(),
            definition: self.definition.as_str().into(),
        }
    }
}
