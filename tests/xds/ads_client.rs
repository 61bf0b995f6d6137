//! Client of one stream, in either protocol. It answers a response only when the test says so.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use callboard::pb::envoy::{
    config::{
        cluster::v3::Cluster,
        core::v3::{HealthStatus, Node, SocketAddress, address, socket_address::PortSpecifier},
        endpoint::v3::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
        listener::v3::Listener,
        route::v3::RouteConfiguration,
    },
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
    },
};
use prost::Message;
use prost_types::Any;
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::timeout,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::harness::{TestClient, within};

/// Time for which a stream must be quiet. Nothing is sent later, because the server has no timer for responses.
const QUIET: Duration = Duration::from_millis(300);

/// Protocol of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdsProtocol {
    StateOfTheWorld,
    Delta,
}

pub use AdsProtocol::{Delta, StateOfTheWorld};

pub const BOTH: [AdsProtocol; 2] = [StateOfTheWorld, Delta];

/// Type of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdsType {
    Cds,
    Eds,
    Lds,
    Rds,
}

pub use AdsType::{Cds, Eds, Lds, Rds};

pub const ALL_TYPES: [AdsType; 4] = [Cds, Eds, Lds, Rds];

impl AdsType {
    pub fn url(self) -> &'static str {
        match self {
            Cds => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Eds => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Lds => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Rds => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// Returns the name in a resource.
    fn name(self, any: &Any) -> String {
        assert_eq!(any.type_url, self.url());
        match self {
            Cds => Cluster::decode(&*any.value).unwrap().name,
            Eds => ClusterLoadAssignment::decode(&*any.value).unwrap().cluster_name,
            Lds => Listener::decode(&*any.value).unwrap().name,
            Rds => RouteConfiguration::decode(&*any.value).unwrap().name,
        }
    }
}

/// Response of either protocol.
#[derive(Debug, Clone)]
pub struct AdsResponse {
    pub kind: AdsType,
    pub version: String,
    pub nonce: String,
    pub resources: BTreeMap<String, Any>,
    /// Versions of the resources, in the delta protocol.
    pub versions: HashMap<String, String>,
    pub removed: Vec<String>,
}

impl AdsResponse {
    fn new(url: &str, version: String, nonce: String, resources: Vec<Any>) -> Self {
        let kind = ALL_TYPES.into_iter().find(|kind| kind.url() == url).unwrap_or_else(|| panic!("{url}"));
        let count = resources.len();
        let resources: BTreeMap<_, _> = resources.into_iter().map(|any| (kind.name(&any), any)).collect();
        assert_eq!(resources.len(), count, "a name occurs once in a response");
        Self { kind, version, nonce, resources, versions: HashMap::new(), removed: Vec::new() }
    }

    fn of_delta(response: DeltaDiscoveryResponse) -> Self {
        let any = |resource: &Resource| resource.resource.clone().unwrap();
        let anys = response.resources.iter().map(any).collect();
        let versions: HashMap<_, _> =
            response.resources.iter().map(|resource| (resource.name.clone(), resource.version.clone())).collect();
        let found = Self::new(&response.type_url, response.system_version_info, response.nonce, anys);
        assert!(found.resources.keys().all(|name| versions.contains_key(name)), "{versions:?}");
        Self { versions, removed: response.removed_resources, ..found }
    }

