//! Cluster without changes: CPU time and memory of replicas and etcd, the size of etcd's data, and the start of a further replica.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::{
    SERVICES,
    cluster::EtcdCluster,
    fleet::{Fleet, HEARTBEAT_INTERVAL},
    number,
    replicas::Replica,
};
use crate::{
    client::register,
    now,
    report::{Report, median},
};

const REPLICAS: usize = 3;
/// Duration of each measurement of CPU time; a multiple of the interval of heartbeats.
const SPAN: Duration = Duration::from_secs(20);
const STARTS: usize = 3;

/// Runs the measurements.
pub async fn run(report: &mut Report, instances: usize) -> Result<()> {
    let etcd = EtcdCluster::start().await?;
    let replicas = Replica::start_all(&etcd, REPLICAS).await?;
    let each = |bytes: u64| number(bytes) / number(instances as u64);
    let empty = memory(&replicas).await?;
    report.add(
        "etcd_idle_replica_rss",
        number(empty) / 1e6 / number(REPLICAS as u64),
        "MB",
        "a replica without instances",
    );
    register(&replicas[0].channels, instances, SERVICES).await?;
    let (revision, _) = replicas[0].state().await?;
    for replica in &replicas {
        replica.reaches(revision).await?;
    }
    let full = memory(&replicas).await?;
    let note = format!("{instances} instances, mean of {REPLICAS} replicas");
    report.add("etcd_idle_rss_per_instance", each((full - empty) / REPLICAS as u64).round(), "B", note);
    let idle = cpu(report, &etcd, &replicas, "no_heartbeats", None).await?;
    data(report, &etcd, instances).await?;
    start(report, &etcd, instances, "history").await?;
    etcd.compact().await?;
    start(report, &etcd, instances, "compacted").await?;

    for (leases, name) in [(1, "heartbeats"), (100, "heartbeats_of_100")] {
        let mut fleet = Fleet::start(&replicas, instances, leases, |stream| stream % REPLICAS).await?;
        sleep(HEARTBEAT_INTERVAL).await;
        cpu(report, &etcd, &replicas, name, Some((&fleet, idle))).await?;
        fleet.check()?;
        if leases == 1 {
            let streams = memory(&replicas).await? - full;
            report.add("etcd_idle_rss_per_stream", each(streams).round(), "B", "each instance has a heartbeat stream");
        }
    }
    Ok(())
}

/// Returns the resident memory of all replicas.
async fn memory(replicas: &[Replica]) -> Result<u64> {
    let mut sum = 0;
    for replica in replicas {
        sum += replica.server.memory().await?;
    }
    Ok(sum)
}

/// Measures the CPU time of the servers in a time without changes, and returns that of the replicas for a second. With heartbeats, the
/// time without them is given to be subtracted.
async fn cpu(
    report: &mut Report,
    etcd: &EtcdCluster,
    replicas: &[Replica],
    name: &str,
    fleet: Option<(&Fleet, f64)>,
) -> Result<f64> {
    let used = || replicas.iter().map(Replica::cpu).sum::<Result<f64>>();
    let before = (used()?, etcd.usage().await?, fleet.map(|(fleet, _)| fleet.heartbeats()), now());
    sleep(SPAN).await;
    let span = before.3.elapsed().as_secs_f64();
    let etcd = etcd.usage().await?.since(before.1);
    let replicas = used()? - before.0;
    let note = format!("of a core, {REPLICAS} replicas together");
    report.add(format!("etcd_idle_{name}_replicas_cpu"), replicas * 100.0 / span, "%", note);
    report.add(format!("etcd_idle_{name}_etcd_cpu"), etcd.cpu * 100.0 / span, "%", "of a core, three members together");
    report.add(format!("etcd_idle_{name}_etcd_log"), etcd.log / span / 1e3, "kB/s", "three write-ahead logs together");
    if let (Some((fleet, idle)), Some((sent, held))) = (fleet, before.2) {
        let (sent, held) = (fleet.heartbeats().0 - sent, fleet.heartbeats().1 - held);
        report.add(format!("etcd_idle_{name}_rate"), number(held) / span, "/s", "");
        let cpu = (replicas - idle * span) * 1e6 / number(held);
        report.add(
            format!("etcd_idle_{name}_cpu_each"),
            cpu,
            "µs",
            "CPU of a replica for each, beyond that without them",
        );
        // Those in progress at the end of the measurement are not counted.
        ensure!(sent.abs_diff(held) <= sent / 100, "{held} of {sent} heartbeats were answered HELD");
    }
    Ok(replicas / span)
}

/// Reports the size of etcd's data.
async fn data(report: &mut Report, etcd: &EtcdCluster, instances: usize) -> Result<()> {
    let status = etcd.status().await?;
    let each = number(status.database_bytes_in_use) / number(instances as u64);
    report.add("etcd_idle_database", number(status.database_bytes_in_use) / 1e6, "MB", "in use, each member");
    report.add("etcd_idle_database_per_instance", each.round(), "B", "each member");
    report.add("etcd_idle_etcd_rss", number(etcd.memory()?) / 1e6 / 3.0, "MB", "mean of three members");
    Ok(())
}

/// Measures the time from the start of a replica until it serves.
async fn start(report: &mut Report, etcd: &EtcdCluster, instances: usize, name: &str) -> Result<()> {
    let mut times = Vec::new();
    for start in 0..STARTS {
        let began = now();
        let replica = Replica::start(etcd, REPLICAS + start).await?;
        times.push(began.elapsed().as_secs_f64());
        let (_, present) = replica.state().await?;
        ensure!(present == instances, "{present} of {instances} instances after the start");
    }
    report.add(format!("etcd_idle_start_{name}"), median(times), "s", "from the start of a replica until it serves");
    Ok(())
}
