//! How many there were in a time that ends now: a count for each moment, fewer moments the longer ago.

use std::collections::VecDeque;

use crate::registry::lease::LeaseTime;

/// Moments that are kept apart before older ones are put together.
const CROWDED: usize = 256;
/// Moments that are apart by less than one in so many of their age become one.
const BLUR: LeaseTime = 16;

/// Counts what happens, by when.
///
/// After the exponential histograms of Datar, Gionis, Indyk and Motwani (2002) in spirit: exact for what is recent, and for what
/// is older up to a sixteenth of its age too much, never too little.
#[derive(Debug, Default)]
pub(super) struct SlidingCounter {
    /// In order.
    moments: VecDeque<CounterBucket>,
    /// How many there were in all.
    all: usize,
    /// How many of them are forgotten.
    forgotten: usize,
}

/// A moment, or several that became one.
#[derive(Debug, Clone, Copy)]
struct CounterBucket {
    first: LeaseTime,
    /// All of it is taken to have happened here.
    last: LeaseTime,
    /// How many there were up to and including it.
    up_to: usize,
}

impl SlidingCounter {
    /// One more, now.
    pub(super) fn add(&mut self, now: LeaseTime) {
        self.all += 1;
        match self.moments.back_mut() {
            Some(moment) if moment.last == now => moment.up_to = self.all,
            _ => self.moments.push_back(CounterBucket { first: now, last: now, up_to: self.all }),
        }
        if self.moments.len() > CROWDED {
            self.put_together(now);
        }
    }

    /// How many there were since `span` ago.
    pub(super) fn within(&self, now: LeaseTime, span: LeaseTime) -> usize {
        let since = now.saturating_sub(span);
        let first = self.moments.partition_point(|moment| moment.last < since);
        let before =
            first.checked_sub(1).and_then(|at| self.moments.get(at)).map_or(self.forgotten, |moment| moment.up_to);
        self.all - before
    }

    /// Forgets what was longer than `span` ago.
    pub(super) fn forget(&mut self, now: LeaseTime, span: LeaseTime) {
        let since = now.saturating_sub(span);
        while let Some(moment) = self.moments.front().filter(|moment| moment.last < since) {
            self.forgotten = moment.up_to;
            self.moments.pop_front();
        }
    }

    /// Whether nothing is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.moments.is_empty()
    }

    /// What happened in two moments is taken to have happened in the later one.
    fn put_together(&mut self, now: LeaseTime) {
        let mut kept: VecDeque<CounterBucket> = VecDeque::with_capacity(CROWDED);
        for moment in self.moments.drain(..) {
            match kept.back_mut() {
                Some(before) if moment.last - before.first < (now - moment.last) / BLUR => {
                    *before = CounterBucket { first: before.first, ..moment };
                }
                _ => kept.push_back(moment),
            }
        }
        self.moments = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_within_a_span() {
        let mut tally = SlidingCounter::default();
        for at in [100, 100, 200, 500] {
            tally.add(at);
        }
        let within = |tally: &SlidingCounter, span| tally.within(500, span);
        assert_eq!([0, 299, 300, 400, 9_999].map(|span| within(&tally, span)), [1, 1, 2, 4, 4]);
        tally.forget(500, 300);
        assert_eq!([0, 300].map(|span| within(&tally, span)), [1, 2]);
        tally.forget(5_000, 300);
        assert!(tally.is_empty());
        assert_eq!(tally.within(5_000, 5_000), 0);
    }

    #[test]
    fn a_long_time_is_bounded_and_never_counts_too_little() {
        let mut tally = SlidingCounter::default();
        let end = 24 * 3_600 * 1_000;
        for at in (0..=end).step_by(1_000) {
            tally.add(at);
            assert!(tally.moments.len() <= 2 * CROWDED, "{} at {at}", tally.moments.len());
        }
        for span in [0_u64, 1_000, 15_000, 60_000, 3_600_000, end] {
            let (counted, really) = (tally.within(end, span) as u64, span / 1_000 + 1);
            let most = (span + span / BLUR + 2_000) / 1_000 + 1;
            assert!((really..=most).contains(&counted), "{span}: {counted}, really {really}");
        }
    }
}
