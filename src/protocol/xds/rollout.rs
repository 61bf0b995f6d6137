//! Steps in which one stream gets a changed policy. There is no IO and no clock here.
//!
//! A client may fail calls to a cluster that is listed and selected for the first time in the same push, or that leaves the list in the push
//! that stops selecting it: grpc-go does. So a change of the clusters takes up to three steps:
//!
//! 1. The new clusters are listed beside the old ones; calls still go to the old ones.
//! 2. Calls go to the new clusters.
//! 3. The old clusters leave the list.
//!
//! A step begins [`STEP_DELAY`] after the client has confirmed the step before. A change that needs no other clusters has one step. A newer
//! policy takes over at any step: a policy that is replaced before it selects clusters never does.
//!
//! A client that rejects a policy gets the last one that it accepted, in the same steps, until there is a newer one. Clusters that it has
//! not confirmed leave the list at once: no call ever went to them.
//!
//! Until the client has confirmed the second step, a cluster that loses its calls keeps the definition of the policy before: the client's
//! routes may still lead there, and without calls it would have no instances that take over from its own.
//!
//! A cluster that left the list keeps its definition while the client subscribes to it. Of each service the last
//! [`MAX_RETIRED_CLUSTERS`] of them do.

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, mem, sync::Arc, time::Duration};

use super::cluster_name::{clusters_of, defines, selects};
use crate::model::{EffectivePolicy, Revision, ServiceName};

/// Time from the confirmation of a step to the next one. With less than 20 ms, grpc-go fails calls.
const STEP_DELAY: Duration = Duration::from_millis(100);
/// Time that a step waits for the endpoints of new clusters once the client has confirmed its routes. Some clients ask for clusters only
/// when they select them.
const CLUSTER_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of clusters of a service that no policy defines any more and that keep their definition.
const MAX_RETIRED_CLUSTERS: usize = 32;

/// Maximum number of policies that a client's routes may still follow. Beyond the first one, the newest are kept.
const MAX_LEAVING: usize = 4;

/// Answer of a client to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepAnswer {
    /// The client has not accepted the routes that it was sent.
    Waiting,
    /// The client has accepted the routes, but not all clusters and endpoints.
    RoutesAccepted,
    /// The client has accepted everything that it was sent.
    Accepted,
}

/// Policy that a client rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RejectedPolicy {
    pub(super) revision: Revision,
    /// Reason that the client gave.
    pub(super) error: Arc<str>,
}

/// Policy of one service as one stream gets it.
#[derive(Debug)]
pub(super) struct PolicyRollout {
    service: Arc<str>,
    /// Policy that decides where calls go.
    selecting: Arc<EffectivePolicy>,
    /// Policies that decided where calls go before, and that the client's routes may still follow. The oldest is first.
    leaving: Vec<Arc<EffectivePolicy>>,
    /// Last revision at which the selecting policy was in effect. `None`: it is in effect now.
    selected_until: Option<Revision>,
    /// Policy that the client is to have in the end.
    target: Arc<EffectivePolicy>,
    /// Clusters that are listed to the client.
    listed: BTreeSet<Arc<str>>,
    /// Listed clusters that the client has confirmed, so that calls can go to them.
    confirmed: BTreeSet<Arc<str>>,
    /// Last policy that the client accepted as a whole.
    accepted: Option<Arc<EffectivePolicy>>,
    /// Last policy that the client rejected, unless there is a newer one.
    rejected: Option<RejectedPolicy>,
    /// Clusters that the present policies do not define, with the policies that last did. The newest is last.
    retired: Vec<(Arc<str>, Arc<EffectivePolicy>)>,
    /// Clusters that have lost their definition since [`Self::take_forgotten`].
    forgotten: Vec<Arc<str>>,
    /// Retired clusters stay listed.
    keeps_clusters: bool,
    /// Step that the client has not confirmed yet. `None`: the client has the target.
    step: Option<RolloutStep>,
    /// Nonce of the last response before the resources changed for the present step. Rejections of earlier responses say nothing about it.
    began_after: u64,
}

