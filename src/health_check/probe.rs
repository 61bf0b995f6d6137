//! Probes. Outputs have the texts of Consul's agent, which scripts depend on.

mod connection;
mod grpc;
mod http;

use std::{
    io,
    net::IpAddr,
    pin::pin,
    sync::{Arc, OnceLock},
};

use rustls::ClientConfig;
use tokio::time::sleep;

use super::{ProbePolicy, url::ProbeUrl};
use crate::model::{CheckDefinition, CheckStatus, Probe, ProbeTarget, ProbeTls};
use connection::ProbeStream;
use http::ProbeResponse;

/// Progress of a probe at the end of its first stage.
enum ProbeOutcome {
    /// Status and output.
    Complete((CheckStatus, String)),
    /// HTTP response without its body. A timeout while the body is read only shortens the output.
    Response(ProbeResponse),
}

/// Client that sends the probes.
#[derive(Debug)]
pub(super) struct Prober {
    policy: ProbePolicy,
    /// Configuration with the certificate authorities of the system's trust store, which are read at the first probe
    /// that needs them.
    verifying: OnceLock<Result<Arc<ClientConfig>, String>>,
    /// Configuration that accepts all certificates.
    unverified: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl Prober {
    pub(super) fn new(policy: ProbePolicy) -> Self {
        Self { policy, verifying: OnceLock::new(), unverified: OnceLock::new() }
    }

    /// Probes the target of a check once, within its timeout. Returns status and output.
    pub(super) async fn probe(&self, check: &CheckDefinition) -> (CheckStatus, String) {
        let limit = check.output_max_size as usize;
        let mut deadline = pin!(sleep(check.time_limit()));
        let outcome = async {
            match &check.probe {
                Probe::Http(request) => self.probe_http(request, limit).await,
                Probe::Tcp { target, tls } => ProbeOutcome::Complete(self.probe_tcp(target, tls.as_ref()).await),
                Probe::Grpc { target, service, tls } => {
                    ProbeOutcome::Complete(self.probe_grpc(target, service, tls.as_ref(), limit).await)
                }
                Probe::Ttl | Probe::Static => {
                    ProbeOutcome::Complete((CheckStatus::Critical, "this check has no probe".to_owned()))
                }
            }
        };
        let outcome = tokio::select! {
            outcome = outcome => outcome,
            () = &mut deadline => {
                let span = humantime::format_duration(check.time_limit());
                return (CheckStatus::Critical, format!("{}: no answer within {span}", describe(&check.probe)));
            }
        };
        match outcome {
            ProbeOutcome::Complete(result) => result,
            ProbeOutcome::Response(response) => response.read(deadline).await,
        }
    }

    async fn probe_tcp(&self, target: &ProbeTarget, tls: Option<&ProbeTls>) -> (CheckStatus, String) {
        match self.connect(target, tls, &[], None).await {
            Ok(_) => (CheckStatus::Passing, format!("TCP connect {target}: Success")),
            Err(error) => (CheckStatus::Critical, error),
        }
    }

    /// Connects to the first permitted address of a target that accepts. Errors have the texts of Go's `net`. `first`: for a redirect,
    /// the address of the probe's first request.
    async fn connect(
        &self,
        target: &ProbeTarget,
        tls: Option<&ProbeTls>,
        protocols: &[&[u8]],
        first: Option<IpAddr>,
    ) -> Result<(ProbeStream, IpAddr), String> {
        let (socket, address) = connection::connect(target, |address| match first {
            Some(first) => self.policy.permit_redirect(address, first),
            None => self.policy.permit(address),
        })
        .await?;
        let Some(tls) = tls else { return Ok((ProbeStream::Plain(socket), address)) };
        let config = if tls.skip_verify { &self.unverified } else { &self.verifying };
        let config = config.get_or_init(|| connection::tls_config(!tls.skip_verify)).clone()?;
        Ok((connection::handshake(socket, target, tls, config, protocols).await?, address))
    }
}

/// Returns the operation of a probe, for its errors.
fn describe(probe: &Probe) -> String {
    match probe {
        Probe::Http(request) => http::operation(&request.method, &request.shown_url()),
        Probe::Tcp { target, .. } => format!("dial tcp {target}"),
        Probe::Grpc { target, .. } => format!("gRPC check {target}"),
        Probe::Ttl | Probe::Static => String::new(),
    }
}

/// Returns the text of an I/O error in Go.
fn go_error_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
