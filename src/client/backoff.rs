//! How long to wait before trying again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// Half of the longest first delay; jitter adds up to as much again.
const FIRST: Duration = Duration::from_millis(50);
/// Half of the longest delay of all.
const LAST: Duration = Duration::from_millis(2_500);

/// Delays that double from about 100 ms to at most 5 s, each drawn from the upper half of its range, so that clients
/// which lost one server together do not come back together.
#[derive(Debug)]
pub struct Backoff {
    delays: <ExponentialBuilder as BackoffBuilder>::Backoff,
}

impl Backoff {
    /// No delay is longer than this.
    pub const LONGEST: Duration = Duration::from_secs(5);

    /// Starts with the shortest delay.
    #[must_use]
    pub fn new() -> Self {
        // Without a seed of its own, a build without backon's `std` jitters every process alike.
        let seed = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        let delays = ExponentialBuilder::new()
            .with_min_delay(FIRST)
            .with_max_delay(LAST)
            .without_max_times()
            .with_jitter()
            .with_jitter_seed(seed)
            .build();
        Self { delays }
    }

    /// The next delay. Where the server asked for a longer one, that, within [`Backoff::LONGEST`].
    pub fn delay(&mut self, asked: Option<Duration>) -> Duration {
        let own = self.delays.next().unwrap_or(LAST);
        own.max(asked.unwrap_or_default()).min(Self::LONGEST)
    }

    /// Something succeeded: the next delay is a short one again.
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
    fn a_reset_starts_over() {
        let mut backoff = Backoff::new();
        let later = (0..10).map(|_| backoff.delay(None)).last();
        assert!(later > Some(Duration::from_secs(2)));
        backoff.reset();
        within(backoff.delay(None), 50, 100);
    }

    #[test]
    fn what_the_server_asks_counts_within_bounds() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.delay(Some(Duration::from_secs(3))), Duration::from_secs(3));
        assert_eq!(backoff.delay(Some(Duration::from_hours(1))), Backoff::LONGEST);
    }

    #[test]
    fn two_clients_wait_differently() {
        let (mut one, mut other) = (Backoff::new(), Backoff::new());
        let delays = |backoff: &mut Backoff| (0..8).map(|_| backoff.delay(None)).collect::<Vec<_>>();
        assert_ne!(delays(&mut one), delays(&mut other));
    }
}
