//! Errors of filters, with their positions.

use super::selector_kind::SelectorKind;
use super::{MAX_DEPTH, MAX_LENGTH, MAX_PATTERN_SIZE, MAX_PATTERNS};

/// Maximum length of an excerpt of the filter in a message, in characters.
const MAX_EXCERPT_CHARS: usize = 60;

/// Error of a filter that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {kind}")]
pub struct FilterError {
    /// Position of the error in the filter in characters, from 1.
    pub column: usize,
    /// Kind of the error.
    pub kind: FilterErrorKind,
}

/// Kind of an error of a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterErrorKind {
    /// The text is longer than [`MAX_LENGTH`].
    #[error("the filter has {length} bytes; shorten it to {MAX_LENGTH}")]
    TooLong {
        /// Length of the text in bytes.
        length: usize,
    },
    /// Parentheses nest deeper than [`MAX_DEPTH`].
    #[error("parentheses nest deeper than {MAX_DEPTH}; write the filter with fewer levels")]
    TooDeep,
    /// The filter has more than [`MAX_PATTERNS`] `matches` clauses.
    #[error("more than {MAX_PATTERNS} `matches` clauses; join their patterns with `|`")]
    TooManyPatterns,
    /// The text is not an expression.
    #[error("found {found}, expected {expected}")]
    Syntax {
        /// Text at the position in backticks, or a description of it.
        found: String,
        /// Description of valid texts.
        expected: &'static str,
    },
    /// The schema does not have the selector.
    #[error("unknown selector `{selector}`{}; use one of {known}", did_you_mean(suggestion.as_deref()))]
    UnknownSelector {
        /// Selector as written.
        selector: String,
        /// Similar selector that exists.
        suggestion: Option<String>,
        /// All selectors, separated by commas.
        known: String,
    },
    /// The operator does not fit the type of the selector.
    #[error("`{operator}` does not fit `{selector}`, which is a {kind}; use {}", kind.operators())]
    Operator {
        /// Operator as written.
        operator: String,
        /// Selector as written.
        selector: String,
        /// Type of the selector.
        kind: SelectorKind,
    },
    /// The value does not have the type of the selector.
    #[error("`{value}` is not a {kind}, which `{selector}` is; write {}", kind.example())]
    Value {
        /// Value without its quotes.
        value: String,
        /// Selector as written.
        selector: String,
        /// Type of the selector.
        kind: SelectorKind,
    },
    /// The value of `matches` is not a regular expression.
    #[error(
        "`{pattern}` is not a regular expression: {reason}; correct it, or put `\\` in front of characters that stand for themselves"
    )]
    Pattern {
        /// Pattern without its quotes.
        pattern: String,
        /// Message of the compiler.
        reason: String,
    },
    /// The value of `matches` compiles to more than [`MAX_PATTERN_SIZE`].
    #[error("`{pattern}` compiles to more than {MAX_PATTERN_SIZE} bytes; repeat less, or write [0-9a-z_] for \\w")]
    PatternTooLarge {
        /// Pattern without its quotes.
        pattern: String,
    },
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |suggestion| format!(" (did you mean `{suggestion}`?)"))
}

/// Error at a byte of the text, as lexer and parser report it.
#[derive(Debug)]
pub(super) struct FilterErrorAt {
    at: usize,
    kind: FilterErrorKind,
}

impl FilterErrorAt {
    pub(super) fn new(at: usize, kind: FilterErrorKind) -> Self {
        Self { at, kind }
    }

    pub(super) fn syntax(at: usize, found: impl Into<String>, expected: &'static str) -> Self {
        Self::new(at, FilterErrorKind::Syntax { found: found.into(), expected })
    }

    /// Converts the position to characters.
    pub(super) fn in_text(self, text: &str) -> FilterError {
        let before = text.char_indices().take_while(|&(at, _)| at < self.at).count();
        FilterError { column: before + 1, kind: self.kind }
    }
}

/// Shortens a text for a message, with control characters escaped.
pub(super) fn excerpt(text: &str) -> String {
    let mut excerpt = String::new();
    for letter in text.chars().take(MAX_EXCERPT_CHARS) {
        if letter.is_control() {
            excerpt.extend(letter.escape_default());
        } else {
            excerpt.push(letter);
        }
    }
    if text.chars().nth(MAX_EXCERPT_CHARS).is_some() {
        excerpt.push('…');
    }
    excerpt
}
