//! Schedule of periodic tasks. It reads no clock: callers pass the time.
//!
//! A task is due again one interval after it was due, not after it ran: tasks do not drift, and stay spread over their interval as at
//! first. After a pause of the process, a task runs once, not once for each interval that was missed.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::Hash,
    time::Duration,
};

/// Maximum number of stale entries in the heap, in addition to one for each task.
const MAX_STALE_ENTRIES: usize = 1_024;

/// Tasks by the time at which they are due.
#[derive(Debug)]
pub struct Schedule<K> {
    /// Due times and numbers of entries. Numbers that are not in `entries` are stale.
    due: BinaryHeap<Reverse<(Duration, u64)>>,
    /// Tasks and intervals by number.
    entries: HashMap<u64, (K, Duration)>,
    /// Number of the current entry of each task.
    current: HashMap<K, u64>,
    next_number: u64,
}

impl<K> Default for Schedule<K> {
    fn default() -> Self {
        Self { due: BinaryHeap::new(), entries: HashMap::new(), current: HashMap::new(), next_number: 0 }
    }
}

impl<K: Clone + Eq + Hash> Schedule<K> {
    /// Schedules a task, in place of an earlier schedule: first at `first`, then once per `interval`.
    pub fn insert(&mut self, key: K, first: Duration, interval: Duration) {
        let number = self.next_number;
        self.next_number += 1;
        if let Some(before) = self.current.insert(key.clone(), number) {
            self.entries.remove(&before);
        }
        self.entries.insert(number, (key, interval));
        self.due.push(Reverse((first, number)));
        // Otherwise a stale entry would stay until its due time, which may be hours away.
        if self.due.len() > MAX_STALE_ENTRIES + 2 * self.entries.len() {
            self.due.retain(|Reverse((_, number))| self.entries.contains_key(number));
        }
    }

    /// Removes a task.
    pub fn remove(&mut self, key: &K) {
        if let Some(number) = self.current.remove(key) {
            self.entries.remove(&number);
        }
    }

    /// Returns the time at which the next task is due, or an earlier time if that task was removed.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.peek().map(|Reverse((due, _))| *due)
    }

    /// Returns a task that is due, and schedules it for its next interval.
    pub fn pop(&mut self, now: Duration) -> Option<K> {
        while let Some(Reverse((due, number))) = self.due.peek().copied()
            && due <= now
        {
            self.due.pop();
            if let Some((key, interval)) = self.entries.get(&number) {
                self.due.push(Reverse((next_due_after(due, *interval, now), number)));
                return Some(key.clone());
            }
        }
        None
    }

    /// Returns the number of tasks.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.current.len()
    }
}

/// Returns the first time after `now` that is a whole number of intervals after `due`.
fn next_due_after(due: Duration, interval: Duration, now: Duration) -> Duration {
    let interval = interval.max(Duration::from_millis(1));
    let missed = now.saturating_sub(due).as_nanos() / interval.as_nanos();
    let missed = u32::try_from(missed).unwrap_or(u32::MAX - 1);
    due + interval.saturating_mul(missed + 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn task_does_not_drift_and_runs_once_after_a_pause() {
        let mut schedule = Schedule::default();
        schedule.insert("a", SECOND / 3, SECOND);
        let mut times = Vec::new();
        for late in [0, 5, 11] {
            let due = schedule.next_due().unwrap();
            let now = due + Duration::from_millis(late);
            assert_eq!(schedule.pop(now), Some("a"));
            assert_eq!(schedule.pop(now), None);
            times.push(due);
        }
        assert_eq!(times, [SECOND / 3, SECOND / 3 + SECOND, SECOND / 3 + 2 * SECOND]);
        assert_eq!(schedule.pop(100 * SECOND), Some("a"), "after a pause");
        assert_eq!(schedule.pop(100 * SECOND), None);
        assert_eq!(schedule.next_due(), Some(100 * SECOND + SECOND / 3));
    }

    #[test]
    fn removed_or_rescheduled_task_is_not_due_at_its_earlier_time() {
        let mut schedule = Schedule::default();
        schedule.insert("a", SECOND, SECOND);
        schedule.insert("b", SECOND, SECOND);
        schedule.insert("a", 5 * SECOND, SECOND);
        schedule.remove(&"b");
        assert_eq!(schedule.pop(4 * SECOND), None);
        assert_eq!(schedule.pop(5 * SECOND), Some("a"));
        assert_eq!(schedule.len(), 1);
    }

    #[test]
    fn stale_entries_are_bounded() {
        let mut schedule = Schedule::default();
        for key in 0..100_000 {
            schedule.insert(key, 3_600 * SECOND, 3_600 * SECOND);
            if key % 100 != 0 {
                schedule.remove(&key);
            }
        }
        assert_eq!(schedule.len(), 1_000);
        assert!(schedule.due.len() <= MAX_STALE_ENTRIES + 2 * 1_000 + 1, "{}", schedule.due.len());
        let count = std::iter::from_fn(|| schedule.pop(3_600 * SECOND)).count();
        assert_eq!(count, 1_000);
    }

    proptest! {
        /// Each task is due as often as its interval fits into the time.
        #[test]
        fn task_is_due_once_per_interval(intervals in prop::collection::vec(1_u64..50, 1..20), step in 1_u64..10) {
            let mut schedule = Schedule::default();
            for (key, interval) in intervals.iter().enumerate() {
                schedule.insert(key, Duration::from_millis(*interval), Duration::from_millis(*interval));
            }
            let mut counts = BTreeMap::<usize, u64>::new();
            for now in (0..=1_000).step_by(usize::try_from(step).unwrap()) {
                while let Some(key) = schedule.pop(Duration::from_millis(now)) {
                    *counts.entry(key).or_default() += 1;
                }
            }
            for (key, interval) in intervals.iter().enumerate() {
                let (max, times) = (1_000 / interval, counts.get(&key).copied().unwrap_or_default());
                prop_assert!(times <= max, "{times} times in {max} intervals");
                prop_assert!(times + 1 >= max.min(1_000 / step), "{times} times in {max} intervals");
            }
        }
    }
}
