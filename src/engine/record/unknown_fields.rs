//! Fields of records that this version does not know.
//!
//! While replicas of two versions share a store, the older ones rewrite records that the newer ones wrote. They keep the fields that
//! they do not know: decoding a record collects them, and encoding the changed record adds them again.
//!
//! prost skips unknown fields, and an instance has no place for them. So they are kept beside it, as the *remainder* of its record: a
//! message of the same type that has nothing else. A message within a message is in the remainder if it has unknown fields itself.
//! Elements of a list have their key fields there as well, such as the id of a check, by which they are found again; the unknown fields
//! of an element that is removed go with it.
//!
//! A hand-written table of the known fields suffices for that, because a test compares it with what prost decodes. A record without
//! unknown fields costs one pass over its bytes.

use std::{fmt, iter, ops::RangeInclusive, sync::Arc};

use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len,
    skip_field,
};

/// Fields of a message that this version knows.
#[derive(Debug)]
pub struct KnownFields {
    /// Numbers of the fields.
    pub numbers: &'static [RangeInclusive<u32>],
    /// Fields that are messages. The entries of maps are not among them, because they never get further fields.
    pub messages: &'static [NestedMessage],
}

/// Field that is a message, or a list of messages.
#[derive(Debug)]
pub struct NestedMessage {
    /// Number of the field.
    pub number: u32,
    /// Fields of the message.
    pub fields: &'static KnownFields,
    /// Identity of the message among those of the same field.
    pub identity: MessageIdentity,
}

/// Identity of a message among those of the same field.
#[derive(Debug)]
pub enum MessageIdentity {
    /// The field is not a list.
    Single,
    /// Two messages are the same element if these fields are equal. Of several such elements, the first is the first.
    Fields(&'static [u32]),
    /// The field with this number is the revision of the element. It is absent from an element with the revision of the record.
    Revision(u32),
}

impl KnownFields {
    fn knows(&self, number: u32) -> bool {
        self.numbers.iter().any(|range| range.contains(&number))
    }

    fn message(&self, number: u32) -> Option<&'static NestedMessage> {
        self.messages.iter().find(|nested| nested.number == number)
    }
}

/// Fields of one record that this version does not know.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UnknownFields(Option<Arc<[u8]>>);

impl fmt::Debug for UnknownFields {
    /// Omits the fields, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnknownFields({} bytes)", self.0.as_ref().map_or(0, |remainder| remainder.len()))
    }
}

impl UnknownFields {
    /// Collects the unknown fields of a record that prost has decoded. `revision` is that of the record.
    #[must_use]
    pub fn of(record: &[u8], known: &KnownFields, revision: u64) -> Self {
        let mut remainder = Vec::new();
        collect(record, known, revision, &mut remainder);
        Self((!remainder.is_empty()).then(|| remainder.into()))
    }

    /// Returns whether there are no unknown fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Adds the unknown fields to a record that this version has encoded.
    #[must_use]
    pub fn add_to(&self, record: Vec<u8>, known: &KnownFields) -> Vec<u8> {
        let Some(remainder) = &self.0 else { return record };
        let mut with_unknown = Vec::with_capacity(record.len() + remainder.len());
        add(&record, remainder, known, &mut with_unknown);
        with_unknown
    }
}

/// Field of an encoded message.
#[derive(Debug, Clone, Copy)]
struct WireField<'a> {
    number: u32,
    /// The whole field.
    bytes: &'a [u8],
    /// The bytes of a text, of bytes or of a message; empty for numbers.
    content: &'a [u8],
}

/// Iterates over the fields of a message, up to the first byte that is no field: prost does not decode such a message.
fn fields(message: &[u8]) -> impl Iterator<Item = WireField<'_>> {
    let mut rest = message;
    iter::from_fn(move || {
        let start = rest;
        let (number, wire_type) = decode_key(&mut rest).ok()?;
        let mut content = rest;
        skip_field(wire_type, number, &mut rest, DecodeContext::default()).ok()?;
        if wire_type == WireType::LengthDelimited {
            decode_varint(&mut content).ok()?;
        }
        let content = if wire_type == WireType::LengthDelimited { &content[..content.len() - rest.len()] } else { &[] };
        Some(WireField { number, bytes: &start[..start.len() - rest.len()], content })
    })
}