    /// Names of the resources, separated by spaces.
    pub fn names(&self) -> String {
        self.resources.keys().map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// Returns the localities of an assignment, as `region/zone/sub-zone weight P1: address, address STATUS`; without the priority
    /// if that is 0.
    pub fn localities(&self, name: &str) -> Vec<String> {
        let any = self.resources.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"));
        let assignment = ClusterLoadAssignment::decode(&*any.value).unwrap();
        assignment.endpoints.iter().map(locality).collect()
    }

    /// Returns the addresses of an assignment, separated by spaces.
    pub fn addresses(&self, name: &str) -> String {
        let of_locality = |line: String| line.split_once(": ").unwrap().1.replace(", ", " ");
        self.localities(name).into_iter().map(of_locality).collect::<Vec<_>>().join(" ")
    }
}

fn locality(endpoints: &LocalityLbEndpoints) -> String {
    let priority = if endpoints.priority == 0 { String::new() } else { format!(" P{}", endpoints.priority) };
    let place = endpoints.locality.as_ref().expect("clients reject endpoints without a locality");
    let listed: Vec<_> = endpoints.lb_endpoints.iter().map(endpoint).collect();
    let weight = endpoints.load_balancing_weight.unwrap();
    format!("{}/{}/{} {weight}{priority}: {}", place.region, place.zone, place.sub_zone, listed.join(", "))
}

fn endpoint(endpoint: &LbEndpoint) -> String {
    let Some(HostIdentifier::Endpoint(found)) = &endpoint.host_identifier else { panic!("{endpoint:?}") };
    let mut text = socket(found.address.as_ref().and_then(|address| address.address.as_ref()));
    for additional in &found.additional_addresses {
        text = format!("{text}+{}", socket(additional.address.as_ref().and_then(|address| address.address.as_ref())));
    }
    match endpoint.health_status() {
        HealthStatus::Healthy => text,
        other => format!("{text} {}", other.as_str_name()),
    }
}

fn socket(address: Option<&address::Address>) -> String {
    let Some(address::Address::SocketAddress(SocketAddress { address, port_specifier })) = address else {
        panic!("{address:?}")
    };
    let Some(PortSpecifier::PortValue(port)) = port_specifier else { panic!("{address} has no port") };
    format!("{address}:{port}")
}

/// Requests of a stream.
#[derive(Debug)]
enum Requests {
    Whole(UnboundedSender<DiscoveryRequest>, Streaming<DiscoveryResponse>),
    Delta(UnboundedSender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>),
}

/// Subscription to a type.
#[derive(Debug, Default)]
struct AdsSubscription {
    names: BTreeSet<String>,
    /// Version of the latest accepted response.
    version: String,
    /// Nonce of the latest response.
    nonce: String,
}

/// Client of one stream.
#[derive(Debug)]
pub struct AdsClient {
    requests: Requests,
    subscriptions: HashMap<AdsType, AdsSubscription>,
    /// Sent with the first request.
    node: Option<Node>,
}

impl AdsClient {
    pub async fn open(client: &TestClient, protocol: AdsProtocol) -> Self {
        Self::open_as(client, protocol, "test").await
    }

    /// Opens a stream of a node with this id.
    pub async fn open_as(client: &TestClient, protocol: AdsProtocol, id: &str) -> Self {
        let node = Node { id: id.to_owned(), user_agent_name: "test agent".to_owned(), ..Node::default() };
        Self::open_node(client, protocol, node).await
    }

    /// Opens a stream of a node.
    pub async fn open_node(client: &TestClient, protocol: AdsProtocol, node: Node) -> Self {
        Self::try_open_node(client, protocol, node).await.unwrap()
    }

    /// Opens a stream of a node at a server that may be out of reach.
    pub async fn try_open_node(client: &TestClient, protocol: AdsProtocol, node: Node) -> Result<Self, Status> {
        let mut xds = client.xds.clone();
        let requests = match protocol {
            StateOfTheWorld => {
                let (sender, receiver) = unbounded_channel();
                let stream = xds.stream_aggregated_resources(UnboundedReceiverStream::new(receiver));
                Requests::Whole(sender, within("the stream", stream).await?.into_inner())
            }
            Delta => {
                let (sender, receiver) = unbounded_channel();
                let stream = xds.delta_aggregated_resources(UnboundedReceiverStream::new(receiver));
                Requests::Delta(sender, within("the stream", stream).await?.into_inner())
            }
        };
        Ok(Self { requests, subscriptions: HashMap::new(), node: Some(node) })
    }

    /// Sends a request of the state-of-the-world protocol as it is.
    pub fn send_whole(&mut self, request: DiscoveryRequest) {
        let Requests::Whole(sender, _) = &self.requests else { panic!("a delta stream") };
        // A stream that the server has ended is noticed when it is read.
        let _ended = sender.send(request);
    }

    /// Sends a request of the delta protocol as it is.
    pub fn send_delta(&mut self, request: DeltaDiscoveryRequest) {
        let Requests::Delta(sender, _) = &self.requests else { panic!("a state-of-the-world stream") };
        let _ended = sender.send(request);
    }

    /// Subscribes to more resources. Without names, the first request means all resources.
    pub fn subscribe(&mut self, kind: AdsType, names: &[&str]) {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        self.subscription(kind).names.extend(names.iter().cloned());
        match self.requests {
            Requests::Whole(..) => self.send_names(kind),
            Requests::Delta(..) => self.send_delta_of(kind, |request| request.resource_names_subscribe = names),
        }
    }

    pub fn unsubscribe(&mut self, kind: AdsType, names: &[&str]) {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        self.subscription(kind).names.retain(|name| !names.contains(name));
        match self.requests {
            Requests::Whole(..) => self.send_names(kind),
            Requests::Delta(..) => self.send_delta_of(kind, |request| request.resource_names_unsubscribe = names),
        }
    }

