//! Fake registry for tests: each call arrives as a value, and the test answers it. It runs in memory, so that tokio's clock
//! can be paused.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{BoxFuture, async_trait},
    server::{Grpc, ServerStreamingService},
    service::Routes,
    transport::{Endpoint, Server, Uri},
};

use super::StreamConnector;
use crate::pb::{
    callboard::v1::{
        DeregisterRequest, DeregisterResponse, KeepAliveRequest, KeepAliveResponse, LoadReport, RegisterRequest,
        RegisterResponse, ReportCheckRequest, ReportCheckResponse, UpdateInstanceRequest, UpdateInstanceResponse,
        WatchRequest, WatchResponse,
    },
    codec::SmallBuffers,
    server::registry_service_server::{RegistryService, RegistryServiceServer},
};

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Reply<T> = oneshot::Sender<Result<T, Status>>;

/// Call that waits for the test's response.
pub(super) enum FakeCall {
    Register(RegisterRequest, Reply<RegisterResponse>),
    Deregister(DeregisterRequest, Reply<DeregisterResponse>),
    Update(UpdateInstanceRequest, Reply<UpdateInstanceResponse>),
    KeepAlive(KeepAlive),
    Watch(WatchRequest, mpsc::Sender<Result<WatchResponse, Status>>),
}

/// Server side of a heartbeat stream. Dropping it ends the stream.
pub(super) struct KeepAlive {
    heartbeats: Streaming<KeepAliveRequest>,
    pub(super) responses: mpsc::Sender<Result<KeepAliveResponse, Status>>,
}

impl KeepAlive {
    /// Waits for the next heartbeat and returns its lease.
    pub(super) async fn lease(&mut self) -> bytes::Bytes {
        let request = self.heartbeats.message().await.unwrap().unwrap();
        request.heartbeats[0].lease_id.clone()
    }

    /// Waits for the next heartbeat and returns its load.
    pub(super) async fn load(&mut self) -> Option<LoadReport> {
        let request = self.heartbeats.message().await.unwrap().unwrap();
        request.heartbeats[0].load
    }
}

/// Side of the fake registry that the test uses.
pub(super) struct FakeRegistry {
    calls: mpsc::Receiver<FakeCall>,
    connections: mpsc::Sender<io::Result<DuplexStream>>,
    down: Arc<AtomicBool>,
}

impl FakeRegistry {
    pub(super) fn start() -> Self {
        let (sender, calls) = mpsc::channel(16);
        let (connections, incoming) = mpsc::channel(16);
        let server = FakeServer { calls: sender };
        let registry = Routes::new(RegistryServiceServer::new(server.clone())).into_axum_router();
        let watches = axum::routing::post(move |request| watch(server.clone(), request));
        let routes = registry.route("/callboard.v1.DiscoveryService/Watch", watches);
        let http = Server::builder().add_routes(routes.into());
        tokio::spawn(http.serve_with_incoming(ReceiverStream::new(incoming)));
        Self { calls, connections, down: Arc::default() }
    }

