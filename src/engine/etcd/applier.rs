//! Application of etcd's keys to the registry: the only code that changes the map of a replica.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
    time::Duration,
};

use super::{
    batch_note::{BatchNote, NotedCommand},
    instance_value::InstanceValue,
    keys::{KeySpace, RegistryKey},
    policy_value::PolicyValue,
    position::{CommitPosition, CommitSlot},
    registry_meta::RegistryMeta,
    replica_session::{ReplicaSession, SessionId},
    snapshot::KeySnapshot,
    stored_keys::StoredKeys,
};
use crate::{
    engine::{policy_log::log_policy_change, record::unknown_fields::UnknownFields},
    etcd::{EtcdChange, EtcdEntry, EtcdRevisionBatch},
    model::{Caller, InstanceId, PolicyScope, Revision, ServerActor, ServiceName, node_service},
    registry::{
        ClockReading, EndReason, Entry, Event, PolicyChange, PolicyOutcome, Registry, RemovalReason, SessionEpoch,
        StampedChange, WriteGuard,
    },
};

/// Number of instances that are read from the registry at a time.
const PAGE_INSTANCES: usize = 1_000;

/// Batch of etcd that the registry has applied.
#[derive(Debug, Default)]
pub struct AppliedBatch {
    /// Revision of etcd.
    pub etcd_revision: u64,
    /// Changed keys, with the entry that an instance has now and the revision of the change.
    pub changed: HashMap<RegistryKey, (Option<Arc<Entry>>, Revision)>,
    /// Outcome of a changed policy.
    pub policy: Option<PolicyOutcome>,
    /// Notes of batches.
    pub notes: Vec<AppliedNote>,
    /// Sessions that ended.
    pub ended_sessions: Vec<SessionEpoch>,
    /// True if this is the difference to a snapshot: a key may have changed several times, and not by the noted batch.
    pub is_snapshot: bool,
    /// New incarnation or removal of the registry: etcd's contents were replaced.
    pub other_registry: bool,
}

/// Note of a batch that the registry has applied.
#[derive(Debug, Clone, Copy)]
pub struct AppliedNote {
    /// Session that wrote the batch.
    pub session: SessionId,
    /// Lane of the batch.
    pub lane: u8,
    /// Number of the batch in its lane.
    pub sequence: u64,
    /// Revision of etcd of the batch.
    pub mod_revision: u64,
}

/// Call of the listener that is made once the lock is released.
#[derive(Debug)]
enum AppliedNotice {
    Event(Arc<Event>),
    Policy(PolicyChange),
    Holder(Arc<Entry>),
}

/// Applies keys to a registry.
#[derive(Debug)]
pub struct Applier {
    registry: Arc<Registry>,
    keys: KeySpace,
    meta: RegistryMeta,
    notices: Vec<AppliedNotice>,
    /// True once a foreign key was logged.
    is_foreign_logged: bool,
}

impl Applier {
    /// Creates an applier for the registry with this meta value.
    pub fn new(registry: Arc<Registry>, keys: KeySpace, meta: RegistryMeta) -> Self {
        Self { registry, keys, meta, notices: Vec::new(), is_foreign_logged: false }
    }

