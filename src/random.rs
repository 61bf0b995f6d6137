//! Randomness that nobody can guess: a generator of cryptographic strength for each thread, seeded by the operating system.

/// A random number, for lease ids: whoever knows one speaks for a registration.
#[must_use]
pub fn u128() -> u128 {
    rand::random()
}

/// A random number, for incarnations.
#[must_use]
pub fn u64() -> u64 {
    rand::random()
}
