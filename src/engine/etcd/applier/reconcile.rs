//! Application of all keys at once: at the start of a replica, and as a difference.

use std::{collections::HashSet, mem, sync::Arc};

use super::{
    AppliedBatch, Applier, ChangedInstance,
    reading::{applied_note, read_expirations, read_instance, read_policy},
};
use crate::{
    engine::etcd::{
        batch_note::BatchNote, keys::RegistryKey, position::CommitPosition, registry_meta::RegistryMeta,
        snapshot::KeySnapshot, stored_keys::StoredKeys,
    },
    etcd::EtcdEntry,
    model::{InstanceId, PolicyScope, ServiceName},
    registry::{ClockReading, Entry, WriteGuard},
};

impl Applier {
    /// Restores the contents of etcd, before the first reader.
    pub fn restore(&mut self, snapshot: KeySnapshot, stored: &mut StoredKeys, now: ClockReading) {
        let decoded: Vec<_> = snapshot.entries.into_iter().filter_map(|entry| self.decode_entry(entry)).collect();
        let registry = Arc::clone(&self.registry);
        let mut guard = registry.order();
        for (key, entry) in &decoded {
            if let RegistryKey::Session(id) = key {
                self.begin_session(&mut guard, *id, entry, stored);
            }
        }
        let mut policies = Vec::new();
        for (key, entry) in &decoded {
            match key {
                RegistryKey::Instance(service, id) => {
                    let Some(value) = read_instance(service, id, key, entry, stored) else { continue };
                    let lease = value.stored.restore_lease(now.lease);
                    let (modified, holder) = (value.position.revision(), value.holder.epoch);
                    guard.restore(Entry { instance: value.stored.instance, lease, modified, holder });
                }
                RegistryKey::Policy(scope) => policies.extend(read_policy(scope, key, entry, stored)),
                RegistryKey::BatchNote(session, lane) => {
                    stored.keep_note(*session, *lane, Some(entry.mod_revision));
                }
                RegistryKey::Meta
                | RegistryKey::Session(_)
                | RegistryKey::ReleaseRequest(_)
                | RegistryKey::Expirations(_) => {}
            }
        }
        count_expirations(&decoded, stored, &mut guard, now);
        if let Some(forgotten) = stored.forgotten_policies() {
            guard.restore_forgotten_policies(forgotten);
        }
        for policy in &policies {
            guard.restore_policy(&policy.stored.scope, &policy.stored.revisions, policy.stored.unknown_until());
        }
    }

    /// Changes the registry to the contents of a later snapshot, and emits the differences as events: removals first, then the rest in
    /// the order of their revisions. Every event has a revision of its own, because etcd has used up at least one for each of them.
    pub fn reconcile(&mut self, snapshot: KeySnapshot, stored: &mut StoredKeys, now: ClockReading) -> AppliedBatch {
        let (etcd_revision, is_snapshot) = (snapshot.revision, true);
        let applied = AppliedBatch { etcd_revision, is_snapshot, ..AppliedBatch::default() };
        self.apply_difference(snapshot, applied, stored, now)
    }

    /// Changes the registry to the contents of another incarnation, as [`Self::reconcile`] does. What was known of keys is forgotten.
    pub fn replace(
        &mut self,
        meta: RegistryMeta,
        snapshot: KeySnapshot,
        stored: &mut StoredKeys,
        now: ClockReading,
    ) -> AppliedBatch {
        self.meta = meta;
        stored.clear();
        let (etcd_revision, is_snapshot, is_reset) = (snapshot.revision, true, true);
        let applied = AppliedBatch { etcd_revision, is_snapshot, is_reset, ..AppliedBatch::default() };
        self.apply_difference(snapshot, applied, stored, now)
    }

    fn apply_difference(
        &mut self,
        snapshot: KeySnapshot,
        mut applied: AppliedBatch,
        stored: &mut StoredKeys,
        now: ClockReading,
    ) -> AppliedBatch {
        let mut decoded: Vec<_> = snapshot.entries.into_iter().filter_map(|entry| self.decode_entry(entry)).collect();
        decoded.sort_by_key(|(_, entry)| entry.mod_revision);
        let known: HashSet<_> = decoded.iter().map(|(key, _)| key.clone()).collect();
        if !applied.is_reset && self.is_other_history(&decoded, stored) {
            applied.other_registry = true;
            return applied;
        }
        let registry = Arc::clone(&self.registry);
        let gone = self.instances_outside(&known);
        let mut guard = registry.order();
        self.reconcile_sessions(&mut guard, &decoded, stored, &mut applied);
        guard.raise_index_floor(CommitPosition::complete(snapshot.revision));
        if applied.is_reset {
            // Before the removals: readers with an index of the earlier incarnation do not see them until the registry has settled.
            guard.set_start_revision(CommitPosition::complete(self.meta.revision_offset));
        }
        for (service, id) in gone {
            let key = RegistryKey::Instance(service.clone(), id.clone());
            stored.remove(&key);
            let change = ChangedInstance { service: &service, id: &id, key: &key, note: None };
            self.remove_instance(&mut guard, change, (&mut applied, now));
        }
        if applied.is_reset {
            self.begin_revisions(&mut guard, &known);
        }
        // Policies are forgotten when another one changes.
        let mut forgotten = forget_policies_outside(&known, stored);
        for (key, entry) in &decoded {
            match key {
                RegistryKey::Instance(service, id) => {
                    let change = ChangedInstance { service, id, key, note: None };
                    self.put_instance(&mut guard, change, entry, stored, (&mut applied, now));
                }
                RegistryKey::Policy(scope) => {
                    let is_known = registry
                        .policies()
                        .newest(scope)
                        .is_some_and(|newest| CommitPosition::etcd_revision_of(newest.revision) == entry.mod_revision);
                    if !is_known {
                        let forgotten = mem::take(&mut forgotten);
                        self.put_policy(&mut guard, (scope, key), entry, forgotten, stored, &mut applied);
                    }
                }
                RegistryKey::BatchNote(session, lane) => {
                    stored.keep_note(*session, *lane, Some(entry.mod_revision));
                    if let Ok(note) = BatchNote::decode(&entry.value) {
                        applied.notes.push(applied_note(*session, *lane, &note, entry));
                    }
                }
                RegistryKey::Meta
                | RegistryKey::Session(_)
                | RegistryKey::ReleaseRequest(_)
                | RegistryKey::Expirations(_) => {}
            }
        }
        forget_expirations_outside(&known, stored);
        count_expirations(&decoded, stored, &mut guard, now);
        guard.advance(CommitPosition::complete(snapshot.revision));
        drop(guard);
        self.notify();
        applied
    }

