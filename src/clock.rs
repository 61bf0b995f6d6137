//! The only code that reads the clocks of the operating system, and the liveness of the event loops.

mod liveness;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    model::UnixMillis,
    registry::{ClockReading, LeaseClock, LeaseTime},
};
use liveness::Liveness;
pub use liveness::{LoopMonitor, LoopStatus};

/// All clocks of the process. The monotonic clock is tokio's, so that tests can pause it.
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    lease: LeaseClock,
    /// The wall clock. For display only: it may jump.
    wall: fn() -> UnixMillis,
    /// Milliseconds from 1970 to the origin, by the wall clock at the last expiry. A reading adds the monotonic time, so that it costs one system call.
    origin_unix_millis: AtomicU64,
    /// For each gRPC worker, the lease time up to which it has handled all heartbeats.
    worker_progress: Box<[AtomicU64]>,
    liveness: Liveness,
}

impl Clock {
    /// Creates a clock that starts now. Expiry waits for this number of workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self::with_wall(workers, wall)
    }

    /// Like [`Self::new`], with another wall clock.
    #[must_use]
    pub fn with_wall(workers: usize, wall: fn() -> UnixMillis) -> Self {
        Self {
            origin: now(),
            lease: LeaseClock::default(),
            wall,
            origin_unix_millis: AtomicU64::new(wall().0),
            worker_progress: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            liveness: Liveness::default(),
        }
    }

    /// Returns a reading of all clocks.
    #[must_use]
    pub fn now(&self) -> ClockReading {
        let since = self.since_start();
        self.reading(since, self.lease.read(millis(since)))
    }

    /// Returns the reading by which leases expire. Its lease time is held back by pauses of the process, and by the slowest worker, which may have
    /// unread heartbeats. Called by one task, several times a second.
    pub fn expiry(&self) -> ClockReading {
        let since = self.since_start();
        self.origin_unix_millis.store((self.wall)().0.saturating_sub(millis(since)), Ordering::Relaxed);
        let slowest = self.worker_progress.iter().map(|progress| progress.load(Ordering::Acquire)).min();
        let time = self.lease.tick(millis(since));
        self.reading(since, slowest.map_or(time, |slowest| time.min(slowest)))
    }

    /// Records that a worker has handled every heartbeat that had arrived at this lease time. Ignores workers that expiry does not wait for.
    pub fn worker_has_handled(&self, worker: usize, time: LeaseTime) {
        if let Some(progress) = self.worker_progress.get(worker) {
            progress.store(time, Ordering::Release);
        }
    }

    /// Time since the process started, on the monotonic clock.
    #[must_use]
    pub fn since_start(&self) -> Duration {
        now().duration_since(self.origin)
    }

    fn reading(&self, since: Duration, lease: LeaseTime) -> ClockReading {
        let monotonic_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        let wall = UnixMillis(self.origin_unix_millis.load(Ordering::Relaxed) + millis(since));
        ClockReading { monotonic_us, lease, wall }
    }
}

#[expect(clippy::disallowed_methods, reason = "clocks are read here only")]
fn wall() -> UnixMillis {
    UnixMillis(millis(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()))
}

#[expect(clippy::disallowed_methods, reason = "clocks are read here only")]
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
        clock.worker_has_handled(0, 900);
        clock.worker_has_handled(1, 400);
        assert_eq!(clock.expiry().lease, 400);
        assert_eq!(clock.now().lease, 1_000);
        clock.worker_has_handled(1, 5_000);
        assert_eq!(clock.expiry().lease, 900);
    }

    #[tokio::test(start_paused = true)]
    async fn pause_of_the_process_does_not_count_as_lease_time() {
        let clock = Clock::new(0);
        clock.expiry();
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(clock.now().lease, 0);
        assert_eq!(clock.expiry().lease, 0);
        assert_eq!(clock.since_start(), Duration::from_mins(1));
    }
}
