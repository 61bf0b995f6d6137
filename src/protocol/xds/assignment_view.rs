//! Assignments of this registry, encoded once for all streams whose clients get the same.
//!
//! Localities are encoded once for each state of the instances. If the clients prefer their zones, the assignments for the clients of
//! each zone are made from that; otherwise all clients get one.

use std::{convert::Infallible, hash::Hasher, sync::Arc};

use siphasher::sip::SipHasher13;

use super::{
    assignment::{AssignmentInput, AssignmentParts, EndpointLayout, ServiceAssignment},
    cluster_name::{is_failing_cluster, split_cluster_name},
    resource::EncodedResource,
    zone_layouts::ZoneLayouts,
};
use crate::{
    app::{ServerContext, View, ViewKey, ViewValue, ViewVersion},
    balancing::{ClusterQuery, ServiceWeights, ZoneLayout, ZoneName},
    model::{EffectivePolicy, Instance, Revision, ServiceName, SubsetName, ZoneMode},
};

/// Assignment that a client asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct AssignmentQuery<'a> {
    /// Name of the cluster: of a service or a subset.
    pub(super) cluster: &'a str,
    /// Policy that defines the cluster.
    pub(super) policy: &'a EffectivePolicy,
    /// Services that take the calls once the service has no routable instance, in this order.
    pub(super) fallbacks: &'a [ServiceName],
    pub(super) layout: EndpointLayout,
    /// Zone of the client. `None`: it has named none.
    pub(super) zone: Option<&'a Arc<ZoneName>>,
}

/// State of the registry that an assignment shows.
struct AssignmentState<'a> {
    context: &'a ServerContext,
    query: AssignmentQuery<'a>,
    service: ServiceName,
    subset: Option<SubsetName>,
    weights: Option<Arc<ServiceWeights>>,
    version: ViewVersion,
}

impl AssignmentQuery<'_> {
    /// Returns the assignment.
    pub(super) fn resource(self, context: &ServerContext, layouts: &ZoneLayouts) -> EncodedResource {
        let empty = || ServiceAssignment::without_policy(std::iter::empty()).parts().encode(self.cluster, None);
        let (service, subset) = split_cluster_name(self.cluster);
        let (Ok(service), Ok(subset)) = (ServiceName::parse(service), subset.map(SubsetName::parse).transpose()) else {
            return empty();
        };
        let registry = context.engine.registry();
        // Read before the instances, which may be newer. Then they are encoded once more.
        let revision = registry.view_revision(&service);
        if revision.is_none() && self.fallbacks.is_empty() {
            return empty();
        }
        let weights = context.weights.of(&service);
        let version = self.version(context, revision.unwrap_or(Revision(0)), weights.as_deref());
        let state = AssignmentState { context, query: self, service, subset, weights, version };
        match self.policy.zone {
            ZoneMode::Off => {
                // A client that rejected the present policy may have one without zones, while others have zones.
                let is_present = || registry.policies().effective(&state.service).revision == self.policy.revision;
                if layouts.has(self.cluster) && is_present() {
                    layouts.end(self.cluster);
                }
                state.encoded(None, || state.parts().encode(self.cluster, None))
            }
            ZoneMode::Prefer => {
                let parts = state.shared_parts();
                let zone = self.zone.and_then(|client| {
                    let query = ClusterQuery { cluster: self.cluster, policy: self.policy.revision, client };
                    layouts.layout(query, parts.zones(), context.clock.since_start())
                });
                let zone = zone.as_deref();
                state.encoded(zone, || parts.encode(self.cluster, zone))
            }
        }
    }

    /// Reads the present instances of a cluster, sorted into tiers and localities. `weights`: effective weights of the service.
    pub(super) fn read<T>(
        &self,
        context: &ServerContext,
        (service, subset): (&ServiceName, Option<&SubsetName>),
        weights: Option<&ServiceWeights>,
        read: impl FnOnce(&ServiceAssignment<'_>) -> T,
    ) -> T {
        let registry = context.engine.registry();
        let own = registry.chunks(service);
        let fallbacks: Vec<_> = self.fallbacks.iter().map(|fallback| registry.chunks(fallback)).collect();
        let own = own.iter().flat_map(|chunk| chunk.entries()).map(|entry| &entry.instance);
        let fallbacks = fallbacks
            .iter()
            .map(|chunks| chunks.iter().flat_map(|chunk| chunk.entries()).map(|entry| &entry.instance).collect());
        let weigh = |instance: &Instance| weights.map_or(0, |weights| weights.of(instance));
        let input = AssignmentInput {
            policy: self.policy,
            subset,
            is_failing: is_failing_cluster(self.cluster),
            own: own.collect(),
            fallbacks: fallbacks.collect(),
            weights: weights.is_some().then_some(&weigh),
            layout: self.layout,
        };
        read(&input.sort())
    }

    fn version(&self, context: &ServerContext, revision: Revision, weights: Option<&ServiceWeights>) -> ViewVersion {
        let at = ViewVersion::at(revision);
        if self.policy.revision == Revision(0) && self.fallbacks.is_empty() && weights.is_none() {
            return at;
        }
        let mut inputs = SipHasher13::new();
        inputs.write_u64(self.policy.revision.0);
        inputs.write_u64(weights.map_or(0, ServiceWeights::version));
        for fallback in self.fallbacks {
            inputs.write(fallback.as_str().as_bytes());
            inputs.write_u64(context.engine.registry().view_revision(fallback).map_or(0, |revision| revision.0));
        }
        ViewVersion { inputs: inputs.finish(), ..at }
    }
}

