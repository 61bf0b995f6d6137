//! Routes as text: `header:x-canary=true→v2`.

use serde_json::{Map, Value};

use super::split;

/// Notation of --match, for `--help`.
pub(super) const HELP: &str = "MATCH is CONDITION[,CONDITION…]→SUBSET or …→SUBSET=PERCENT,SUBSET=PERCENT; -> works for →. Without \
                               an arrow, the calls go to the whole service. MATCH may be * for all calls, as in *→SUBSET. A \
                               condition is header:NAME=VALUE (=* present, =! absent, =~REGEX a regular expression), \
                               method:/package.Service/Method or method:/package.Service/*. All conditions of a route must hold. \
                               The last arrow of a route precedes its destination: write a REGEX with an arrow as the last condition.";

/// Arrows between conditions and destination.
const ARROWS: [&str; 2] = ["→", "->"];
/// Text in place of the conditions of a route that has none, and so matches all calls.
const ALL: &str = "*";
/// Beginnings of conditions.
const HEADER: &str = "header:";
const METHOD: &str = "method:";

/// Routes of one --match.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ParsedRoutes(Vec<Map<String, Value>>);

impl ParsedRoutes {
    /// Returns the routes as documents have them.
    pub(super) fn values(&self) -> impl Iterator<Item = Value> {
        self.0.iter().cloned().map(Value::Object)
    }
}

/// Parses one or several routes.
pub(super) fn parse(text: &str) -> Result<ParsedRoutes, String> {
    let (mut routes, mut route, mut is_open) = (Vec::new(), Map::new(), false);
    for part in parts(text) {
        let (condition, destination) = split_at_arrow(part);
        if condition.trim() != ALL || is_open {
            add_condition(&mut route, condition.trim())?;
        }
        is_open = destination.is_none();
        if let Some(destination) = destination {
            let split = split::parse(destination).map_err(|error| format!("`{destination}`: {error}"))?;
            route.insert("to".to_owned(), split::to_value(&split));
            routes.push(std::mem::take(&mut route));
        }
    }
    // A route without a destination leads to the whole service.
    routes.extend(is_open.then_some(route));
    Ok(ParsedRoutes(routes))
}

/// Splits at the commas before conditions. Other commas belong to regular expressions or destinations.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    for (comma, _) in text.match_indices(',') {
        let next = text[comma + 1..].trim_start();
        if next.starts_with(HEADER) || next.starts_with(METHOD) {
            parts.push(&text[start..comma]);
            start = comma + 1;
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Splits at the last arrow.
fn split_at_arrow(part: &str) -> (&str, Option<&str>) {
    let found = ARROWS.iter().filter_map(|arrow| part.rfind(arrow).map(|at| (at, arrow.len())));
    match found.max() {
        Some((at, length)) => (&part[..at], Some(part[at + length..].trim())),
        None => (part, None),
    }
}

fn add_condition(route: &mut Map<String, Value>, text: &str) -> Result<(), String> {
    if let Some(header) = text.strip_prefix(HEADER) {
        let Some((name, value)) = header.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(format!(
                "`{text}` has no value; write header:NAME=VALUE, or header:NAME=* if it must be present"
            ));
        };
        let headers = route.entry("header").or_insert_with(|| Value::Object(Map::new()));
        if headers.get(name).is_some() {
            return Err(format!("the header `{name}` has two conditions; write them as two routes"));
        }
        headers[name] = Value::from(value);
        return Ok(());
    }
    match text.strip_prefix(METHOD) {
        Some(_) if route.contains_key("method") => Err(format!("`{text}` is a second method; write a route for each")),
        Some(method) => {
            route.insert("method".to_owned(), Value::from(method));
            Ok(())
        }
        None => Err(format!(
            "`{text}` is no condition; write header:NAME=VALUE, method:/package.Service/* or, for all calls, *"
        )),
    }
}

