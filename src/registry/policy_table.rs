//! Policies: the present one and the last revisions of each scope, and the effective policy of each service.
//!
//! A policy is changed by a [`PolicyCommand`]. It is decided against the present table, gets the next revision of the one order of all
//! changes, is made durable by the engine, and is then applied. A policy is no instance, so a change of it is no
//! [`Event`](super::Event).
//!
//! | file | holds |
//! |---|---|
//! | `decide` | decisions: expected revision, conflicts, number of policies |
//! | `fallback` | the graph of fallbacks: cycles, depth, dependents |
//! | `policy_set` | validation of policies that are set together |
//! | `scope_policy` | the last revisions of one scope |

mod decide;
mod fallback;
mod policy_set;
mod scope_policy;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    iter,
    ops::Bound,
    sync::Arc,
};

use crate::{
    model::{Caller, EffectivePolicy, FieldError, PolicyScope, Revision, ServiceName, ServicePolicy, UnixMillis},
    sync::RwLock,
};
use fallback::{FallbackGraph, MAX_FALLBACK_DEPTH};
use scope_policy::ScopePolicy;

pub use decide::{PolicyDecision, ProposedPolicy};
pub use policy_set::validate_policies;

/// Maximum number of scopes whose policies and revisions are kept.
pub const MAX_POLICIES: usize = 10_000;
/// Maximum number of revisions of a policy that are kept.
pub const MAX_POLICY_REVISIONS: usize = 20;

/// Maximum number of changes that [`PolicyTable::changes_since`] knows.
const MAX_KNOWN_CHANGES: usize = 1_024;

/// Request to change one policy.
#[derive(Debug, Clone)]
pub struct PolicyCommand {
    /// Services that the policy holds for.
    pub scope: PolicyScope,
    /// Policy that replaces the present one as a whole. An empty one removes it.
    pub policy: ServicePolicy,
    /// Revision that the present policy must have; 0 if there must be none. `None`: any.
    pub expected_revision: Option<Revision>,
}

/// One revision of a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyRevision {
    /// Position in the one order of all changes.
    pub revision: Revision,
    /// Time of the change.
    pub time: UnixMillis,
    /// Originator of the change.
    pub caller: Arc<Caller>,
    /// Policy. Empty: the change removed it.
    pub policy: ServicePolicy,
}

/// Change of a policy with its revision: exactly the state that it leads to.
#[derive(Debug, Clone)]
pub struct PolicyChange {
    /// Services that the policy holds for.
    pub scope: PolicyScope,
    /// Revisions that are kept, the newest, which is the change, last.
    pub revisions: Vec<Arc<PolicyRevision>>,
    /// Scopes without a policy whose revisions are forgotten, because there are too many scopes.
    pub forgotten: Vec<PolicyScope>,
}

impl PolicyChange {
    /// Newest revision.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<PolicyRevision>> {
        self.revisions.last()
    }

    /// Returns the result of the command that made this change.
    #[must_use]
    pub fn into_outcome(mut self) -> PolicyOutcome {
        PolicyOutcome { newest: self.revisions.pop(), changed: true }
    }
}

/// Result of a [`PolicyCommand`].
#[derive(Debug, Clone)]
pub struct PolicyOutcome {
    /// Newest revision of the policy. `None`: it was never set.
    pub newest: Option<Arc<PolicyRevision>>,
    /// Set if the command changed the policy.
    pub changed: bool,
}

/// Policy of one scope with what it leads to, at one moment.
#[derive(Debug, Clone)]
pub struct PolicyWithDefaults {
    /// Newest revision of the policy, which may be its removal. `None`: it was never set.
    pub newest: Option<Arc<PolicyRevision>>,
    /// Newest revision of the defaults, which may be their removal. `None`: they were never set.
    pub defaults: Option<Arc<PolicyRevision>>,
    /// Effective policy: for the defaults that of services without a policy of their own.
    pub effective: Arc<EffectivePolicy>,
}

/// Services with changed policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyChanges {
    /// Revision of the newest change.
    pub newest: Revision,
    /// Services whose own policy has changed. `None`: the effective policy of any service may have changed.
    pub services: Option<Vec<ServiceName>>,
}

