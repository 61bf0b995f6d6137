//! The lease clock: a monotonic clock that leaves out pauses of the process.
//!
//! A monotonic clock continues while the process is stopped, swapped out or starved, and heartbeats that arrive in this time
//! are still unread afterwards. So a gap of more than a second between two readings is left out of lease time.
//!
//! After the gap the lease clock stands still for another time of the same length, up to [`MAX_RECONNECT_MS`]: clients that
//! waited for an answer have closed their streams meanwhile, and back off before they reconnect.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::lease::LeaseTime;

/// Longest gap between two readings that does not count as a pause, in milliseconds. The clock must be read more often
/// than that.
const MAX_GAP_MS: u64 = 1_000;

/// Maximum time for clients to reconnect after a pause, in milliseconds: their longest back-off, and a second.
const MAX_RECONNECT_MS: u64 = 6_000;

/// Converts readings of a monotonic clock to lease time. Both are in milliseconds.
#[derive(Debug, Default)]
pub struct LeaseClock {
    /// Last reading of the monotonic clock.
    last: AtomicU64,
    /// Sum of the pauses so far.
    paused: AtomicU64,
    /// Lease time of the last pause. It is a lower bound, for a reader that read the monotonic clock before the pause and calls
    /// after the pause was accounted for.
    floor: AtomicU64,
    /// Held while a pause is accounted for, so that it is accounted for once.
    accounting: Mutex<()>,
}

impl LeaseClock {
    /// Returns the lease time at a reading of the monotonic clock.
    pub fn read(&self, monotonic: u64) -> LeaseTime {
        let last = self.last.load(Ordering::Acquire);
        if monotonic.saturating_sub(last) > MAX_GAP_MS {
            self.account(monotonic);
        }
        let time = monotonic.saturating_sub(self.paused.load(Ordering::Acquire));
        time.max(self.floor.load(Ordering::Acquire))
    }

    /// Reads the clock like [`Self::read`], for the task that reads it regularly: from its readings the clock tells a pause from a
    /// quiet time.
    pub fn tick(&self, monotonic: u64) -> LeaseTime {
        let time = self.read(monotonic);
        self.last.fetch_max(monotonic, Ordering::AcqRel);
        time
    }

    fn account(&self, monotonic: u64) {
        let _once = self.accounting.lock();
        let last = self.last.load(Ordering::Acquire);
        let gap = monotonic.saturating_sub(last);
        if gap > MAX_GAP_MS {
            let paused = self.paused.load(Ordering::Acquire);
            let time = last.saturating_sub(paused).max(self.floor.load(Ordering::Acquire));
            self.floor.fetch_max(time, Ordering::AcqRel);
            // Rest of the time for which it stands still after an earlier pause: pauses in a row do not add up.
            let before = (time + paused).saturating_sub(last);
            let still = before.max(gap.min(MAX_RECONNECT_MS));
            self.paused.store(monotonic + still - time, Ordering::Release);
            self.last.fetch_max(monotonic, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_without_pauses_runs_with_the_monotonic_clock() {
        let clock = LeaseClock::default();
        for now in (0..10_000).step_by(100) {
            assert_eq!(clock.tick(now), now);
            assert_eq!(clock.read(now + 99), now + 99);
        }
    }

    #[test]
    fn clock_stands_still_in_a_pause_and_while_clients_reconnect() {
        let clock = LeaseClock::default();
        clock.tick(500);
        assert_eq!(clock.read(60_500), 500, "a heartbeat is read before the regular reading");
        for now in (60_600..=66_500).step_by(100) {
            assert_eq!(clock.tick(now), 500);
        }
        assert_eq!(clock.tick(66_600), 600);
    }

    #[test]
    fn short_pause_gives_clients_as_long_again() {
        let clock = LeaseClock::default();
        clock.tick(1_000);
        assert_eq!(clock.tick(3_000), 1_000);
        assert_eq!(clock.tick(4_000), 1_000);
        assert_eq!(clock.tick(5_000), 1_000);
        assert_eq!(clock.tick(5_500), 1_500);
    }

    #[test]
    fn pauses_in_a_row_do_not_add_up_their_reconnect_times() {
        let clock = LeaseClock::default();
        clock.tick(1_000);
        for pause in 1..=20 {
            assert_eq!(clock.tick(1_000 + 10_000 * pause), 1_000);
        }
        for now in (201_500..=207_000).step_by(500) {
            assert_eq!(clock.tick(now), 1_000);
        }
        assert_eq!(clock.tick(207_500), 1_500);
    }

    #[test]
    fn short_pause_after_a_long_one_shortens_nothing() {
        let clock = LeaseClock::default();
        clock.tick(1_000);
        assert_eq!(clock.tick(61_000), 1_000, "until 67,000");
        assert_eq!(clock.tick(61_500), 1_000);
        assert_eq!(clock.tick(63_500), 1_000, "and for the 2,000 of this pause longer");
        for now in (64_000..=69_000).step_by(500) {
            assert_eq!(clock.tick(now), 1_000, "{now}");
        }
        assert_eq!(clock.tick(69_500), 1_500);
    }

    #[test]
    fn reading_from_before_a_pause_is_not_earlier_than_the_pause() {
        let clock = LeaseClock::default();
        clock.tick(1_000);
        clock.tick(1_900);
        clock.tick(60_000);
        assert_eq!(clock.read(1_950), 1_900, "read before the pause, converted after it");
    }

    #[test]
    fn gap_of_a_second_is_no_pause() {
        let clock = LeaseClock::default();
        clock.tick(1_000);
        assert_eq!(clock.tick(2_000), 2_000);
    }

    #[test]
    fn pause_that_several_threads_see_is_accounted_for_once() {
        let clock = LeaseClock::default();
        clock.tick(1_000);
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| assert_eq!(clock.read(100_000), 1_000));
            }
        });
        for now in (100_500..=106_000).step_by(500) {
            assert_eq!(clock.tick(now), 1_000);
        }
        assert_eq!(clock.tick(106_500), 1_500);
    }
}
