//! Services by their names in lower case, for protocols that do not tell the cases apart.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use crate::{
    model::{Revision, ServiceName},
    sync::RwLock,
};

/// Spellings of names, by the name in lower case. A name that nothing spells with an upper-case letter is not here, so that in
/// most registries this is empty. Changes with the map, under the order lock.
#[derive(Debug, Default)]
pub(super) struct NameIndex(RwLock<BTreeMap<Box<str>, SpelledName>>);

/// A name that has, or had, a spelling with an upper-case letter.
#[derive(Debug, Default)]
struct SpelledName {
    /// Spellings with an upper-case letter.
    spellings: BTreeSet<ServiceName>,
    /// Revision at which a spelling last lost its last instance.
    lost: Revision,
}

impl NameIndex {
    pub(super) fn add(&self, name: &ServiceName) {
        if let Cow::Owned(folded) = fold(name.as_str()) {
            self.0.write().entry(folded.into()).or_default().spellings.insert(name.clone());
        }
    }

    /// Forgets a spelling that has no instances any more. `is_present` tells whether a name has instances.
    pub(super) fn remove(&self, name: &ServiceName, revision: Revision, is_present: impl Fn(&str) -> bool) {
        let folded = fold(name.as_str());
        if !self.0.read().contains_key(&*folded) {
            return;
        }
        let others = *folded != *name.as_str() && is_present(&folded);
        let mut all = self.0.write();
        if let Some(found) = all.get_mut(&*folded) {
            found.spellings.remove(name);
            found.lost = revision;
            if found.spellings.is_empty() && !others {
                all.remove(&*folded);
            }
        }
    }

    /// Returns the spellings with an upper-case letter of a name in lower case, in order.
    pub(super) fn all(&self, folded: &str) -> Vec<ServiceName> {
        self.0.read().get(folded).map(|found| found.spellings.iter().cloned().collect()).unwrap_or_default()
    }

    /// Returns the revision at which a spelling of this name last lost its last instance, while others had some.
    pub(super) fn lost(&self, folded: &str) -> Revision {
        self.0.read().get(folded).map(|found| found.lost).unwrap_or_default()
    }
}

/// Returns a name in lower case. Borrowed: it is so already.
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

    /// Index of all spellings of `redis` that are present.
    fn index(registry: &Registry) -> u64 {
        let names = registry.spellings_of("reDIS");
        let present = names.iter().filter_map(|name| registry.summary(name)).map(|summary| summary.revision);
        present.max().unwrap_or_default().max(registry.spelling_lost("REdis")).0
    }

    proptest! {
        /// All spellings that have instances are found by any spelling, and their index rises with each change of them.
        #[test]
        fn spellings_are_found_together_and_their_index_never_falls(
            operations in prop::collection::vec((0..NAMES.len(), any::<bool>()), 1..60),
        ) {
            let engine = Memory::new(Incarnation(1), at(0), Arc::new(NoListener));
            let registry = engine.registry();
            let mut present = BTreeSet::new();
            for (lease, (number, comes)) in operations.into_iter().enumerate() {
                let (name, before) = (NAMES[number], index(registry));
                let changed = if comes {
                    let asked = register(name, "a", "boot", lease as u128);
                    engine.submit(Command::Register(asked), at(0)).unwrap();
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
                    prop_assert!(registry.spellings.0.read().is_empty(), "nothing is kept of names that are gone");
                } else if changed && name.eq_ignore_ascii_case("redis") {
                    prop_assert!(index(registry) > before);
                }
            }
        }
    }

    #[test]
    fn name_that_the_registry_keeps_for_itself_has_no_spellings() {
        let engine = Memory::new(Incarnation(1), at(0), Arc::new(NoListener));
        assert!(engine.registry().spellings_of("_nodes").is_empty());
    }
}
