//! Servers with the same services: Callboard, where they are registered, and the baseline, which has what Callboard sends for them.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Result, ensure};
use callboard::pb::{
    callboard::v1::{RegisterRequest, registry_service_client::RegistryServiceClient},
    envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource},
};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::task::JoinSet;
use tonic::{Request, transport::Channel};
use tonic_prost::ProstCodec;

use super::{
    ads::{ASSIGNMENT, AdsStream, CLUSTER, Delta, GRPC_TYPES},
    baseline::{Done, PUBLISH, PublishRequest, STORE},
};
use crate::{
    client::{connect, instance, service_name},
    processes::Server,
};

/// Recorded resources in a message, so that it is smaller than tonic's limit.
const RESOURCES_PER_MESSAGE: usize = 1_000;

/// Services of a measurement.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Number of instances of each service.
    sizes: Vec<usize>,
    /// Id of the first instance of each service.
    first: Vec<usize>,
    /// Number of services that exist before the measurement. Later ones are added by it.
    pub present: usize,
    /// Number of services that change.
    pub changing: usize,
}

impl Layout {
    /// Returns a layout of services with these numbers of instances.
    pub fn new(sizes: Vec<usize>, present: usize, changing: usize) -> Arc<Self> {
        let first = sizes.iter().scan(0, |next, size| Some(std::mem::replace(next, *next + size)));
        let first = first.collect();
        Arc::new(Self { sizes, first, present, changing })
    }

    /// Names of the services that exist before the measurement.
    pub fn names(&self) -> Vec<String> {
        (0..self.present).map(service_name).collect()
    }

    /// Returns a registration. The variants of an instance have different ports.
    fn instance(&self, service: usize, at: usize, variant: u32) -> RegisterRequest {
        let mut request = instance(service, self.first[service] + at);
        request.addresses.iter_mut().for_each(|address| address.port += variant);
        request
    }

