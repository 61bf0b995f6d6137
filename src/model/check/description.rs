//! Description of a static check.

use crate::model::FieldError;

/// Maximum length of the output that a catalog registration gives of a check, in bytes.
pub(crate) const MAX_DESCRIBED_OUTPUT_BYTES: usize = 4_096;
/// Maximum length of the definition that a catalog registration gives of a check, in bytes.
const MAX_DESCRIBED_DEFINITION_BYTES: usize = 8 * 1024;
/// Maximum length of any other text, in bytes.
const MAX_TEXT_BYTES: usize = 512;

/// Description that a catalog registration gives of a check besides its status. It is only shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckDescription {
    /// Last output.
    pub output: Box<str>,
    /// Type of the check, as Consul names it.
    pub kind: Box<str>,
    /// Time from one probe to the next.
    pub interval: Box<str>,
    /// Timeout of a probe.
    pub timeout: Box<str>,
    /// Definition as a JSON object; empty if none was given.
    pub definition: Box<str>,
}

impl CheckDescription {
    /// Validates the description.
    ///
    /// # Errors
    ///
    /// When the output has more than 4,096 bytes, the definition more than 8,192, or another text more than 512.
    pub fn validated(self) -> Result<Self, FieldError> {
        for (field, text, max) in [
            ("check.output", &self.output, MAX_DESCRIBED_OUTPUT_BYTES),
            ("check.definition", &self.definition, MAX_DESCRIBED_DEFINITION_BYTES),
            ("check.type", &self.kind, MAX_TEXT_BYTES),
            ("check.interval", &self.interval, MAX_TEXT_BYTES),
            ("check.timeout", &self.timeout, MAX_TEXT_BYTES),
        ] {
            if text.len() > max {
                let hint = format!("keep it within {max} bytes");
                return Err(FieldError::without_value(field, format!("has {} bytes", text.len()), hint));
            }
        }
        Ok(self)
    }
}
