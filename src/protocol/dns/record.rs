//! Records of answers.

use std::sync::Arc;

use hickory_proto::{
    ProtoError,
    rr::{Name, RData, RecordType},
    serialize::binary::{BinEncodable, BinEncoder},
};

/// Bytes of the data of an SRV record before its target.
pub(super) const SRV_HEADER_BYTES: usize = 6;

/// Owner name of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RecordOwner {
    /// The name in the question, in the client's spelling.
    QueryName,
    /// The target of the SRV or CNAME record at this index of the answers.
    TargetOf(usize),
    /// A name of its own.
    Name(Name),
}

/// Record that is not encoded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DnsRecord {
    pub(super) owner: RecordOwner,
    /// Seconds for which clients may cache the record.
    pub(super) ttl: u32,
    pub(super) data: RecordData,
}

/// Record of the additional section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AdditionalRecord {
    /// Index of the answer that this record belongs to: both fit into a packet, or this one is left out.
    pub(super) answer: usize,
    pub(super) record: DnsRecord,
}

/// Data of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RecordData {
    /// Data of one answer, which is encoded with it.
    Plain(RData),
    /// Data that many answers use. It is encoded once, because encoding names takes most of an answer's time.
    Encoded(Arc<EncodedData>),
}

impl RecordData {
    /// Returns the data in hickory's form.
    pub(super) fn rdata(&self) -> &RData {
        match self {
            Self::Plain(data) => data,
            Self::Encoded(encoded) => &encoded.data,
        }
    }

    /// Returns the uncompressed target of an SRV record, if it is encoded already.
    pub(super) fn encoded_target(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Encoded(encoded) => encoded.bytes.get(SRV_HEADER_BYTES..),
        }
    }
}

impl BinEncodable for RecordData {
    fn emit(&self, encoder: &mut BinEncoder<'_>) -> Result<(), ProtoError> {
        match self {
            Self::Plain(data) => data.emit(encoder),
            Self::Encoded(data) => encoder.emit_vec(&data.bytes),
        }
    }
}

/// Data of an SRV record, with its wire format.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EncodedData {
    data: RData,
    bytes: Box<[u8]>,
}

impl EncodedData {
    /// Usual size in memory, in bytes: that of a target of up to 64 bytes.
    pub(super) const BYTES: usize = std::mem::size_of::<Self>() + 2 * 64;

    /// Encodes the data of an SRV record: its bytes are the same at every offset, since the target is never compressed (RFC 2782).
    /// `None`: the data is of another type, or cannot be encoded.
    pub(super) fn new(data: RData) -> Option<Self> {
        let mut bytes = Vec::new();
        let encoded = data.record_type() == RecordType::SRV && data.emit(&mut BinEncoder::new(&mut bytes)).is_ok();
        encoded.then(|| Self { data, bytes: bytes.into() })
    }
}
