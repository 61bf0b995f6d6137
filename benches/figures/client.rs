//! The other side: plain gRPC clients, light enough to load a server with.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use callboard::pb::{
    callboard::v1::{self as pb, registry_service_client::RegistryServiceClient},
    codec::SmallBuffers,
};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    transport::{Channel, Endpoint},
};

/// So many connections.
pub async fn connect(address: SocketAddr, connections: usize) -> Result<Vec<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    let mut channels = Vec::with_capacity(connections);
    for _ in 0..connections {
        channels.push(endpoint.connect().await?);
    }
    Ok(channels)
}

/// An instance as they are in life. It outlives every measurement.
pub fn instance(service: usize, id: usize) -> pb::RegisterRequest {
    pb::RegisterRequest {
        service: service_name(service),
        id: format!("instance-{id:06}"),
        boot_id: format!("boot-{id:06}"),
        addresses: vec![pb::Address {
            host: format!("10.{}.{}.{}", id >> 16 & 255, id >> 8 & 255, id & 255),
            port: 8_080,
            name: "http".into(),
        }],
        tags: vec!["v2".into(), "http".into()],
        metadata: [("team", "checkout"), ("version", "1.4.2")].map(|(key, value)| (key.into(), value.into())).into(),
        weight: Some(100),
        locality: Some(pb::Locality { zone: "eu-1a".into(), ..Default::default() }),
        ttl: Some(prost_types::Duration { seconds: 3_600, nanos: 0 }),
        ..Default::default()
    }
}

/// The name of the `n`th service.
pub fn service_name(n: usize) -> String {
    format!("service-{n:03}")
}

/// Registers so many instances over so many services, on these connections, and returns their leases.
pub async fn register(channels: &[Channel], instances: usize, services: usize) -> Result<Vec<Bytes>> {
    const IN_FLIGHT: usize = 8;
    let mut tasks = tokio::task::JoinSet::new();
    let lanes = channels.len() * IN_FLIGHT;
    for lane in 0..lanes {
        let mut client = RegistryServiceClient::new(channels[lane % channels.len()].clone());
        tasks.spawn(async move {
            let mut leases = Vec::new();
            for id in (lane..instances).step_by(lanes) {
                let answer = client.register(instance(id % services, id)).await?;
                leases.push(answer.into_inner().lease_id);
            }
            anyhow::Ok(leases)
        });
    }
    let mut leases = Vec::with_capacity(instances);
    while let Some(done) = tasks.join_next().await {
        leases.extend(done??);
    }
    Ok(leases)
}

/// A heartbeat stream.
#[derive(Debug)]
pub struct KeepAlive {
    requests: mpsc::Sender<pb::KeepAliveRequest>,
    answers: Streaming<pb::KeepAliveResponse>,
}

impl KeepAlive {
    /// How many messages may wait for their answers.
    pub const DEPTH: usize = 8;

    /// Opens one.
    pub async fn open(channel: &Channel) -> Result<Self> {
        let (requests, outbound) = mpsc::channel(Self::DEPTH);
        let mut client = RegistryServiceClient::new(channel.clone());
        let answers = client.keep_alive(ReceiverStream::new(outbound)).await?.into_inner();
        Ok(Self { requests, answers })
    }

    /// Sends one message of heartbeats.
    pub async fn send(&self, leases: &[Bytes]) -> Result<()> {
        let heartbeats = leases.iter().map(|lease| pb::Heartbeat { lease_id: lease.clone(), load: None });
        Ok(self.requests.send(pb::KeepAliveRequest { heartbeats: heartbeats.collect() }).await?)
    }

    /// Reads the answer to the oldest message that waits for it: how many leases hold? All must.
    pub async fn answer(&mut self) -> Result<usize> {
        let answer = self.answers.message().await?.context("the heartbeat stream ended")?;
        let held = answer.leases.iter().all(|lease| lease.state() == pb::LeaseState::Held);
        ensure!(held, "a heartbeat was not answered HELD");
        Ok(answer.leases.len())
    }

    /// One message, answered.
    pub async fn beat(&mut self, leases: &[Bytes]) -> Result<()> {
        self.send(leases).await?;
        let held = self.answer().await?;
        ensure!(held == leases.len(), "{held} of {} heartbeats were answered", leases.len());
        Ok(())
    }
}

/// A message of a watch, of which only is read what is measured: so the reader does not cost more than the server.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Told {
    /// The snapshot is complete.
    #[prost(message, optional, tag = "3")]
    pub synced: Option<Synced>,
    /// What changed.
    #[prost(message, optional, tag = "4")]
    pub changes: Option<Changes>,
}

/// The end of a snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Synced {
    /// Where the reader stands.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
}

/// A message of changes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Changes {
    /// One each.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub changes: Vec<Bytes>,
    /// Where the reader stands.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
}

/// A watch of one service.
#[derive(Debug)]
pub struct Watch(Streaming<Told>);

impl Watch {
    /// Opens one, and reads until it is synced: at which revision?
    pub async fn open(channel: &Channel, service: usize) -> Result<(Self, u64)> {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await?;
        let asked = pb::WatchRequest { services: vec![service_name(service)], ..Default::default() };
        let path = PathAndQuery::from_static("/callboard.v1.DiscoveryService/Watch");
        let answer = client.server_streaming(Request::new(asked), path, SmallBuffers::default()).await?;
        let mut watch = Self(answer.into_inner());
        loop {
            if let Some(synced) = watch.next().await?.synced {
                return Ok((watch, synced.revision));
            }
        }
    }

    /// The next changes.
    pub async fn changes(&mut self) -> Result<Changes> {
        loop {
            if let Some(changes) = self.next().await?.changes {
                return Ok(changes);
            }
        }
    }

    async fn next(&mut self) -> Result<Told> {
        self.0.message().await?.context("the watch ended")
    }
}

/// In milliseconds, with what is less than one.
pub fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
