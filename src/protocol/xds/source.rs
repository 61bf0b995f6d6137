//! Resources of this registry, as the client of one stream gets them.

use std::{cell::RefCell, collections::BTreeSet, sync::Arc};

use super::{
    XdsApi,
    assignment::EndpointLayout,
    assignment_view::AssignmentQuery,
    client_family::{ClientFamily, ClientFeature},
    cluster_name::split_cluster_name,
    cluster_resource::cluster,
    request::NodeIdentity,
    resource::{EncodedResource, ResourceType, cluster_of},
    route_resource::{SelectedRoutes, listener, route},
    session::ResourceSource,
    stream_policies::StreamPolicies,
    zone_layouts::{ZoneLayouts, ZonedClient},
};
use crate::{
    app::{ServerContext, ViewValue},
    balancing::ZoneName,
    model::{EffectivePolicy, ServiceName},
};

/// Properties of a client that decide the form of its resources.
#[derive(Debug, Clone)]
pub(super) struct ClientProfile {
    pub(super) family: ClientFamily,
    /// `None`: the client has named no zone.
    pub(super) zone: Option<Arc<ZoneName>>,
}

impl Default for ClientProfile {
    /// A client that has not said what it is.
    fn default() -> Self {
        Self { family: ClientFamily::UNKNOWN, zone: None }
    }
}

impl ClientProfile {
    /// Returns the profile of a client with this identity.
    pub(super) fn of(node: &NodeIdentity) -> Self {
        let zone = ZoneName::new(&node.region, &node.zone);
        Self { family: ClientFamily::of(node), zone: zone.is_named().then(|| Arc::new(zone)) }
    }

    /// Returns the client with its zone. `None`: it has named none.
    pub(super) fn zoned(&self) -> Option<ZonedClient> {
        let reports = self.family.has(ClientFeature::LoadReports);
        self.zone.clone().map(|zone| ZonedClient { zone, reports })
    }

    /// Returns the layout of the assignments that the client gets.
    pub(super) fn layout(&self, policy: &EffectivePolicy) -> EndpointLayout {
        EndpointLayout::of(policy, self.family)
    }
}

/// Returns the services that take the calls of a service once it has no routable instance, in this order.
pub(super) fn fallbacks(context: &ServerContext, service: &str, policy: &EffectivePolicy) -> Vec<ServiceName> {
    let mut fallbacks = context.engine.registry().policies().fallback_services(policy.fallback.iter());
    fallbacks.retain(|fallback| fallback.as_str() != service);
    fallbacks
}

/// Resources of this registry, as the client of one stream gets them. Streams share the bytes of equal assignments: each is encoded once
/// for each state of the registry.
#[derive(Debug)]
pub(super) struct RegistrySource<'a> {
    context: &'a ServerContext,
    zone_layouts: &'a ZoneLayouts,
    client: &'a ClientProfile,
    policies: RefCell<&'a mut StreamPolicies>,
}

impl ViewValue for EncodedResource {
    fn bytes(&self) -> usize {
        self.any.len()
    }
}

impl<'a> RegistrySource<'a> {
    /// Resources for a client with these policies.
    pub(super) fn new(api: &'a XdsApi, client: &'a ClientProfile, policies: &'a mut StreamPolicies) -> Self {
        let (context, zone_layouts) = (&*api.context, &*api.zone_layouts);
        Self { context, zone_layouts, client, policies: RefCell::new(policies) }
    }

    /// Returns the routes that a client follows to a service.
    fn routes(&self, service: &str) -> (Arc<EffectivePolicy>, BTreeSet<Arc<str>>) {
        let mut policies = self.policies.borrow_mut();
        match policies.rollout(service, || self.present_policy(service)) {
            Some(rollout) => (Arc::clone(rollout.selecting()), rollout.listed().clone()),
            None => (Arc::default(), BTreeSet::from([Arc::from(service)])),
        }
    }

    /// Returns the policy that defines a cluster.
    fn policy_of(&self, cluster: &str) -> Arc<EffectivePolicy> {
        let service = split_cluster_name(cluster).0;
        let mut policies = self.policies.borrow_mut();
        let rollout = policies.rollout(service, || self.present_policy(service));
        rollout.map_or_else(Arc::default, |rollout| Arc::clone(rollout.policy_of(cluster)))
    }

    fn present_policy(&self, service: &str) -> Arc<EffectivePolicy> {
        let policies = self.context.engine.registry().policies();
        ServiceName::parse(service).map_or_else(|_| Arc::default(), |service| policies.effective(&service))
    }

    fn routes_resource(
        &self,
        name: &str,
        make: fn(&str, &SelectedRoutes<'_>, ClientFamily) -> EncodedResource,
    ) -> EncodedResource {
        let (policy, listed) = self.routes(cluster_of(name).unwrap_or(name));
        let incarnation = self.context.engine.registry().incarnation();
        make(name, &SelectedRoutes { policy: &policy, listed: &listed, incarnation }, self.client.family)
    }

    fn assignment(&self, name: &str) -> EncodedResource {
        let policy = self.policy_of(name);
        let fallbacks = fallbacks(self.context, split_cluster_name(name).0, &policy);
        let query = AssignmentQuery {
            cluster: name,
            policy: &policy,
            fallbacks: &fallbacks,
            layout: self.client.layout(&policy),
            zone: self.client.zone.as_ref(),
        };
        query.resource(self.context, self.zone_layouts)
    }
}

impl ResourceSource for RegistrySource<'_> {
    fn resource(&self, kind: ResourceType, name: &str) -> Option<EncodedResource> {
        match kind {
            ResourceType::Cluster => cluster(name, &self.policy_of(name), self.client.family),
            ResourceType::Assignment => Some(self.assignment(name)),
            ResourceType::Listener => Some(self.routes_resource(name, listener)),
            ResourceType::Route => Some(self.routes_resource(name, route)),
        }
    }

    fn clusters(&self) -> Vec<Arc<str>> {
        let services = self.context.engine.registry().each_service();
        services.flat_map(|service| self.routes(service.name.as_str()).1).collect()
    }

    fn has_cluster(&self, name: &str) -> bool {
        let service = split_cluster_name(name).0;
        let is_registered = ServiceName::parse(service)
            .is_ok_and(|service| self.context.engine.registry().view_revision(&service).is_some());
        is_registered && self.routes(service).1.contains(name)
    }

    fn revision(&self) -> u64 {
        self.context.engine.registry().applied().0
    }

    fn selected_until(&self, service: &str) -> Option<u64> {
        self.policies.borrow().selected_until(service).map(|revision| revision.0)
    }
}
