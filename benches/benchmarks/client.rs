//! gRPC clients that need less CPU time than the server, so that they can saturate it.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use callboard::pb::{
    callboard::v1::{self as pb, registry_service_client::RegistryServiceClient},
    codec::SmallBuffers,
};
use http::uri::PathAndQuery;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    transport::{Channel, Endpoint},
};

/// Opens this number of connections.
pub async fn connect(address: SocketAddr, connections: usize) -> Result<Vec<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    let mut channels = Vec::with_capacity(connections);
    for _ in 0..connections {
        channels.push(endpoint.connect().await?);
    }
    Ok(channels)
}

/// Returns a registration of realistic size, whose lease outlives every measurement.
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

/// Returns the name of the `n`th service.
pub fn service_name(n: usize) -> String {
    format!("service-{n:03}")
}

/// Registers instances, spread over the services and the connections, and returns their leases.
pub async fn register(channels: &[Channel], instances: usize, services: usize) -> Result<Vec<Bytes>> {
    register_each(channels, instances, move |id| instance(id % services, id)).await
}

/// Registers this number of instances, spread over the connections, and returns their leases.
pub async fn register_each(
    channels: &[Channel],
    instances: usize,
    request: impl Fn(usize) -> pb::RegisterRequest + Send + Copy + 'static,
) -> Result<Vec<Bytes>> {
    const IN_FLIGHT: usize = 8;
    let mut tasks = tokio::task::JoinSet::new();
    let lanes = channels.len() * IN_FLIGHT;
    for lane in 0..lanes {
        let mut client = RegistryServiceClient::new(channels[lane % channels.len()].clone());
        tasks.spawn(async move {
            let mut leases = Vec::new();
            for id in (lane..instances).step_by(lanes) {
                let answer = client.register(request(id)).await?;
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

/// Heartbeat stream.
#[derive(Debug)]
pub struct KeepAlive {
    requests: mpsc::Sender<pb::KeepAliveRequest>,
    answers: Streaming<pb::KeepAliveResponse>,
}

impl KeepAlive {
    /// Maximum number of messages without an answer.
    pub const DEPTH: usize = 8;

    /// Opens a heartbeat stream.
    pub async fn open(channel: &Channel) -> Result<Self> {
        let (requests, outbound) = mpsc::channel(Self::DEPTH);
        let mut client = RegistryServiceClient::new(channel.clone());
        let answers = client.keep_alive(ReceiverStream::new(outbound)).await?.into_inner();
        Ok(Self { requests, answers })
    }

    /// Sends one message with a heartbeat for each lease.
    pub async fn send(&self, leases: &[Bytes]) -> Result<()> {
        let heartbeats = leases.iter().map(|lease| pb::Heartbeat { lease_id: lease.clone(), load: None });
        Ok(self.requests.send(pb::KeepAliveRequest { heartbeats: heartbeats.collect() }).await?)
    }

    /// Reads the answer to the oldest message and returns its number of leases; all of them must be held.
    pub async fn answer(&mut self) -> Result<usize> {
        let answer = self.answers.message().await?.context("the heartbeat stream ended")?;
        let held = answer.leases.iter().all(|lease| lease.state() == pb::LeaseState::Held);
        ensure!(held, "a heartbeat was not answered HELD");
        Ok(answer.leases.len())
    }

    /// Sends one message and waits for its answer.
    pub async fn heartbeat(&mut self, leases: &[Bytes]) -> Result<()> {
        self.send(leases).await?;
        let held = self.answer().await?;
        ensure!(held == leases.len(), "{held} of {} heartbeats were answered", leases.len());
        Ok(())
    }

    /// Sends one message, and returns the number of leases that its answer reports as held. Notices of the server are skipped.
    pub async fn count_held(&mut self, leases: &[Bytes]) -> Result<usize> {
        self.send(leases).await?;
        loop {
            let answer = self.answers.message().await?.context("the heartbeat stream ended")?;
            if !answer.leases.is_empty() {
                return Ok(answer.leases.iter().filter(|lease| lease.state() == pb::LeaseState::Held).count());
            }
        }
    }

    /// Waits until the server ends the stream. Notices of the server are skipped.
    pub async fn ended(&mut self) {
        while let Ok(Some(_)) = self.answers.message().await {}
    }
}

/// Message of a watch with only the fields that are measured, so that decoding costs less than serving.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchMessage {
    /// Marks the end of the snapshot.
    #[prost(message, optional, tag = "3")]
    pub synced: Option<Synced>,
    /// Changes of one or more revisions.
    #[prost(message, optional, tag = "4")]
    pub changes: Option<Changes>,
}

/// End of a snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Synced {
    /// Revision up to which the reader is now complete.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
}

/// Changes of one or more revisions.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Changes {
    /// Encoded changes, one each.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub changes: Vec<Bytes>,
    /// Revision up to which the reader is now complete.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
}

/// Watch of one service.
#[derive(Debug)]
pub struct Watch(Streaming<WatchMessage>);

impl Watch {
    /// Opens a watch and reads until it is synced; also returns the revision at that point.
    pub async fn open(channel: &Channel, service: usize) -> Result<(Self, u64)> {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await?;
        let request = pb::WatchRequest { services: vec![service_name(service)], ..Default::default() };
        let path = PathAndQuery::from_static("/callboard.v1.DiscoveryService/Watch");
        let answer = client.server_streaming(Request::new(request), path, SmallBuffers::default()).await?;
        let mut watch = Self(answer.into_inner());
        loop {
            if let Some(synced) = watch.next().await?.synced {
                return Ok((watch, synced.revision));
            }
        }
    }

    /// Returns the next changes.
    pub async fn changes(&mut self) -> Result<Changes> {
        loop {
            if let Some(changes) = self.next().await?.changes {
                return Ok(changes);
            }
        }
    }

    async fn next(&mut self) -> Result<WatchMessage> {
        self.0.message().await?.context("the watch ended")
    }
}

/// Returns a duration in milliseconds, with its fraction.
pub fn milliseconds(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// Returns the body of a page over HTTP.
pub async fn page(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{address}{path} was answered with {head}");
    Ok(body.to_owned())
}
