//! Policy of a service, and the fields of it that a client does not follow.

use super::{super::limitations::limitations, call::ExplainedCall};
use crate::{
    model::{EffectivePolicy, ServicePolicy},
    pb::{callboard::v1 as pb, policy_document::encode_document},
};

/// Returns the effective policy with the origins of its fields: the policy of the service, and the defaults.
pub(super) fn explained_policy(
    effective: &EffectivePolicy,
    own: Option<&ServicePolicy>,
    defaults: Option<&ServicePolicy>,
) -> pb::ExplainedPolicy {
    pb::ExplainedPolicy {
        revision: effective.revision.0,
        effective: Some(encode_document(&effective.to_document())),
        own: own.map(|policy| policy.to_document().0.into_keys().collect()).unwrap_or_default(),
        inherited: EffectivePolicy::inherited_fields(own, defaults),
    }
}

/// Returns the client with the fields of the policy that it ignores or approximates.
pub(super) fn explained_client(policy: &EffectivePolicy, call: &ExplainedCall) -> pb::ExplainedClient {
    let limitations = limitations(policy, call.client.family).into_iter();
    let limitations = limitations.map(|limitation| pb::PolicyLimitation {
        field: limitation.field,
        agent: call.agent.clone(),
        streams: 0,
        behaviour: limitation.behaviour.to_owned(),
        since: limitation.since.map(|since| since.to_string()).unwrap_or_default(),
    });
    pb::ExplainedClient { agent: call.agent.clone(), zone: call.zone(), limitations: limitations.collect() }
}
