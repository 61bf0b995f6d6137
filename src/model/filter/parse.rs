//! Parser of filters: from tokens to an expression over the fields of a schema.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};

use super::error::{FilterErrorAt, FilterErrorKind, excerpt};
use super::evaluate::{Clause, ClauseTest, Expression};
use super::lexer::{FilterToken, Lexeme};
use super::schema::{Resolved, Schema};
use super::selector_kind::SelectorKind;
use super::{MAX_DEPTH, MAX_PATTERN_SIZE, MAX_PATTERNS};

/// Parses all tokens of `text` as one expression.
pub(super) fn expression<F: Copy>(
    text: &str,
    tokens: &[FilterToken],
    schema: &Schema<F>,
) -> Result<Expression<F>, FilterErrorAt> {
    let mut parser = Parser { text, tokens, next: 0, schema, patterns: 0 };
    let root = parser.any(0)?;
    match parser.peek() {
        None => Ok(root),
        Some(_) => Err(parser.unexpected("`and`, `or` or the end of the filter")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    In,
    Contains,
    Empty,
    Matches,
}

impl Operator {
    fn fits(self, kind: SelectorKind) -> bool {
        match self {
            Self::Equal => matches!(kind, SelectorKind::Text | SelectorKind::Number | SelectorKind::Boolean),
            Self::In | Self::Contains => matches!(kind, SelectorKind::Text | SelectorKind::List | SelectorKind::Map),
            Self::Empty => {
                matches!(kind, SelectorKind::Text | SelectorKind::List | SelectorKind::Map | SelectorKind::Records)
            }
            Self::Matches => kind == SelectorKind::Text,
        }
    }
}

struct Parser<'a, F: 'static> {
    text: &'a str,
    tokens: &'a [FilterToken],
    next: usize,
    schema: &'a Schema<F>,
    patterns: usize,
}

/// Recursive descent with one function for each level of precedence. Only parentheses recurse, and their depth is limited.
impl<'a, F: Copy> Parser<'a, F> {
    /// `all or all or …`
    fn any(&mut self, depth: usize) -> Result<Expression<F>, FilterErrorAt> {
        let mut parts = vec![self.all(depth)?];
        while self.take("or") {
            parts.push(self.all(depth)?);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Expression::Any(parts.into()) })
    }

    /// `negation and negation and …`
    fn all(&mut self, depth: usize) -> Result<Expression<F>, FilterErrorAt> {
        let mut parts = vec![self.negation(depth)?];
        while self.take("and") {
            parts.push(self.negation(depth)?);
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Expression::All(parts.into()) })
    }

    /// `not not … group`: an even number of `not` has no effect.
    fn negation(&mut self, depth: usize) -> Result<Expression<F>, FilterErrorAt> {
        let mut negated = false;
        while self.take("not") {
            negated = !negated;
        }
        let inner = self.group(depth)?;
        Ok(if negated { Expression::Not(Box::new(inner)) } else { inner })
    }

    /// `( any )`, or a clause
    fn group(&mut self, depth: usize) -> Result<Expression<F>, FilterErrorAt> {
        let at = self.offset();
        if !self.take("(") {
            return self.clause();
        }
        if depth == MAX_DEPTH {
            return Err(FilterErrorAt::new(at, FilterErrorKind::TooDeep));
        }
        let inner = self.any(depth + 1)?;
        if self.take(")") { Ok(inner) } else { Err(self.unexpected("`and`, `or` or `)`")) }
    }

    /// `selector operator value`, `value operator selector` or `selector operator`
    fn clause(&mut self) -> Result<Expression<F>, FilterErrorAt> {
        let left = self.operand("a clause such as `name == value`")?;
        let at = self.offset();
        let (operator, negated) = self.operator()?;
        let written = &self.text[at..self.tokens[self.next - 1].span.end];
        let (selector, value) = match operator {
            Operator::Empty => (left, None),
            Operator::In => (self.operand("a selector")?, Some(left)),
            Operator::Equal | Operator::Contains | Operator::Matches => (left, Some(self.operand("a value")?)),
        };

        let Resolved { kind, field, key } = self.selector(selector)?;
        if !operator.fits(kind) {
            let (operator, selector) = (excerpt(written), excerpt(self.source(selector)));
            return Err(FilterErrorAt::new(at, FilterErrorKind::Operator { operator, selector, kind }));
        }
        let test = match value {
            None => ClauseTest::Empty,
            Some(value) => self.test(operator, kind, selector, value)?,
        };
        Ok(Expression::Clause(Clause { field, key, test, negated }))
    }

    /// Parses an operator. Returns true with it if it is negated.
    fn operator(&mut self) -> Result<(Operator, bool), FilterErrorAt> {
        if self.take("==") {
            return Ok((Operator::Equal, false));
        }
        if self.take("!=") {
            return Ok((Operator::Equal, true));
        }
        if self.take("is") {
            let negated = self.take("not");
            let empty = self.take("empty");
            return if empty { Ok((Operator::Empty, negated)) } else { Err(self.unexpected("`empty` or `not empty`")) };
        }
        let negated = self.take("not");
        for (word, operator) in [("in", Operator::In), ("contains", Operator::Contains), ("matches", Operator::Matches)]
        {
            if self.take(word) {
                return Ok((operator, negated));
            }
        }
        Err(self.unexpected(if negated {
            "`in`, `contains` or `matches`"
        } else {
            "`==`, `!=`, `is [not] empty`, `[not] in`, `[not] contains` or `[not] matches`"
        }))
    }

    /// Parses a selector or a value.
    fn operand(&mut self, expected: &'static str) -> Result<&'a FilterToken, FilterErrorAt> {
        match self.peek() {
            Some(token) if !matches!(token.lexeme, Lexeme::Symbol) => {
                self.next += 1;
                Ok(token)
            }
            _ => Err(self.unexpected(expected)),
        }
    }

    fn selector(&self, token: &'a FilterToken) -> Result<Resolved<F>, FilterErrorAt> {
        let path: Cow<'a, [String]> = match &token.lexeme {
            Lexeme::Path(path) => path.into(),
            Lexeme::Text(text) if text.starts_with('/') => pointer(text).into(),
            _ => {
                let found = format!("`{}`", excerpt(self.source(token)));
                return Err(FilterErrorAt::syntax(
                    token.span.start,
                    found,
                    "a selector, which is a name without quotes",
                ));
            }
        };
        let unknown = || FilterErrorAt::new(token.span.start, self.schema.unknown(&path, self.source(token)));
        self.schema.resolve(&path).ok_or_else(unknown)
    }

    /// Converts the value to the type of the selector.
    fn test(
        &mut self,
        operator: Operator,
        kind: SelectorKind,
        selector: &FilterToken,
        token: &FilterToken,
    ) -> Result<ClauseTest, FilterErrorAt> {
        let value = match &token.lexeme {
            Lexeme::Path(path) => path.join("."),
            Lexeme::Text(text) => text.clone(),
            Lexeme::Number | Lexeme::Symbol => self.source(token).to_owned(),
        };
        let error = || {
            let (value, selector) = (excerpt(&value), excerpt(self.source(selector)));
            FilterErrorAt::new(token.span.start, FilterErrorKind::Value { value, selector, kind })
        };
        match (operator, kind) {
            (Operator::Matches, _) => self.pattern(&value, token.span.start),
            (Operator::In | Operator::Contains | Operator::Empty, _) => Ok(ClauseTest::Contains(value.into())),
            (Operator::Equal, SelectorKind::Number) => value.parse().map(ClauseTest::Number).map_err(|_| error()),
            (Operator::Equal, SelectorKind::Boolean) => boolean(&value).map(ClauseTest::Boolean).ok_or_else(error),
            (Operator::Equal, SelectorKind::Text | SelectorKind::List | SelectorKind::Map | SelectorKind::Records) => {
                Ok(ClauseTest::Text(value.into()))
            }
        }
    }

    fn pattern(&mut self, pattern: &str, at: usize) -> Result<ClauseTest, FilterErrorAt> {
        if self.patterns == MAX_PATTERNS {
            return Err(FilterErrorAt::new(at, FilterErrorKind::TooManyPatterns));
        }
        self.patterns += 1;
        compile(pattern).map(ClauseTest::Matches).map_err(|kind| FilterErrorAt::new(at, kind))
    }

    fn peek(&self) -> Option<&'a FilterToken> {
        self.tokens.get(self.next)
    }

    /// Start of the next token in bytes.
    fn offset(&self) -> usize {
        self.peek().map_or(self.text.len(), |token| token.span.start)
    }

    /// Text of a token.
    fn source(&self, token: &FilterToken) -> &'a str {
        &self.text[token.span.clone()]
    }

    /// Consumes the next token if it is this word or symbol without quotes.
    fn take(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| self.source(token) == word);
        self.next += usize::from(found);
        found
    }

    fn unexpected(&self, expected: &'static str) -> FilterErrorAt {
        let found = self.peek().map(|token| format!("`{}`", excerpt(self.source(token))));
        FilterErrorAt::syntax(self.offset(), found.unwrap_or_else(|| "the end of the filter".to_owned()), expected)
    }
}

/// Splits a JSON pointer (RFC 6901).
fn pointer(text: &str) -> Vec<String> {
    text.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect()
}

/// Parses a boolean, in the spellings that Go accepts.
fn boolean(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn compile(pattern: &str) -> Result<Regex, FilterErrorKind> {
    let mut builder = RegexBuilder::new(pattern);
    // The second limit is that of a cache. Matching also works without the cache.
    let built = builder.size_limit(MAX_PATTERN_SIZE).dfa_size_limit(MAX_PATTERN_SIZE).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => FilterErrorKind::PatternTooLarge { pattern: excerpt(pattern) },
        error => {
            // The message of a syntax error shows the pattern, with the reason in its last line.
            let message = error.to_string();
            let reason = message.lines().last().unwrap_or_default().trim_start_matches("error: ");
            FilterErrorKind::Pattern { pattern: excerpt(pattern), reason: reason.to_owned() }
        }
    })
}