    /// Begins the revisions of another incarnation, and forgets all policies if some of them are not among these keys.
    fn begin_revisions(&self, guard: &mut WriteGuard<'_>, keys: &HashSet<RegistryKey>) {
        let start = CommitPosition::complete(self.meta.revision_offset);
        let mut scopes = self.registry.policies().page(None, usize::MAX).into_iter();
        if scopes.any(|(scope, _)| !keys.contains(&RegistryKey::Policy(scope))) {
            guard.forget_all_policies(start);
        }
        guard.advance(start);
    }

    /// Returns whether a snapshot is not of the history that this replica knows: of another incarnation, or older.
    fn is_other_history(&self, decoded: &[(RegistryKey, EtcdEntry)], stored: &StoredKeys) -> bool {
        let meta = decoded.iter().find(|(key, _)| *key == RegistryKey::Meta);
        let went_back = |(key, entry): &(RegistryKey, EtcdEntry)| match key {
            RegistryKey::Instance(service, id) => {
                let present = self.registry.get(service, id.as_str());
                stored.guard(key, present.as_deref()) > entry.mod_revision
            }
            RegistryKey::Policy(_) => stored.guard(key, None) > entry.mod_revision,
            RegistryKey::BatchNote(session, lane) => stored.note_revision(*session, *lane) > entry.mod_revision,
            RegistryKey::Meta
            | RegistryKey::Session(_)
            | RegistryKey::ReleaseRequest(_)
            | RegistryKey::Expirations(_) => false,
        };
        !self.is_same_registry(meta.map(|(_, entry)| entry)) || decoded.iter().any(went_back)
    }

    /// Returns the instances of the registry that are not among these keys.
    fn instances_outside(&self, keys: &HashSet<RegistryKey>) -> Vec<(ServiceName, InstanceId)> {
        let mut found = Vec::new();
        self.registry.for_each_entry(|entry| {
            let (service, id) = (entry.instance.service.clone(), entry.instance.id.clone());
            if !keys.contains(&RegistryKey::Instance(service.clone(), id.clone())) {
                found.push((service, id));
            }
        });
        found
    }

    /// Ends the sessions that are no longer in etcd, and adds the new ones.
    fn reconcile_sessions(
        &self,
        guard: &mut WriteGuard<'_>,
        decoded: &[(RegistryKey, EtcdEntry)],
        stored: &mut StoredKeys,
        applied: &mut AppliedBatch,
    ) {
        let mut live = HashSet::new();
        for (key, entry) in decoded {
            if let RegistryKey::Session(id) = key {
                live.insert(*id);
                self.begin_session(guard, *id, entry, stored);
            }
        }
        for id in stored.sessions.live_ids() {
            if !live.contains(&id) {
                applied.ended_sessions.extend(stored.sessions.end(id).map(|(epoch, _)| epoch));
            }
        }
    }
}

/// Forgets the known policies that are not among these keys, and returns their scopes.
fn forget_policies_outside(keys: &HashSet<RegistryKey>, stored: &mut StoredKeys) -> Vec<PolicyScope> {
    let scope_of = |(key, _): (&RegistryKey, u64)| match key {
        RegistryKey::Policy(scope) if !keys.contains(key) => Some(scope.clone()),
        _ => None,
    };
    let gone: Vec<_> = stored.kept_keys().filter_map(scope_of).collect();
    for scope in &gone {
        stored.remove(&RegistryKey::Policy(scope.clone()));
    }
    gone
}

/// Forgets the counted expirations of services that are not among these keys.
fn forget_expirations_outside(keys: &HashSet<RegistryKey>, stored: &mut StoredKeys) {
    let services: Vec<_> = stored.expired_services().map(|(service, _)| service.clone()).collect();
    for service in services.into_iter().filter(|gone| !keys.contains(&RegistryKey::Expirations(gone.clone()))) {
        stored.remove_expirations(&service);
    }
}

/// Counts expirations that this replica did not see as recent ones of their services.
fn count_expirations(
    decoded: &[(RegistryKey, EtcdEntry)],
    stored: &mut StoredKeys,
    guard: &mut WriteGuard<'_>,
    now: ClockReading,
) {
    for (key, entry) in decoded {
        if let RegistryKey::Expirations(service) = key
            && let Some((window, new)) = read_expirations(service, entry, stored)
        {
            guard.restore_expirations(service, new, window.age(now.wall), now);
        }
    }
}
