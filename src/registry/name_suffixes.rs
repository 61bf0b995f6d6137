//! Suffixes of dotted names: `b.c` and `c` for `a.b.c`. In DNS a suffix exists because the name does, although nothing is
//! registered under the suffix.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    iter::successors,
};

/// Maximum length of a name whose suffixes are kept: that of a DNS name.
const MAX_NAME_BYTES: usize = 253;
/// Maximum number of labels of a name whose suffixes are kept. No protocol looks up names with more labels.
const MAX_LABELS: usize = 32;
/// Maximum length of a label.
const MAX_LABEL_BYTES: usize = 63;

/// Counted set of the proper suffixes of names, regardless of case. It holds hashes, so that a name of many labels costs a few
/// hundred bytes. An absent suffix looks present if its hash equals that of a suffix in the set, with a probability of one in
/// 2^64 for each.
#[derive(Debug, Default)]
pub struct NameSuffixes {
    hasher: RandomState,
    counts: HashMap<u64, u32>,
}

impl NameSuffixes {
    /// Adds the suffixes of a name. A name that is no DNS name has none.
    pub fn add(&mut self, name: &str) {
        self.each(name, |counts, suffix| *counts.entry(suffix).or_default() += 1);
    }

    /// Removes the suffixes of a name that was added before.
    pub fn remove(&mut self, name: &str) {
        self.each(name, |counts, suffix| {
            if let Some(count) = counts.get_mut(&suffix) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&suffix);
                }
            }
        });
    }

    /// Returns whether a name with this proper suffix is in the set.
    #[must_use]
    pub fn contains(&self, suffix: &str) -> bool {
        !self.counts.is_empty() && self.counts.contains_key(&self.hash(&suffix.to_ascii_lowercase()))
    }

    fn each(&mut self, name: &str, mut count: impl FnMut(&mut HashMap<u64, u32>, u64)) {
        if !has_suffixes(name) {
            return;
        }
        let folded = name.to_ascii_lowercase();
        let suffixes = successors(parent(&folded), |suffix| parent(suffix));
        let suffixes: Vec<u64> = suffixes.map(|suffix| self.hash(suffix)).collect();
        for suffix in suffixes {
            count(&mut self.counts, suffix);
        }
    }

    fn hash(&self, folded: &str) -> u64 {
        self.hasher.hash_one(folded)
    }
}

fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, rest)| rest)
}

/// Returns whether a name is a DNS name of several labels.
#[must_use]
pub(super) fn has_suffixes(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES
        && name.contains('.')
        && name.split('.').all(|label| (1..=MAX_LABEL_BYTES).contains(&label.len()))
        && name.split('.').count() <= MAX_LABELS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_stay_until_their_last_name_is_removed() {
        let mut set = NameSuffixes::default();
        set.add("A.b.c");
        set.add("x.c");
        assert!(["b.c", "C", "B.C"].iter().all(|suffix| set.contains(suffix)));
        for absent in ["a.b.c", "a", "b", "", ".c", "x.c"] {
            assert!(!set.contains(absent), "{absent}");
        }
        set.remove("a.B.c");
        assert!(set.contains("c") && !set.contains("b.c"));
        set.remove("x.c");
        assert!(!set.contains("c") && set.counts.is_empty());
    }

    #[test]
    fn names_that_are_no_dns_names_have_no_suffixes() {
        let mut set = NameSuffixes::default();
        let long = format!("a.{}.c", "b".repeat(64));
        for name in ["plain", "", ".", "a..b", "a.", ".a", &long, &"a.".repeat(100), &"a.".repeat(2_000)] {
            set.add(name);
        }
        assert!(set.counts.is_empty(), "{set:?}");
        set.remove("never.added");
        assert!(!set.contains("added"));
    }
}
