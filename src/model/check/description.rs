//! What the catalog is told of a check that nobody makes here.

use crate::model::FieldError;

/// Maximum length of the output that a registration in the catalog states, in bytes.
pub(crate) const MAX_DESCRIBED_OUTPUT_BYTES: usize = 4_096;
/// Maximum length of the definition of a check that a registration in the catalog states, in bytes.
const MAX_STATED_DEFINITION_BYTES: usize = 8 * 1024;
/// Maximum length of any other text, in bytes.
const MAX_TEXT_BYTES: usize = 512;

/// What a registration in the catalog says of a check beside its status: as given, and only shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckDescription {
    /// Its last output.
    pub output: Box<str>,
    /// Its type, in Consul's words.
    pub kind: Box<str>,
    /// Time from one probe to the next.
    pub interval: Box<str>,
    /// Time that a probe may take.
    pub timeout: Box<str>,
    /// How it is made, as a JSON object; empty where nothing was said.
    pub definition: Box<str>,
}

impl CheckDescription {
    /// Returns the same, unless a part of it is too long.
    ///
    /// # Errors
    ///
    /// When the output has more than 4,096 bytes, the definition more than 8,192, or another text more than 512.
    pub fn check(self) -> Result<Self, FieldError> {
        for (field, text, most) in [
            ("check.output", &self.output, MAX_DESCRIBED_OUTPUT_BYTES),
            ("check.definition", &self.definition, MAX_STATED_DEFINITION_BYTES),
            ("check.type", &self.kind, MAX_TEXT_BYTES),
            ("check.interval", &self.interval, MAX_TEXT_BYTES),
            ("check.timeout", &self.timeout, MAX_TEXT_BYTES),
        ] {
            if text.len() > most {
                let remedy = format!("keep it within {most} bytes");
                return Err(FieldError::without_value(field, format!("has {} bytes", text.len()), remedy));
            }
        }
        Ok(self)
    }
}
