//! Validation of policies that are set together, and not one after the other.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    MAX_POLICIES, Policies, PolicyError, PolicyRevision,
    decide::{merge, validate_defaults},
    fallback::FallbackGraph,
};
use crate::model::{FieldError, PolicyScope, ServiceName, ServicePolicy};

/// Policies that are in effect together. None of them is empty.
#[derive(Debug, Default)]
struct PolicySet<'a> {
    defaults: Option<&'a ServicePolicy>,
    services: BTreeMap<&'a ServiceName, &'a ServicePolicy>,
    fallbacks: FallbackGraph,
}

impl<'a> PolicySet<'a> {
    /// Sets a policy in place of another one of the same scope. An empty one removes it.
    fn set(&mut self, scope: &'a PolicyScope, policy: &'a ServicePolicy) {
        let present = Some(policy).filter(|policy| !policy.is_empty());
        match scope {
            PolicyScope::Defaults => self.defaults = present,
            PolicyScope::Service(service) => {
                self.fallbacks.replace(service, &policy.fallback);
                match present {
                    Some(policy) => self.services.insert(service, policy),
                    None => self.services.remove(service),
                };
            }
        }
    }

    /// Verifies the policy of a scope with the others.
    fn validate(&self, scope: &PolicyScope) -> Result<(), FieldError> {
        match scope {
            PolicyScope::Defaults => {
                let services = self.services.iter().map(|(service, policy)| (*service, *policy));
                validate_defaults(self.defaults, services)
            }
            PolicyScope::Service(service) => {
                let Some(policy) = self.services.get(service) else { return Ok(()) };
                merge(Some(policy), self.defaults).validate()?;
                self.fallbacks.validate(service, &policy.fallback)
            }
        }
    }
}

/// Returns the error of each of these policies that would be invalid if all of them were set.
pub(super) fn validate_together(
    present: &Policies,
    proposed: &BTreeMap<PolicyScope, ServicePolicy>,
) -> BTreeMap<PolicyScope, PolicyError> {
    let present_scopes: Vec<_> = present.scopes().collect();
    let mut set = PolicySet::default();
    for (scope, policy) in &present_scopes {
        set.set(scope, policy);
    }
    for (scope, policy) in proposed {
        set.set(scope, policy);
    }
    // The defaults count as one, whether they are set or not.
    let is_full = set.services.len() >= MAX_POLICIES;
    let validate = |scope: &PolicyScope| {
        set.validate(scope)?;
        let is_new = present.of(scope).is_none_or(|known| known.policy().is_none());
        if is_full && is_new { Err(PolicyError::TooMany) } else { Ok(()) }
    };
    proposed.keys().filter_map(|scope| Some((scope.clone(), validate(scope).err()?))).collect()
}

/// Verifies all policies of an export. Each comes with its revisions, the newest last.
///
/// # Errors
///
/// When a policy conflicts with the others.
pub fn validate_policies<'a>(
    policies: impl Iterator<Item = (&'a PolicyScope, &'a [Arc<PolicyRevision>])>,
) -> Result<(), (PolicyScope, FieldError)> {
    let mut set = PolicySet::default();
    for (scope, revisions) in policies {
        if let Some(newest) = revisions.last() {
            set.set(scope, &newest.policy);
        }
    }
    merge(None, set.defaults).validate().map_err(|error| (PolicyScope::Defaults, error))?;
    let mut scopes = set.services.keys().map(|service| PolicyScope::Service((*service).clone()));
    scopes.try_for_each(|scope| set.validate(&scope).map_err(|error| (scope, error)))
}