impl AssignmentState<'_> {
    #[expect(clippy::redundant_closure_for_method_calls, reason = "the method is that of one lifetime")]
    fn parts(&self) -> AssignmentParts {
        let cluster = (&self.service, self.subset.as_ref());
        self.query.read(self.context, cluster, self.weights.as_deref(), |assignment| assignment.parts())
    }

    /// Returns the localities, encoded once for the clients of all zones.
    fn shared_parts(&self) -> Arc<AssignmentParts> {
        self.view(&self.key("localities", None), || self.parts())
    }

    /// Returns the assignment for the clients of a zone.
    fn encoded(&self, zone: Option<&ZoneLayout>, encode: impl FnOnce() -> EncodedResource) -> EncodedResource {
        let mut version = self.version;
        if let Some(zone) = zone {
            let mut inputs = SipHasher13::new();
            inputs.write_u64(version.inputs);
            for (zone, share) in &zone.shares {
                inputs.write(zone.region.as_bytes());
                inputs.write_u8(0);
                inputs.write(zone.zone.as_bytes());
                inputs.write_u8(0);
                inputs.write_u32(*share);
            }
            version.inputs = inputs.finish();
        }
        EncodedResource::clone(&self.view_at(&self.key("", zone), version, encode))
    }

    fn view<V: ViewValue>(&self, key: &str, make: impl FnOnce() -> V) -> Arc<V> {
        self.view_at(key, self.version, make)
    }

    fn view_at<V: ViewValue>(&self, key: &str, version: ViewVersion, make: impl FnOnce() -> V) -> Arc<V> {
        let key = ViewKey::new(View::XdsAssignment, self.query.cluster, key);
        let make = || Ok::<_, Infallible>((make(), version));
        let Ok((value, _)) = self.context.views.get(key, |known| *known == version, make);
        value
    }

    /// Returns the part of the key of a view that tells the forms of a cluster apart that clients get at the same time.
    fn key(&self, form: &str, zone: Option<&ZoneLayout>) -> String {
        let AssignmentQuery { policy, layout, .. } = self.query;
        if form.is_empty() && zone.is_none() && policy.revision == Revision(0) && layout == EndpointLayout::Priorities {
            return String::new();
        }
        let zone = zone.map(|zone| format!("{}\0{}", zone.client.region, zone.client.zone)).unwrap_or_default();
        format!("{form} {} {layout:?} {zone}", policy.revision.0)
    }
}