/// Step that the client has not confirmed yet.
#[derive(Debug, Clone, Copy, Default)]
struct RolloutStep {
    /// Time at which the client had accepted the routes.
    routes_accepted_at: Option<Duration>,
    /// Time at which the next step begins. `None`: the client has not confirmed this one.
    next_at: Option<Duration>,
}

impl PolicyRollout {
    /// Policy of a service for a client that has none yet: it gets the whole policy at once. `keeps_clusters`: the client may not use a cluster
    /// any more that left the list and comes back, so retired clusters stay listed.
    pub(super) fn new(service: Arc<str>, policy: Arc<EffectivePolicy>, keeps_clusters: bool) -> Self {
        let listed = clusters_of(&service, &policy);
        Self {
            service,
            selecting: Arc::clone(&policy),
            leaving: Vec::new(),
            selected_until: None,
            target: policy,
            confirmed: listed.clone(),
            listed,
            accepted: None,
            rejected: None,
            retired: Vec::new(),
            forgotten: Vec::new(),
            keeps_clusters,
            step: Some(RolloutStep::default()),
            began_after: 0,
        }
    }

    /// Policy of a service for a client that has it already.
    pub(super) fn known(service: Arc<str>, policy: Arc<EffectivePolicy>, keeps_clusters: bool) -> Self {
        Self { accepted: Some(Arc::clone(&policy)), ..Self::new(service, policy, keeps_clusters) }
    }

    /// Lists clusters that the client has from an earlier stream, with the policies that last defined them.
    pub(super) fn keep(&mut self, clusters: Vec<(Arc<str>, Arc<EffectivePolicy>)>) {
        let excess = clusters.len().saturating_sub(MAX_RETIRED_CLUSTERS);
        for (cluster, policy) in clusters.into_iter().skip(excess) {
            self.listed.insert(Arc::clone(&cluster));
            self.confirmed.insert(Arc::clone(&cluster));
            self.retired.push((cluster, policy));
        }
    }

    /// Last revision at which the policy that selects clusters was in effect. `None`: it is in effect now.
    pub(super) fn selected_until(&self) -> Option<Revision> {
        self.selected_until
    }

    /// Nonce of the last response before the present step.
    pub(super) fn began_after(&self) -> u64 {
        self.began_after
    }

    /// Sets the nonce of the last response before the present step, which has just begun.
    pub(super) fn set_began_after(&mut self, nonce: u64) {
        self.began_after = nonce;
    }

    /// Policy that decides where calls go.
    pub(super) fn selecting(&self) -> &Arc<EffectivePolicy> {
        &self.selecting
    }

    /// Clusters that are listed to the client.
    pub(super) fn listed(&self) -> &BTreeSet<Arc<str>> {
        &self.listed
    }

    /// Revision of the last policy that the client accepted as a whole. 0: none.
    pub(super) fn accepted_revision(&self) -> Revision {
        self.accepted.as_ref().map_or(Revision(0), |policy| policy.revision)
    }

    /// Last policy that the client rejected, unless there is a newer one.
    pub(super) fn rejected(&self) -> Option<&RejectedPolicy> {
        self.rejected.as_ref()
    }

    /// Returns whether the client is to have this policy in the end.
    pub(super) fn is_target(&self, policy: &Arc<EffectivePolicy>) -> bool {
        Arc::ptr_eq(policy, &self.target)
    }

    /// Returns whether the client has accepted the whole policy that it is to have.
    pub(super) fn is_complete(&self) -> bool {
        self.step.is_none()
    }

    /// Returns the policy that defines a cluster of the service: one that the client's routes may still follow to the cluster, the one that
    /// decides where calls go, the one that will, or the one that last did.
    pub(super) fn policy_of(&self, cluster: &str) -> &Arc<EffectivePolicy> {
        self.leaving_policy_of(cluster).unwrap_or_else(|| self.settled_policy_of(cluster))
    }

    /// Returns the policy that defines a cluster once no routes but those of the present policies are in use.
    fn settled_policy_of(&self, cluster: &str) -> &Arc<EffectivePolicy> {
        let present = [&self.selecting, &self.target].into_iter().find(|policy| defines(policy, cluster));
        let retired = || self.retired.iter().find(|(name, _)| **name == *cluster).map(|(_, policy)| policy);
        present.or_else(retired).unwrap_or(&self.selecting)
    }

