//! State of one stream: its subscriptions, and which versions its client has. There is no IO and no clock here.
//!
//! One state machine serves both protocols. A request changes the subscriptions, or accepts or rejects a response. A change of a service
//! marks its resources as pending. [`Session::next_response`] returns the pending resources whose content the client does not have.
//!
//! - Requested names are answered at once. Other changes of a type wait until the client has accepted or rejected the previous response
//!   of that type; several changes become one response with the newest content.
//! - A rejected resource is not sent again until its content changes.
//! - A request with the nonce of an earlier response gets no response in the state-of-the-world protocol: the client sends another one
//!   for the latest response. Only the names that it leaves out are unsubscribed. In the delta protocol all its names count.

#[cfg(test)]
mod histories;
mod subscription;
#[cfg(test)]
mod tests;
mod weight_pacing;

use std::{collections::BTreeSet, sync::Arc};

use super::{
    resource::{EncodedResource, ResourceType},
    rollout::StepAnswer,
};
use crate::model::UnixMillis;
pub(super) use subscription::{ResourceStatus, SentResponse, TypeSubscription, service_of};
use weight_pacing::WeightPacing;

/// Maximum length of a stored error text of a client, in characters.
const MAX_ERROR_CHARS: usize = 1_024;
/// Bytes of resources after which a response ends. The next response has the rest. Some gRPC clients accept 4 MiB.
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// Protocol of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum XdsVariant {
    /// A response has whole resources of a type.
    StateOfTheWorld,
    /// A response has the resources that have changed.
    Delta,
}

/// Names in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestedNames {
    /// All names that the client subscribes to.
    All(Vec<String>),
    /// Changes of the subscription.
    Changes {
        /// Names that are added, or whose resource the client asks for again.
        subscribe: Vec<String>,
        /// Names that are removed.
        unsubscribe: Vec<String>,
        /// Hashes of the resources that the client has from an earlier stream. `None`: the version is none of this server's.
        initial: Vec<(String, Option<u64>)>,
    },
}

/// Request for resources of one type, in the form that both protocols share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SubscriptionRequest {
    pub(super) kind: ResourceType,
    /// Nonce of the response that the request answers. Empty: none.
    pub(super) nonce: String,
    /// Reason for which the client rejects that response. `None`: it accepts it.
    pub(super) error: Option<String>,
    pub(super) names: RequestedNames,
}

/// Resources of the registry.
pub(super) trait ResourceSource {
    /// Returns the present resource. `None`: there is none with this name.
    fn resource(&self, kind: ResourceType, name: &str) -> Option<EncodedResource>;
    /// Returns the names of all clusters.
    fn clusters(&self) -> Vec<Arc<str>>;
    /// Returns whether this is the name of one of all clusters.
    fn has_cluster(&self, name: &str) -> bool;
    /// Returns the newest revision of the registry.
    fn revision(&self) -> u64;
    /// Returns the last revision at which the policy that selects the clusters of a service was in effect. `None`: it is in effect now.
    fn selected_until(&self, service: &str) -> Option<u64>;
}

/// Response to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResourceResponse {
    pub(super) kind: ResourceType,
    pub(super) nonce: u64,
    /// Revision of the registry at which the response was made.
    pub(super) revision: u64,
    pub(super) resources: Vec<(Arc<str>, EncodedResource)>,
    /// Names without a resource, in the delta protocol.
    pub(super) removed: Vec<Arc<str>>,
}

/// Change of what wakes the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum InterestChange {
    /// Changes of this service.
    Add(Arc<str>),
    /// No more changes of this service.
    Remove(Arc<str>),
    /// Changes of all services, or no longer.
    AllServices(bool),
}

/// Outcome of a request, for the log and the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestOutcome {
    /// The client subscribes or unsubscribes, or the request says nothing.
    Subscription,
    /// The client accepts the latest response.
    Accepted,
    /// The client rejects a response, with this text.
    Rejected(Arc<str>),
    /// The request answers an earlier response.
    Outdated,
}

/// State of one stream.
#[derive(Debug)]
pub(super) struct Session {
    variant: XdsVariant,
    types: [TypeSubscription; 4],
    /// Nonce of the latest response of any type.
    nonce: u64,
    /// Endpoints, and clusters that were not requested by name, are withheld until the registry has settled.
    held: bool,
    interest: Vec<InterestChange>,
    /// Number of requests, and of attempts to make a response.
    progress: u64,
    pacing: WeightPacing,
}

impl Session {
    pub(super) fn new(variant: XdsVariant) -> Self {
        Self {
            variant,
            types: ResourceType::ALL.map(|_| TypeSubscription::default()),
            nonce: 0,
            held: false,
            interest: Vec::new(),
            progress: 0,
            pacing: WeightPacing::default(),
        }
    }

    pub(super) fn variant(&self) -> XdsVariant {
        self.variant
    }

    /// Returns the subscription to a type.
    pub(super) fn subscription(&self, kind: ResourceType) -> &TypeSubscription {
        &self.types[kind as usize]
    }

