//! Memory of instances, watches and heartbeat streams: the growth of the resident memory, divided by their number.

use anyhow::Result;
use callboard::pb::callboard::v1::{self as pb, discovery_service_client::DiscoveryServiceClient};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::{
    client::{KeepAlive, Watch, connect, register},
    processes::Server,
    report::Report,
};

const SERVICES: usize = 100;
const INSTANCES: usize = 10_000;
/// Number of instances at which everything that is bounded, above all the event log, is full.
const MANY_INSTANCES: usize = 200_000;
const CONNECTIONS: usize = 100;
const STREAMS_EACH: usize = 100;
/// Heartbeats in one message.
const BATCH: usize = 100;

/// Measures the memory of an instance.
pub async fn instances(report: &mut Report) -> Result<()> {
    let server = Server::callboard()?;
    let idle = server.memory().await?;
    #[expect(clippy::cast_precision_loss, reason = "megabytes")]
    report.add("idle_rss", idle as f64 / 1e6, "MB", "a server without connections");

    let channels = connect(server.address, 8).await?;
    let leases = register(&channels, INSTANCES, SERVICES).await?;
    let mut stream = KeepAlive::open(&channels[0]).await?;
    for batch in leases.chunks(BATCH) {
        stream.heartbeat(batch).await?;
    }
    let few = server.memory().await?;
    let note = "10,000 in 100 services, each with its lease and two events in the log; one stream renews all leases";
    report.add("rss_per_instance", each(idle, few, INSTANCES), "B", note);

    register(&channels, MANY_INSTANCES, SERVICES).await?;
    let many = server.memory().await?;
    let note = format!("from 10,000 to {MANY_INSTANCES}: the event log is bounded; goal: at most 500 at a million");
    report.add("rss_per_further_instance", each(few, many, MANY_INSTANCES - INSTANCES), "B", note);
    Ok(())
}

/// Measures the memory of a connection and of an idle watch.
pub async fn watches(report: &mut Report) -> Result<()> {
    let server = Server::callboard()?;
    let idle = server.memory().await?;
    let channels = call_once(connect(server.address, CONNECTIONS).await?).await?;
    let connected = server.memory().await?;
    let note = "100 that made one call; goal: at most 17,000";
    report.add("rss_per_connection", each(idle, connected, CONNECTIONS), "B", note);

    let mut opening = JoinSet::new();
    for channel in channels {
        opening.spawn(async move {
            let mut watches = Vec::with_capacity(STREAMS_EACH);
            for service in 0..STREAMS_EACH {
                watches.push(Watch::open(&channel, service % SERVICES).await?.0);
            }
            anyhow::Ok(watches)
        });
    }
    let open = all(opening).await?;
    let watched = server.memory().await?;
    let note = "100 on each of 100 connections; goal: at most 3,500";
    report.add("rss_per_watch", each(connected, watched, open.len()), "B", note);
    report.add("rss_per_watch_with_connections", each(idle, watched, open.len()), "B", "");
    Ok(())
}

/// Measures the memory of a heartbeat stream that has carried one lease.
pub async fn keep_alives(report: &mut Report) -> Result<()> {
    let server = Server::callboard()?;
    let channels = call_once(connect(server.address, CONNECTIONS).await?).await?;
    let leases = register(&channels[..8], CONNECTIONS * STREAMS_EACH, SERVICES).await?;
    let registered = server.memory().await?;

    let mut opening = JoinSet::new();
    for (channel, leases) in channels.into_iter().zip(leases.chunks(STREAMS_EACH)) {
        let leases = leases.to_vec();
        opening.spawn(async move {
            let mut streams = Vec::with_capacity(leases.len());
            for lease in leases {
                let mut stream = KeepAlive::open(&channel).await?;
                stream.heartbeat(&[lease]).await?;
                streams.push(stream);
            }
            anyhow::Ok(streams)
        });
    }
    let open = all(opening).await?;
    let kept = server.memory().await?;
    let note = "100 on each of 100 connections, a lease each; goal: at most 3,500";
    report.add("rss_per_keep_alive", each(registered, kept, open.len()), "B", note);
    Ok(())
}

/// Makes one call on each connection, so that the server has allocated all that a connection needs.
async fn call_once(channels: Vec<Channel>) -> Result<Vec<Channel>> {
    for channel in &channels {
        let mut client = DiscoveryServiceClient::new(channel.clone());
        client.list_services(pb::ListServicesRequest::default()).await?;
    }
    Ok(channels)
}

async fn all<T: 'static>(mut opening: JoinSet<Result<Vec<T>>>) -> Result<Vec<T>> {
    let mut open = Vec::new();
    while let Some(opened) = opening.join_next().await {
        open.extend(opened??);
    }
    Ok(open)
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a process")]
fn each(before: u64, after: u64, count: usize) -> f64 {
    (after.saturating_sub(before) as f64 / count as f64).round()
}
