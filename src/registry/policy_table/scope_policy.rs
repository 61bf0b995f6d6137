//! Last revisions of the policy of one scope.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use super::{MAX_POLICY_REVISIONS, PolicyRevision};
use crate::model::{EffectivePolicy, Revision, ServicePolicy};

/// Policy of one scope.
#[derive(Debug, Default)]
pub(super) struct ScopePolicy {
    /// Last revisions, the newest, which is present, last.
    pub(super) revisions: VecDeque<Arc<PolicyRevision>>,
    /// Last revision of the registry at which the policy is not known, because its revision at that time is not kept. 0: it is always known.
    unknown_until: Revision,
    /// Effective policy of the service, made by the first reader after a change.
    effective: OnceLock<Arc<EffectivePolicy>>,
}

/// The revision of a policy is no longer kept.
pub(super) struct ForgottenRevision;

impl ScopePolicy {
    /// Policy with these revisions, the newest last. `unknown_until`: the last revision of the registry at which the policy is not known.
    /// If the history is full, a later one follows from that.
    pub(super) fn new(revisions: &[Arc<PolicyRevision>], unknown_until: Revision) -> Self {
        let mut new = Self { revisions: revisions.iter().cloned().collect(), ..Self::default() };
        new.set_unknown_until(unknown_until);
        new
    }

    /// Last revision of the registry at which the policy is not known.
    pub(super) fn unknown_until(&self) -> Revision {
        self.unknown_until
    }

    /// Raises the last revision of the registry at which the policy is not known.
    pub(super) fn set_unknown_until(&mut self, revision: Revision) {
        let oldest = self.revisions.front().filter(|_| self.revisions.len() >= MAX_POLICY_REVISIONS);
        let before_oldest = oldest.map_or(0, |oldest| oldest.revision.0.saturating_sub(1));
        self.unknown_until = self.unknown_until.max(revision).max(Revision(before_oldest));
    }

    pub(super) fn newest(&self) -> Option<&Arc<PolicyRevision>> {
        self.revisions.back()
    }

    /// Returns the present policy. `None`: there is none.
    pub(super) fn policy(&self) -> Option<&ServicePolicy> {
        self.newest().map(|newest| &newest.policy).filter(|policy| !policy.is_empty())
    }

    pub(super) fn revision(&self) -> Revision {
        self.newest().map_or(Revision::default(), |newest| newest.revision)
    }

    /// Returns the policy that was in effect at a revision of the registry. `None`: there was none.
    pub(super) fn at(&self, revision: Revision) -> Result<Option<Arc<PolicyRevision>>, ForgottenRevision> {
        if self.unknown_until > Revision(0) && revision <= self.unknown_until {
            return Err(ForgottenRevision);
        }
        Ok(self.revisions.iter().rev().find(|one| one.revision <= revision).cloned())
    }

    /// Returns the effective policy of the service.
    pub(super) fn effective(&self, defaults: &Self) -> Arc<EffectivePolicy> {
        let merge = || {
            let revision = self.revision().max(defaults.revision());
            Arc::new(EffectivePolicy::merge(self.policy(), defaults.policy(), revision))
        };
        Arc::clone(self.effective.get_or_init(merge))
    }

    /// Forgets the effective policy.
    pub(super) fn defaults_changed(&mut self) {
        self.effective = OnceLock::new();
    }
}
