//! Protocol Buffers message of a policy with its last revisions, and their lines in an export.

use std::{fmt, net::SocketAddr, sync::Arc};

use prost::Message;
use serde::{Deserialize, Serialize};

use super::{
    DecodeError, resolve_revision,
    unknown_fields::{KnownFields, MessageIdentity, NestedMessage},
};
use crate::{
    model::{
        Caller, CallerProtocol, FieldError, PolicyDocument, PolicyScope, Revision, ServerActor, ServiceName,
        ServicePolicy, UnixMillis,
    },
    registry::PolicyRevision,
};

/// Maximum size of the document of a policy as JSON, in bytes.
pub const MAX_POLICY_BYTES: usize = 64 * 1024;

/// Verifies the size of a policy. A policy is set only if this succeeds, in every engine.
///
/// # Errors
///
/// When the document has more than [`MAX_POLICY_BYTES`].
pub fn validate_policy_size(policy: &ServicePolicy) -> Result<(), FieldError> {
    let bytes = document_json(policy).len();
    if bytes <= MAX_POLICY_BYTES {
        return Ok(());
    }
    let problem = format!("has {bytes} bytes as JSON, and at most {MAX_POLICY_BYTES} are stored");
    Err(FieldError::without_value("policy", problem, "shorten filters and routes"))
}

/// Policy of one scope with its last revisions, as the store keeps them.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPolicy {
    /// Services that the policy holds for.
    pub scope: PolicyScope,
    /// Revisions, the newest, which is present, last.
    pub revisions: Vec<Arc<PolicyRevision>>,
    /// Earlier revisions that this version cannot use, the newest last.
    pub skipped: Vec<SkippedRevision>,
}

impl StoredPolicy {
    /// Last revision of the registry at which the policy was one of those that this version cannot use. 0: there are none.
    #[must_use]
    pub fn unknown_until(&self) -> Revision {
        let Some(newest) = self.skipped.iter().map(|skipped| skipped.revision).max() else { return Revision(0) };
        let next = self.revisions.iter().map(|kept| kept.revision).find(|kept| *kept > newest);
        next.map_or(newest, |next| Revision(next.0 - 1))
    }
}

/// Earlier revision of a policy that this version cannot use: its rules have become stricter. The policy is used without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedRevision {
    /// Services that the policy holds for.
    pub scope: PolicyScope,
    /// Position in the one order of all changes.
    pub revision: Revision,
    /// Reason, with the value.
    pub error: DecodeError,
}

impl fmt::Display for SkippedRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, revision, error } = self;
        write!(f, "revision {revision} of the policy of {scope} is left out of its history: {error}")
    }
}

/// Returns the key of a policy: the service, or nothing for the defaults.
#[must_use]
pub fn policy_key(scope: &PolicyScope) -> &str {
    match scope {
        PolicyScope::Defaults => "",
        PolicyScope::Service(service) => service.as_str(),
    }
}

/// Returns the scope of a policy with this key.
///
/// # Errors
///
/// When no service can have the name.
pub fn parse_policy_key(key: &str) -> Result<PolicyScope, FieldError> {
    if key.is_empty() { Ok(PolicyScope::Defaults) } else { ServiceName::parse(key).map(PolicyScope::Service) }
}

// Field numbers never change.

/// Fields of a [`PolicyRecord`].
pub const POLICY_FIELDS: KnownFields = KnownFields {
    numbers: &[1..=1],
    messages: &[NestedMessage { number: 1, fields: &REVISION_FIELDS, identity: MessageIdentity::Revision(1) }],
};
const REVISION_FIELDS: KnownFields = KnownFields {
    numbers: &[1..=4],
    messages: &[NestedMessage { number: 3, fields: &CALLER_FIELDS, identity: MessageIdentity::Single }],
};
const CALLER_FIELDS: KnownFields = KnownFields { numbers: &[1..=3], messages: &[] };

/// Record of a policy.
#[derive(Clone, PartialEq, Message)]
pub struct PolicyRecord {
    /// Revisions, the newest last.
    #[prost(message, repeated, tag = "1")]
    revisions: Vec<PolicyRevisionRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct PolicyRevisionRecord {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(uint64, tag = "2")]
    time_ms: u64,
    #[prost(message, optional, tag = "3")]
    caller: Option<RecordCaller>,
    /// Document of the policy, as JSON.
    #[prost(string, tag = "4")]
    document: String,
}

/// Originator of a revision. A line of an export has the same form as JSON.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordCaller {
    /// Protocol of a client, or part of the server.
    #[prost(string, tag = "1")]
    kind: String,
    /// Remote address of a client.
    #[prost(string, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    /// Identity that the certificate of a client proved.
    #[prost(string, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
}

impl PolicyRecord {
    /// Encodes the revisions of a policy.
    #[must_use]
    pub fn new(revisions: &[Arc<PolicyRevision>]) -> Self {
        let revision = |revision: &Arc<PolicyRevision>| PolicyRevisionRecord {
            revision: revision.revision.0,
            time_ms: revision.time.0,
            caller: Some(RecordCaller::new(&revision.caller)),
            document: document_json(&revision.policy),
        };
        Self { revisions: revisions.iter().map(revision).collect() }
    }

    /// Replaces 0, and what is above it, by the revision of this record. Earlier revisions that are not in order are of another history,
    /// and are left out.
    pub fn resolve_revisions(&mut self, this: Revision) {
        if let Some(newest) = self.revisions.last_mut() {
            resolve_revision(&mut newest.revision, this);
        }
        let mut next = u64::MAX;
        let mut kept: Vec<_> = self.revisions.drain(..).rev().collect();
        kept.retain(|record| {
            let is_in_order = (1..next).contains(&record.revision);
            next = if is_in_order { record.revision } else { next };
            is_in_order
        });
        self.revisions.extend(kept.into_iter().rev());
    }

