//! CPU time that a connection may use of its thread while others want little of it.
//!
//! The budget for a poll (`connection_io`) lets connections take turns, regardless of their use: next to two connections
//! that send as much as they can, a heartbeat waits for both at each of its steps. So the CPU time of each connection is
//! counted. A connection that has used its share is read more slowly while the thread is busy and a light connection is
//! present. Connections are not slowed down if all are heavy, or if the thread has idle time.
//!
//! The time is counted in leaky buckets: each poll of a task adds to a bucket, and a share of the passing time leaks out.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{
    BUSY_CPU_SHARE, BUSY_PERIOD, CPU_BURST, CPU_PARTS, CPU_SHARE, LIGHT_CPU_BURST, LIGHT_CPU_SHARE, LIGHT_PRESENCE,
    MAX_CPU_DEBT,
};

/// CPU time used beyond a share, as a leaky bucket. Written by one thread.
#[derive(Debug)]
struct CpuBucket {
    /// Level of the bucket in nanoseconds, as of `at`.
    level: AtomicU64,
    /// Time of the last change of the level, in nanoseconds.
    at: AtomicU64,
    /// Parts of the passing time that leak.
    leak: u64,
    /// Nanoseconds that the bucket holds.
    capacity: u64,
}

impl CpuBucket {
    fn new(leak: u64, capacity: Duration, level: Duration, now: Duration) -> Self {
        let (level, at) = (AtomicU64::new(nanoseconds(level)), AtomicU64::new(nanoseconds(now)));
        Self { level, at, leak, capacity: nanoseconds(capacity) }
    }

    /// Adds a span that ended `now`, and returns the level.
    fn add(&self, span: u64, now: u64) -> Duration {
        let level = (self.level_at(now) + span).min(self.capacity);
        self.level.store(level, Relaxed);
        self.at.store(now, Relaxed);
        Duration::from_nanos(level)
    }

    /// Level at the last addition.
    fn last_level(&self) -> Duration {
        Duration::from_nanos(self.level.load(Relaxed))
    }

    fn level_at(&self, now: u64) -> u64 {
        let passed = now.saturating_sub(self.at.load(Relaxed));
        self.level.load(Relaxed).saturating_sub(passed / CPU_PARTS * self.leak)
    }
}

/// CPU time that a connection has used of its thread. Written by that thread.
#[derive(Debug)]
pub(in crate::transport) struct CpuShare {
    /// Time beyond the share of a heavy connection.
    heavy: CpuBucket,
    /// Time beyond the share of a light connection.
    light: CpuBucket,
    /// Number of polls of the connection's tasks.
    polls: AtomicU64,
}

impl CpuShare {
    /// Share of a new connection. It counts as heavy at first, because otherwise an evicted peer would get a new burst with each reconnection.
    pub(in crate::transport) fn new(now: Duration) -> Self {
        Self {
            heavy: CpuBucket::new(CPU_SHARE, CPU_BURST + MAX_CPU_DEBT, CPU_BURST, now),
            light: CpuBucket::new(LIGHT_CPU_SHARE, 2 * LIGHT_CPU_BURST, 2 * LIGHT_CPU_BURST, now),
            polls: AtomicU64::new(0),
        }
    }

    /// Counts a poll of this length that ended `now`. Returns whether the connection is light.
    pub(in crate::transport) fn count(&self, span: Duration, now: Duration) -> bool {
        let (span, now) = (nanoseconds(span), nanoseconds(now));
        self.polls.store(self.polls() + 1, Relaxed);
        self.heavy.add(span, now);
        self.light.add(span, now) <= LIGHT_CPU_BURST
    }

    /// Number of polls so far. It stays the same while one of the connection's tasks is polled.
    pub(in crate::transport) fn polls(&self) -> u64 {
        self.polls.load(Relaxed)
    }

    /// Time for which the connection should not be read on a contended thread.
    pub(in crate::transport) fn pause(&self, now: Duration) -> Option<Duration> {
        let debt = self.heavy.level_at(nanoseconds(now)).checked_sub(nanoseconds(CPU_BURST))?;
        (debt > 0).then(|| Duration::from_nanos(debt / CPU_SHARE * CPU_PARTS))
    }

    /// Returns whether the connection should be read in small pieces on a contended thread. The connection stays heavy for a while after a pause. A pause
    /// usually lasts longer than intended, and otherwise a large read would follow each pause.
    pub(in crate::transport) fn is_heavy(&self) -> bool {
        self.heavy.last_level() > CPU_BURST / 2
    }
}

