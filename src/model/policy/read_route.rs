//! Routes, read from a document.

use std::collections::BTreeMap;

use super::{
    HeaderCondition, HeaderMatch, MethodMatch, PolicyRoute, Subset, SubsetName, header_pattern,
    read_settings::{retry, timeout},
    read_subset::split,
    table_reader::TableReader,
};
use crate::model::FieldError;

/// Fields of a route.
const ROUTE_FIELDS: [&str; 7] = ["header", "method", "to", "empty", "timeout", "retry", "hash_header"];
/// Maximum number of routes of a service.
const MAX_ROUTES: usize = 32;
/// Maximum number of conditions on headers of a route.
const MAX_HEADERS: usize = 8;
/// Maximum length of the name of a header in bytes.
const MAX_HEADER_NAME_BYTES: usize = 64;
/// Maximum length of the value of a header, or of a method, in bytes.
const MAX_TEXT_BYTES: usize = 256;
/// Start of the names of headers that the registry uses itself.
const RESERVED_HEADERS: &str = "x-callboard-";

/// Reads the routes.
pub(super) fn routes(
    table: &TableReader<'_>,
    subsets: &BTreeMap<SubsetName, Subset>,
) -> Result<Vec<PolicyRoute>, FieldError> {
    const HINT: &str = "write a table such as { header = { x-canary = \"true\" }, to = { v2 = 100 } }";
    let mut routes: Vec<PolicyRoute> = Vec::new();
    let Some(list) = table.list("route", HINT)? else { return Ok(routes) };
    if list.len() > MAX_ROUTES {
        return Err(list.error(format!("has {} entries", list.len()), format!("give at most {MAX_ROUTES} routes")));
    }
    for (at, item) in list.tables(HINT).enumerate() {
        let route = route(&item?, subsets)?;
        if let Some(earlier) = routes.iter().position(PolicyRoute::matches_all) {
            let problem =
                format!("is never reached, because route[{earlier}] has no conditions and matches every call");
            let hint = format!("move route[{earlier}] to the end, or give it a header or a method");
            return Err(FieldError::without_value(list.place_of(at), problem, hint));
        }
        routes.push(route);
    }
    Ok(routes)
}

fn route(table: &TableReader<'_>, subsets: &BTreeMap<SubsetName, Subset>) -> Result<PolicyRoute, FieldError> {
    const HINT: &str = "write the name of a header, such as \"x-user\"";
    table.only(&ROUTE_FIELDS)?;
    let hash_header = table.text("hash_header", HINT)?;
    if let Some(name) = hash_header {
        header_name(name).map_err(|(problem, hint)| table.error("hash_header", problem, hint))?;
    }
    Ok(PolicyRoute {
        headers: headers(table)?,
        method: method(table)?,
        split: split(table, "to", subsets)?,
        timeout: timeout(table)?,
        retry: retry(table)?,
        hash_header: hash_header.map(Into::into),
    })
}

fn headers(table: &TableReader<'_>) -> Result<Vec<HeaderCondition>, FieldError> {
    let mut conditions = Vec::new();
    let Some(given) = table.table("header", "write a value for each name, such as { x-canary = \"true\" }")? else {
        return Ok(conditions);
    };
    for name in given.names() {
        if conditions.len() == MAX_HEADERS {
            let problem = format!("has more than {MAX_HEADERS} entries");
            return Err(FieldError::without_value(table.place("header"), problem, "remove some headers"));
        }
        header_name(name).map_err(|(problem, hint)| FieldError::new(given.place(name), name, problem, hint))?;
        let text = given.text(name, "write \"v\" for the value v, \"*\" for any value, \"!\" for none, or \"~re\"")?;
        let matches = header_match(&given, name, text.unwrap_or_default())?;
        conditions.push(HeaderCondition { name: name.into(), matches });
    }
    Ok(conditions)
}

/// Reads a condition: `=v` or `v` for a value, `*` for a present header, `!` for an absent one, `~re` for a regular expression.
fn header_match(table: &TableReader<'_>, name: &str, text: &str) -> Result<HeaderMatch, FieldError> {
    let value = match text.as_bytes() {
        [b'*'] => return Ok(HeaderMatch::Present),
        [b'!'] => return Ok(HeaderMatch::Absent),
        [b'~', ..] => {
            header_pattern::validate(&text[1..]).map_err(|(problem, hint)| table.error(name, problem, hint))?;
            return Ok(HeaderMatch::Regex(text[1..].into()));
        }
        [b'*' | b'!', ..] => {
            let problem = format!("has text after {}", &text[..1]);
            return Err(table.error(name, problem, format!("write ={text} for this value")));
        }
        [b'=', ..] => &text[1..],
        _ => text,
    };
    let is_printable = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    let problem = if value.is_empty() {
        "is empty"
    } else if value.len() > MAX_TEXT_BYTES {
        "is longer than 256 bytes"
    } else if !is_printable || value.trim_ascii() != value {
        "is no value that a header can have"
    } else {
        return Ok(HeaderMatch::Exact(value.into()));
    };
    Err(table.error(name, problem, "write 1 to 256 printable ASCII characters without blanks around them"))
}

/// Returns the problem of the name of a header, and the remedy.
fn header_name(name: &str) -> Result<(), (&'static str, String)> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte);
    let other = || "use another header".to_owned();
    if !(1..=MAX_HEADER_NAME_BYTES).contains(&name.len()) {
        return Err(("is no name of a header", format!("use 1 to {MAX_HEADER_NAME_BYTES} characters")));
    }
    if name.starts_with(':') {
        return Err(("is a pseudo-header, which clients do not match", "use method, or another header".to_owned()));
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(("has upper-case letters", format!("write {}", name.to_ascii_lowercase())));
    }
    if !name.bytes().all(allowed) {
        return Err(("has an invalid character", "use lower-case letters, digits, '-', '_' or '.'".to_owned()));
    }
    if name.ends_with("-bin") {
        return Err(("is a binary header, which clients do not match", other()));
    }
    if name.starts_with("grpc-") || ["host", "te"].contains(&name) {
        return Err(("is a header of the protocol, which clients do not match", other()));
    }
    if name.starts_with(RESERVED_HEADERS) {
        return Err(("is a header of the registry", other()));
    }
    Ok(())
}

fn method(table: &TableReader<'_>) -> Result<Option<MethodMatch>, FieldError> {
    const HINT: &str = "write \"/package.Service/Method\", or \"/package.Service/*\" for all of its methods";
    let Some(text) = table.text("method", HINT)? else { return Ok(None) };
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    let parts = text.strip_prefix('/').and_then(|path| path.split_once('/'));
    match parts {
        _ if text.len() > MAX_TEXT_BYTES => Err(table.error("method", "is longer than 256 bytes", HINT)),
        Some((service, "*")) if is_name(service) => Ok(Some(MethodMatch::Service(format!("/{service}/").into()))),
        Some((service, method)) if is_name(service) && is_name(method) => Ok(Some(MethodMatch::Exact(text.into()))),
        _ => Err(table.error("method", "is no path of a method", HINT)),
    }
}
