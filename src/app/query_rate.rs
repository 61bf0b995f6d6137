//! Rate of short queries, for protocols whose readers leave no open stream.

use std::sync::atomic::{AtomicU64, Ordering};

/// Number of seconds over which the rate is averaged.
const WINDOW_SECONDS: u32 = 10;
/// Number of buckets of one second each: the window, the current second, and a spare one.
const BUCKETS: usize = WINDOW_SECONDS as usize + 2;
/// Bits of a bucket that hold its count; those above hold its second.
const COUNT_BITS: u32 = 32;

/// Rate of queries over the last ten whole seconds. Recording a query takes two atomic operations and no lock.
#[derive(Debug, Default)]
pub struct QueryRate([AtomicU64; BUCKETS]);

impl QueryRate {
    /// Records one query. `now_us`: microseconds of the monotonic clock.
    pub fn record(&self, now_us: u64) {
        let second = now_us / 1_000_000;
        let bucket = &self.0[(second % BUCKETS as u64) as usize];
        let counted = bucket.load(Ordering::Relaxed);
        // A query that is recorded while another one starts a new second may be lost, which does not matter for a rate.
        if counted >> COUNT_BITS == second {
            bucket.fetch_add(1, Ordering::Relaxed);
        } else {
            bucket.store(second << COUNT_BITS | 1, Ordering::Relaxed);
        }
    }

    /// Returns the queries per second over the last ten whole seconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate is for people to read")]
    pub fn per_second(&self, now_us: u64) -> f64 {
        let second = now_us / 1_000_000;
        let in_window =
            |bucket: u64| (second.saturating_sub(u64::from(WINDOW_SECONDS))..second).contains(&(bucket >> COUNT_BITS));
        let counts = self.0.iter().map(|bucket| bucket.load(Ordering::Relaxed)).filter(|bucket| in_window(*bucket));
        let count: u64 = counts.map(|bucket| bucket & (u64::MAX >> COUNT_BITS)).sum();
        count as f64 / f64::from(WINDOW_SECONDS)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "tenths of small whole numbers")]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn rate_counts_the_last_ten_whole_seconds() {
        let rate = QueryRate::default();
        let start = 100 * SECOND;
        for _ in 0..30 {
            rate.record(start);
        }
        rate.record(start + 3 * SECOND);
        assert_eq!(rate.per_second(start), 0.0, "the current second does not count yet");
        assert_eq!(rate.per_second(start + SECOND), 3.0);
        assert_eq!(rate.per_second(start + 10 * SECOND), 3.1);
        assert_eq!(rate.per_second(start + 11 * SECOND), 0.1);
        assert_eq!(rate.per_second(start + 60 * SECOND), 0.0);
        rate.record(start + 12 * SECOND);
        assert_eq!(rate.per_second(start + 13 * SECOND), 0.2, "a bucket is used again");
    }
}
