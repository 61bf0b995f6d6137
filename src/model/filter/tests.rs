//! Expressions that are true and false for a sample record.

use std::collections::BTreeMap;

use super::*;

/// Record with a field of each type, like a service of Consul.
pub(super) struct Sample {
    pub(super) id: &'static str,
    pub(super) weight: i64,
    pub(super) enabled: bool,
    pub(super) tags: Vec<&'static str>,
    pub(super) metadata: BTreeMap<&'static str, &'static str>,
    pub(super) checks: Vec<&'static str>,
    pub(super) ports: BTreeMap<&'static str, i64>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Field {
    Id,
    Weight,
    Enabled,
    Tags,
    Metadata,
    CheckStatus,
    Ports,
}

pub(super) const SCHEMA: Schema<Field> = {
    const fn selector(path: &'static str, kind: SelectorKind, field: Field) -> FilterSelector<Field> {
        FilterSelector { path, kind, field }
    }
    Schema::new(&[
        selector("id", SelectorKind::Text, Field::Id),
        selector("weight", SelectorKind::Number, Field::Weight),
        selector("enabled", SelectorKind::Boolean, Field::Enabled),
        selector("tags", SelectorKind::List, Field::Tags),
        selector("metadata", SelectorKind::Map, Field::Metadata),
        selector("metadata.*", SelectorKind::Text, Field::Metadata),
        selector("Checks.Status", SelectorKind::Text, Field::CheckStatus),
        selector("Ports", SelectorKind::Map, Field::Ports),
        selector("Ports.*.Number", SelectorKind::Number, Field::Ports),
    ])
};

impl Filterable for Sample {
    type Field = Field;

