//! Calls to the registry: bounded, paged, and failing with its address.

use std::{env, path::PathBuf, time::Duration};

use clap::Args;
use tokio::time::timeout;
use tonic::{Request, Response, Status, transport::Channel};

use super::error::CliError;
use crate::{
    client::{ClientError, Endpoint, TlsConfig},
    pb::{
        callboard::v1::{
            admin_service_client::AdminServiceClient, discovery_service_client::DiscoveryServiceClient,
            registry_service_client::RegistryServiceClient,
        },
        grpc::health::v1::health_client::HealthClient,
    },
};

/// How long a call that only asks may take. The server is told, too.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// The registry's gRPC address
    #[arg(long, value_name = "ADDR", env = "CALLBOARD_SERVER", default_value = "127.0.0.1:8502", value_parser = server)]
    server: String,
    /// Speak TLS, and trust the certificates in this PEM file instead of those that this system trusts
    #[arg(long, value_name = "FILE", env = "CALLBOARD_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// Speak TLS, and show this certificate [env: `CALLBOARD_TLS_CERT`, where TLS is spoken]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert [env: `CALLBOARD_TLS_KEY`]
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Speak TLS, and want the server's certificate to have this name instead of the host in --server
    #[arg(long, value_name = "NAME", env = "CALLBOARD_TLS_SERVER_NAME")]
    tls_server_name: Option<String>,
}

fn server(text: &str) -> Result<String, ClientError> {
    Endpoint::check(text).map(|()| text.to_owned())
}

impl ServerArgs {
    /// Where the registry is. TLS is spoken where the address or a flag says so.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, CliError> {
        let failed = |error| CliError::Call { address: self.server.clone(), error };
        let asked = [&self.tls_ca, &self.tls_cert].iter().any(|file| file.is_some()) || self.tls_server_name.is_some();
        if !asked && !self.server.starts_with("https://") {
            return self.server.parse().map_err(failed);
        }
        let mut tls = TlsConfig::default();
        if let Some(file) = &self.tls_ca {
            tls = tls.with_ca(file);
        }
        if let Some(name) = &self.tls_server_name {
            tls = tls.with_server_name(name);
        }
        if let Some((certificate, key)) = self.certificate()? {
            tls = tls.with_certificate(certificate, key);
        }
        Endpoint::with_tls(&self.server, tls).map_err(failed)
    }

    /// The flags, else the variables. Those are `serve`'s as well, so that by themselves they do not mean that a client has to
    /// speak TLS.
    fn certificate(&self) -> Result<Option<(PathBuf, PathBuf)>, CliError> {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let (Some(certificate), Some(key)) = (&self.tls_cert, &self.tls_key) {
            return Ok(Some((certificate.clone(), key.clone())));
        }
        match (variable("CALLBOARD_TLS_CERT"), variable("CALLBOARD_TLS_KEY")) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            (Some(_), None) => {
                Err(CliError::Usage("CALLBOARD_TLS_CERT is set, but CALLBOARD_TLS_KEY is not; set both"))
            }
            (None, Some(_)) => {
                Err(CliError::Usage("CALLBOARD_TLS_KEY is set, but CALLBOARD_TLS_CERT is not; set both"))
            }
        }
    }

    /// A connection, made when the first call needs it.
    pub(crate) fn connect(&self) -> Result<ServerConnection, CliError> {
        Ok(ServerConnection::to(&self.endpoint()?))
    }
}

/// A connection to a registry.
#[derive(Debug)]
pub(crate) struct ServerConnection {
    endpoint: Endpoint,
    channel: Channel,
}

impl ServerConnection {
    /// Made when the first call needs it.
    pub(crate) fn to(endpoint: &Endpoint) -> Self {
        Self { endpoint: endpoint.clone(), channel: endpoint.channel() }
    }

    pub(crate) fn registry(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::new(self.channel.clone())
    }

    pub(crate) fn discovery(&self) -> DiscoveryServiceClient<Channel> {
        DiscoveryServiceClient::new(self.channel.clone())
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    pub(crate) fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    /// Waits for an answer, within bounds.
    pub(crate) async fn answer<T>(
        &self,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CliError> {
        let answer = match timeout(CALL_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(ClientError::from),
            Err(_) => Err(ClientError::Silent(CALL_TIMEOUT)),
        };
        answer.map(Response::into_inner).map_err(|error| self.failure(error))
    }

    pub(crate) fn failure(&self, error: ClientError) -> CliError {
        CliError::Call { address: self.endpoint.to_string(), error: self.endpoint.explain(error) }
    }
}

/// A request that tells the server how long its answer is of use.
pub(crate) fn ask<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Fetches page after page, each by the token answered with the one before, until there are no more or enough.
pub(crate) async fn pages<T>(
    limit: usize,
    mut fetch: impl AsyncFnMut(String) -> Result<(Vec<T>, String), CliError>,
) -> Result<Vec<T>, CliError> {
    let mut all = Vec::new();
    let mut token = String::new();
    while all.len() < limit {
        let (page, next) = fetch(token).await?;
        all.extend(page);
        if next.is_empty() {
            break;
        }
        token = next;
    }
    all.truncate(limit);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn numbers(limit: usize) -> (Vec<usize>, Vec<String>) {
        let mut tokens = Vec::new();
        let all = pages(limit, async |token: String| {
            tokens.push(token.clone());
            let at = token.parse().unwrap_or(0);
            let next = if at == 6 { String::new() } else { (at + 3).to_string() };
            Ok(((at..at + 3).collect(), next))
        });
        let all = all.await.unwrap();
        (all, tokens)
    }

    #[tokio::test]
    async fn pages_are_fetched_to_the_last() {
        let (all, tokens) = numbers(usize::MAX).await;
        assert_eq!(all, (0..9).collect::<Vec<_>>());
        assert_eq!(tokens, ["", "3", "6"]);
    }

    #[tokio::test]
    async fn enough_is_enough() {
        let (all, tokens) = numbers(4).await;
        assert_eq!(all, [0, 1, 2, 3]);
        assert_eq!(tokens.len(), 2);
    }
}
