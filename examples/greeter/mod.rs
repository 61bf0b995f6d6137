//! Service of the examples: one method, from `google.protobuf.StringValue` to the same.
//!
//! In a program of your own, `tonic-prost-build` generates this from a `.proto` file.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use callboard::client::BalancedChannel;
use http::uri::PathAndQuery;
use tonic::{Request, Response, Status, body::Body, server::NamedService};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

/// Server of the service.
#[derive(Debug, Clone)]
pub struct GreeterServer {
    /// Name that the responses have.
    pub instance: String,
}

impl NamedService for GreeterServer {
    const NAME: &'static str = "example.Greeter";
}

impl Service<http::Request<Body>> for GreeterServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let instance = self.instance.clone();
        let hello = service_fn(move |request: Request<String>| {
            let greeting = format!("hello {} from {instance}", request.into_inner());
            async move { Ok::<_, Status>(Response::new(greeting)) }
        });
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
            Ok(grpc.unary(hello, request).await)
        })
    }
}

/// Client of the service.
#[derive(Debug, Clone)]
pub struct GreeterClient(tonic::client::Grpc<BalancedChannel>);

impl GreeterClient {
    pub fn new(channel: BalancedChannel) -> Self {
        Self(tonic::client::Grpc::new(channel))
    }

    pub async fn hello(&mut self, name: &str) -> Result<String, Status> {
        self.0.ready().await?;
        let path = PathAndQuery::from_static("/example.Greeter/Hello");
        let codec = ProstCodec::<String, String>::default();
        Ok(self.0.unary(Request::new(name.to_owned()), path, codec).await?.into_inner())
    }
}
