//! Decisions about policies. They are pure functions, so that every engine decides alike.

use std::sync::Arc;

use super::{
    MAX_POLICIES, MAX_POLICY_REVISIONS, Policies, PolicyChange, PolicyCommand, PolicyError, PolicyOutcome,
    PolicyRevision, ScopePolicy,
};
use crate::model::{
    Caller, EffectivePolicy, FieldError, PolicyScope, Revision, ServiceName, ServicePolicy, UnixMillis,
};

/// Maximum number of scopes that one change forgets.
const MAX_FORGOTTEN: usize = MAX_POLICIES / 10;

/// Decision about a command.
#[derive(Debug)]
pub enum PolicyDecision {
    /// Nothing changes: the present policy is the requested one.
    NoOp(PolicyOutcome),
    /// This change is to be applied.
    Apply(Box<ProposedPolicy>),
}

/// Change of a policy without a revision.
#[derive(Debug)]
pub struct ProposedPolicy {
    scope: PolicyScope,
    policy: ServicePolicy,
    /// Earlier revisions that are kept, the newest last.
    earlier: Vec<Arc<PolicyRevision>>,
    forgotten: Vec<PolicyScope>,
}

impl ProposedPolicy {
    /// Gives the change its revision, time and caller.
    #[must_use]
    pub fn at(self, revision: Revision, time: UnixMillis, caller: Arc<Caller>) -> PolicyChange {
        let Self { scope, policy, earlier: mut revisions, forgotten } = self;
        revisions.push(Arc::new(PolicyRevision { revision, time, caller, policy }));
        PolicyChange { scope, revisions, forgotten }
    }
}

/// Decides a command against the present policies.
pub(super) fn decide(present: &Policies, command: PolicyCommand) -> Result<PolicyDecision, PolicyError> {
    let PolicyCommand { scope, policy, expected_revision } = command;
    let none = ScopePolicy::default();
    let known = present.of(&scope).unwrap_or(&none);
    validate_revision(&scope, known, expected_revision)?;
    let unchanged = known.policy().map_or_else(|| policy.is_empty(), |before| *before == policy);
    if unchanged {
        return Ok(PolicyDecision::NoOp(PolicyOutcome { newest: known.newest().cloned(), changed: false }));
    }
    match &scope {
        PolicyScope::Defaults => {
            let services = present.services.iter().filter_map(|(service, known)| Some((service, known.policy()?)));
            validate_defaults(Some(&policy), services)?;
        }
        PolicyScope::Service(service) => {
            merge(Some(&policy), present.defaults.policy()).validate()?;
            present.fallbacks.validate(service, &policy.fallback)?;
        }
    }
    let forgotten = make_place(present, &scope)?;
    let skipped = (known.revisions.len() + 1).saturating_sub(MAX_POLICY_REVISIONS);
    let earlier = known.revisions.iter().skip(skipped).cloned().collect();
    Ok(PolicyDecision::Apply(Box::new(ProposedPolicy { scope, policy, earlier, forgotten })))
}

/// Verifies the expected revision. A policy that was removed has the revision of its removal, and 0 as well.
fn validate_revision(scope: &PolicyScope, known: &ScopePolicy, expected: Option<Revision>) -> Result<(), PolicyError> {
    let Some(expected) = expected else { return Ok(()) };
    let is_absent = known.policy().is_none();
    if expected == known.revision() || is_absent && expected == Revision::default() {
        return Ok(());
    }
    let present = if is_absent { Revision::default() } else { known.revision() };
    Err(PolicyError::OtherRevision { scope: scope.clone(), expected, present })
}

/// Verifies defaults, alone and with the policy of each service.
pub(super) fn validate_defaults<'a>(
    defaults: Option<&ServicePolicy>,
    services: impl Iterator<Item = (&'a ServiceName, &'a ServicePolicy)>,
) -> Result<(), FieldError> {
    let alone = merge(None, defaults);
    alone.validate()?;
    let conflicts = services.filter_map(|(service, policy)| {
        let error = merge(Some(policy), defaults).validate().err()?;
        // All conflicts are with `lb`. A service that leaves it open has set the other field.
        let is_lb = policy.settings.lb.is_none();
        Some((service.as_str(), is_lb, error))
    });
    let conflicts: Vec<_> = conflicts.collect();
    let Some((_, is_lb, error)) = conflicts.first() else { return Ok(()) };
    let names: Vec<_> = conflicts.iter().filter(|conflict| conflict.1 == *is_lb).map(|conflict| conflict.0).collect();
    let problem = format!("in the defaults does not go with the policies of {} ({error})", in_words(&names));
    let hint = "change these policies first";
    if *is_lb {
        return Err(FieldError::new("lb", &alone.lb.to_string(), problem, hint));
    }
    Err(FieldError::without_value(error.field.clone(), problem, hint))
}

/// Returns some names, and the number of the others.
fn in_words(names: &[&str]) -> String {
    const MAX_NAMES: usize = 3;
    match names.len().saturating_sub(MAX_NAMES) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..MAX_NAMES].join(", ")),
    }
}

pub(super) fn merge(service: Option<&ServicePolicy>, defaults: Option<&ServicePolicy>) -> EffectivePolicy {
    EffectivePolicy::merge(service, defaults, Revision::default())
}

/// Returns the scopes to forget so that a new one fits: those whose policies were removed first. They are up to
/// [`MAX_FORGOTTEN`], because each time the effective policies of all services without one get a new revision.
fn make_place(present: &Policies, scope: &PolicyScope) -> Result<Vec<PolicyScope>, PolicyError> {
    let PolicyScope::Service(service) = scope else { return Ok(Vec::new()) };
    // The defaults count as one, whether they are set or not.
    if present.services.contains_key(service) || present.services.len() + 1 < MAX_POLICIES {
        return Ok(Vec::new());
    }
    let removed = present.services.iter().filter(|(_, known)| known.policy().is_none());
    let mut removed: Vec<_> = removed.map(|(name, known)| (known.revision(), name)).collect();
    if removed.is_empty() {
        return Err(PolicyError::TooMany);
    }
    removed.sort_unstable();
    Ok(removed.into_iter().take(MAX_FORGOTTEN).map(|(_, name)| PolicyScope::Service(name.clone())).collect())
}
