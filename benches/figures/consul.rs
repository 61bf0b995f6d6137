//! Callboard's door for Consul's API beside a bare axum server that answers the same bytes, in pairs of runs as `compare` has
//! them; and what there is no limit for.

mod ask;
pub mod bare;
mod checks;
mod dns;
mod line;
mod load;
mod parked;
mod target;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::{task::LocalSet, time::timeout};

use crate::{children::Server, compare::beside, report::Report};
use ask::{fed, pass, passing, register_all};
use bare::Taught;
use line::{Line, head};
use load::Calls;

/// Nothing that is measured takes so long.
const PATIENCE: Duration = Duration::from_mins(3);
/// What is wanted of most rows.
const GOAL: &str = "CPU at most 1.5";

/// What came of a run: names, units, values.
type Outcome = Vec<(&'static str, &'static str, f64)>;

/// What both do.
#[derive(Debug, Clone, Copy)]
enum Work {
    Calls(Calls),
    /// Answers to parked queries of a service that changes so often.
    Answers(Duration),
}

/// What only Callboard does, or that is measured once.
#[derive(Debug, Clone, Copy)]
enum Alone {
    ParkedMemory,
    OtherChanges,
    Failures,
    Checks,
    Dns,
}

/// A row of the table.
#[derive(Debug)]
struct Row {
    name: &'static str,
    work: Work,
    /// In the service that is read.
    instances: usize,
    /// What is wanted.
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
    ("parked_memory", Alone::ParkedMemory),
    ("other_changes", Alone::OtherChanges),
    ("failure", Alone::Failures),
    ("checks_20000", Alone::Checks),
    ("dns", Alone::Dns),
];

/// All rows whose name contains `only`.
pub async fn run(only: &str, pairs: usize) -> Result<Report> {
    let mut report = Report::default();
    for row in ROWS.iter().filter(|row| row.name.contains(only)) {
        let (mut limit, mut callboard) = (Vec::new(), Vec::new());
        let taught = within(row.name, row.taught()).await?;
        for _ in 0..pairs {
            limit.push(within(row.name, row.limit(&taught)).await?);
            callboard.push(within(row.name, row.callboard()).await?);
        }
        compare(&mut report, row, &limit, &callboard);
    }
    for (name, what) in ALONE.iter().filter(|(name, _)| name.contains(only)) {
        let report = &mut report;
        match what {
            Alone::ParkedMemory => within(name, parked::memory(report)).await?,
            Alone::OtherChanges => within(name, parked::other_changes(report)).await?,
            Alone::Failures => within(name, checks::failures(report)).await?,
            Alone::Checks => within(name, checks::many(report)).await?,
            Alone::Dns => within(name, dns::run(report)).await?,
        }
    }
    Ok(report)
}

/// On this thread, and not for ever.
async fn within<T>(name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = LocalSet::new().run_until(timeout(PATIENCE, Box::pin(work))).await;
    done.with_context(|| format!("{name} takes longer than {PATIENCE:?}"))?.with_context(|| name.to_owned())
}

impl Row {
    /// Gives a fresh Callboard what the work needs.
    async fn prepare(&self, server: &Server) -> Result<()> {
        register_all(server, self.instances, |_| 0, |_| fed()).await
    }

    /// What Callboard answers, for the limit to answer the same.
    async fn taught(&self) -> Result<Taught> {
        let server = Server::callboard_pinned()?;
        self.prepare(&server).await?;
        let mut line = Line::open(server.http()?).await?;
        let gzip = matches!(self.work, Work::Calls(Calls::Read { gzip: true }));
        let plain = line.whole(&passing(0, false)).await?;
        let told = String::from_utf8_lossy(&plain).matches("\"Service\":{").count();
        ensure!(told == self.instances, "{told} of {} instances are told", self.instances);
        let read = line.whole(&passing(0, gzip)).await?;
        let packed = head(&read)?.is_some_and(|(_, head)| head.to_lowercase().contains("content-encoding: gzip"));
        ensure!(packed == gzip, "an answer is not packed as it was asked for");
        Ok(Taught { write: line.whole(&pass(0)).await?, read })
    }

    async fn limit(&self, taught: &Taught) -> Result<Outcome> {
        let server = Server::limit_pinned("consul-limit")?;
        bare::teach(&server, taught).await?;
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
            Self::Answers(every) => parked::answers(server, every).await,
        }
    }
}

fn compare(report: &mut Report, row: &Row, limit: &[Outcome], callboard: &[Outcome]) {
    for (at, (what, unit, _)) in limit.first().into_iter().flatten().enumerate() {
        let [bare, ours]: [Vec<f64>; 2] = [limit, callboard].map(|runs| runs.iter().map(|run| run[at].2).collect());
        beside(report, &format!("{}_{what}", row.name), unit, row.goal, &bare, &ours);
    }
}