    /// Applies all changes of one revision of etcd.
    pub fn apply(&mut self, batch: EtcdRevisionBatch, stored: &mut StoredKeys, now: ClockReading) -> AppliedBatch {
        let mut applied = AppliedBatch { etcd_revision: batch.revision, ..AppliedBatch::default() };
        let changes: Vec<_> = batch.changes.into_iter().filter_map(|change| self.decode(change)).collect();
        let mut noted = HashMap::new();
        for (key, entry) in &changes {
            if let (RegistryKey::BatchNote(session, lane), Some(entry)) = (key, entry) {
                match BatchNote::decode(&entry.value) {
                    Ok(note) => {
                        applied.notes.push(applied_note(*session, *lane, &note, entry));
                        noted.extend(note.commands.into_iter().map(|command| (command.key.clone(), command)));
                    }
                    Err(error) => tracing::error!(%error, %key, "the note of a batch cannot be read"),
                }
            }
        }
        let forgotten = changes.iter().filter_map(|(key, entry)| match key {
            RegistryKey::Policy(scope) if entry.is_none() => Some(scope.clone()),
            _ => None,
        });
        let mut forgotten: Vec<_> = forgotten.collect();
        let registry = Arc::clone(&self.registry);
        let mut guard = registry.order();
        for (key, entry) in changes {
            match (&key, entry) {
                (RegistryKey::Instance(service, id), Some(entry)) => {
                    let change = ChangedInstance { service, id, key: &key, note: noted.get(&key) };
                    self.put_instance(&mut guard, change, &entry, stored, (&mut applied, now));
                }
                (RegistryKey::Instance(service, id), None) => {
                    stored.remove(&key);
                    let change = ChangedInstance { service, id, key: &key, note: noted.get(&key) };
                    self.remove_instance(&mut guard, change, (&mut applied, now));
                }
                (RegistryKey::Policy(scope), Some(entry)) => {
                    let forgotten = mem::take(&mut forgotten);
                    self.put_policy(&mut guard, (scope, &key), &entry, forgotten, stored, &mut applied);
                }
                (RegistryKey::Policy(_), None) => {
                    stored.remove(&key);
                    applied.changed.insert(key.clone(), (None, CommitPosition::complete(batch.revision)));
                }
                (RegistryKey::Session(id), Some(entry)) => begin_session(*id, &entry, stored),
                (RegistryKey::Session(id), None) => {
                    let at = Duration::from_micros(now.monotonic_us);
                    if let Some((epoch, session)) = stored.sessions.end(*id, at) {
                        tracing::info!(
                            replica = &*session.replica,
                            epoch = epoch.0,
                            "the session of a replica has ended"
                        );
                        applied.ended_sessions.push(epoch);
                    }
                }
                (RegistryKey::Meta, entry) => applied.other_registry |= !self.is_same_registry(entry.as_ref()),
                (RegistryKey::BatchNote(..) | RegistryKey::Expirations(_), _) => {}
            }
        }
        guard.advance(CommitPosition::complete(batch.revision));
        drop(guard);
        self.notify();
        applied
    }

