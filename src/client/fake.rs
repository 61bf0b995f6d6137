//! A registry that does what the test says: every call arrives as a value, and the test answers it. In memory, so that
//! tokio's clock can be paused.

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

use super::Connect;
use crate::pb::{
    callboard::v1::{
        DeregisterRequest, DeregisterResponse, KeepAliveRequest, KeepAliveResponse, RegisterRequest, RegisterResponse,
        ReportCheckRequest, ReportCheckResponse, UpdateInstanceRequest, UpdateInstanceResponse, WatchRequest,
        WatchResponse,
    },
    codec::SmallBuffers,
    server::registry_service_server::{RegistryService, RegistryServiceServer},
};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Reply<T> = oneshot::Sender<Result<T, Status>>;

/// A call that waits for its answer.
pub(super) enum FakeCall {
    Register(RegisterRequest, Reply<RegisterResponse>),
    Deregister(DeregisterRequest, Reply<DeregisterResponse>),
    Update(UpdateInstanceRequest, Reply<UpdateInstanceResponse>),
    KeepAlive(KeepAlive),
    Watch(WatchRequest, mpsc::Sender<Result<WatchResponse, Status>>),
}

/// The server's side of a heartbeat stream. Dropping it ends the stream.
pub(super) struct KeepAlive {
    heartbeats: Streaming<KeepAliveRequest>,
    pub(super) answers: mpsc::Sender<Result<KeepAliveResponse, Status>>,
}

impl KeepAlive {
    /// The lease of the next heartbeat.
    pub(super) async fn lease(&mut self) -> bytes::Bytes {
        let request = self.heartbeats.message().await.unwrap().unwrap();
        request.heartbeats[0].lease_id.clone()
    }
}

/// The test's end.
pub(super) struct FakeRegistry {
    calls: mpsc::Receiver<FakeCall>,
    connections: mpsc::Sender<io::Result<DuplexStream>>,
    down: Arc<AtomicBool>,
}

impl FakeRegistry {
    pub(super) fn start() -> Self {
        let (told, calls) = mpsc::channel(16);
        let (connections, incoming) = mpsc::channel(16);
        let desk = FakeServer { calls: told };
        let registry = Routes::new(RegistryServiceServer::new(desk.clone())).into_axum_router();
        let watches = axum::routing::post(move |request| watch(desk.clone(), request));
        let routes = registry.route("/callboard.v1.DiscoveryService/Watch", watches);
        let server = Server::builder().add_routes(routes.into());
        tokio::spawn(server.serve_with_incoming(ReceiverStream::new(incoming)));
        Self { calls, connections, down: Arc::default() }
    }

    /// What a client connects with.
    pub(super) fn connect(&self) -> Connect {
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

    /// New connections are refused from now on, or no longer.
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
            Some(FakeCall::Watch(request, answers)) => (request, answers),
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

/// The server's end: hands every call to the test.
#[derive(Clone)]
struct FakeServer {
    calls: mpsc::Sender<FakeCall>,
}

impl FakeServer {
    async fn hand<T>(&self, call: impl FnOnce(Reply<T>) -> FakeCall) -> Result<Response<T>, Status> {
        let (reply, answer) = oneshot::channel();
        let gone = || Status::unavailable("the test is over");
        self.calls.send(call(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map(Response::new)
    }
}

#[async_trait]
impl RegistryService for FakeServer {
    type KeepAliveStream = Answers<KeepAliveResponse>;

    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<RegisterResponse>, Status> {
        self.hand(|reply| FakeCall::Register(request.into_inner(), reply)).await
    }

    async fn deregister(&self, request: Request<DeregisterRequest>) -> Result<Response<DeregisterResponse>, Status> {
        self.hand(|reply| FakeCall::Deregister(request.into_inner(), reply)).await
    }

    async fn update_instance(
        &self,
        request: Request<UpdateInstanceRequest>,
    ) -> Result<Response<UpdateInstanceResponse>, Status> {
        self.hand(|reply| FakeCall::Update(request.into_inner(), reply)).await
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let (answers, told) = mpsc::channel(16);
        let stream = KeepAlive { heartbeats: request.into_inner(), answers };
        let _over = self.calls.send(FakeCall::KeepAlive(stream)).await;
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }

    async fn report_check(&self, _: Request<ReportCheckRequest>) -> Result<Response<ReportCheckResponse>, Status> {
        Err(Status::unimplemented("no client of this crate reports checks"))
    }
}

/// Watch, which the generated servers leave out.
impl ServerStreamingService<WatchRequest> for FakeServer {
    type Response = WatchResponse;
    type ResponseStream = Answers<WatchResponse>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<WatchRequest>) -> Self::Future {
        let calls = self.calls.clone();
        Box::pin(async move {
            let (answers, told) = mpsc::channel(16);
            let _over = calls.send(FakeCall::Watch(request.into_inner(), answers)).await;
            Ok(Response::new(Box::pin(ReceiverStream::new(told)) as Answers<WatchResponse>))
        })
    }
}

async fn watch(desk: FakeServer, request: axum::extract::Request) -> axum::http::Response<Body> {
    Grpc::new(SmallBuffers::default()).server_streaming(desk, request).await
}
