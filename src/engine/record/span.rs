//! Durations as whole milliseconds and the nanoseconds beyond them.

use std::time::Duration;

pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub fn nanos_beyond_millis(span: Duration) -> u32 {
    span.subsec_nanos() % 1_000_000
}

pub fn from_parts(millis: u64, more_nanos: u32) -> Duration {
    Duration::from_millis(millis).saturating_add(Duration::from_nanos(more_nanos.into()))
}
