//! Clusters of a service, as one client gets them.

use std::{iter, sync::Arc};

use super::{
    super::{
        XdsApi,
        assignment::{AssignmentParts, ServiceAssignment, TierKind},
        assignment_view::AssignmentQuery,
        client_family::ClientFeature,
        cluster_name::{cluster_name, clusters_of, failing_cluster_name},
        resource::EncodedResource,
        source::{ClientProfile, fallbacks},
    },
    localities::{CalledLocality, called_localities},
};
use crate::{
    balancing::{ClusterQuery, ZoneLayout, ZoneReport},
    model::{EffectivePolicy, ServiceName, SubsetName, ZoneMode},
    pb::callboard::v1 as pb,
};

/// Service with its policy, as one client gets it.
pub(super) struct ClientService<'a> {
    api: &'a XdsApi,
    name: &'a ServiceName,
    pub(super) policy: &'a EffectivePolicy,
    pub(super) client: &'a ClientProfile,
    /// Services that take the calls once this one has no routable instance, in this order.
    fallbacks: Vec<ServiceName>,
}

/// Cluster of a service: the whole service, or a subset.
#[derive(Debug, Clone)]
pub(super) struct ServiceCluster<'a> {
    pub(super) name: Arc<str>,
    pub(super) subset: Option<&'a SubsetName>,
}

/// Assignment of a cluster, as one client gets it.
pub(super) struct ClientAssignment<'a> {
    cluster: &'a ServiceCluster<'a>,
    service: &'a ServiceName,
    pub(super) assignment: &'a ServiceAssignment<'a>,
    parts: AssignmentParts,
    /// `None`: the policy does not prefer the client's zone.
    pub(super) zones: Option<ZoneReport>,
    /// Part of the calls that the client does not drop, from 0 to 1.
    served: f64,
}

impl<'a> ClientService<'a> {
    pub(super) fn new(
        api: &'a XdsApi,
        name: &'a ServiceName,
        policy: &'a EffectivePolicy,
        client: &'a ClientProfile,
    ) -> Self {
        let fallbacks = fallbacks(&api.context, name.as_str(), policy);
        Self { api, name, policy, client, fallbacks }
    }

    /// Percentage of the calls that the client drops.
    pub(super) fn shed(&self) -> u8 {
        if self.client.family.has(ClientFeature::Drops) { self.policy.shed } else { 0 }
    }

    /// Part of the calls that the client does not drop, from 0 to 1.
    pub(super) fn served(&self) -> f64 {
        1.0 - f64::from(self.shed()) / 100.0
    }

    /// Returns the clusters that clients subscribe to, the whole service first.
    pub(super) fn clusters(&self) -> Vec<ServiceCluster<'a>> {
        let name = self.name.as_str();
        let subscribed = clusters_of(name, self.policy);
        let whole = ServiceCluster { name: cluster_name(name, None), subset: None };
        let subsets = self.policy.subsets.keys().flat_map(|subset| {
            let names = [cluster_name(name, Some(subset)), failing_cluster_name(name, subset)];
            names.map(|name| ServiceCluster { name, subset: Some(subset) })
        });
        let clusters = iter::once(whole).chain(subsets);
        clusters.filter(|cluster| subscribed.contains(&cluster.name)).collect()
    }

    /// Reads the present assignment of a cluster.
    pub(super) fn read<T>(&self, cluster: &ServiceCluster<'_>, read: impl FnOnce(&ClientAssignment<'_>) -> T) -> T {
        let context = &*self.api.context;
        let zone = self.client.zone.as_ref();
        let query = AssignmentQuery {
            cluster: &cluster.name,
            policy: self.policy,
            fallbacks: &self.fallbacks,
            layout: self.client.layout(self.policy),
            zone,
        };
        let weights = context.weights.of(self.name);
        query.read(context, (self.name, cluster.subset), weights.as_deref(), |assignment| {
            let parts = assignment.parts();
            let zones = match self.policy.zone {
                ZoneMode::Off => None,
                ZoneMode::Prefer => {
                    let zone = zone.cloned().unwrap_or_default();
                    let now = context.clock.since_start();
                    let query = ClusterQuery { cluster: &cluster.name, policy: self.policy.revision, client: &zone };
                    Some(self.api.zone_layouts.report(query, parts.zones(), now))
                }
            };
            read(&ClientAssignment { cluster, service: self.name, assignment, parts, zones, served: self.served() })
        })
    }

    /// Returns a cluster that gets this percentage of the calls.
    pub(super) fn explained_cluster(&self, assignment: &ClientAssignment<'_>, percent: u32) -> pb::ExplainedCluster {
        let ServiceCluster { name, subset } = assignment.cluster;
        let definition = subset.and_then(|subset| self.policy.subsets.get(subset));
        pb::ExplainedCluster {
            name: name.to_string(),
            subset: subset.map(ToString::to_string).unwrap_or_default(),
            filter: definition.map(|subset| subset.filter.as_str().to_owned()).unwrap_or_default(),
            percent,
            destinations: assignment.destinations(),
        }
    }
}

