//! Error of one invalid value.

use std::borrow::Cow;

/// Maximum length of the value in a message, in characters.
const MAX_SHOWN_CHARS: usize = 64;

/// Error of an invalid value. The message names the field, the value, the problem and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value}{problem}: {hint}")]
pub struct FieldError {
    /// Name of the field in the API: `service`, `addresses[0].port`.
    pub field: Cow<'static, str>,
    /// Value, quoted and shortened, with control characters escaped and a space after it; empty if the message has no value.
    value: String,
    /// Problem: `is empty`.
    problem: Cow<'static, str>,
    /// Remedy.
    hint: Cow<'static, str>,
}

impl FieldError {
    /// An error that shows the value.
    pub fn new(
        field: impl Into<Cow<'static, str>>,
        value: &str,
        problem: impl Into<Cow<'static, str>>,
        hint: impl Into<Cow<'static, str>>,
    ) -> Self {
        let mut shown: String = value.chars().take(MAX_SHOWN_CHARS).flat_map(char::escape_debug).collect();
        if value.chars().nth(MAX_SHOWN_CHARS).is_some() {
            shown.push('…');
        }
        Self { value: format!("\"{shown}\" "), ..Self::without_value(field, problem, hint) }
    }

    /// An error that shows no value, because it is missing, secret or too long.
    pub fn without_value(
        field: impl Into<Cow<'static, str>>,
        problem: impl Into<Cow<'static, str>>,
        hint: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { field: field.into(), value: String::new(), problem: problem.into(), hint: hint.into() }
    }

    /// Replaces the name of the field, for a field that another API names differently.
    #[must_use]
    pub fn with_field(self, field: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), ..self }
    }

    /// Prefixes the name of the field with that of an outer field: `port` within `addresses[2]` becomes `addresses[2].port`.
    #[must_use]
    pub fn within(self, outer: &str) -> Self {
        Self { field: format!("{outer}.{}", self.field).into(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_has_field_value_problem_and_remedy() {
        let error = FieldError::new("port", "0", "is not a port", "give 1 to 65535").within("addresses[1]");
        assert_eq!(error.to_string(), "addresses[1].port \"0\" is not a port: give 1 to 65535");
        assert_eq!(FieldError::without_value("id", "is empty", "give one").to_string(), "id is empty: give one");
    }

    #[test]
    fn message_shortens_and_escapes_the_value() {
        let error = FieldError::new("service", &"x\u{1b}[2J".repeat(100), "is long", "shorten it").to_string();
        assert!(!error.contains('\u{1b}'));
        assert!(error.len() < 300, "{error}");
    }
}