/// Appends the remainder of a message.
fn collect(message: &[u8], known: &KnownFields, revision: u64, remainder: &mut Vec<u8>) {
    for field in fields(message) {
        if !known.knows(field.number) {
            remainder.extend_from_slice(field.bytes);
        } else if let Some(nested) = known.message(field.number) {
            let mut inner = Vec::new();
            collect(field.content, nested.fields, revision, &mut inner);
            if !inner.is_empty() {
                let mut identity = identity(field.content, nested);
                if let (MessageIdentity::Revision(number), true) = (&nested.identity, identity.is_empty()) {
                    encode_key(*number, WireType::Varint, &mut identity);
                    encode_varint(revision, &mut identity);
                }
                append_message(nested.number, &[&identity, &inner], remainder);
            }
        }
    }
}

/// Returns the fields that identify a nested message.
fn identity(message: &[u8], nested: &NestedMessage) -> Vec<u8> {
    let of_number =
        |number: u32| fields(message).filter(move |field| field.number == number).flat_map(|field| field.bytes);
    match &nested.identity {
        MessageIdentity::Single => Vec::new(),
        MessageIdentity::Fields(numbers) => numbers.iter().copied().flat_map(of_number).copied().collect(),
        MessageIdentity::Revision(number) => of_number(*number).copied().collect(),
    }
}

fn append_message(number: u32, parts: &[&[u8]], to: &mut Vec<u8>) {
    let length = parts.iter().map(|part| part.len()).sum::<usize>() as u64;
    to.reserve(key_len(number) + encoded_len_varint(length));
    encode_key(number, WireType::LengthDelimited, to);
    encode_varint(length, to);
    for part in parts {
        to.extend_from_slice(part);
    }
}

/// Appends a message together with the unknown fields of its remainder.
fn add(message: &[u8], remainder: &[u8], known: &KnownFields, to: &mut Vec<u8>) {
    let mut kept: Vec<_> = fields(remainder).map(Some).collect();
    for field in fields(message) {
        let Some(nested) = known.message(field.number) else {
            to.extend_from_slice(field.bytes);
            continue;
        };
        let wanted = identity(field.content, nested);
        let is_same = |kept: &WireField<'_>| kept.number == field.number && identity(kept.content, nested) == wanted;
        let found = kept.iter_mut().find(|kept| kept.as_ref().is_some_and(is_same)).and_then(Option::take);
        match found {
            Some(found) => {
                let mut inner = Vec::new();
                add(field.content, found.content, nested.fields, &mut inner);
                append_message(nested.number, &[&inner], to);
            }
            None => to.extend_from_slice(field.bytes),
        }
    }
    let unknown = kept.iter().flatten().filter(|kept| !known.knows(kept.number));
    unknown.for_each(|kept| to.extend_from_slice(kept.bytes));
}

#[cfg(test)]
pub(in crate::engine) mod tests {
    use prost::Message;

    use super::*;

    /// Panics unless prost knows exactly these fields of a message, and these are messages. `maps` are the fields that are maps.
    pub fn assert_known_fields<M: Message + Default>(known: &KnownFields, maps: &[u32]) {
        let accepts = |number, wire_type, value: &[u8]| {
            let mut field = Vec::new();
            encode_key(number, wire_type, &mut field);
            field.extend_from_slice(value);
            M::decode(&*field).is_ok()
        };
        for number in 1..=2_000 {
            // No record has a field of this wire type, so prost skips it if the number is unknown, and rejects it otherwise.
            let is_known = !accepts(number, WireType::ThirtyTwoBit, &[0; 4]);
            assert_eq!(known.knows(number), is_known, "field {number}");
            // One byte that is valid in a text and in bytes, but not in a message.
            let is_message = is_known
                && !accepts(number, WireType::Varint, &[1])
                && !accepts(number, WireType::LengthDelimited, &[1, 0x07]);
            assert_eq!(known.message(number).is_some() || maps.contains(&number), is_message, "field {number}");
        }
    }

    const ELEMENT: KnownFields = KnownFields { numbers: &[1..=2], messages: &[] };
    const ROOT: KnownFields = KnownFields {
        numbers: &[1..=4],
        messages: &[
            NestedMessage { number: 2, fields: &ELEMENT, identity: MessageIdentity::Fields(&[1]) },
            NestedMessage { number: 3, fields: &ELEMENT, identity: MessageIdentity::Single },
            NestedMessage { number: 4, fields: &ELEMENT, identity: MessageIdentity::Revision(1) },
        ],
    };

