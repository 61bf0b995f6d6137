//! Callboard beside the limit: pairs of runs, one after the other, each on a fresh server; medians.
//!
//! Servers have one core, the load the other. What another program does on this machine meanwhile hits both of a pair:
//! ratios and CPU for an operation hold where rates do not. Where the load's core is full first, rates are its rates.

use anyhow::Result;
use tokio::task::LocalSet;

use crate::{
    children::Server,
    load::{Outcome, Work},
    report::{Report, median},
};

/// A row of the table.
#[derive(Debug)]
struct Row {
    name: &'static str,
    work: Work,
    /// What is wanted.
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

/// Compares at all work whose name contains `only`.
pub async fn run(only: &str, pairs: usize) -> Result<Report> {
    let mut report = Report::default();
    for row in ROWS.iter().filter(|row| row.name.contains(only)) {
        let (mut limit, mut callboard) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            limit.push(once(row.work, Server::limit_pinned("limit")?).await?);
            callboard.push(once(row.work, Server::callboard_pinned()?).await?);
        }
        compare(&mut report, row, &limit, &callboard);
    }
    Ok(report)
}

/// The server ends when it is done.
async fn once(work: Work, server: Server) -> Result<Outcome> {
    LocalSet::new().run_until(work.run(&server)).await
}

fn compare(report: &mut Report, row: &Row, limit: &[Outcome], callboard: &[Outcome]) {
    let mut add = |what: &str, unit, of: &dyn Fn(&Outcome) -> f64| {
        let [bare, ours]: [Vec<f64>; 2] = [limit, callboard].map(|runs| runs.iter().map(of).collect());
        beside(report, &format!("{}_{what}", row.name), unit, row.goal, &bare, &ours);
    };
    add("rate", "/s", &|outcome| outcome.rate);
    add("cpu", "µs", &|outcome| outcome.cpu);
    if limit.iter().chain(callboard).all(|outcome| outcome.p99.is_some()) {
        add("p99", "ms", &|outcome| outcome.p99.unwrap_or_default());
    }
}

/// Adds the medians of both, and of their ratios.
pub fn beside(report: &mut Report, name: &str, unit: &'static str, goal: &str, limit: &[f64], ours: &[f64]) {
    // Of each pair, so that a change of the machine's mood between pairs does not count.
    let ratio = median(limit.iter().zip(ours).map(|(limit, ours)| ours / limit));
    report.add(format!("{name}_limit"), median(limit.iter().copied()), unit, "");
    report.add(name, median(ours.iter().copied()), unit, "");
    report.add(format!("{name}_ratio"), ratio, "×", goal);
}