    /// Restores the contents of etcd, before the first reader.
    pub fn restore(&mut self, snapshot: KeySnapshot, stored: &mut StoredKeys, now: ClockReading) {
        let decoded: Vec<_> = snapshot.entries.into_iter().filter_map(|entry| self.decode_entry(entry)).collect();
        for (key, entry) in &decoded {
            if let RegistryKey::Session(id) = key {
                begin_session(*id, entry, stored);
            }
        }
        let registry = Arc::clone(&self.registry);
        let mut guard = registry.order();
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
                RegistryKey::Meta
                | RegistryKey::Session(_)
                | RegistryKey::BatchNote(..)
                | RegistryKey::Expirations(_) => {}
            }
        }
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
        let mut applied = AppliedBatch { etcd_revision, is_snapshot, ..AppliedBatch::default() };
        let mut decoded: Vec<_> = snapshot.entries.into_iter().filter_map(|entry| self.decode_entry(entry)).collect();
        decoded.sort_by_key(|(_, entry)| entry.mod_revision);
        let known: HashSet<_> = decoded.iter().map(|(key, _)| key.clone()).collect();
        reconcile_sessions(&decoded, stored, &mut applied, now);
        let registry = Arc::clone(&self.registry);
        let gone = self.instances_outside(&known);
        let mut guard = registry.order();
        for (service, id) in gone {
            let key = RegistryKey::Instance(service.clone(), id.clone());
            stored.remove(&key);
            let change = ChangedInstance { service: &service, id: &id, key: &key, note: None };
            self.remove_instance(&mut guard, change, (&mut applied, now));
        }
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
                        self.put_policy(&mut guard, (scope, key), entry, Vec::new(), stored, &mut applied);
                    }
                }
                RegistryKey::BatchNote(session, lane) => {
                    if let Ok(note) = BatchNote::decode(&entry.value) {
                        applied.notes.push(applied_note(*session, *lane, &note, entry));
                    }
                }
                RegistryKey::Meta => applied.other_registry |= !self.is_same_registry(Some(entry)),
                RegistryKey::Session(_) | RegistryKey::Expirations(_) => {}
            }
        }
        applied.other_registry |= !known.contains(&RegistryKey::Meta);
        guard.advance(CommitPosition::complete(snapshot.revision));
        drop(guard);
        self.notify();
        applied
    }

    /// Returns the instances of the registry that are not among these keys.
    fn instances_outside(&self, keys: &HashSet<RegistryKey>) -> Vec<(ServiceName, InstanceId)> {
        let mut found = Vec::new();
        each_entry(&self.registry, |entry| {
            let (service, id) = (entry.instance.service.clone(), entry.instance.id.clone());
            if !keys.contains(&RegistryKey::Instance(service.clone(), id.clone())) {
                found.push((service, id));
            }
        });
        found
    }

    fn put_instance(
        &mut self,
        guard: &mut WriteGuard<'_>,
        change: ChangedInstance<'_>,
        entry: &EtcdEntry,
        stored: &mut StoredKeys,
        (applied, now): (&mut AppliedBatch, ClockReading),
    ) {
        let ChangedInstance { service, id, key, note } = change;
        let present = self.registry.get(service, id.as_str());
        let Some(value) = read_instance(service, id, key, entry, stored) else { return };
        let position = value.position.revision();
        if present.as_ref().is_some_and(|present| present.modified >= position) {
            applied.changed.insert(key.clone(), (present, position));
            return;
        }
        let instance = value.stored.instance.clone();
        let diff = present.as_ref().map(|present| present.instance.diff(&instance));
        let known = present.as_ref().and_then(|present| present.lease.as_ref());
        let terms = value.stored.lease.and_then(|lease| {
            let is_changed = known.is_some_and(|known| known.id == lease.id && known.terms() != lease.terms);
            is_changed.then_some(lease.terms)
        });
        let stamped = StampedChange::Put {
            lease: value.stored.restore_lease(now.lease),
            end_reason: note.and_then(|note| note.lease_end).unwrap_or(EndReason::Superseded),
            terms,
            visible: diff.is_none_or(crate::model::InstanceDiff::is_visible),
            holder: value.holder.epoch,
            instance,
        };
        let is_other_holder = present.as_ref().is_none_or(|present| present.holder != value.holder.epoch);
        // After a snapshot, the changes of others may have later revisions.
        let revision = position.max(self.registry.applied().next());
        let (after, event) = guard.apply(stamped, present, revision, now, &caller_of(note));
        // The holder learns of changes that readers do not see, too.
        if let Some(after) = after.as_ref().filter(|_| is_other_holder || event.is_none()) {
            self.notices.push(AppliedNotice::Holder(Arc::clone(after)));
        }
        self.notices.extend(event.map(AppliedNotice::Event));
        applied.changed.insert(key.clone(), (after, revision));
    }

    fn remove_instance(
        &mut self,
        guard: &mut WriteGuard<'_>,
        change: ChangedInstance<'_>,
        (applied, now): (&mut AppliedBatch, ClockReading),
    ) {
        let ChangedInstance { service, id, key, note } = change;
        let next = self.registry.applied().next();
        let slot = note.map_or(CommitSlot::FIRST, |note| note.slot);
        let position = CommitPosition::new(applied.etcd_revision, slot).ok().filter(|_| note.is_some());
        let revision = position.map_or(next, |position| position.revision().max(next));
        let Some(present) = self.registry.get(service, id.as_str()) else {
            applied.changed.insert(key.clone(), (None, revision));
            return;
        };
        let reason = note.and_then(|note| note.removal).unwrap_or(RemovalReason::Deregistered);
        let end_reason = note.and_then(|note| note.lease_end).unwrap_or(EndReason::Removed);
        let stamped = StampedChange::Remove { reason, end_reason };
        let (_, event) = guard.apply(stamped, Some(present), revision, now, &caller_of(note));
        self.notices.extend(event.map(AppliedNotice::Event));
        applied.changed.insert(key.clone(), (None, revision));
    }

    fn put_policy(
        &mut self,
        guard: &mut WriteGuard<'_>,
        (scope, key): (&PolicyScope, &RegistryKey),
        entry: &EtcdEntry,
        forgotten: Vec<PolicyScope>,
        stored: &mut StoredKeys,
        applied: &mut AppliedBatch,
    ) {
        let Some(value) = read_policy(scope, key, entry, stored) else { return };
        let change = PolicyChange { scope: scope.clone(), revisions: value.stored.revisions, forgotten };
        guard.apply_policy(&change);
        applied.changed.insert(key.clone(), (None, value.position.revision()));
        applied.policy = Some(change.clone().into_outcome());
        self.notices.push(AppliedNotice::Policy(change));
    }

    fn notify(&mut self) {
        for notice in mem::take(&mut self.notices) {
            match notice {
                AppliedNotice::Event(event) => self.registry.notify(&event),
                AppliedNotice::Policy(change) => {
                    self.registry.notify_policy(&change);
                    log_policy_change(&change);
                }
                AppliedNotice::Holder(entry) => self.registry.notify_holder(&entry),
            }
        }
    }

    fn is_same_registry(&self, entry: Option<&EtcdEntry>) -> bool {
        entry.is_some_and(|entry| RegistryMeta::decode(&entry.value).is_ok_and(|meta| meta == self.meta))
    }

    fn decode(&mut self, change: EtcdChange) -> Option<(RegistryKey, Option<EtcdEntry>)> {
        match change {
            EtcdChange::Put(entry) => self.decode_entry(entry).map(|(key, entry)| (key, Some(entry))),
            EtcdChange::Delete { key } => self.decode_key(&key).map(|key| (key, None)),
        }
    }

    fn decode_entry(&mut self, entry: EtcdEntry) -> Option<(RegistryKey, EtcdEntry)> {
        self.decode_key(&entry.key).map(|key| (key, entry))
    }

    fn decode_key(&mut self, key: &[u8]) -> Option<RegistryKey> {
        match self.keys.decode(key) {
            Ok(key) => Some(key),
            Err(error) => {
                if !mem::replace(&mut self.is_foreign_logged, true) {
                    tracing::warn!(%error, "a key in etcd is ignored; further ones are not logged");
                }
                None
            }
        }
    }
}

