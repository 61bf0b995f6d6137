//! Document of a policy: its fields and values as they are written in TOML and JSON, before validation.
//!
//! Any table of values is a document, so that the errors of its fields can name their place in it, whatever their format is.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};

/// Table of a document: values by their names.
pub type DocumentTable = BTreeMap<String, DocumentValue>;

/// Document of a policy. `ServicePolicy::from_document` validates it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct PolicyDocument(pub DocumentTable);

impl<'de> Deserialize<'de> for PolicyDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The visitor of values rejects fields that occur twice, which that of maps does not.
        match DocumentValue::deserialize(deserializer)? {
            DocumentValue::Table(table) => Ok(Self(table)),
            other => Err(D::Error::custom(format_args!("the policy is {}, not a table", other.kind()))),
        }
    }
}

/// Value in a document.
#[derive(Debug, Clone, PartialEq)]
pub enum DocumentValue {
    /// No value: JSON's `null`.
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number. Integers beyond 2^53 lose their last digits, which no field needs.
    Number(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// A table.
    Table(DocumentTable),
}

impl DocumentValue {
    /// Kind of the value, for messages: `a number`.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    /// Value as a text for messages. `None` for lists and tables.
    pub(super) fn shown(&self) -> Option<String> {
        match self {
            Self::Null => Some("null".to_owned()),
            Self::Bool(flag) => Some(flag.to_string()),
            Self::Number(number) => Some(number.to_string()),
            Self::Text(text) => Some(text.clone()),
            Self::List(_) | Self::Table(_) => None,
        }
    }
}

impl From<&str> for DocumentValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u32> for DocumentValue {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl Serialize for DocumentValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(flag) => serializer.serialize_bool(*flag),
            Self::Number(number) => match whole(*number) {
                Some(integer) => serializer.serialize_i64(integer),
                None => serializer.serialize_f64(*number),
            },
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Table(table) => serializer.collect_map(table),
        }
    }
}

/// Returns a number as an integer if it is one that a number of 64 bits holds exactly.
#[expect(clippy::cast_possible_truncation, reason = "the number is within 2^53, and has no fraction")]
pub(super) fn whole(number: f64) -> Option<i64> {
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() <= MAX_EXACT).then_some(number as i64)
}

impl<'de> Deserialize<'de> for DocumentValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// Visitor of the values of self-describing formats.
struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = DocumentValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, a list or a table")
    }

    fn visit_unit<E>(self) -> Result<DocumentValue, E> {
        Ok(DocumentValue::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<DocumentValue, E> {
        Ok(DocumentValue::Bool(flag))
    }

    #[expect(clippy::cast_precision_loss, reason = "integers beyond 2^53 are out of the range of every field")]
    fn visit_i64<E>(self, number: i64) -> Result<DocumentValue, E> {
        Ok(DocumentValue::Number(number as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "integers beyond 2^53 are out of the range of every field")]
    fn visit_u64<E>(self, number: u64) -> Result<DocumentValue, E> {
        Ok(DocumentValue::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<DocumentValue, E> {
        Ok(DocumentValue::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<DocumentValue, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<DocumentValue, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(DocumentValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<DocumentValue, A::Error> {
        let mut table = DocumentTable::new();
        while let Some((name, value)) = entries.next_entry::<String, _>()? {
            if table.insert(name.clone(), value).is_some() {
                return Err(A::Error::custom(format_args!("{name:?} occurs twice: remove one")));
            }
        }
        Ok(DocumentValue::Table(table))
    }
}
