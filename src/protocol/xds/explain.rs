//! `XdsService/Explain`: what the clients of a service get, and the reasons for what they do not get.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use prost::Message;
use tonic::{Request, Response, Status};

use super::{
    XdsApi,
    assignment::{AssignedLocality, OmissionReason, PlannedLocality, ServiceAssignment, XdsEndpoint},
    error::XdsError,
    policy_limitations::policy_limitations,
    policy_rollout::policy_rollout,
    resource::{self, EncodedResource, ResourceType},
    session::{ResourceSource, ResourceStatus, TypeSubscription, XdsVariant},
    source::{ClientProfile, RegistrySource},
    stream_list::XdsStream,
    stream_policies::StreamPolicies,
    version,
};
use crate::{
    app::{PAGE_BYTES, page_after, page_size},
    model::{Instance, InstanceId, ServiceName},
    pb::{callboard::v1 as pb, server::xds_service_server::XdsService, time::timestamp},
};

/// Default number of instances of a page.
const DEFAULT_PAGE_SIZE: u32 = 1_000;
/// Maximum number of streams in a response.
const MAX_STREAMS: usize = 100;

/// Resources by which clients reach a service.
struct ResourceNames<'a> {
    listener: &'a str,
    /// `None`: the listener leads to no cluster.
    cluster: Option<&'a str>,
}

impl<'a> ResourceNames<'a> {
    /// Returns the resources in the order in which a gRPC client gets them.
    fn all(&self) -> impl Iterator<Item = (ResourceType, &'a str)> + use<'a> {
        let of_cluster = [ResourceType::Route, ResourceType::Cluster, ResourceType::Assignment];
        let cluster = self.cluster;
        let of_cluster = of_cluster.into_iter().filter_map(move |kind| cluster.map(|cluster| (kind, cluster)));
        std::iter::once((ResourceType::Listener, self.listener)).chain(of_cluster)
    }
}

/// Endpoint or left-out instance of a service.
enum ExplainedInstance<'a> {
    Endpoint { locality: usize, endpoint: &'a XdsEndpoint<'a> },
    Omitted(&'a Instance, &'a OmissionReason),
}

impl ExplainedInstance<'_> {
    fn id(&self) -> &InstanceId {
        match self {
            Self::Endpoint { endpoint, .. } => &endpoint.instance.id,
            Self::Omitted(instance, _) => &instance.id,
        }
    }
}

impl XdsApi {
    fn explain(&self, request: &pb::ExplainRequest) -> Result<pb::ExplainResponse, XdsError> {
        let after = page_after(&request.page_token, |token| InstanceId::parse_any(token).ok())?;
        let size = page_size(request.page_size, DEFAULT_PAGE_SIZE);
        let listener = listener_of_target(&request.target);
        let registry = self.context.engine.registry();
        let mut answer = pb::ExplainResponse {
            listener: listener.to_owned(),
            settling: registry.is_settling(),
            revision: registry.applied().0,
            ..pb::ExplainResponse::default()
        };
        let names = ResourceNames { listener, cluster: resource::cluster_of(listener) };
        let service = ServiceName::parse(names.cluster.unwrap_or(listener));
        if after.is_none() {
            answer.resources = self.explained_resources(&names);
            self.explain_streams(&names, &mut answer);
        }
        match &service {
            Ok(service) => {
                answer.service = service.to_string();
                let chunks = registry.chunks(service);
                let instances = chunks.iter().flat_map(|chunk| chunk.entries()).map(|entry| &entry.instance);
                explain_assignment(&ServiceAssignment::without_policy(instances), (after.as_ref(), size), &mut answer);
            }
            Err(error) => {
                answer.set_outcome(pb::XdsOutcome::InvalidName);
                answer.reason = invalid_name(&request.target, &error.to_string());
            }
        }
        Ok(answer)
    }

    fn explained_resources(&self, names: &ResourceNames<'_>) -> Vec<pb::XdsResource> {
        let (client, mut policies) =
            (ClientProfile::default(), StreamPolicies::new(self.context.engine.registry().policies().revision()));
        let source = RegistrySource::new(self, &client, &mut policies);
        let found = names.all().filter_map(|(kind, name)| Some((kind, name, source.resource(kind, name)?)));
        found
            .map(|(kind, name, EncodedResource { any, hash })| pb::XdsResource {
                r#type: kind.label().to_owned(),
                type_url: kind.url().to_owned(),
                name: name.to_owned(),
                version: self.version(hash),
                bytes: u32::try_from(any.len()).unwrap_or(u32::MAX),
            })
            .collect()
    }

    fn version(&self, hash: u64) -> String {
        version::format(self.context.engine.registry().incarnation(), hash)
    }

    /// Adds the streams that subscribe to resources of the service.
    fn explain_streams(&self, names: &ResourceNames<'_>, answer: &mut pb::ExplainResponse) {
        for stream in self.streams.all() {
            let Some(explained) = self.explained_stream(&stream, names) else { continue };
            answer.stream_count += 1;
            if answer.streams.len() < MAX_STREAMS {
                answer.streams.push(explained);
            }
        }
    }

