//! Blocking queries.

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
    baseline::{RecordedAnswers, install},
    http_connection::HttpConnection,
    requests::{fail_check, pass_check, read_passing, read_passing_after, register, register_all, ttl_check},
};
use crate::{
    client::milliseconds,
    now,
    processes::Server,
    report::{Report, quantile, sorted},
};

/// Number of blocking queries whose answers are measured.
const QUERIES: usize = 1_000;
/// Duration of the writes.
const SPAN: Duration = Duration::from_secs(4);
/// Time after which all queries block again, and all answers have arrived.
const PAUSE: Duration = Duration::from_millis(800);
/// Time-out of the answers to one write.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Number of blocking queries whose memory is measured.
const MANY_QUERIES: usize = 10_000;
/// Number of blocking queries while another service changes.
const QUIET_QUERIES: usize = 100;
/// Number of changes of the other service.
const OTHER_CHANGES: usize = 100;

/// Index and time of each answer.
type ReceivedAnswers = Rc<RefCell<Vec<(u64, Instant)>>>;

/// Writes of a run: the time at which each returned, and the index after it.
#[derive(Debug, Default)]
struct Writes {
    returned: Vec<Instant>,
    indexes: Vec<u64>,
}

/// Measures answers to blocking queries on a service whose first instance registers again, with other metadata, at this interval.
pub async fn answers(server: &Server, every: Duration) -> Result<Outcome> {
    let mut writer = HttpConnection::open(server.http()?).await?;
    let known = writer.ask(&read_passing(0, false)).await?.index;
    let (received, mut tasks) = (ReceivedAnswers::default(), JoinSet::new());
    for _ in 0..QUERIES {
        let mut connection = HttpConnection::open(server.http()?).await?;
        connection.send(&read_passing_after(0, known)).await?;
        tasks.spawn_local(wait_again_and_again(connection, Rc::clone(&received)));
    }
    sleep(PAUSE).await;
    // The first write warms up, and shows that all queries are blocking.
    writer.ask(&register(0, 0, 1, ttl_check())).await?;
    let all = async {
        while received.borrow().len() < QUERIES {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(TIMEOUT, all).await.with_context(|| format!("{} of {QUERIES} were answered", received.borrow().len()))?;
    sleep(PAUSE).await;
    received.take();
    let (cpu, start) = (server.cpu()?, now());
    let history = tokio::select! {
        history = write(&mut writer, every) => history?,
        Some(failed) = tasks.join_next() => {
            failed??;
            bail!("a client stopped repeating its query");
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64();
    outcome(&received.take(), &history, cpu, seconds)
}

async fn wait_again_and_again(mut connection: HttpConnection, received: ReceivedAnswers) -> Result<()> {
    loop {
        let index = connection.answer().await?.index;
        received.borrow_mut().push((index, now()));
        connection.send(&read_passing_after(0, index)).await?;
    }
}

/// Writes at an interval, which is also the time for the answers to each write.
async fn write(writer: &mut HttpConnection, every: Duration) -> Result<Writes> {
    let mut history = Writes::default();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    for version in 2..2 + SPAN.as_millis() / every.as_millis() {
        writer.ask(&register(0, 0, usize::try_from(version)?, ttl_check())).await?;
        history.returned.push(now());
        ticks.tick().await;
        history.indexes.push(writer.ask(&read_passing(0, false)).await?.index);
    }
    Ok(history)
}

fn outcome(received: &[(u64, Instant)], history: &Writes, cpu: f64, seconds: f64) -> Result<Outcome> {
    let mut last = vec![0.0; history.returned.len()];
    let mut delays = Vec::with_capacity(received.len());
    for (index, at) in received {
        let write = history.indexes.partition_point(|after| after < index);
        // There is no other writer. An answer that arrives before the write has returned has no delay.
        let Some(returned) = history.returned.get(write) else {
            bail!("an answer has an index that no write returned: {index}")
        };
        let delay = milliseconds(at.saturating_duration_since(*returned));
        last[write] = f64::max(last[write], delay);
        delays.push(delay);
    }
    ensure!(!received.is_empty(), "no query was answered");
    #[expect(clippy::cast_precision_loss, reason = "counts")]
    let (count, wanted) = (received.len() as f64, (QUERIES * last.len()) as f64);
    Ok(vec![
        ("rate", "/s", count / seconds),
        ("answered", "%", count / wanted * 100.0),
        ("cpu", "µs", cpu * 1e6 / count),
        ("p99", "ms", quantile(&sorted(delays), 0.99)),
        ("last_p99", "ms", quantile(&sorted(last), 0.99)),
    ])
}

/// Measures the memory of a blocking query with its connection, in Callboard and in the baseline.
pub async fn memory(report: &mut Report) -> Result<()> {
    let callboard = Server::callboard_pinned()?;
    register_all(&callboard, 1, |_| 0, |_| ttl_check()).await?;
    let mut connection = HttpConnection::open(callboard.http()?).await?;
    let recorded = RecordedAnswers {
        write: connection.whole(&pass_check(0)).await?,
        read: connection.whole(&read_passing(0, false)).await?,
    };
    drop(connection);
    let baseline = Server::baseline_pinned("consul-baseline")?;
    install(&baseline, &recorded).await?;
    for (name, server, goal) in [("_baseline", baseline, ""), ("", callboard, "goal: at most 25,000")] {
        let mut writer = HttpConnection::open(server.http()?).await?;
        let known = writer.ask(&read_passing(0, false)).await?.index;
        let before = server.memory().await?;
        let mut connections = Vec::with_capacity(MANY_QUERIES);
        for _ in 0..MANY_QUERIES {
            let mut connection = HttpConnection::open(server.http()?).await?;
            connection.send(&read_passing_after(0, known)).await?;
            connections.push(connection);
        }
        let grown = server.memory().await?.saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let each = (grown as f64 / MANY_QUERIES as f64).round();
        report.add(format!("blocking_query_memory{name}"), each, "B", goal);
        // Every query is blocking, so this write answers all of them.
        writer.ask(&register(0, 0, 1, ttl_check())).await?;
        let written = now();
        for connection in &mut connections {
            connection.answer().await?;
        }
        let note = format!("{MANY_QUERIES} blocking queries: from the return of the write until all are answered");
        report.add(format!("blocking_queries_all_answered{name}"), milliseconds(written.elapsed()).round(), "ms", note);
    }
    Ok(())
}

/// Counts the blocking queries on one service that are answered because another service changes.
pub async fn other_changes(report: &mut Report) -> Result<()> {
    let server = Server::callboard_pinned()?;
    register_all(&server, 2, |id| id, |_| ttl_check()).await?;
    let mut writer = HttpConnection::open(server.http()?).await?;
    let known = writer.ask(&read_passing(0, false)).await?.index;
    let mut tasks = JoinSet::new();
    for _ in 0..QUIET_QUERIES {
        let mut connection = HttpConnection::open(server.http()?).await?;
        connection.send(&read_passing_after(0, known)).await?;
        tasks.spawn_local(async move { connection.answer().await });
    }
    sleep(PAUSE).await;
    for change in 0..OTHER_CHANGES {
        // Changes the metadata or the check.
        let request = match change % 4 {
            1 => fail_check(1),
            3 => pass_check(1),
            _ => register(1, 1, change + 1, ttl_check()),
        };
        writer.ask(&request).await?;
    }
    sleep(PAUSE).await;
    let mut answered = 0;
    while let Some(answer) = tasks.try_join_next() {
        answer??;
        answered += 1;
    }
    let note = format!("{QUIET_QUERIES} blocking queries, {OTHER_CHANGES} changes of another service; must be 0");
    report.add("answers_to_other_changes", f64::from(answered), "", note);
    // Every query is still blocking: a change of its own service answers it.
    writer.ask(&register(0, 0, 1, ttl_check())).await?;
    let own = timeout(TIMEOUT, tasks.join_all()).await?.len();
    ensure!(
        own + usize::try_from(answered)? == QUIET_QUERIES,
        "{own} of {QUIET_QUERIES} were answered when their own service changed"
    );
    Ok(())
}
