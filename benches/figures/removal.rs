//! How long after `kill -9` of `callboard register` a watcher hears that its instance is gone.

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
    children::{CALLBOARD, Ended, Server},
    client::{connect, milliseconds},
    now,
    report::{Report, quantile, sorted},
};

const RUNS: usize = 7;
/// Between two kills, so that they fall between heartbeats here and there.
const APART: Duration = Duration::from_millis(130);
/// No removal may take so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Without and with a grace.
const FLAGS: [(&str, &[&str], &str); 2] = [
    ("ttl", &[], "--ttl 2s; goal: at most 3,000"),
    ("grace", &["--disconnect-grace", "1s"], "--ttl 2s --disconnect-grace 1s; goal: at most 1,500"),
];

/// All of them live at once and are killed one after the other. Each is a service: of one, protection would hold some.
pub async fn run(report: &mut Report) -> Result<()> {
    let server = Server::callboard()?;
    let channels = connect(server.address, 1).await?;
    let mut client = DiscoveryServiceClient::new(channels[0].clone());
    let asked = pb::WatchRequest { prefix: "victim-".into(), ..Default::default() };
    let mut watch = client.watch(asked).await?.into_inner();

    let mut victims = HashMap::new();
    for run in 0..RUNS {
        for (kind, flags, _) in FLAGS {
            let id = format!("{kind}-{run}");
            victims.insert(id.clone(), victim(&server, &id, flags)?);
        }
    }
    timeout(PATIENCE, all_registered(&mut watch, victims.len())).await.context("a victim never registered")??;
    // Past the first heartbeat: a stream that carried none has no grace.
    sleep(Duration::from_secs(1)).await;

    let killing = tokio::spawn(async move {
        let mut killed = HashMap::new();
        for (id, victim) in victims {
            killed.insert(id, now());
            drop(victim);
            sleep(APART).await;
        }
        killed
    });
    let removed =
        timeout(PATIENCE, all_removed(&mut watch, RUNS * FLAGS.len())).await.context("not all were removed")??;
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

fn victim(server: &Server, id: &str, flags: &[&str]) -> Result<Ended> {
    let (mut command, service) = (Command::new(CALLBOARD), format!("victim-{id}"));
    command.args(["register", &service, "127.0.0.1:9001", "--ttl", "2s", "--id", id]);
    command.args(["--server", &server.address.to_string()]).args(flags);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    Ok(Ended(child.with_context(|| format!("cannot start {command:?}"))?))
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
        let told = watch.message().await?.context("the watch ended")?;
        let at = now();
        let Some(Message::Changes(changes)) = told.message else { continue };
        gone.extend(changes.changes.into_iter().filter_map(|change| {
            let Change::Removed(removal) = change.change? else { return None };
            Some((removal.id, at))
        }));
    }
    Ok(gone)
}