    /// Number of resources of all types that the client named. Each further 256 bytes of a name count as one more.
    pub(super) fn named(&self) -> usize {
        self.types.iter().map(TypeSubscription::named).sum()
    }

    /// Withholds what depends on registrations, or ends that.
    pub(super) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Returns whether responses are withheld until the registry has settled.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// Takes the changes of what wakes the stream since the last call. They have to take effect before the next response is made.
    pub(super) fn take_interest(&mut self) -> Vec<InterestChange> {
        std::mem::take(&mut self.interest)
    }

    /// Number that changes whenever a resource may have got another status.
    pub(super) fn progress(&self) -> u64 {
        self.progress
    }

    /// Takes in a request.
    pub(super) fn request(&mut self, request: SubscriptionRequest, now: UnixMillis) -> RequestOutcome {
        self.progress += 1;
        let subscription = &mut self.types[request.kind as usize];
        let outcome = subscription.answered(&request.nonce, request.error.as_deref(), now);
        if outcome == RequestOutcome::Outdated
            && let RequestedNames::All(names) = &request.names
        {
            // The client's answer to the latest response names what it has added. A resource that it leaves out now and names there
            // has to be sent again, because it has dropped it.
            let changes = subscription.remove_unlisted(names);
            if request.kind == ResourceType::Assignment {
                self.interest_changed(changes);
            }
            return outcome;
        }
        let was_wildcard = subscription.is_wildcard();
        let may_be_all = request.kind.is_complete();
        let changes = match request.names {
            RequestedNames::All(names) => subscription.set_names(names, may_be_all),
            RequestedNames::Changes { subscribe, unsubscribe, initial } => {
                subscription.change_names(subscribe, unsubscribe, initial, may_be_all)
            }
        };
        match request.kind {
            ResourceType::Assignment => self.interest_changed(changes),
            ResourceType::Cluster if was_wildcard != subscription.is_wildcard() => {
                self.interest.push(InterestChange::AllServices(!was_wildcard));
            }
            ResourceType::Cluster | ResourceType::Listener | ResourceType::Route => {}
        }
        outcome
    }

    fn interest_changed(&mut self, changes: Vec<InterestChange>) {
        for change in &changes {
            match change {
                InterestChange::Remove(name) => self.pacing.forget(name),
                InterestChange::Add(_) | InterestChange::AllServices(_) => {}
            }
        }
        self.interest.extend(changes);
    }

    /// Marks the endpoints of a service whose instances have changed as pending. `clusters`: the clusters that a client of all clusters is to
    /// have if the service exists.
    pub(super) fn changed(&mut self, service: &str, clusters: Vec<&str>) {
        let [all_clusters, assignments, ..] = &mut self.types;
        assignments.mark_service(ResourceType::Assignment, service);
        for cluster in clusters {
            all_clusters.mark_new(cluster);
        }
    }

    /// Marks all resources of a service whose policy has changed as pending. `clusters`: as in [`Self::changed`].
    pub(super) fn policy_changed(&mut self, service: &str, clusters: Vec<&str>) {
        for kind in ResourceType::ALL {
            self.types[kind as usize].mark_service(kind, service);
        }
        self.changed(service, clusters);
    }

    /// Removes a cluster from a client of all clusters, unless it has named the cluster.
    pub(super) fn remove_cluster(&mut self, cluster: &str) {
        self.types[ResourceType::Cluster as usize].remove_unnamed(cluster);
    }

    /// Number of subscribed resources of all types.
    pub(super) fn len(&self) -> usize {
        self.types.iter().map(TypeSubscription::len).sum()
    }

    /// Returns whether the client subscribes to all clusters.
    pub(super) fn has_all_clusters(&self) -> bool {
        self.types[ResourceType::Cluster as usize].is_wildcard()
    }

    /// Returns whether the client subscribes to a resource of a service.
    pub(super) fn includes_service(&self, service: &str) -> bool {
        ResourceType::ALL.into_iter().any(|kind| self.types[kind as usize].includes_service(kind, service))
    }

    /// Returns whether the client subscribes to a cluster or to its endpoints.
    pub(super) fn subscribes_to_cluster(&self, cluster: &str) -> bool {
        let [clusters, assignments, ..] = &self.types;
        [clusters, assignments].into_iter().any(|subscription| subscription.status_of(cluster).is_some())
    }

    /// Returns the services of all subscribed resources.
    pub(super) fn services(&self) -> BTreeSet<&str> {
        let mut services = BTreeSet::new();
        for kind in ResourceType::ALL {
            self.types[kind as usize].add_services(kind, &mut services);
        }
        services
    }

    /// Nonce of the latest response. 0: there was none.
    pub(super) fn latest_nonce(&self) -> u64 {
        self.nonce
    }

    /// Returns the reason for which the client rejects a resource of a service that it was sent after this response. `None`: it rejects none.
    pub(super) fn rejection(&self, service: &str, after: u64) -> Option<&Arc<str>> {
        let rejected = ResourceType::ALL.into_iter().filter_map(|kind| {
            let subscription = &self.types[kind as usize];
            subscription.rejected().filter(|_| subscription.rejects_service(kind, service, after))
        });
        rejected.max_by_key(|rejected| rejected.at).map(|rejected| &rejected.error)
    }

