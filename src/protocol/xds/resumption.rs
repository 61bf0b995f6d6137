//! Routes and clusters that a client has from an earlier stream, so that changes of policies since then are made in steps.
//!
//! A client that reconnects asks for all types again, each in a request of its own and in no certain order. The routes tell which policy
//! it follows, and the clusters which ones it can use. Responses wait until it has asked for both, or for [`RESUMPTION_TIMEOUT`].

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use super::{
    cluster_name::{cluster_prefix, split_cluster_name},
    resource::ResourceType,
    session::{RequestedNames, service_of},
};
use crate::model::Revision;

/// Time that responses wait for the further requests of a client that reconnects. Clients send them at once.
const RESUMPTION_TIMEOUT: Duration = Duration::from_millis(500);

/// Maximum number of clusters that are looked at: that of the resources of a stream.
const MAX_CLUSTERS: usize = 50_000;

/// Routes and clusters that a client has from an earlier stream, as far as its requests have told them.
#[derive(Debug)]
pub(super) struct Resumption {
    ends_at: Duration,
    /// Routes by service.
    routes: BTreeMap<Arc<str>, KnownRoutes>,
    clusters: BTreeSet<Arc<str>>,
    has_routes: bool,
    has_clusters: bool,
}

/// Routes of a service that a client has.
#[derive(Debug)]
pub(super) enum KnownRoutes {
    /// Routes of the policy that was in effect at a revision: the state-of-the-world protocol.
    At(Revision),
    /// Resource with this name and hash: the delta protocol.
    Hash(ResourceType, Arc<str>, u64),
}

impl Resumption {
    /// Resumption of a stream whose first request arrives at `now`.
    pub(super) fn new(now: Duration) -> Self {
        Self {
            ends_at: now + RESUMPTION_TIMEOUT,
            routes: BTreeMap::new(),
            clusters: BTreeSet::new(),
            has_routes: false,
            has_clusters: false,
        }
    }

    /// Time at which responses no longer wait.
    pub(super) fn ends_at(&self) -> Duration {
        self.ends_at
    }

    /// Returns whether the requests have told what is needed.
    pub(super) fn is_complete(&self, now: Duration) -> bool {
        self.has_routes && self.has_clusters || now >= self.ends_at
    }

    /// Takes in a request. `revision`: that of the response which the client accepted last, in the state-of-the-world protocol.
    pub(super) fn add(&mut self, kind: ResourceType, names: &RequestedNames, revision: Option<Revision>) {
        match kind {
            ResourceType::Listener | ResourceType::Route => {
                self.has_routes = true;
                self.add_routes(kind, names, revision);
            }
            ResourceType::Cluster => {
                self.has_clusters = true;
                let (subscribed, initial) = match names {
                    RequestedNames::All(names) => (names, &[][..]),
                    RequestedNames::Changes { subscribe, initial, .. } => (subscribe, &initial[..]),
                };
                let clusters = subscribed.iter().chain(initial.iter().map(|(name, _)| name));
                let free = MAX_CLUSTERS.saturating_sub(self.clusters.len());
                self.clusters.extend(clusters.take(free).map(|name| Arc::from(name.as_str())));
            }
            ResourceType::Assignment => {}
        }
    }

    fn add_routes(&mut self, kind: ResourceType, names: &RequestedNames, revision: Option<Revision>) {
        match (names, revision) {
            (RequestedNames::All(names), Some(revision)) => {
                let routes = names.iter().map(|name| (service_of(kind, name).into(), KnownRoutes::At(revision)));
                self.routes.extend(routes);
            }
            (RequestedNames::All(_), None) => {}
            (RequestedNames::Changes { initial, .. }, _) => {
                let known = initial.iter().filter_map(|(name, hash)| Some((name, (*hash)?)));
                let routes = known.map(|(name, hash)| {
                    (service_of(kind, name).into(), KnownRoutes::Hash(kind, name.as_str().into(), hash))
                });
                self.routes.extend(routes);
            }
        }
    }

    /// Returns the clusters of a service that the client has or has asked for.
    pub(super) fn clusters_of(&self, service: &str) -> BTreeSet<Arc<str>> {
        let prefix = cluster_prefix(service);
        let subsets = self.clusters.range::<str, _>((Bound::Included(&*prefix), Bound::Unbounded));
        let subsets = subsets.take_while(|cluster| cluster.starts_with(&prefix));
        self.clusters.get(service).into_iter().chain(subsets).cloned().collect()
    }

    /// Returns whether the client has named clusters: in the state-of-the-world protocol, a client of all clusters does not.
    pub(super) fn names_clusters(&self) -> bool {
        !self.clusters.is_empty()
    }

    /// Returns the routes of a service. `None`: the client has not told which ones it has.
    pub(super) fn routes_of(&self, service: &str) -> Option<&KnownRoutes> {
        self.routes.get(service)
    }

    /// Services that the client has routes or clusters of.
    pub(super) fn services(&self) -> BTreeSet<&str> {
        let of_clusters = self.clusters.iter().map(|cluster| split_cluster_name(cluster).0);
        self.routes.keys().map(|service| &**service).chain(of_clusters).collect()
    }
}
