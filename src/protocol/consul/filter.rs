//! Filters of Consul's API, over the JSON of answers.

mod selectors;

#[cfg(test)]
mod tests;

use serde::Serialize;
use serde_json::{Number, Value as Json};

use super::ConsulError;
use crate::model::filter::{
    self, CollectionItems, FieldValue, Filter, FilterError, FilterSelector, Filterable, Schema, SelectorKind,
};
pub(super) use selectors::{CATALOG, CHECKS, ENTRIES, NODES, SERVICES};

/// Field of an answer: its path, and its kind, which decides the value of an absent field.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConsulField {
    path: &'static str,
    kind: SelectorKind,
}

/// Filter of a query.
#[derive(Debug)]
pub(super) struct ConsulFilter(Option<Filter<ConsulField>>);

impl ConsulFilter {
    /// Parses the filter of a query. Without one, everything matches.
    pub(super) fn parse(text: Option<&str>, schema: &Schema<ConsulField>) -> Result<Self, ConsulError> {
        let text = text.unwrap_or_default();
        if text.trim().is_empty() {
            return Ok(Self(None));
        }
        let invalid = |error: FilterError| {
            let reason = reason(&error);
            ConsulError::Server(format!("Failed to create boolean expression evaluator: {reason}"))
        };
        Filter::parse(text, schema).map(|filter| Self(Some(filter))).map_err(invalid)
    }

    /// Returns whether everything matches.
    pub(super) fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Returns whether an element of an answer matches.
    pub(super) fn matches(&self, shown: &impl Serialize) -> bool {
        let Some(filter) = &self.0 else { return true };
        // An element that cannot be encoded is not in the answer.
        serde_json::to_value(shown).is_ok_and(|shown| filter.matches(&FilterTarget(&shown)))
    }
}

/// Returns the text of a filter error: that of Consul where the rules are the same.
fn reason(error: &FilterError) -> String {
    match &error.kind {
        filter::FilterErrorKind::UnknownSelector { selector, .. } => format!("Selector {selector:?} is not valid"),
        filter::FilterErrorKind::Operator { operator, selector, .. } => {
            format!("Invalid match operator {:?} for selector {selector:?}", operator_name(operator))
        }
        filter::FilterErrorKind::Value { value, selector, kind } => {
            let function = if *kind == SelectorKind::Boolean { "ParseBool" } else { "ParseInt" };
            let parsing = format!("strconv.{function}: parsing {value:?}: invalid syntax");
            format!("Failed to coerce value {value:?} for selector {selector:?}: {parsing}")
        }
        filter::FilterErrorKind::TooLong { .. }
        | filter::FilterErrorKind::TooDeep
        | filter::FilterErrorKind::TooManyPatterns
        | filter::FilterErrorKind::Syntax { .. }
        | filter::FilterErrorKind::Pattern { .. }
        | filter::FilterErrorKind::PatternTooLarge { .. } => error.to_string(),
    }
}

/// Returns the name that go-bexpr gives to an operator.
fn operator_name(written: &str) -> String {
    let words: Vec<_> = written.split_whitespace().collect();
    match &*words {
        ["=="] => "Equal".to_owned(),
        ["!="] => "Not Equal".to_owned(),
        ["contains"] => "In".to_owned(),
        ["not", "contains"] => "Not In".to_owned(),
        words => {
            let capitals = words.iter().map(|word| format!("{}{}", word[..1].to_uppercase(), &word[1..]));
            capitals.collect::<Vec<_>>().join(" ")
        }
    }
}

/// Element of an answer, as JSON.
struct FilterTarget<'a>(&'a Json);

impl Filterable for FilterTarget<'_> {
    type Field = ConsulField;

    fn any(&self, field: ConsulField, key: Option<&str>, test: impl Fn(FieldValue<'_>) -> bool) -> bool {
        any(Some(self.0), field.path, field.kind, key, &test)
    }
}

/// Follows a path, through every element of a list. A field that is absent or null is an empty list, an empty map, or the zero
/// value that Go gives it.
fn any(
    at: Option<&Json>,
    path: &str,
    kind: SelectorKind,
    key: Option<&str>,
    test: &dyn Fn(FieldValue<'_>) -> bool,
) -> bool {
    if path.is_empty() {
        return with_value(at, kind, test);
    }
    let (name, rest) = path.split_once('.').unwrap_or((path, ""));
    let field = |name: &str| at.and_then(|at| at.get(name));
    if name == "*" {
        return match field(key.unwrap_or_default()) {
            None => test(FieldValue::MissingInConsul),
            there => any(there, rest, kind, key, test),
        };
    }
    match name.strip_suffix("[]") {
        Some(list) if !rest.is_empty() => {
            let elements = field(list).and_then(Json::as_array);
            elements.into_iter().flatten().any(|element| any(Some(element), rest, kind, key, test))
        }
        Some(list) => any(field(list), rest, kind, key, test),
        None => any(field(name), rest, kind, key, test),
    }
}

/// Tests the value at the end of a path.
fn with_value(at: Option<&Json>, kind: SelectorKind, test: &dyn Fn(FieldValue<'_>) -> bool) -> bool {
    match (kind, at) {
        (SelectorKind::Text, Some(Json::String(string))) => test(FieldValue::Text(string)),
        // A filter may compare any value in the configuration of a proxy as text.
        (SelectorKind::Text, Some(scalar @ (Json::Number(_) | Json::Bool(_)))) => {
            test(FieldValue::Text(&scalar.to_string()))
        }
        (SelectorKind::Text, _) => test(FieldValue::Text("")),
        (SelectorKind::Number, at) => {
            let number = at.and_then(Json::as_number).and_then(Number::as_i64);
            test(FieldValue::Number(number.unwrap_or_default()))
        }
        (SelectorKind::Boolean, at) => test(FieldValue::Boolean(at.and_then(Json::as_bool).unwrap_or_default())),
        (SelectorKind::List | SelectorKind::Map | SelectorKind::Records, at) => {
            test(FieldValue::Members(at.unwrap_or(&Json::Null)))
        }
    }
}

impl CollectionItems for Json {
    fn is_empty(&self) -> bool {
        match self {
            Json::Array(elements) => elements.is_empty(),
            Json::Object(fields) => fields.is_empty(),
            _ => true,
        }
    }

    fn contains(&self, member: &str) -> bool {
        match self {
            Json::Array(elements) => elements.iter().any(|element| element.as_str() == Some(member)),
            Json::Object(fields) => fields.contains_key(member),
            _ => false,
        }
    }
}
