//! Client status discovery service (CSDS): the resources of connected clients, and whether they accepted them.

use std::{pin::Pin, sync::Arc};

use prost::Message;
use prost_types::Any;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::{
    MAX_REQUEST_BYTES, XdsApi,
    error::XdsError,
    resource::ResourceType,
    session::{ResourceSource, ResourceStatus, TypeSubscription},
    source::RegistrySource,
    stream_list::XdsStreamState,
    version,
};
use crate::pb::{
    envoy::{
        admin::v3::{ClientResourceStatus, UpdateFailureState},
        config::core::v3::{Locality, Node, node::UserAgentVersionType},
        service::status::v3::{
            ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus, client_config::GenericXdsConfig,
        },
        r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
    },
    server::client_status_discovery_service_server::ClientStatusDiscoveryService,
    time::timestamp,
};

/// Maximum number of resources in a response. Clients beyond it are left out.
const MAX_RESOURCES: usize = 20_000;

impl XdsApi {
    fn client_status(&self, request: &ClientStatusRequest) -> ClientStatusResponse {
        let mut response = ClientStatusResponse::default();
        let mut resources = 0;
        for stream in self.streams.all() {
            let mut state = stream.state.lock();
            let is_selected = request
                .node_matchers
                .iter()
                .any(|matcher| matcher.node_id.as_ref().is_none_or(|matcher| matches(matcher, &state.node.id)));
            if resources < MAX_RESOURCES && (request.node_matchers.is_empty() || is_selected) {
                let config = self.config(&mut state, !request.exclude_resource_contents);
                resources += config.generic_xds_configs.len();
                response.config.push(config);
            }
        }
        response
    }

    fn config(&self, state: &mut XdsStreamState, with_contents: bool) -> ClientConfig {
        let mut configs = Vec::new();
        let source = RegistrySource::new(self, &state.client, &mut state.policies);
        for kind in ResourceType::ALL {
            let subscription = state.session.subscription(kind);
            for (name, status) in subscription.resources() {
                let content = source.resource(kind, name).filter(|_| with_contents);
                configs.push(GenericXdsConfig {
                    type_url: kind.url().to_owned(),
                    name: name.to_string(),
                    xds_config: content.and_then(|content| Any::decode(&*content.any).ok()),
                    ..self.generic(subscription, status)
                });
            }
        }
        let node = &state.node;
        let (region, zone, sub_zone) = (node.region.clone(), node.zone.clone(), node.sub_zone.clone());
        let node = Node {
            id: node.id.clone(),
            cluster: node.cluster.clone(),
            locality: Some(Locality { region, zone, sub_zone }),
            user_agent_name: node.agent_name.clone(),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(node.agent_version.clone())),
        };
        ClientConfig { node: Some(node), generic_xds_configs: configs }
    }

    /// Returns the status of a resource, without the resource.
    fn generic(&self, subscription: &TypeSubscription, status: ResourceStatus) -> GenericXdsConfig {
        let incarnation = self.context.engine.registry().incarnation();
        let version = |revision| version::format(incarnation, revision);
        let (config_status, client_status) = match status {
            ResourceStatus::NotSent => (ConfigStatus::NotSent, ClientResourceStatus::Requested),
            ResourceStatus::Stale => (ConfigStatus::Stale, ClientResourceStatus::Requested),
            ResourceStatus::Rejected => (ConfigStatus::Error, ClientResourceStatus::Nacked),
            ResourceStatus::Synced => (ConfigStatus::Synced, ClientResourceStatus::Acked),
        };
        let latest = subscription.latest().filter(|_| status != ResourceStatus::NotSent);
        let rejected = subscription.rejected().filter(|_| status == ResourceStatus::Rejected);
        GenericXdsConfig {
            version_info: latest.map(|response| version(response.revision)).unwrap_or_default(),
            last_updated: latest.map(|response| timestamp(response.at.0)),
            config_status: config_status.into(),
            client_status: client_status.into(),
            error_state: rejected.map(|rejected| UpdateFailureState {
                last_update_attempt: Some(timestamp(rejected.at.0)),
                details: rejected.error.to_string(),
                version_info: latest.map(|response| version(response.revision)).unwrap_or_default(),
            }),
            ..GenericXdsConfig::default()
        }
    }
}

fn matches(matcher: &StringMatcher, text: &str) -> bool {
    let fold = |text: &str| if matcher.ignore_case { text.to_lowercase() } else { text.to_owned() };
    let text = fold(text);
    match &matcher.match_pattern {
        None => true,
        Some(MatchPattern::Exact(pattern)) => text == fold(pattern),
        Some(MatchPattern::Prefix(pattern)) => text.starts_with(&fold(pattern)),
        Some(MatchPattern::Suffix(pattern)) => text.ends_with(&fold(pattern)),
        Some(MatchPattern::Contains(pattern)) => text.contains(&fold(pattern)),
        // Regular expressions are not supported: they select no client.
        Some(MatchPattern::SafeRegex(_)) => false,
    }
}

/// Services of [`XdsApi`] that tonic serves.
#[derive(Debug, Clone)]
pub(super) struct ClientStatusApi(pub(super) Arc<XdsApi>);

#[tonic::async_trait]
impl ClientStatusDiscoveryService for ClientStatusApi {
    type StreamClientStatusStream = Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        let api = Arc::clone(&self.0);
        let mut has_failed = false;
        let answers = request.into_inner().map_while(move |request| match request {
            _ if has_failed => None,
            Ok(request) => Some(Ok(api.client_status(&request))),
            Err(status) => {
                has_failed = true;
                Some(Err(XdsError::of_request(&status, MAX_REQUEST_BYTES).map_or(status, Status::from)))
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        Ok(Response::new(self.0.client_status(request.get_ref())))
    }
}
