//! Batch: changes of several requests, in one transaction of etcd.
//!
//! The transaction compares that the session of this replica exists and that the note of its lane is the one that the watch has shown
//! last, so that a batch whose reply was lost is not applied twice. Each request has a nested transaction with comparisons of its own: if
//! another replica has changed one of its keys, only that request is decided again.

use std::time::Duration;

use super::{
    batch_note::BatchNote,
    decision::{KeyChange, RequestDecision},
    keys::{KeySpace, RegistryKey},
    own_session::OwnSession,
    registry_meta::RegistryMeta,
};
use crate::{
    engine::write_request::WriteRequest,
    etcd::{EtcdCompare, EtcdOperation, EtcdRange, EtcdTransaction},
    model::{PolicyScope, ServiceName},
    registry::CommandOutcome,
};

/// Request in the queue.
#[derive(Debug)]
pub struct QueuedRequest {
    /// Request.
    pub request: WriteRequest,
    /// Outcomes of the commands that belong together and are done.
    pub done: Vec<CommandOutcome>,
    /// Time at which it arrived, since the start of the process.
    pub since: Duration,
    /// True if it needs a batch of its own, because etcd rejected one with others.
    pub is_alone: bool,
    /// True if this replica had all changes when the request was put into the queue again.
    pub is_confirmed: bool,
}

/// Request of a batch, and the decision about it.
#[derive(Debug)]
pub struct InFlightRequest {
    /// Request.
    pub queued: QueuedRequest,
    /// Decision.
    pub decision: RequestDecision,
}

/// Change of the counted expirations of a service.
#[derive(Debug)]
pub struct ExpirationChange {
    /// Service.
    pub service: ServiceName,
    /// Revision of etcd at which the expirations were last counted; 0 if they were not.
    pub guard: u64,
    /// New value.
    pub value: Vec<u8>,
}

/// Batch that was sent.
#[derive(Debug)]
pub struct Batch {
    /// Number of the batch in its lane.
    pub sequence: u64,
    /// Time of the first attempt to send it, since the start of the process.
    pub since: Duration,
    /// Requests.
    pub requests: Vec<InFlightRequest>,
    /// Changes of the counted expirations. Each expiration compares the earlier value, too.
    pub expirations: Vec<ExpirationChange>,
}

/// Sequence of batches of a session, of which at most one is in flight.
#[derive(Debug, Default)]
pub struct Lane {
    /// Sequence number of the last batch.
    pub sequence: u64,
    /// Revision of etcd of the note that the watch showed last.
    pub note_revision: u64,
    /// Batch that was sent last, until its outcome is known.
    pub in_flight: Option<Batch>,
}

impl Lane {
    /// Returns the transaction of the batch in flight. `number`: number of the lane.
    pub fn transaction(
        &self,
        number: usize,
        keys: &KeySpace,
        meta: RegistryMeta,
        session: &OwnSession,
    ) -> Option<EtcdTransaction> {
        let batch = self.in_flight.as_ref()?;
        let number = u8::try_from(number).unwrap_or(u8::MAX);
        let note_key = keys.encode(&RegistryKey::BatchNote(session.id, number));
        let changes = batch.requests.iter().flat_map(|request| &request.decision.changes);
        let note =
            BatchNote { sequence: batch.sequence, commands: changes.map(|change| change.note.clone()).collect() };
        let put_note = EtcdOperation::put_with_lease(note_key.clone(), note.encode(), session.lease);
        let nested = batch.requests.iter().map(|request| EtcdOperation::Nested(nested(&request.decision, keys, meta)));
        let counts = batch.expirations.iter().map(|change| EtcdOperation::Nested(count(change, keys, meta)));
        Some(EtcdTransaction {
            compares: vec![
                EtcdCompare::create_revision(session.key.clone(), session.epoch.0),
                EtcdCompare::mod_revision(note_key, meta.without_offset(self.note_revision)),
            ],
            success: [put_note].into_iter().chain(nested).chain(counts).collect(),
            failure: vec![EtcdOperation::Range(EtcdRange::key(session.key.clone()))],
        })
    }
}

fn count(change: &ExpirationChange, keys: &KeySpace, meta: RegistryMeta) -> EtcdTransaction {
    let key = keys.encode(&RegistryKey::Expirations(change.service.clone()));
    EtcdTransaction {
        compares: vec![EtcdCompare::mod_revision(key.clone(), meta.without_offset(change.guard))],
        success: vec![EtcdOperation::put(key, change.value.clone())],
        failure: vec![],
    }
}

fn nested(decision: &RequestDecision, keys: &KeySpace, meta: RegistryMeta) -> EtcdTransaction {
    let guard_of = |key: &RegistryKey, guard| EtcdCompare::mod_revision(keys.encode(key), meta.without_offset(guard));
    let compare = |(key, guard): &(RegistryKey, u64)| guard_of(key, *guard);
    let all_policies = keys.encode(&RegistryKey::Policy(PolicyScope::Defaults));
    let policies =
        decision.newest_policy.map(|newest| EtcdCompare::unchanged_since(all_policies, meta.without_offset(newest)));
    let guard = |change: &KeyChange| guard_of(&change.key, change.guard);
    let operation = |change: &KeyChange| match &change.value {
        Some(value) => EtcdOperation::put(keys.encode(&change.key), value.clone()),
        None => EtcdOperation::delete(keys.encode(&change.key)),
    };
    EtcdTransaction {
        compares: decision
            .compares
            .iter()
            .map(compare)
            .chain(policies)
            .chain(decision.changes.iter().map(guard))
            .collect(),
        success: decision.changes.iter().map(operation).collect(),
        failure: vec![],
    }
}
