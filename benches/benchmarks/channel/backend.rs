//! Servers that channels call: one without a delay, and four with one.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Result;
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, task::JoinSet, time::sleep};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, body::Body, server::NamedService, transport::Server};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

/// Path of the only method.
pub const CALL: &str = "/benchmark.Echo/Call";
/// Response times of the instances with a delay.
pub const DELAYS: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(5), Duration::from_millis(5), Duration::from_millis(5)];

/// Serves until killed. Prints the addresses as one JSON object.
pub async fn serve() -> Result<()> {
    let mut servers = JoinSet::new();
    let mut addresses = Map::new();
    let delayed = DELAYS.iter().enumerate().map(|(at, delay)| (format!("delayed-{at}"), *delay));
    for (name, delay) in delayed.chain([("grpc".to_owned(), Duration::ZERO)]) {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.insert(name, json!(listener.local_addr()?.to_string()));
        let server = Server::builder().add_service(Echo(delay));
        servers.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    }
    println!("{}", Value::Object(addresses));
    while let Some(ended) = servers.join_next().await {
        ended??;
    }
    Ok(())
}

/// Service that responds after a delay.
#[derive(Debug, Clone)]
struct Echo(Duration);

impl NamedService for Echo {
    const NAME: &'static str = "benchmark.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let delay = self.0;
        Box::pin(async move {
            let call = service_fn(move |request: Request<String>| async move {
                if !delay.is_zero() {
                    sleep(delay).await;
                }
                Ok::<_, Status>(Response::new(request.into_inner()))
            });
            Ok(tonic::server::Grpc::new(ProstCodec::<String, String>::default()).unary(call, request).await)
        })
    }
}
