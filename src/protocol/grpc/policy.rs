//! Policies of `AdminService`: their documents as `google.protobuf.Struct`, their revisions and pages.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message;
use prost_types::Struct;

use super::{ApiError, GrpcApi, decode, discovery::page_length, encode, time};
use crate::{
    app::page_size,
    engine::validate_policy_size,
    model::{Caller, EffectivePolicy, FieldError, PolicyScope, PolicyWarning, Revision, ServiceName, ServicePolicy},
    pb::{
        callboard::v1 as pb,
        policy_document::{decode_document, encode_document},
    },
    registry::{PolicyCommand, PolicyDecision, PolicyOutcome, PolicyRevision},
};

/// Default number of policies of a page.
const DEFAULT_POLICIES: u32 = 1_000;
/// Token of a page that begins after the defaults. No service can have this name.
const AFTER_DEFAULTS: &str = "_";

impl GrpcApi {
    pub(super) async fn answer_set_policy(
        &self,
        message: &pb::SetPolicyRequest,
        caller: &Arc<Caller>,
    ) -> Result<pb::SetPolicyResponse, ApiError> {
        let scope = decode_scope(&message.service)?;
        let policy = read_policy(&scope, message.policy.as_ref())?;
        let defaults = self.context.engine.registry().policies().newest(&PolicyScope::Defaults);
        let warnings = self.policy_warnings(&scope, &policy, defaults.as_deref().map(|newest| &newest.policy));
        let document = encode_document(&policy.to_document());
        let command = PolicyCommand { scope, policy, expected_revision: message.expected_revision.map(Revision) };
        let outcome = if message.dry_run {
            self.try_policy(command)?
        } else {
            self.context.commands.on_behalf_of(caller).set_policy(command).await?
        };
        Ok(pb::SetPolicyResponse {
            revision: outcome.newest.map_or(0, |newest| newest.revision.0),
            changed: outcome.changed,
            warnings,
            policy: Some(document),
        })
    }

    /// Validates policies as if they were set together.
    pub(super) fn answer_validate_policies(
        &self,
        message: &pb::ValidatePoliciesRequest,
    ) -> Result<pb::ValidatePoliciesResponse, ApiError> {
        let mut drafts = Vec::with_capacity(message.policies.len());
        let mut policies = BTreeMap::new();
        for (at, draft) in message.policies.iter().enumerate() {
            let scope = decode_scope(&draft.service)?;
            let policy = read_policy(&scope, draft.policy.as_ref());
            // An invalid policy is not set, so the present one stays for the others.
            let before = policy.as_ref().ok().and_then(|policy| policies.insert(scope.clone(), policy.clone()));
            if before.is_some() {
                let field = format!("policies[{at}].service");
                return Err(FieldError::new(field, &draft.service, "occurs twice", "leave out one of both").into());
            }
            drafts.push((scope, policy));
        }
        let table = self.context.engine.registry().policies();
        let mut errors = table.validate_together(&policies);
        let present = table.newest(&PolicyScope::Defaults);
        let defaults = policies.get(&PolicyScope::Defaults).or(present.as_deref().map(|newest| &newest.policy));
        let results = drafts.into_iter().map(|(scope, policy)| {
            let policy = policy.map_err(|error| error.to_string())?;
            match errors.remove(&scope) {
                Some(error) => Err(error.to_string()),
                None => Ok(self.validated(&scope, &policy, defaults)),
            }
        });
        let results = results.map(|result: Result<_, String>| match result {
            Ok(result) => pb::ValidatedPolicy { result: Some(result), error: String::new() },
            Err(error) => pb::ValidatedPolicy { result: None, error },
        });
        Ok(pb::ValidatePoliciesResponse { policies: results.collect() })
    }

    /// Returns the result of setting a valid policy with these defaults, without setting it.
    fn validated(
        &self,
        scope: &PolicyScope,
        policy: &ServicePolicy,
        defaults: Option<&ServicePolicy>,
    ) -> pb::SetPolicyResponse {
        let newest = self.context.engine.registry().policies().newest(scope);
        pb::SetPolicyResponse {
            revision: newest.as_ref().map_or(0, |newest| newest.revision.0),
            changed: newest.map_or_else(|| !policy.is_empty(), |newest| newest.policy != *policy),
            warnings: self.policy_warnings(scope, policy, defaults),
            policy: Some(encode_document(&policy.to_document())),
        }
    }

    /// Returns the warnings about a policy with the present instances and these defaults.
    fn policy_warnings(
        &self,
        scope: &PolicyScope,
        policy: &ServicePolicy,
        defaults: Option<&ServicePolicy>,
    ) -> Vec<pb::PolicyWarning> {
        // The defaults have no field that depends on instances, and a policy that is removed has no effects.
        let PolicyScope::Service(service) = scope else { return Vec::new() };
        if policy.is_empty() {
            return Vec::new();
        }
        let registry = self.context.engine.registry();
        let effective = EffectivePolicy::merge(Some(policy), defaults, Revision::default());
        let chunks = registry.chunks(service);
        let entries = chunks.iter().flat_map(|chunk| chunk.entries());
        let instances: Vec<_> = entries.map(|entry| &entry.instance).collect();
        let is_routable = |name: &ServiceName| registry.summary(name).is_some_and(|summary| summary.available > 0);
        let warnings = effective.warnings(&instances, is_routable).into_iter();
        warnings.map(|PolicyWarning { field, problem, hint }| pb::PolicyWarning { field, problem, hint }).collect()
    }

