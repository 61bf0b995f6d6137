//! Text of policies: TOML, or JSON with the same fields.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{self, Read as _},
};

use anyhow::{Context as _, anyhow};
use serde_json::{Map, Number, Value};

use super::{
    PolicyTarget,
    fields::{FIELDS, PolicyFields, ROUTE, route_fields},
};
use crate::cli::error::CliError;

/// Path that means standard input.
const STANDARD_INPUT: &str = "-";

/// Maximum number of tables and lists within each other: more than a file has, and fewer than messages may have.
const MAX_DEPTH: usize = 16;

/// Contents of a policy file.
#[derive(Debug, PartialEq)]
pub(super) enum PolicyFile {
    /// Document of one policy.
    One(PolicyFields),
    /// Documents of several: `[defaults]` and `[service.NAME]`.
    Several(Vec<(PolicyTarget, PolicyFields)>),
}

impl PolicyFile {
    /// Reads a file, or standard input if the path is `-`.
    pub(super) fn read(path: &str) -> Result<Self, CliError> {
        let (name, text) = if path == STANDARD_INPUT {
            let mut text = String::new();
            ("standard input", io::stdin().read_to_string(&mut text).map(|_| text))
        } else {
            (path, fs::read_to_string(path))
        };
        // A file that cannot be used is an argument that cannot be used.
        let usage = |error: anyhow::Error| CliError::Usage(format!("{error:#}").into());
        let text = text.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => anyhow!("{name} is no text in UTF-8: write the policy as TOML or JSON"),
            _ => anyhow::Error::from(error).context(format!("cannot read {name}")),
        });
        let text = text.map_err(usage)?;
        Self::parse(&text).with_context(|| name.to_owned()).map_err(usage)
    }

    /// Parses TOML, or JSON if the text begins with a brace, with which no TOML begins.
    fn parse(text: &str) -> anyhow::Result<Self> {
        let trimmed = text.trim();
        let table = if trimmed.starts_with('{') {
            // The YAML value rejects keys that occur twice, of which that of serde_json keeps the last.
            let value: serde_yaml_ng::Value = serde_json::from_str(text).context("invalid JSON")?;
            serde_json::from_value(serde_json::to_value(value)?).context("invalid JSON")?
        } else if trimmed == "null" || trimmed.starts_with('[') && serde_json::from_str::<Value>(text).is_ok() {
            return Err(anyhow!("the JSON is no object: write the fields of a policy, as in {{\"timeout\": \"5s\"}}"));
        } else {
            let table: toml::Table = toml::from_str(text).map_err(|error| syntax_error(text, &error))?;
            table_of_toml(table, "")?
        };
        if depth(&table) > MAX_DEPTH {
            return Err(anyhow!(
                "the file has values in more than {MAX_DEPTH} tables and lists within each other, as no policy has"
            ));
        }
        Self::of(table)
    }

    fn of(mut table: Map<String, Value>) -> anyhow::Result<Self> {
        if !table.contains_key("defaults") && !table.contains_key("service") {
            return Ok(Self::One(PolicyFields(table)));
        }
        let mut policies = Vec::new();
        if let Some(defaults) = table.remove("defaults") {
            policies.push((PolicyTarget::Defaults, document(defaults, "defaults")?));
        }
        if let Some(services) = table.remove("service") {
            let Value::Object(services) = services else {
                return Err(anyhow!("`service` is not a table; write one table for each service, as in [service.web]"));
            };
            for (name, service) in services {
                let document = document(service, &format!("service.{}", key(&name)))?;
                if name.is_empty() {
                    return Err(anyhow!("`service.\"\"` has no name: name a service, or write [defaults]"));
                }
                if let Some(rest) = rest_of_name(&document) {
                    return Err(anyhow!(
                        "`{rest}` in [service.{0}] is no field: if it belongs to the name of the service, write \
                         [service.\"{name}.{rest}\"]",
                        key(&name)
                    ));
                }
                policies.push((PolicyTarget::Service(name), document));
            }
        }
        match table.keys().next() {
            None => Ok(Self::Several(policies)),
            Some(field) => Err(anyhow!(
                "`{field}` is in no table, but the file has several policies; move it into [defaults] or [service.NAME]"
            )),
        }
    }

    /// Returns the document of a file that has to hold one, which sets a field: a file may be empty because the command that wrote it failed.
    pub(super) fn one(self, target: &PolicyTarget) -> Result<PolicyFields, CliError> {
        match self {
            Self::One(document) if sets_nothing(&document) => Err(CliError::Usage(
                format!("the file sets no field; remove {target} with `callboard policy unset {}`", target.arguments())
                    .into(),
            )),
            Self::One(document) => Ok(document),
            Self::Several(_) => Err(CliError::Usage(
                "the file has tables [defaults] or [service.NAME]; set them with `callboard policy apply --file`"
                    .into(),
            )),
        }
    }

    /// Returns the documents of a file that has to hold several, each with its policy.
    pub(super) fn several(self) -> Result<Vec<(PolicyTarget, PolicyFields)>, CliError> {
        match self {
            Self::Several(policies) if policies.is_empty() => Err(CliError::Usage(
                "the file has no policy; write a table [defaults], or one for each service, as in [service.web]".into(),
            )),
            Self::Several(policies) => match policies.iter().find(|(_, document)| sets_nothing(document)) {
                None => Ok(policies),
                Some((target, _)) => Err(CliError::Usage(
                    format!(
                        "the table of {target} sets no field; leave it out, or remove the policy with `callboard policy unset {}`",
                        target.arguments()
                    )
                    .into(),
                )),
            },
            Self::One(_) => Err(CliError::Usage(
                "the file has neither [defaults] nor [service.NAME]; set the policy of one service with `callboard policy \
                 set SERVICE --file`"
                    .into(),
            )),
        }
    }
}