    /// Subscribes as a client does that has resources from an earlier stream: with the version of its last response, or with the
    /// versions of its resources.
    pub fn resume(&mut self, kind: AdsType, names: &[&str], version: &str, versions: &[(&str, &str)]) {
        version.clone_into(&mut self.subscription(kind).version);
        match self.requests {
            Requests::Whole(..) => self.subscribe(kind, names),
            Requests::Delta(..) => self.send_delta_of(kind, |request| {
                request.resource_names_subscribe = names.iter().map(ToString::to_string).collect();
                let owned = |(name, version): &(&str, &str)| ((*name).to_owned(), (*version).to_owned());
                request.initial_resource_versions = versions.iter().map(owned).collect();
            }),
        }
    }

    pub fn accept(&mut self, response: &AdsResponse) {
        self.subscription(response.kind).version.clone_from(&response.version);
        self.answer(response, None);
    }

    /// Rejects a response with this text.
    pub fn reject(&mut self, response: &AdsResponse, text: &str) {
        self.answer(response, Some(text));
    }

    fn answer(&mut self, response: &AdsResponse, text: Option<&str>) {
        let error = text.map(|text| tonic_types::Status { code: 3, message: text.to_owned(), details: Vec::new() });
        let nonce = response.nonce.clone();
        match self.requests {
            Requests::Whole(..) => {
                let request = self.whole(response.kind);
                self.send_whole(DiscoveryRequest { response_nonce: nonce, error_detail: error, ..request });
            }
            Requests::Delta(..) => self.send_delta_of(response.kind, |request| {
                request.response_nonce = nonce;
                request.error_detail = error;
            }),
        }
    }

    /// Receives the next response. Cancel-safe.
    pub async fn message(&mut self) -> Result<AdsResponse, Status> {
        let ended = || Status::ok("ended");
        let response = match &mut self.requests {
            Requests::Whole(_, responses) => {
                let DiscoveryResponse { version_info, resources, type_url, nonce } =
                    responses.message().await?.ok_or_else(ended)?;
                AdsResponse::new(&type_url, version_info, nonce, resources)
            }
            Requests::Delta(_, responses) => AdsResponse::of_delta(responses.message().await?.ok_or_else(ended)?),
        };
        self.subscription(response.kind).nonce.clone_from(&response.nonce);
        Ok(response)
    }

    /// Receives the next response, which has to be of this type, and does not answer it.
    pub async fn next(&mut self, kind: AdsType) -> AdsResponse {
        let response = within(kind.url(), self.message()).await.unwrap();
        assert_eq!(response.kind, kind, "{response:?}");
        response
    }

    /// Receives and accepts the next response, which has to be of this type.
    pub async fn accepted(&mut self, kind: AdsType) -> AdsResponse {
        let response = self.next(kind).await;
        self.accept(&response);
        response
    }

    /// Asserts that no response comes and the stream stays open.
    pub async fn assert_quiet(&mut self) {
        if let Ok(message) = timeout(QUIET, self.message()).await {
            panic!("{message:?}");
        }
    }

    /// Reads the stream to its end.
    pub async fn ended(&mut self) -> Status {
        within("the end of the stream", async {
            loop {
                if let Err(status) = self.message().await {
                    return status;
                }
            }
        })
        .await
    }

    /// Ends the requests and returns the status of the stream.
    pub async fn close(mut self) -> Code {
        match &mut self.requests {
            Requests::Whole(sender, _) => *sender = unbounded_channel().0,
            Requests::Delta(sender, _) => *sender = unbounded_channel().0,
        }
        self.ended().await.code()
    }

    fn subscription(&mut self, kind: AdsType) -> &mut AdsSubscription {
        self.subscriptions.entry(kind).or_default()
    }

    fn send_names(&mut self, kind: AdsType) {
        let request = self.whole(kind);
        self.send_whole(request);
    }

    fn whole(&mut self, kind: AdsType) -> DiscoveryRequest {
        let node = self.node.take();
        let AdsSubscription { names, version, nonce } = self.subscription(kind);
        DiscoveryRequest {
            version_info: version.clone(),
            node,
            resource_names: names.iter().cloned().collect(),
            type_url: kind.url().to_owned(),
            response_nonce: nonce.clone(),
            error_detail: None,
        }
    }

    fn send_delta_of(&mut self, kind: AdsType, change: impl FnOnce(&mut DeltaDiscoveryRequest)) {
        let mut request =
            DeltaDiscoveryRequest { node: self.node.take(), type_url: kind.url().to_owned(), ..Default::default() };
        change(&mut request);
        self.send_delta(request);
    }
}
