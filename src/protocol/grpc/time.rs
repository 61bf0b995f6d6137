//! Times and durations, from and to the contract's messages.

use std::time::Duration;

use prost_types::Timestamp;

use super::ApiError;
use crate::{
    model::{FieldError, UnixMillis},
    pb,
    registry::ClockReading,
};

pub(super) fn timestamp(UnixMillis(millis): UnixMillis) -> Timestamp {
    pb::time::timestamp(millis)
}

/// Converts a duration. `None` only beyond what the contract's type can hold.
pub(super) fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

/// Returns the time between two readings.
pub(super) fn since(then: ClockReading, now: ClockReading) -> Duration {
    Duration::from_micros(now.monotonic_us.saturating_sub(then.monotonic_us))
}

/// Parses a duration of a request.
pub(super) fn parse_duration(
    field: &'static str,
    given: Option<&prost_types::Duration>,
) -> Result<Option<Duration>, ApiError> {
    given
        .map(|given| {
            // The contract's type also allows minus a second and two nanoseconds, which no duration here needs.
            let plain = u64::try_from(given.seconds).ok().zip(u32::try_from(given.nanos).ok());
            let plain = plain.filter(|(_, nanos)| *nanos < 1_000_000_000);
            plain.map(|(seconds, nanos)| Duration::new(seconds, nanos)).ok_or_else(|| {
                let value = format!("{}.{:09}s", given.seconds, given.nanos);
                let hint = "give seconds and nanos, neither negative, nanos below 1000000000";
                FieldError::new(field, &value, "is not a valid duration", hint).into()
            })
        })
        .transpose()
}
