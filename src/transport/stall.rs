//! Whether a reader takes what it is sent.
//!
//! Who answers pings but takes nothing, or one byte now and then, only the application can tell. What looks is called once a second; what is looked
//! at costs a reader's message two or three writes to memory of its own thread.

use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// A reader that has something to take but takes nothing for so many seconds is cut off: within 30 s in all.
const STALLED: u32 = 28;
/// One that keeps others from their answers is cut off after so many.
const PRESSING: u32 = 3;
/// So is one that takes less than this, in bytes, in as long, and never all there is. More than one frame, which is handed
/// over before anything is taken; less than what the slowest link carries.
const LEAST: usize = 32 * 1024;

/// What a reader has been given and has taken.
#[derive(Debug, Default)]
pub(super) struct ReadProgress {
    /// There is something that it has not taken.
    owing: AtomicBool,
    /// How often it has taken all there was.
    level: AtomicU32,
    /// Bytes it was given so far; may wrap around.
    given: AtomicUsize,
}

impl ReadProgress {
    pub(super) fn gives(&self, bytes: usize) {
        self.given.store(self.given.load(Relaxed).wrapping_add(bytes), Relaxed);
        self.owing.store(true, Release);
    }

    pub(super) fn owes(&self) {
        self.owing.store(true, Release);
    }

    pub(super) fn settles(&self) {
        if self.owing.load(Relaxed) {
            self.level.store(self.level.load(Relaxed).wrapping_add(1), Relaxed);
            self.owing.store(false, Release);
        }
    }
}

/// What the last looks at a reader have seen.
#[derive(Debug, Default)]
pub(super) struct StallDetector {
    level: u32,
    /// Bytes given at the last look, and for how many looks that has been so.
    given: (usize, u32),
    /// Bytes given when this stretch of looks began, and how long it is.
    stretch: (usize, u32),
}

impl StallDetector {
    /// Looks again, a second later. Whether the reader has stalled. `pressing`: it keeps others from their answers.
    pub(super) fn look(&mut self, progress: &ReadProgress, pressing: bool) -> bool {
        let (owing, level) = (progress.owing.load(Acquire), progress.level.load(Relaxed));
        let given = progress.given.load(Relaxed);
        if !owing || level != self.level {
            *self = Self { level, given: (given, 0), stretch: (given, 0) };
            return false;
        }
        let same = if given == self.given.0 { self.given.1 + 1 } else { 0 };
        self.given = (given, same);
        self.stretch.1 += 1;
        if same >= if pressing { PRESSING } else { STALLED } {
            return true;
        }
        if self.stretch.1 < STALLED {
            return false;
        }
        let (from, _) = std::mem::replace(&mut self.stretch, (given, 0));
        given.wrapping_sub(from) < LEAST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many looks a reader is found to have stalled that does this before each of them.
    fn stalls(each: impl Fn(u32, &ReadProgress)) -> Option<u32> {
        let (progress, mut mark) = (ReadProgress::default(), StallDetector::default());
        (1..=300).find(|second| {
            each(*second, &progress);
            mark.look(&progress, false)
        })
    }

    #[test]
    fn reader_that_keeps_others_from_their_answers_has_stalled_within_seconds() {
        let (progress, mut mark) = (ReadProgress::default(), StallDetector::default());
        progress.gives(100);
        let looks = (1..=10).find(|_| mark.look(&progress, true));
        assert_eq!(looks, Some(4));
        let (progress, mut mark) = (ReadProgress::default(), StallDetector::default());
        for _ in 0..20 {
            progress.gives(16 * 1024);
            assert!(!mark.look(&progress, true), "it takes what it is given");
        }
    }

    #[test]
    fn who_takes_nothing_has_stalled_within_thirty_seconds() {
        for bytes in [0, 1, 16 * 1024, 100 * 1024] {
            let once = |second, progress: &ReadProgress| {
                if second == 5 {
                    progress.gives(bytes);
                }
            };
            assert!((5 + 27..5 + 30).contains(&stalls(once).unwrap()), "{bytes}");
        }
    }

    #[test]
    fn who_takes_a_little_now_and_then_has_stalled_too() {
        assert!(stalls(|_, progress| progress.gives(1_000)).unwrap() <= 30);
        assert_eq!(stalls(|_, progress| progress.gives(2_000)), None, "slow, but it goes on");
    }

    #[test]
    fn who_takes_all_there_is_has_not() {
        let reads = |_, progress: &ReadProgress| {
            progress.settles();
            progress.gives(10);
        };
        assert_eq!(stalls(reads), None);
        assert_eq!(stalls(|_, _| {}), None);
    }
}