impl ClientAssignment<'_> {
    fn layout(&self) -> Option<&ZoneLayout> {
        self.zones.as_ref().map(|report| &*report.layout)
    }

    /// Encodes the assignment.
    pub(super) fn resource(&self) -> EncodedResource {
        self.parts.encode(&self.cluster.name, self.layout())
    }

    /// Returns the localities with their parts of the calls.
    pub(super) fn localities(&self) -> Vec<CalledLocality<'_>> {
        called_localities(self.assignment, self.layout(), self.served)
    }

    /// Returns the instances that take the calls, in order. The first are those of the cluster itself, even if there are none.
    fn destinations(&self) -> Vec<pb::ClusterDestination> {
        let own_part = match self.cluster.subset {
            Some(_) => pb::DestinationPart::Subset,
            None => pb::DestinationPart::Service,
        };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mut own = pb::ClusterDestination { service: self.service.to_string(), ..Default::default() };
        own.set_part(own_part);
        let mut destinations = vec![own];
        for (kind, localities) in self.assignment.tiers() {
            let endpoints: usize = localities.iter().map(|locality| locality.endpoints.len()).sum();
            let routable: usize = localities.iter().map(|locality| locality.summary.routable_endpoints).sum();
            let (endpoints, routable) = (count(endpoints), count(routable));
            let part = match kind {
                TierKind::First => {
                    (destinations[0].endpoints, destinations[0].routable) = (endpoints, routable);
                    continue;
                }
                TierKind::Rest => pb::DestinationPart::Rest,
                TierKind::Fallback => pb::DestinationPart::Fallback,
            };
            let first = localities.iter().flat_map(|locality| &locality.endpoints).next();
            let service = first.map(|(endpoint, _)| endpoint.instance.service.to_string()).unwrap_or_default();
            destinations.push(pb::ClusterDestination { service, part: part.into(), endpoints, routable });
        }
        destinations
    }
}

/// Returns the result of the calls, and the reason for which they fail, if they do. `registered`: number of instances of the service;
/// `shed`: percentage of the calls that the client drops.
pub(super) fn outcome(registered: u32, shed: u32, clusters: &[pb::ExplainedCluster]) -> (pb::XdsOutcome, String) {
    let fails = |cluster: &&pb::ExplainedCluster| {
        cluster.percent > 0 && cluster.destinations.iter().all(|destination| destination.routable == 0)
    };
    let failing: Vec<_> = clusters.iter().filter(fails).collect();
    let percent: u32 = failing.iter().map(|cluster| cluster.percent).sum();
    let subsets: Vec<_> = failing.iter().map(|cluster| &*cluster.subset).filter(|subset| !subset.is_empty()).collect();
    let subsets = subsets.join(" and ");
    let see = "see the health status of the endpoints, and the instances that are left out";
    let dropped = format!("clients drop {shed}% of the calls, because the policy has shed = {shed}");
    match percent {
        0 if shed == 0 => (pb::XdsOutcome::Routable, String::new()),
        0..100 if shed == 100 => (pb::XdsOutcome::NothingRoutable, dropped),
        0 => (pb::XdsOutcome::PartlyRoutable, dropped),
        1..100 => {
            let reason = format!("{percent}% of the calls go to {subsets}, of which no instance can be called: {see}");
            let reason = if shed == 0 { reason } else { format!("{dropped}; {reason}") };
            (pb::XdsOutcome::PartlyRoutable, reason)
        }
        _ if registered == 0 => (pb::XdsOutcome::NotRegistered, "no instance is registered: register one".to_owned()),
        _ if subsets.is_empty() => {
            (pb::XdsOutcome::NothingRoutable, format!("no registered instance can be called: {see}"))
        }
        _ => (pb::XdsOutcome::NothingRoutable, format!("no instance of {subsets} can be called: {see}")),
    }
}
