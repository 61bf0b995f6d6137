//! JSON bodies of requests, decoded as Go's decoder does: field names in any case, unknown fields rejected, `null` like an absent field,
//! durations as text or as nanoseconds.

mod catalog;
mod check;
mod mesh;
mod registration;
mod value;

use std::{borrow::Cow, mem, time::Duration};

use serde_json::error::Category;

use super::ConsulError;
pub(super) use catalog::{CatalogDeregistration, CatalogRegistration};
pub(super) use check::{CheckRequest, CheckUpdate};
pub(super) use registration::{ServiceRequest, sidecar_id};
use value::JsonValue;

/// Reads a body as an object. `of` is the Go type in errors.
pub(super) fn object<'a>(bytes: &'a [u8], of: &'static str) -> Result<Fields<'a>, ConsulError> {
    // Validating the whole body as UTF-8 is faster than validating each text. `from_slice` finds the position of an
    // error.
    let value = match str::from_utf8(bytes) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(bytes),
    };
    match value {
        Ok(value) => Fields::of(value, of),
        Err(error) => Err(ConsulError::Decode(syntax(bytes, &error))),
    }
}

/// Returns Go's text for a syntax error.
fn syntax(bytes: &[u8], error: &serde_json::Error) -> String {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return "EOF".to_owned();
    }
    if error.classify() == Category::Eof {
        return "unexpected EOF".to_owned();
    }
    let line = bytes.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let at = line.get(error.column().saturating_sub(1)).copied().unwrap_or(b' ');
    let message = error.to_string();
    let expected = if message.starts_with("key must be a string") {
        "looking for beginning of object key string"
    } else if message.starts_with("expected value") || message.starts_with("expected ident") {
        "looking for beginning of value"
    } else {
        "after top-level value"
    };
    format!("invalid character '{}' {expected}", char::from(at).escape_default())
}

/// Key and value of a map.
pub(super) type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Fields of an object. Reading a field removes it; fields that are left at the end are unknown.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    /// Go type of the object, for errors.
    of: &'static str,
    left: Vec<(Cow<'a, str>, JsonValue<'a>)>,
}

impl<'a> Fields<'a> {
    fn of(value: JsonValue<'a>, of: &'static str) -> Result<Self, ConsulError> {
        match value {
            JsonValue::Null => Ok(Self { of, left: Vec::new() }),
            JsonValue::Object(left) => Ok(Self { of, left }),
            other => {
                let kind = other.kind();
                Err(ConsulError::Decode(format!("json: cannot unmarshal {kind} into Go value of type {of}")))
            }
        }
    }

