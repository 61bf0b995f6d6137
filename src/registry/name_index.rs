//! Index of services by their names in lower case, for protocols that ignore case.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use crate::{
    model::{Revision, ServiceName},
    sync::RwLock,
};

/// Spellings of names, by the name in lower case. Only names with an upper-case letter are indexed, so in most registries the
/// index is empty. Changes with the map, under the order lock.
#[derive(Debug, Default)]
pub(super) struct NameIndex(RwLock<BTreeMap<Box<str>, SpelledName>>);

/// A name that has or had a spelling with an upper-case letter.
#[derive(Debug, Default)]
struct SpelledName {
    /// Spellings with an upper-case letter.
    spellings: BTreeSet<ServiceName>,
    /// Revision at which a spelling last lost its last instance.
    last_removed: Revision,
}

impl NameIndex {
    pub(super) fn add(&self, name: &ServiceName) {
        if let Cow::Owned(folded) = fold(name.as_str()) {
            self.0.write().entry(folded.into()).or_default().spellings.insert(name.clone());
        }
    }

    /// Removes a spelling that has lost its last instance. `has_instances` returns whether a name has some.
    pub(super) fn remove(&self, name: &ServiceName, revision: Revision, has_instances: impl Fn(&str) -> bool) {
        let folded = fold(name.as_str());
        if !self.0.read().contains_key(&*folded) {
            return;
        }
        let others = *folded != *name.as_str() && has_instances(&folded);
        let mut all = self.0.write();
        if let Some(found) = all.get_mut(&*folded) {
            found.spellings.remove(name);
            found.last_removed = revision;
            if found.spellings.is_empty() && !others {
                all.remove(&*folded);
            }
        }
    }

    /// Returns the spellings with an upper-case letter of a name in lower case, in order.
    pub(super) fn all(&self, folded: &str) -> Vec<ServiceName> {
        self.0.read().get(folded).map(|found| found.spellings.iter().cloned().collect()).unwrap_or_default()
    }

    /// Returns the revision at which a spelling of this name last lost its last instance while others had some.
    pub(super) fn last_removed(&self, folded: &str) -> Revision {
        self.0.read().get(folded).map(|found| found.last_removed).unwrap_or_default()
    }
}

/// Returns a name in lower case. Borrowed if it is in lower case already.
pub(super) fn fold(name: &str) -> Cow<'_, str> {
    let upper = name.bytes().any(|byte| byte.is_ascii_uppercase());
    if upper { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use proptest::prelude::*;

    use crate::{
        engine::Memory,
        model::{Incarnation, ServiceName},
        registry::{
            Command, Registry,
            test_support::{NoListener, at, deregister, register},
        },
    };

    const NAMES: [&str; 4] = ["redis", "Redis", "REDIS", "redis2"];

    /// Returns the revision over all spellings of `redis`.
    fn revision(registry: &Registry) -> u64 {
        let names = registry.spellings_of("reDIS");
        let present = names.iter().filter_map(|name| registry.summary(name)).map(|summary| summary.revision);
        present.max().unwrap_or_default().max(registry.last_spelling_removed("REdis")).0
    }

    proptest! {
        /// All spellings that have instances are found by any spelling, and their revision rises with each change of them.
        #[test]
        fn spellings_are_found_together_and_their_revision_never_falls(
            operations in prop::collection::vec((0..NAMES.len(), any::<bool>()), 1..60),
        ) {
            let engine = Memory::new(Incarnation(1), at(0), Arc::new(NoListener));
            let registry = engine.registry();
            let mut present = BTreeSet::new();
            for (lease, (number, registers)) in operations.into_iter().enumerate() {
                let (name, before) = (NAMES[number], revision(registry));
                let changed = if registers {
                    let command = Command::Register(register(name, "a", "boot", lease as u128));
                    engine.submit(command, at(0)).unwrap();
                    present.insert(name)
                } else {
                    let _ = engine.submit(deregister(name, "a", None), at(0));
                    present.remove(name)
                };
                let of_redis: Vec<_> =
                    present.iter().copied().filter(|name| name.eq_ignore_ascii_case("redis")).collect();
                let found = registry.spellings_of("rEdIs");
                let found: Vec<_> = found.iter().map(ServiceName::as_str).collect();
                prop_assert_eq!(&found, &of_redis);
                if of_redis.is_empty() {
                    prop_assert!(registry.spellings.0.read().is_empty(), "the index keeps nothing of removed names");
                } else if changed && name.eq_ignore_ascii_case("redis") {
                    prop_assert!(revision(registry) > before);
                }
            }
        }
    }

    #[test]
    fn reserved_name_has_no_spellings() {
        let engine = Memory::new(Incarnation(1), at(0), Arc::new(NoListener));
        assert!(engine.registry().spellings_of("_nodes").is_empty());
    }
}
