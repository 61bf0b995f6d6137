//! Localities with their endpoints, and instances that are left out, in pages.

use prost::Message;

use super::super::assignment::{
    AssignedLocality, EndpointLayout, OmissionReason, PlannedLocality, ServiceAssignment, XdsEndpoint,
};
use crate::{
    app::PAGE_BYTES,
    balancing::ZoneLayout,
    model::{Instance, InstanceId, ServiceName},
    pb::callboard::v1 as pb,
};

/// Locality of a cluster, as one client gets it.
#[derive(Debug)]
pub(super) struct CalledLocality<'a> {
    planned: PlannedLocality,
    locality: &'a AssignedLocality<'a>,
    /// Percentage of the calls of the cluster.
    percent: f64,
}

impl<'a> CalledLocality<'a> {
    /// Returns the instances that get calls.
    pub(super) fn called_endpoints(&self) -> impl Iterator<Item = &'a Instance> {
        let is_called = self.percent > 0.0;
        let instances = self.locality.endpoints.iter().map(|(endpoint, _)| endpoint.instance);
        instances.filter(move |instance| is_called && instance.status().is_routable())
    }
}

/// Returns the localities for the clients of a zone with their parts of the calls. `None`: clients without a preference. `served`: part of
/// the calls that the client does not drop, from 0 to 1.
pub(super) fn called_localities<'a>(
    assignment: &'a ServiceAssignment<'a>,
    zone: Option<&ZoneLayout>,
    served: f64,
) -> Vec<CalledLocality<'a>> {
    let localities = assignment.localities(zone);
    let routable = |locality: &AssignedLocality<'_>| locality.summary.routable_endpoints;
    let called = localities.iter().filter(|(_, locality)| routable(locality) > 0).map(|(planned, _)| planned.priority);
    let called = called.min();
    let weight = |planned: &PlannedLocality, locality: &AssignedLocality<'_>| match assignment.layout() {
        _ if Some(planned.priority) != called || routable(locality) == 0 => 0,
        EndpointLayout::Priorities | EndpointLayout::Ring | EndpointLayout::FirstPriority => planned.weight,
        // The client does not know weights.
        EndpointLayout::Flat => routable(locality) as u64,
    };
    let total: u64 = localities.iter().map(|(planned, locality)| weight(planned, locality)).sum();
    let localities = localities.into_iter().map(|(planned, locality)| CalledLocality {
        planned,
        locality,
        percent: percent(weight(&planned, locality), total) * served,
    });
    localities.collect()
}

#[expect(clippy::cast_precision_loss, reason = "a percentage needs no more than 53 bits")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

/// Position of an instance in the pages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PagePosition {
    service: ServiceName,
    id: InstanceId,
}

impl PagePosition {
    pub(super) fn of(instance: &Instance) -> Self {
        Self { service: instance.service.clone(), id: instance.id.clone() }
    }

    /// Parses the token of a page.
    pub(super) fn parse(token: &str) -> Option<Self> {
        let (service, id) = token.split_once('/')?;
        Some(Self { service: ServiceName::parse(service).ok()?, id: InstanceId::parse_any(id).ok()? })
    }

    fn token(&self) -> String {
        format!("{}/{}", self.service, self.id)
    }
}

/// Endpoint or left-out instance.
enum ExplainedInstance<'a> {
    Endpoint { locality: usize, endpoint: &'a XdsEndpoint<'a> },
    Omitted(&'a Instance, &'a OmissionReason),
}

impl ExplainedInstance<'_> {
    fn instance(&self) -> &Instance {
        match self {
            Self::Endpoint { endpoint, .. } => endpoint.instance,
            Self::Omitted(instance, _) => instance,
        }
    }

    fn key(&self) -> (&ServiceName, &InstanceId) {
        let instance = self.instance();
        (&instance.service, &instance.id)
    }
}