    /// Returns the newest policy whose routes lead to a cluster that loses its calls.
    fn leaving_policy_of(&self, cluster: &str) -> Option<&Arc<EffectivePolicy>> {
        let selected = |policy: &&Arc<EffectivePolicy>| selects(&self.service, policy, cluster);
        let leaving = self.leaving.iter().rev().find(selected)?;
        (!selected(&&self.selecting)).then_some(leaving)
    }

    /// Services whose instances take calls if this service has none, according to any policy in use.
    pub(super) fn fallbacks(&self) -> impl Iterator<Item = &ServiceName> {
        let policies = [&self.selecting, &self.target]
            .into_iter()
            .chain(&self.leaving)
            .chain(self.retired.iter().map(|(_, policy)| policy));
        policies.flat_map(|policy| &policy.fallback)
    }

    /// Sets the newest policy. Returns whether the resources of the service change.
    pub(super) fn set_target(&mut self, policy: &Arc<EffectivePolicy>) -> bool {
        if Arc::ptr_eq(policy, &self.target)
            || self.rejected.as_ref().is_some_and(|rejected| policy.revision <= rejected.revision)
        {
            return false;
        }
        self.rejected = None;
        self.selected_until.get_or_insert(Revision(policy.revision.0.saturating_sub(1)));
        self.replace(|rollout| rollout.target = Arc::clone(policy));
        // The definitions of listed clusters may be those of the target.
        self.begin_step() || !self.listed.is_subset(&self.confirmed)
    }

    /// Takes in the answer of the client. Returns whether the resources of the service change.
    pub(super) fn advance(&mut self, answer: StepAnswer, now: Duration) -> bool {
        let Some(step) = &mut self.step else { return false };
        if answer == StepAnswer::Waiting {
            *step = RolloutStep::default();
            return false;
        }
        let routes_accepted_at = *step.routes_accepted_at.get_or_insert(now);
        if answer == StepAnswer::RoutesAccepted && now < routes_accepted_at + CLUSTER_TIMEOUT {
            step.next_at = None;
            return false;
        }
        let next_at = *step.next_at.get_or_insert(now + STEP_DELAY);
        if self.is_last_step() {
            self.accepted = Some(Arc::clone(&self.target));
            self.confirmed = self.listed.clone();
            self.step = None;
            return false;
        }
        if now < next_at {
            return false;
        }
        self.confirmed = self.listed.clone();
        self.step = None;
        self.begin_step()
    }

