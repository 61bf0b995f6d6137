//! Times in messages.

use prost_types::Timestamp;

/// Converts milliseconds since 1970.
pub(crate) fn timestamp(millis: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(millis / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1_000 * 1_000_000).unwrap_or(0),
    }
}