    /// Decides a command without carrying it out.
    fn try_policy(&self, command: PolicyCommand) -> Result<PolicyOutcome, ApiError> {
        let policies = self.context.engine.registry().policies();
        let newest = policies.newest(&command.scope);
        match policies.decide(command)? {
            PolicyDecision::NoOp(unchanged) => Ok(unchanged),
            PolicyDecision::Apply(_) => Ok(PolicyOutcome { newest, changed: true }),
        }
    }

    pub(super) fn answer_get_policy(&self, message: &pb::GetPolicyRequest) -> Result<pb::GetPolicyResponse, ApiError> {
        let scope = decode_scope(&message.service)?;
        let view = self.context.engine.registry().policies().view(&scope);
        let own = match &scope {
            PolicyScope::Defaults => None,
            PolicyScope::Service(_) => view.newest.as_ref().map(|newest| &newest.policy),
        };
        let defaults = view.defaults.as_ref().map(|newest| &newest.policy);
        Ok(pb::GetPolicyResponse {
            policy: Some(encode_policy(&scope, view.newest.as_deref())),
            effective: Some(encode_document(&view.effective.to_document())),
            inherited: EffectivePolicy::inherited_fields(own, defaults),
        })
    }

    pub(super) fn answer_list_policies(
        &self,
        message: &pb::ListPoliciesRequest,
    ) -> Result<pb::ListPoliciesResponse, ApiError> {
        let after = decode::page_after(&message.page_token, decode_position)?;
        let size = page_size(message.page_size, DEFAULT_POLICIES);
        // One more than the page holds, to find whether there is a next page.
        let found = self.context.engine.registry().policies().page(after.as_ref(), size + 1);
        let mut policies: Vec<_> =
            found.iter().take(size).map(|(scope, newest)| encode_policy(scope, Some(newest))).collect();
        policies.truncate(page_length(policies.iter().map(Message::encoded_len)));
        let last = policies.len().checked_sub(1).filter(|_| policies.len() < found.len());
        let next_page_token = last.and_then(|last| found.get(last)).map(|(scope, _)| encode_position(scope));
        Ok(pb::ListPoliciesResponse { policies, next_page_token: next_page_token.unwrap_or_default() })
    }

    pub(super) fn answer_list_policy_revisions(
        &self,
        message: &pb::ListPolicyRevisionsRequest,
    ) -> Result<pb::ListPolicyRevisionsResponse, ApiError> {
        let scope = decode_scope(&message.service)?;
        let revisions = self.context.engine.registry().policies().revisions(&scope);
        let revisions = revisions.iter().map(|revision| encode_policy(&scope, Some(revision)));
        Ok(pb::ListPolicyRevisionsResponse { revisions: revisions.collect() })
    }
}

/// Decodes a name of a service; empty for the defaults.
fn decode_scope(service: &str) -> Result<PolicyScope, ApiError> {
    if service.is_empty() { Ok(PolicyScope::Defaults) } else { Ok(PolicyScope::Service(ServiceName::parse(service)?)) }
}

/// Decodes and validates a document. An absent one is empty.
fn read_policy(scope: &PolicyScope, document: Option<&Struct>) -> Result<ServicePolicy, FieldError> {
    let policy = ServicePolicy::from_document(scope, &decode_document(document))?;
    validate_policy_size(&policy)?;
    Ok(policy)
}

fn encode_policy(scope: &PolicyScope, newest: Option<&PolicyRevision>) -> pb::Policy {
    let service = match scope {
        PolicyScope::Defaults => String::new(),
        PolicyScope::Service(service) => service.to_string(),
    };
    let Some(newest) = newest else {
        return pb::Policy { service, policy: Some(Struct::default()), ..pb::Policy::default() };
    };
    pb::Policy {
        service,
        policy: Some(encode_document(&newest.policy.to_document())),
        revision: newest.revision.0,
        time: Some(time::timestamp(newest.time)),
        caller: Some(encode::caller(&newest.caller)),
    }
}

/// Decodes the position at which a page of policies ended.
fn decode_position(token: &str) -> Option<PolicyScope> {
    if token == AFTER_DEFAULTS {
        return Some(PolicyScope::Defaults);
    }
    ServiceName::parse(token).ok().map(PolicyScope::Service)
}

fn encode_position(scope: &PolicyScope) -> String {
    match scope {
        PolicyScope::Defaults => AFTER_DEFAULTS.to_owned(),
        PolicyScope::Service(service) => service.to_string(),
    }
}
