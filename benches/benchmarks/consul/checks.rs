//! Health checks: delay from a failure to the readers of each protocol, and the cost of 20,000 checks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::{sleep, timeout};

use super::{
    check_target::CheckTarget,
    dns,
    http_connection::HttpConnection,
    requests::{read_passing, read_passing_after, register_all},
};
use crate::{
    client::{Watch, connect, milliseconds},
    now,
    processes::Server,
    report::{Report, quantile, sorted},
};

/// Number of measured failures; each takes up to two intervals of a second.
const FAILURES: usize = 10;
/// Time-out of a failure to reach the readers.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Length of an empty list in JSON.
const EMPTY_LIST_LENGTH: usize = 2;

const CHECKS: usize = 20_000;
const EVERY: Duration = Duration::from_secs(10);
const SERVICES: usize = 200;
const PORTS: usize = 8;
/// Time until each check has run once and its result is recorded.
const WARM_UP: Duration = Duration::from_secs(12);
const RUN: Duration = Duration::from_secs(20);

/// Measures the delay from the first failed probe to a watch, a blocking query and DNS.
pub async fn failures(report: &mut Report) -> Result<()> {
    let server = Server::callboard_pinned()?;
    let target = CheckTarget::open(1)?;
    let (mut watched, mut answered, mut resolved) = (Vec::new(), Vec::new(), Vec::new());
    for service in 0..FAILURES {
        let [watch, answer, dns] = failure(&server, &target, service).await?;
        watched.extend(watch);
        answered.extend(answer);
        resolved.extend(dns);
    }
    if resolved.is_empty() {
        eprintln!("failure_to_dns: not measured, because this server has no DNS listener");
    }
    for (reader, delays) in [("watch", watched), ("blocking_query", answered), ("dns", resolved)] {
        let delays = sorted(delays);
        for (name, share) in [("p50", 0.5), ("max", 1.0)].into_iter().filter(|_| !delays.is_empty()) {
            let note = if reader == "dns" { "queried once a millisecond" } else { "" };
            report.add(format!("failure_to_{reader}_{name}"), quantile(&delays, share), "ms", note);
        }
    }
    Ok(())
}

/// Measures one failure, in a service of its own: milliseconds to a watch, to a blocking query, and to DNS.
async fn failure(server: &Server, target: &CheckTarget, service: usize) -> Result<[Option<f64>; 3]> {
    target.fail(false);
    register_all(server, 1, |_| service, |_| target.check(service, "1s")).await?;
    let mut connection = HttpConnection::open(server.http()?).await?;
    let passing = timeout(TIMEOUT, wait_until_passing(&mut connection, service)).await;
    let known = passing.context("a check did not pass")??;
    let channel = connect(server.address, 1).await?.remove(0);
    let (mut watch, _) = Watch::open(&channel, service).await?;
    connection.send(&read_passing_after(service, known)).await?;
    let resolver = match server.dns() {
        Some(address) => Some(dns::Resolver::open(address?, service).await?),
        None => None,
    };
    target.fail(true);
    let received = async {
        let watched = async { watch.changes().await.map(|_| now()) };
        let answered = async { connection.answer().await.map(|_| now()) };
        let gone = async {
            match &resolver {
                Some(resolver) => resolver.gone().await.map(Some),
                None => Ok(None),
            }
        };
        tokio::try_join!(watched, answered, gone)
    };
    let (watched, answered, gone) =
        timeout(TIMEOUT, received).await.context("a failure did not reach all readers")??;
    let failed = target.failed()?;
    let delay = |at: Instant| milliseconds(at.saturating_duration_since(failed));
    Ok([Some(delay(watched)), Some(delay(answered)), gone.map(delay)])
}

/// Waits until the service has a passing instance, and returns the index.
async fn wait_until_passing(connection: &mut HttpConnection, service: usize) -> Result<u64> {
    loop {
        let answer = connection.ask(&read_passing(service, false)).await?;
        if answer.length > EMPTY_LIST_LENGTH {
            return Ok(answer.index);
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Measures 20,000 checks of targets that pass.
pub async fn many(report: &mut Report) -> Result<()> {
    let server = Server::callboard_pinned()?;
    let target = CheckTarget::open(PORTS)?;
    let interval = format!("{}s", EVERY.as_secs());
    register_all(&server, CHECKS, |id| id % SERVICES, |id| target.check(id, &interval)).await?;
    sleep(WARM_UP).await;
    let (cpu, start) = (server.cpu()?, now());
    sleep(RUN).await;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64();
    let probes = target.probes();
    #[expect(clippy::cast_precision_loss, reason = "some ten thousand")]
    let made = probes.iter().filter(|(_, at)| *at >= start).count() as f64;
    let note = format!("of a core: {CHECKS} HTTP checks at {interval}");
    report.add("checks_20000_cpu", cpu / seconds * 100.0, "%", note);
    report.add("checks_20000_cpu_each", cpu * 1e6 / made, "µs", "server CPU of a probe");
    report.add("checks_20000_rate", made / seconds, "/s", "goal: 2,000, and no drift");
    let (late, missed) = lateness(&probes, start);
    report.add("checks_20000_missed", missed, "", "probes that were due and not made; must be 0");
    let late = sorted(late);
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        let note = "delay after the schedule, which begins with the earliest probe of each check";
        report.add(format!("checks_20000_lag_{name}"), quantile(&late, share), "ms", note);
    }
    Ok(())
}

/// Returns the delay in milliseconds of each probe since `start`, and the number of missing probes. A check is due a whole number
/// of intervals after its first probe, less the delay of that probe.
fn lateness(probes: &[(usize, Instant)], start: Instant) -> (Vec<f64>, f64) {
    let mut of_each = vec![Vec::new(); CHECKS];
    for (check, at) in probes {
        of_each[*check].push(*at);
    }
    let (mut late, mut missed) = (Vec::with_capacity(probes.len()), 0.0);
    for times in &of_each {
        let intervals = |at: &Instant| at.duration_since(times[0]).as_secs_f64() / EVERY.as_secs_f64();
        let off = |at: &Instant| (intervals(at) - intervals(at).round()) * milliseconds(EVERY);
        let on_time = times.iter().map(off).fold(f64::INFINITY, f64::min);
        late.extend(times.iter().filter(|at| **at >= start).map(|at| off(at) - on_time));
        let skipped = |pair: &[Instant]| (intervals(&pair[1]) - intervals(&pair[0])).round() - 1.0;
        missed += times.windows(2).map(skipped).sum::<f64>();
        if times.is_empty() {
            missed += (WARM_UP + RUN).as_secs_f64() / EVERY.as_secs_f64();
        }
    }
    (late, missed)
}
