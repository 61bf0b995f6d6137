//! Log of changed policies: they change the calls of all clients of a service, and are rare.

use crate::{model::Caller, registry::PolicyChange};

/// Logs a change of a policy.
pub(super) fn log_policy_change(change: &PolicyChange) {
    let Some(newest) = change.newest() else { return };
    let action = if newest.policy.is_empty() { "removed" } else { "set" };
    let revision = newest.revision.0;
    let (caller, identity) = match &*newest.caller {
        Caller::Client { peer, identity, .. } => (peer.to_string(), identity.as_deref().unwrap_or_default()),
        Caller::Server(actor) => (format!("{actor:?}"), ""),
    };
    tracing::info!(revision, caller, identity, "the policy of {} was {action}", change.scope);
}
