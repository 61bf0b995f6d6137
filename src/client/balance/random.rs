//! Random numbers for the choice of instances.

use std::sync::atomic::{AtomicU64, Ordering};

/// Pseudorandom sequence that many tasks share without a lock: `SplitMix64`.
#[derive(Debug)]
pub(in crate::client) struct RandomSequence(AtomicU64);

impl RandomSequence {
    /// Increment of the state: 2^64 divided by the golden ratio.
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    pub(in crate::client) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Returns the next number.
    pub(in crate::client) fn next(&self) -> u64 {
        let state = self.0.fetch_add(Self::STEP, Ordering::Relaxed).wrapping_add(Self::STEP);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns the next number below 1, from 0.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what an f64 holds")]
    pub(in crate::client) fn unit(&self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns an index below the length, or 0 if the length is 0.
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below a usize")]
    pub(in crate::client) fn index(&self, length: usize) -> usize {
        self.next().checked_rem(length as u64).unwrap_or_default() as usize
    }
}
