//! What filters can ask of what is shown: the selectors of Consul's own types, over the very JSON that is answered.

use serde::Serialize;
use serde_json::Value as Json;

use super::Problem;
use crate::model::filter::{self, Filter, FilterError, Kind, Members, Record, Schema, Selector, Value};

/// A selector is its own path.
type Path = &'static str;

const fn text(path: Path) -> Selector<Path> {
    Selector { path, kind: Kind::Text, field: path }
}
const fn number(path: Path) -> Selector<Path> {
    Selector { path, kind: Kind::Number, field: path }
}
const fn switch(path: Path) -> Selector<Path> {
    Selector { path, kind: Kind::Boolean, field: path }
}
const fn list(path: Path) -> Selector<Path> {
    Selector { path, kind: Kind::List, field: path }
}
const fn map(path: Path) -> Selector<Path> {
    Selector { path, kind: Kind::Map, field: path }
}

/// Entries of `/v1/health/service`.
pub(super) const ENTRIES: Schema<Path> = Schema::new(&[
    text("Node.ID"),
    text("Node.Node"),
    text("Node.Address"),
    text("Node.Datacenter"),
    map("Node.TaggedAddresses"),
    text("Node.TaggedAddresses.*"),
    map("Node.Meta"),
    text("Node.Meta.*"),
    text("Service.Kind"),
    text("Service.ID"),
    text("Service.Service"),
    list("Service.Tags"),
    text("Service.Address"),
    map("Service.TaggedAddresses"),
    text("Service.TaggedAddresses.*.Address"),
    number("Service.TaggedAddresses.*.Port"),
    map("Service.Meta"),
    text("Service.Meta.*"),
    number("Service.Port"),
    text("Service.SocketPath"),
    number("Service.Weights.Passing"),
    number("Service.Weights.Warning"),
    switch("Service.EnableTagOverride"),
    text("Checks.Node"),
    text("Checks.CheckID"),
    text("Checks.Name"),
    text("Checks.Status"),
    text("Checks.Notes"),
    text("Checks.Output"),
    text("Checks.ServiceID"),
    text("Checks.ServiceName"),
    list("Checks.ServiceTags"),
    text("Checks.Type"),
]);

/// Services of `/v1/catalog/service`.
pub(super) const CATALOG: Schema<Path> = Schema::new(&[
    text("ID"),
    text("Node"),
    text("Address"),
    text("Datacenter"),
    map("TaggedAddresses"),
    text("TaggedAddresses.*"),
    map("NodeMeta"),
    text("NodeMeta.*"),
    text("ServiceKind"),
    text("ServiceID"),
    text("ServiceName"),
    list("ServiceTags"),
    text("ServiceAddress"),
    map("ServiceTaggedAddresses"),
    text("ServiceTaggedAddresses.*.Address"),
    number("ServiceTaggedAddresses.*.Port"),
    map("ServiceMeta"),
    text("ServiceMeta.*"),
    number("ServicePort"),
    number("ServiceWeights.Passing"),
    number("ServiceWeights.Warning"),
    switch("ServiceEnableTagOverride"),
]);

/// Checks.
pub(super) const CHECKS: Schema<Path> = Schema::new(&[
    text("Node"),
    text("CheckID"),
    text("Name"),
    text("Status"),
    text("Notes"),
    text("Output"),
    text("ServiceID"),
    text("ServiceName"),
    list("ServiceTags"),
    text("Type"),
]);

/// Services of an agent, and of a node.
pub(super) const SERVICES: Schema<Path> = Schema::new(&[
    text("Kind"),
    text("ID"),
    text("Service"),
    list("Tags"),
    text("Address"),
    map("TaggedAddresses"),
    text("TaggedAddresses.*.Address"),
    number("TaggedAddresses.*.Port"),
    map("Meta"),
    text("Meta.*"),
    number("Port"),
    number("Weights.Passing"),
    number("Weights.Warning"),
    switch("EnableTagOverride"),
]);

