//! What becomes of questions of DNS.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// How a question was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsResponseCode {
    /// With what was asked for, or with nothing of it.
    NoError,
    /// There is no such name.
    NoName,
    /// It is of another zone, or wants a whole one.
    Refused,
    /// It could not be read.
    Malformed,
    /// It was none that is answered here.
    NotImplemented,
    /// Not at all: it was no question, or the answer could not be sent.
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

/// Questions, by how they were answered.
#[derive(Debug)]
pub struct DnsMetrics {
    queries: [Counter; 6],
}

impl DnsMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let family = Family::<CodeLabel, Counter>::default();
        registry.register("dns_queries", "Questions of DNS, by how they were answered", family.clone());
        Self { queries: DnsResponseCode::ALL.map(|how| family.get_or_create_owned(&CodeLabel { code: how.label() })) }
    }

    /// A question was answered.
    pub fn replied(&self, how: DnsResponseCode) {
        self.queries[how as usize].inc();
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}
