//! Delays between attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// Lower bound of the first delay. Jitter adds up to as much again.
const MIN_DELAY: Duration = Duration::from_millis(50);
/// Lower bound of the last delay. Jitter adds up to as much again.
const MAX_DELAY: Duration = Duration::from_millis(2_500);

/// Sequence of delays that double from about 100 ms up to 5 s.
///
/// Each delay is drawn from the upper half of its range, so that clients that lost a server at the same time do not all
/// reconnect at the same time.
#[derive(Debug)]
pub struct Backoff {
    delays: <ExponentialBuilder as BackoffBuilder>::Backoff,
}

impl Backoff {
    /// Maximum delay.
    pub const MAX_DELAY: Duration = Duration::from_secs(5);

    /// Returns a sequence that starts with the shortest delay.
    #[must_use]
    pub fn new() -> Self {
        // Without a seed, a build without backon's feature `std` gives every process the same jitter.
        let seed = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        let delays = ExponentialBuilder::new()
            .with_min_delay(MIN_DELAY)
            .with_max_delay(MAX_DELAY)
            .without_max_times()
            .with_jitter()
            .with_jitter_seed(seed)
            .build();
        Self { delays }
    }

    /// Returns the next delay, or the delay that the server asked for if that is longer; at most [`Backoff::MAX_DELAY`].
    pub fn delay(&mut self, requested: Option<Duration>) -> Duration {
        let own = self.delays.next().unwrap_or(MAX_DELAY);
        own.max(requested.unwrap_or_default()).min(Self::MAX_DELAY)
    }

    /// Starts over with the shortest delay, after a success.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(delay: Duration, low: u64, high: u64) {
        let millis = delay.as_millis();
        assert!((u128::from(low)..=u128::from(high)).contains(&millis), "{delay:?} is not in {low}..={high} ms");
    }

    #[test]
    fn delays_double_with_jitter_up_to_five_seconds() {
        for _ in 0..100 {
            let mut backoff = Backoff::new();
            for low in [50, 100, 200, 400, 800, 1_600, 2_500, 2_500, 2_500] {
                within(backoff.delay(None), low, 2 * low);
            }
        }
    }

    #[test]
    fn reset_returns_to_the_shortest_delay() {
        let mut backoff = Backoff::new();
        let later = (0..10).map(|_| backoff.delay(None)).last();
        assert!(later > Some(Duration::from_secs(2)));
        backoff.reset();
        within(backoff.delay(None), 50, 100);
    }

    #[test]
    fn requested_delay_is_used_up_to_the_longest() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.delay(Some(Duration::from_secs(3))), Duration::from_secs(3));
        assert_eq!(backoff.delay(Some(Duration::from_hours(1))), Backoff::MAX_DELAY);
    }

    #[test]
    fn two_sequences_have_different_jitter() {
        let (mut one, mut other) = (Backoff::new(), Backoff::new());
        let delays = |backoff: &mut Backoff| (0..8).map(|_| backoff.delay(None)).collect::<Vec<_>>();
        assert_ne!(delays(&mut one), delays(&mut other));
    }
}
