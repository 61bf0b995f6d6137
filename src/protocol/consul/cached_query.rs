//! Queries that were made with `?cached`. Consul's agents answer the first of a kind from the servers (`X-Cache: MISS`) and the
//! others from a cache that they keep up to date (`HIT`, with the age of what is in it). Every answer here is up to date, so this
//! module only decides which of the two headers Consul would send.

use std::hash::{BuildHasher as _, RandomState};

use quick_cache::sync::Cache;

use crate::app::ViewKey;

/// Maximum number of remembered queries. A query that was forgotten is a miss again.
const MAX_QUERIES: usize = 16_384;

/// Hashes of queries.
#[derive(Debug)]
pub(super) struct CachedQueries {
    hasher: RandomState,
    seen: Cache<u64, ()>,
}

impl Default for CachedQueries {
    fn default() -> Self {
        Self { hasher: RandomState::new(), seen: Cache::new(MAX_QUERIES) }
    }
}

impl CachedQueries {
    /// Remembers a query, and returns whether it was made before.
    pub(super) fn ask(&self, query: &ViewKey<'_>) -> bool {
        let hash = self.hasher.hash_one(query);
        let known = self.seen.get(&hash).is_some();
        if !known {
            self.seen.insert(hash, ());
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::View;

    #[test]
    fn query_is_known_from_its_second_time_and_the_memory_is_bounded() {
        let cached = CachedQueries::default();
        let ask = |query: &str| cached.ask(&ViewKey::new(View::ConsulHealthService, "web", query));
        assert_eq!(["a", "a", "b", "a"].map(ask), [false, true, false, true]);
        for number in 0..3 * MAX_QUERIES {
            ask(&number.to_string());
        }
        assert!(cached.seen.len() <= MAX_QUERIES);
    }
}
