//! The terms on which a registration lives.

use std::{fmt, time::Duration};

use super::FieldError;

/// Names one lease, and is the right to speak for it: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(pub u128);

impl LeaseId {
    /// As it came over the wire: 16 bytes. Anything else names no lease that ever was.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(u128::from_be_bytes(bytes)))
    }

    /// As it goes over the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Debug for LeaseId {
    /// A lease id is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseId(…)")
    }
}

/// How long a registration outlives its last heartbeat, and its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    ttl_ms: u32,
    grace_ms: Option<u32>,
}

impl LeaseTerms {
    /// Shortest time to live that is granted.
    pub const MIN_TTL: Duration = Duration::from_secs(1);
    /// Longest time to live that is granted.
    pub const MAX_TTL: Duration = Duration::from_hours(24);
    /// The time to live of who asks for none.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(15);

    /// Grants what is asked for, within the bounds above; a grace is at most the time to live.
    #[must_use]
    pub fn grant(ttl: Option<Duration>, disconnect_grace: Option<Duration>) -> Self {
        let ttl = ttl.unwrap_or(Self::DEFAULT_TTL).clamp(Self::MIN_TTL, Self::MAX_TTL);
        let ms = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        Self { ttl_ms: ms(ttl), grace_ms: disconnect_grace.map(|grace| ms(grace.min(ttl))) }
    }

    /// The time to live.
    #[must_use]
    pub fn ttl(self) -> Duration {
        Duration::from_millis(self.ttl_ms.into())
    }

    /// What is left when the stream that carried the last heartbeat breaks. `None`: nothing changes.
    #[must_use]
    pub fn disconnect_grace(self) -> Option<Duration> {
        self.grace_ms.map(|ms| Duration::from_millis(ms.into()))
    }

    /// Both in one number, for an atomic.
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.ttl_ms) << 32 | u64::from(self.grace_ms.unwrap_or(u32::MAX))
    }

    /// The reverse of [`LeaseTerms::pack`].
    #[expect(clippy::cast_possible_truncation, reason = "takes the two halves apart")]
    pub(crate) fn unpack(packed: u64) -> Self {
        let grace_ms = packed as u32;
        Self { ttl_ms: (packed >> 32) as u32, grace_ms: (grace_ms != u32::MAX).then_some(grace_ms) }
    }
}

/// How busy an instance is, in its own words.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LoadReport {
    /// Share of capacity in use; 1 is full.
    pub utilization: f64,
    /// Calls being worked on.
    pub in_flight: u32,
    /// Mean time of an answer since the last report.
    pub response_time: Option<Duration>,
    /// Calls answered since the last report.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
}

impl LoadReport {
    /// Refuses what cannot be a load.
    ///
    /// # Errors
    ///
    /// When the utilization is negative or no number.
    pub fn check(self) -> Result<Self, FieldError> {
        if self.utilization.is_finite() && self.utilization >= 0.0 {
            return Ok(self);
        }
        let value = self.utilization.to_string();
        Err(FieldError::new("load.utilization", &value, "is no share of a capacity", "use 0 for idle, 1 for full"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_granted_within_bounds() {
        let grant = |ttl, grace| LeaseTerms::grant(ttl, grace);
        assert_eq!(grant(None, None).ttl(), LeaseTerms::DEFAULT_TTL);
        assert_eq!(grant(Some(Duration::ZERO), None).ttl(), LeaseTerms::MIN_TTL);
        assert_eq!(grant(Some(Duration::MAX), None).ttl(), LeaseTerms::MAX_TTL);
        let long_grace = grant(Some(Duration::from_secs(2)), Some(Duration::from_secs(9)));
        assert_eq!(long_grace.disconnect_grace(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn terms_survive_packing() {
        for grace in [None, Some(Duration::ZERO), Some(Duration::from_secs(3))] {
            let terms = LeaseTerms::grant(Some(Duration::from_secs(5)), grace);
            assert_eq!(LeaseTerms::unpack(terms.pack()), terms);
        }
    }

    #[test]
    fn a_load_is_a_number() {
        assert!(LoadReport { utilization: 1.5, ..Default::default() }.check().is_ok());
        assert!(LoadReport { utilization: f64::NAN, ..Default::default() }.check().is_err());
        assert!(LoadReport { utilization: -0.1, ..Default::default() }.check().is_err());
    }
}
