//! Comparison of Consul's API with a minimal axum server that answers the same bytes, in pairs of runs as in `compare`; and
//! measurements without a baseline.

pub mod baseline;
mod blocking;
mod check_target;
mod checks;
mod dns;
mod http_connection;
mod load;
mod requests;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::{task::LocalSet, time::timeout};

use crate::{compare::beside, processes::Server, report::Report};
use baseline::RecordedAnswers;
use http_connection::{HttpConnection, head};
use load::Calls;
use requests::{pass_check, read_passing, register_all, ttl_check};

/// Time-out of each measurement.
const TIMEOUT: Duration = Duration::from_mins(3);
/// Goal of most rows.
const GOAL: &str = "CPU at most 1.5";

/// Result of a run: names, units, values.
type Outcome = Vec<(&'static str, &'static str, f64)>;

/// Load of both servers.
#[derive(Debug, Clone, Copy)]
enum Work {
    Calls(Calls),
    /// Answers to blocking queries of a service that changes at this interval.
    Answers(Duration),
}

/// Measurement that is made once, without pairs.
#[derive(Debug, Clone, Copy)]
enum Alone {
    BlockingQueryMemory,
    OtherChanges,
    Failures,
    Checks,
    Dns,
}

/// Row of the table.
#[derive(Debug)]
struct Row {
    name: &'static str,
    work: Work,
    /// Number of instances in the service that is read.
    instances: usize,
    /// Goal, shown beside the ratio.
    goal: &'static str,
}

const ROWS: [Row; 8] = [
    Row { name: "register_plain", work: Work::Calls(Calls::Register { checked: false }), instances: 1, goal: GOAL },
    Row { name: "register_checked", work: Work::Calls(Calls::Register { checked: true }), instances: 1, goal: GOAL },
    Row { name: "ttl_pass", work: Work::Calls(Calls::Pass), instances: 64, goal: GOAL },
    Row { name: "health_10_plain", work: Work::Calls(Calls::Read { gzip: false }), instances: 10, goal: GOAL },
    Row { name: "health_10_gzip", work: Work::Calls(Calls::Read { gzip: true }), instances: 10, goal: GOAL },
    Row { name: "answers_1_at_5", work: Work::Answers(Duration::from_millis(200)), instances: 1, goal: GOAL },
    Row {
        name: "answers_1_at_20",
        work: Work::Answers(Duration::from_millis(50)),
        instances: 1,
        goal: "CPU at most 1.5, all answered",
    },
    Row { name: "answers_100_at_2", work: Work::Answers(Duration::from_millis(500)), instances: 100, goal: GOAL },
];

const ALONE: [(&str, Alone); 5] = [
    ("blocking_query_memory", Alone::BlockingQueryMemory),
    ("other_changes", Alone::OtherChanges),
    ("failure", Alone::Failures),
    ("checks_20000", Alone::Checks),
    ("dns", Alone::Dns),
];

/// Runs the rows whose names contain `only`.
pub async fn run(only: &str, pairs: usize) -> Result<Report> {
    let mut report = Report::default();
    for row in ROWS.iter().filter(|row| row.name.contains(only)) {
        let (mut baseline, mut callboard) = (Vec::new(), Vec::new());
        let recorded = within(row.name, row.recorded()).await?;
        for _ in 0..pairs {
            baseline.push(within(row.name, row.baseline(&recorded)).await?);
            callboard.push(within(row.name, row.callboard()).await?);
        }
        compare(&mut report, row, &baseline, &callboard);
    }
    for (name, what) in ALONE.iter().filter(|(name, _)| name.contains(only)) {
        let report = &mut report;
        match what {
            Alone::BlockingQueryMemory => within(name, blocking::memory(report)).await?,
            Alone::OtherChanges => within(name, blocking::other_changes(report)).await?,
            Alone::Failures => within(name, checks::failures(report)).await?,
            Alone::Checks => within(name, checks::many(report)).await?,
            Alone::Dns => within(name, dns::run(report)).await?,
        }
    }
    Ok(report)
}

/// Runs a measurement on this thread, with the time-out.
async fn within<T>(name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = LocalSet::new().run_until(timeout(TIMEOUT, Box::pin(work))).await;
    done.with_context(|| format!("{name} takes longer than {TIMEOUT:?}"))?.with_context(|| name.to_owned())
}

impl Row {
    /// Registers the instances that the work needs.
    async fn prepare(&self, server: &Server) -> Result<()> {
        register_all(server, self.instances, |_| 0, |_| ttl_check()).await
    }

    /// Records Callboard's answers for the baseline.
    async fn recorded(&self) -> Result<RecordedAnswers> {
        let server = Server::callboard_pinned()?;
        self.prepare(&server).await?;
        let mut connection = HttpConnection::open(server.http()?).await?;
        let gzip = matches!(self.work, Work::Calls(Calls::Read { gzip: true }));
        let plain = connection.whole(&read_passing(0, false)).await?;
        let found = String::from_utf8_lossy(&plain).matches("\"Service\":{").count();
        ensure!(found == self.instances, "{found} of {} instances are in the answer", self.instances);
        let read = connection.whole(&read_passing(0, gzip)).await?;
        let is_gzip = head(&read)?.is_some_and(|(_, head)| head.to_lowercase().contains("content-encoding: gzip"));
        ensure!(is_gzip == gzip, "an answer does not have the requested encoding");
        Ok(RecordedAnswers { write: connection.whole(&pass_check(0)).await?, read })
    }

    async fn baseline(&self, recorded: &RecordedAnswers) -> Result<Outcome> {
        let server = Server::baseline_pinned("consul-baseline")?;
        baseline::install(&server, recorded).await?;
        self.work.run(&server).await
    }

    async fn callboard(&self) -> Result<Outcome> {
        let server = Server::callboard_pinned()?;
        self.prepare(&server).await?;
        self.work.run(&server).await
    }
}

impl Work {
    async fn run(self, server: &Server) -> Result<Outcome> {
        match self {
            Self::Calls(calls) => calls.run(server).await,
            Self::Answers(every) => blocking::answers(server, every).await,
        }
    }
}

fn compare(report: &mut Report, row: &Row, baseline: &[Outcome], callboard: &[Outcome]) {
    for (at, (what, unit, _)) in baseline.first().into_iter().flatten().enumerate() {
        let [baseline, ours]: [Vec<f64>; 2] =
            [baseline, callboard].map(|runs| runs.iter().map(|run| run[at].2).collect());
        beside(report, &format!("{}_{what}", row.name), unit, row.goal, &baseline, &ours);
    }
}
