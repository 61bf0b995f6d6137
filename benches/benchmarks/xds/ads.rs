//! Streams of xDS clients that accept every response. Resources are not decoded, so that a client needs less CPU time than the server.

use std::marker::PhantomData;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use callboard::pb::{
    codec::SmallBuffers,
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
    },
};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming, transport::Channel};

/// URL of listeners (LDS).
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// URL of clusters (CDS).
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// URL of assignments (EDS).
pub const ASSIGNMENT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Types in the order in which a gRPC client subscribes to the resources of a service.
pub const GRPC_TYPES: [&str; 3] = [LISTENER, CLUSTER, ASSIGNMENT];

/// Response of either protocol with its resources left encoded.
#[derive(Clone, PartialEq, Message)]
pub struct AdsResponse {
    /// Encoded resources.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    /// URL of their type.
    #[prost(string, tag = "4")]
    pub url: String,
    /// Nonce that the client returns.
    #[prost(string, tag = "5")]
    pub nonce: String,
}

impl AdsResponse {
    /// Bytes of the resources.
    pub fn bytes(&self) -> usize {
        self.resources.iter().map(Bytes::len).sum()
    }
}

/// One of the two protocols.
pub trait AdsProtocol: 'static {
    /// Request message.
    type Request: Message + Default + 'static;
    /// Path of the method.
    const PATH: &'static str;

    /// Returns a request for resources. `names`: those that the client has subscribed to, and those that are new.
    fn request(url: &str, nonce: &str, names: (&[String], Vec<String>), node: Option<Node>) -> Self::Request;
}

/// State of the world.
#[derive(Debug)]
pub struct StateOfTheWorld;

impl AdsProtocol for StateOfTheWorld {
    type Request = DiscoveryRequest;
    const PATH: &'static str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

    fn request(url: &str, nonce: &str, (known, new): (&[String], Vec<String>), node: Option<Node>) -> Self::Request {
        DiscoveryRequest {
            node,
            type_url: url.to_owned(),
            response_nonce: nonce.to_owned(),
            resource_names: known.iter().cloned().chain(new).collect(),
            ..DiscoveryRequest::default()
        }
    }
}

/// Delta.
#[derive(Debug)]
pub struct Delta;

impl AdsProtocol for Delta {
    type Request = DeltaDiscoveryRequest;
    const PATH: &'static str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

    fn request(url: &str, nonce: &str, (_, new): (&[String], Vec<String>), node: Option<Node>) -> Self::Request {
        DeltaDiscoveryRequest {
            node,
            type_url: url.to_owned(),
            response_nonce: nonce.to_owned(),
            resource_names_subscribe: new,
            ..DeltaDiscoveryRequest::default()
        }
    }
}

/// Stream of one client.
#[derive(Debug)]
pub struct AdsStream<P: AdsProtocol> {
    requests: mpsc::Sender<P::Request>,
    responses: Streaming<AdsResponse>,
    /// Names by type.
    names: Vec<(&'static str, Vec<String>)>,
    node: Option<Node>,
    protocol: PhantomData<P>,
}

impl<P: AdsProtocol> AdsStream<P> {
    /// Opens a stream for the client with this number.
    pub async fn open(channel: &Channel, number: usize) -> Result<Self> {
        let id = format!("client-{number:05}");
        Self::open_as(channel, Node { id, user_agent_name: "benchmark".into(), ..Node::default() }).await
    }

    /// Opens a stream for a client.
    pub async fn open_as(channel: &Channel, node: Node) -> Result<Self> {
        const MAX_UNSENT: usize = 4;
        let (requests, outbound) = mpsc::channel(MAX_UNSENT);
        let mut client = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
        client.ready().await?;
        let path = PathAndQuery::from_static(P::PATH);
        let outbound = Request::new(ReceiverStream::new(outbound));
        let codec = SmallBuffers::<P::Request, AdsResponse>::default();
        let responses = client.streaming(outbound, path, codec).await?.into_inner();
        Ok(Self { requests, responses, names: Vec::new(), node: Some(node), protocol: PhantomData })
    }

    /// Subscribes to more resources of a type. No names in the first request mean all resources.
    pub async fn subscribe(&mut self, url: &'static str, names: Vec<String>) -> Result<()> {
        let at = self.names.iter().position(|(known, _)| *known == url).unwrap_or_else(|| {
            self.names.push((url, Vec::new()));
            self.names.len() - 1
        });
        let known = &mut self.names[at].1;
        let request = P::request(url, "", (known, names.clone()), self.node.take());
        known.extend(names);
        Ok(self.requests.send(request).await?)
    }

    /// Returns the next response, and accepts it.
    pub async fn response(&mut self) -> Result<AdsResponse> {
        let response = self.responses.message().await?.context("the xDS stream ended")?;
        let known = self.names.iter().find(|(known, _)| *known == response.url);
        let (url, names) = known.with_context(|| format!("a response has the type {}", response.url))?;
        let request = P::request(url, &response.nonce, (names, Vec::new()), None);
        self.requests.send(request).await?;
        Ok(response)
    }

    /// Subscribes to all resources of a service as gRPC does, and returns after the endpoints have arrived.
    pub async fn subscribe_to_service(&mut self, name: &str) -> Result<()> {
        for url in GRPC_TYPES {
            self.subscribe(url, vec![name.to_owned()]).await?;
            let response = self.response().await?;
            ensure!(response.url == url && response.resources.len() == 1, "{url} was answered with {response:?}");
        }
        Ok(())
    }

    /// Returns the resources of responses of a type until there are as many as expected.
    pub async fn collect(&mut self, url: &str, expected: usize) -> Result<Vec<Bytes>> {
        let mut resources = Vec::with_capacity(expected);
        while resources.len() < expected {
            let response = self.response().await?;
            ensure!(response.url == url, "a response has the type {} instead of {url}", response.url);
            resources.extend(response.resources);
        }
        Ok(resources)
    }
}
