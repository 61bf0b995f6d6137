//! Deadlines of calls: the header `grpc-timeout`.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

/// Header with the time that the caller gives a call.
const GRPC_TIMEOUT: &str = "grpc-timeout";
/// Maximum number of digits in the header.
const MAX_DIGITS: usize = 8;

/// Returns the time that the caller gives a call. `None`: unlimited, or malformed.
pub(super) fn caller_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > MAX_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3_600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// Sets the time that a call has.
pub(super) fn set_timeout(headers: &mut HeaderMap, timeout: Duration) {
    let units = [(timeout.as_micros(), 'u'), (timeout.as_millis(), 'm'), (u128::from(timeout.as_secs()), 'S')];
    let fits = units.into_iter().find(|(value, _)| *value < 10_u128.pow(8));
    let Some((value, unit)) = fits else {
        // More than three years: as good as none.
        headers.remove(GRPC_TIMEOUT);
        return;
    };
    if let Ok(value) = HeaderValue::try_from(format!("{value}{unit}")) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static(text));
        caller_timeout(&headers)
    }

    #[test]
    fn timeout_has_a_unit() {
        assert_eq!(read("2H"), Some(Duration::from_hours(2)));
        assert_eq!(read("3M"), Some(Duration::from_mins(3)));
        assert_eq!(read("100m"), Some(Duration::from_millis(100)));
        assert_eq!(read("99999999u"), Some(Duration::from_micros(99_999_999)));
        for malformed in ["", "m", "100", "1x", "-1S", "123456789n"] {
            assert_eq!(read(malformed), None, "{malformed:?}");
        }
    }

    #[test]
    fn timeout_is_written_in_the_smallest_unit_that_fits() {
        for seconds in [0.25, 99.0, 200.0, 200_000.0] {
            let (mut headers, timeout) = (HeaderMap::new(), Duration::from_secs_f64(seconds));
            set_timeout(&mut headers, timeout);
            assert_eq!(caller_timeout(&headers), Some(timeout));
        }
    }
}
