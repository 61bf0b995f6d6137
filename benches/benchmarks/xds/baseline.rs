//! Baseline: a minimal tonic server with the usual codec and a channel for each client, which sends what was recorded from Callboard.
//!
//! It has no registry and tracks no acknowledgements, so the difference to Callboard is the cost of Callboard's own work. Where a client
//! does not read, a change is not sent to it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    convert::Infallible,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use anyhow::Result;
use callboard::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService},
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use super::ads::{ASSIGNMENT, AdsProtocol as _, CLUSTER, Delta};

/// Path of the method that adds recorded resources.
pub const STORE: &str = "/benchmark.Recording/Store";
/// Path of the method that changes a service.
pub const PUBLISH: &str = "/benchmark.Recording/Publish";
/// Responses that a client has not been sent yet.
const MAX_UNSENT: usize = 4;
/// Version of a response, as long as Callboard's.
const VERSION: &str = "0000000000000001-0000000000000001";
/// Bytes of resources after which a response with requested assignments ends, as with Callboard.
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// Request to send another recorded assignment of a service.
#[derive(Clone, PartialEq, Message)]
pub struct PublishRequest {
    /// Name of the service.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Index among the recorded assignments.
    #[prost(uint64, tag = "2")]
    pub variant: u64,
}

/// Empty answer.
#[derive(Clone, PartialEq, Message)]
pub struct Done {}

/// Serves until killed.
pub async fn serve() -> Result<()> {
    let incoming = TcpIncoming::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?.with_nodelay(Some(true));
    println!("{}", serde_json::json!({ "grpc": incoming.local_addr()?.to_string() }));
    std::io::stdout().flush()?;
    let state = Arc::<BaselineState>::default();
    let server = Server::builder().add_service(Discovery(Arc::clone(&state))).add_service(Recording(state));
    Ok(server.serve_with_incoming(incoming).await?)
}

#[derive(Debug, Default)]
struct BaselineState {
    nonce: AtomicU64,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    /// Recorded resources by type and name: the variants of each, and the index of the present one.
    resources: HashMap<String, BTreeMap<String, (Vec<Resource>, usize)>>,
    /// Streams by the name of the assignment that they subscribe to.
    subscribers: HashMap<String, Vec<Outbound>>,
    /// Streams that subscribe to all clusters.
    wildcards: Vec<Outbound>,
}

/// Channel to a client.
#[derive(Debug, Clone)]
enum Outbound {
    Whole(mpsc::Sender<Result<DiscoveryResponse, Status>>),
    Delta(mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>),
}

impl Content {
    fn present(&self, url: &str, name: &str) -> Option<Resource> {
        self.resources.get(url)?.get(name).map(|(variants, present)| variants[*present].clone())
    }

    fn all(&self, url: &str) -> Vec<Resource> {
        let all = self.resources.get(url).into_iter().flat_map(BTreeMap::values);
        all.map(|(variants, present)| variants[*present].clone()).collect()
    }
}

impl BaselineState {
    fn nonce(&self) -> String {
        self.nonce.fetch_add(1, Ordering::Relaxed).to_string()
    }

    fn content<T>(&self, with: impl FnOnce(&mut Content) -> T) -> T {
        with(&mut self.content.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds recorded resources. A new cluster is sent to the streams that subscribe to all.
    fn store(&self, recorded: DeltaDiscoveryResponse) {
        let url = recorded.type_url;
        self.content(|content| {
            for resource in recorded.resources {
                let resources = content.resources.entry(url.clone()).or_default();
                let (variants, _) = resources.entry(resource.name.clone()).or_default();
                variants.push(resource.clone());
                if url == CLUSTER && variants.len() == 1 {
                    for stream in &content.wildcards {
                        match stream {
                            Outbound::Whole(sender) => {
                                let _ = sender.try_send(Ok(whole(&url, self.nonce(), content.all(&url))));
                            }
                            Outbound::Delta(sender) => {
                                let _ = sender.try_send(Ok(delta(&url, self.nonce(), vec![resource.clone()])));
                            }
                        }
                    }
                }
            }
        });
    }

    fn publish(&self, PublishRequest { name, variant }: &PublishRequest) {
        self.content(|content| {
            let stored = content.resources.get_mut(ASSIGNMENT).and_then(|resources| resources.get_mut(name));
            let Some((variants, present)) = stored else { return };
            *present = usize::try_from(*variant).unwrap_or_default();
            let resource = &variants[*present];
            for stream in content.subscribers.get(name).into_iter().flatten() {
                match stream {
                    Outbound::Whole(sender) => {
                        let _ = sender.try_send(Ok(whole(ASSIGNMENT, self.nonce(), vec![resource.clone()])));
                    }
                    Outbound::Delta(sender) => {
                        let _ = sender.try_send(Ok(delta(ASSIGNMENT, self.nonce(), vec![resource.clone()])));
                    }
                }
            }
        });
    }

    /// Returns the resources that a request subscribes to, as they are sent together.
    fn subscribe(&self, url: &str, names: Vec<String>, stream: Outbound) -> Vec<Vec<Resource>> {
        self.content(|content| {
            if names.is_empty() {
                content.wildcards.push(stream);
                return vec![content.all(url)];
            }
            let mut responses = vec![Vec::new()];
            let mut bytes = 0;
            for name in names {
                let Some(resource) = content.present(url, &name) else { continue };
                if bytes >= MAX_RESPONSE_BYTES {
                    responses.push(Vec::new());
                    bytes = 0;
                }
                bytes += resource.resource.as_ref().map_or(0, |any| any.value.len());
                responses.last_mut().into_iter().for_each(|response| response.push(resource.clone()));
                if url == ASSIGNMENT {
                    content.subscribers.entry(name).or_default().push(stream.clone());
                }
            }
            responses
        })
    }
}

fn whole(url: &str, nonce: String, resources: Vec<Resource>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: VERSION.to_owned(),
        resources: resources.into_iter().filter_map(|resource| resource.resource).collect(),
        type_url: url.to_owned(),
        nonce,
    }
}

fn delta(url: &str, nonce: String, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        system_version_info: VERSION.to_owned(),
        resources,
        type_url: url.to_owned(),
        nonce,
        removed_resources: Vec::new(),
    }
}

