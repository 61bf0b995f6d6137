//! Line of an export: one policy with its last revisions as JSON.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::line::{parse_time, time_text};
use crate::{
    engine::record::policy::{
        RecordCaller, SkippedRevision, StoredPolicy, parse_policy_key, policy_key, validate_policy_size,
    },
    model::{FieldError, PolicyDocument, PolicyScope, Revision, ServicePolicy},
    registry::{MAX_POLICY_REVISIONS, PolicyRevision},
};

/// Field that only policies have.
const FIELD: &str = "\"policy_of\"";

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

/// Returns whether a line has a policy, be it malformed. Exports write the field first; it is searched for, because most lines have instances.
pub fn is_policy(line: &str) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        policy_of: Option<IgnoredAny>,
    }
    let begins_with_it =
        || line.trim_start().strip_prefix('{').is_some_and(|rest| rest.trim_start().starts_with(FIELD));
    line.contains(FIELD)
        && (begins_with_it() || serde_json::from_str::<Kind>(line).is_ok_and(|kind| kind.policy_of.is_some()))
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

    /// Decodes the policy. Earlier revisions whose policies are invalid are skipped.
    pub fn into_stored(mut self) -> Result<StoredPolicy, FieldError> {
        let scope = parse_policy_key(&self.policy_of)?;
        if self.revisions.is_empty() || self.revisions.len() > MAX_POLICY_REVISIONS {
            let problem = format!("has {} entries", self.revisions.len());
            let hint = format!("leave 1 to {MAX_POLICY_REVISIONS} revisions");
            return Err(FieldError::without_value("revisions", problem, hint));
        }
        let newest = self.revisions.len() - 1;
        let (mut revisions, mut skipped, mut before) = (Vec::with_capacity(newest + 1), Vec::new(), None);
        for (at, line) in self.revisions.drain(..).enumerate() {
            let place = format!("revisions[{at}]");
            let revision = Revision(line.revision);
            if before.replace(revision).is_some_and(|before| before >= revision) {
                let hint = "leave the revisions in their order, the newest last";
                let error = FieldError::new("revision", &revision.to_string(), "is not above the one before", hint);
                return Err(error.within(&place));
            }
            match line.policy(&scope).map_err(|error| error.within(&place)) {
                Ok(policy) => {
                    let revision = line.into_revision(policy).map_err(|error| error.within(&place))?;
                    revisions.push(Arc::new(revision));
                }
                Err(error) if at == newest => return Err(error),
                Err(error) => {
                    skipped.push(SkippedRevision { scope: scope.clone(), revision, error: error.into() });
                }
            }
        }
        Ok(StoredPolicy { scope, revisions, skipped })
    }
}

impl RevisionLine {
    fn policy(&self, scope: &PolicyScope) -> Result<ServicePolicy, FieldError> {
        let policy = ServicePolicy::from_document(scope, &self.policy).map_err(|error| error.within("policy"))?;
        validate_policy_size(&policy)?;
        Ok(policy)
    }

    fn into_revision(self, policy: ServicePolicy) -> Result<PolicyRevision, FieldError> {
        Ok(PolicyRevision {
            revision: Revision(self.revision),
            time: parse_time(&self.time).map_err(|error| error.with_field("time"))?,
            caller: self.caller.into_caller()?,
            policy,
        })
    }
}
