//! Line of an export: one policy with its last revisions as JSON.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{
    super::record::policy::{RecordCaller, StoredPolicy, parse_policy_key, policy_key, validate_policy_size},
    line::{parse_time, time_text},
};
use crate::{
    model::{FieldError, PolicyDocument, Revision, ServicePolicy},
    registry::{MAX_POLICY_REVISIONS, PolicyRevision},
};

/// Policy with its last revisions.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyLine {
    /// Service; empty for the defaults.
    policy_of: String,
    /// Revisions, the newest last.
    revisions: Vec<RevisionLine>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevisionLine {
    revision: u64,
    time: String,
    caller: RecordCaller,
    policy: PolicyDocument,
}

/// Returns whether a line has a policy. The field is searched for first, because most lines have instances.
pub fn is_policy(line: &str) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        policy_of: Option<IgnoredAny>,
    }
    line.contains("\"policy_of\"") && serde_json::from_str::<Kind>(line).is_ok_and(|kind| kind.policy_of.is_some())
}

impl PolicyLine {
    /// Encodes a policy.
    pub fn new(stored: &StoredPolicy) -> Self {
        let revision = |revision: &Arc<PolicyRevision>| RevisionLine {
            revision: revision.revision.0,
            time: time_text(revision.time),
            caller: RecordCaller::new(&revision.caller),
            policy: revision.policy.to_document(),
        };
        Self {
            policy_of: policy_key(&stored.scope).to_owned(),
            revisions: stored.revisions.iter().map(revision).collect(),
        }
    }

    /// Decodes the policy.
    pub fn into_stored(self) -> Result<StoredPolicy, FieldError> {
        let scope = parse_policy_key(&self.policy_of)?;
        if self.revisions.is_empty() || self.revisions.len() > MAX_POLICY_REVISIONS {
            let problem = format!("has {} entries", self.revisions.len());
            let hint = format!("leave 1 to {MAX_POLICY_REVISIONS} revisions");
            return Err(FieldError::without_value("revisions", problem, hint));
        }
        let mut revisions: Vec<Arc<PolicyRevision>> = Vec::with_capacity(self.revisions.len());
        for (at, line) in self.revisions.into_iter().enumerate() {
            let place = format!("revisions[{at}]");
            let revision = line.into_revision(&scope).map_err(|error| error.within(&place))?;
            if revisions.last().is_some_and(|before| before.revision >= revision.revision) {
                let text = revision.revision.to_string();
                let hint = "leave the revisions in their order, the newest last";
                return Err(FieldError::new("revision", &text, "is not above the one before", hint).within(&place));
            }
            revisions.push(Arc::new(revision));
        }
        Ok(StoredPolicy { scope, revisions })
    }
}

impl RevisionLine {
    fn into_revision(self, scope: &crate::model::PolicyScope) -> Result<PolicyRevision, FieldError> {
        let policy = ServicePolicy::from_document(scope, &self.policy).map_err(|error| error.within("policy"))?;
        validate_policy_size(&policy)?;
        Ok(PolicyRevision {
            revision: Revision(self.revision),
            time: parse_time(&self.time).map_err(|error| error.with_field("time"))?,
            caller: self.caller.into_caller()?,
            policy,
        })
    }
}
