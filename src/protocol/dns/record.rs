//! Records as they are answered with.

use std::sync::Arc;

use hickory_proto::{
    ProtoError,
    rr::{Name, RData, RecordType},
    serialize::binary::{BinEncodable, BinEncoder},
};

/// Bytes of the data of an SRV record before its target.
pub(super) const BEFORE_TARGET: usize = 6;

/// Whose record it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RecordOwner {
    /// The name that was asked for, as it was spelt.
    Asked,
    /// The name that the SRV or CNAME record at this place of the answer leads to.
    TargetOf(usize),
    /// This.
    Name(Name),
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DnsRecord {
    pub(super) owner: RecordOwner,
    pub(super) ttl: u32,
    pub(super) data: RecordData,
}

/// A record that saves the asker another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Additional {
    /// The place of the answer that it helps with.
    pub(super) of: usize,
    pub(super) line: DnsRecord,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RecordData {
    /// For one answer.
    Once(RData),
    /// For all that it is in: names take longest to write.
    Prepared(Arc<EncodedData>),
}

impl RecordData {
    /// What it says.
    pub(super) fn record(&self) -> &RData {
        match self {
            Self::Once(data) => data,
            Self::Prepared(prepared) => &prepared.data,
        }
    }

    /// Bytes of the target of an SRV record that is prepared, without pointers.
    pub(super) fn target(&self) -> Option<&[u8]> {
        match self {
            Self::Once(_) => None,
            Self::Prepared(prepared) => prepared.bytes.get(BEFORE_TARGET..),
        }
    }
}

impl BinEncodable for RecordData {
    fn emit(&self, encoder: &mut BinEncoder<'_>) -> Result<(), ProtoError> {
        match self {
            Self::Once(data) => data.emit(encoder),
            Self::Prepared(prepared) => encoder.emit_vec(&prepared.bytes),
        }
    }
}

/// Data with its bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EncodedData {
    data: RData,
    bytes: Box<[u8]>,
}

impl EncodedData {
    /// Of an SRV record, whose bytes are the same wherever it stands: its target is never a pointer. `None`: of any other, or
    /// if it cannot be written.
    pub(super) fn new(data: RData) -> Option<Self> {
        let mut bytes = Vec::new();
        let written = data.record_type() == RecordType::SRV && data.emit(&mut BinEncoder::new(&mut bytes)).is_ok();
        written.then(|| Self { data, bytes: bytes.into() })
    }
}
