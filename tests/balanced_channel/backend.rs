//! Instance of the service `echo`: a tonic server in this process, its registration, and the client's side of its methods.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use callboard::{
    client::{BalancedChannel, Registration, RegistrationEvent, Servers},
    pb::callboard::v1::{Locality, RegisterRequest},
};
use http::uri::PathAndQuery;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tonic::{
    Code, Request, Response, Status, Streaming, body::Body, codegen::BoxFuture, server::NamedService, transport::Server,
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use crate::harness::{address, seconds, within};

const CALL: &str = "/test.Echo/Call";
const OPEN: &str = "/test.Echo/Open";

/// Fields of the registration that tests choose.
#[derive(Debug, Default, Clone)]
pub struct BackendSettings {
    pub starting: bool,
    pub zone: &'static str,
    pub weight: Option<u32>,
    pub metadata: HashMap<String, String>,
}

/// Server of one instance. Dropping it deregisters the instance and ends the server.
#[derive(Debug)]
pub struct Backend {
    registration: Option<Registration>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
    echo: Echo,
    address: SocketAddr,
    connections: Arc<AtomicU64>,
}

impl Backend {
    pub async fn start(registry: &SocketAddr, id: &str) -> Self {
        Self::start_with(registry, id, BackendSettings::default()).await
    }

    pub async fn start_with(registry: &SocketAddr, id: &str, settings: BackendSettings) -> Self {
        Self::start_on(&registry.to_string().parse().unwrap(), id, settings).await
    }

    /// Starts a server, and returns once its instance is registered.
    pub async fn start_on(registries: &Servers, id: &str, settings: BackendSettings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (registered, mut registrations) = mpsc::unbounded_channel();
        let on_event = move |event| {
            if matches!(event, RegistrationEvent::Registered { .. }) {
                let _test_ended = registered.send(());
            }
        };
        let registration = Registration::start(registries, request(id, address, settings), on_event).unwrap();
        let (echo, connections) = (Echo::new(id), Arc::new(AtomicU64::new(0)));
        let (stop, stopped) = oneshot::channel::<()>();
        let accepted = Arc::clone(&connections);
        let incoming = TcpListenerStream::new(listener).map(move |socket: std::io::Result<TcpStream>| {
            accepted.fetch_add(1, Ordering::Relaxed);
            socket
        });
        let serving = Server::builder()
            .layer(registration.load_layer())
            .add_service(echo.clone())
            .serve_with_incoming_shutdown(incoming, async move { drop(stopped.await) });
        let server = tokio::spawn(async move { serving.await.unwrap() });
        within("a registration", registrations.recv()).await.unwrap();
        Self { registration: Some(registration), stop: Some(stop), server, echo, address, connections }
    }

    pub fn registration(&self) -> &Registration {
        self.registration.as_ref().unwrap()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of calls that have arrived.
    pub fn calls(&self) -> u64 {
        self.echo.calls.load(Ordering::Relaxed)
    }

    /// Returns the number of connections that were accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Sets the response time of the next calls.
    pub fn set_delay(&self, delay: Duration) {
        *self.echo.delay.lock().unwrap() = delay;
    }

    /// Deregisters the instance and ends the server as a program should: drain, wait for the calls, stop.
    pub async fn shut_down(mut self) {
        let registration = self.registration.take().unwrap();
        within("the drain", registration.shutdown(Duration::from_secs(20))).await;
        drop(self.stop.take());
        within("the end of the server", &mut self.server).await.unwrap();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn request(id: &str, at: SocketAddr, settings: BackendSettings) -> RegisterRequest {
    RegisterRequest {
        service: "echo".to_owned(),
        id: id.to_owned(),
        // Each backend stands for a program of its own.
        boot_id: format!("{:016x}", callboard::random::u64()),
        addresses: vec![address(&at.ip().to_string(), at.port().into())],
        metadata: settings.metadata,
        weight: settings.weight,
        locality: Some(Locality { zone: settings.zone.to_owned(), ..Locality::default() }),
        ttl: seconds(3.0),
        starting: settings.starting,
        ..RegisterRequest::default()
    }
}

/// Service whose methods respond with the id of their instance.
#[derive(Debug, Clone)]
struct Echo {
    id: Arc<str>,
    calls: Arc<AtomicU64>,
    delay: Arc<Mutex<Duration>>,
    /// Open streams end when the last clone is dropped.
    alive: watch::Sender<()>,
}

impl Echo {
    fn new(id: &str) -> Self {
        Self { id: id.into(), calls: Arc::default(), delay: Arc::default(), alive: watch::channel(()).0 }
    }

    async fn call(self, request: Request<String>) -> Result<Response<String>, Status> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if request.get_ref() == "fail" {
            return Err(Status::new(Code::Internal, "the caller asked for it"));
        }
        Ok(Response::new(self.id.to_string()))
    }

    fn open(&self) -> Response<impl Stream<Item = Result<String, Status>> + Send + 'static> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let (messages, stream) = mpsc::channel(1);
        let _ignored = messages.try_send(Ok(self.id.to_string()));
        let mut alive = self.alive.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                _ended = alive.changed() => {}
                () = messages.closed() => {}
            }
        });
        Response::new(tokio_stream::wrappers::ReceiverStream::new(stream))
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
            if request.uri().path() == OPEN {
                let open = OpenMethod(echo);
                return Ok(grpc.server_streaming(open, request).await);
            }
            let call = service_fn(move |request: Request<String>| echo.clone().call(request));
            Ok(grpc.unary(call, request).await)
        })
    }
}

/// Method with a stream of responses.
struct OpenMethod(Echo);

impl tonic::server::ServerStreamingService<String> for OpenMethod {
    type Response = String;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, _: Request<String>) -> Self::Future {
        let response = self.0.open().map(|stream| Box::pin(stream) as Self::ResponseStream);
        Box::pin(async move { Ok(response) })
    }
}

/// Calls the method that responds once, and returns the id of the instance.
pub async fn call(channel: &BalancedChannel) -> Result<String, Status> {
    echo(channel, Request::new(String::new())).await
}

pub async fn echo(channel: &BalancedChannel, request: Request<String>) -> Result<String, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await?;
    let codec = ProstCodec::<String, String>::default();
    Ok(client.unary(request, PathAndQuery::from_static(CALL), codec).await?.into_inner())
}

/// Opens a stream, which stays open as long as the instance.
pub async fn open(channel: &BalancedChannel) -> Result<Streaming<String>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await?;
    let codec = ProstCodec::<String, String>::default();
    let request = Request::new(String::new());
    Ok(client.server_streaming(request, PathAndQuery::from_static(OPEN), codec).await?.into_inner())
}
