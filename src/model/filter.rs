//! Filter language: boolean expressions over the fields of a record, as in Consul.
//!
//! ```text
//! "v2" in tags and status == SERVING and metadata.team != "checkout"
//! not (zone matches `^eu-` or metadata["app.kubernetes.io/name"] is empty)
//! ```
//!
//! The language follows [go-bexpr](https://github.com/hashicorp/go-bexpr). All protocols use the same parser. They differ in the
//! [`Schema`], the table of selectors of a kind of record, and the [`Filterable`] that returns the values.
//!
//! | clause                               | fits                  | true when                                     |
//! |--------------------------------------|-----------------------|-----------------------------------------------|
//! | `s == v`, `s != v`                   | text, number, boolean | they are (not) equal, including case           |
//! | `v [not] in s`, `s [not] contains v` | text, list, map       | it is a part of the text, an element, a key   |
//! | `s is [not] empty`                   | text, list, map, list of records | it has no content                  |
//! | `s [not] matches v`                  | text                  | the pattern matches a part of the text        |
//!
//! The precedence rises from `or` to `and` to `not` to parentheses. A selector consists of names joined by dots, where a map key
//! may also stand in brackets (`metadata["team"]`), or is a JSON pointer in quotes (`"/metadata/team"`, with `~1` for a slash in a
//! key). A value is a bare word, a number, a text in double quotes with Go's escapes, or a text in backticks without escapes.
//!
//! An absent map key equals no value, contains nothing, matches no pattern and is empty: `==` is false and `!=` is true. A clause
//! whose selector leads through a list of records is true if it is true for any of them. The empty filter selects everything. In
//! the Consul API, an absent key both matches and does not match any pattern, as in the go-bexpr of Consul
//! ([`FieldValue::MissingInConsul`]).
//!
//! Differences from go-bexpr, apart from the wording of errors:
//!
//! - More is valid: `is empty` on texts; no blanks around parentheses and after quotes; `\"` inside double quotes.
//! - Operators and values are validated against the schema by the parser, as in the go-bexpr of Consul.
//! - A quoted value is always literal; a recent go-bexpr reads `"/a"` on either side as a pointer.
//! - `not` in front of a clause is always the operator. A text that reads `not` needs quotes there.
//! - Numbers are decimal integers of 64 bits. Escapes stand for characters, not bytes: `\xff` and octal ones are invalid.
//! - Patterns are those of the [`regex`] crate: also linear in time, but `\d` and `\w` are Unicode, and `\Q…\E` does not
//!   exist.
//! - No `any` and `all` blocks over collections, no indexes into lists, no comparison of one selector with another.
//! - There are limits: [`MAX_LENGTH`], [`MAX_DEPTH`], [`MAX_PATTERNS`] and [`MAX_PATTERN_SIZE`].

mod error;
mod evaluate;
mod lexer;
mod parse;
mod schema;
mod selector_kind;

#[cfg(test)]
mod error_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

use std::fmt;

pub use error::{FilterError, FilterErrorKind};
pub use evaluate::{CollectionItems, FieldValue, Filterable};
pub use schema::{FilterSelector, Schema};
pub use selector_kind::SelectorKind;

use error::FilterErrorAt;
use evaluate::Expression;

/// Maximum length of a filter in bytes of UTF-8.
pub const MAX_LENGTH: usize = 4096;
/// Maximum nesting of parentheses. It limits the stack that parsing and matching use.
pub const MAX_DEPTH: usize = 64;
/// Maximum number of `matches` clauses, each of which keeps a compiled pattern in memory.
pub const MAX_PATTERNS: usize = 8;
/// Maximum size of a compiled pattern in bytes.
pub const MAX_PATTERN_SIZE: usize = 256 * 1024;

/// Parsed filter over records whose fields are named by `F`.
///
/// Matching does not allocate. A filter is immutable; wrap it in an `Arc` to share it.
#[derive(Debug, Clone)]
pub struct Filter<F> {
    text: Box<str>,
    /// `None` selects everything.
    root: Option<Expression<F>>,
}

impl<F: Copy + 'static> Filter<F> {
    /// Parses an expression over the selectors of `schema`. The empty text selects everything.
    ///
    /// # Errors
    ///
    /// When the text is not an expression, exceeds a limit, or does not fit the schema.
    pub fn parse(text: &str, schema: &Schema<F>) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let root = Self::expression(text, schema).map_err(|error| error.in_text(text))?;
        Ok(Self { text: text.into(), root: Some(root) })
    }

    fn expression(text: &str, schema: &Schema<F>) -> Result<Expression<F>, FilterErrorAt> {
        if text.len() > MAX_LENGTH {
            return Err(FilterErrorAt::new(MAX_LENGTH, FilterErrorKind::TooLong { length: text.len() }));
        }
        let tokens = lexer::tokens(text)?;
        parse::expression(text, &tokens, schema)
    }

    /// Returns whether the filter selects a record.
    pub fn matches<R: Filterable<Field = F>>(&self, record: &R) -> bool {
        self.root.as_ref().is_none_or(|root| root.matches(record))
    }
}

impl<F> Filter<F> {
    /// Text of the filter. Empty if it selects everything.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A filter that selects everything.
impl<F> Default for Filter<F> {
    fn default() -> Self {
        Self { text: Box::default(), root: None }
    }
}

/// Shows the text of the filter.
impl<F> fmt::Display for Filter<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
