//! Endpoints of a service or a subset: instances as localities with weights and priorities.
//!
//! An assignment has *tiers*: the instances that the calls are for, and those that take the calls once none of the former is routable.
//! Each tier has its own priorities, so clients change over by themselves. Every tier consists of localities, whose names depend on the
//! instances alone: a client reconnects to an endpoint that moves to another locality.
//!
//! | file | holds |
//! |---|---|
//! | `endpoint` | an instance as an endpoint, and reasons for which it is none |
//! | `locality` | names and weights of localities |
//! | `priority` | priorities and weights for the clients of a zone |
//! | `parts` | localities encoded once, for the clients of all zones |
//! | `wire` | fields of the messages |

mod endpoint;
mod locality;
mod parts;
#[cfg(test)]
mod policy_tests;
mod priority;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::LazyLock,
};

use super::{
    client_family::{ClientFamily, ClientFeature},
    cluster_name::EmptyModes,
};
use crate::{
    balancing::ZoneLayout,
    model::{EffectivePolicy, EmptySubset, Instance, LoadBalancing, SubsetName, WeightSource},
};
pub(super) use endpoint::{OmissionReason, XdsEndpoint};
use locality::LocalityNaming;
pub(super) use locality::{AssignedLocality, TierKind, instance_hash};
pub(super) use parts::AssignmentParts;
pub(super) use priority::PlannedLocality;

/// Maximum number of endpoints of a service that each get a locality of their own.
const MAX_SINGLE_LOCALITIES: usize = 256;

/// Policy of a service for which nothing is set.
static NO_POLICY: LazyLock<EffectivePolicy> = LazyLock::new(EffectivePolicy::default);

/// Layout of assignments that a client understands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) enum EndpointLayout {
    /// Localities with weights, in priorities.
    #[default]
    Priorities,
    /// One locality in each priority, whose endpoints have the weights: for ring hash, where clients multiply the weights of endpoints
    /// and localities.
    Ring,
    /// The first priority with routable endpoints alone, for clients that cannot use others.
    FirstPriority,
    /// The same, for clients that ignore weights, too.
    Flat,
}

impl EndpointLayout {
    /// Returns the layout for the clients of a policy.
    pub(super) fn of(policy: &EffectivePolicy, family: ClientFamily) -> Self {
        match policy.lb {
            _ if !family.has(ClientFeature::Localities) => Self::Flat,
            _ if !family.has(ClientFeature::Priorities) => Self::FirstPriority,
            LoadBalancing::RingHash if family.has(ClientFeature::RingHash) => Self::Ring,
            LoadBalancing::RingHash
            | LoadBalancing::RoundRobin
            | LoadBalancing::LeastRequest
            | LoadBalancing::Weighted => Self::Priorities,
        }
    }
}

/// Effective weight of an instance in hundredths of a configured unit.
pub(super) type EffectiveWeight<'a> = dyn Fn(&Instance) -> u32 + 'a;

/// Content of an assignment.
pub(super) struct AssignmentInput<'a> {
    /// Policy of the service.
    pub(super) policy: &'a EffectivePolicy,
    /// Subset whose instances come first. `None`: those of the whole service.
    pub(super) subset: Option<&'a SubsetName>,
    /// The cluster is for the calls of the subset that fail while it is empty, if others do not.
    pub(super) is_failing: bool,
    /// Instances of the service.
    pub(super) own: Vec<&'a Instance>,
    /// Instances of each service that takes the calls once this one has no routable instance, in this order.
    pub(super) fallbacks: Vec<Vec<&'a Instance>>,
    /// Effective weights. `None`: as configured.
    pub(super) weights: Option<&'a EffectiveWeight<'a>>,
    pub(super) layout: EndpointLayout,
}

/// Instances of an assignment in tiers of localities, and the instances of the service that are no endpoints.
#[derive(Debug)]
pub(super) struct ServiceAssignment<'a> {
    /// Tiers with at least one endpoint each.
    tiers: Vec<Vec<AssignedLocality<'a>>>,
    /// Instances of each tier.
    kinds: Vec<TierKind>,
    layout: EndpointLayout,
    /// Percentage of calls that clients drop.
    shed: u8,
    /// Weights change by themselves.
    is_dynamic: bool,
    /// Instances of the service that are left out.
    pub(super) omitted: Vec<(&'a Instance, OmissionReason)>,
}

impl<'a> AssignmentInput<'a> {
    /// Encodes the assignment of the cluster with this name for the clients of a zone. `None`: for clients without a preference.
    #[cfg(test)]
    pub(super) fn encode(&self, cluster: &str, zone: Option<&ZoneLayout>) -> super::resource::EncodedResource {
        self.sort().parts().encode(cluster, zone)
    }

