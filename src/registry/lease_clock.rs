//! The clock that leases run on: it stands still while the process does.
//!
//! A monotonic clock runs on while the process is stopped, swapped out or starved; heartbeats that came meanwhile are
//! still unread. So a gap between two readings of more than a second is taken out of the time that leases see.
//!
//! And it stands still for a while longer: holders that waited for an answer have closed their streams meanwhile, and wait
//! before they try again. They get as long as the pause was, up to [`COMING_BACK`].

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::lease::LeaseTime;

/// A longer gap between two readings, in milliseconds, counts as a pause. Somebody has to read the clock more often.
const PAUSE: u64 = 1_000;

/// How long a client may wait before it tries again, and a second for doing so, in milliseconds.
const COMING_BACK: u64 = 6_000;

/// Turns a monotonic clock into the time of leases. Both in milliseconds.
#[derive(Debug, Default)]
pub struct LeaseClock {
    /// The last reading of the monotonic clock.
    last: AtomicU64,
    /// Milliseconds of pauses so far.
    paused: AtomicU64,
    /// The lease time of the last pause: it does not run backwards, whoever read the monotonic clock before the pause and comes
    /// here after it was accounted for.
    floor: AtomicU64,
    /// Held by whoever accounts for a pause: one does, the others wait and see.
    accounting: Mutex<()>,
}

impl LeaseClock {
    /// The time of leases at this reading of the monotonic clock.
    pub fn read(&self, monotonic: u64) -> LeaseTime {
        let last = self.last.load(Ordering::Acquire);
        if monotonic.saturating_sub(last) > PAUSE {
            self.account(monotonic);
        }
        let time = monotonic.saturating_sub(self.paused.load(Ordering::Acquire));
        time.max(self.floor.load(Ordering::Acquire))
    }

    /// The same, by the one who reads it regularly and so tells a pause from a quiet time.
    pub fn tick(&self, monotonic: u64) -> LeaseTime {
        let time = self.read(monotonic);
        self.last.fetch_max(monotonic, Ordering::AcqRel);
        time
    }

    fn account(&self, monotonic: u64) {
        let _one = self.accounting.lock();
        let last = self.last.load(Ordering::Acquire);
        let gap = monotonic.saturating_sub(last);
        if gap > PAUSE {
            let paused = self.paused.load(Ordering::Acquire);
            let time = last.saturating_sub(paused).max(self.floor.load(Ordering::Acquire));
            self.floor.fetch_max(time, Ordering::AcqRel);
            // For how long it was to stand still already: pauses in a row do not add up.
            let before = (time + paused).saturating_sub(last);
            let still = before.max(gap.min(COMING_BACK));
            self.paused.store(monotonic + still - time, Ordering::Release);
            self.last.fetch_max(monotonic, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_with_the_monotonic_clock() {
        let clock = LeaseClock::default();
        for now in (0..10_000).step_by(100) {
            assert_eq!(clock.tick(now), now);
            assert_eq!(clock.read(now + 99), now + 99);
        }
    }

    #[test]
    fn stands_still_in_a_pause_and_while_clients_come_back() {
        let clock = LeaseClock::default();
        clock.tick(500);
        assert_eq!(clock.read(60_500), 500, "a heartbeat is read before the regular reader comes round");
        for now in (60_600..=66_500).step_by(100) {
            assert_eq!(clock.tick(now), 500);
        }
        assert_eq!(clock.tick(66_600), 600);
    }

    #[test]
    fn a_short_pause_gives_as_long_again() {
        let clock = LeaseClock::default();
        clock.tick(1_000);
        assert_eq!(clock.tick(3_000), 1_000);
        assert_eq!(clock.tick(4_000), 1_000);
        assert_eq!(clock.tick(5_000), 1_000);
        assert_eq!(clock.tick(5_500), 1_500);
    }

    #[test]
    fn pauses_in_a_row_do_not_add_up() {
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
    fn a_short_pause_takes_nothing_from_a_long_one() {
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
    fn a_reading_from_before_the_pause_is_not_in_the_past() {
        let clock = LeaseClock::default();
        clock.tick(1_000);
        clock.tick(1_900);
        clock.tick(60_000);
        assert_eq!(clock.read(1_950), 1_900, "read before, asked after");
    }

    #[test]
    fn a_second_is_no_pause() {
        let clock = LeaseClock::default();
        clock.tick(1_000);
        assert_eq!(clock.tick(2_000), 2_000);
    }

    #[test]
    fn one_pause_is_accounted_once() {
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
