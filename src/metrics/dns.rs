//! Counters of DNS queries.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use super::registrar::{Label, Registrar};

/// Outcome of a DNS query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsResponseCode {
    /// NOERROR: the name exists. The answer may be empty.
    NoError,
    /// NXDOMAIN: the name does not exist.
    NoName,
    /// REFUSED: the name is outside the zone, or the query asks for a zone transfer.
    Refused,
    /// FORMERR: the query is malformed.
    Malformed,
    /// NOTIMP: the operation is not supported.
    NotImplemented,
    /// No response was sent: the packet was not a query, too many queries waited for the index of addresses, or the
    /// response could not be sent.
    Dropped,
}

impl DnsResponseCode {
    const ALL: [Self; 6] =
        [Self::NoError, Self::NoName, Self::Refused, Self::Malformed, Self::NotImplemented, Self::Dropped];

    fn label(self) -> &'static str {
        match self {
            Self::NoError => "noerror",
            Self::NoName => "nxdomain",
            Self::Refused => "refused",
            Self::Malformed => "formerr",
            Self::NotImplemented => "notimp",
            Self::Dropped => "dropped",
        }
    }
}

/// Number of DNS queries by response code.
#[derive(Debug)]
pub struct DnsMetrics {
    queries: [Counter; 6],
}

impl DnsMetrics {
    pub(super) fn new(registrar: &mut Registrar) -> Self {
        let code = Label { name: "code", values: DnsResponseCode::ALL.map(DnsResponseCode::label).to_vec() };
        let queries: Family<CodeLabel, Counter> =
            registrar.counter_family("dns_queries", "DNS queries, by response code", vec![code]);
        Self {
            queries: DnsResponseCode::ALL.map(|code| queries.get_or_create_owned(&CodeLabel { code: code.label() })),
        }
    }

    /// Counts a query with this outcome.
    pub fn replied(&self, code: DnsResponseCode) {
        self.queries[code as usize].inc();
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}