    async fn register(&self, address: SocketAddr, services: std::ops::Range<usize>) -> Result<()> {
        const CONNECTIONS: usize = 4;
        const IN_FLIGHT: usize = 64;
        let channels = connect(address, CONNECTIONS).await?;
        let all = services.flat_map(|service| (0..self.sizes[service]).map(move |at| (service, at)));
        let mut tasks = JoinSet::<Result<()>>::new();
        for (number, (service, at)) in all.enumerate() {
            if tasks.len() == IN_FLIGHT
                && let Some(done) = tasks.join_next().await
            {
                done??;
            }
            let request = self.instance(service, at, 0);
            let mut client = RegistryServiceClient::new(channels[number % CONNECTIONS].clone());
            tasks.spawn(async move {
                client.register(request).await?;
                Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(())
    }
}

/// Responses of Callboard for the services of a layout.
#[derive(Debug)]
pub struct Recording {
    /// Resources of the services by type; assignments of changing services also in their second variant.
    resources: Vec<(&'static str, Vec<Resource>)>,
}

impl Recording {
    /// Records what Callboard sends.
    pub async fn make(layout: &Arc<Layout>) -> Result<Self> {
        let target = Target::new(Server::callboard_pinned()?, layout, false);
        layout.register(target.server.address, 0..layout.sizes.len()).await?;
        let channel = connect(target.server.address, 1).await?.remove(0);
        let mut stream = AdsStream::<Delta>::open(&channel, 0).await?;
        let names: Vec<_> = (0..layout.sizes.len()).map(service_name).collect();
        let mut resources = Vec::new();
        for url in GRPC_TYPES {
            stream.subscribe(url, names.clone()).await?;
            let encoded = stream.collect(url, names.len()).await?;
            resources.push((url, encoded.into_iter().map(Resource::decode).collect::<Result<Vec<_>, _>>()?));
        }
        let writer = target.handle.writer().await?;
        for service in 0..layout.changing {
            writer.change(service, 1).await?;
            let changed = stream.collect(ASSIGNMENT, 1).await?.remove(0);
            let changed = Resource::decode(changed)?;
            ensure!(changed.name == service_name(service), "{} has changed", changed.name);
            resources.push((ASSIGNMENT, vec![changed]));
        }
        Ok(Self { resources })
    }
}

/// Server with the services of a layout.
#[derive(Debug)]
pub struct Target {
    /// The server.
    pub server: Server,
    /// Its address and its services, for any thread.
    pub handle: TargetHandle,
}

/// Address and services of a server.
#[derive(Debug, Clone)]
pub struct TargetHandle {
    /// Address of the gRPC listener.
    pub address: SocketAddr,
    /// Services of the server.
    pub layout: Arc<Layout>,
    is_baseline: bool,
}

impl Target {
    /// Starts Callboard, and registers the services.
    pub async fn callboard(layout: &Arc<Layout>) -> Result<Self> {
        let target = Self::new(Server::callboard_pinned()?, layout, false);
        layout.register(target.server.address, 0..layout.present).await?;
        Ok(target)
    }

    /// Starts the baseline with a recording.
    pub async fn baseline(layout: &Arc<Layout>, recording: &Recording) -> Result<Self> {
        let target = Self::new(Server::baseline_pinned("xds-baseline")?, layout, true);
        let writer = target.handle.writer().await?;
        let added: Vec<_> = (layout.present..layout.sizes.len()).map(service_name).collect();
        for (url, resources) in &recording.resources {
            // The cluster of a service that the measurement adds is stored then.
            let stored = resources.iter().filter(|resource| *url != CLUSTER || !added.contains(&resource.name));
            let stored: Vec<_> = stored.cloned().collect();
            for part in stored.chunks(RESOURCES_PER_MESSAGE) {
                writer.store(url, part.to_vec()).await?;
            }
        }
        Ok(target)
    }

    fn new(server: Server, layout: &Arc<Layout>, is_baseline: bool) -> Self {
        let handle = TargetHandle { address: server.address, layout: Arc::clone(layout), is_baseline };
        Self { server, handle }
    }
}

impl TargetHandle {
    /// Connects what changes the services.
    pub async fn writer(&self) -> Result<Writer> {
        Ok(Writer { channel: connect(self.address, 1).await?.remove(0), handle: self.clone() })
    }
}

/// Changes the services of a server.
#[derive(Debug)]
pub struct Writer {
    channel: Channel,
    handle: TargetHandle,
}

impl Writer {
    /// Changes the first instance of a service to a variant, 0 or 1.
    pub async fn change(&self, service: usize, variant: u32) -> Result<()> {
        if self.handle.is_baseline {
            let request = PublishRequest { name: service_name(service), variant: variant.into() };
            return self.call(PUBLISH, request).await;
        }
        self.register(self.handle.layout.instance(service, 0, variant)).await
    }

    /// Adds a service that does not exist yet.
    pub async fn add(&self, service: usize, recording: &Recording) -> Result<()> {
        if !self.handle.is_baseline {
            return self.register(self.handle.layout.instance(service, 0, 0)).await;
        }
        let name = service_name(service);
        let clusters = recording.resources.iter().filter(|(url, _)| *url == CLUSTER).flat_map(|(_, all)| all);
        self.store(CLUSTER, clusters.filter(|cluster| cluster.name == name).cloned().collect()).await
    }

    async fn register(&self, request: RegisterRequest) -> Result<()> {
        RegistryServiceClient::new(self.channel.clone()).register(request).await?;
        Ok(())
    }

    async fn store(&self, url: &str, resources: Vec<Resource>) -> Result<()> {
        let request = DeltaDiscoveryResponse { type_url: url.to_owned(), resources, ..Default::default() };
        self.call(STORE, request).await
    }

    async fn call<M: Message + 'static>(&self, path: &'static str, request: M) -> Result<()> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await?;
        let codec = ProstCodec::<M, Done>::default();
        client.unary(Request::new(request), PathAndQuery::from_static(path), codec).await?;
        Ok(())
    }
}
