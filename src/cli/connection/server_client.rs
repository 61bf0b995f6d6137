//! One server: its services, calls with a timeout, pages.

use tokio::time::timeout;
use tonic::{Response, Status, transport::Channel};

use super::CALL_TIMEOUT;
use crate::{
    cli::error::CliError,
    client::{ClientError, Endpoint},
    pb::{
        callboard::v1::{
            admin_service_client::AdminServiceClient, discovery_service_client::DiscoveryServiceClient,
            registry_service_client::RegistryServiceClient, xds_service_client::XdsServiceClient,
        },
        grpc::health::v1::health_client::HealthClient,
    },
};

/// Server, and a channel to it.
#[derive(Debug, Clone)]
pub(crate) struct ServerClient {
    endpoint: Endpoint,
    channel: Channel,
}

impl ServerClient {
    /// Returns a client, which connects at the first call.
    pub(crate) fn to(endpoint: &Endpoint) -> Self {
        Self { endpoint: endpoint.clone(), channel: endpoint.channel() }
    }

    pub(crate) fn address(&self) -> String {
        self.endpoint.to_string()
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

    /// Waits for a response until the timeout. An error has its cause, if that is known.
    pub(crate) async fn call<T>(
        &self,
        response: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, ClientError> {
        let response = match timeout(CALL_TIMEOUT, response).await {
            Ok(response) => response.map_err(ClientError::from),
            Err(_) => Err(ClientError::Timeout(CALL_TIMEOUT)),
        };
        response.map(Response::into_inner).map_err(|error| self.endpoint.explain(error))
    }

    /// Adds the server's address to an error.
    pub(crate) fn error(&self, error: ClientError) -> CliError {
        CliError::Call { address: self.address(), error }
    }
}

/// Fetches page after page until the last one, or until there are `limit` items.
pub(crate) async fn pages<T>(
    limit: usize,
    mut fetch: impl AsyncFnMut(String) -> Result<(Vec<T>, String), ClientError>,
) -> Result<Vec<T>, ClientError> {
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