    /// Sorts the instances into tiers and localities. An assignment in which an address occurs twice is rejected by clients as a whole, so
    /// the newest registration of an address in the service keeps it, and a fallback does not repeat it.
    pub(super) fn sort(&self) -> ServiceAssignment<'a> {
        let mut omitted = Vec::new();
        let mut addresses = HashSet::new();
        let own = endpoints_with_own_address(&self.own, &mut addresses, &mut omitted);
        let own_count = own.len();
        let mut tiers = self.own_tiers(own);
        if self.falls_back() {
            for instances in &self.fallbacks {
                let endpoints = endpoints_with_own_address(instances, &mut addresses, &mut Vec::new());
                tiers.push((TierKind::Fallback, endpoints));
            }
        }
        for endpoint in tiers.iter_mut().flat_map(|(_, endpoints)| endpoints) {
            // An additional address that is an address of another endpoint is dropped.
            endpoint.additional = endpoint.additional.filter(|additional| addresses.insert(*additional));
        }
        let is_dynamic = self.policy.weights == WeightSource::ResponseTime || !self.policy.slow_start.is_zero();
        let naming = match (self.layout, is_dynamic) {
            (EndpointLayout::Ring, _) => LocalityNaming::Zone,
            (EndpointLayout::Priorities | EndpointLayout::FirstPriority | EndpointLayout::Flat, false) => {
                LocalityNaming::Weight
            }
            (EndpointLayout::Priorities | EndpointLayout::FirstPriority | EndpointLayout::Flat, true)
                if own_count <= MAX_SINGLE_LOCALITIES =>
            {
                LocalityNaming::Instance
            }
            (EndpointLayout::Priorities | EndpointLayout::FirstPriority | EndpointLayout::Flat, true) => {
                LocalityNaming::WeightClass
            }
        };
        let tiers = tiers.into_iter().filter(|(_, endpoints)| !endpoints.is_empty());
        let tiers = tiers.map(|(kind, endpoints)| {
            let localities = match kind {
                TierKind::First | TierKind::Rest => locality::group(kind, naming, endpoints, self.weights),
                // Effective weights are those of the service itself.
                TierKind::Fallback if naming == LocalityNaming::Zone => locality::group(kind, naming, endpoints, None),
                TierKind::Fallback => locality::group(kind, LocalityNaming::Weight, endpoints, None),
            };
            (kind, localities)
        });
        let (kinds, tiers) = tiers.unzip();
        ServiceAssignment { tiers, kinds, layout: self.layout, shed: self.policy.shed, is_dynamic, omitted }
    }

    /// Returns the tiers of the service's own endpoints.
    fn own_tiers(&self, own: Vec<XdsEndpoint<'a>>) -> Vec<(TierKind, Vec<XdsEndpoint<'a>>)> {
        let Some(subset) = self.subset else { return vec![(TierKind::First, own)] };
        let filter = self.policy.subsets.get(subset).map(|subset| &subset.filter);
        let is_selected = |endpoint: &XdsEndpoint<'_>| filter.is_some_and(|filter| filter.matches(endpoint.instance));
        let (selected, rest) = own.into_iter().partition(is_selected);
        let mut tiers = vec![(TierKind::First, selected)];
        if self.falls_back() {
            tiers.push((TierKind::Rest, rest));
        }
        tiers
    }

    /// Returns whether other instances take the calls. A subset without calls has no others: clients would connect to them once more.
    fn falls_back(&self) -> bool {
        match self.subset.map(|subset| EmptyModes::of(self.policy, subset)) {
            None | Some(EmptyModes::Same(EmptySubset::Spill)) => true,
            Some(EmptyModes::NoCalls | EmptyModes::Same(EmptySubset::Fail)) => false,
            Some(EmptyModes::Both) => !self.is_failing,
        }
    }
}

/// Returns the endpoints of a service, except for those whose address is taken by an earlier service. The newest registration of an
/// address keeps it.
fn endpoints_with_own_address<'a>(
    instances: &[&'a Instance],
    taken: &mut HashSet<SocketAddr>,
    omitted: &mut Vec<(&'a Instance, OmissionReason)>,
) -> Vec<XdsEndpoint<'a>> {
    let mut newest: HashMap<SocketAddr, &'a Instance> = HashMap::new();
    let mut endpoints = Vec::new();
    for &instance in instances {
        match XdsEndpoint::new(instance) {
            Ok(endpoint) if taken.contains(&endpoint.address) => {}
            Ok(endpoint) => {
                let newest = newest.entry(endpoint.address).or_insert(instance);
                if newest.registered_revision < instance.registered_revision {
                    *newest = instance;
                }
                endpoints.push(endpoint);
            }
            Err(reason) => omitted.push((instance, reason)),
        }
    }
    endpoints.retain(|endpoint| match newest.get(&endpoint.address) {
        Some(newest) if newest.id != endpoint.instance.id => {
            omitted.push((endpoint.instance, OmissionReason::SameAddress(newest.id.clone())));
            false
        }
        Some(_) | None => true,
    });
    taken.extend(newest.into_keys());
    endpoints
}

impl<'a> ServiceAssignment<'a> {
    /// Sorts the instances of a service without a policy into localities.
    pub(super) fn without_policy(instances: impl Iterator<Item = &'a Instance>) -> Self {
        let input = AssignmentInput {
            policy: &NO_POLICY,
            subset: None,
            is_failing: false,
            own: instances.collect(),
            fallbacks: Vec::new(),
            weights: None,
            layout: EndpointLayout::Priorities,
        };
        input.sort()
    }

    /// Returns the localities as the clients of a zone get them, by priority. `None`: clients without a preference.
    pub(super) fn localities(&self, zone: Option<&ZoneLayout>) -> Vec<(PlannedLocality, &AssignedLocality<'a>)> {
        let summaries: Vec<Vec<_>> =
            self.tiers.iter().map(|tier| tier.iter().map(|locality| &locality.summary).collect()).collect();
        let planned = priority::plan(&summaries, zone, self.layout, self.shed);
        planned.into_iter().map(|planned| (planned, &self.tiers[planned.tier][planned.locality])).collect()
    }

    /// Returns the tiers with at least one endpoint each, in the order in which clients call them.
    pub(super) fn tiers(&self) -> impl Iterator<Item = (TierKind, &[AssignedLocality<'a>])> {
        self.kinds.iter().copied().zip(self.tiers.iter().map(Vec::as_slice))
    }

    /// Layout of the clients.
    pub(super) fn layout(&self) -> EndpointLayout {
        self.layout
    }

    /// Encodes the localities.
    pub(super) fn parts(&self) -> AssignmentParts {
        AssignmentParts::new(self)
    }
}
