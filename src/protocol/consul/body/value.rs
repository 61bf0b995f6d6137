//! JSON values of requests. They borrow their texts from the body and keep the order of fields, because most are read and dropped
//! immediately.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Number, Value as Json};

/// Initial capacity for the fields of an object.
const FIELD_CAPACITY: usize = 8;

/// JSON value.
#[derive(Debug)]
pub(super) enum JsonValue<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Self>),
    Object(Vec<(Cow<'a, str>, Self)>),
}

impl JsonValue<'_> {
    /// Returns the name of the value's type, as in Go's errors.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::List(_) => "array",
            Self::Object(_) => "object",
        }
    }

    /// Returns whether the value is a list or an object with members.
    pub(super) fn has_members(&self) -> bool {
        match self {
            Self::List(values) => !values.is_empty(),
            Self::Object(fields) => !fields.is_empty(),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) => false,
        }
    }

    /// Converts the value to owned JSON. Of several fields with one name, the last counts.
    pub(super) fn into_json(self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Bool(on) => Json::Bool(on),
            Self::Number(number) => Json::Number(number),
            Self::Text(text) => Json::String(text.into_owned()),
            Self::List(values) => Json::Array(values.into_iter().map(Self::into_json).collect()),
            Self::Object(fields) => {
                Json::Object(fields.into_iter().map(|(name, value)| (name.into_owned(), value.into_json())).collect())
            }
        }
    }

    /// Returns whether the value, or any value in it at any depth, is neither null, zero, false nor empty.
    pub(super) fn has_content(&self) -> bool {
        match self {
            Self::Null => false,
            Self::Bool(on) => *on,
            Self::Number(number) => number.as_f64() != Some(0.0),
            Self::Text(text) => !text.is_empty(),
            Self::List(values) => values.iter().any(Self::has_content),
            Self::Object(fields) => fields.iter().any(|(_, value)| value.has_content()),
        }
    }
}

impl<'de> Deserialize<'de> for JsonValue<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ValueReader)
    }
}

/// Name of a field.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match from.deserialize_str(ValueReader)? {
            JsonValue::Text(name) => Ok(Self(name)),
            other => Err(D::Error::custom(format_args!("{} is not a name of a field", other.kind()))),
        }
    }
}

struct ValueReader;

impl<'de> Visitor<'de> for ValueReader {
    type Value = JsonValue<'de>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<JsonValue<'de>, E> {
        Ok(JsonValue::Null)
    }

    fn visit_bool<E>(self, on: bool) -> Result<JsonValue<'de>, E> {
        Ok(JsonValue::Bool(on))
    }

    fn visit_i64<E>(self, number: i64) -> Result<JsonValue<'de>, E> {
        Ok(JsonValue::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<JsonValue<'de>, E> {
        Ok(JsonValue::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<JsonValue<'de>, E> {
        Ok(Number::from_f64(number).map_or(JsonValue::Null, JsonValue::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<JsonValue<'de>, E> {
        Ok(JsonValue::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<JsonValue<'de>, E> {
        Ok(JsonValue::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<JsonValue<'de>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = from.next_element()? {
            values.push(value);
        }
        Ok(JsonValue::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<JsonValue<'de>, A::Error> {
        let mut fields = Vec::with_capacity(FIELD_CAPACITY);
        while let Some((Name(name), value)) = from.next_entry()? {
            fields.push((name, value));
        }
        Ok(JsonValue::Object(fields))
    }
}