/// Returns the number of tables and lists within each other.
fn depth(table: &Map<String, Value>) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::Object(table) => depth(table),
            Value::Array(values) => 1 + values.iter().map(of).max().unwrap_or(0),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
        }
    }
    1 + table.values().map(of).max().unwrap_or(0)
}

/// Returns whether a document has no field but empty lists and subsets, which the registry does not store.
fn sets_nothing(document: &PolicyFields) -> bool {
    document.in_order().all(|(name, value)| match value {
        Value::Array(values) => values.is_empty(),
        Value::Object(table) => name == "subsets" && table.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    })
}

/// Returns the unknown field of a table that has no other: probably the second part of a name with a dot, as in [service.my.web].
fn rest_of_name(document: &PolicyFields) -> Option<&str> {
    let mut fields = document.in_order();
    match (fields.next(), fields.next()) {
        (Some((name, Value::Object(_))), None) if !FIELDS.contains(&name) => Some(name),
        _ => None,
    }
}

fn document(value: Value, name: &str) -> anyhow::Result<PolicyFields> {
    match value {
        Value::Object(table) => Ok(PolicyFields(table)),
        other => Err(anyhow!("`{name}` is {other}, which is not a table; write [{name}]")),
    }
}

/// Returns the problem in one line, after the number of its line in the file.
fn syntax_error(text: &str, error: &toml::de::Error) -> anyhow::Error {
    let start = error.span().map_or(0, |span| span.start);
    let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
    anyhow!("line {line}: {}", error.message().lines().collect::<Vec<_>>().join(", "))
}

fn table_of_toml(table: toml::Table, path: &str) -> anyhow::Result<Map<String, Value>> {
    let entry = |(name, value): (String, toml::Value)| {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        Ok((name, of_toml(value, &path)?))
    };
    table.into_iter().map(entry).collect()
}

fn of_toml(value: toml::Value, path: &str) -> anyhow::Result<Value> {
    Ok(match value {
        toml::Value::String(value) => Value::String(value),
        toml::Value::Integer(value) => Value::from(value),
        toml::Value::Float(value) => Value::Number(
            Number::from_f64(value).with_context(|| format!("`{path}` is {value}; write a finite number"))?,
        ),
        toml::Value::Boolean(value) => Value::Bool(value),
        toml::Value::Datetime(value) => {
            return Err(anyhow!("`{path}` is the date {value}, but no field is a date; write a text in quotes"));
        }
        toml::Value::Array(values) => {
            let numbered = values.into_iter().enumerate();
            let value = |(at, value)| of_toml(value, &format!("{path}[{at}]"));
            Value::Array(numbered.map(value).collect::<anyhow::Result<_>>()?)
        }
        toml::Value::Table(table) => Value::Object(table_of_toml(table, path)?),
    })
}

impl PolicyFields {
    /// Returns the document as TOML: a line for each field, with a comment where there is one, then the routes as tables.
    pub(super) fn to_toml(&self, comments: &BTreeMap<String, String>) -> String {
        let mut text = String::new();
        for (name, value) in self.in_order().filter(|(name, _)| *name != ROUTE) {
            let comment = comments.get(name).map(|comment| format!("  # {comment}")).unwrap_or_default();
            let _infallible = writeln!(text, "{} = {}{comment}", key(name), inline(value));
        }
        for route in self.routes() {
            text.push_str("\n[[route]]\n");
            for (name, value) in route_fields(route.as_object().unwrap_or(&Map::new())) {
                let _infallible = writeln!(text, "{} = {}", key(name), inline(value));
            }
        }
        text
    }
}

/// Returns a value as TOML writes it on one line.
pub(in crate::cli) fn inline(value: &Value) -> String {
    match value {
        // TOML has no null. The server never returns one.
        Value::Null => "null".to_owned(),
        Value::Array(values) => format!("[{}]", values.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => inline_table(table.iter().map(|(name, value)| (&**name, value))),
        Value::String(text) => toml::Value::String(text.clone()).to_string(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Returns a route as TOML writes it on one line.
pub(super) fn inline_route(route: &Value) -> String {
    route.as_object().map_or_else(|| inline(route), |route| inline_table(route_fields(route)))
}

fn inline_table<'a>(entries: impl Iterator<Item = (&'a str, &'a Value)>) -> String {
    let entries: Vec<_> = entries.map(|(name, value)| format!("{} = {}", key(name), inline(value))).collect();
    if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
}

/// Returns a key, in quotes where it needs them.
pub(super) fn key(name: &str) -> String {
    let is_bare = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    if !name.is_empty() && name.chars().all(is_bare) {
        name.to_owned()
    } else {
        toml::Value::String(name.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests;
