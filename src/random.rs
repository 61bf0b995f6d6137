//! Unpredictable random numbers: a cryptographic generator for each thread, seeded by the operating system.

/// Returns a random number, for lease ids, which authorize changes of a registration.
#[must_use]
pub fn u128() -> u128 {
    rand::random()
}

/// Returns a random number, for incarnations.
#[must_use]
pub fn u64() -> u64 {
    rand::random()
}
