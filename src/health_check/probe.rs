//! One probe. What it says is worded as Consul's agent words it, which people and scripts know.

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

/// What came of a probe.
enum ProbeOutcome {
    Found((CheckStatus, String)),
    /// An answer whose end is still to come, which changes nothing of what is found.
    Answered(ProbeResponse),
}

/// Makes probes.
#[derive(Debug)]
pub(super) struct Prober {
    rules: ProbePolicy,
    /// For those that look at certificates, made when the first of them is: what this system trusts is read then.
    trusting: OnceLock<Result<Arc<ClientConfig>, String>>,
    /// For those that do not.
    careless: OnceLock<Result<Arc<ClientConfig>, String>>,
}

impl Prober {
    pub(super) fn new(rules: ProbePolicy) -> Self {
        Self { rules, trusting: OnceLock::new(), careless: OnceLock::new() }
    }

    /// Makes the probe of a check once, within its timeout. Returns what it found, and what there is to say about it.
    pub(super) async fn make(&self, check: &CheckDefinition) -> (CheckStatus, String) {
        let limit = check.output_max_size as usize;
        let mut over = pin!(sleep(check.time_limit()));
        let made = async {
            match &check.probe {
                Probe::Http(request) => self.request(request, limit).await,
                Probe::Tcp { target, tls } => ProbeOutcome::Found(self.reach(target, tls.as_ref()).await),
                Probe::Grpc { target, service, tls } => {
                    ProbeOutcome::Found(self.ask(target, service, tls.as_ref(), limit).await)
                }
                Probe::Ttl | Probe::Static => {
                    ProbeOutcome::Found((CheckStatus::Critical, "this check is not made by probing".to_owned()))
                }
            }
        };
        let made = tokio::select! {
            made = made => made,
            () = &mut over => {
                let span = humantime::format_duration(check.time_limit());
                return (CheckStatus::Critical, format!("{}: no answer within {span}", describe(&check.probe)));
            }
        };
        match made {
            ProbeOutcome::Found(found) => found,
            ProbeOutcome::Answered(answered) => answered.read(over).await,
        }
    }

    async fn reach(&self, target: &ProbeTarget, tls: Option<&ProbeTls>) -> (CheckStatus, String) {
        match self.connect(target, tls, &[], None).await {
            Ok(_) => (CheckStatus::Passing, format!("TCP connect {target}: Success")),
            Err(error) => (CheckStatus::Critical, error),
        }
    }

    /// Connects to the first address of a target that answers, of those that may be connected to. The error is worded as Go words it.
    /// `first`: for a redirect, the address that the check itself went to.
    async fn connect(
        &self,
        target: &ProbeTarget,
        tls: Option<&ProbeTls>,
        protocols: &[&[u8]],
        first: Option<IpAddr>,
    ) -> Result<(ProbeStream, IpAddr), String> {
        let (socket, address) = connection::reach(target, |address| match first {
            Some(first) => self.rules.permit_redirect(address, first),
            None => self.rules.permit(address),
        })
        .await?;
        let Some(tls) = tls else { return Ok((ProbeStream::Plain(socket), address)) };
        let config = if tls.skip_verify { &self.careless } else { &self.trusting };
        let config = config.get_or_init(|| connection::tls(tls.skip_verify)).clone()?;
        Ok((connection::secure(socket, target, tls, config, protocols).await?, address))
    }
}

/// What a probe does, in a few words.
fn describe(probe: &Probe) -> String {
    match probe {
        Probe::Http(request) => http::operation(&request.method, &request.shown_url()),
        Probe::Tcp { target, .. } => format!("dial tcp {target}"),
        Probe::Grpc { target, .. } => format!("gRPC check {target}"),
        Probe::Ttl | Probe::Static => String::new(),
    }
}

/// What went wrong, as Go words it.
fn reason(error: &io::Error) -> String {
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