/// CPU time that all connections of a thread have used. Written by that thread.
#[derive(Debug)]
pub(in crate::transport) struct ThreadLoad {
    /// Time beyond the share above which the thread counts as busy.
    used: CpuBucket,
    /// Time until which the thread counts as busy, in nanoseconds.
    busy_until: AtomicU64,
    /// Time until which a light connection counts as present, in nanoseconds.
    light_until: AtomicU64,
}

impl ThreadLoad {
    pub(in crate::transport) fn new(now: Duration) -> Self {
        let used = CpuBucket::new(BUSY_CPU_SHARE, 2 * LIGHT_CPU_BURST, Duration::ZERO, now);
        Self { used, busy_until: AtomicU64::new(0), light_until: AtomicU64::new(0) }
    }

    /// Counts a poll of this length that ended `now`. `light`: whether its connection is light.
    pub(in crate::transport) fn count(&self, span: Duration, now: Duration, light: bool) {
        if self.used.add(nanoseconds(span), nanoseconds(now)) > LIGHT_CPU_BURST {
            self.busy_until.store(nanoseconds(now + BUSY_PERIOD), Relaxed);
        }
        if light {
            self.light_until.store(nanoseconds(now + LIGHT_PRESENCE), Relaxed);
        }
    }

    /// Returns whether light connections wait for heavy ones.
    pub(in crate::transport) fn is_contended(&self, now: Duration) -> bool {
        let now = nanoseconds(now);
        now < self.busy_until.load(Relaxed) && now < self.light_until.load(Relaxed)
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);
    const MS: Duration = Duration::from_millis(1);

    /// Simulates two seconds of a thread. `demands`: microseconds of each millisecond that each connection wants. Returns the milliseconds that each gets in
    /// the second half.
    fn simulate(demands: &[u32]) -> Vec<u128> {
        let thread = ThreadLoad::new(Duration::ZERO);
        let shares: Vec<_> = demands.iter().map(|_| CpuShare::new(Duration::ZERO)).collect();
        let mut used = vec![Duration::ZERO; demands.len()];
        let mut wanted = used.clone();
        let mut ready_at = used.clone();
        let (mut now, mut last) = (Duration::ZERO, Duration::ZERO);
        while now < MS * 2_000 {
            let passed = now.saturating_sub(last);
            last = now;
            let mut idle = true;
            for (at, share) in shares.iter().enumerate() {
                wanted[at] = (wanted[at] + passed * demands[at] / 1_000).min(MS * 5);
                // One poll, of the length that a flood causes.
                let span = wanted[at].min(US * 100);
                if ready_at[at] > now || span.is_zero() {
                    continue;
                }
                idle = false;
                now += span;
                wanted[at] -= span;
                thread.count(span, now, share.count(span, now));
                if now > MS * 1_000 {
                    used[at] += span;
                }
                if thread.is_contended(now)
                    && let Some(pause) = share.pause(now)
                {
                    ready_at[at] = now + pause;
                }
            }
            now += if idle { US * 50 } else { US };
        }
        used.iter().map(Duration::as_millis).collect()
    }

    #[test]
    fn heavy_connections_beside_light_ones_get_a_tenth_each() {
        let used = simulate(&[1_000, 1_000, 5, 5]);
        assert!((80..=130).contains(&used[0]) && (80..=130).contains(&used[1]), "{used:?}");
        assert!(used[2] >= 4 && used[3] >= 4, "{used:?}");
    }

    #[test]
    fn connections_on_a_thread_with_idle_time_get_all_they_want() {
        let used = simulate(&[300, 300, 120, 5]);
        assert!(used[0] >= 290 && used[1] >= 290 && used[2] >= 115, "{used:?}");
    }

    #[test]
    fn heavy_connections_without_light_ones_use_the_whole_thread() {
        let used = simulate(&[1_000, 1_000, 1_000, 200]);
        assert!(used[..3].iter().all(|used| *used >= 200), "{used:?}");
        assert!(used.iter().sum::<u128>() >= 900, "{used:?}");
    }

    #[test]
    fn pause_after_long_use_of_an_idle_thread_is_short() {
        let share = CpuShare::new(Duration::ZERO);
        let now = MS * 1_000_000;
        share.count(now, now);
        let pause = share.pause(now).unwrap();
        assert!(pause <= MS * 20, "{pause:?}");
        assert_eq!(share.pause(now + pause), None);
    }
}
