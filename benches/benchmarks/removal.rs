//! Delay from `kill -9` of `callboard register` to the watcher that receives the removal of its instance.

use std::{
    collections::{HashMap, HashSet},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use callboard::pb::callboard::v1::{
    self as pb, change::Change, discovery_service_client::DiscoveryServiceClient, watch_response::Message,
};
use tokio::time::{sleep, timeout};
use tonic::Streaming;

use crate::{
    client::{connect, milliseconds},
    now,
    processes::{CALLBOARD, KilledOnDrop, Server},
    report::{Report, quantile, sorted},
};

const RUNS: usize = 7;
/// Interval between two kills; it is no multiple of the heartbeat interval, so that kills fall on different points of it.
const KILL_INTERVAL: Duration = Duration::from_millis(130);
/// Time-out of the whole measurement.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Name, flags and note of each kind: without and with a disconnect grace.
const FLAGS: [(&str, &[&str], &str); 2] = [
    ("ttl", &[], "--ttl 2s; goal: at most 3,000"),
    ("grace", &["--disconnect-grace", "1s"], "--ttl 2s --disconnect-grace 1s; goal: at most 1,500"),
];

/// Runs the measurement. All programs run at once and are killed one after the other. Each registers a service of its own, because
/// self-preservation would hold some instances of a shared one.
pub async fn run(report: &mut Report) -> Result<()> {
    let server = Server::callboard()?;
    let channels = connect(server.address, 1).await?;
    let mut client = DiscoveryServiceClient::new(channels[0].clone());
    let request = pb::WatchRequest { prefix: "killed-".into(), ..Default::default() };
    let mut watch = client.watch(request).await?.into_inner();

    let mut programs = HashMap::new();
    for run in 0..RUNS {
        for (kind, flags, _) in FLAGS {
            let id = format!("{kind}-{run}");
            programs.insert(id.clone(), start_program(&server, &id, flags)?);
        }
    }
    timeout(TIMEOUT, all_registered(&mut watch, programs.len())).await.context("not every program registered")??;
    // A stream has a grace only after its first heartbeat.
    sleep(Duration::from_secs(1)).await;

    let killing = tokio::spawn(async move {
        let mut killed = HashMap::new();
        for (id, program) in programs {
            killed.insert(id, now());
            drop(program);
            sleep(KILL_INTERVAL).await;
        }
        killed
    });
    let removed =
        timeout(TIMEOUT, all_removed(&mut watch, RUNS * FLAGS.len())).await.context("some instances remained")??;
    let killed = killing.await?;
    for (kind, _, note) in FLAGS {
        let delays = killed.iter().filter(|(id, _)| id.starts_with(kind)).filter_map(|(id, killed)| {
            let removed = removed.get(id)?;
            Some(milliseconds(removed.saturating_duration_since(*killed)).round())
        });
        let delays = sorted(delays);
        for (name, share) in [("min", 0.0), ("median", 0.5), ("max", 1.0)] {
            report.add(format!("removal_after_kill_{kind}_{name}"), quantile(&delays, share), "ms", note);
        }
    }
    Ok(())
}

fn start_program(server: &Server, id: &str, flags: &[&str]) -> Result<KilledOnDrop> {
    let (mut command, service) = (Command::new(CALLBOARD), format!("killed-{id}"));
    command.args(["register", &service, "127.0.0.1:9001", "--ttl", "2s", "--id", id]);
    command.args(["--server", &server.address.to_string()]).args(flags);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    Ok(KilledOnDrop(child.with_context(|| format!("cannot start {command:?}"))?))
}

async fn all_registered(watch: &mut Streaming<pb::WatchResponse>, count: usize) -> Result<()> {
    let mut there = HashSet::new();
    while there.len() < count {
        match watch.message().await?.context("the watch ended")?.message {
            Some(Message::Snapshot(snapshot)) => there.extend(snapshot.instances.into_iter().map(|found| found.id)),
            Some(Message::Changes(changes)) => there.extend(changes.changes.into_iter().filter_map(|change| {
                let Change::Updated(instance) = change.change? else { return None };
                Some(instance.id)
            })),
            _ => {}
        }
    }
    Ok(())
}

async fn all_removed(watch: &mut Streaming<pb::WatchResponse>, count: usize) -> Result<HashMap<String, Instant>> {
    let mut gone = HashMap::new();
    while gone.len() < count {
        let response = watch.message().await?.context("the watch ended")?;
        let at = now();
        let Some(Message::Changes(changes)) = response.message else { continue };
        gone.extend(changes.changes.into_iter().filter_map(|change| {
            let Change::Removed(removal) = change.change? else { return None };
            Some((removal.id, at))
        }));
    }
    Ok(gone)
}