    /// Time at which [`Self::advance`] is to be called even if the client sends nothing.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let step = self.step?;
        step.next_at.or(step.routes_accepted_at.map(|at| at + CLUSTER_TIMEOUT))
    }

    /// Forgets the retired clusters that the client does not subscribe to any more.
    pub(super) fn forget_retired(&mut self, is_subscribed: impl Fn(&str) -> bool) {
        self.retired.retain(|(cluster, _)| is_subscribed(cluster));
    }

    /// Takes the clusters that have lost their definition since the last call. No client is to subscribe to them any more.
    pub(super) fn take_forgotten(&mut self) -> Vec<Arc<str>> {
        mem::take(&mut self.forgotten)
    }

    fn is_last_step(&self) -> bool {
        Arc::ptr_eq(&self.selecting, &self.target) && self.leaving.is_empty() && self.listed == self.final_list()
    }

    /// Returns the clusters that are listed in the end.
    fn final_list(&self) -> BTreeSet<Arc<str>> {
        if !self.keeps_clusters {
            return clusters_of(&self.service, &self.target);
        }
        let mut listed = self.listed.clone();
        for (cluster, _) in &self.retired[..self.excess_retired()] {
            listed.remove(cluster);
        }
        listed
    }

    /// Number of the oldest retired clusters that are to lose their definition.
    fn excess_retired(&self) -> usize {
        self.retired.len().saturating_sub(MAX_RETIRED_CLUSTERS)
    }

    /// Begins the next step that is possible now. Returns whether there is one.
    fn begin_step(&mut self) -> bool {
        let clusters = clusters_of(&self.service, &self.target);
        if !clusters.is_subset(&self.listed) {
            self.listed.extend(clusters);
        } else if !clusters.is_subset(&self.confirmed) {
            return false;
        } else if !Arc::ptr_eq(&self.selecting, &self.target) {
            self.select_target();
        } else if self.step.is_none() && !self.is_last_step() {
            self.leaving.clear();
            self.listed = self.final_list();
            self.confirmed.retain(|cluster| self.listed.contains(cluster));
            let excess = self.excess_retired();
            self.forgotten.extend(self.retired.drain(..excess).map(|(cluster, _)| cluster));
        } else {
            return false;
        }
        self.step = Some(RolloutStep::default());
        true
    }

    /// Takes in that the client rejects a resource: begins to return to the last policy that it accepted, or returns to none. Returns whether
    /// the resources of the service change.
    pub(super) fn reject(&mut self, error: &Arc<str>) -> bool {
        let newest = self.target.revision.max(self.selecting.revision);
        if self.rejected.as_ref().is_some_and(|rejected| newest <= rejected.revision) {
            return self.return_at_once();
        }
        if newest == Revision(0) || self.accepted.as_ref().is_some_and(|accepted| Arc::ptr_eq(accepted, &self.target)) {
            return false;
        }
        self.rejected = Some(RejectedPolicy { revision: newest, error: Arc::clone(error) });
        self.step = Some(RolloutStep::default());
        if let Some(accepted) = self.accepted.clone() {
            self.selected_until = Some(accepted.revision);
            self.replace(|rollout| rollout.target = accepted);
            self.listed.retain(|cluster| self.confirmed.contains(cluster));
            self.begin_step();
        } else {
            self.replace(|rollout| {
                rollout.target = Arc::default();
                rollout.selecting = Arc::clone(&rollout.target);
                rollout.leaving.clear();
            });
            self.listed = clusters_of(&self.service, &self.target);
            self.confirmed = self.listed.clone();
        }
        true
    }

    /// Selects the policy to which the client returns, because it rejects the way back, too. Returns whether the resources of the service
    /// change.
    fn return_at_once(&mut self) -> bool {
        if Arc::ptr_eq(&self.selecting, &self.target) {
            return false;
        }
        self.select_target();
        self.confirmed = self.listed.clone();
        self.step = Some(RolloutStep::default());
        true
    }

    /// Has the target decide where calls go. What was selected before keeps its definition if it matters.
    fn select_target(&mut self) {
        self.selected_until = self.rejected.is_some().then_some(self.target.revision);
        self.replace(|rollout| {
            let before = mem::replace(&mut rollout.selecting, Arc::clone(&rollout.target));
            rollout.leaving.retain(|policy| !Arc::ptr_eq(policy, &before));
            rollout.leaving.push(before);
            if rollout.leaving.len() > MAX_LEAVING {
                rollout.leaving.remove(1);
            }
        });
        let changes = |cluster: &Arc<str>| {
            self.leaving_policy_of(cluster)
                .is_some_and(|leaving| !Arc::ptr_eq(leaving, self.settled_policy_of(cluster)))
        };
        if !self.listed.iter().any(changes) {
            self.leaving.clear();
        }
    }

    /// Changes the policies. Clusters that no policy defines afterwards keep the policy that defined them.
    fn replace(&mut self, change: impl FnOnce(&mut Self)) {
        let before: Vec<_> =
            self.listed.iter().map(|cluster| (Arc::clone(cluster), Arc::clone(self.policy_of(cluster)))).collect();
        change(self);
        let is_defined = |cluster: &str| [&self.selecting, &self.target].iter().any(|policy| defines(policy, cluster));
        self.retired.retain(|(cluster, _)| !is_defined(cluster));
        for (cluster, policy) in before {
            if !is_defined(&cluster) && !self.retired.iter().any(|(retired, _)| *retired == cluster) {
                self.retired.push((cluster, policy));
            }
        }
    }
}
