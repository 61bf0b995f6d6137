//! Method by which a check finds its status.

use super::{HttpProbe, ProbeTarget, ProbeTls};

/// Method by which a check finds its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// HTTP request.
    Http(HttpProbe),
    /// Connection: the check passes when it is established.
    Tcp {
        /// Address to connect to.
        target: ProbeTarget,
        /// TLS settings, if a TLS handshake has to succeed too.
        tls: Option<ProbeTls>,
    },
    /// Call of `grpc.health.v1.Health/Check`: the check passes on `SERVING`.
    Grpc {
        /// Address to connect to.
        target: ProbeTarget,
        /// Service in the request; empty for the whole server.
        service: Box<str>,
        /// TLS settings, if the call uses TLS.
        tls: Option<ProbeTls>,
    },
    /// No probe: the instance reports its status, and is critical after an interval without a report.
    Ttl,
    /// No probe: the status is the one in the registration, until another registration changes it.
    Static,
}

impl Probe {
    /// Kind of the check in Consul; empty for a static one.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp { .. } => "tcp",
            Self::Grpc { .. } => "grpc",
            Self::Ttl => "ttl",
            Self::Static => "",
        }
    }

    /// Returns whether the registry probes the instance itself.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Tcp { .. } | Self::Grpc { .. })
    }
}