    /// Takes a field out, by any of its names. Of several fields, the last counts.
    fn take(&mut self, names: &[&str]) -> Option<JsonValue<'a>> {
        let mut found = None;
        let known =
            |(name, _): &(Cow<'_, str>, JsonValue<'_>)| names.iter().any(|known| known.eq_ignore_ascii_case(name));
        while let Some(at) = self.left.iter().position(known) {
            found = Some(self.left.remove(at).1);
        }
        found.filter(|value| !matches!(value, JsonValue::Null))
    }

    fn wrong(&self, name: &str, value: &JsonValue<'_>, wanted: &str) -> ConsulError {
        let (of, kind) = (self.of, value.kind());
        ConsulError::Decode(format!("json: cannot unmarshal {kind} into Go struct field {of}.{name} of type {wanted}"))
    }

    fn text(&mut self, names: &[&str]) -> Result<Cow<'a, str>, ConsulError> {
        match self.take(names) {
            None => Ok(Cow::default()),
            Some(JsonValue::Text(text)) => Ok(text),
            Some(other) => Err(self.wrong(names[0], &other, "string")),
        }
    }

    fn flag(&mut self, names: &[&str]) -> Result<bool, ConsulError> {
        match self.take(names) {
            None => Ok(false),
            Some(JsonValue::Bool(on)) => Ok(on),
            Some(other) => Err(self.wrong(names[0], &other, "bool")),
        }
    }

    fn number(&mut self, names: &[&str]) -> Result<Option<i64>, ConsulError> {
        let Some(value) = self.take(names) else { return Ok(None) };
        let number = if let JsonValue::Number(number) = &value { number.as_i64() } else { None };
        number.map(Some).ok_or_else(|| self.wrong(names[0], &value, "int"))
    }

    fn texts(&mut self, names: &[&str]) -> Result<Vec<Cow<'a, str>>, ConsulError> {
        let Some(value) = self.take(names) else { return Ok(Vec::new()) };
        let JsonValue::List(values) = value else { return Err(self.wrong(names[0], &value, "[]string")) };
        let text = |value| match value {
            JsonValue::Text(text) => Ok(text),
            JsonValue::Null => Ok(Cow::default()),
            other => Err(self.wrong(names[0], &other, "string")),
        };
        values.into_iter().map(text).collect()
    }

    /// Takes a map of texts out, sorted by key. Of several values for a key, the last counts.
    fn map(&mut self, names: &[&str]) -> Result<Vec<Pair<'a>>, ConsulError> {
        let Some(value) = self.take(names) else { return Ok(Vec::new()) };
        let JsonValue::Object(fields) = value else { return Err(self.wrong(names[0], &value, "map[string]string")) };
        let pair = |(key, value)| match value {
            JsonValue::Text(text) => Ok((key, text)),
            JsonValue::Null => Ok((key, Cow::default())),
            other => Err(self.wrong(names[0], &other, "string")),
        };
        let mut pairs = fields.into_iter().map(pair).collect::<Result<Vec<_>, _>>()?;
        pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
        pairs.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                mem::swap(later, earlier);
            }
            same
        });
        Ok(pairs)
    }

    fn duration(&mut self, names: &[&str]) -> Result<Duration, ConsulError> {
        match self.take(names) {
            None => Ok(Duration::ZERO),
            Some(JsonValue::Text(text)) => {
                // A negative duration is zero, as for numbers. Fields that need a positive one reject both.
                let span = match text.strip_prefix('-') {
                    Some(rest) if !rest.starts_with('+') => go_duration(rest).map(|_| Duration::ZERO),
                    _ => go_duration(&text),
                };
                span.ok_or_else(|| ConsulError::Decode(format!("time: invalid duration {text:?}")))
            }
            Some(JsonValue::Number(number)) if number.is_i64() || number.is_u64() => {
                Ok(Duration::from_nanos(number.as_u64().unwrap_or_default()))
            }
            Some(JsonValue::Number(number)) => {
                let nanoseconds = number.as_f64().filter(|number| number.is_finite()).unwrap_or_default().max(0.0);
                Ok(Duration::try_from_secs_f64(nanoseconds / 1e9).unwrap_or(Duration::MAX))
            }
            Some(other) => Err(self.wrong(names[0], &other, "time.Duration")),
        }
    }

    fn nested(&mut self, names: &[&str], of: &'static str) -> Result<Option<Self>, ConsulError> {
        self.take(names).map(|value| Self::of(value, of)).transpose()
    }

    fn list(&mut self, names: &[&str], of: &'static str) -> Result<Vec<Self>, ConsulError> {
        match self.take(names) {
            None => Ok(Vec::new()),
            Some(JsonValue::List(values)) => values.into_iter().map(|value| Self::of(value, of)).collect(),
            Some(other) => Err(self.wrong(names[0], &other, "slice")),
        }
    }

    /// Adds a text.
    fn put_text(&mut self, name: &'static str, text: Cow<'a, str>) {
        self.left.push((Cow::Borrowed(name), JsonValue::Text(text)));
    }

    /// Puts an object back that was taken out.
    fn put(&mut self, name: &'static str, part: Self) {
        self.left.push((Cow::Borrowed(name), JsonValue::Object(part.left)));
    }

    /// Accepts a field that has no effect here.
    fn ignore(&mut self, names: &[&str]) {
        self.take(names);
    }

    /// Returns whether all fields are null.
    fn is_empty(&self) -> bool {
        self.left.iter().all(|(_, value)| matches!(value, JsonValue::Null))
    }

    /// Returns whether any value in the object, at any depth, is neither null, zero, false nor empty. Clients that register a service
    /// which they have read send empty objects.
    fn has_content(&self) -> bool {
        self.left.iter().any(|(_, value)| value.has_content())
    }

    /// Rejects the fields that are left, which are unknown.
    fn end(self) -> Result<(), ConsulError> {
        match self.left.first() {
            Some((name, _)) => Err(ConsulError::Decode(format!("json: unknown field {name:?}"))),
            None => Ok(()),
        }
    }
}