/// Error of a policy that the registry rejects. A rejected command changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The policy conflicts with other policies.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// The policy has another revision than the expected one.
    #[error(
        "the policy of {scope} has revision {present}, not {expected}: read it again, and repeat the change on what it is now"
    )]
    OtherRevision {
        /// Scope of the policy.
        scope: PolicyScope,
        /// Revision in the command.
        expected: Revision,
        /// Revision of the present policy. 0: there is none.
        present: Revision,
    },
    /// There are [`MAX_POLICIES`] policies.
    #[error(
        "there are {MAX_POLICIES} policies, and no more fit: remove one, or use the defaults for what services have in common"
    )]
    TooMany,
}

/// Policies of a registry. Only a [`WriteGuard`](super::WriteGuard) changes them.
#[derive(Debug, Default)]
pub struct PolicyTable(RwLock<Policies>);

/// Policies of all scopes.
#[derive(Debug, Default)]
struct Policies {
    defaults: ScopePolicy,
    services: BTreeMap<ServiceName, ScopePolicy>,
    /// Effective policy of the services that have no revisions of their own.
    common: Arc<EffectivePolicy>,
    fallbacks: FallbackGraph,
    /// Number of policies that are not empty.
    present: usize,
    /// Revision of the newest change.
    newest: Revision,
    /// Last changes with their scopes, the newest last.
    changes: VecDeque<(Revision, PolicyScope)>,
    /// Revision up to which changes are not in `changes`.
    compacted: Revision,
    /// Revision of the newest change that made the table forget scopes. 0: none did. The effective policy of a service without revisions
    /// has no lower revision, so that it never has one again that it had before with another policy.
    forgotten: Revision,
}

impl PolicyTable {
    /// Returns the effective policy of a service. It is the same object until the policy of the service or the defaults change.
    #[must_use]
    pub fn effective(&self, service: &ServiceName) -> Arc<EffectivePolicy> {
        self.0.read().effective(service)
    }

    /// Returns the policy of one scope with what it leads to.
    #[must_use]
    pub fn view(&self, scope: &PolicyScope) -> PolicyWithDefaults {
        let policies = self.0.read();
        PolicyWithDefaults {
            newest: policies.of(scope).and_then(ScopePolicy::newest).cloned(),
            defaults: policies.defaults.newest().cloned(),
            effective: match scope {
                PolicyScope::Defaults => Arc::clone(&policies.common),
                PolicyScope::Service(service) => policies.effective(service),
            },
        }
    }

    /// Returns the effective policy of a service as it was at a revision. `None`: the revisions that were in effect are no longer kept.
    #[must_use]
    pub fn effective_at(&self, service: &ServiceName, revision: Revision) -> Option<Arc<EffectivePolicy>> {
        let policies = self.0.read();
        let own = match policies.services.get(service) {
            Some(own) => own.at(revision).ok()?,
            None if revision < policies.forgotten => return None,
            None => None,
        };
        let defaults = policies.defaults.at(revision).ok()?;
        let without_own =
            if own.is_none() && policies.forgotten <= revision { policies.forgotten } else { Revision(0) };
        let revisions = own.iter().chain(&defaults).map(|one| one.revision);
        let newest = revisions.max().unwrap_or_default().max(without_own);
        let policy = |one: &Option<Arc<PolicyRevision>>| one.as_ref().map(|one| one.policy.clone());
        Some(Arc::new(EffectivePolicy::merge(policy(&own).as_ref(), policy(&defaults).as_ref(), newest)))
    }

