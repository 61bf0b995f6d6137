//! Properties of the parser: it returns for any text, and expressions mean the same as a naive evaluation.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::{Field, SCHEMA, Sample};
use super::*;

/// Parses any text. The column of an error must be in the text or right after it.
fn assert_parses(text: &str) -> Result<(), TestCaseError> {
    match Filter::<Field>::parse(text, &SCHEMA) {
        Ok(filter) => prop_assert_eq!(filter.as_str(), text),
        Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{text:?}: {error}"),
    }
    Ok(())
}

fn token() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "(",
        ")",
        "==",
        "!=",
        "=",
        "!",
        "not",
        "and",
        "or",
        "in",
        "is",
        "empty",
        "contains",
        "matches",
        "id",
        "tags",
        "weight",
        "metadata",
        "metadata.",
        "metadata.team",
        "Checks.Status",
        "[",
        "]",
        "\"",
        "`",
        "\\",
        "\"team\"",
        "`v2`",
        "\"/id\"",
        "80",
        "-",
        "0.5",
        "true",
        ".",
        "/",
        "é",
        "\u{0}",
    ])
}

/// Expression as a tree, which is written in two ways.
#[derive(Debug, Clone)]
enum ExpressionTree {
    Or(Box<ExpressionTree>, Box<ExpressionTree>),
    And(Box<ExpressionTree>, Box<ExpressionTree>),
    Not(Box<ExpressionTree>),
    Weight(i64),
    Tag(&'static str),
    Team(&'static str),
    NotTeam(&'static str),
}

const WORDS: [&str; 4] = ["", "a b", "v2", "not \"and\" \\or"];

fn tree() -> impl Strategy<Value = ExpressionTree> {
    let word = || prop::sample::select(WORDS.to_vec());
    let clause = prop_oneof![
        (-1..2i64).prop_map(ExpressionTree::Weight),
        word().prop_map(ExpressionTree::Tag),
        word().prop_map(ExpressionTree::Team),
        word().prop_map(ExpressionTree::NotTeam),
    ];
    clause.prop_recursive(6, 40, 2, |inner| {
        let pair = || (inner.clone(), inner.clone());
        prop_oneof![
            pair().prop_map(|(left, right)| ExpressionTree::Or(Box::new(left), Box::new(right))),
            pair().prop_map(|(left, right)| ExpressionTree::And(Box::new(left), Box::new(right))),
            inner.clone().prop_map(|inner| ExpressionTree::Not(Box::new(inner))),
        ]
    })
}

impl ExpressionTree {
    /// Precedence of the operator.
    fn level(&self) -> u8 {
        match self {
            Self::Or(..) => 0,
            Self::And(..) => 1,
            Self::Not(_) => 2,
            Self::Weight(_) | Self::Tag(_) | Self::Team(_) | Self::NotTeam(_) => 3,
        }
    }

    /// Writes the tree with as few parentheses as precedence permits.
    fn written(&self, level: u8) -> String {
        let text = match self {
            Self::Or(left, right) => format!("{} or {}", left.written(0), right.written(0)),
            Self::And(left, right) => format!("{} and {}", left.written(1), right.written(1)),
            Self::Not(inner) => format!("not {}", inner.written(2)),
            Self::Weight(weight) => format!("weight == {weight}"),
            Self::Tag(tag) => format!("`{tag}` in tags"),
            Self::Team(team) => format!("metadata.team == {team:?}"),
            Self::NotTeam(team) => format!("metadata[\"team\"] != {team:?}"),
        };
        if self.level() < level { format!("({text})") } else { text }
    }

    fn holds(&self, record: &Sample) -> bool {
        match self {
            Self::Or(left, right) => left.holds(record) || right.holds(record),
            Self::And(left, right) => left.holds(record) && right.holds(record),
            Self::Not(inner) => !inner.holds(record),
            Self::Weight(weight) => record.weight == *weight,
            Self::Tag(tag) => record.tags.contains(tag),
            Self::Team(team) => record.metadata.get("team") == Some(team),
            Self::NotTeam(team) => record.metadata.get("team") != Some(team),
        }
    }
}

fn record() -> impl Strategy<Value = Sample> {
    let word = || prop::sample::select(WORDS.to_vec());
    (-1..2i64, prop::collection::vec(word(), 0..3), prop::option::of(word())).prop_map(|(weight, tags, team)| Sample {
        id: "a",
        weight,
        enabled: false,
        tags,
        metadata: team.map(|team| ("team", team)).into_iter().collect(),
        checks: vec![],
        ports: BTreeMap::new(),
    })
}

impl std::fmt::Debug for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "weight {}, tags {:?}, metadata {:?}", self.weight, self.tags, self.metadata)
    }
}

proptest! {
    #[test]
    fn any_text_parses_or_is_an_error_within_it(text in any::<String>()) {
        assert_parses(&text)?;
    }

    #[test]
    fn any_words_parse_or_are_an_error_within_them(tokens in prop::collection::vec((token(), prop::bool::ANY), 0..40)) {
        let spaced = tokens.into_iter().flat_map(|(token, blank)| [token, if blank { " " } else { "" }]);
        let text: String = spaced.collect();
        assert_parses(&text)?;
    }

    #[test]
    fn written_tree_evaluates_like_the_tree(tree in tree(), record in record()) {
        let text = tree.written(0);
        prop_assume!(text.len() <= MAX_LENGTH);
        let filter = Filter::parse(&text, &SCHEMA).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        prop_assert_eq!(filter.matches(&record), tree.holds(&record), "{}", text);
    }
}
