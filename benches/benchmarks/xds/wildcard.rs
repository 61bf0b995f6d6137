//! One client that subscribes to all services, as Envoy does.

use anyhow::Result;

use super::{
    Outcome,
    ads::{ASSIGNMENT, AdsProtocol, AdsStream, CLUSTER, Delta, StateOfTheWorld},
    connect_clients, count,
    target::{Recording, Target},
};
use crate::{
    client::{milliseconds, service_name},
    now,
    report::median,
};

/// Measured changes, each of another service.
pub const CHANGES: usize = 100;
/// Services that are added during the measurement.
pub const ADDED: usize = 20;

/// Protocol of the client.
#[derive(Debug, Clone, Copy)]
pub enum Variant {
    /// A response has whole resources.
    StateOfTheWorld,
    /// A response has what has changed.
    Delta,
}

impl Variant {
    /// Measures the first answers, changes, and new services.
    pub async fn run(self, target: &Target, recording: &Recording) -> Result<Outcome> {
        match self {
            Self::StateOfTheWorld => measure::<StateOfTheWorld>(target, recording, |present| present).await,
            Self::Delta => measure::<Delta>(target, recording, |_| 1).await,
        }
    }
}

/// `sent_clusters`: the number of clusters in the response for a new one, from the number of all.
async fn measure<P: AdsProtocol>(
    target: &Target,
    recording: &Recording,
    sent_clusters: fn(usize) -> usize,
) -> Result<Outcome> {
    let writer = target.handle.writer().await?;
    let channel = connect_clients(target.handle.address, 1).await?.remove(0);
    let present = target.handle.layout.present;
    let mut envoy = AdsStream::<P>::open(&channel, 0).await?;
    let cpu = || anyhow::Ok(target.server.cpu()?.as_secs_f64() * 1e6);

    let (began, cpu_before) = (now(), cpu()?);
    envoy.subscribe(CLUSTER, Vec::new()).await?;
    let clusters = envoy.collect(CLUSTER, present).await?;
    envoy.subscribe(ASSIGNMENT, target.handle.layout.names()).await?;
    let assignments = envoy.collect(ASSIGNMENT, present).await?;
    let (first, first_cpu) = (milliseconds(began.elapsed()), cpu()? - cpu_before);
    let bytes = clusters.iter().chain(&assignments).map(bytes::Bytes::len).sum();

    let (mut delays, cpu_before) = (Vec::new(), cpu()?);
    for service in 0..CHANGES {
        let began = now();
        writer.change(service, 1).await?;
        envoy.collect(ASSIGNMENT, 1).await?;
        delays.push(milliseconds(began.elapsed()));
    }
    let change_cpu = (cpu()? - cpu_before) / count(CHANGES);

    let (mut added, cpu_before) = (Vec::new(), cpu()?);
    for service in present..present + ADDED {
        let began = now();
        writer.add(service, recording).await?;
        envoy.collect(CLUSTER, sent_clusters(service + 1)).await?;
        envoy.subscribe(ASSIGNMENT, vec![service_name(service)]).await?;
        envoy.collect(ASSIGNMENT, 1).await?;
        added.push(milliseconds(began.elapsed()));
    }
    let added_cpu = (cpu()? - cpu_before) / count(ADDED);
    Ok(vec![
        ("first", "ms", first),
        ("first_cpu", "µs", first_cpu),
        ("first_bytes", "B", count(bytes)),
        ("change", "ms", median(delays)),
        ("change_cpu", "µs", change_cpu),
        ("new_service", "ms", median(added)),
        ("new_service_cpu", "µs", added_cpu),
    ])
}
