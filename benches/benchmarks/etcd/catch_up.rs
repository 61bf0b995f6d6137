//! Replica that was stopped (SIGSTOP) while each instance changed: time from SIGCONT until it has the revision of another replica.

use std::time::Duration;

use anyhow::{Result, ensure};
use callboard::pb::callboard::v1::RegisterRequest;
use rustix::process::Signal;
use tokio::time::sleep;

use super::{SERVICES, cluster::EtcdCluster, number, replicas::Replica};
use crate::{
    client::{instance, register_each},
    now,
    report::Report,
};

/// Time after the changes, longer than etcd keeps a session.
const PAUSE: Duration = Duration::from_secs(12);

/// Measures with the history present, and over a compaction.
pub async fn run(report: &mut Report, instances: usize) -> Result<()> {
    let etcd = EtcdCluster::start().await?;
    let replicas = Replica::start_all(&etcd, 2).await?;
    let [writer, stopped] = &replicas[..] else { unreachable!("two replicas were started") };
    change_all(writer, instances, 1).await?;
    stopped.reaches(writer.state().await?.0).await?;
    for (kind, weight) in [("history", 2), ("compacted", 3)] {
        stopped.server.signal(Signal::STOP)?;
        change_all(writer, instances, weight).await?;
        if kind == "compacted" {
            etcd.compact().await?;
        }
        sleep(PAUSE).await;
        let (revision, _) = writer.state().await?;
        let cpu = stopped.cpu()?;
        let began = now();
        stopped.server.signal(Signal::CONT)?;
        stopped.reaches(revision).await?;
        let took = began.elapsed().as_secs_f64();
        let note = format!("{instances} changes, from SIGCONT to the revision of the other replica");
        report.add(format!("etcd_catch_up_{kind}"), took, "s", note);
        let cpu = (stopped.cpu()? - cpu) * 1e6 / number(instances as u64);
        report.add(format!("etcd_catch_up_{kind}_cpu"), cpu, "µs", "CPU of the replica for each change");
        let (_, present) = stopped.state().await?;
        ensure!(present == instances, "{present} of {instances} instances after the catch-up");
        let reloads = stopped.metric("callboard_etcd_reloads_total").await?;
        let is_reloaded = reloads > 0.0;
        ensure!(is_reloaded == (kind == "compacted"), "the replica has read the state again {reloads} times");
    }
    Ok(())
}

async fn change_all(replica: &Replica, instances: usize, weight: u32) -> Result<()> {
    let request = move |id: usize| RegisterRequest { weight: Some(weight), ..instance(id % SERVICES, id) };
    register_each(&replica.channels, instances, request).await?;
    Ok(())
}
