//! Comparison of the registry with the keys of etcd at one revision.
//!
//! The watch keeps both equal. The comparison finds what a defect of this program, of etcd or of the memory has changed. It needs only
//! the keys and the revisions of their last changes, reads them page by page, and takes into account what the watch shows meanwhile.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use super::{keys::RegistryKey, stored_keys::StoredKeys};
use crate::registry::{Entry, Registry};

/// Maximum number of different keys that are named.
const MAX_NAMED: usize = 10;

/// Comparison at a revision of etcd that the registry had applied when it began. Revisions have the offset of the incarnation.
#[derive(Debug)]
pub struct Comparison {
    revision: u64,
    hasher: RandomState,
    /// Hashes of the keys that etcd has. A hash has fewer bytes than a key; two keys with one hash could only hide a difference.
    seen: HashSet<u64>,
    /// Hashes of the keys that were removed since the comparison began.
    removed: HashSet<u64>,
    differences: usize,
    /// Some of the different keys.
    named: Vec<RegistryKey>,
}

impl Comparison {
    /// Begins a comparison at this revision.
    pub fn new(revision: u64) -> Self {
        let (seen, removed) = (HashSet::new(), HashSet::new());
        Self { revision, hasher: RandomState::new(), seen, removed, differences: 0, named: Vec::new() }
    }

    /// Takes note that the registry has removed a key.
    pub fn removed(&mut self, key: &RegistryKey) {
        self.removed.insert(self.hasher.hash_one(key));
    }

    /// Compares a key that etcd has, and the revision of its last change.
    pub fn compare(&mut self, key: &RegistryKey, mod_revision: u64, registry: &Registry, stored: &StoredKeys) {
        let present = match key {
            RegistryKey::Instance(service, id) => registry.get(service, id.as_str()),
            RegistryKey::Policy(_) => None,
            RegistryKey::Meta
            | RegistryKey::Session(_)
            | RegistryKey::BatchNote(..)
            | RegistryKey::ReleaseRequest(_)
            | RegistryKey::Expirations(_) => return,
        };
        let hash = self.hasher.hash_one(key);
        self.seen.insert(hash);
        let known = stored.guard(key, present.as_deref());
        let changed_since = known > self.revision || self.removed.contains(&hash);
        if known != mod_revision && !changed_since {
            self.differ(key.clone());
        }
    }

    /// Looks for keys that only the registry has. Returns the number of differences, and some of the keys.
    pub fn finish(mut self, registry: &Registry, stored: &StoredKeys) -> (usize, Vec<RegistryKey>) {
        let kept: Vec<_> = stored.kept_keys().map(|(key, revision)| (key.clone(), revision)).collect();
        for (key, revision) in kept {
            self.expect(key, revision);
        }
        registry.for_each_entry(|entry: &Arc<Entry>| {
            let key = RegistryKey::Instance(entry.instance.service.clone(), entry.instance.id.clone());
            let revision = stored.guard(&key, Some(entry));
            self.expect(key, revision);
        });
        (self.differences, self.named)
    }

    /// Checks that etcd has a key which the registry has since a revision.
    fn expect(&mut self, key: RegistryKey, revision: u64) {
        if revision <= self.revision && self.seen.insert(self.hasher.hash_one(&key)) {
            self.differ(key);
        }
    }

    fn differ(&mut self, key: RegistryKey) {
        self.differences += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::etcd::{
            CommitPosition, CommitSlot, InstanceValue, KeySpace, RegistryMeta, SessionHolder, applier::Applier,
            snapshot::KeySnapshot,
        },
        engine::record::unknown_fields::UnknownFields,
        etcd::EtcdEntry,
        model::{Incarnation, Revision, ServerActor},
        registry::{
            EndReason, RemovalReason, SessionEpoch, StampedChange,
            test_support::{NoListener, at, entry, id, name},
        },
    };

    const META: RegistryMeta = RegistryMeta { incarnation: Incarnation(1), revision_offset: 0 };
    const REVISION: u64 = 10;

    fn keys() -> KeySpace {
        KeySpace::new("default")
    }

    fn stored_entry(key: &RegistryKey, value: Vec<u8>, revision: u64) -> EtcdEntry {
        let key = keys().encode(key).into_bytes();
        EtcdEntry { key, value, create_revision: revision, mod_revision: revision, lease: None }
    }

