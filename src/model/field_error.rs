//! One refused value.

use std::borrow::Cow;

/// Longest piece of a refused value that a message repeats, in characters.
const SHOWN: usize = 64;

/// A value that the model refuses: which field, what it was, what is wrong with it, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value}{problem}: {hint}")]
pub struct FieldError {
    /// The field, by its name in the contract: `service`, `addresses[0].port`.
    pub field: Cow<'static, str>,
    /// The value, quoted, shortened, with control characters escaped, and a space behind it; empty where showing it would not help.
    value: String,
    /// What is wrong: `is empty`.
    problem: Cow<'static, str>,
    /// What to do instead.
    hint: Cow<'static, str>,
}

impl FieldError {
    /// A refusal that shows the value.
    pub fn new(
        field: impl Into<Cow<'static, str>>,
        value: &str,
        problem: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        let mut shown: String = value.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        if value.chars().nth(SHOWN).is_some() {
            shown.push('…');
        }
        Self { value: format!("\"{shown}\" "), ..Self::without_value(field, problem, remedy) }
    }

    /// A refusal of something that has no value worth showing: it is missing, too many, too long.
    pub fn without_value(
        field: impl Into<Cow<'static, str>>,
        problem: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { field: field.into(), value: String::new(), problem: problem.into(), hint: remedy.into() }
    }

    /// The same refusal, of a field that has another name where it was given.
    #[must_use]
    pub fn of(self, field: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), ..self }
    }

    /// The same refusal, of a field further out: `port` in `addresses[2]` is `addresses[2].port`.
    #[must_use]
    pub fn within(self, outer: &str) -> Self {
        Self { field: format!("{outer}.{}", self.field).into(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_field_value_reason_and_remedy() {
        let refusal = FieldError::new("port", "0", "is not a port", "give 1 to 65535").within("addresses[1]");
        assert_eq!(refusal.to_string(), "addresses[1].port \"0\" is not a port: give 1 to 65535");
        assert_eq!(FieldError::without_value("id", "is empty", "give one").to_string(), "id is empty: give one");
    }

    #[test]
    fn long_and_hostile_values_are_tamed() {
        let refusal = FieldError::new("service", &"x\u{1b}[2J".repeat(100), "is long", "shorten it").to_string();
        assert!(!refusal.contains('\u{1b}'));
        assert!(refusal.len() < 300, "{refusal}");
    }
}
