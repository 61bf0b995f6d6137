//! Choices that can be made again.

use std::{env, thread, time::Duration};

/// Seed of all random choices of a test. `CALLBOARD_TEST_SEED` sets it; a failing test prints it.
#[derive(Debug)]
pub struct Seed(pub u64);

impl Seed {
    const VARIABLE: &str = "CALLBOARD_TEST_SEED";

    pub fn from_environment() -> Self {
        Self(match env::var(Self::VARIABLE) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{} is no number: {text}", Self::VARIABLE)),
            Err(_) => callboard::random::u64(),
        })
    }

    /// Returns an independent generator for one task.
    pub fn random(&self, of: u64) -> Random {
        let mut random = Random(self.0 ^ of.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the choices of this test come back with {}={}", Self::VARIABLE, self.0);
        }
    }
}

/// `splitmix64` (Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Returns an independent generator.
    pub fn split(&mut self) -> Self {
        Self(self.next())
    }

    /// Returns a number from 0 to `below` - 1.
    pub fn below(&mut self, below: u64) -> u64 {
        self.next() % below
    }

    /// A span of at least `from` and less than `to` milliseconds.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(1_000 * from + self.below(1_000 * (to - from)))
    }

    pub fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}