    fn number(field: u32, value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_key(field, WireType::Varint, &mut bytes);
        encode_varint(value, &mut bytes);
        bytes
    }

    fn message(field: u32, parts: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        append_message(field, &[&parts.concat()], &mut bytes);
        bytes
    }

    #[test]
    fn record_without_unknown_fields_has_an_empty_remainder() {
        let record = [number(1, 7), message(2, &[number(1, 5), number(2, 6)]), message(3, &[])].concat();
        let unknown = UnknownFields::of(&record, &ROOT, 9);
        assert!(unknown.is_empty() && unknown == UnknownFields::default());
        assert_eq!(unknown.add_to(record.clone(), &ROOT), record);
    }

    #[test]
    fn unknown_field_follows_its_element_through_a_changed_list() {
        let element = |id, value, unknown| message(2, &[number(1, id), number(2, value), number(9, unknown)]);
        let record = [element(5, 1, 50), element(6, 1, 60), element(7, 1, 70), number(300, 1)].concat();
        let unknown = UnknownFields::of(&record, &ROOT, 9);
        let changed =
            [message(2, &[number(1, 7)]), message(2, &[number(1, 4)]), message(2, &[number(1, 5), number(2, 8)])];
        let expected = [
            message(2, &[number(1, 7), number(9, 70)]),
            message(2, &[number(1, 4)]),
            message(2, &[number(1, 5), number(2, 8), number(9, 50)]),
            number(300, 1),
        ];
        assert_eq!(unknown.add_to(changed.concat(), &ROOT), expected.concat());
    }

    #[test]
    fn equal_elements_keep_their_unknown_fields_in_order() {
        let element = |unknown| message(2, &[number(1, 5), number(9, unknown)]);
        let unknown = UnknownFields::of(&[element(1), element(2)].concat(), &ROOT, 9);
        let plain = message(2, &[number(1, 5)]);
        let rewritten = unknown.add_to([plain.clone(), plain.clone(), plain.clone()].concat(), &ROOT);
        assert_eq!(rewritten, [element(1), element(2), plain].concat());
    }

    #[test]
    fn element_with_the_revision_of_the_record_is_found_under_its_number() {
        let record = [message(4, &[number(1, 3), number(9, 1)]), message(4, &[number(2, 8), number(9, 2)])].concat();
        let unknown = UnknownFields::of(&record, &ROOT, 12);
        let changed = [message(4, &[number(1, 12)]), message(4, &[])].concat();
        let expected = [message(4, &[number(1, 12), number(9, 2)]), message(4, &[])].concat();
        assert_eq!(unknown.add_to(changed, &ROOT), expected, "the newest element is another one now");
    }

    #[test]
    fn unknown_fields_of_a_removed_message_are_dropped() {
        let unknown = UnknownFields::of(&message(3, &[number(9, 1)]), &ROOT, 12);
        assert!(!unknown.is_empty());
        assert_eq!(unknown.add_to(number(1, 1), &ROOT), number(1, 1));
        assert_eq!(unknown.add_to(message(3, &[]), &ROOT), message(3, &[number(9, 1)]));
    }

    #[test]
    fn unknown_field_of_every_wire_type_survives() {
        let of_type = |wire_type, value: &[u8]| {
            let mut field = Vec::new();
            encode_key(77, wire_type, &mut field);
            field.extend_from_slice(value);
            field
        };
        let mut group = of_type(WireType::StartGroup, &number(1, 1));
        encode_key(77, WireType::EndGroup, &mut group);
        let record = [
            of_type(WireType::Varint, &[0x80, 1]),
            of_type(WireType::SixtyFourBit, &[8; 8]),
            of_type(WireType::LengthDelimited, b"\x03abc"),
            of_type(WireType::ThirtyTwoBit, &[4; 4]),
            group,
        ];
        let unknown = UnknownFields::of(&record.concat(), &ROOT, 1);
        assert_eq!(unknown.add_to(number(1, 1), &ROOT), [number(1, 1), record.concat()].concat());
        assert_eq!(format!("{unknown:?}"), format!("UnknownFields({} bytes)", record.concat().len()));
    }
}
