//! Changes of policies, as one stream takes them in.

use std::{collections::BTreeSet, sync::Arc};

use super::AdsStream;
use crate::{
    app::ServerContext,
    model::ServiceName,
    protocol::xds::{
        request::XdsRequest, resumption::Resumption, session::Session, stream_list::XdsStreamState,
        stream_policies::AdvancedPolicies,
    },
};

impl<Q: XdsRequest> AdsStream<Q> {
    /// Has the stream woken by the services that take the calls of a subscribed service. Returns whether they are others than before.
    pub(super) fn read_fallbacks(&mut self, state: &mut XdsStreamState, service: &ServiceName) -> bool {
        let policies = self.api.context.engine.registry().policies();
        let fallbacks = match state.policies.rollout(service.as_str(), || policies.effective(service)) {
            Some(rollout) => policies.fallback_services(rollout.fallbacks()),
            None => Vec::new(),
        };
        self.wake.set_fallbacks(service, fallbacks)
    }

    /// Begins the changes of the policies of the services that the client subscribes to, if there are any.
    pub(super) fn take_policies(&mut self) {
        let stream = Arc::clone(&self.entry.stream);
        let mut state = stream.state.lock();
        let policies = self.api.context.engine.registry().policies();
        let seen = state.policies.seen();
        if policies.revision() == seen {
            return;
        }
        let changes = policies.changes_since(seen);
        state.policies.begin_changes(changes.newest);
        match changes.services {
            Some(services) => {
                for service in &services {
                    if state.session.includes_service(service.as_str()) {
                        self.policy_changed(&mut state, service);
                    } else {
                        state.policies.forget(service.as_str());
                    }
                }
                self.read_fallbacks_through(&mut state, &services);
            }
            None => self.all_policies_changed(&mut state),
        }
    }

    fn all_policies_changed(&mut self, state: &mut XdsStreamState) {
        let XdsStreamState { policies, session, .. } = &mut *state;
        policies.forget_unsubscribed(session);
        let services: Vec<_> =
            session.services().into_iter().filter_map(|name| ServiceName::parse(name).ok()).collect();
        for service in &services {
            self.policy_changed(state, service);
        }
        self.read_all_fallbacks(state);
    }

    /// Sets the newest policy of a service that the client subscribes to.
    fn policy_changed(&self, state: &mut XdsStreamState, service: &ServiceName) {
        let policy = self.api.context.engine.registry().policies().effective(service);
        let nonce = state.session.latest_nonce();
        if state.policies.set_target(service.as_str(), &policy, nonce) {
            mark(state, service, &self.api.context, Session::policy_changed);
        }
    }

    /// Reads the fallbacks of these services, and of the services whose calls they take: those follow the fallbacks of these.
    fn read_fallbacks_through(&mut self, state: &mut XdsStreamState, services: &[ServiceName]) {
        let interest = self.wake.interest();
        let dependents = services.iter().flat_map(|service| interest.dependents_of(service)).cloned();
        let affected: BTreeSet<_> = services.iter().cloned().chain(dependents).collect();
        for service in affected {
            if self.wake.interest().is_subscribed(&service) && self.read_fallbacks(state, &service) {
                mark(state, &service, &self.api.context, Session::changed);
            }
        }
    }

    /// Reads the fallbacks of all services, which depend on the policies of other services, too.
    pub(super) fn read_all_fallbacks(&mut self, state: &mut XdsStreamState) {
        let subscribed: Vec<_> = self.wake.interest().subscribed().cloned().collect();
        for service in subscribed {
            if self.read_fallbacks(state, &service) {
                mark(state, &service, &self.api.context, Session::changed);
            }
        }
    }

    /// Takes the steps of policies that the client is ready for. Returns whether there is something to send or a time to wait for.
    pub(super) fn advance(&mut self, state: &mut XdsStreamState) -> bool {
        let now = self.api.context.clock.since_start();
        let AdvancedPolicies { services, forgotten } = state.policies.advance(&state.session, now);
        for service in services.iter().filter_map(|name| ServiceName::parse(name).ok()) {
            mark(state, &service, &self.api.context, Session::policy_changed);
            if self.read_fallbacks(state, &service) {
                mark(state, &service, &self.api.context, Session::changed);
            }
        }
        for cluster in &forgotten {
            state.session.remove_cluster(cluster);
        }
        self.set_timer(state) || !services.is_empty()
    }

    /// Sets the timer of the next step, or of delayed weights. Returns whether it was set anew.
    fn set_timer(&mut self, state: &XdsStreamState) -> bool {
        let resumption = state.resumption.as_ref().map(Resumption::ends_at);
        let wake_at = state.policies.wake_at().into_iter().chain(state.session.wake_at()).chain(resumption).min();
        self.wake.set_timer(wake_at, self.api.context.clock.since_start())
    }
}

/// Marks resources of a service as pending by `mark`, along with the clusters that a client of all clusters is to have.
pub(super) fn mark(
    state: &mut XdsStreamState,
    service: &ServiceName,
    context: &ServerContext,
    mark: impl FnOnce(&mut Session, &str, Vec<&str>),
) {
    let XdsStreamState { session, policies, .. } = state;
    if !session.has_all_clusters() {
        return mark(session, service.as_str(), Vec::new());
    }
    let present = || context.engine.registry().policies().effective(service);
    match policies.rollout(service.as_str(), present) {
        Some(rollout) => mark(session, service.as_str(), rollout.listed().iter().map(|cluster| &**cluster).collect()),
        None => mark(session, service.as_str(), vec![service.as_str()]),
    }
}