    fn any(&self, field: Field, key: Option<&str>, test: impl Fn(FieldValue<'_>) -> bool) -> bool {
        match (field, key) {
            (Field::Id, _) => test(FieldValue::Text(self.id)),
            (Field::Weight, _) => test(FieldValue::Number(self.weight)),
            (Field::Enabled, _) => test(FieldValue::Boolean(self.enabled)),
            (Field::Tags, _) => test(FieldValue::Members(&self.tags)),
            (Field::Metadata, None) => test(FieldValue::Members(&self.metadata)),
            (Field::Metadata, Some(key)) => {
                test(self.metadata.get(key).map_or(FieldValue::Missing, |text| FieldValue::Text(text)))
            }
            (Field::CheckStatus, _) => self.checks.iter().any(|status| test(FieldValue::Text(status))),
            (Field::Ports, None) => test(FieldValue::Members(&self.ports)),
            (Field::Ports, Some(key)) => {
                test(self.ports.get(key).map_or(FieldValue::Missing, |port| FieldValue::Number(*port)))
            }
        }
    }
}

pub(super) fn sample() -> Sample {
    Sample {
        id: "web-1",
        weight: 80,
        enabled: true,
        tags: vec!["v2", "canary", "not", "a b"],
        metadata: BTreeMap::from([
            ("team", "checkout"),
            ("none", ""),
            ("path", "/api"),
            ("version", "v1.2.3"),
            ("app.kubernetes.io/name", "shop"),
            ("a~1b", "tilde"),
            ("control", "\u{7}\u{8}\u{c}\u{b}\r\t"),
            ("quote", "say \"hi\"\n\u{e9}\\"),
        ]),
        checks: vec!["passing", "critical"],
        ports: BTreeMap::from([("lan", 8080)]),
    }
}

#[track_caller]
fn assert_selects(expected: bool, text: &str) {
    let filter = Filter::parse(text, &SCHEMA).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(filter.matches(&sample()), expected, "{text}");
    assert_eq!(filter.to_string(), text);
}

/// Asserts the result of the expression in each line.
#[track_caller]
fn assert_each_selects(expected: bool, lines: &str) {
    for line in lines.trim().lines() {
        assert_selects(expected, line.trim());
    }
}

#[test]
fn empty_filter_selects_everything() {
    assert_selects(true, "");
    assert!(Filter::default().matches(&sample()));
}

#[test]
fn true_clause_selects_the_record() {
    assert_each_selects(
        true,
        r#"
        id == "web-1"
        id != web
        web in id
        id contains `eb-`
        db not in id
        id not contains db
        id is not empty
        id matches `^web-\d$`
        id matches "^web-\\d$"
        id not matches `^\d`
        weight == 80
        weight==80
        weight == "80"
        weight != -80
        enabled == true
        enabled == T
        enabled != 0
        v2 in tags
        "v2" in tags
        "v2"in tags
        "a b" in tags
        tags contains canary
        v not in tags
        V2 not in tags
        tags not contains v3
        tags is not empty
        team in metadata
        metadata contains `app.kubernetes.io/name`
        region not in metadata
        metadata is not empty
        metadata.team == checkout
        metadata["team"] == checkout
        metadata[ `team` ] == checkout
        "/metadata/team" == checkout
        "/metadata/app.kubernetes.io~1name" == shop
        "/metadata/a~01b" == tilde
        metadata["app.kubernetes.io/name"] == "shop"
        metadata.control == "\a\b\f\v\r\t"
        metadata.none is empty
        metadata.version == v1.2.3
        metadata.path == "/api"
        metadata.quote == "say \"hi\"\n\u00e9\\"
        metadata.quote == "\x73ay \U00000022hi\"\u000aé\\"
        Ports.lan.Number == 8080
        Ports["lan"].Number != 80
        lan in Ports
        "#,
    );
}

#[test]
fn false_clause_does_not_select_the_record() {
    assert_each_selects(
        false,
        r#"
        id == WEB
        id is empty
        id matches `^eb`
        id == `web\x2d1`
        weight == 81
        enabled == false
        canar in tags
        tags is empty
        checkout in metadata
        metadata is empty
        metadata.none is not empty
        metadata.path == "api"
        Ports is empty
        "#,
    );
}

#[test]
fn absent_key_equals_nothing_and_is_empty() {
    assert_each_selects(
        true,
        "
        metadata.region != eu
        eu not in metadata.region
        metadata.region is empty
        metadata.region not matches `.*`
        Ports.wan.Number != 8080
        ",
    );
    assert_each_selects(
        false,
        r#"
        metadata.region == eu
        metadata.region == ""
        eu in metadata.region
        "" in metadata.region
        metadata.region is not empty
        metadata.region matches `.*`
        Ports.wan.Number == 8080
        "#,
    );
}

#[test]
fn clause_over_a_list_of_records_is_true_if_any_record_fits() {
    assert_each_selects(
        true,
        "
        Checks.Status == critical
        Checks.Status != critical
        not Checks.Status == warning
        pass in Checks.Status
        ",
    );
    assert_each_selects(
        false,
        "
        Checks.Status == warning
        not Checks.Status == critical
        not Checks.Status != critical
        ",
    );
    let unchecked = Sample { checks: vec![], ..sample() };
    for text in ["Checks.Status == passing", "Checks.Status != passing", "Checks.Status is empty"] {
        let filter = Filter::parse(text, &SCHEMA);
        assert!(filter.is_ok_and(|filter| !filter.matches(&unchecked)), "{text}");
    }
}

#[test]
fn precedence_rises_from_or_to_and_to_not() {
    // `t` and `f` stand for a clause that is true and one that is false.
    let table = [
        ("t or t and f", true),
        ("(t or t) and f", false),
        ("f and f or t", true),
        ("f and (f or t)", false),
        ("not f and f", false),
        ("not (f and f)", true),
        ("not t or t", true),
        ("not (t or t)", false),
        ("not not t", true),
        ("not not not t", false),
        ("f or f or t", true),
        ("t and t and f", false),
        ("not(f)and(t)", true),
        (" \t\r\n( \nt ) ", true),
    ];
    for (shape, expected) in table {
        let words = shape.split_inclusive(|letter: char| !letter.is_alphanumeric()).map(|word| {
            match word.trim_end_matches(|letter: char| !letter.is_alphanumeric()) {
                "t" => word.replacen('t', "weight == 80", 1),
                "f" => word.replacen('f', "weight == 1", 1),
                _ => word.to_owned(),
            }
        });
        assert_selects(expected, &words.collect::<String>());
    }
}

#[test]
fn operator_word_in_the_position_of_a_value_is_a_value() {
    assert_each_selects(
        true,
        "
        tags contains not
        `not` in tags
        id != and
        or not in tags
        not in in tags
        ",
    );
}
