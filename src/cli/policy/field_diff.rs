//! Differences between two documents, field by field.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use serde_json::Value;

use super::{
    fields::{FIELDS, PolicyFields, ROUTE},
    text::{inline, inline_route, key},
};
use crate::cli::terminal::escape;

/// Field with different values in two documents.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct FieldChange {
    /// Field, or entry of a table: `lb`, `retry.attempts`. All routes are one field.
    pub(super) field: String,
    /// `None` if the field is not in the document.
    before: Option<Value>,
    after: Option<Value>,
}

impl FieldChange {
    /// Returns the field and both values on one line: `default.v1 0 → 90`. Routes are too long for it.
    pub(super) fn text(&self) -> String {
        if self.field == ROUTE {
            let count = |value: &Option<Value>| value.as_ref().and_then(Value::as_array).map_or(0, Vec::len);
            return format!("{ROUTE} {} → {} entries", count(&self.before), count(&self.after));
        }
        let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "none".to_owned(), inline);
        format!("{} {} → {}", self.field, shown(&self.before), shown(&self.after))
    }
}

/// Returns the fields that differ, in the order in which documents have them.
pub(super) fn changes(before: &PolicyFields, after: &PolicyFields) -> Vec<FieldChange> {
    let (mut before, mut after) = (values(before), values(after));
    let mut names: Vec<_> = before.keys().chain(after.keys()).cloned().collect();
    names.sort();
    names.dedup();
    let change = |place: (usize, String)| {
        let (before, after) = (before.remove(&place), after.remove(&place));
        (before != after).then_some(FieldChange { field: place.1, before, after })
    };
    names.into_iter().filter_map(change).collect()
}

/// Returns the value of each field and of each entry of a table, by the place of the field in a document and the path.
fn values(document: &PolicyFields) -> BTreeMap<(usize, String), Value> {
    let mut values = BTreeMap::new();
    for (name, value) in document.in_order() {
        let place = FIELDS.iter().position(|field| *field == name).unwrap_or(FIELDS.len());
        match value {
            Value::Object(table) if !table.is_empty() => {
                let path = |entry: &String| format!("{}.{}", key(name), key(entry));
                values.extend(table.iter().map(|(entry, value)| ((place, path(entry)), value.clone())));
            }
            value => {
                values.insert((place, key(name)), value.clone());
            }
        }
    }
    values
}

/// Writes a unified diff: the names of both documents, then the lines that one of them has.
pub(super) fn write(out: &mut impl Write, (before, after): (&str, &str), changes: &[FieldChange]) -> io::Result<()> {
    writeln!(out, "--- {}\n+++ {}", escape(before), escape(after))?;
    for change in changes {
        if change.field == ROUTE {
            write_routes(out, &routes(change.before.as_ref()), &routes(change.after.as_ref()))?;
            continue;
        }
        for (mark, value) in [('-', &change.before), ('+', &change.after)] {
            if let Some(value) = value {
                write_line(out, mark, &format!("{} = {}", change.field, inline(value)))?;
            }
        }
    }
    Ok(())
}

fn routes(value: Option<&Value>) -> Vec<String> {
    let routes = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    routes.iter().map(|route| format!("{ROUTE} = {}", inline_route(route))).collect()
}

/// Writes all routes if one has changed, because their order matters.
fn write_routes(out: &mut impl Write, before: &[String], after: &[String]) -> io::Result<()> {
    let common = common_lengths(before, after);
    let (mut old, mut new) = (0, 0);
    while old < before.len() || new < after.len() {
        let (left, right) = (before.get(old), after.get(new));
        match (left, right) {
            (Some(left), Some(right)) if left == right => {
                write_line(out, ' ', left)?;
                (old, new) = (old + 1, new + 1);
            }
            (Some(left), right) if right.is_none() || common[old + 1][new] >= common[old][new + 1] => {
                write_line(out, '-', left)?;
                old += 1;
            }
            (_, Some(right)) => {
                write_line(out, '+', right)?;
                new += 1;
            }
            (_, None) => return Ok(()),
        }
    }
    Ok(())
}

/// Returns the length of the longest common subsequence of `before[old..]` and `after[new..]` at `[old][new]`.
fn common_lengths(before: &[String], after: &[String]) -> Vec<Vec<usize>> {
    let mut lengths = vec![vec![0; after.len() + 1]; before.len() + 1];
    for old in (0..before.len()).rev() {
        for new in (0..after.len()).rev() {
            lengths[old][new] = if before[old] == after[new] {
                lengths[old + 1][new + 1] + 1
            } else {
                lengths[old + 1][new].max(lengths[old][new + 1])
            };
        }
    }
    lengths
}

fn write_line(out: &mut impl Write, mark: char, line: &str) -> io::Result<()> {
    let colour = match mark {
        '-' => Some(AnsiColor::Red.into()),
        '+' => Some(AnsiColor::Green.into()),
        _ => None,
    };
    let style = Style::new().fg_color(colour);
    writeln!(out, "{style}{mark}{}{style:#}", escape(line))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::policy::tests::fields;

    fn diff(before: Value, after: Value) -> Vec<String> {
        let changes = changes(&fields(before), &fields(after));
        let mut out = anstream::StripStream::new(Vec::new());
        write(&mut out, ("payments", "file"), &changes).unwrap();
        let text = String::from_utf8(out.into_inner()).unwrap();
        assert!(text.starts_with("--- payments\n+++ file\n"), "{text}");
        text.lines().skip(2).map(str::to_owned).collect()
    }

    #[test]
    fn field_is_shown_with_both_values_next_to_each_other() {
        let before =
            json!({"lb": "a", "timeout": "5s", "zone": "off", "retry": {"attempts": 2, "on": ["unavailable"]}});
        let after = json!({"zone": "prefer", "timeout": "9s", "lb": "a", "retry": {"attempts": 3, "on": ["unavailable"]},
            "subsets": {"v1": "\"v1\" in tags"}, "outlier": {}});
        let expected = [
            "-timeout = \"5s\"",
            "+timeout = \"9s\"",
            "-retry.attempts = 2",
            "+retry.attempts = 3",
            "+outlier = {}",
            "-zone = \"off\"",
            "+zone = \"prefer\"",
            "+subsets.v1 = '\"v1\" in tags'",
        ];
        assert_eq!(diff(before, after), expected);
    }

    #[test]
    fn route_that_is_added_or_removed_is_shown_among_those_that_stay() {
        let route = |to: &str| json!({"method": format!("/{to}/*"), "to": {to: 100}});
        let line = |mark: &str, to: &str| format!("{mark}route = {{ method = \"/{to}/*\", to = {{ {to} = 100 }} }}");
        let before = json!({"route": [route("a"), route("b"), route("c")]});
        let after = json!({"route": [route("x"), route("a"), route("c"), route("y")]});
        let expected = [line("+", "x"), line(" ", "a"), line("-", "b"), line(" ", "c"), line("+", "y")];
        assert_eq!(diff(before, after), expected);
        assert_eq!(diff(json!({}), json!({"route": [route("a")]})), [line("+", "a")]);
    }

    #[test]
    fn equal_documents_have_no_changes() {
        let document = json!({"lb": "a", "route": [{"to": {"v2": 100}}], "subsets": {"v2": "weight == 1"}});
        assert_eq!(changes(&fields(document.clone()), &fields(document)), []);
    }
}
