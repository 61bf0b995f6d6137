//! `XdsService/Explain`: what the clients of a service get, and the reasons for what they do not get.
//!
//! | file | holds |
//! |---|---|
//! | `call` | the client and the call of a request |
//! | `policy` | the policy, and the fields of it that the client does not follow |
//! | `routes` | the routes, and the one that the call takes |
//! | `clusters` | the clusters, and the instances that take their calls |
//! | `zones` | the calculation of the shares of zones |
//! | `localities` | localities with their endpoints, and instances that are left out, in pages |
//! | `streams` | the streams that subscribe to the service |

mod call;
mod clusters;
mod localities;
mod policy;
mod routes;
mod streams;
#[cfg(test)]
mod tests;
mod zones;

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use tonic::{Request, Response, Status};

use super::{
    XdsApi,
    cluster_name::cluster_name,
    error::XdsError,
    policy_limitations::policy_limitations,
    policy_rollout::policy_rollout,
    resource::{self, EncodedResource, ResourceType},
    session::ResourceSource,
    source::RegistrySource,
    stream_policies::StreamPolicies,
    version,
};
use crate::{
    app::{page_after, page_size},
    model::{EffectivePolicy, FieldError, PolicyScope, ServiceName, SubsetName},
    pb::{callboard::v1 as pb, server::xds_service_server::XdsService},
};
use call::ExplainedCall;
use clusters::{ClientService, ServiceCluster, outcome};
use localities::{CalledLocality, PagePosition, add_page};
use policy::{explained_client, explained_policy};
use routes::explained_routes;
use zones::explained_zones;

/// Default number of instances of a page.
const DEFAULT_PAGE_SIZE: u32 = 1_000;

/// Resources by which clients reach a service.
struct ResourceNames<'a> {
    listener: &'a str,
    /// Service that the listener leads to, whose name may be invalid. `None`: the listener leads to no cluster.
    service: Option<&'a str>,
    clusters: BTreeSet<Arc<str>>,
}

impl ResourceNames<'_> {
    /// Returns the resources in the order in which a gRPC client gets them.
    fn all(&self) -> impl Iterator<Item = (ResourceType, &str)> {
        let of_cluster = |name| [(ResourceType::Cluster, name), (ResourceType::Assignment, name)];
        let clusters = self.clusters.iter().flat_map(move |name| of_cluster(&**name));
        let routes = self.service.map(|service| (ResourceType::Route, service));
        std::iter::once((ResourceType::Listener, self.listener)).chain(routes).chain(clusters)
    }
}

impl XdsApi {
    fn explain(&self, request: &pb::ExplainRequest) -> Result<pb::ExplainResponse, XdsError> {
        let after = page_after(&request.page_token, PagePosition::parse)?;
        let size = page_size(request.page_size, DEFAULT_PAGE_SIZE);
        let call = ExplainedCall::parse(request)?;
        let listener = listener_of_target(&request.target);
        let registry = self.context.engine.registry();
        let mut answer = pb::ExplainResponse {
            listener: listener.to_owned(),
            settling: registry.is_settling(),
            revision: registry.applied().0,
            ..pb::ExplainResponse::default()
        };
        let cluster = resource::cluster_of(listener);
        let mut names = ResourceNames { listener, service: cluster, clusters: BTreeSet::new() };
        match ServiceName::parse(cluster.unwrap_or(listener)) {
            Ok(service) => self.explain_service(&service, &call, (after.as_ref(), size), (&mut names, &mut answer))?,
            Err(error) => {
                names.clusters.extend(cluster.map(Arc::<str>::from));
                answer.set_outcome(pb::XdsOutcome::InvalidName);
                answer.reason = invalid_name(&request.target, &error.to_string());
                let mut policies = StreamPolicies::default();
                let source = RegistrySource::new(self, &call.client, &mut policies);
                let resource = |(kind, name)| Some(self.explained_resource(kind, name, &source.resource(kind, name)?));
                answer.resources = names.all().filter_map(resource).collect();
            }
        }
        if after.is_none() {
            self.explain_streams(&names, &mut answer);
        } else {
            (answer.zones, answer.resources) = (None, Vec::new());
        }
        Ok(answer)
    }

