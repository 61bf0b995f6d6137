//! Replicas of one registry, as processes.

use std::time::Duration;

use anyhow::{Context, Result};
use callboard::pb::callboard::v1::{ListServicesRequest, discovery_service_client::DiscoveryServiceClient};
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::cluster::{EtcdCluster, metric};
use crate::{
    client::{connect, page},
    processes::Server,
};

/// Name of the registry.
const CLUSTER: &str = "benchmarks";
/// Beginning of the keys of its instances in etcd.
pub const INSTANCE_KEYS: &str = "/callboard/v1/benchmarks/i/";
/// Connections to each replica, of which each has at most 1,000 streams.
pub const CONNECTIONS: usize = 40;
const POLL_INTERVAL: Duration = Duration::from_millis(10);
const EQUAL_TIMEOUT: Duration = Duration::from_mins(3);

/// Replica with connections to it.
#[derive(Debug)]
pub struct Replica {
    /// Process.
    pub server: Server,
    /// Connections.
    pub channels: Vec<Channel>,
}

impl Replica {
    /// Starts a replica; its number selects the member of etcd that it uses.
    pub async fn start(etcd: &EtcdCluster, number: usize) -> Result<Self> {
        let (endpoints, name) = (etcd.endpoints(number), format!("replica-{number}"));
        let start = || {
            Server::callboard_with(&[
                "--etcd",
                &endpoints,
                "--cluster",
                CLUSTER,
                "--replica",
                &name,
                "--max-streams",
                "1000000",
            ])
        };
        let server = tokio::task::block_in_place(start)?;
        let channels = connect(server.address, CONNECTIONS).await?;
        Ok(Self { server, channels })
    }

    /// Starts this number of replicas.
    pub async fn start_all(etcd: &EtcdCluster, count: usize) -> Result<Vec<Self>> {
        let mut replicas = Vec::with_capacity(count);
        for number in 0..count {
            replicas.push(Self::start(etcd, number).await?);
        }
        Ok(replicas)
    }

    /// Returns the newest revision, and the number of instances.
    pub async fn state(&self) -> Result<(u64, usize)> {
        let mut client = DiscoveryServiceClient::new(self.channels[0].clone());
        let answer = client.list_services(ListServicesRequest::default()).await?.into_inner();
        let instances: u32 = answer.services.iter().map(|service| service.instances).sum();
        Ok((answer.revision, instances as usize))
    }

    /// Waits until this replica has reached a revision.
    pub async fn reaches(&self, revision: u64) -> Result<()> {
        let reached = async {
            while self.state().await?.0 < revision {
                sleep(POLL_INTERVAL).await;
            }
            anyhow::Ok(())
        };
        timeout(EQUAL_TIMEOUT, reached).await.context("a replica does not reach the revision of another one")?
    }

    /// Returns a metric of the server.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        Ok(metric(&page(self.server.http()?, "/metrics").await?, name))
    }

    /// Returns the CPU time in seconds.
    pub fn cpu(&self) -> Result<f64> {
        Ok(self.server.cpu()?.as_secs_f64())
    }
}