    /// Returns a function that connects to the fake registry.
    pub(super) fn connect(&self) -> Box<dyn StreamConnector> {
        let (connections, down) = (self.connections.clone(), Arc::clone(&self.down));
        Box::new(move || {
            let (connections, down) = (connections.clone(), Arc::clone(&down));
            Endpoint::from_static("http://fake").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let (connections, down) = (connections.clone(), Arc::clone(&down));
                async move {
                    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
                    if down.load(Ordering::Relaxed) {
                        return Err(refused());
                    }
                    let (near, far) = tokio::io::duplex(64 * 1024);
                    connections.send(Ok(far)).await.map_err(|_| refused())?;
                    Ok(TokioIo::new(near))
                }
            }))
        })
    }

    /// Rejects new connections, or accepts them again.
    pub(super) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    pub(super) async fn register(&mut self) -> (RegisterRequest, Reply<RegisterResponse>) {
        match self.calls.recv().await {
            Some(FakeCall::Register(request, reply)) => (request, reply),
            other => panic!("not Register: {}", name(other.as_ref())),
        }
    }

    pub(super) async fn deregister(&mut self) -> (DeregisterRequest, Reply<DeregisterResponse>) {
        match self.calls.recv().await {
            Some(FakeCall::Deregister(request, reply)) => (request, reply),
            other => panic!("not Deregister: {}", name(other.as_ref())),
        }
    }

    pub(super) async fn update(&mut self) -> (UpdateInstanceRequest, Reply<UpdateInstanceResponse>) {
        match self.calls.recv().await {
            Some(FakeCall::Update(request, reply)) => (request, reply),
            other => panic!("not UpdateInstance: {}", name(other.as_ref())),
        }
    }

    pub(super) async fn keep_alive(&mut self) -> KeepAlive {
        match self.calls.recv().await {
            Some(FakeCall::KeepAlive(stream)) => stream,
            other => panic!("not KeepAlive: {}", name(other.as_ref())),
        }
    }

    pub(super) async fn watch(&mut self) -> (WatchRequest, mpsc::Sender<Result<WatchResponse, Status>>) {
        match self.calls.recv().await {
            Some(FakeCall::Watch(request, responses)) => (request, responses),
            other => panic!("not Watch: {}", name(other.as_ref())),
        }
    }
}

fn name(call: Option<&FakeCall>) -> &'static str {
    match call {
        Some(FakeCall::Register(..)) => "Register",
        Some(FakeCall::Deregister(..)) => "Deregister",
        Some(FakeCall::Update(..)) => "UpdateInstance",
        Some(FakeCall::KeepAlive(_)) => "KeepAlive",
        Some(FakeCall::Watch(..)) => "Watch",
        None => "nothing",
    }
}

/// Service that hands every call to the test.
#[derive(Clone)]
struct FakeServer {
    calls: mpsc::Sender<FakeCall>,
}

impl FakeServer {
    async fn forward<T>(&self, call: impl FnOnce(Reply<T>) -> FakeCall) -> Result<Response<T>, Status> {
        let (reply, response) = oneshot::channel();
        let test_ended = || Status::unavailable("the test is over");
        self.calls.send(call(reply)).await.map_err(|_| test_ended())?;
        response.await.map_err(|_| test_ended())?.map(Response::new)
    }
}

#[async_trait]
impl RegistryService for FakeServer {
    type KeepAliveStream = ResponseStream<KeepAliveResponse>;

    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        self.forward(|reply| FakeCall::Register(request.into_inner(), reply)).await
    }

    async fn deregister(&self, request: Request<DeregisterRequest>) -> Result<Response<DeregisterResponse>, Status> {
        self.forward(|reply| FakeCall::Deregister(request.into_inner(), reply)).await
    }

    async fn update_instance(
        &self,
        request: Request<UpdateInstanceRequest>,
    ) -> Result<Response<UpdateInstanceResponse>, Status> {
        self.forward(|reply| FakeCall::Update(request.into_inner(), reply)).await
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let (responses, stream) = mpsc::channel(16);
        let call = KeepAlive { heartbeats: request.into_inner(), responses };
        let _ignored = self.calls.send(FakeCall::KeepAlive(call)).await;
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn report_check(&self, _: Request<ReportCheckRequest>) -> Result<Response<ReportCheckResponse>, Status> {
        Err(Status::unimplemented("no client of this crate reports checks"))
    }
}

/// The method Watch, which the generated server leaves out.
impl ServerStreamingService<WatchRequest> for FakeServer {
    type Response = WatchResponse;
    type ResponseStream = ResponseStream<WatchResponse>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<WatchRequest>) -> Self::Future {
        let calls = self.calls.clone();
        Box::pin(async move {
            let (responses, stream) = mpsc::channel(16);
            let _ignored = calls.send(FakeCall::Watch(request.into_inner(), responses)).await;
            Ok(Response::new(Box::pin(ReceiverStream::new(stream)) as ResponseStream<WatchResponse>))
        })
    }
}

async fn watch(server: FakeServer, request: axum::extract::Request) -> axum::http::Response<Body> {
    Grpc::new(SmallBuffers::default()).server_streaming(server, request).await
}