/// Nodes.
pub(super) const NODES: Schema<Path> = Schema::new(&[
    text("ID"),
    text("Node"),
    text("Address"),
    text("Datacenter"),
    map("TaggedAddresses"),
    text("TaggedAddresses.*"),
    map("Meta"),
    text("Meta.*"),
]);

/// A filter over one of these.
#[derive(Debug)]
pub(super) struct Wanted(Option<Filter<Path>>);

impl Wanted {
    /// The filter that a query has, if it has one.
    pub(super) fn parse(text: Option<&str>, schema: &Schema<Path>) -> Result<Self, Problem> {
        let text = text.unwrap_or_default();
        if text.trim().is_empty() {
            return Ok(Self(None));
        }
        let refused = |error: FilterError| {
            let why = match &error.problem {
                filter::Problem::UnknownSelector { selector, .. } => format!("Selector {selector:?} is not valid"),
                _ => error.to_string(),
            };
            Problem::Server(format!("Failed to create boolean expression evaluator: {why}"))
        };
        Filter::parse(text, schema).map(|filter| Self(Some(filter))).map_err(refused)
    }

    /// Whether everything is wanted.
    pub(super) fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether something that is shown is wanted.
    pub(super) fn takes(&self, shown: &impl Serialize) -> bool {
        let Some(filter) = &self.0 else { return true };
        // What cannot be shown will not be.
        serde_json::to_value(shown).is_ok_and(|shown| filter.matches(&Shown(&shown)))
    }
}

/// Something that is shown.
struct Shown<'a>(&'a Json);

impl Record for Shown<'_> {
    type Field = Path;

    fn any(&self, field: Path, key: Option<&str>, test: impl Fn(Value<'_>) -> bool) -> bool {
        any(self.0, field, key, &test)
    }
}

/// Follows a path, through every element of a list.
fn any(at: &Json, path: &str, key: Option<&str>, test: &dyn Fn(Value<'_>) -> bool) -> bool {
    if path.is_empty() {
        return test(value(at));
    }
    let (name, rest) = path.split_once('.').unwrap_or((path, ""));
    match at {
        Json::Array(elements) => elements.iter().any(|element| any(element, path, key, test)),
        Json::Object(fields) => {
            // What every record has is left out where it is empty; a key that a map lacks is not there.
            let (name, absent) = match name {
                "*" => (key.unwrap_or_default(), Value::Missing),
                name => (name, Value::Text("")),
            };
            fields.get(name).map_or_else(|| test(absent), |field| any(field, rest, key, test))
        }
        _ => test(Value::Missing),
    }
}

fn value(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Missing,
        Json::Bool(on) => Value::Boolean(*on),
        Json::Number(number) => number.as_i64().map_or(Value::Missing, Value::Number),
        Json::String(text) => Value::Text(text),
        Json::Array(_) | Json::Object(_) => Value::Members(json),
    }
}

impl Members for Json {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_look_into_what_is_shown() {
        let entry = serde_json::json!({
            "Node": {"Node": "n1", "Meta": null},
            "Service": {"Port": 81, "Tags": ["a", "b"], "Meta": {"k": "v"}, "TaggedAddresses": {"lan": {"Port": 1}}},
            "Checks": [{"Status": "passing"}, {"Status": "critical"}],
        });
        let takes = |filter: &str| Wanted::parse(Some(filter), &ENTRIES).unwrap().takes(&entry);
        for yes in [
            "",
            "Service.Port == 81",
            "a in Service.Tags",
            "Service.Meta.k == v",
            "Service.Meta[\"k\"] != w",
            "Checks.Status == critical",
            "Checks.Status == passing",
            "Service.TaggedAddresses.lan.Port == 1",
            "Node.Meta is empty",
            "Service.Kind == \"\"",
        ] {
            assert!(takes(yes), "{yes}");
        }
        for no in [
            "Service.Meta.absent == \"\"",
            "Service.Port != 81",
            "c in Service.Tags",
            "Checks.Status == warning",
            "Node.Node == n2",
        ] {
            assert!(!takes(no), "{no}");
        }
        assert!(Wanted::parse(Some("Nope == 1"), &ENTRIES).is_err());
    }
}