/// Adds the instances of a page, by service and id, and the token of the next one.
pub(super) fn add_page(
    localities: &[CalledLocality<'_>],
    omitted: &[(&Instance, OmissionReason)],
    (after, size): (Option<&PagePosition>, usize),
    answer: &mut pb::ExplainResponse,
) {
    let endpoints = localities.iter().enumerate().flat_map(|(locality, called)| {
        let endpoints = called.locality.endpoints.iter();
        endpoints.map(move |(endpoint, _)| ExplainedInstance::Endpoint { locality, endpoint })
    });
    let omitted = omitted.iter().map(|(instance, reason)| ExplainedInstance::Omitted(instance, reason));
    let mut all: Vec<_> = endpoints.chain(omitted).collect();
    all.sort_unstable_by(|one, other| one.key().cmp(&other.key()));
    let is_before =
        |instance: &ExplainedInstance<'_>, after: &PagePosition| instance.key() <= (&after.service, &after.id);
    let first = after.map_or(0, |after| all.partition_point(|instance| is_before(instance, after)));
    let length = add_instances(localities, &all[first..], size, answer);
    let last = all[first..].get(length.wrapping_sub(1)).filter(|_| first + length < all.len());
    answer.next_page_token = last.map(|last| PagePosition::of(last.instance()).token()).unwrap_or_default();
}

/// Adds as many instances as fit on a page, and returns their number.
fn add_instances(
    localities: &[CalledLocality<'_>],
    instances: &[ExplainedInstance<'_>],
    size: usize,
    answer: &mut pb::ExplainResponse,
) -> usize {
    let mut found: Vec<Option<pb::XdsLocality>> = localities.iter().map(|_| None).collect();
    let (mut bytes, mut length) = (0, 0);
    for instance in instances.iter().take(size) {
        if bytes >= PAGE_BYTES {
            break;
        }
        length += 1;
        match instance {
            ExplainedInstance::Endpoint { locality, endpoint } => {
                let explained = explained_endpoint(endpoint);
                bytes += explained.encoded_len();
                let group = found[*locality].get_or_insert_with(|| {
                    let explained = explained_locality(&localities[*locality], endpoint.instance);
                    bytes += explained.encoded_len();
                    explained
                });
                group.endpoints.push(explained);
            }
            ExplainedInstance::Omitted(instance, reason) => {
                let omitted = omitted(instance, reason);
                bytes += omitted.encoded_len();
                answer.omitted.push(omitted);
            }
        }
    }
    answer.localities = found.into_iter().flatten().collect();
    length
}

/// Returns a locality without its endpoints. `instance`: one of them.
fn explained_locality(called: &CalledLocality<'_>, instance: &Instance) -> pb::XdsLocality {
    let CalledLocality { planned, locality, percent } = called;
    pb::XdsLocality {
        region: locality.summary.zone.region.to_string(),
        zone: locality.summary.zone.zone.to_string(),
        sub_zone: locality.sub_zone.clone(),
        weight: u32::try_from(planned.weight).unwrap_or(u32::MAX),
        percent: *percent,
        endpoints: Vec::new(),
        priority: planned.priority,
        service: instance.service.to_string(),
    }
}

fn explained_endpoint(endpoint: &XdsEndpoint<'_>) -> pb::XdsEndpoint {
    let addresses = [Some(endpoint.address), endpoint.additional];
    let addresses = addresses.into_iter().flatten().map(|address| pb::Address {
        host: address.ip().to_string(),
        port: address.port().into(),
        name: String::new(),
    });
    pb::XdsEndpoint {
        instance_id: endpoint.instance.id.to_string(),
        addresses: addresses.collect(),
        health_status: endpoint.health().as_str_name().to_owned(),
        status: status(endpoint.instance).into(),
    }
}

fn status(instance: &Instance) -> pb::InstanceStatus {
    let name = format!("INSTANCE_STATUS_{}", instance.status().as_str());
    pb::InstanceStatus::from_str_name(&name).unwrap_or_default()
}

/// Returns an instance that is left out, with the reason and a remedy.
fn omitted(instance: &Instance, reason: &OmissionReason) -> pb::OmittedInstance {
    let address = instance.addresses.first().map(|address| address.host.as_ref()).unwrap_or_default();
    let path = format!("{}/{}", instance.service, instance.id);
    let (kind, problem, hint) = match reason {
        OmissionReason::Starting if instance.conditions.starting => (
            pb::OmissionReason::Starting,
            "it has not reported that it is ready".to_owned(),
            "wait until it has; a program clears `starting` with UpdateInstance".to_owned(),
        ),
        OmissionReason::Starting => (
            pb::OmissionReason::Starting,
            "a check is critical, and its checks have not been passing since it registered".to_owned(),
            format!("see the output of the check with `callboard checks {path}`"),
        ),
        OmissionReason::HostName => (
            pb::OmissionReason::HostName,
            format!("its address {address} is a host name, and xDS clients accept IP addresses only"),
            "register it with its IP address".to_owned(),
        ),
        OmissionReason::NoPort => (
            pb::OmissionReason::NoPort,
            format!("its address {address} has no port"),
            "register it with the port on which it listens".to_owned(),
        ),
        OmissionReason::SameAddress(newest) => (
            pb::OmissionReason::SameAddress,
            format!("the newer registration {newest} has the same address {address} and the same port"),
            format!("if it is gone, deregister it with `callboard deregister {path}`; otherwise correct its address"),
        ),
    };
    pb::OmittedInstance { instance_id: instance.id.to_string(), reason: kind.into(), problem, hint }
}