/// Returns the conditions of a route as --match takes them, or `*` if it has none.
pub(super) fn display(route: &Map<String, Value>) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let headers = route.get("header").and_then(Value::as_object).into_iter().flatten();
    let mut conditions: Vec<_> = headers.map(|(name, value)| format!("{HEADER}{name}={}", text(value))).collect();
    conditions.extend(route.get("method").map(|method| format!("{METHOD}{}", text(method))));
    if conditions.is_empty() { ALL.to_owned() } else { conditions.join(",") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(text: &str) -> Value {
        Value::Array(parse(text).unwrap().values().collect())
    }

    #[test]
    fn route_has_conditions_and_a_destination() {
        let canary = json!([{"header": {"x-canary": "true"}, "to": {"v2": 100}}]);
        assert_eq!(parsed("header:x-canary=true→v2"), canary);
        assert_eq!(parsed("header:x-canary=true->v2"), canary);
        assert_eq!(parsed(" header:x-canary=true → v2 "), canary);
        assert_eq!(
            parsed("method:/pay.v1.Payments/*→v1=90,v2=10"),
            json!([{"method": "/pay.v1.Payments/*", "to": {"v1": 90, "v2": 10}}])
        );
    }

    #[test]
    fn conditions_and_destination_are_optional() {
        assert_eq!(parsed("method:/a.B/Stream"), json!([{"method": "/a.B/Stream"}]));
        assert_eq!(parsed("header:a=1,method:/s/M"), json!([{"header": {"a": "1"}, "method": "/s/M"}]));
        assert_eq!(
            parsed("header:a=1→v2,method:/s/M"),
            json!([{"header": {"a": "1"}, "to": {"v2": 100}}, {"method": "/s/M"}])
        );
        assert_eq!(parsed("*"), json!([{}]));
        assert_eq!(parsed("* → v2"), json!([{"to": {"v2": 100}}]));
    }

    #[test]
    fn commas_separate_conditions_and_routes() {
        assert_eq!(
            parsed("header:a=*,header:b=!,method:/s/M→v1=50,v2=50,header:c=~x{1,2}->y→v2"),
            json!([
                {"header": {"a": "*", "b": "!"}, "method": "/s/M", "to": {"v1": 50, "v2": 50}},
                {"header": {"c": "~x{1,2}->y"}, "to": {"v2": 100}},
            ])
        );
    }

    #[test]
    fn last_arrow_precedes_the_destination() {
        let to = |value: &str| json!([{"header": {"x": value}, "to": {"v2": 100}}]);
        assert_eq!(parsed("header:x=~a->b->v2"), to("~a->b"));
        assert_eq!(parsed("header:x=~a->b→v2"), to("~a->b"));
        assert_eq!(parsed("header:x=~a→b->v2"), to("~a→b"));
        assert_eq!(parsed("header:x=~a->->v2"), to("~a->"));
        assert!(parse("header:x=~a->b->").unwrap_err().contains("has no percentage"));
        let two = json!([{"header": {"y": "1", "x": "~a->b"}, "to": {"v1": 90, "v2": 10}}]);
        assert_eq!(parsed("header:y=1,header:x=~a->b->v1=90,v2=10"), two);
    }

    #[test]
    fn conditions_are_displayed_as_they_are_written() {
        for text in ["header:a=true,header:b=~x|y,method:/s/*", "method:/s/M", "header:a=="] {
            let routes = parse(&format!("{text}→v2")).unwrap();
            assert_eq!(display(&routes.0[0]), text);
        }
        assert_eq!(display(&Map::new()), "*");
    }

    #[test]
    fn error_says_what_is_wrong_and_what_to_write() {
        for (text, part) in [
            ("", "`` is no condition; write header:NAME=VALUE"),
            ("→v2", "`` is no condition"),
            ("x-canary=true→v2", "`x-canary=true` is no condition"),
            ("header:x-canary→v2", "`header:x-canary` has no value"),
            ("header:=true→v2", "`header:=true` has no value"),
            ("header:a=1,header:a=2→v2", "`a` has two conditions"),
            ("method:/a/*,method:/b/*→v2", "`method:/b/*` is a second method"),
            ("method:/a/*→v2=ten", "`v2=ten` is not a subset with a percentage"),
            ("method:/a/*→", "has no percentage"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