    /// Returns the answer of the client to the routes of a service, and to these clusters.
    pub(super) fn answer<'a>(&self, service: &str, clusters: impl IntoIterator<Item = &'a str>) -> StepAnswer {
        match self.unconfirmed(service, clusters) {
            None => StepAnswer::Accepted,
            Some((ResourceType::Listener | ResourceType::Route, _)) => StepAnswer::Waiting,
            Some((kind @ (ResourceType::Cluster | ResourceType::Assignment), name)) => {
                let subscription = &self.types[kind as usize];
                // A client that waits for a cluster would have its calls wait, too.
                let is_awaited = subscription.status_of(&name).is_some() && !subscription.has_accepted(&name);
                if is_awaited { StepAnswer::Waiting } else { StepAnswer::RoutesAccepted }
            }
        }
    }

    /// Returns the first resource that the client has not accepted among the routes of a service and these clusters.
    pub(super) fn unconfirmed<'a>(
        &self,
        service: &str,
        clusters: impl IntoIterator<Item = &'a str>,
    ) -> Option<(ResourceType, String)> {
        let is_synced = |status: Option<ResourceStatus>| status == Some(ResourceStatus::Synced);
        let of_routes = [ResourceType::Listener, ResourceType::Route].into_iter();
        let waiting = of_routes.filter(|kind| {
            let status = self.types[*kind as usize].status_of_service(*kind, service);
            status.is_some() && !is_synced(status)
        });
        let waiting = waiting.map(|kind| (kind, service.to_owned()));
        let of_clusters = clusters.into_iter().flat_map(|cluster| {
            [ResourceType::Cluster, ResourceType::Assignment].map(|kind| (kind, cluster.to_owned()))
        });
        let mut waiting = waiting.chain(
            of_clusters.filter(|(kind, cluster)| !is_synced(self.types[*kind as usize].settled_status(cluster))),
        );
        waiting.next()
    }

    /// Marks the resources of all services as pending.
    pub(super) fn all_changed(&mut self) {
        let [clusters, assignments, ..] = &mut self.types;
        assignments.mark_all();
        clusters.list_again();
    }

    /// Returns the next response, if the client is to get one.
    pub(super) fn next_response(&mut self, source: &impl ResourceSource, now: UnixMillis) -> Option<ResourceResponse> {
        ResourceType::ALL.into_iter().find_map(|kind| self.response_of(kind, source, now))
    }

    fn response_of(
        &mut self,
        kind: ResourceType,
        source: &impl ResourceSource,
        now: UnixMillis,
    ) -> Option<ResourceResponse> {
        let subscription = &mut self.types[kind as usize];
        let depends_on_registrations = match kind {
            ResourceType::Assignment => true,
            ResourceType::Cluster => subscription.is_wildcard(),
            ResourceType::Listener | ResourceType::Route => false,
        };
        if self.held && depends_on_registrations || !subscription.is_due() {
            return None;
        }
        self.progress += 1;
        if subscription.must_list() {
            // Listeners exist for any name, so a list of all of them is empty.
            subscription.list(if kind == ResourceType::Cluster { source.clusters() } else { Vec::new() });
        }
        subscription.list_changed(|name| source.has_cluster(name));
        let resource = |name: &str| source.resource(kind, name);
        let whole = self.variant == XdsVariant::StateOfTheWorld && kind.is_complete();
        // Read before the content, which may be newer.
        let revision = source.revision();
        let pacing = &mut self.pacing;
        let delays = |name: &Arc<str>, resource: &EncodedResource| {
            kind == ResourceType::Assignment && pacing.delays(name, resource)
        };
        let content =
            if whole { subscription.take_whole(resource) } else { subscription.take_pending(resource, delays) }?;
        let names = content.resources.iter().map(|(name, _)| name);
        let revision = match kind {
            ResourceType::Cluster | ResourceType::Assignment => revision,
            ResourceType::Listener | ResourceType::Route => {
                names.filter_map(|name| source.selected_until(service_of(kind, name))).fold(revision, u64::min)
            }
        };
        self.nonce += 1;
        let nonce = self.nonce;
        let new = subscription.sent(&content.resources, SentResponse { nonce, revision, at: now });
        if kind == ResourceType::Assignment {
            content.resources.iter().for_each(|(name, resource)| self.pacing.sent(name, resource));
        }
        let removed = match self.variant {
            XdsVariant::StateOfTheWorld => Vec::new(),
            XdsVariant::Delta => content.removed,
        };
        if kind == ResourceType::Cluster {
            // Envoy waits for the endpoints of a changed cluster, and may have asked for them before it got the cluster.
            let assignments = &mut self.types[ResourceType::Assignment as usize];
            for name in &new {
                assignments.send_again(name);
            }
        }
        Some(ResourceResponse { kind, nonce, revision, resources: content.resources, removed })
    }
}