    /// Revision of the newest change of any policy. 0: none was ever set.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.0.read().newest
    }

    /// Returns the services whose policies have changed after a revision.
    #[must_use]
    pub fn changes_since(&self, seen: Revision) -> PolicyChanges {
        let policies = self.0.read();
        let from = policies.changes.partition_point(|(revision, _)| *revision <= seen);
        let service = |(_, scope): &(Revision, PolicyScope)| match scope {
            PolicyScope::Defaults => None,
            PolicyScope::Service(service) => Some(service.clone()),
        };
        let services = (seen >= policies.compacted).then(|| policies.changes.range(from..).map(service).collect());
        PolicyChanges { newest: policies.newest, services: services.flatten() }
    }

    /// Number of policies, that of the defaults included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.read().present
    }

    /// Returns whether there are no policies.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the newest revision of a policy, which may be its removal. `None`: it was never set.
    #[must_use]
    pub fn newest(&self, scope: &PolicyScope) -> Option<Arc<PolicyRevision>> {
        self.0.read().of(scope)?.newest().cloned()
    }

    /// Returns the last revisions of a policy, the newest first.
    #[must_use]
    pub fn revisions(&self, scope: &PolicyScope) -> Vec<Arc<PolicyRevision>> {
        self.0.read().of(scope).map(|known| known.revisions.iter().rev().cloned().collect()).unwrap_or_default()
    }

    /// Returns up to `limit` policies whose scopes come after `after`, the defaults first, then by service. `None`: from the first.
    #[must_use]
    pub fn page(&self, after: Option<&PolicyScope>, limit: usize) -> Vec<(PolicyScope, Arc<PolicyRevision>)> {
        let policies = self.0.read();
        let defaults = after.is_none().then_some((PolicyScope::Defaults, &policies.defaults));
        let from = match after {
            Some(PolicyScope::Service(name)) => Bound::Excluded(name),
            Some(PolicyScope::Defaults) | None => Bound::Unbounded,
        };
        let services = policies.services.range::<ServiceName, _>((from, Bound::Unbounded));
        let services = services.map(|(name, policy)| (PolicyScope::Service(name.clone()), policy));
        let present = defaults.into_iter().chain(services).filter(|(_, known)| known.policy().is_some());
        present.filter_map(|(scope, known)| Some((scope, Arc::clone(known.newest()?)))).take(limit).collect()
    }

    /// Returns the revisions of all policies, the newest last; the defaults first, then by service. Policies that were removed are among them
    /// while their revisions are kept.
    #[must_use]
    pub fn all_revisions(&self) -> Vec<(PolicyScope, Vec<Arc<PolicyRevision>>)> {
        let policies = self.0.read();
        let services = policies.services.iter().map(|(name, known)| (PolicyScope::Service(name.clone()), known));
        let all = iter::once((PolicyScope::Defaults, &policies.defaults)).chain(services);
        all.filter(|(_, known)| known.newest().is_some())
            .map(|(scope, known)| (scope, known.revisions.iter().cloned().collect()))
            .collect()
    }

    /// Returns the services that reach this one through their fallbacks, those of the fallbacks included, by name.
    #[must_use]
    pub fn dependents_of(&self, service: &ServiceName) -> Vec<ServiceName> {
        self.0.read().fallbacks.dependents_of(service)
    }

    /// Returns the services that take the calls of a service with these fallbacks once it has no instances, in the order in which they do:
    /// each fallback is followed by its own fallbacks.
    #[must_use]
    pub fn fallback_services<'a>(&self, fallbacks: impl Iterator<Item = &'a ServiceName>) -> Vec<ServiceName> {
        let mut services = Vec::new();
        for fallback in fallbacks {
            self.add_fallback(fallback, MAX_FALLBACK_DEPTH, &mut services);
        }
        services
    }

    fn add_fallback(&self, fallback: &ServiceName, depth: usize, to: &mut Vec<ServiceName>) {
        if depth == 0 || to.contains(fallback) {
            return;
        }
        to.push(fallback.clone());
        for next in &self.effective(fallback).fallback {
            self.add_fallback(next, depth - 1, to);
        }
    }

    /// Decides a command against the present policies. Changes nothing.
    ///
    /// # Errors
    ///
    /// When the policy has another revision than expected, conflicts with other policies, or is one too many.
    pub fn decide(&self, command: PolicyCommand) -> Result<PolicyDecision, PolicyError> {
        decide::decide(&self.0.read(), command)
    }

    /// Returns the error of each of these policies that would be invalid if all of them were set. Changes nothing.
    #[must_use]
    pub fn validate_together(
        &self,
        proposed: &BTreeMap<PolicyScope, ServicePolicy>,
    ) -> BTreeMap<PolicyScope, PolicyError> {
        policy_set::validate_together(&self.0.read(), proposed)
    }

    /// Applies a change.
    pub(super) fn apply(&self, change: &PolicyChange) {
        let mut policies = self.0.write();
        if !change.forgotten.is_empty() {
            for scope in &change.forgotten {
                if let PolicyScope::Service(service) = scope {
                    policies.services.remove(service);
                }
            }
            policies.forget(change.newest().map_or(Revision(0), |newest| newest.revision));
        }
        policies.replace(&change.scope, &change.revisions);
        let revision = policies.newest;
        // All services without a policy have another effective policy once scopes are forgotten, as after a change of the defaults.
        if !change.forgotten.is_empty() {
            policies.changes.push_back((revision, PolicyScope::Defaults));
        }
        policies.changes.push_back((revision, change.scope.clone()));
        while policies.changes.len() > MAX_KNOWN_CHANGES
            && let Some((revision, _)) = policies.changes.pop_front()
        {
            policies.compacted = revision;
        }
    }

    /// Sets the revisions of a scope, the newest last, as an earlier process had them. `unknown_until`: the last revision of the
    /// registry at which the policy of the scope is not known.
    pub(super) fn restore(&self, scope: &PolicyScope, revisions: &[Arc<PolicyRevision>], unknown_until: Revision) {
        let mut policies = self.0.write();
        policies.replace(scope, revisions);
        if let Some(restored) = policies.of_mut(scope) {
            restored.set_unknown_until(unknown_until);
        }
        policies.compacted = policies.newest;
    }

    /// Forgets all policies. All services have another effective policy at this revision.
    pub(super) fn clear(&self, revision: Revision) {
        let mut policies = self.0.write();
        *policies = Policies::default();
        policies.forget(revision);
        policies.compacted = policies.newest;
    }

    /// Sets the revision of the newest change that made an earlier process forget scopes.
    pub(super) fn restore_forgotten(&self, forgotten: Revision) {
        let mut policies = self.0.write();
        policies.forget(forgotten);
        policies.compacted = policies.newest;
    }
}