    /// Decodes the policy under a key. Earlier revisions that are invalid are skipped.
    ///
    /// # Errors
    ///
    /// When the present policy is invalid.
    pub fn into_stored(mut self, key: &str) -> Result<StoredPolicy, DecodeError> {
        let scope = parse_policy_key(key)?;
        let present = self.revisions.pop().ok_or(DecodeError::Message)?.into_revision(&scope)?;
        let (mut revisions, mut skipped) = (Vec::with_capacity(self.revisions.len() + 1), Vec::new());
        for record in self.revisions {
            let revision = Revision(record.revision);
            match record.into_revision(&scope) {
                Ok(decoded) => revisions.push(decoded),
                Err(error) => skipped.push(SkippedRevision { scope: scope.clone(), revision, error }),
            }
        }
        revisions.push(present);
        Ok(StoredPolicy { scope, revisions, skipped })
    }
}

impl PolicyRevisionRecord {
    fn into_revision(self, scope: &PolicyScope) -> Result<Arc<PolicyRevision>, DecodeError> {
        let document = serde_json::from_str(&self.document).map_err(|_| DecodeError::Message)?;
        Ok(Arc::new(PolicyRevision {
            revision: Revision(self.revision),
            time: UnixMillis(self.time_ms),
            caller: self.caller.unwrap_or_default().into_caller()?,
            policy: ServicePolicy::from_document(scope, &document)?,
        }))
    }
}

/// Returns the shortest document of a policy as JSON.
fn document_json(policy: &ServicePolicy) -> String {
    let document: PolicyDocument = policy.to_document();
    // A document has texts as keys, and finite numbers, so that it always has a form in JSON.
    serde_json::to_string(&document).unwrap_or_default()
}

const GRPC: &str = "grpc";
const CONSUL: &str = "consul";

impl RecordCaller {
    /// Encodes a caller.
    #[must_use]
    pub fn new(caller: &Caller) -> Self {
        let (kind, client) = match caller {
            Caller::Client { protocol: CallerProtocol::Grpc, peer, identity } => (GRPC, Some((peer, identity))),
            Caller::Client { protocol: CallerProtocol::Consul, peer, identity } => (CONSUL, Some((peer, identity))),
            Caller::Server(ServerActor::Expiry) => ("expiry", None),
            Caller::Server(ServerActor::HealthCheck) => ("health_check", None),
            Caller::Server(ServerActor::Recovery) => ("recovery", None),
            Caller::Server(ServerActor::SelfPreservation) => ("self_preservation", None),
            Caller::Server(ServerActor::InProcess) => ("in_process", None),
        };
        Self {
            kind: kind.to_owned(),
            peer: client.map(|(peer, _)| peer.to_string()),
            identity: client.and_then(|(_, identity)| identity.as_ref().map(ToString::to_string)),
        }
    }

    /// Decodes a caller.
    ///
    /// # Errors
    ///
    /// When the kind is unknown, or the address of a client is invalid.
    pub fn into_caller(self) -> Result<Arc<Caller>, FieldError> {
        let client = |protocol| {
            let peer = self.peer.as_deref().unwrap_or_default();
            let peer: SocketAddr = peer.parse().map_err(|_| {
                FieldError::new("caller.peer", peer, "is not an address and a port", "write 127.0.0.1:80 or [::1]:80")
            })?;
            let identity = self.identity.as_deref().map(Arc::from);
            Ok(Arc::new(Caller::Client { protocol, peer, identity }))
        };
        let server = |actor: ServerActor| Ok(Arc::clone(actor.caller()));
        match self.kind.as_str() {
            GRPC => client(CallerProtocol::Grpc),
            CONSUL => client(CallerProtocol::Consul),
            "expiry" => server(ServerActor::Expiry),
            "health_check" => server(ServerActor::HealthCheck),
            "recovery" => server(ServerActor::Recovery),
            "self_preservation" => server(ServerActor::SelfPreservation),
            "in_process" => server(ServerActor::InProcess),
            other => {
                Err(FieldError::new("caller.kind", other, "is not a kind of caller", "leave it as it was exported"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::unknown_fields::tests::assert_known_fields, *};

    #[test]
    fn known_fields_of_a_policy_are_those_of_its_messages() {
        assert_known_fields::<PolicyRecord>(&POLICY_FIELDS, &[]);
        assert_known_fields::<PolicyRevisionRecord>(&REVISION_FIELDS, &[]);
        assert_known_fields::<RecordCaller>(&CALLER_FIELDS, &[]);
    }

    #[test]
    fn earlier_revisions_out_of_order_are_left_out() {
        for (stored, expected) in [
            (vec![3, 5, 0], vec![3, 5, 9]),
            (vec![3, 5, 9], vec![3, 5, 9]),
            (vec![3, 5], vec![3, 5]),
            (vec![12, 3, 0, 4, 4, 77], vec![3, 4, 9]),
            (vec![9, 0], vec![9]),
            (vec![], vec![]),
        ] {
            let revision = |revision: &u64| PolicyRevisionRecord { revision: *revision, ..Default::default() };
            let mut record = PolicyRecord { revisions: stored.iter().map(revision).collect() };
            record.resolve_revisions(Revision(9));
            let resolved: Vec<_> = record.revisions.iter().map(|record| record.revision).collect();
            assert_eq!(resolved, expected, "{stored:?}");
        }
    }
}
