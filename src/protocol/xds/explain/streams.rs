//! Streams that subscribe to the resources of a service.

use super::{
    super::{
        XdsApi,
        resource::ResourceType,
        session::{ResourceSource, ResourceStatus, TypeSubscription, XdsVariant},
        source::RegistrySource,
        stream_list::{XdsStream, XdsStreamState},
        stream_policies::StreamPolicies,
    },
    ResourceNames,
};
use crate::{
    model::{Revision, ServiceName},
    pb::{callboard::v1 as pb, time::timestamp},
};

/// Maximum number of streams in a response.
const MAX_STREAMS: usize = 100;

impl XdsApi {
    /// Adds the streams that subscribe to resources of the service.
    pub(super) fn explain_streams(&self, names: &ResourceNames<'_>, answer: &mut pb::ExplainResponse) {
        for stream in self.streams.all() {
            let mut state = stream.state.lock();
            let subscribed = subscribed(&state, names);
            if subscribed.is_empty() {
                continue;
            }
            answer.stream_count += 1;
            if answer.streams.len() < MAX_STREAMS {
                answer.streams.push(self.explained_stream(&stream, &mut state, names, &subscribed));
            }
        }
    }

    fn explained_stream(
        &self,
        stream: &XdsStream,
        state: &mut XdsStreamState,
        names: &ResourceNames<'_>,
        subscribed: &[(ResourceType, String)],
    ) -> pb::ServiceXdsStream {
        let service = names.service.unwrap_or_default();
        let rollout = state.policies.get(service);
        let policy_revision = rollout.map_or(0, |rollout| rollout.selecting().revision.0);
        // A client that has not begun with a policy is not changed by the question.
        let (is_begun, mut none) = (rollout.is_some(), StreamPolicies::default());
        let is_due = !is_begun && self.has_policy(service);
        let policies = if is_begun { &mut state.policies } else { &mut none };
        let source = RegistrySource::new(self, &state.client, policies);
        let subscriptions = subscribed.iter().filter_map(|(kind, name)| {
            let subscription = state.session.subscription(*kind);
            let present = if is_due { None } else { source.resource(*kind, name) };
            let is_current = present.is_some_and(|present| subscription.sent_hash(name) == Some(present.hash));
            let status = subscription.status_of(name)?;
            let explained = self.explained_subscription(*kind, (subscription, status), name);
            Some(pb::ServiceXdsSubscription { current: is_current, ..explained })
        });
        pb::ServiceXdsStream {
            node_id: state.node.id.clone(),
            agent: state.node.agent(),
            peer: stream.peer.to_string(),
            delta: state.session.variant() == XdsVariant::Delta,
            subscriptions: subscriptions.collect(),
            policy_revision,
        }
    }

    fn has_policy(&self, service: &str) -> bool {
        let policies = self.context.engine.registry().policies();
        ServiceName::parse(service).is_ok_and(|service| policies.effective(&service).revision > Revision(0))
    }

    fn explained_subscription(
        &self,
        kind: ResourceType,
        (subscription, status): (&TypeSubscription, ResourceStatus),
        name: &str,
    ) -> pb::ServiceXdsSubscription {
        let rejected = subscription.rejected().filter(|_| status == ResourceStatus::Rejected);
        let (state, since) = match status {
            ResourceStatus::NotSent => (pb::XdsState::NotSent, None),
            ResourceStatus::Stale => (pb::XdsState::Stale, subscription.unanswered_since()),
            ResourceStatus::Rejected => (pb::XdsState::Nacked, rejected.map(|rejected| rejected.at)),
            ResourceStatus::Synced => (pb::XdsState::Synced, subscription.accepted().map(|response| response.at)),
        };
        pb::ServiceXdsSubscription {
            r#type: kind.label().to_owned(),
            state: state.into(),
            since: since.map(|at| timestamp(at.0)),
            sent_version: subscription.sent_hash(name).map(|hash| self.version(hash)).unwrap_or_default(),
            error: rejected.map(|rejected| rejected.error.to_string()).unwrap_or_default(),
            name: name.to_owned(),
            current: false,
        }
    }
}

/// Returns the resources of the service that a stream subscribes to, with the clusters of earlier policies that the client still has.
fn subscribed(state: &XdsStreamState, names: &ResourceNames<'_>) -> Vec<(ResourceType, String)> {
    let rollout = names.service.and_then(|service| state.policies.get(service));
    let mut clusters = names.clusters.clone();
    clusters.extend(rollout.iter().flat_map(|rollout| rollout.listed()).cloned());
    let all = ResourceNames { clusters, ..*names };
    let is_subscribed =
        |(kind, name): &(ResourceType, &str)| state.session.subscription(*kind).status_of(name).is_some();
    all.all().filter(is_subscribed).map(|(kind, name)| (kind, name.to_owned())).collect()
}
