//! The filter language: a boolean expression over the fields of a record, as Consul users know it.
//!
//! ```text
//! "v2" in tags and status == SERVING and metadata.team != "checkout"
//! not (zone matches `^eu-` or metadata["app.kubernetes.io/name"] is empty)
//! ```
//!
//! It follows [go-bexpr](https://github.com/hashicorp/go-bexpr). One parser serves every door; what differs between them
//! is the [`Schema`], the table of selectors that a kind of record has, and the [`Filterable`] that answers for them.
//!
//! | clause                               | fits                  | true when                                     |
//! |--------------------------------------|-----------------------|-----------------------------------------------|
//! | `s == v`, `s != v`                   | text, number, boolean | they are (not) equal, case included           |
//! | `v [not] in s`, `s [not] contains v` | text, list, map       | it is a part of the text, an element, a key   |
//! | `s is [not] empty`                   | text, list, map, list of records | nothing is in it                   |
//! | `s [not] matches v`                  | text                  | the pattern is found somewhere in the text    |
//!
//! `or` binds loosest, then `and`, then `not`, then parentheses. A selector is names joined by dots, where a map key may
//! also stand in brackets (`metadata["team"]`), or all of it as a JSON pointer in quotes (`"/metadata/team"`, with `~1`
//! for a slash in a key). A value is a bare word, a number, a text in double quotes with Go's escapes, or one in
//! backticks without any.
//!
//! A map key that is absent equals nothing, holds nothing, matches nothing and is empty: `==` is false and `!=` is true.
//! Where a selector leads through a list of records, the clause is true when it is true of any of them. The empty filter
//! selects everything. Over HTTP in Consul's API, an absent key both matches and does not match any pattern, as in the
//! go-bexpr of Consul ([`FieldValue::MissingInConsul`]).
//!
//! What differs from go-bexpr, apart from the wording of errors:
//!
//! - More is accepted: `is empty` on texts; no blanks around parentheses and after quotes; `\"` inside double quotes.
//! - Operators and values are checked against the schema while parsing, as in the go-bexpr of Consul, never afterwards.
//! - A quoted value is always taken literally; recent go-bexpr reads `"/a"` on either side as a pointer.
//! - `not` in front of a clause is always the operator. A text that reads `not` needs quotes there.
//! - Numbers are whole and decimal, in 64 bits. Escapes name characters, not bytes: `\xff` and octal ones are refused.
//! - Patterns are those of the [`regex`] crate: linear in time too, but `\d` and `\w` are Unicode, and `\Q…\E` is not
//!   known.
//! - No `any` and `all` blocks over collections, no indexes into lists, no comparison of one selector with another.
//! - There are limits: [`MAX_LENGTH`], [`MAX_DEPTH`], [`MAX_PATTERNS`] and [`MAX_PATTERN_SIZE`].

mod error;
mod evaluate;
mod lexer;
mod parse;
mod schema;

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod tests;

use std::fmt;

pub use error::{FilterError, FilterErrorKind};
pub use evaluate::{CollectionItems, FieldValue, Filterable};
pub use schema::{FilterSelector, Schema, SelectorKind};

use error::FilterErrorAt;
use evaluate::Expression;

/// The longest filter, in bytes of UTF-8.
pub const MAX_LENGTH: usize = 4096;
/// How deep parentheses may nest. Bounds the stack that parsing and matching need.
pub const MAX_DEPTH: usize = 64;
/// How many `matches` clauses a filter may have: each is compiled and kept in memory.
pub const MAX_PATTERNS: usize = 8;
/// How large one compiled pattern may be, in bytes.
pub const MAX_PATTERN_SIZE: usize = 256 * 1024;

/// A checked expression, ready to be asked about records whose fields are named by `F`.
///
/// Asking allocates nothing. It is immutable, and as cheap to share as its owner makes it: wrap it in an `Arc`.
#[derive(Debug, Clone)]
pub struct Filter<F> {
    text: Box<str>,
    /// None selects everything.
    root: Option<Expression<F>>,
}

impl<F: Copy + 'static> Filter<F> {
    /// Reads an expression over the selectors of `schema`. The empty text selects everything.
    ///
    /// # Errors
    ///
    /// Where the text is no expression, goes over a limit, or does not fit the schema.
    pub fn parse(text: &str, schema: &Schema<F>) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let root = Self::expression(text, schema).map_err(|fault| fault.in_text(text))?;
        Ok(Self { text: text.into(), root: Some(root) })
    }

    fn expression(text: &str, schema: &Schema<F>) -> Result<Expression<F>, FilterErrorAt> {
        if text.len() > MAX_LENGTH {
            return Err(FilterErrorAt::new(MAX_LENGTH, FilterErrorKind::TooLong { length: text.len() }));
        }
        let tokens = lexer::tokens(text)?;
        parse::expression(text, &tokens, schema)
    }

    /// Whether the record is selected.
    pub fn matches<R: Filterable<Field = F>>(&self, record: &R) -> bool {
        self.root.as_ref().is_none_or(|root| root.matches(record))
    }
}

impl<F> Filter<F> {
    /// The expression as it was written. Empty: everything is selected.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Selects everything.
impl<F> Default for Filter<F> {
    fn default() -> Self {
        Self { text: Box::default(), root: None }
    }
}

/// The expression as it was written.
impl<F> fmt::Display for Filter<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