/// Parses a duration as Go does: `10s`, `1h30m`, `1.5s`. Rejects negative durations, and numbers without a unit other than 0.
pub(super) fn go_duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = after;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_is_parsed_as_in_go() {
        for (text, millis) in
            [("10s", 10_000), ("1h30m", 5_400_000), ("1.5s", 1_500), ("0", 0), ("250ms", 250), ("+1m", 60_000)]
        {
            assert_eq!(go_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "s", "soon", "1d", "-1s", "1s2", "1..2s", "."] {
            assert_eq!(go_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn negative_duration_is_zero_and_empty_one_is_rejected() {
        let read = |value: &str| object(format!(r#"{{"TTL":{value}}}"#).as_bytes(), "X").unwrap().duration(&["TTL"]);
        for (value, millis) in [("null", 0), ("\"-1s\"", 0), ("-5", 0), ("\"1.5s\"", 1_500), ("2000000", 2)] {
            assert_eq!(read(value).unwrap(), Duration::from_millis(millis), "{value}");
        }
        for bad in ["", "-", "-+1s", "--1s", "1"] {
            let error = read(&format!("{bad:?}")).unwrap_err().to_string();
            assert_eq!(error, format!("Request decode failed: time: invalid duration {bad:?}"));
        }
    }

    #[test]
    fn syntax_error_has_the_text_of_go() {
        let error = |text: &str| object(text.as_bytes(), "X").unwrap_err().to_string();
        assert_eq!(error(""), "Request decode failed: EOF");
        assert_eq!(error("{\"a\":"), "Request decode failed: unexpected EOF");
        assert_eq!(
            error("{bad"),
            "Request decode failed: invalid character 'b' looking for beginning of object key string"
        );
        assert_eq!(error("[]"), "Request decode failed: json: cannot unmarshal array into Go value of type X");
        assert!(object(b"null", "X").unwrap().is_empty());
    }

    #[test]
    fn last_of_repeated_fields_and_keys_counts() {
        let mut fields = object(br#"{"Meta":{"b":"1","a":"2","b":"3"},"Name":"x","NAME":"y"}"#, "X").unwrap();
        let meta = fields.map(&["Meta"]).unwrap();
        assert_eq!(meta, [("a".into(), "2".into()), ("b".into(), "3".into())]);
        assert_eq!(fields.text(&["Name"]).unwrap(), "y");
        fields.end().unwrap();
    }

    #[test]
    fn field_names_ignore_case_and_unknown_fields_are_rejected() {
        let mut fields = object(br#"{"NAME":"a","tags":["x",null],"port":"80","More":1}"#, "X").unwrap();
        assert_eq!(fields.text(&["Name"]).unwrap(), "a");
        assert_eq!(fields.texts(&["Tags"]).unwrap(), ["x", ""]);
        let wrong = fields.number(&["Port"]).unwrap_err().to_string();
        assert_eq!(
            wrong,
            "Request decode failed: json: cannot unmarshal string into Go struct field X.Port of type int"
        );
        assert_eq!(fields.end().unwrap_err().to_string(), "Request decode failed: json: unknown field \"More\"");
    }
}
