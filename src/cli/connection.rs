//! Calls to the registry: bounded, paged, and failing with its address.

use std::time::Duration;

use clap::Args;
use tokio::time::timeout;
use tonic::{Request, Response, Status, transport::Channel};

use super::failure::Failure;
use crate::{
    client::{ClientError, Endpoint},
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
    #[arg(long, value_name = "ADDR", env = "CALLBOARD_SERVER", default_value = "127.0.0.1:8502")]
    pub(crate) server: Endpoint,
}

impl ServerArgs {
    /// A connection, made when the first call needs it.
    pub(crate) fn connect(&self) -> Connection {
        Connection { address: self.server.to_string(), channel: self.server.channel() }
    }
}

/// A connection to a registry.
#[derive(Debug)]
pub(crate) struct Connection {
    address: String,
    channel: Channel,
}

impl Connection {
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
    ) -> Result<T, Failure> {
        let answer = match timeout(CALL_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(ClientError::from),
            Err(_) => Err(ClientError::Silent(CALL_TIMEOUT)),
        };
        answer.map(Response::into_inner).map_err(|error| self.failure(error))
    }

    pub(crate) fn failure(&self, error: ClientError) -> Failure {
        Failure::Call { address: self.address.clone(), error }
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
    mut fetch: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Failure>,
) -> Result<Vec<T>, Failure> {
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
