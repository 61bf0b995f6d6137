//! What is due when.
//!
//! Each entry comes again after its interval, counted from when it was due and not from when it was made: so checks do not drift,
//! and stay spread over their interval as they were at first. What could not be made in time, because the process stood still, is
//! made once, not as often as was missed.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    hash::Hash,
    time::Duration,
};

/// How many entries of things that were taken out may lie about, beside as many as there are things.
const SPARE: usize = 1_024;

/// Things that are due again and again.
#[derive(Debug)]
pub struct Schedule<K> {
    due: BinaryHeap<Reverse<(Duration, u64)>>,
    entries: HashMap<u64, (K, Duration)>,
    /// The number under which a thing is scheduled now. Others of it are left over, and come to nothing.
    current: HashMap<K, u64>,
    next: u64,
}

impl<K> Default for Schedule<K> {
    fn default() -> Self {
        Self { due: BinaryHeap::new(), entries: HashMap::new(), current: HashMap::new(), next: 0 }
    }
}

impl<K: Clone + Eq + Hash> Schedule<K> {
    /// Schedules a thing anew: first at that time, then once an interval.
    pub fn insert(&mut self, key: K, first: Duration, interval: Duration) {
        let number = self.next;
        self.next += 1;
        if let Some(before) = self.current.insert(key.clone(), number) {
            self.entries.remove(&before);
        }
        self.entries.insert(number, (key, interval));
        self.due.push(Reverse((first, number)));
        // What was taken out lies there until it would have been due: perhaps for hours, and there may be many.
        if self.due.len() > SPARE + 2 * self.entries.len() {
            self.due.retain(|Reverse((_, number))| self.entries.contains_key(number));
        }
    }

    /// Takes a thing out.
    pub fn remove(&mut self, key: &K) {
        if let Some(number) = self.current.remove(key) {
            self.entries.remove(&number);
        }
    }

    /// When the next thing is due. Perhaps one that was taken out: then nothing is, at that time.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.peek().map(|Reverse((due, _))| *due)
    }

    /// Takes one that is due by now, and schedules it again.
    pub fn pop(&mut self, now: Duration) -> Option<K> {
        while let Some(Reverse((due, number))) = self.due.peek().copied()
            && due <= now
        {
            self.due.pop();
            if let Some((key, interval)) = self.entries.get(&number) {
                self.due.push(Reverse((after(due, *interval, now), number)));
                return Some(key.clone());
            }
        }
        None
    }

    /// How many things are scheduled.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.current.len()
    }
}

/// The first time after now that is a whole number of intervals after `due`.
fn after(due: Duration, interval: Duration, now: Duration) -> Duration {
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
    fn nothing_drifts_and_what_was_missed_is_made_once() {
        let mut schedule = Schedule::default();
        schedule.insert("a", SECOND / 3, SECOND);
        let mut made = Vec::new();
        for late in [0, 5, 11] {
            let due = schedule.next_due().unwrap();
            let now = due + Duration::from_millis(late);
            assert_eq!(schedule.pop(now), Some("a"));
            assert_eq!(schedule.pop(now), None);
            made.push(due);
        }
        assert_eq!(made, [SECOND / 3, SECOND / 3 + SECOND, SECOND / 3 + 2 * SECOND]);
        assert_eq!(schedule.pop(100 * SECOND), Some("a"), "after a pause");
        assert_eq!(schedule.pop(100 * SECOND), None);
        assert_eq!(schedule.next_due(), Some(100 * SECOND + SECOND / 3));
    }

    #[test]
    fn what_is_taken_out_or_scheduled_anew_does_not_come_as_it_was() {
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
    fn what_is_taken_out_does_not_pile_up() {
        let mut schedule = Schedule::default();
        for key in 0..100_000 {
            schedule.insert(key, 3_600 * SECOND, 3_600 * SECOND);
            if key % 100 != 0 {
                schedule.remove(&key);
            }
        }
        assert_eq!(schedule.len(), 1_000);
        assert!(schedule.due.len() <= SPARE + 2 * 1_000 + 1, "{}", schedule.due.len());
        let made = std::iter::from_fn(|| schedule.pop(3_600 * SECOND)).count();
        assert_eq!(made, 1_000);
    }

    proptest! {
        /// Every thing is made as often as its interval fits into the time, whatever the others are.
        #[test]
        fn each_comes_as_often_as_it_should(intervals in prop::collection::vec(1_u64..50, 1..20), step in 1_u64..10) {
            let mut schedule = Schedule::default();
            for (key, interval) in intervals.iter().enumerate() {
                schedule.insert(key, Duration::from_millis(*interval), Duration::from_millis(*interval));
            }
            let mut made = BTreeMap::<usize, u64>::new();
            for now in (0..=1_000).step_by(usize::try_from(step).unwrap()) {
                while let Some(key) = schedule.pop(Duration::from_millis(now)) {
                    *made.entry(key).or_default() += 1;
                }
            }
            for (key, interval) in intervals.iter().enumerate() {
                let (most, times) = (1_000 / interval, made.get(&key).copied().unwrap_or_default());
                prop_assert!(times <= most, "{times} times in {most} intervals");
                prop_assert!(times + 1 >= most.min(1_000 / step), "{times} times in {most} intervals");
            }
        }
    }
}
