//! Comparison of Callboard with the gRPC baseline: pairs of runs, each on a fresh server; medians.
//!
//! The server has one core and the load generator the other. Other programs on the machine slow down both runs of a pair, so
//! ratios and CPU time per operation are reliable where rates are not. Where the load generator's core is saturated first, the
//! rates are those of the load generator.

use anyhow::Result;
use tokio::task::LocalSet;

use crate::{
    load::{Outcome, Work},
    processes::Server,
    report::{Report, median},
};

/// Row of the table.
#[derive(Debug)]
struct Row {
    name: &'static str,
    work: Work,
    /// Goal, shown beside the ratio.
    goal: &'static str,
}

const ROWS: [Row; 7] = [
    Row { name: "register_new", work: Work::Register, goal: "rate at least 0.80, CPU at most 1.25" },
    Row { name: "register_again", work: Work::Repeat, goal: "rate at least 0.80, CPU at most 1.25" },
    Row { name: "heartbeat_alone", work: Work::Heartbeats { streams: 1_000, leases: 1 }, goal: "CPU at most 1.3" },
    Row {
        name: "heartbeat_of_100",
        work: Work::Heartbeats { streams: 8, leases: 100 },
        goal: "at most 0.5 µs a lease",
    },
    Row { name: "fan_out_1000_paced", work: Work::Paced(1_000), goal: "CPU at most 1.15, p99 at most 1.5" },
    Row { name: "fan_out_1000_full", work: Work::Full(1_000), goal: "rate at least 0.8" },
    Row { name: "fan_out_5000_full", work: Work::Full(5_000), goal: "rate at least 0.8" },
];

/// Compares the rows whose names contain `only`.
pub async fn run(only: &str, pairs: usize) -> Result<Report> {
    let mut report = Report::default();
    for row in ROWS.iter().filter(|row| row.name.contains(only)) {
        let (mut baseline, mut callboard) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            baseline.push(once(row.work, Server::baseline_pinned("grpc-baseline")?).await?);
            callboard.push(once(row.work, Server::callboard_pinned()?).await?);
        }
        compare(&mut report, row, &baseline, &callboard);
    }
    Ok(report)
}

/// Runs the load once, and stops the server.
async fn once(work: Work, server: Server) -> Result<Outcome> {
    LocalSet::new().run_until(work.run(&server)).await
}

fn compare(report: &mut Report, row: &Row, baseline: &[Outcome], callboard: &[Outcome]) {
    let mut add = |what: &str, unit, of: &dyn Fn(&Outcome) -> f64| {
        let [baseline, ours]: [Vec<f64>; 2] = [baseline, callboard].map(|runs| runs.iter().map(of).collect());
        beside(report, &format!("{}_{what}", row.name), unit, row.goal, &baseline, &ours);
    };
    add("rate", "/s", &|outcome| outcome.rate);
    add("cpu", "µs", &|outcome| outcome.cpu);
    if baseline.iter().chain(callboard).all(|outcome| outcome.p99.is_some()) {
        add("p99", "ms", &|outcome| outcome.p99.unwrap_or_default());
    }
}

/// Adds the medians of both servers, and the median of the ratios.
pub fn beside(report: &mut Report, name: &str, unit: &'static str, goal: &str, baseline: &[f64], ours: &[f64]) {
    // The ratio is taken for each pair, because the speed of the machine changes between pairs.
    let ratio = median(baseline.iter().zip(ours).map(|(baseline, ours)| ours / baseline));
    report.add(format!("{name}_baseline"), median(baseline.iter().copied()), unit, "");
    report.add(name, median(ours.iter().copied()), unit, "");
    report.add(format!("{name}_ratio"), ratio, "×", goal);
}
