//! Costs of a change at a steady rate, with three replicas: CPU time, network, and what etcd writes; and of its delivery to watchers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use callboard::pb::callboard::v1::{RegisterRequest, registry_service_client::RegistryServiceClient};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{SERVICES, cluster::EtcdCluster, number, replicas::Replica};
use crate::{
    client::{Watch, instance, register},
    now,
    report::Report,
};

const REPLICAS: usize = 3;
const SPAN: Duration = Duration::from_secs(20);
/// Interval of the groups of changes.
const GROUP_INTERVAL: Duration = Duration::from_millis(20);
/// Maximum number of changes of an instance in a run, so that the weights of two runs differ.
const MAX_ROUNDS: u32 = 1_000;
/// Numbers of watchers, and changes in a group.
const STEPS: [(usize, usize); 3] = [(0, 20), (1_000, 4), (10_000, 4)];

/// Use of resources in a run.
#[derive(Debug, Clone, Copy)]
struct ChangeUsage {
    changes: f64,
    deliveries: f64,
    writer: f64,
    reader: f64,
    other: f64,
}

/// Runs the measurements.
pub async fn run(report: &mut Report, instances: usize) -> Result<()> {
    let etcd = EtcdCluster::start().await?;
    let replicas = Replica::start_all(&etcd, REPLICAS).await?;
    register(&replicas[0].channels, instances, SERVICES).await?;
    let (revision, _) = replicas[0].state().await?;
    for replica in &replicas {
        replica.reaches(revision).await?;
    }
    for (step, (watchers, group)) in (1_u32..).zip(STEPS) {
        let before = replicas[1].server.memory().await?;
        let received = Arc::<AtomicU64>::default();
        let mut watching = open(&replicas[1], watchers, &received).await?;
        let name = format!("etcd_changes_{watchers}_watchers");
        if watchers > 0 {
            let memory = replicas[1].server.memory().await?.saturating_sub(before);
            report.add(format!("{name}_rss"), number(memory / watchers as u64), "B", "for each watcher");
        }
        let usage = etcd.usage().await?;
        let run = change(&replicas, (group, step * MAX_ROUNDS), instances, &received).await?;
        let usage = etcd.usage().await?.since(usage);
        let span = SPAN.as_secs_f64();
        report.add(format!("{name}_rate"), run.changes / span, "/s", "changes of instances in 100 services");
        let each = |seconds: f64| seconds * 1e6 / run.changes;
        report.add(
            format!("{name}_writer_cpu"),
            each(run.writer),
            "µs",
            "CPU for a change of the replica that is called",
        );
        report.add(format!("{name}_other_cpu"), each(run.other), "µs", "CPU for a change of a replica without clients");
        report.add(format!("{name}_etcd_cpu"), each(usage.cpu), "µs", "CPU for a change of three members together");
        if watchers == 0 {
            for (what, bytes, note) in [
                ("log", usage.log, "for a change, three write-ahead logs together"),
                ("to_peers", usage.to_peers, "for a change, between the members"),
                ("to_replicas", usage.to_clients / number(REPLICAS as u64), "for a change, from etcd to each replica"),
                ("database", usage.database, "for a change, database of each member"),
            ] {
                report.add(format!("{name}_{what}"), (bytes / run.changes).round(), "B", note);
            }
        } else {
            let cpu = (run.reader - run.other) * 1e6 / run.deliveries;
            report.add(format!("{name}_deliveries"), run.deliveries / span, "/s", "changes received by all watchers");
            report.add(format!("{name}_delivery_cpu"), cpu, "µs", "CPU of their replica for each");
        }
        if let Some(ended) = watching.try_join_next() {
            ended??;
        }
        etcd.compact().await?;
    }
    Ok(())
}

/// Opens watches, spread over the services.
async fn open(replica: &Replica, watchers: usize, received: &Arc<AtomicU64>) -> Result<JoinSet<Result<()>>> {
    let mut watching = JoinSet::new();
    for number in 0..watchers {
        let channel = &replica.channels[number % replica.channels.len()];
        let (mut watch, _) = Watch::open(channel, number % SERVICES).await?;
        let received = Arc::clone(received);
        watching.spawn(async move {
            loop {
                received.fetch_add(watch.changes().await?.changes.len() as u64, Relaxed);
            }
        });
    }
    Ok(watching)
}

/// Changes the weights of instances at the first replica, from this weight on, for the time of a run.
async fn change(
    replicas: &[Replica],
    (group, weight): (usize, u32),
    instances: usize,
    received: &Arc<AtomicU64>,
) -> Result<ChangeUsage> {
    let [writer, reader, other] = replicas else { anyhow::bail!("three replicas are needed") };
    let cpu = || -> Result<[f64; 3]> { Ok([writer.cpu()?, reader.cpu()?, other.cpu()?]) };
    let (before, seen) = (cpu()?, received.load(Relaxed));
    let (mut ticks, mut calls, mut count) = (interval(GROUP_INTERVAL), JoinSet::new(), 0_usize);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let began = now();
    while began.elapsed() < SPAN {
        ticks.tick().await;
        for _ in 0..group {
            let mut registry = RegistryServiceClient::new(writer.channels[count % writer.channels.len()].clone());
            let (id, round) = (count % instances, u32::try_from(count / instances)?);
            let request = RegisterRequest { weight: Some(weight + round), ..instance(id % SERVICES, id) };
            calls.spawn(async move { registry.register(request).await });
            count += 1;
        }
        while let Some(answer) = calls.try_join_next() {
            answer??;
        }
    }
    while let Some(answer) = calls.join_next().await {
        answer??;
    }
    let (revision, _) = writer.state().await?;
    reader.reaches(revision).await?;
    other.reaches(revision).await?;
    // The last deliveries.
    sleep(Duration::from_secs(1)).await;
    let after = cpu()?;
    ensure!(count > 0, "nothing was changed");
    let [writer, reader, other] = [0, 1, 2].map(|index| after[index] - before[index]);
    let deliveries = number(received.load(Relaxed) - seen);
    Ok(ChangeUsage { changes: number(count as u64), deliveries, writer, reader, other })
}
