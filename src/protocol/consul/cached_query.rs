//! Questions that were asked with `?cached`. Consul's agents answer the first of a kind from the servers (`X-Cache: MISS`) and the
//! others from a cache that they keep up to date (`HIT`, with the age of what is in it). Every answer here is up to date, so all that
//! is left to tell is which of the two Consul would say.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use parking_lot::Mutex;

/// Maximum number of questions that are remembered. Then all are forgotten, and the next of each is a miss.
const MAX_QUESTIONS: usize = 16_384;

/// Hashes of questions.
#[derive(Debug, Default)]
pub(super) struct CachedQuestions {
    hasher: RandomState,
    asked: Mutex<HashSet<u64>>,
}

impl CachedQuestions {
    /// Remembers a question, and returns true if it was asked before.
    pub(super) fn ask(&self, question: &str) -> bool {
        let hash = self.hasher.hash_one(question);
        let mut asked = self.asked.lock();
        if asked.len() >= MAX_QUESTIONS && !asked.contains(&hash) {
            asked.clear();
        }
        !asked.insert(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_is_known_from_its_second_time_and_the_memory_is_bounded() {
        let cached = CachedQuestions::default();
        assert_eq!(["a", "a", "b", "a"].map(|question| cached.ask(question)), [false, true, false, true]);
        for number in 0..3 * MAX_QUESTIONS {
            cached.ask(&number.to_string());
        }
        assert!(cached.asked.lock().len() <= MAX_QUESTIONS);
    }
}
