//! TLS between a channel and the instances. The instance is a registry with a TLS listener, which serves gRPC like any other.

use callboard::{
    client::{BalancedChannel, Discovery, Servers, TlsConfig},
    pb::callboard::v1::RegisterRequest,
};
use tonic::{Code, Status};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::connected;
use crate::harness::{TestCa, TestServer, address, instance, within};

/// Starts a registry that has itself as an instance of the service `target`, with TLS.
async fn start(authority: &TestCa) -> TestServer {
    let server = TestServer::with(|config| {
        config.grpc_tls = Some("127.0.0.1:0".parse().unwrap());
        config.tls = Some(authority.files(&authority.server(), false));
    });
    let port = server.addresses().grpc_tls.unwrap().port();
    let addresses = vec![address("localhost", port.into())];
    let request = RegisterRequest { addresses, ..instance("target", "a") };
    server.client().await.register(request).await.unwrap();
    server
}

fn channel(server: &TestServer, tls: TlsConfig) -> BalancedChannel {
    Discovery::new(server.grpc().to_string().parse::<Servers>().unwrap()).with_tls(tls).channel("target")
}

async fn check(channel: BalancedChannel) -> Result<(), Status> {
    within("a call", HealthClient::new(channel).check(HealthCheckRequest::default())).await.map(drop)
}

#[tokio::test]
async fn instance_is_called_over_tls() {
    let authority = TestCa::open();
    let server = start(&authority).await;
    let channel = channel(&server, TlsConfig::default().with_ca(authority.ca()));
    connected(&channel, 1).await;
    check(channel).await.unwrap();
}

#[tokio::test]
async fn instance_of_unknown_authority_is_not_called() {
    let (authority, stranger) = (TestCa::open(), TestCa::open());
    let server = start(&authority).await;
    let status = check(channel(&server, TlsConfig::default().with_ca(stranger.ca()))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("invalid peer certificate"), "{status}");
}
