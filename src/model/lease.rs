//! Lease ids, lease terms and load reports.

use std::{fmt, time::Duration};

use super::FieldError;

/// Id of a lease: 128 random bits. It is a secret that authorizes heartbeats, updates and deregistration.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(pub u128);

impl LeaseId {
    /// Decodes an id of 16 bytes. Returns `None` for any other length, which no lease has.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(u128::from_be_bytes(bytes)))
    }

    /// Encodes the id.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Debug for LeaseId {
    /// Omits the id, which is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseId(…)")
    }
}

/// Times for which a registration outlives its last heartbeat and its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    ttl_ms: u32,
    grace_ms: Option<u32>,
}

impl LeaseTerms {
    /// Minimum TTL.
    pub const MIN_TTL: Duration = Duration::from_secs(1);
    /// Maximum TTL.
    pub const MAX_TTL: Duration = Duration::from_hours(24);
    /// TTL of a registration that requests none.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(15);

    /// Grants the requested terms within the bounds above. The grace is at most the TTL.
    #[must_use]
    pub fn grant(ttl: Option<Duration>, disconnect_grace: Option<Duration>) -> Self {
        let ttl = ttl.unwrap_or(Self::DEFAULT_TTL).clamp(Self::MIN_TTL, Self::MAX_TTL);
        let ms = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        Self { ttl_ms: ms(ttl), grace_ms: disconnect_grace.map(|grace| ms(grace.min(ttl))) }
    }

    /// Time to live.
    #[must_use]
    pub fn ttl(self) -> Duration {
        Duration::from_millis(self.ttl_ms.into())
    }

    /// Time until the deadline when the stream of the last heartbeat breaks. `None`: the deadline stays.
    #[must_use]
    pub fn disconnect_grace(self) -> Option<Duration> {
        self.grace_ms.map(|ms| Duration::from_millis(ms.into()))
    }

    /// Packs TTL and grace into one number for an atomic.
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.ttl_ms) << 32 | u64::from(self.grace_ms.unwrap_or(u32::MAX))
    }

    /// Unpacks the result of [`LeaseTerms::pack`].
    #[expect(clippy::cast_possible_truncation, reason = "splits the number in two halves")]
    pub(crate) fn unpack(packed: u64) -> Self {
        let grace_ms = packed as u32;
        Self { ttl_ms: (packed >> 32) as u32, grace_ms: (grace_ms != u32::MAX).then_some(grace_ms) }
    }
}

/// Load that an instance reports of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LoadReport {
    /// Fraction of the capacity in use; 1 is full.
    pub utilization: f64,
    /// Number of calls in progress.
    pub in_flight: u32,
    /// Mean response time since the last report.
    pub response_time: Option<Duration>,
    /// Number of calls answered since the last report.
    pub requests: u64,
    /// Number of failed calls among them.
    pub errors: u64,
}

impl LoadReport {
    /// Validates the report.
    ///
    /// # Errors
    ///
    /// When the utilization is negative or not a number.
    pub fn validated(self) -> Result<Self, FieldError> {
        if self.utilization.is_finite() && self.utilization >= 0.0 {
            return Ok(self);
        }
        let value = self.utilization.to_string();
        Err(FieldError::new(
            "load.utilization",
            &value,
            "is not a fraction of a capacity",
            "use 0 for idle, 1 for full",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granted_terms_are_within_bounds() {
        let grant = |ttl, grace| LeaseTerms::grant(ttl, grace);
        assert_eq!(grant(None, None).ttl(), LeaseTerms::DEFAULT_TTL);
        assert_eq!(grant(Some(Duration::ZERO), None).ttl(), LeaseTerms::MIN_TTL);
        assert_eq!(grant(Some(Duration::MAX), None).ttl(), LeaseTerms::MAX_TTL);
        let long_grace = grant(Some(Duration::from_secs(2)), Some(Duration::from_secs(9)));
        assert_eq!(long_grace.disconnect_grace(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn packed_terms_unpack_to_the_same() {
        for grace in [None, Some(Duration::ZERO), Some(Duration::from_secs(3))] {
            let terms = LeaseTerms::grant(Some(Duration::from_secs(5)), grace);
            assert_eq!(LeaseTerms::unpack(terms.pack()), terms);
        }
    }

    #[test]
    fn load_with_negative_or_nan_utilization_is_rejected() {
        assert!(LoadReport { utilization: 1.5, ..Default::default() }.validated().is_ok());
        assert!(LoadReport { utilization: f64::NAN, ..Default::default() }.validated().is_err());
        assert!(LoadReport { utilization: -0.1, ..Default::default() }.validated().is_err());
    }
}
