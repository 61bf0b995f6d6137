//! Policies of all services as one stream gets them. There is no IO and no clock here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    cluster_name::split_cluster_name,
    rollout::{PolicyRollout, StepAnswer},
    session::Session,
};
use crate::model::{EffectivePolicy, Revision};

/// Policies of all services as one stream gets them. A service without a policy is not in it until it gets one.
#[derive(Debug, Default)]
pub(super) struct StreamPolicies {
    rollouts: BTreeMap<Arc<str>, PolicyRollout>,
    /// Services whose policy the client has not accepted as a whole.
    incomplete: BTreeSet<Arc<str>>,
    /// Clusters that no policy defines any more stay listed.
    keeps_clusters: bool,
    /// Revision up to which changes of policies were taken in. A newer policy of a service that is not here replaces the absence of one,
    /// which the client may know.
    seen: Revision,
    /// Progress of the session at the last [`Self::advance`]. `None`: a policy has changed since.
    advanced: Option<u64>,
    /// Time of the next step that begins even if the client sends nothing, as of the last [`Self::advance`].
    wake_at: Option<Duration>,
}

/// Services whose resources change because of what a client has answered.
#[derive(Debug, Default)]
pub(super) struct AdvancedPolicies {
    pub(super) services: Vec<Arc<str>>,
    /// Clusters of removed subsets that no client is to subscribe to any more.
    pub(super) forgotten: Vec<Arc<str>>,
}

impl StreamPolicies {
    /// Policies of a new stream, which has taken in the changes up to this revision.
    pub(super) fn new(seen: Revision) -> Self {
        Self { seen, ..Self::default() }
    }

    /// Keeps clusters listed: the client may not use a cluster again that left the list.
    pub(super) fn keep_clusters(&mut self) {
        self.keeps_clusters = true;
    }

    /// Revision up to which changes of policies were taken in.
    pub(super) fn seen(&self) -> Revision {
        self.seen
    }

    /// Begins to take in the changes up to this revision. A changed service that the client does not subscribe to has to be forgotten,
    /// because it would keep its policy.
    pub(super) fn begin_changes(&mut self, seen: Revision) {
        self.seen = seen;
    }

    /// Forgets a service that the client does not subscribe to.
    pub(super) fn forget(&mut self, service: &str) {
        self.rollouts.remove(service);
        self.incomplete.remove(service);
    }

    /// Forgets the services that the client no longer subscribes to.
    pub(super) fn forget_unsubscribed(&mut self, session: &Session) {
        let services = session.services();
        self.rollouts.retain(|service, _| services.contains(&**service));
        self.incomplete.retain(|service| services.contains(&**service));
    }

    /// Number of services that have or had a policy.
    pub(super) fn len(&self) -> usize {
        self.rollouts.len()
    }

    /// Returns the rollout of a service, which begins with its present policy. `None`: the service never had a policy.
    pub(super) fn rollout(
        &mut self,
        service: &str,
        present: impl FnOnce() -> Arc<EffectivePolicy>,
    ) -> Option<&PolicyRollout> {
        if !self.rollouts.contains_key(service) {
            if self.seen == Revision(0) {
                return None;
            }
            let policy = present();
            if policy.revision == Revision(0) || policy.revision > self.seen {
                return None;
            }
            self.insert(service, policy, PolicyRollout::new);
        }
        self.rollouts.get(service)
    }

    /// Returns the rollout of a service, if there is one.
    pub(super) fn get(&self, service: &str) -> Option<&PolicyRollout> {
        self.rollouts.get(service)
    }

    /// Returns whether clusters that no policy defines any more stay listed.
    pub(super) fn keeps_clusters(&self) -> bool {
        self.keeps_clusters
    }

    /// Begins with a policy, which the client may have accepted on an earlier stream. `kept`: its clusters that no policy defines any more, with the
    /// policies that last did.
    pub(super) fn resume(
        &mut self,
        service: &str,
        (policy, is_accepted): (Arc<EffectivePolicy>, bool),
        kept: Vec<(Arc<str>, Arc<EffectivePolicy>)>,
    ) {
        self.insert(service, policy, if is_accepted { PolicyRollout::known } else { PolicyRollout::new });
        if let Some(rollout) = self.rollouts.get_mut(service) {
            rollout.keep(kept);
        }
    }

    /// Last revision at which the policy that selects the clusters of a service was in effect. `None`: it is in effect now.
    pub(super) fn selected_until(&self, service: &str) -> Option<Revision> {
        self.rollouts.get(service)?.selected_until()
    }

    /// Sets the newest policy of a service that the client subscribes to. Returns whether the resources of the service change.
    pub(super) fn set_target(&mut self, service: &str, policy: &Arc<EffectivePolicy>, latest_nonce: u64) -> bool {
        if !self.rollouts.contains_key(service) {
            if policy.revision == Revision(0) {
                return false;
            }
            self.insert(service, Arc::default(), PolicyRollout::known);
        }
        let Some(rollout) = self.rollouts.get_mut(service) else { return false };
        let changed = rollout.set_target(policy);
        if changed {
            rollout.set_began_after(latest_nonce);
            self.incomplete.insert(service.into());
            self.advanced = None;
        }
        changed
    }

    /// Takes in what the client has accepted and rejected. Looks at no service if nothing has happened since the last call.
    pub(super) fn advance(&mut self, session: &Session, now: Duration) -> AdvancedPolicies {
        let mut advanced = AdvancedPolicies::default();
        if self.advanced == Some(session.progress()) && self.wake_at.is_none_or(|at| now < at) {
            return advanced;
        }
        self.advanced = Some(session.progress());
        self.wake_at = None;
        let Self { rollouts, wake_at, .. } = self;
        self.incomplete.retain(|service| {
            let Some(rollout) = rollouts.get_mut(service) else { return false };
            let has_changed = if let Some(error) = session.rejection(service, rollout.began_after()) {
                // A rejection that changes nothing more is not waited for.
                rollout.reject(error) || rollout.advance(StepAnswer::Waiting, now)
            } else {
                let clusters = rollout.listed().iter().map(|cluster| &**cluster);
                rollout.advance(session.answer(service, clusters), now)
            };
            if has_changed {
                rollout.set_began_after(session.latest_nonce());
                advanced.services.push(Arc::clone(service));
                advanced.forgotten.extend(rollout.take_forgotten());
            }
            *wake_at = wake_at.iter().copied().chain(rollout.wake_at()).min();
            !rollout.is_complete()
        });
        if !advanced.services.is_empty() {
            // The next step may need no answer.
            self.advanced = None;
        }
        advanced
    }

    /// Time at which [`Self::advance`] is to be called even if the client sends nothing.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.wake_at
    }

    /// Forgets what the client no longer subscribes to, after a request that ends the subscription to this resource.
    pub(super) fn unsubscribed(&mut self, name: &str, session: &Session) {
        let service = split_cluster_name(name).0;
        if !session.includes_service(service) {
            self.forget(service);
        } else if let Some(rollout) = self.rollouts.get_mut(service) {
            rollout.forget_retired(|cluster| session.subscribes_to_cluster(cluster));
        }
    }

    fn insert(
        &mut self,
        service: &str,
        policy: Arc<EffectivePolicy>,
        rollout: fn(Arc<str>, Arc<EffectivePolicy>, bool) -> PolicyRollout,
    ) {
        let service: Arc<str> = service.into();
        self.incomplete.insert(Arc::clone(&service));
        self.advanced = None;
        self.rollouts.insert(Arc::clone(&service), rollout(service, policy, self.keeps_clusters));
    }
}
