//! Counter of occurrences within any time span that ends now, in bounded memory.

use std::collections::VecDeque;

use crate::registry::lease::LeaseTime;

/// Number of buckets beyond which older ones are merged.
const MAX_BUCKETS: usize = 256;
/// Adjacent buckets are merged if they are apart by less than this part of their age.
const MERGE_FRACTION: LeaseTime = 16;

/// Counts occurrences by time.
///
/// A simplification of the exponential histograms of Datar, Gionis, Indyk and Motwani (2002): recent occurrences are counted
/// exactly; older ones may count as later by a sixteenth of their age, so that a span never counts too few.
#[derive(Debug, Default)]
pub(super) struct SlidingCounter {
    /// Buckets in the order of time.
    buckets: VecDeque<CounterBucket>,
    /// Number of all occurrences.
    total: usize,
    /// Number of occurrences that were forgotten.
    forgotten: usize,
}

/// Occurrences at one moment, or at several that were merged.
#[derive(Debug, Clone, Copy)]
struct CounterBucket {
    first: LeaseTime,
    /// Time at which all occurrences of the bucket are counted.
    last: LeaseTime,
    /// Number of all occurrences up to and including this bucket.
    up_to: usize,
}

impl SlidingCounter {
    /// Counts one occurrence. It counts as not earlier than the last one.
    pub(super) fn add(&mut self, now: LeaseTime) {
        let now = self.buckets.back().map_or(now, |last| now.max(last.last));
        self.total += 1;
        match self.buckets.back_mut() {
            Some(bucket) if bucket.last == now => bucket.up_to = self.total,
            _ => self.buckets.push_back(CounterBucket { first: now, last: now, up_to: self.total }),
        }
        if self.buckets.len() > MAX_BUCKETS {
            self.merge(now);
        }
    }

    /// Removes one occurrence at this time. One that was forgotten stays so.
    pub(super) fn take_back(&mut self, at: LeaseTime) {
        let first = self.buckets.partition_point(|bucket| bucket.last < at);
        let before = first.checked_sub(1).and_then(|index| self.buckets.get(index));
        let before = before.map_or(self.forgotten, |bucket| bucket.up_to);
        if self.buckets.get(first).is_some_and(|bucket| bucket.first <= at && bucket.up_to > before) {
            self.buckets.iter_mut().skip(first).for_each(|bucket| bucket.up_to -= 1);
            self.total -= 1;
        }
    }

    /// Returns the number of occurrences within `span` before now.
    pub(super) fn within(&self, now: LeaseTime, span: LeaseTime) -> usize {
        let since = now.saturating_sub(span);
        let first = self.buckets.partition_point(|bucket| bucket.last < since);
        let last_before = first.checked_sub(1).and_then(|index| self.buckets.get(index));
        self.total - last_before.map_or(self.forgotten, |bucket| bucket.up_to)
    }

    /// Forgets occurrences that are older than `span`.
    pub(super) fn forget(&mut self, now: LeaseTime, span: LeaseTime) {
        let since = now.saturating_sub(span);
        while let Some(bucket) = self.buckets.front().filter(|bucket| bucket.last < since) {
            self.forgotten = bucket.up_to;
            self.buckets.pop_front();
        }
    }

    /// Returns whether all occurrences were forgotten.
    pub(super) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Merges buckets that are close together for their age. Their occurrences count as those of the later one.
    fn merge(&mut self, now: LeaseTime) {
        let mut merged: VecDeque<CounterBucket> = VecDeque::with_capacity(MAX_BUCKETS);
        for bucket in self.buckets.drain(..) {
            match merged.back_mut() {
                Some(before) if bucket.last - before.first < (now - bucket.last) / MERGE_FRACTION => {
                    *before = CounterBucket { first: before.first, ..bucket };
                }
                _ => merged.push_back(bucket),
            }
        }
        self.buckets = merged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occurrences_within_a_span_are_counted() {
        let mut counter = SlidingCounter::default();
        for at in [100, 100, 200, 500] {
            counter.add(at);
        }
        let within = |counter: &SlidingCounter, span| counter.within(500, span);
        assert_eq!([0, 299, 300, 400, 9_999].map(|span| within(&counter, span)), [1, 1, 2, 4, 4]);
        counter.forget(500, 300);
        assert_eq!([0, 300].map(|span| within(&counter, span)), [1, 2]);
        counter.forget(5_000, 300);
        assert!(counter.is_empty());
        assert_eq!(counter.within(5_000, 5_000), 0);
    }

    #[test]
    fn occurrence_that_is_taken_back_does_not_count() {
        let mut counter = SlidingCounter::default();
        for at in [100, 100, 200, 500] {
            counter.add(at);
        }
        counter.take_back(100);
        assert_eq!([0, 300, 400].map(|span| counter.within(500, span)), [1, 2, 3]);
        counter.take_back(500);
        counter.take_back(500);
        assert_eq!([0, 300, 400].map(|span| counter.within(500, span)), [0, 1, 2], "there was one at 500");
        counter.forget(500, 300);
        counter.take_back(100);
        assert_eq!(counter.within(500, 400), 1, "it was forgotten");
    }

    #[test]
    fn counter_of_a_day_is_bounded_and_never_counts_too_few() {
        let mut counter = SlidingCounter::default();
        let end = 24 * 3_600 * 1_000;
        for at in (0..=end).step_by(1_000) {
            counter.add(at);
            assert!(counter.buckets.len() <= 2 * MAX_BUCKETS, "{} at {at}", counter.buckets.len());
        }
        for span in [0_u64, 1_000, 15_000, 60_000, 3_600_000, end] {
            let (found, exact) = (counter.within(end, span) as u64, span / 1_000 + 1);
            let most = (span + span / MERGE_FRACTION + 2_000) / 1_000 + 1;
            assert!((exact..=most).contains(&found), "{span}: {found} instead of {exact}");
        }
    }
}
