//! The one place that looks at clocks.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    model::UnixMillis,
    registry::{ClockReading, LeaseClock, LeaseTime},
};

/// All clocks of the process. tokio's instants, so that tests can pause them.
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    lease: LeaseClock,
    /// For display only: it may jump.
    wall: fn() -> UnixMillis,
    /// Milliseconds from 1970 to the origin, by the wall clock as it was lately: one clock is read for both.
    epoch: AtomicU64,
    /// For each worker, the lease time up to which it has done all that was waiting for it.
    turns: Box<[AtomicU64]>,
    /// When each worker, and at last the one who expires leases, last gave a sign of life: milliseconds since the start.
    signs: Box<[AtomicU64]>,
}

impl Clock {
    /// A clock that starts now, and waits for this many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self::with_wall(workers, wall)
    }

    /// The same by another wall clock.
    #[must_use]
    pub fn with_wall(workers: usize, wall: fn() -> UnixMillis) -> Self {
        Self {
            origin: now(),
            lease: LeaseClock::default(),
            wall,
            epoch: AtomicU64::new(wall().0),
            turns: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            signs: (0..=workers).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A reading of all clocks.
    #[must_use]
    pub fn now(&self) -> ClockReading {
        let since = self.since_start();
        self.reading(since, self.lease.read(millis(since)))
    }

    /// The reading by which leases are expired: held back by pauses of the process, and by the slowest worker, which may
    /// have heartbeats that it has not read. To be taken several times a second, by one task.
    pub fn expiry(&self) -> ClockReading {
        let since = self.since_start();
        self.sign(self.turns.len(), since);
        self.epoch.store((self.wall)().0.saturating_sub(millis(since)), Ordering::Relaxed);
        let slowest = self.turns.iter().map(|turn| turn.load(Ordering::Acquire)).min();
        let time = self.lease.tick(millis(since));
        self.reading(since, slowest.map_or(time, |slowest| time.min(slowest)))
    }

    /// A worker has done all that waited for it at this lease time.
    pub fn turned(&self, worker: usize, time: LeaseTime) {
        if let Some(turn) = self.turns.get(worker) {
            turn.store(time, Ordering::Release);
            self.sign(worker, self.since_start());
        }
    }

    /// For how long the one that has been silent the longest has given no sign of life: a worker, or who expires leases. Not
    /// in the time of leases, which would stand still if nobody expired them.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        let oldest = self.signs.iter().map(|sign| sign.load(Ordering::Relaxed)).min().unwrap_or_default();
        self.since_start().saturating_sub(Duration::from_millis(oldest))
    }

    fn sign(&self, of: usize, since: Duration) {
        self.signs[of].store(millis(since), Ordering::Relaxed);
    }

    /// Time since the process started, on the monotonic clock.
    #[must_use]
    pub fn since_start(&self) -> Duration {
        now().duration_since(self.origin)
    }

    fn reading(&self, since: Duration, lease: LeaseTime) -> ClockReading {
        let monotonic_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        ClockReading { monotonic_us, lease, wall: UnixMillis(self.epoch.load(Ordering::Relaxed) + millis(since)) }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place")]
fn wall() -> UnixMillis {
    UnixMillis(millis(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()))
}

#[expect(clippy::disallowed_methods, reason = "the one place")]
fn now() -> Instant {
    Instant::now()
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn expiry_waits_for_the_slowest_worker() {
        let clock = Clock::new(2);
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            clock.expiry();
        }
        clock.turned(0, 900);
        clock.turned(1, 400);
        assert_eq!(clock.expiry().lease, 400);
        assert_eq!(clock.now().lease, 1_000);
        clock.turned(1, 5_000);
        assert_eq!(clock.expiry().lease, 900);
    }

    #[tokio::test(start_paused = true)]
    async fn one_silent_part_is_noticed() {
        let clock = Clock::new(2);
        let second = Duration::from_secs(1);
        for _ in 0..5 {
            tokio::time::advance(second).await;
            clock.turned(0, 0);
            clock.turned(1, 0);
        }
        assert_eq!(clock.silent_for(), 5 * second, "nobody expires leases");
        clock.expiry();
        assert_eq!(clock.silent_for(), Duration::ZERO);
        for _ in 0..3 {
            tokio::time::advance(second).await;
            clock.expiry();
            clock.turned(1, 0);
        }
        assert_eq!(clock.silent_for(), 3 * second, "a worker stands still");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_no_time() {
        let clock = Clock::new(0);
        clock.expiry();
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(clock.now().lease, 0);
        assert_eq!(clock.expiry().lease, 0);
        assert_eq!(clock.since_start(), Duration::from_mins(1));
    }
}
