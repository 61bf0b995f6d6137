//! Disk engine: rate of registrations, and time of recovery after a kill.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use callboard::pb::callboard::v1::{
    ListServicesRequest, discovery_service_client::DiscoveryServiceClient,
    registry_service_client::RegistryServiceClient,
};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    client::{connect, instance, milliseconds, register},
    now,
    processes::Server,
    report::Report,
};

/// Duration of each rate measurement.
const SPAN: Duration = Duration::from_secs(5);
const CONNECTIONS: usize = 16;
const SERVICES: usize = 100;
const RECOVERED: usize = 100_000;

/// Measures the rates of every mode and of the disk itself, then recovery.
pub async fn run(report: &mut Report) -> Result<()> {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(base)?;
    let directory = tempfile::tempdir_in(base)?;
    let syncs = tokio::task::block_in_place(|| syncs(&directory.path().join("probe")))?;
    report.add("fsync_baseline", syncs.round(), "/s", "4 KiB written and synced, one write at a time");
    for mode in ["durable", "relaxed", "memory"] {
        for clients in [64, 1_000] {
            let data = directory.path().join(format!("{mode}-{clients}"));
            let data = data.to_str().context("the target directory is not UTF-8")?;
            let arguments = ["--data-dir", data, "--durability", mode];
            let server = Server::callboard_with(if mode == "memory" { &[] } else { &arguments })?;
            let rate = rate(&server, clients).await?;
            let cpu = server.cpu()?.as_secs_f64() * 1e6 / (rate * SPAN.as_secs_f64());
            report.add(format!("registrations_{mode}_{clients}_clients"), rate.round(), "/s", "new instances");
            report.add(format!("registration_cpu_{mode}_{clients}_clients"), cpu, "µs", "server CPU of each");
        }
    }
    recovery(report, &directory.path().join("recovery")).await
}

/// Returns the number of synced writes per second, one at a time: the upper limit of an engine without group commit.
fn syncs(path: &Path) -> Result<f64> {
    let file = File::create(path)?;
    let (block, began, mut count) = ([7; 4096], now(), 0_u32);
    while began.elapsed() < Duration::from_secs(2) {
        file.write_at(&block, 0)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

/// Returns registrations per second; each client has one call in flight.
async fn rate(server: &Server, clients: usize) -> Result<f64> {
    let channels = connect(server.address, CONNECTIONS).await?;
    let (done, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let mut registry = RegistryServiceClient::new(channels[client % CONNECTIONS].clone());
        let (done, over) = (Arc::clone(&done), Arc::clone(&over));
        tasks.spawn(async move {
            let mut id = client;
            while !over.load(Ordering::Relaxed) {
                registry.register(instance(id % SERVICES, id)).await?;
                done.fetch_add(1, Ordering::Relaxed);
                id += clients;
            }
            anyhow::Ok(())
        });
    }
    let began = now();
    sleep(SPAN).await;
    let (registered, span) = (done.load(Ordering::Relaxed), began.elapsed());
    over.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    #[expect(clippy::cast_precision_loss, reason = "some hundred thousand")]
    Ok(registered as f64 / span.as_secs_f64())
}

async fn recovery(report: &mut Report, data: &Path) -> Result<()> {
    let data = data.to_str().context("the target directory is not UTF-8")?;
    let server = Server::callboard_with(&["--data-dir", data])?;
    register(&connect(server.address, CONNECTIONS).await?, RECOVERED, SERVICES).await?;
    // Dropping the server kills it as `kill -9` does.
    drop(server);
    let mut times = Vec::new();
    for _ in 0..5 {
        let began = now();
        let server = tokio::task::block_in_place(|| Server::callboard_with(&["--data-dir", data]))?;
        times.push(milliseconds(began.elapsed()).round());
        let mut discovery = DiscoveryServiceClient::new(connect(server.address, 1).await?.remove(0));
        let services = discovery.list_services(ListServicesRequest::default()).await?.into_inner().services;
        let found: u32 = services.iter().map(|service| service.instances).sum();
        anyhow::ensure!(found as usize == RECOVERED, "{found} of {RECOVERED} instances were recovered");
    }
    times.sort_by(f64::total_cmp);
    let name = format!("recovery_{RECOVERED}_instances");
    report.add(name, times[2], "ms", "kill -9, then from the start to open listeners; median of 5");
    let kilobytes = std::fs::metadata(Path::new(data).join("registry.redb"))?.len() / 1_000;
    report.add("recovered_store", f64::from(u32::try_from(kilobytes)?), "kB", "size of the file");
    Ok(())
}
