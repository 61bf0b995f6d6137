//! Documents of policies as `google.protobuf.Struct`.

use prost_types::{ListValue, Struct, Value, value::Kind};

use crate::model::{DocumentTable, DocumentValue, PolicyDocument};

/// Converts a message to a document, which is not validated yet. An absent one is empty.
pub(crate) fn decode_document(message: Option<&Struct>) -> PolicyDocument {
    PolicyDocument(message.map(decode_table).unwrap_or_default())
}

/// Converts a document to a message.
pub(crate) fn encode_document(document: &PolicyDocument) -> Struct {
    encode_table(&document.0)
}

fn decode_table(table: &Struct) -> DocumentTable {
    table.fields.iter().map(|(name, value)| (name.clone(), decode_value(value))).collect()
}

/// Converts a value. The depth of a message is limited when it is decoded, and so is that of the recursion.
fn decode_value(value: &Value) -> DocumentValue {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => DocumentValue::Null,
        Some(Kind::BoolValue(flag)) => DocumentValue::Bool(*flag),
        Some(Kind::NumberValue(number)) => DocumentValue::Number(*number),
        Some(Kind::StringValue(text)) => DocumentValue::Text(text.clone()),
        Some(Kind::ListValue(list)) => DocumentValue::List(list.values.iter().map(decode_value).collect()),
        Some(Kind::StructValue(table)) => DocumentValue::Table(decode_table(table)),
    }
}

fn encode_table(table: &DocumentTable) -> Struct {
    Struct { fields: table.iter().map(|(name, value)| (name.clone(), encode_value(value))).collect() }
}

fn encode_value(value: &DocumentValue) -> Value {
    let kind = match value {
        DocumentValue::Null => Kind::NullValue(0),
        DocumentValue::Bool(flag) => Kind::BoolValue(*flag),
        DocumentValue::Number(number) => Kind::NumberValue(*number),
        DocumentValue::Text(text) => Kind::StringValue(text.clone()),
        DocumentValue::List(items) => Kind::ListValue(ListValue { values: items.iter().map(encode_value).collect() }),
        DocumentValue::Table(table) => Kind::StructValue(encode_table(table)),
    };
    Value { kind: Some(kind) }
}