impl Policies {
    fn of(&self, scope: &PolicyScope) -> Option<&ScopePolicy> {
        match scope {
            PolicyScope::Defaults => Some(&self.defaults),
            PolicyScope::Service(service) => self.services.get(service),
        }
    }

    /// Iterates over the policies that are not empty.
    fn scopes(&self) -> impl Iterator<Item = (PolicyScope, &ServicePolicy)> {
        let defaults = self.defaults.policy().map(|policy| (PolicyScope::Defaults, policy));
        let services = self.services.iter();
        let services = services.filter_map(|(name, known)| Some((PolicyScope::Service(name.clone()), known.policy()?)));
        defaults.into_iter().chain(services)
    }

    fn of_mut(&mut self, scope: &PolicyScope) -> Option<&mut ScopePolicy> {
        match scope {
            PolicyScope::Defaults => Some(&mut self.defaults),
            PolicyScope::Service(service) => self.services.get_mut(service),
        }
    }

    fn effective(&self, service: &ServiceName) -> Arc<EffectivePolicy> {
        let Some(own) = self.services.get(service) else { return Arc::clone(&self.common) };
        own.effective(&self.defaults)
    }

    /// Sets the revision of a change that makes the table forget scopes.
    fn forget(&mut self, at: Revision) {
        self.forgotten = self.forgotten.max(at);
        self.newest = self.newest.max(at);
        self.set_common();
    }

    fn set_common(&mut self) {
        let revision = self.defaults.revision().max(self.forgotten);
        self.common = Arc::new(EffectivePolicy::merge(None, self.defaults.policy(), revision));
    }

    /// Sets the revisions of a scope, the newest last.
    fn replace(&mut self, scope: &PolicyScope, revisions: &[Arc<PolicyRevision>]) {
        // Of a scope that is not known, the revisions may have been forgotten.
        let unknown_until =
            self.of(scope).map_or(Revision(self.forgotten.0.saturating_sub(1)), ScopePolicy::unknown_until);
        let changed = ScopePolicy::new(revisions, unknown_until);
        let was_present = self.of(scope).is_some_and(|known| known.policy().is_some());
        self.present += usize::from(changed.policy().is_some());
        self.present -= usize::from(was_present);
        self.newest = self.newest.max(changed.revision());
        match scope {
            PolicyScope::Defaults => {
                self.defaults = changed;
                self.set_common();
                self.services.values_mut().for_each(ScopePolicy::defaults_changed);
            }
            PolicyScope::Service(service) => {
                let fallback = changed.policy().map(|policy| &*policy.fallback).unwrap_or_default();
                self.fallbacks.replace(service, fallback);
                self.services.insert(service.clone(), changed);
            }
        }
    }
}
