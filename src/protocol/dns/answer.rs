//! Answers that are not encoded yet.

use hickory_proto::op::ResponseCode;

use super::record::{AdditionalRecord, DnsRecord};

/// Answer to a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DnsAnswer {
    pub(super) code: ResponseCode,
    /// True if the name belongs to this server's zone.
    pub(super) authoritative: bool,
    /// True if records were left out that would not fit.
    pub(super) truncated: bool,
    pub(super) answers: Vec<DnsRecord>,
    pub(super) authorities: Vec<DnsRecord>,
    /// Sorted by the indexes of the answers that they belong to.
    pub(super) additionals: Vec<AdditionalRecord>,
}

impl DnsAnswer {
    /// Returns an answer that consists of a response code.
    pub(super) fn with_code(code: ResponseCode) -> Self {
        let (answers, authorities, additionals) = Default::default();
        Self { code, authoritative: false, truncated: false, answers, authorities, additionals }
    }

    /// Returns an answer without records about a name of the zone.
    pub(super) fn authoritative() -> Self {
        Self { authoritative: true, ..Self::with_code(ResponseCode::NoError) }
    }
}
