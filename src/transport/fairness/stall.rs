//! Detection of readers that do not read the data that they are sent.
//!
//! Only the application can detect a peer that answers pings but reads nothing, or one byte from time to time. A detector inspects the progress of
//! a reader once a second. Recording the progress costs two or three writes to memory for each message.

use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use super::{MIN_STALL_BYTES, PRESSED_STALL_SECONDS, STALL_SECONDS};

/// Progress of a reader: the bytes that it was given, and how often it has read all of them.
#[derive(Debug, Default)]
pub(in crate::transport) struct ReadProgress {
    /// Set while the reader has unread data.
    pending: AtomicBool,
    /// Number of times that the reader has read everything; may wrap around.
    times_caught_up: AtomicU32,
    /// Number of bytes that the reader was given so far; may wrap around.
    given: AtomicUsize,
}

impl ReadProgress {
    /// Counts bytes that are passed on to the reader.
    pub(in crate::transport) fn give(&self, bytes: usize) {
        self.given.store(self.given.load(Relaxed).wrapping_add(bytes), Relaxed);
        self.pending.store(true, Release);
    }

    /// Records that the reader has unread data.
    pub(in crate::transport) fn wait(&self) {
        self.pending.store(true, Release);
    }

    /// Records that the reader has read everything.
    pub(in crate::transport) fn take_all(&self) {
        if self.pending.load(Relaxed) {
            self.times_caught_up.store(self.times_caught_up.load(Relaxed).wrapping_add(1), Relaxed);
            self.pending.store(false, Release);
        }
    }
}

/// Detects a stalled reader by its progress between inspections.
#[derive(Debug, Default)]
pub(in crate::transport) struct StallDetector {
    times_caught_up: u32,
    /// Bytes given at the last inspection, and number of inspections for which this number has not changed.
    given: (usize, u32),
    /// Bytes given at the start of the present series of inspections, and the length of the series.
    stretch: (usize, u32),
}

impl StallDetector {
    /// Inspects the progress; called once a second. Returns whether the reader has stalled. `pressed`: true if the reader
    /// uses memory that others need.
    pub(in crate::transport) fn look(&mut self, progress: &ReadProgress, pressed: bool) -> bool {
        let (pending, times_caught_up) = (progress.pending.load(Acquire), progress.times_caught_up.load(Relaxed));
        let given = progress.given.load(Relaxed);
        if !pending || times_caught_up != self.times_caught_up {
            *self = Self { times_caught_up, given: (given, 0), stretch: (given, 0) };
            return false;
        }
        let same = if given == self.given.0 { self.given.1 + 1 } else { 0 };
        self.given = (given, same);
        self.stretch.1 += 1;
        if same >= if pressed { PRESSED_STALL_SECONDS } else { STALL_SECONDS } {
            return true;
        }
        if self.stretch.1 < STALL_SECONDS {
            return false;
        }
        let (from, _) = std::mem::replace(&mut self.stretch, (given, 0));
        given.wrapping_sub(from) < MIN_STALL_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of inspections after which a reader has stalled. `each` is called before each inspection.
    fn stalls_after(each: impl Fn(u32, &ReadProgress)) -> Option<u32> {
        let (progress, mut detector) = (ReadProgress::default(), StallDetector::default());
        (1..=300).find(|second| {
            each(*second, &progress);
            detector.look(&progress, false)
        })
    }

    #[test]
    fn reader_that_keeps_memory_from_others_has_stalled_within_seconds() {
        let (progress, mut detector) = (ReadProgress::default(), StallDetector::default());
        progress.give(100);
        let looks = (1..=10).find(|_| detector.look(&progress, true));
        assert_eq!(looks, Some(4));
        let (progress, mut detector) = (ReadProgress::default(), StallDetector::default());
        for _ in 0..20 {
            progress.give(16 * 1024);
            assert!(!detector.look(&progress, true), "it takes what it is given");
        }
    }

    #[test]
    fn reader_that_takes_nothing_has_stalled_within_thirty_seconds() {
        for bytes in [0, 1, 16 * 1024, 100 * 1024] {
            let once = |second, progress: &ReadProgress| {
                if second == 5 {
                    progress.give(bytes);
                }
            };
            assert!((5 + 27..5 + 30).contains(&stalls_after(once).unwrap()), "{bytes}");
        }
    }

    #[test]
    fn reader_that_takes_a_little_now_and_then_has_stalled() {
        assert!(stalls_after(|_, progress| progress.give(1_000)).unwrap() <= 30);
        assert_eq!(stalls_after(|_, progress| progress.give(2_000)), None, "slow, but it makes progress");
    }

    #[test]
    fn reader_that_takes_all_it_is_given_has_not_stalled() {
        let reads = |_, progress: &ReadProgress| {
            progress.take_all();
            progress.give(10);
        };
        assert_eq!(stalls_after(reads), None);
        assert_eq!(stalls_after(|_, _| {}), None);
    }
}
