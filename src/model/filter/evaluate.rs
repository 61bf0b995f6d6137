//! Asking an expression about a record, without allocating.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::hash::{BuildHasher, Hash};

use regex::Regex;

/// What a filter can be asked about.
pub trait Filterable {
    /// Names the fields, as in the [`Schema`](super::Schema) that filters over this kind of record are parsed with.
    type Field: Copy;

    /// Whether `test` says yes to the value of a field, or to any one where the path leads through a list of records.
    ///
    /// `key` is what the filter has for the `*` of the selector's path. A field without a value passes
    /// [`FieldValue::Missing`] to the test, not nothing: negated tests say yes to it.
    fn any(&self, field: Self::Field, key: Option<&str>, test: impl Fn(FieldValue<'_>) -> bool) -> bool;
}

/// The value of a field, lent to a test. One that is not of the selector's kind counts as missing.
#[derive(Debug, Clone, Copy)]
pub enum FieldValue<'a> {
    /// There is none: a map key that is absent.
    Missing,
    /// The same, where filters are to find what go-bexpr 0.1 finds: every pattern matches it, and does not match it.
    MissingInConsul,
    /// For [`Kind::Text`](super::SelectorKind::Text).
    Text(&'a str),
    /// For [`Kind::Number`](super::SelectorKind::Number).
    Number(i64),
    /// For [`Kind::Boolean`](super::SelectorKind::Boolean).
    Boolean(bool),
    /// For [`Kind::List`](super::SelectorKind::List), [`Kind::Map`](super::SelectorKind::Map) and [`Kind::ServiceRecords`](super::SelectorKind::Records).
    Members(&'a dyn CollectionItems),
}

/// The elements of a list, or the keys of a map.
pub trait CollectionItems: Debug {
    /// Whether there are none.
    fn is_empty(&self) -> bool;
    /// Whether this is one of them.
    fn contains(&self, member: &str) -> bool;
}

impl<S: AsRef<str> + Debug> CollectionItems for &[S] {
    fn is_empty(&self) -> bool {
        <[S]>::is_empty(self)
    }

    fn contains(&self, member: &str) -> bool {
        self.iter().any(|element| element.as_ref() == member)
    }
}

impl<S: AsRef<str> + Debug> CollectionItems for Vec<S> {
    fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    fn contains(&self, member: &str) -> bool {
        CollectionItems::contains(&self.as_slice(), member)
    }
}

impl<K: Borrow<str> + Ord + Debug, V: Debug> CollectionItems for BTreeMap<K, V> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }

    fn contains(&self, member: &str) -> bool {
        self.contains_key(member)
    }
}

impl<K: Borrow<str> + Eq + Hash + Debug, V: Debug, H: BuildHasher> CollectionItems for HashMap<K, V, H> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }

    fn contains(&self, member: &str) -> bool {
        self.contains_key(member)
    }
}

/// An expression whose selectors are resolved and whose values are converted.
#[derive(Debug, Clone)]
pub(super) enum Expression<F> {
    Any(Box<[Expression<F>]>),
    All(Box<[Expression<F>]>),
    Not(Box<Expression<F>>),
    Clause(Clause<F>),
}

/// A test of one field.
#[derive(Debug, Clone)]
pub(super) struct Clause<F> {
    pub(super) field: F,
    pub(super) key: Option<Box<str>>,
    pub(super) test: ClauseTest,
    /// `!=` and its like. Through a list of records this is not the same as `not`: it asks for any that differs.
    pub(super) negated: bool,
}

#[derive(Debug, Clone)]
pub(super) enum ClauseTest {
    Text(Box<str>),
    Number(i64),
    Boolean(bool),
    Contains(Box<str>),
    Empty,
    Matches(Regex),
}

impl<F: Copy> Expression<F> {
    pub(super) fn matches<R: Filterable<Field = F>>(&self, record: &R) -> bool {
        match self {
            Self::Any(parts) => parts.iter().any(|part| part.matches(record)),
            Self::All(parts) => parts.iter().all(|part| part.matches(record)),
            Self::Not(inner) => !inner.matches(record),
            Self::Clause(clause) => record.any(clause.field, clause.key.as_deref(), |value| clause.accepts(value)),
        }
    }
}

impl<F> Clause<F> {
    fn accepts(&self, value: FieldValue<'_>) -> bool {
        match (&self.test, value) {
            (ClauseTest::Matches(_), FieldValue::MissingInConsul) => true,
            _ => self.test.accepts(value) != self.negated,
        }
    }
}

impl ClauseTest {
    fn accepts(&self, value: FieldValue<'_>) -> bool {
        match (self, value) {
            (Self::Text(wanted), FieldValue::Text(text)) => **wanted == *text,
            (Self::Number(wanted), FieldValue::Number(number)) => *wanted == number,
            (Self::Boolean(wanted), FieldValue::Boolean(boolean)) => *wanted == boolean,
            (Self::Contains(part), FieldValue::Text(text)) => text.contains(&**part),
            (Self::Contains(member), FieldValue::Members(members)) => members.contains(member),
            (Self::Empty, FieldValue::Text(text)) => text.is_empty(),
            (Self::Empty, FieldValue::Members(members)) => members.is_empty(),
            (Self::Empty, FieldValue::Missing | FieldValue::MissingInConsul) => true,
            (Self::Matches(pattern), FieldValue::Text(text)) => pattern.is_match(text),
            _ => false,
        }
    }
}
