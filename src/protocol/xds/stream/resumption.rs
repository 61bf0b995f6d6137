//! Continuation of an earlier stream: the client begins with the policies that it has.

use std::{collections::BTreeSet, sync::Arc};

use super::AdsStream;
use crate::{
    model::{EffectivePolicy, PolicyScope, Revision, ServiceName},
    protocol::xds::{
        cluster_name::{clusters_of, defines, selects},
        request::XdsRequest,
        resource::ResourceType,
        resumption::{KnownRoutes, Resumption},
        route_resource::{SelectedRoutes, listener, route},
        stream_list::XdsStreamState,
    },
};

impl<Q: XdsRequest> AdsStream<Q> {
    /// Begins with what the client has from an earlier stream, once its requests have told that. Returns whether responses still wait.
    pub(super) fn resume(&mut self, state: &mut XdsStreamState) -> bool {
        let now = self.api.context.clock.since_start();
        let Some(resumption) = state.resumption.take_if(|resumption| resumption.is_complete(now)) else {
            return state.resumption.is_some();
        };
        let services = resumption.services().into_iter();
        for service in services.filter_map(|name| ServiceName::parse(name).ok()) {
            self.resume_service(state, &resumption, &service);
        }
        // What was read for requests that came before is that of other policies.
        self.read_all_fallbacks(state);
        false
    }

    fn resume_service(&self, state: &mut XdsStreamState, resumption: &Resumption, service: &ServiceName) {
        let policies = self.api.context.engine.registry().policies();
        let present = policies.effective(service);
        let clusters = resumption.clusters_of(service.as_str());
        let before = self.known_policy(state, resumption, service, &present);
        let before = before
            .filter(|before| before.revision != present.revision && has_destinations(service, before, resumption));
        let kept: Vec<_> = if state.policies.keeps_clusters() {
            let kept = clusters.iter().filter(|cluster| !defines(&present, cluster));
            kept.map(|cluster| (Arc::clone(cluster), self.last_definition(service, cluster))).collect()
        } else {
            Vec::new()
        };
        if before.is_some() || !kept.is_empty() {
            let is_accepted = before.is_some();
            let begins_with = before.unwrap_or_else(|| Arc::clone(&present));
            state.policies.resume(service.as_str(), (begins_with, is_accepted), kept);
            state.policies.set_target(service.as_str(), &present, 0);
        }
    }

    /// Returns the policy whose routes the client follows. `None`: it is not known.
    fn known_policy(
        &self,
        state: &XdsStreamState,
        resumption: &Resumption,
        service: &ServiceName,
        present: &EffectivePolicy,
    ) -> Option<Arc<EffectivePolicy>> {
        let registry = self.api.context.engine.registry();
        let policies = registry.policies();
        let (kind, name, hash) = match resumption.routes_of(service.as_str())? {
            KnownRoutes::At(revision) => return policies.effective_at(service, *revision),
            KnownRoutes::Hash(kind, name, hash) => (*kind, name, *hash),
        };
        let make = match kind {
            ResourceType::Listener => listener,
            ResourceType::Route | ResourceType::Cluster | ResourceType::Assignment => route,
        };
        let is_known = |policy: &EffectivePolicy, listed: &BTreeSet<Arc<str>>| {
            let selected = SelectedRoutes { policy, listed, incarnation: registry.incarnation() };
            make(name, &selected, state.client.family).hash == hash
        };
        let final_list = clusters_of(service.as_str(), present);
        if is_known(present, &final_list) {
            return None;
        }
        let known_clusters = resumption.clusters_of(service.as_str());
        let scopes = [PolicyScope::Service(service.clone()), PolicyScope::Defaults];
        let revisions: BTreeSet<_> =
            scopes.iter().flat_map(|scope| policies.revisions(scope)).map(|one| one.revision).collect();
        let before_all = Revision(0);
        let candidates = revisions.into_iter().rev().chain([before_all]);
        candidates.filter_map(|revision| policies.effective_at(service, revision)).find(|policy| {
            let own = clusters_of(service.as_str(), policy);
            let step: BTreeSet<_> = own.union(&final_list).cloned().collect();
            [&own, &step, &known_clusters].into_iter().any(|listed| is_known(policy, listed))
        })
    }

    /// Returns the policy that last defined a cluster.
    fn last_definition(&self, service: &ServiceName, cluster: &str) -> Arc<EffectivePolicy> {
        let policies = self.api.context.engine.registry().policies();
        let revisions = policies.revisions(&PolicyScope::Service(service.clone())).into_iter();
        let mut effective = revisions.filter_map(|one| policies.effective_at(service, one.revision));
        effective.find(|policy| defines(policy, cluster)).unwrap_or_default()
    }
}

/// Returns whether a client can use the routes of a policy: it has their clusters. A client of all clusters does not tell which ones it has.
fn has_destinations(service: &ServiceName, policy: &EffectivePolicy, resumption: &Resumption) -> bool {
    let name = service.as_str();
    let clusters = resumption.clusters_of(name);
    let mut selected = clusters_of(name, policy).into_iter().filter(|cluster| selects(name, policy, cluster));
    !resumption.names_clusters() || selected.all(|cluster| clusters.contains(&cluster))
}
