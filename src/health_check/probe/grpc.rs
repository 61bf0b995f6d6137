//! Probes with `grpc.health.v1.Health/Check`.

use std::{
    future::{Ready, ready},
    io,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use tonic::transport::{Endpoint, Uri};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tower::Service;

use super::{ProbeStream, Prober};
use crate::model::{CheckStatus, ProbeTarget, ProbeTls};

impl Prober {
    /// Asks a gRPC server for the health of a service. `limit`: maximum bytes of the server's error message in the output.
    pub(super) async fn probe_grpc(
        &self,
        target: &ProbeTarget,
        service: &str,
        tls: Option<&ProbeTls>,
        limit: usize,
    ) -> (CheckStatus, String) {
        let named = if service.is_empty() { target.to_string() } else { format!("{target}/{service}") };
        match self.serving_status(target, service, tls, limit).await {
            Ok(ServingStatus::Serving) => (CheckStatus::Passing, format!("gRPC check {named}: success")),
            Ok(status) => (
                CheckStatus::Critical,
                format!("gRPC check {named}: gRPC {target} serving status: {}", status.as_str_name()),
            ),
            Err(error) => (CheckStatus::Critical, format!("gRPC check {named}: {error}")),
        }
    }

    async fn serving_status(
        &self,
        target: &ProbeTarget,
        service: &str,
        tls: Option<&ProbeTls>,
        limit: usize,
    ) -> Result<ServingStatus, String> {
        let (stream, _) = self.connect(target, tls, &[b"h2"], None).await?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("http://{target}")).map_err(|error| error.to_string())?;
        let origin: Uri = format!("{scheme}://{target}").parse().map_err(|error| format!("{error}"))?;
        let channel = endpoint.origin(origin).connect_with_connector(SingleConnection(Some(stream))).await;
        let channel = channel.map_err(|error| error.to_string())?;
        let request = HealthCheckRequest { service: service.to_owned() };
        let response = HealthClient::new(channel).check(request).await;
        response.map(|response| response.get_ref().status()).map_err(|status| {
            let message = status.message();
            let message = &message[..message.floor_char_boundary(limit)];
            format!("rpc error: code = {:?} desc = {message}", status.code())
        })
    }
}

/// Connector that returns one open connection, and fails after that.
struct SingleConnection(Option<ProbeStream>);

impl Service<Uri> for SingleConnection {
    type Response = TokioIo<ProbeStream>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<ProbeStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::ErrorKind::ConnectionAborted.into()))
    }
}
