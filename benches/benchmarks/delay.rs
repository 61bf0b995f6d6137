//! Delay from a registration to the watcher that receives it.

use std::time::Instant;

use anyhow::{Context, Result};
use callboard::pb::callboard::v1::registry_service_client::RegistryServiceClient;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::{
    client::{Watch, connect, instance},
    now,
    processes::Server,
    report::{Report, quantile, sorted},
};

const REGISTRATIONS: usize = 1_000;

/// Measures one watcher and sequential registrations: on one connection, then on two.
pub async fn run(report: &mut Report) -> Result<()> {
    for (connections, suffix) in [(1, "same_connection"), (2, "other_connection")] {
        let server = Server::callboard()?;
        let channels = connect(server.address, connections).await?;
        let [first, .., last] = &*[channels.clone(), channels].concat() else {
            anyhow::bail!("no connection");
        };
        let delays = measure(first, last).await?;
        for (since, delays) in [("return", &delays.since_return), ("call", &delays.since_call)] {
            for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
                let note = match (since, name) {
                    ("return", "p50") => "below 0: received before Register returned",
                    _ => "",
                };
                let name = format!("register_{since}_to_receipt_{suffix}_{name}");
                report.add(name, quantile(delays, share), "µs", note);
            }
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Delays {
    since_return: Vec<f64>,
    since_call: Vec<f64>,
}

async fn measure(writer: &Channel, reader: &Channel) -> Result<Delays> {
    let (mut watch, _) = Watch::open(reader, 0).await?;
    let (receipts, mut received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(changes) = watch.changes().await {
            if receipts.send((changes.revision, now())).is_err() {
                return;
            }
        }
    });
    let mut client = RegistryServiceClient::new(writer.clone());
    let (mut since_return, mut since_call) = (Vec::new(), Vec::new());
    for id in 0..REGISTRATIONS {
        let called = now();
        let revision = client.register(instance(0, id)).await?.into_inner().revision;
        let returned = now();
        let received_at = loop {
            let (seen, at) = received.recv().await.context("the watch ended")?;
            if seen >= revision {
                break at;
            }
        };
        since_return.push(signed_microseconds(returned, received_at));
        since_call.push(signed_microseconds(called, received_at));
    }
    Ok(Delays { since_return: sorted(since_return), since_call: sorted(since_call) })
}

fn signed_microseconds(from: Instant, to: Instant) -> f64 {
    let forward = to.saturating_duration_since(from).as_secs_f64();
    let backward = from.saturating_duration_since(to).as_secs_f64();
    ((forward - backward) * 1e6).round()
}
