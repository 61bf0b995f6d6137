//! Calls to the registry, with a timeout, paging, and errors that name the registry's address.

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
            registry_service_client::RegistryServiceClient, xds_service_client::XdsServiceClient,
        },
        grpc::health::v1::health_client::HealthClient,
    },
};

/// Timeout of a call. The server receives it as the call's deadline.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Address of a registry with default settings.
pub(super) const DEFAULT_SERVER: &str = "127.0.0.1:8502";

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// gRPC address of the registry
    #[arg(long, value_name = "ADDR", env = "CALLBOARD_SERVER", default_value = DEFAULT_SERVER, value_parser = server)]
    server: String,
    #[command(flatten)]
    tls: TlsArgs,
}

/// TLS files for connections to the registry.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "the comments are help texts, which are plain text")]
pub(super) struct TlsArgs {
    /// Use TLS, and trust the authorities in this PEM file instead of the system's trust store
    #[arg(long = "tls-ca", value_name = "FILE", env = "CALLBOARD_TLS_CA")]
    pub(super) ca_file: Option<PathBuf>,
    /// Use TLS, and present this client certificate [env: CALLBOARD_TLS_CERT, if TLS is used]
    #[arg(long = "tls-cert", value_name = "FILE", requires = "key_file")]
    pub(super) certificate_file: Option<PathBuf>,
    /// Private key of --tls-cert [env: CALLBOARD_TLS_KEY]
    #[arg(long = "tls-key", value_name = "FILE", requires = "certificate_file")]
    pub(super) key_file: Option<PathBuf>,
    /// Use TLS, and expect this name in the server's certificate instead of the host of --server
    #[arg(long = "tls-server-name", value_name = "NAME", env = "CALLBOARD_TLS_SERVER_NAME")]
    pub(super) server_name: Option<String>,
}

/// Checks an address of --server.
pub(super) fn server(text: &str) -> Result<String, ClientError> {
    Endpoint::check(text).map(|()| text.to_owned())
}

impl ServerArgs {
    /// Returns the endpoint. TLS is used if the address or a flag asks for it.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, CliError> {
        let failed = |error| CliError::Call { address: self.server.clone(), error };
        if !self.tls.is_wanted() && !self.server.starts_with("https://") {
            return self.server.parse().map_err(failed);
        }
        let mut tls = TlsConfig::default();
        if let Some(file) = &self.tls.ca_file {
            tls = tls.with_ca(file);
        }
        if let Some(name) = &self.tls.server_name {
            tls = tls.with_server_name(name);
        }
        if let Some((certificate, key)) = self.tls.certificate()? {
            tls = tls.with_certificate(certificate, key);
        }
        Endpoint::with_tls(&self.server, tls).map_err(failed)
    }

    /// Returns a connection, which is opened at the first call.
    pub(crate) fn connect(&self) -> Result<ServerConnection, CliError> {
        Ok(ServerConnection::to(&self.endpoint()?))
    }
}

impl TlsArgs {
    /// Returns whether a flag asks for TLS.
    pub(super) fn is_wanted(&self) -> bool {
        self.ca_file.is_some() || self.certificate_file.is_some() || self.server_name.is_some()
    }

    /// Returns the client certificate and its key, from the flags or from the variables. The variables are those of `serve`
    /// as well, so they alone do not turn on TLS.
    pub(super) fn certificate(&self) -> Result<Option<(PathBuf, PathBuf)>, CliError> {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let (Some(certificate), Some(key)) = (&self.certificate_file, &self.key_file) {
            return Ok(Some((certificate.clone(), key.clone())));
        }
        match (variable("CALLBOARD_TLS_CERT"), variable("CALLBOARD_TLS_KEY")) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            (Some(_), None) => {
                Err(CliError::Usage("CALLBOARD_TLS_CERT is set, but CALLBOARD_TLS_KEY is not; set both".into()))
            }
            (None, Some(_)) => {
                Err(CliError::Usage("CALLBOARD_TLS_KEY is set, but CALLBOARD_TLS_CERT is not; set both".into()))
            }
        }
    }
}

/// A connection to a registry.
#[derive(Debug)]
pub(crate) struct ServerConnection {
    endpoint: Endpoint,
    channel: Channel,
}

impl ServerConnection {
    /// Returns a connection, which is made at the first call.
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

    pub(crate) fn xds(&self) -> XdsServiceClient<Channel> {
        XdsServiceClient::new(self.channel.clone())
    }

    pub(crate) fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    /// Waits for a response until the timeout.
    pub(crate) async fn call<T>(
        &self,
        response: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CliError> {
        let response = match timeout(CALL_TIMEOUT, response).await {
            Ok(response) => response.map_err(ClientError::from),
            Err(_) => Err(ClientError::Timeout(CALL_TIMEOUT)),
        };
        response.map(Response::into_inner).map_err(|error| self.error(error))
    }

    /// Adds the registry's address to an error.
    pub(crate) fn error(&self, error: ClientError) -> CliError {
        CliError::Call { address: self.endpoint.to_string(), error: self.endpoint.explain(error) }
    }
}

/// Returns a request with the timeout as its deadline.
pub(crate) fn with_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

/// Fetches page after page until the last one, or until there are `limit` items.
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
    async fn pages_are_fetched_until_the_last() {
        let (all, tokens) = numbers(usize::MAX).await;
        assert_eq!(all, (0..9).collect::<Vec<_>>());
        assert_eq!(tokens, ["", "3", "6"]);
    }

    #[tokio::test]
    async fn pages_stop_at_the_limit() {
        let (all, tokens) = numbers(4).await;
        assert_eq!(all, [0, 1, 2, 3]);
        assert_eq!(tokens.len(), 2);
    }
}