/// Names of one type that a stream subscribes to.
#[derive(Debug, Default)]
struct KnownNames {
    begun: bool,
    names: HashSet<String>,
}

impl KnownNames {
    /// Returns the names that a request adds. `None`: it accepts a response.
    fn added(&mut self, names: Vec<String>) -> Option<Vec<String>> {
        let is_first = !std::mem::replace(&mut self.begun, true);
        if !is_first && names.len() == self.names.len() {
            return None;
        }
        let added: Vec<_> = names.into_iter().filter(|name| self.names.insert(name.clone())).collect();
        (is_first || !added.is_empty()).then_some(added)
    }
}

async fn serve_whole(
    state: Arc<BaselineState>,
    mut requests: Streaming<DiscoveryRequest>,
    sender: mpsc::Sender<Result<DiscoveryResponse, Status>>,
) {
    let mut known = HashMap::<String, KnownNames>::new();
    while let Ok(Some(DiscoveryRequest { type_url: url, resource_names, .. })) = requests.message().await {
        let Some(added) = known.entry(url.clone()).or_default().added(resource_names) else { continue };
        for resources in state.subscribe(&url, added, Outbound::Whole(sender.clone())) {
            let _ = sender.send(Ok(whole(&url, state.nonce(), resources))).await;
        }
    }
}

async fn serve_delta(
    state: Arc<BaselineState>,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    sender: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
) {
    while let Ok(Some(request)) = requests.message().await {
        let DeltaDiscoveryRequest { type_url: url, resource_names_subscribe: names, response_nonce, .. } = request;
        if !response_nonce.is_empty() {
            continue;
        }
        for resources in state.subscribe(&url, names, Outbound::Delta(sender.clone())) {
            let _ = sender.send(Ok(delta(&url, state.nonce(), resources))).await;
        }
    }
}

#[derive(Debug, Clone)]
struct Discovery(Arc<BaselineState>);

impl NamedService for Discovery {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

#[derive(Debug, Clone)]
struct Recording(Arc<BaselineState>);

impl NamedService for Recording {
    const NAME: &'static str = "benchmark.Recording";
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl Service<http::Request<Body>> for Discovery {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let state = Arc::clone(&self.0);
        Box::pin(async move {
            if request.uri().path() == Delta::PATH {
                let open = service_fn(move |requests: Request<Streaming<DeltaDiscoveryRequest>>| {
                    let (sender, responses) = mpsc::channel(MAX_UNSENT);
                    tokio::spawn(serve_delta(Arc::clone(&state), requests.into_inner(), sender));
                    async { Ok::<_, Status>(Response::new(ReceiverStream::new(responses))) }
                });
                return Ok(Grpc::new(ProstCodec::default()).streaming(open, request).await);
            }
            let open = service_fn(move |requests: Request<Streaming<DiscoveryRequest>>| {
                let (sender, responses) = mpsc::channel(MAX_UNSENT);
                tokio::spawn(serve_whole(Arc::clone(&state), requests.into_inner(), sender));
                async { Ok::<_, Status>(Response::new(ReceiverStream::new(responses))) }
            });
            Ok(Grpc::new(ProstCodec::default()).streaming(open, request).await)
        })
    }
}

impl Service<http::Request<Body>> for Recording {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let state = Arc::clone(&self.0);
        Box::pin(async move {
            if request.uri().path() == STORE {
                let store = service_fn(move |recorded: Request<DeltaDiscoveryResponse>| {
                    state.store(recorded.into_inner());
                    async { Ok::<_, Status>(Response::new(Done {})) }
                });
                return Ok(Grpc::new(ProstCodec::default()).unary(store, request).await);
            }
            let publish = service_fn(move |request: Request<PublishRequest>| {
                state.publish(request.get_ref());
                async { Ok::<_, Status>(Response::new(Done {})) }
            });
            Ok(Grpc::new(ProstCodec::default()).unary(publish, request).await)
        })
    }
}
