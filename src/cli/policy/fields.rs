//! Fields of a policy, as the command line edits them. The server validates them.

use prost_types::{Struct, Value as ProtoValue, value::Kind};
use serde::Serialize;
use serde_json::{Map, Number, Value};

/// Fields of a policy in the order in which they are printed.
pub(in crate::cli) const FIELDS: [&str; 14] = [
    "lb",
    "timeout",
    "max_requests",
    "retry",
    "outlier",
    "weights",
    "slow_start",
    "zone",
    "shed",
    "subsets",
    "default",
    "empty",
    "fallback",
    ROUTE,
];
/// Field with the routes. In a document it comes last, because its entries are tables of their own.
pub(in crate::cli) const ROUTE: &str = "route";
/// Fields of a route in the order in which they are printed.
const ROUTE_FIELDS: [&str; 7] = ["header", "method", "to", "empty", "timeout", "retry", "hash_header"];
/// Whole numbers up to this one are exact in a double.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Fields of a policy and their values, without a check of either.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub(in crate::cli) struct PolicyFields(pub(super) Map<String, Value>);

impl PolicyFields {
    pub(in crate::cli) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the value of a field.
    pub(in crate::cli) fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }

    /// Returns the entries of a field that is a table. Empty if it is absent or of another type.
    pub(in crate::cli) fn table(&self, field: &str) -> Map<String, Value> {
        self.get(field).and_then(Value::as_object).cloned().unwrap_or_default()
    }

    /// Returns the routes.
    pub(in crate::cli) fn routes(&self) -> Vec<Value> {
        self.get(ROUTE).and_then(Value::as_array).cloned().unwrap_or_default()
    }

    /// Sets the routes. Without routes, the field is removed.
    pub(in crate::cli) fn set_routes(&mut self, routes: Vec<Value>) {
        if routes.is_empty() {
            self.0.remove(ROUTE);
        } else {
            self.0.insert(ROUTE.to_owned(), Value::Array(routes));
        }
    }

    /// Sets a field, or an entry of a table: `lb`, `retry.attempts`.
    pub(in crate::cli) fn set(&mut self, path: &str, value: impl Into<Value>) {
        match path.split_once('.') {
            Some((field, entry)) => self.set_entry(field, entry, value),
            None => {
                self.0.insert(path.to_owned(), value.into());
            }
        }
    }

    /// Sets an entry of a table. A field that is no table is replaced by one.
    pub(in crate::cli) fn set_entry(&mut self, field: &str, entry: &str, value: impl Into<Value>) {
        let table = self.0.entry(field).or_insert(Value::Null);
        if !table.is_object() {
            *table = Value::Object(Map::new());
        }
        table[entry] = value.into();
    }

    /// Removes a field, or an entry of a table. Returns whether it was there.
    pub(in crate::cli) fn remove(&mut self, path: &str) -> bool {
        match path.split_once('.') {
            Some((field, entry)) => self.remove_entry(field, entry),
            None => self.0.remove(path).is_some(),
        }
    }

    /// Removes an entry of a table, and the table with its last entry, unless an empty table means all default values. Returns whether the
    /// entry was there.
    pub(in crate::cli) fn remove_entry(&mut self, field: &str, entry: &str) -> bool {
        let Some(Value::Object(table)) = self.0.get_mut(field) else { return false };
        let removed = table.remove(entry).is_some();
        if removed && table.is_empty() && field != "outlier" {
            self.0.remove(field);
        }
        removed
    }

    /// Returns the fields in the order of [`FIELDS`]. Unknown ones, of a newer server, come before the routes.
    pub(in crate::cli) fn in_order(&self) -> impl Iterator<Item = (&str, &Value)> {
        ordered(&self.0, &FIELDS)
    }

    /// Converts the document of a response.
    pub(in crate::cli) fn from_proto(document: Option<Struct>) -> Self {
        Self(document.unwrap_or_default().fields.into_iter().map(|(name, value)| (name, from_proto(value))).collect())
    }

    /// Converts the document for a request.
    pub(in crate::cli) fn to_proto(&self) -> Struct {
        Struct { fields: self.0.iter().map(|(name, value)| (name.clone(), to_proto(value))).collect() }
    }
}

/// Returns the fields of a route in the order in which they are printed.
pub(super) fn route_fields(route: &Map<String, Value>) -> impl Iterator<Item = (&str, &Value)> {
    ordered(route, &ROUTE_FIELDS)
}

/// Returns the entries of a table: the known ones in their order, then the others; the routes last.
fn ordered<'a>(
    table: &'a Map<String, Value>,
    known: &'static [&'static str],
) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let mut entries: Vec<(&str, &Value)> = table.iter().map(|(name, value)| (&**name, value)).collect();
    let place = |name: &str| known.iter().position(|known| *known == name).unwrap_or(known.len());
    entries.sort_by_key(|(name, _)| (*name == ROUTE, place(name)));
    entries.into_iter()
}

fn to_proto(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        // Every JSON number has a nearest double.
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or(f64::NAN)),
        Value::String(value) => Kind::StringValue(value.clone()),
        Value::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.iter().map(to_proto).collect() })
        }
        Value::Object(table) => Kind::StructValue(PolicyFields(table.clone()).to_proto()),
    };
    ProtoValue { kind: Some(kind) }
}

fn from_proto(value: ProtoValue) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::NumberValue(value)) => number(value),
        Some(Kind::StringValue(value)) => Value::String(value),
        Some(Kind::ListValue(list)) => Value::Array(list.values.into_iter().map(from_proto).collect()),
        Some(Kind::StructValue(table)) => Value::Object(PolicyFields::from_proto(Some(table)).0),
    }
}

/// Returns a number that is printed without a fraction if it is whole.
#[expect(clippy::cast_possible_truncation, reason = "whole, and in the range of both types")]
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < MAX_EXACT {
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::policy::tests::fields;

    #[test]
    fn document_survives_the_way_to_the_server_and_back() {
        let document = fields(json!({
            "lb": "least_request", "max_requests": 4_294_967_295_u32, "shed": 0, "retry": {"attempts": 2, "on": ["unavailable"]},
            "outlier": {}, "route": [{"header": {"x-canary": "true"}, "to": {"v2": 100}}], "odd": [null, true, 1.5],
        }));
        assert_eq!(PolicyFields::from_proto(Some(document.to_proto())), document);
    }

    #[test]
    fn entry_of_a_table_is_set_and_the_table_removed_with_its_last_entry() {
        let mut document = fields(json!({"lb": "round_robin", "outlier": "off"}));
        document.set("retry.attempts", 2);
        document.set("outlier.hosts", 3);
        document.set("lb", "ring_hash");
        assert_eq!(document, fields(json!({"lb": "ring_hash", "outlier": {"hosts": 3}, "retry": {"attempts": 2}})));
        assert!(!document.remove("retry.backoff") && !document.remove("lb.x") && !document.remove("zone"));
        assert!(document.remove("retry.attempts") && document.remove("outlier"));
        assert_eq!(document, fields(json!({"lb": "ring_hash"})));
    }

    #[test]
    fn fields_are_in_the_order_of_the_documentation_with_routes_last() {
        let document = fields(json!({"route": [], "zone": "off", "newer": 1, "lb": "x", "default": {}, "subsets": {}}));
        let names: Vec<_> = document.in_order().map(|(name, _)| name).collect();
        assert_eq!(names, ["lb", "zone", "subsets", "default", "newer", "route"]);
    }
}
