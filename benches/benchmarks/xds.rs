//! Comparison of xDS with a minimal tonic server that sends the same bytes to the same clients, in pairs of runs as in `compare`.

mod ads;
pub mod baseline;
mod fan_out;
mod policies;
mod rolling_restart;
mod subscriptions;
mod target;
mod wildcard;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{task::LocalSet, time::timeout};
use tonic::transport::{Channel, Endpoint};

use crate::{
    compare::beside,
    report::{Report, median},
};
use target::{Layout, Recording, Target};
use wildcard::Variant;

/// Time-out of each measurement.
const TIMEOUT: Duration = Duration::from_mins(2);
/// Maximum number of clients on a connection.
const CLIENTS_PER_CONNECTION: usize = 500;
/// Flow-control windows of the clients: of a stream and of a connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Number of services with a client each, and of those that one client subscribes to.
const SERVICES: usize = 10_000;

/// Result of a run: names, units, values.
type Outcome = Vec<(&'static str, &'static str, f64)>;

/// Load of both servers.
#[derive(Debug, Clone, Copy)]
enum Work {
    Paced,
    Flooded,
    Subscriptions,
    Wildcard(Variant),
}

/// Row of the table.
#[derive(Debug)]
struct Row {
    name: &'static str,
    work: Work,
}

const ROWS: [Row; 5] = [
    Row { name: "xds_fan_out_100", work: Work::Paced },
    Row { name: "xds_fan_out_5000", work: Work::Flooded },
    Row { name: "xds_clients_10000", work: Work::Subscriptions },
    Row { name: "xds_wildcard_sotw", work: Work::Wildcard(Variant::StateOfTheWorld) },
    Row { name: "xds_wildcard_delta", work: Work::Wildcard(Variant::Delta) },
];

/// Compares the rows whose names contain `only`.
pub async fn run(only: &str, pairs: usize) -> Result<Report> {
    let mut report = Report::default();
    for row in ROWS.iter().filter(|row| row.name.contains(only)) {
        let layout = row.work.layout();
        let recording = within(row.name, Recording::make(&layout)).await?;
        let (mut baseline, mut callboard) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            baseline.push(within(row.name, row.work.run(Target::baseline(&layout, &recording), &recording)).await?);
            callboard.push(within(row.name, row.work.run(Target::callboard(&layout), &recording)).await?);
        }
        compare(&mut report, row, &baseline, &callboard);
    }
    for (name, policy) in policies::ROWS.iter().filter(|(name, _)| name.contains(only)) {
        alone(&mut report, name, pairs, || policies::run(*policy)).await?;
    }
    for (name, restart) in rolling_restart::ROWS.iter().filter(|(name, _)| name.contains(only)) {
        alone(&mut report, name, pairs, || restart.run()).await?;
    }
    Ok(report)
}

/// Adds the medians of runs without a baseline.
async fn alone(report: &mut Report, name: &str, runs: usize, run: impl AsyncFn() -> Result<Outcome>) -> Result<()> {
    let mut outcomes = Vec::new();
    for _ in 0..runs {
        outcomes.push(within(name, run()).await?);
    }
    for (at, (what, unit, _)) in outcomes.first().into_iter().flatten().enumerate() {
        report.add(format!("{name}_{what}"), median(outcomes.iter().map(|outcome| outcome[at].2)), unit, "");
    }
    Ok(())
}

/// Runs a measurement on this thread, with the time-out.
async fn within<T>(name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = LocalSet::new().run_until(timeout(TIMEOUT, Box::pin(work))).await;
    done.with_context(|| format!("{name} takes longer than {TIMEOUT:?}"))?.with_context(|| name.to_owned())
}

impl Work {
    fn layout(self) -> Arc<Layout> {
        match self {
            Self::Paced => Layout::new(vec![100], 1, 1),
            Self::Flooded => Layout::new(vec![5_000, 10], 2, 2),
            Self::Subscriptions => Layout::new(vec![3; SERVICES], SERVICES, subscriptions::CHANGES),
            Self::Wildcard(_) => {
                let added = vec![1; wildcard::ADDED];
                Layout::new([vec![3; SERVICES], added].concat(), SERVICES, wildcard::CHANGES)
            }
        }
    }

    async fn run(self, target: impl Future<Output = Result<Target>>, recording: &Recording) -> Result<Outcome> {
        let target = target.await?;
        match self {
            Self::Paced => fan_out::paced(&target).await,
            Self::Flooded => fan_out::flooded(&target).await,
            Self::Subscriptions => subscriptions::run(&target).await,
            Self::Wildcard(variant) => variant.run(&target, recording).await,
        }
    }
}

/// Opens connections for this number of clients.
async fn connect_clients(address: SocketAddr, clients: usize) -> Result<Vec<Channel>> {
    const MIN_CONNECTIONS: usize = 8;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let mut channels = Vec::new();
    for _ in 0..clients.div_ceil(CLIENTS_PER_CONNECTION).max(MIN_CONNECTIONS) {
        channels.push(endpoint.connect().await?);
    }
    Ok(channels)
}

fn compare(report: &mut Report, row: &Row, baseline: &[Outcome], callboard: &[Outcome]) {
    for (at, (what, unit, _)) in baseline.first().into_iter().flatten().enumerate() {
        let [baseline, ours]: [Vec<f64>; 2] =
            [baseline, callboard].map(|runs| runs.iter().map(|run| run[at].2).collect());
        beside(report, &format!("{}_{what}", row.name), unit, "", &baseline, &ours);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes, far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}