    /// Returns a stream with its subscriptions to resources of the service. `None`: it has none.
    fn explained_stream(&self, stream: &XdsStream, names: &ResourceNames<'_>) -> Option<pb::ServiceXdsStream> {
        let state = stream.state.lock();
        let subscribed = names.all().filter_map(|(kind, name)| {
            let subscription = state.session.subscription(kind);
            let status = subscription.status_of(name)?;
            Some(self.explained_subscription(kind, (subscription, status), name))
        });
        let subscriptions: Vec<_> = subscribed.collect();
        (!subscriptions.is_empty()).then(|| pb::ServiceXdsStream {
            node_id: state.node.id.clone(),
            agent: state.node.agent(),
            peer: stream.peer.to_string(),
            delta: state.session.variant() == XdsVariant::Delta,
            subscriptions,
        })
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
        }
    }
}

/// Returns the name of the listener that a client asks for when it dials a target.
fn listener_of_target(target: &str) -> &str {
    target.strip_prefix("xds:").map_or(target, |path| path.strip_prefix("///").unwrap_or(path))
}

/// Returns the reason for which no service can have the name of a target, with a remedy.
fn invalid_name(target: &str, error: &str) -> String {
    match target.strip_prefix("xds://").and_then(|rest| rest.split_once('/')) {
        Some((authority, name)) if !authority.is_empty() => {
            let authority: String = authority.chars().take(64).flat_map(char::escape_debug).collect();
            let name: String = name.chars().take(64).flat_map(char::escape_debug).collect();
            format!("the target has the authority \"{authority}\", and names of services have none: dial xds:///{name}")
        }
        Some(_) | None => error.to_owned(),
    }
}

/// Adds the instances of a page, by id, and the numbers of all.
fn explain_assignment(
    assignment: &ServiceAssignment<'_>,
    (after, size): (Option<&InstanceId>, usize),
    answer: &mut pb::ExplainResponse,
) {
    let localities = assignment.localities(None);
    let endpoints = localities.iter().enumerate().flat_map(|(locality, (_, assigned))| {
        assigned.endpoints.iter().map(move |(endpoint, _)| ExplainedInstance::Endpoint { locality, endpoint })
    });
    let omitted = assignment.omitted.iter().map(|(instance, reason)| ExplainedInstance::Omitted(instance, reason));
    let mut all: Vec<_> = endpoints.chain(omitted).collect();
    all.sort_unstable_by(|one, other| one.id().cmp(other.id()));
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    answer.instances = count(all.len());
    answer.routable = count(localities.iter().map(|(_, locality)| locality.summary.routable_endpoints).sum());
    let (outcome, reason) = match (answer.instances, answer.routable) {
        (0, _) => (pb::XdsOutcome::NotRegistered, "no instance is registered: register one"),
        (_, 0) => (
            pb::XdsOutcome::NothingRoutable,
            "no registered instance can be called: see the health status of the endpoints, and the instances that are left out",
        ),
        (..) => (pb::XdsOutcome::Routable, ""),
    };
    answer.set_outcome(outcome);
    reason.clone_into(&mut answer.reason);
    let first = after.map_or(0, |after| all.partition_point(|instance| instance.id() <= after));
    let length = add_page(&localities, &all[first..], size, answer);
    let last = all[first..].get(length.wrapping_sub(1)).filter(|_| first + length < all.len());
    answer.next_page_token = last.map(|last| last.id().to_string()).unwrap_or_default();
}

/// Adds as many instances as fit on a page, and returns their number.
fn add_page(
    localities: &[(PlannedLocality, &AssignedLocality<'_>)],
    instances: &[ExplainedInstance<'_>],
    size: usize,
    answer: &mut pb::ExplainResponse,
) -> usize {
    let total: u64 = localities.iter().map(|(_, locality)| locality.summary.routable).sum();
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
                    let explained = explained_locality(localities[*locality], total);
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

fn explained_locality((planned, locality): (PlannedLocality, &AssignedLocality<'_>), total: u64) -> pb::XdsLocality {
    pb::XdsLocality {
        region: locality.summary.zone.region.to_string(),
        zone: locality.summary.zone.zone.to_string(),
        sub_zone: locality.sub_zone.clone(),
        weight: u32::try_from(planned.weight).unwrap_or(u32::MAX),
        percent: percent(locality.summary.routable, total),
        endpoints: Vec::new(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a percentage needs no more than 53 bits")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
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

/// Service of [`XdsApi`] that explains.
#[derive(Debug, Clone)]
pub(super) struct ExplainApi(pub(super) Arc<XdsApi>);

#[tonic::async_trait]
impl XdsService for ExplainApi {
    async fn explain(&self, request: Request<pb::ExplainRequest>) -> Result<Response<pb::ExplainResponse>, Status> {
        Ok(Response::new(self.0.explain(request.get_ref())?))
    }

    async fn list_policy_limitations(
        &self,
        request: Request<pb::ListPolicyLimitationsRequest>,
    ) -> Result<Response<pb::ListPolicyLimitationsResponse>, Status> {
        Ok(Response::new(policy_limitations(&self.0, request.get_ref())?))
    }

    async fn get_policy_rollout(
        &self,
        request: Request<pb::GetPolicyRolloutRequest>,
    ) -> Result<Response<pb::GetPolicyRolloutResponse>, Status> {
        Ok(Response::new(policy_rollout(&self.0, request.get_ref())?))
    }
}
