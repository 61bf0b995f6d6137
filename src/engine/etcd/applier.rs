//! Application of etcd's keys to the registry: the only code that changes the map of a replica.

mod reading;
mod reconcile;

use std::{collections::HashMap, mem, sync::Arc};

use super::{
    batch_note::NotedCommand,
    keys::{KeySpace, RegistryKey},
    position::{CommitPosition, CommitSlot},
    registry_meta::RegistryMeta,
    release_request::ReleaseRequest,
    replica_session::{ReplicaSession, SessionId},
    stored_keys::StoredKeys,
};
use crate::{
    engine::policy_log::log_policy_change,
    etcd::{EtcdChange, EtcdEntry, EtcdRevisionBatch},
    model::{InstanceId, PolicyScope, Revision, ServiceName},
    registry::{
        ClockReading, EndReason, Entry, Event, PolicyChange, PolicyOutcome, Registry, RemovalReason, SessionEpoch,
        StampedChange, WriteGuard,
    },
};
use reading::{caller_of, end_session, read_expirations, read_instance, read_notes, read_policy, read_release_request};

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
    /// Requests of sessions to release instances.
    pub release_requests: Vec<(SessionEpoch, ReleaseRequest)>,
    /// Sessions that ended.
    pub ended_sessions: Vec<SessionEpoch>,
    /// True if this is the difference to a snapshot: a key may have changed several times, last by another batch
    /// than the noted one.
    pub is_snapshot: bool,
    /// True if the snapshot is of another incarnation: instances that it lacks are not removed, but lost.
    pub is_reset: bool,
    /// True if the registry has another incarnation, was removed, or went back: etcd's contents were replaced.
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
        let noted = read_notes(&changes, &mut applied);
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
                (RegistryKey::Session(id), Some(entry)) => self.begin_session(&mut guard, *id, &entry, stored),
                (RegistryKey::Session(id), None) => {
                    applied.ended_sessions.extend(end_session(*id, stored));
                }
                (RegistryKey::Meta, entry) => applied.other_registry |= !self.is_same_registry(entry.as_ref()),
                (RegistryKey::ReleaseRequest(session), Some(entry)) => {
                    applied.release_requests.extend(read_release_request(*session, &key, &entry, stored));
                }
                (RegistryKey::Expirations(service), Some(entry)) => {
                    // The removals themselves are counted.
                    read_expirations(service, &entry, stored);
                }
                (RegistryKey::Expirations(service), None) => stored.remove_expirations(service),
                (RegistryKey::BatchNote(session, lane), entry) => {
                    stored.keep_note(*session, *lane, entry.map(|entry| entry.mod_revision));
                }
                (RegistryKey::ReleaseRequest(_), None) => {}
            }
        }
        guard.advance(CommitPosition::complete(batch.revision));
        drop(guard);
        self.notify();
        applied
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
        let known_revision = stored.guard(key, present.as_deref());
        let Some(value) = read_instance(service, id, key, entry, stored) else {
            if present.is_some() {
                // The entry before may no longer be right: its lease could remove what another version has written.
                self.remove_instance(guard, ChangedInstance { note: None, ..change }, (applied, now));
            }
            return;
        };
        let position = value.position.revision();
        if let Some(known) = &present
            && known_revision == entry.mod_revision
        {
            stored.keep_revision(key, entry.mod_revision, known.modified);
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
        stored.keep_revision(key, entry.mod_revision, revision);
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
        // A program whose instance is lost registers again.
        let end_reason = if applied.is_reset { EndReason::Expired } else { EndReason::Removed };
        let end_reason = note.and_then(|note| note.lease_end).unwrap_or(end_reason);
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

    /// Adds a session. Its replica knows all changes since the session began, and perhaps none before.
    fn begin_session(&self, guard: &mut WriteGuard<'_>, id: SessionId, entry: &EtcdEntry, stored: &mut StoredKeys) {
        guard.raise_index_floor(CommitPosition::complete(self.meta.with_offset(entry.create_revision)));
        match ReplicaSession::decode(&entry.value) {
            Ok(session) => stored.sessions.begin(id, SessionEpoch(entry.create_revision), session),
            Err(error) => tracing::error!(%error, %id, "the session of a replica cannot be read"),
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