    /// Three instances that were registered at revisions 5 to 7.
    fn snapshot() -> KeySnapshot {
        let holder = SessionHolder { epoch: SessionEpoch(2), replica: "r".into() };
        let instances = ["a", "b", "c"].into_iter().zip(5..).map(|(id_text, revision)| {
            let instance = &entry("web", id_text, 1).instance;
            let value = InstanceValue::encode(instance, None, &holder, CommitSlot::FIRST, &UnknownFields::default());
            stored_entry(&RegistryKey::Instance(name("web"), id(id_text)), value, revision)
        });
        let entries = [stored_entry(&RegistryKey::Meta, META.encode(), 1)].into_iter().chain(instances).collect();
        KeySnapshot { revision: REVISION, entries }
    }

    /// An instance that the snapshot does not have.
    fn unknown(modified: Revision) -> Entry {
        Entry { modified, ..Entry::new(entry("web", "d", 1).instance.clone(), None) }
    }

    fn compare(registry: &Registry, stored: &StoredKeys) -> (usize, Vec<RegistryKey>) {
        let mut comparison = Comparison::new(REVISION);
        for EtcdEntry { key, mod_revision, .. } in snapshot().entries {
            comparison.compare(&keys().decode(&key).unwrap(), mod_revision, registry, stored);
        }
        comparison.finish(registry, stored)
    }

    #[test]
    fn registry_that_differs_from_etcd_is_found_and_repaired() {
        let start = CommitPosition::complete(REVISION);
        let registry = Arc::new(Registry::new(META.incarnation, start, at(0), Arc::new(NoListener)));
        let (mut applier, mut stored) = (Applier::new(Arc::clone(&registry), keys(), META), StoredKeys::default());
        applier.restore(snapshot(), &mut stored, at(0));
        assert_eq!(compare(&registry, &stored), (0, vec![]));
        // A removal that etcd does not have, and an instance.
        let (web, caller) = (name("web"), ServerActor::InProcess.caller());
        let removal = StampedChange::Remove { reason: RemovalReason::Expired, end_reason: EndReason::Expired };
        let mut guard = registry.order();
        guard.apply(removal, registry.get(&web, "a"), registry.applied().next(), at(0), caller);
        guard.restore(unknown(CommitPosition::complete(3)));
        drop(guard);
        let (differences, named) = compare(&registry, &stored);
        let mut named: Vec<_> = named.iter().map(RegistryKey::to_string).collect();
        named.sort();
        assert_eq!((differences, named), (2, vec!["i/web/a".to_owned(), "i/web/d".to_owned()]));
        let difference = applier.reconcile(KeySnapshot { revision: REVISION + 2, ..snapshot() }, &mut stored, at(0));
        assert!(!difference.other_registry);
        assert_eq!(compare(&registry, &stored), (0, vec![]));
        assert!(registry.get(&web, "a").is_some() && registry.get(&web, "d").is_none());
        let a = registry.get(&web, "a");
        let key = RegistryKey::Instance(web, id("a"));
        assert_eq!(stored.guard(&key, a.as_deref()), 5, "later changes compare the revision that etcd has");
    }

    #[test]
    fn changes_after_the_compared_revision_are_no_differences() {
        let start = CommitPosition::complete(REVISION);
        let registry = Arc::new(Registry::new(META.incarnation, start, at(0), Arc::new(NoListener)));
        let (mut applier, mut stored) = (Applier::new(Arc::clone(&registry), keys(), META), StoredKeys::default());
        applier.restore(snapshot(), &mut stored, at(0));
        let mut comparison = Comparison::new(REVISION);
        let removal = StampedChange::Remove { reason: RemovalReason::Expired, end_reason: EndReason::Expired };
        let (web, caller) = (name("web"), ServerActor::InProcess.caller());
        let mut guard = registry.order();
        guard.apply(removal, registry.get(&web, "a"), CommitPosition::complete(11), at(0), caller);
        guard.restore(unknown(CommitPosition::complete(12)));
        drop(guard);
        comparison.removed(&RegistryKey::Instance(web, id("a")));
        for EtcdEntry { key, mod_revision, .. } in snapshot().entries {
            comparison.compare(&keys().decode(&key).unwrap(), mod_revision, &registry, &stored);
        }
        assert_eq!(comparison.finish(&registry, &stored), (0, vec![]));
    }
}
