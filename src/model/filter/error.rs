//! What can be wrong with a filter, and where.

use super::schema::SelectorKind;
use super::{MAX_DEPTH, MAX_LENGTH, MAX_PATTERN_SIZE, MAX_PATTERNS};

/// How much of the filter an error repeats, in characters.
const MAX_EXCERPT: usize = 60;

/// A filter that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {problem}")]
pub struct FilterError {
    /// The character of the filter at which the problem begins, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: FilterErrorKind,
}

/// Why a filter was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterErrorKind {
    /// The text is over [`MAX_LENGTH`].
    #[error("the filter has {length} bytes; shorten it to {MAX_LENGTH}")]
    TooLong {
        /// Its length, in bytes.
        length: usize,
    },
    /// Parentheses nest deeper than [`MAX_DEPTH`].
    #[error("parentheses nest deeper than {MAX_DEPTH}; write the filter with fewer levels")]
    TooDeep,
    /// There are more `matches` clauses than [`MAX_PATTERNS`].
    #[error("more than {MAX_PATTERNS} `matches` clauses; join their patterns with `|`")]
    TooManyPatterns,
    /// The text is no expression.
    #[error("found {found}, expected {expected}")]
    Syntax {
        /// What stands there, in backticks, or a description of it.
        found: String,
        /// What would have been right.
        expected: &'static str,
    },
    /// The schema has no such selector.
    #[error("unknown selector `{selector}`{}; use one of {known}", did_you_mean(suggestion.as_deref()))]
    UnknownSelector {
        /// The selector as written.
        selector: String,
        /// What was probably meant.
        suggestion: Option<String>,
        /// All there are, separated by commas.
        known: String,
    },
    /// The operator does not fit what the selector selects.
    #[error("`{operator}` does not fit `{selector}`, which is a {kind}; use {}", kind.operators())]
    Operator {
        /// The operator as written.
        operator: String,
        /// The selector as written.
        selector: String,
        /// What it selects.
        kind: SelectorKind,
    },
    /// The value is none that the selector can have.
    #[error("`{value}` is no {kind}, which `{selector}` is; write {}", kind.example())]
    Value {
        /// The value, without its quotes.
        value: String,
        /// The selector as written.
        selector: String,
        /// What it selects.
        kind: SelectorKind,
    },
    /// The value of `matches` is no regular expression.
    #[error("`{pattern}` is no regular expression: {reason}; correct it, or escape what is meant literally with `\\`")]
    Pattern {
        /// The pattern, without its quotes.
        pattern: String,
        /// What the compiler said.
        reason: String,
    },
    /// The value of `matches` compiles to more than [`MAX_PATTERN_SIZE`].
    #[error("`{pattern}` compiles to more than {MAX_PATTERN_SIZE} bytes; repeat less, or write [0-9a-z_] for \\w")]
    PatternTooLarge {
        /// The pattern, without its quotes.
        pattern: String,
    },
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |suggestion| format!(" (did you mean `{suggestion}`?)"))
}

/// A problem at a byte of the text: what the lexer and the parser work with.
#[derive(Debug)]
pub(super) struct FilterErrorAt {
    at: usize,
    problem: FilterErrorKind,
}

impl FilterErrorAt {
    pub(super) fn new(at: usize, problem: FilterErrorKind) -> Self {
        Self { at, problem }
    }

    pub(super) fn syntax(at: usize, found: impl Into<String>, expected: &'static str) -> Self {
        Self::new(at, FilterErrorKind::Syntax { found: found.into(), expected })
    }

    /// The public error: people count characters, from 1.
    pub(super) fn in_text(self, text: &str) -> FilterError {
        let before = text.char_indices().take_while(|&(at, _)| at < self.at).count();
        FilterError { column: before + 1, problem: self.problem }
    }
}

/// As much of `text` as an error should repeat, on one line.
pub(super) fn excerpt(text: &str) -> String {
    let mut excerpt = String::new();
    for letter in text.chars().take(MAX_EXCERPT) {
        if letter.is_control() {
            excerpt.extend(letter.escape_default());
        } else {
            excerpt.push(letter);
        }
    }
    if text.chars().nth(MAX_EXCERPT).is_some() {
        excerpt.push('…');
    }
    excerpt
}