    /// Explains a service with a valid name.
    fn explain_service(
        &self,
        service: &ServiceName,
        call: &ExplainedCall,
        page: (Option<&PagePosition>, usize),
        (names, answer): (&mut ResourceNames<'_>, &mut pb::ExplainResponse),
    ) -> Result<(), XdsError> {
        let registry = self.context.engine.registry();
        let view = registry.policies().view(&PolicyScope::Service(service.clone()));
        let policy = &*view.effective;
        let subset = asked_subset(service, policy, call)?;
        answer.service = service.to_string();
        let routes = explained_routes(service.as_str(), policy, call);
        let shares = routes.iter().find(|route| route.taken).map(|route| route.shares.clone()).unwrap_or_default();
        // The first of those with the largest share.
        let largest = || shares.iter().rev().max_by_key(|share| share.percent).map(|share| share.cluster.clone());
        answer.cluster = match subset {
            Some(subset) => cluster_name(service.as_str(), Some(subset)).to_string(),
            None => largest().unwrap_or_default(),
        };
        let registered = registry.chunks(service).iter().flat_map(|chunk| chunk.entries()).count();
        answer.instances = u32::try_from(registered).unwrap_or(u32::MAX);
        let client = ClientService::new(self, service, policy, &call.client);
        let clusters = client.clusters();
        if let Some(cluster) = clusters.iter().find(|cluster| *cluster.name == *answer.cluster) {
            client.read(cluster, |assignment| {
                answer.zones = assignment.zones.as_ref().map(|report| explained_zones(report, client.served()));
                add_page(&assignment.localities(), &assignment.assignment.omitted, page, answer);
            });
        }
        if page.0.is_none() {
            let own = view.newest.as_ref().map(|newest| &newest.policy);
            let defaults = view.defaults.as_ref().map(|newest| &newest.policy);
            answer.policy = Some(explained_policy(policy, own, defaults));
            answer.client = Some(explained_client(policy, call));
            answer.routes = routes;
            self.explain_clusters(&client, clusters, &shares, (names, answer));
        }
        Ok(())
    }

    /// Explains the clusters and the result of the calls: `shares` of them go to each cluster.
    fn explain_clusters(
        &self,
        client: &ClientService<'_>,
        clusters: Vec<ServiceCluster<'_>>,
        shares: &[pb::ClusterShare],
        (names, answer): (&mut ResourceNames<'_>, &mut pb::ExplainResponse),
    ) {
        let mut policies = StreamPolicies::new(client.policy.revision);
        let source = RegistrySource::new(self, client.client, &mut policies);
        let resource = |kind, name: &str| Some(self.explained_resource(kind, name, &source.resource(kind, name)?));
        answer.resources.extend(resource(ResourceType::Listener, names.listener));
        answer.resources.extend(resource(ResourceType::Route, &answer.service));
        let mut called = HashSet::new();
        for cluster in clusters {
            let share = shares.iter().find(|share| *share.cluster == *cluster.name);
            let percent = share.map_or(0, |share| share.percent);
            answer.resources.extend(resource(ResourceType::Cluster, &cluster.name));
            client.read(&cluster, |assignment| {
                let (kind, encoded) = (ResourceType::Assignment, assignment.resource());
                answer.resources.push(self.explained_resource(kind, &cluster.name, &encoded));
                answer.clusters.push(client.explained_cluster(assignment, percent));
                if percent > 0 {
                    let localities = assignment.localities();
                    let endpoints = localities.iter().flat_map(CalledLocality::called_endpoints);
                    called.extend(endpoints.map(PagePosition::of));
                }
            });
            names.clusters.insert(cluster.name);
        }
        answer.routable = u32::try_from(called.len()).unwrap_or(u32::MAX);
        answer.shed_percent = client.shed().into();
        let (outcome, reason) = outcome(answer.instances, answer.shed_percent, &answer.clusters);
        answer.set_outcome(outcome);
        answer.reason = reason;
    }

    fn explained_resource(&self, kind: ResourceType, name: &str, encoded: &EncodedResource) -> pb::XdsResource {
        pb::XdsResource {
            r#type: kind.label().to_owned(),
            type_url: kind.url().to_owned(),
            name: name.to_owned(),
            version: self.version(encoded.hash),
            bytes: u32::try_from(encoded.any.len()).unwrap_or(u32::MAX),
        }
    }

    fn version(&self, hash: u64) -> String {
        version::format(self.context.engine.registry().incarnation(), hash)
    }
}

/// Returns the subset whose instances are asked for.
///
/// # Errors
///
/// When the service has no such subset.
fn asked_subset<'a>(
    service: &ServiceName,
    policy: &EffectivePolicy,
    call: &'a ExplainedCall,
) -> Result<Option<&'a SubsetName>, FieldError> {
    let Some(subset) = &call.subset else { return Ok(None) };
    if policy.subsets.contains_key(subset) {
        return Ok(Some(subset));
    }
    let names: Vec<_> = policy.subsets.keys().map(SubsetName::as_str).collect();
    let hint = match &*names {
        [] => "its policy has none: leave it out".to_owned(),
        names => format!("use one of {}", names.join(", ")),
    };
    Err(FieldError::new("subset", subset.as_str(), format!("is not a subset of {service}"), hint))
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
