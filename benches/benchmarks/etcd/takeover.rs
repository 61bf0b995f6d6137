//! Death of the replica that holds all instances: time until the others hold them, removals, and the pause of a watcher.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::{
    cluster::EtcdCluster,
    fleet::{Fleet, TTL},
    number,
    observer::{KeyChanges, SteadyWatch},
    replicas::Replica,
};
use crate::{now, report::Report};

/// Leases of a stream.
const LEASES: usize = 100;
/// Time before the kill.
const BEFORE: Duration = Duration::from_secs(10);
/// Maximum time until all instances have another holder.
const LIMIT: Duration = Duration::from_mins(3);

/// Kills the holder of all instances.
pub async fn run(report: &mut Report, instances: usize) -> Result<()> {
    let etcd = EtcdCluster::start().await?;
    let mut replicas = Replica::start_all(&etcd, 3).await?;
    let mut fleet = Fleet::start(&replicas, instances, LEASES, |_| 0).await?;
    let watcher = SteadyWatch::start(&replicas[1].channels[0], &replicas[2].channels[0]).await?;
    sleep(BEFORE).await;
    report.add(
        "etcd_takeover_pause_before",
        watcher.longest_pause(),
        "ms",
        "longest pause of a watcher; changes every 50 ms",
    );

    let (client, revision) = (etcd.client()?, etcd.status().await?.revision);
    let mut changes = KeyChanges::after(&client, revision).await?;
    let cpu = replicas[1].cpu()? + replicas[2].cpu()?;
    // Dropping the server kills it as `kill -9` does.
    drop(replicas.remove(0));
    let killed = now();
    // The instance of the watcher changes, too.
    changes.read(instances + 1, killed + LIMIT).await?;
    let took = killed.elapsed();
    let missing = (instances + 1).saturating_sub(changes.changed.len());
    let note = format!("{instances} instances, from kill -9 of their replica until two others hold all");
    report.add("etcd_takeover", took.as_secs_f64(), "s", note);
    report.add(
        "etcd_takeover_missing",
        number(missing as u64),
        "",
        "without another holder after 3 minutes; must be 0",
    );
    let cpu = (replicas[0].cpu()? + replicas[1].cpu()? - cpu) * 1e6 / number(instances as u64);
    report.add("etcd_takeover_cpu", cpu, "µs", "CPU of both replicas for each");
    report.add("etcd_takeover_pause", watcher.longest_pause(), "ms", "longest pause of a watcher at another replica");

    // Longer than any instance without heartbeats would stay.
    changes.read(usize::MAX, killed + took.max(Duration::from_secs(10)) + TTL + Duration::from_secs(10)).await?;
    report.add("etcd_takeover_removals", number(changes.removals as u64), "", "must be 0");
    for replica in &replicas {
        let (_, present) = replica.state().await?;
        ensure!(present == instances + 1, "{present} of {} instances are left", instances + 1);
    }
    fleet.check()
}
