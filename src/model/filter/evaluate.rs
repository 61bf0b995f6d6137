//! Evaluation of an expression on a record, without allocation.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::hash::{BuildHasher, Hash};

use regex::Regex;

/// Record that a filter can be evaluated on.
pub trait Filterable {
    /// Names of the fields in the [`Schema`](super::Schema) of this kind of record.
    type Field: Copy;

    /// Returns whether `test` returns true for the value of a field, or for any of its values where the path leads through a list of
    /// records.
    ///
    /// `key` is the name in the filter for the `*` in the path of the selector. The test must be called with [`FieldValue::Missing`]
    /// for a field without a value, because negated tests return true for it.
    fn any(&self, field: Self::Field, key: Option<&str>, test: impl Fn(FieldValue<'_>) -> bool) -> bool;
}

/// Value of a field. A value that does not have the type of the selector counts as missing.
#[derive(Debug, Clone, Copy)]
pub enum FieldValue<'a> {
    /// No value: the key is absent from the map.
    Missing,
    /// No value, with the result of go-bexpr 0.1: every pattern both matches and does not match it.
    MissingInConsul,
    /// Value of a [`SelectorKind::Text`](super::SelectorKind::Text).
    Text(&'a str),
    /// Value of a [`SelectorKind::Number`](super::SelectorKind::Number).
    Number(i64),
    /// Value of a [`SelectorKind::Boolean`](super::SelectorKind::Boolean).
    Boolean(bool),
    /// Elements of a [`SelectorKind::List`](super::SelectorKind::List), keys of a [`SelectorKind::Map`](super::SelectorKind::Map), or
    /// items of a [`SelectorKind::Records`](super::SelectorKind::Records).
    Members(&'a dyn CollectionItems),
}

/// Elements of a list, or keys of a map.
pub trait CollectionItems: Debug {
    /// Returns whether there are no items.
    fn is_empty(&self) -> bool;
    /// Returns whether this is one of the items.
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

/// Expression with resolved selectors and converted values.
#[derive(Debug, Clone)]
pub(super) enum Expression<F> {
    Any(Box<[Expression<F>]>),
    All(Box<[Expression<F>]>),
    Not(Box<Expression<F>>),
    Clause(Clause<F>),
}

/// Test of one field.
#[derive(Debug, Clone)]
pub(super) struct Clause<F> {
    pub(super) field: F,
    pub(super) key: Option<Box<str>>,
    pub(super) test: ClauseTest,
    /// True for a negated operator such as `!=`. For a list of records this differs from `not`: the clause is true if any record
    /// differs.
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
            (test, value) => test.accepts(value) != self.negated,
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
