//! Queries that wait for changes.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    Outcome,
    ask::{fail, fed, pass, passing, passing_after, register, register_all},
    bare::{Taught, teach},
    line::Line,
};
use crate::{
    children::Server,
    client::milliseconds,
    now,
    report::{Report, quantile, sorted},
};

/// How many wait when answers are measured.
const PARKED: usize = 1_000;
/// How long is written to them.
const SPAN: Duration = Duration::from_secs(4);
/// Until all who are to wait do, and until what they are answered has reached them.
const PAUSE: Duration = Duration::from_millis(800);
/// No answer may take so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many wait when memory is measured.
const MANY: usize = 10_000;
/// How many wait while others change, and how often those do.
const QUIET: usize = 100;
const OTHER_CHANGES: usize = 100;

/// An answer: its index, and when it was there.
type Heard = Rc<RefCell<Vec<(u64, Instant)>>>;

/// What was written: when each write returned, and the index after it.
#[derive(Debug, Default)]
struct Written {
    returned: Vec<Instant>,
    indexes: Vec<u64>,
}

/// Answers of queries that wait for a service whose first instance registers again, and tells something else, so often.
pub async fn answers(server: &Server, every: Duration) -> Result<Outcome> {
    let mut writer = Line::open(server.http()?).await?;
    let known = writer.ask(&passing(0, false)).await?.index;
    let (heard, mut tasks) = (Heard::default(), JoinSet::new());
    for _ in 0..PARKED {
        let mut line = Line::open(server.http()?).await?;
        line.send(&passing_after(0, known)).await?;
        tasks.spawn_local(wait_again_and_again(line, Rc::clone(&heard)));
    }
    sleep(PAUSE).await;
    // The first is for warming up; and all of them have to wait by now.
    writer.ask(&register(0, 0, 1, fed())).await?;
    let all = async {
        while heard.borrow().len() < PARKED {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, all).await.with_context(|| format!("{} of {PARKED} were answered", heard.borrow().len()))?;
    sleep(PAUSE).await;
    heard.take();
    let (cpu, start) = (server.cpu()?, now());
    let written = tokio::select! {
        written = write(&mut writer, every) => written?,
        Some(failed) = tasks.join_next() => {
            failed??;
            bail!("a query is no longer asked");
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64();
    outcome(&heard.take(), &written, cpu, seconds)
}

async fn wait_again_and_again(mut line: Line, heard: Heard) -> Result<()> {
    loop {
        let index = line.answer().await?.index;
        heard.borrow_mut().push((index, now()));
        line.send(&passing_after(0, index)).await?;
    }
}

/// Each write has the whole time until the next one for its answers.
async fn write(writer: &mut Line, every: Duration) -> Result<Written> {
    let mut written = Written::default();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    for version in 2..2 + SPAN.as_millis() / every.as_millis() {
        writer.ask(&register(0, 0, usize::try_from(version)?, fed())).await?;
        written.returned.push(now());
        ticks.tick().await;
        written.indexes.push(writer.ask(&passing(0, false)).await?.index);
    }
    Ok(written)
}

fn outcome(heard: &[(u64, Instant)], written: &Written, cpu: f64, seconds: f64) -> Result<Outcome> {
    let mut last = vec![0.0; written.returned.len()];
    let mut delays = Vec::with_capacity(heard.len());
    for (index, at) in heard {
        let write = written.indexes.partition_point(|after| after < index);
        // Nobody else writes. What is heard before the write has returned is not late.
        let Some(returned) = written.returned.get(write) else { bail!("an answer to what was not written: {index}") };
        let delay = milliseconds(at.saturating_duration_since(*returned));
        last[write] = f64::max(last[write], delay);
        delays.push(delay);
    }
    ensure!(!heard.is_empty(), "no query was answered");
    #[expect(clippy::cast_precision_loss, reason = "counts")]
    let (count, wanted) = (heard.len() as f64, (PARKED * last.len()) as f64);
    Ok(vec![
        ("rate", "/s", count / seconds),
        ("answered", "%", count / wanted * 100.0),
        ("cpu", "µs", cpu * 1e6 / count),
        ("p99", "ms", quantile(&sorted(delays), 0.99)),
        ("last_p99", "ms", quantile(&sorted(last), 0.99)),
    ])
}

/// What a query that waits takes, with its connection, here and at the limit.
pub async fn memory(report: &mut Report) -> Result<()> {
    let callboard = Server::callboard_pinned()?;
    register_all(&callboard, 1, |_| 0, |_| fed()).await?;
    let mut line = Line::open(callboard.http()?).await?;
    let taught = Taught { write: line.whole(&pass(0)).await?, read: line.whole(&passing(0, false)).await? };
    drop(line);
    let limit = Server::limit_pinned("consul-limit")?;
    teach(&limit, &taught).await?;
    for (name, server, goal) in [("_limit", limit, ""), ("", callboard, "goal: at most 25,000")] {
        let mut writer = Line::open(server.http()?).await?;
        let known = writer.ask(&passing(0, false)).await?.index;
        let before = server.memory().await?;
        let mut lines = Vec::with_capacity(MANY);
        for _ in 0..MANY {
            let mut line = Line::open(server.http()?).await?;
            line.send(&passing_after(0, known)).await?;
            lines.push(line);
        }
        let grown = server.memory().await?.saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let each = (grown as f64 / MANY as f64).round();
        report.add(format!("parked_memory{name}"), each, "B", goal);
        // All of them have waited, for now all are answered.
        writer.ask(&register(0, 0, 1, fed())).await?;
        let written = now();
        for line in &mut lines {
            line.answer().await?;
        }
        let note = format!("{MANY} parked: from the write's return until all are answered");
        report.add(format!("parked_all_answered{name}"), milliseconds(written.elapsed()).round(), "ms", note);
    }
    Ok(())
}

/// How often queries that wait for one service are answered because another changes.
pub async fn other_changes(report: &mut Report) -> Result<()> {
    let server = Server::callboard_pinned()?;
    register_all(&server, 2, |id| id, |_| fed()).await?;
    let mut writer = Line::open(server.http()?).await?;
    let known = writer.ask(&passing(0, false)).await?.index;
    let mut tasks = JoinSet::new();
    for _ in 0..QUIET {
        let mut line = Line::open(server.http()?).await?;
        line.send(&passing_after(0, known)).await?;
        tasks.spawn_local(async move { line.answer().await });
    }
    sleep(PAUSE).await;
    for change in 0..OTHER_CHANGES {
        // It tells something else, or its check does.
        let request = match change % 4 {
            1 => fail(1),
            3 => pass(1),
            _ => register(1, 1, change + 1, fed()),
        };
        writer.ask(&request).await?;
    }
    sleep(PAUSE).await;
    let mut answered = 0;
    while let Some(answer) = tasks.try_join_next() {
        answer??;
        answered += 1;
    }
    let note = format!("{QUIET} parked, {OTHER_CHANGES} changes of another service; must be 0");
    report.add("answers_to_other_changes", f64::from(answered), "", note);
    // They did wait: what they are about wakes them.
    writer.ask(&register(0, 0, 1, fed())).await?;
    let own = timeout(PATIENCE, tasks.join_all()).await?.len();
    ensure!(own + usize::try_from(answered)? == QUIET, "{own} of {QUIET} were answered when their own service changed");
    Ok(())
}
