//! Which selectors a kind of record has, and what each of them selects.

use std::fmt;

use super::error::{FilterErrorKind, excerpt};

/// What a selector selects. It decides which operators fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectorKind {
    /// Text: `==`, `!=`, `in` and `contains` for a part of it, `is empty`, `matches`.
    Text,
    /// A whole number: `==` and `!=`.
    Number,
    /// True or false: `==` and `!=`.
    Boolean,
    /// A list of texts: `in` and `contains` for an element, `is empty`.
    List,
    /// A map by text: `in` and `contains` for a key, `is empty`. Its values are selectors of their own.
    Map,
    /// A list of records: `is empty`. Their fields are selectors of their own.
    Records,
}

impl SelectorKind {
    /// The operators that fit, for errors.
    pub(super) fn operators(self) -> &'static str {
        match self {
            Self::Text => "`==`, `!=`, `in`, `contains`, `is empty` or `matches`",
            Self::Number | Self::Boolean => "`==` or `!=`",
            Self::List | Self::Map => "`in`, `contains` or `is empty`",
            Self::Records => "`is empty`",
        }
    }

    /// A value that fits, for errors.
    pub(super) fn example(self) -> &'static str {
        match self {
            Self::Number => "one such as `80`",
            Self::Boolean => "`true` or `false`",
            Self::Text | Self::List | Self::Map | Self::Records => "a text in quotes",
        }
    }
}

impl fmt::Display for SelectorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Number => "whole number",
            Self::Boolean => "boolean",
            Self::List => "list of texts",
            Self::Map => "map",
            Self::Records => "list of records",
        })
    }
}

/// One row of a [`Schema`].
#[derive(Debug, Clone, Copy)]
pub struct FilterSelector<F> {
    /// Names joined by dots, for example `Service.ListenerConfig`. At most one of them may be `*`: any key of a map, which the
    /// record is then asked for, as in `metadata.*` and `TaggedAddresses.*.ListenerConfig`. A name that ends in `[]` is a list of
    /// records, as in `Checks[].Status`; filters are written without it.
    pub path: &'static str,
    /// What it selects.
    pub kind: SelectorKind,
    /// How the record knows it.
    pub field: F,
}

/// The selectors of a kind of record. Made to be a constant. Where several fit, the first one is taken.
#[derive(Debug, Clone, Copy)]
pub struct Schema<F: 'static> {
    selectors: &'static [FilterSelector<F>],
}

/// A selector found in a schema.
pub(super) struct Resolved<F> {
    pub(super) kind: SelectorKind,
    pub(super) field: F,
    pub(super) key: Option<Box<str>>,
}

impl<F: Copy> Schema<F> {
    /// A schema of these selectors.
    #[must_use]
    pub const fn new(selectors: &'static [FilterSelector<F>]) -> Self {
        Self { selectors }
    }

    /// Finds what `path` names.
    pub(super) fn resolve(&self, path: &[String]) -> Option<Resolved<F>> {
        self.selectors.iter().find_map(|selector| {
            let mut key = None;
            let mut written = path.iter();
            for name in names(selector.path) {
                let segment = written.next()?;
                match name {
                    "*" => key = Some(segment.as_str().into()),
                    name if name == segment => {}
                    _ => return None,
                }
            }
            written.next().is_none().then_some(Resolved { kind: selector.kind, field: selector.field, key })
        })
    }

    /// The problem to report where [`Self::resolve`] found nothing.
    pub(super) fn unknown(&self, path: &[String], written: &str) -> FilterErrorKind {
        let known: Vec<_> =
            self.selectors.iter().map(|selector| selector.path.replace('*', "<key>").replace("[]", "")).collect();
        FilterErrorKind::UnknownSelector {
            selector: excerpt(written),
            suggestion: self.unquoted_key(path).or_else(|| self.nearest(path)),
            known: known.join(", "),
        }
    }

    /// `metadata.app.kubernetes.io` means the key with dots in it.
    fn unquoted_key(&self, path: &[String]) -> Option<String> {
        self.selectors.iter().filter_map(|selector| selector.path.strip_suffix(".*")).find_map(|map| {
            let depth = map.split('.').count();
            let fits = path.len() > depth && map.split('.').eq(path.iter().take(depth).map(String::as_str));
            fits.then(|| excerpt(&format!("{map}[{:?}]", path[depth..].join("."))))
        })
    }

    /// The selector that is only a slip of the pen away.
    fn nearest(&self, path: &[String]) -> Option<String> {
        let written = path.join(".");
        let candidates = self.selectors.iter().filter(|selector| selector.path.split('.').count() == path.len());
        let named = candidates.map(|selector| {
            let filled = names(selector.path).zip(path);
            filled.map(|(name, key)| if name == "*" { key } else { name }).collect::<Vec<_>>().join(".")
        });
        let (distance, name) = named.map(|name| (distance(&name, &written), name)).min()?;
        (distance <= 1 + written.len() / 4).then(|| excerpt(&name))
    }
}

/// The names of a path, as filters are written.
fn names(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.split('.').map(|name| name.trim_end_matches("[]"))
}

/// How many letters to insert, remove or replace to make one text the other (Levenshtein), whatever their case.
fn distance(left: &str, right: &str) -> usize {
    let right = right.to_ascii_lowercase();
    // The row above in the usual table: distances from the letters of `left` read so far to each prefix of `right`.
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (read, letter) in left.to_ascii_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = read + 1;
        for (column, other) in right.chars().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.chars().count()]
}