/// Instance whose key changed.
#[derive(Debug, Clone, Copy)]
struct ChangedInstance<'a> {
    service: &'a ServiceName,
    id: &'a InstanceId,
    key: &'a RegistryKey,
    note: Option<&'a NotedCommand>,
}

/// Calls a function with each entry of the registry, nodes included.
pub fn each_entry(registry: &Registry, mut visit: impl FnMut(&Arc<Entry>)) {
    let services = registry.each_service().map(|summary| summary.name).chain([node_service()]);
    for service in services {
        let mut after = String::new();
        loop {
            let page = registry.page(&service, &after, PAGE_INSTANCES);
            let Some(last) = page.last() else { break };
            last.instance.id.as_str().clone_into(&mut after);
            page.iter().for_each(&mut visit);
        }
    }
}

fn applied_note(session: SessionId, lane: u8, note: &BatchNote, entry: &EtcdEntry) -> AppliedNote {
    AppliedNote { session, lane, sequence: note.sequence, mod_revision: entry.mod_revision }
}

/// Originator of a change. A key that was changed by hand has no note.
fn caller_of(note: Option<&NotedCommand>) -> Arc<Caller> {
    let caller = note.and_then(|note| note.caller.as_ref());
    Arc::clone(caller.unwrap_or_else(|| ServerActor::Recovery.caller()))
}

/// Ends the sessions that are no longer in etcd, and adds the new ones.
fn reconcile_sessions(
    decoded: &[(RegistryKey, EtcdEntry)],
    stored: &mut StoredKeys,
    applied: &mut AppliedBatch,
    now: ClockReading,
) {
    let mut live = HashSet::new();
    for (key, entry) in decoded {
        if let RegistryKey::Session(id) = key {
            live.insert(*id);
            begin_session(*id, entry, stored);
        }
    }
    for id in stored.sessions.live_ids() {
        if !live.contains(&id) {
            let at = Duration::from_micros(now.monotonic_us);
            applied.ended_sessions.extend(stored.sessions.end(id, at).map(|(epoch, _)| epoch));
        }
    }
}

fn begin_session(id: SessionId, entry: &EtcdEntry, stored: &mut StoredKeys) {
    match ReplicaSession::decode(&entry.value) {
        Ok(session) => stored.sessions.begin(id, SessionEpoch(entry.create_revision), session),
        Err(error) => tracing::error!(%error, %id, "the session of a replica cannot be read"),
    }
}

/// Reads the value of an instance, and keeps what the registry does not.
fn read_instance(
    service: &ServiceName,
    id: &InstanceId,
    key: &RegistryKey,
    entry: &EtcdEntry,
    stored: &mut StoredKeys,
) -> Option<InstanceValue> {
    match InstanceValue::decode(service, id, &entry.value, entry.mod_revision) {
        Ok(value) => {
            stored.keep(key, entry.mod_revision, value.unknown.clone(), true);
            Some(value)
        }
        Err(error) => {
            stored.keep(key, entry.mod_revision, UnknownFields::default(), false);
            tracing::error!(
                %error,
                "the value of {key} cannot be used: the registry goes on without it; register the instance again, or run a version that can read it"
            );
            None
        }
    }
}

fn read_policy(
    scope: &PolicyScope,
    key: &RegistryKey,
    entry: &EtcdEntry,
    stored: &mut StoredKeys,
) -> Option<PolicyValue> {
    match PolicyValue::decode(scope, &entry.value, entry.mod_revision) {
        Ok(value) => {
            stored.keep(key, entry.mod_revision, value.unknown.clone(), true);
            stored.forget_policies(value.forgotten);
            Some(value)
        }
        Err(error) => {
            stored.keep(key, entry.mod_revision, UnknownFields::default(), false);
            tracing::error!(
                %error,
                "the value of {key} cannot be used: the registry goes on without it; set the policy again, or run a version that can read it"
            );
            None
        }
    }
}
