//! Randomness that nobody can guess, from the operating system.

/// A random number, for lease ids: whoever knows one speaks for a registration.
#[must_use]
pub fn u128() -> u128 {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    u128::from_ne_bytes(bytes)
}

/// A random number, for incarnations.
#[must_use]
pub fn u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// # Panics
///
/// When the operating system gives none, which it does not once it has started: to go on with a number that can be
/// guessed would be worse.
#[expect(clippy::expect_used, reason = "see above")]
fn fill(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives random bytes");
}
