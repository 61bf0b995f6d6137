//! Errors of filters: positions and messages.

use super::tests::{SCHEMA, sample};
use super::*;

fn error_of(text: &str) -> String {
    match Filter::parse(text, &SCHEMA) {
        Ok(filter) => panic!("`{filter}` is valid"),
        Err(error) => error.to_string(),
    }
}

fn assert_valid(text: &str) {
    let filter = Filter::parse(text, &SCHEMA).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert!(filter.matches(&sample()), "{text}");
}

/// Each line of the table has a filter, an arrow, and the start of its error.
fn assert_errors(table: &str) {
    for line in table.trim().lines() {
        let Some((text, expected)) = line.trim().split_once(" -> ") else { panic!("no arrow in {line}") };
        let error = error_of(text);
        assert!(error.starts_with(expected), "{text}\n  expected {expected}\n  found    {error}");
    }
}

#[test]
fn syntax_error_names_the_expected_token() {
    assert_errors(
        r#"
        id === -> column 6: found `=`, expected `==`
        id = a -> column 4: found `=`, expected `==`
        id == 'a' -> column 7: found `'`, expected double quotes or backticks
        weight > 3 -> column 8: found `>`, expected `==` or `!=`, as values have no order
        id == a && id == b -> column 9: found `&`, expected `and`
        id == a || id == b -> column 9: found `|`, expected `or`
        !(id == a) -> column 1: found `!`, expected `!=` or `not`
        id == é -> column 7: found `é`, expected a name, a number, or a text in double quotes or backticks
        id == "é" x -> column 11: found `x`, expected `and`, `or` or the end of the filter
        id == a ) -> column 9: found `)`, expected `and`, `or` or the end of the filter
        (id == a -> column 9: found the end of the filter, expected `and`, `or` or `)`
        id == -> column 6: found the end of the filter, expected a value
        id == ) -> column 7: found `)`, expected a value
        a in -> column 5: found the end of the filter, expected a selector
        id == a and -> column 12: found the end of the filter, expected a clause such as `name == value`
        id is full -> column 7: found `full`, expected `empty` or `not empty`
        id not a -> column 8: found `a`, expected `in`, `contains` or `matches`
        not in tags -> column 8: found `tags`, expected `==`, `!=`, `is [not] empty`, `[not] in`, `[not] contains` or
        32 == id -> column 1: found `32`, expected a selector, which is a name without quotes
        "a" == id -> column 1: found `"a"`, expected a selector, which is a name without quotes
        id == "a -> column 7: found a text without an end, expected a closing `"` after it
        id == "a\ -> column 7: found a text without an end, expected a closing `"` after it
        id == `a -> column 7: found a text without an end, expected a closing backtick after it
        metadata[team] == a -> column 9: found `[`, expected a key in quotes and `]` after it, as in name["key"]
        metadata["a" == a -> column 9: found `[`, expected a key in quotes and `]` after it, as in name["key"]
        "#,
    );
    let nothing = "column 2: found the end of the filter, expected a clause such as `name == value`";
    assert_eq!(error_of(" "), nothing);
}

#[test]
fn operator_or_value_that_does_not_fit_the_selector_is_rejected() {
    assert_errors(
        r"
        tags == v2 -> column 6: `==` does not fit `tags`, which is a list of texts; use `in`, `contains` or `is empty`
        8 not in weight -> column 3: `not in` does not fit `weight`, which is a whole number; use `==` or `!=`
        tags matches v -> column 6: `matches` does not fit `tags`, which is a list of texts; use `in`,
        weight == heavy -> column 11: `heavy` is not a whole number, which `weight` is; write one such as `80`
        weight == 1.5 -> column 11: `1.5` is not a whole number, which `weight` is; write one such as `80`
        enabled == yes -> column 12: `yes` is not a boolean, which `enabled` is; write `true` or `false`
        id matches `(` -> column 12: `(` is not a regular expression: unclosed group; correct it, or put `\` in front of
        id matches `\w{999}` -> column 12: `\w{999}` compiles to more than 262144 bytes; repeat less,
        ",
    );
}

#[test]
fn bare_word_with_other_letters_is_rejected() {
    assert_errors(
        r#"
        id == eu-west-1 -> column 7: found `eu-west-1`, expected a name of letters, digits, `_` and `/` (quote any
        (id == 10.0.0.1) -> column 8: found `10.0.0.1`, expected a name
        weight == 007 -> column 11: found `007`, expected a name
        weight == 3x -> column 11: found `3x`, expected a name
        weight == - -> column 11: found `-`, expected a name
        metadata.team-name==a -> column 1: found `metadata.team-name`, expected a name
        metadata. == a -> column 1: found `metadata.`, expected a name
        metadata["a"]b is empty -> column 1: found `metadata["a"]b`, expected a name
        "#,
    );
}

#[test]
fn unknown_or_byte_escape_is_rejected() {
    for escape in [r"\d", r"\'", r"\0", r"\x8", r"\xff", r"\ud800", r"\u12", r"\U00110000"] {
        let error = error_of(&format!("id == \"é{escape}\""));
        let expected = format!("column 9: found `{}`, expected an escape such as", &escape[..2]);
        assert!(error.starts_with(&expected), "{escape}: {error}");
    }
}

#[test]
fn unknown_selector_is_rejected_with_a_suggestion() {
    assert_errors(
        r#"
        Nope == 1 -> column 1: unknown selector `Nope`; use one of id, weight, enabled, tags, metadata, metadata.<key>,
        id == a and wieght == 1 -> column 13: unknown selector `wieght` (did you mean `weight`?); use one of id, weight,
        Checks.Stats == a -> column 1: unknown selector `Checks.Stats` (did you mean `Checks.Status`?); use
        Checks.Statuus == a -> column 1: unknown selector `Checks.Statuus` (did you mean `Checks.Status`?); use
        v2 in Tags -> column 7: unknown selector `Tags` (did you mean `tags`?); use
        checks.status == a -> column 1: unknown selector `checks.status` (did you mean `Checks.Status`?); use
        Metadata.team == a -> column 1: unknown selector `Metadata.team` (did you mean `metadata.team`?); use
        metadata.a.io/b == a -> column 1: unknown selector `metadata.a.io/b` (did you mean `metadata["a.io/b"]`?); use
        "/metadata/a/b" == a -> column 1: unknown selector `"/metadata/a/b"` (did you mean `metadata["a.b"]`?); use
        id.x == a -> column 1: unknown selector `id.x`; use
        Checks is empty -> column 1: unknown selector `Checks`; use
        "/" == a -> column 1: unknown selector `"/"`; use
        "#,
    );
}

#[test]
fn filter_at_each_limit_is_valid_and_beyond_it_rejected() {
    let padded = |length: usize| format!("{:length$}", "weight == 80");
    assert_valid(&padded(MAX_LENGTH));
    assert_eq!(error_of(&padded(MAX_LENGTH + 1)), "column 4097: the filter has 4097 bytes; shorten it to 4096");

    let nested = |depth: usize| format!("{}weight == 80{}", "(".repeat(depth), ")".repeat(depth));
    assert_valid(&nested(MAX_DEPTH));
    assert_valid(&nested(MAX_DEPTH).replace('(', "not not ("));
    let too_deep = "column 65: parentheses nest deeper than 64; write the filter with fewer levels";
    assert_eq!(error_of(&nested(MAX_DEPTH + 1)), too_deep);
    assert_eq!(error_of(&"(".repeat(MAX_LENGTH)), too_deep);
    assert_valid(&format!("{}weight == 80", "not ".repeat(1000)));

    let patterns = |count: usize| vec!["id matches web"; count].join(" and ");
    assert_valid(&patterns(MAX_PATTERNS));
    let too_many = "column 164: more than 8 `matches` clauses; join their patterns with `|`";
    assert_eq!(error_of(&patterns(MAX_PATTERNS + 1)), too_many);
}

#[test]
fn message_shortens_and_escapes_the_filter() {
    assert!(error_of("weight == `\n\0`").starts_with("column 11: `\\n\\u{0}` is not a whole number"));
    assert!(error_of("\0").starts_with("column 1: found `\\u{0}`, expected"));
    let long = "é".repeat(1000);
    assert_eq!(error_of(&format!("weight == `{long}`")).matches('é').count(), 60);
}
