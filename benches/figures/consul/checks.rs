//! Health checks: how soon all doors tell a failure, and what very many of them cost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::{sleep, timeout};

use super::{
    ask::{passing, passing_after, register_all},
    dns,
    line::Line,
    target::Target,
};
use crate::{
    children::Server,
    client::{Watch, connect, milliseconds},
    now,
    report::{Report, quantile, sorted},
};

/// How many failures are looked at. Each takes up to two intervals, of a second.
const FAILURES: usize = 10;
/// None may take so long to be told.
const PATIENCE: Duration = Duration::from_secs(5);
/// An empty list.
const NOBODY: usize = 2;

const CHECKS: usize = 20_000;
const EVERY: Duration = Duration::from_secs(10);
const SERVICES: usize = 200;
const PORTS: usize = 8;
/// Until each was made once, and what it said was taken down.
const WARM_UP: Duration = Duration::from_secs(12);
const RUN: Duration = Duration::from_secs(20);

/// From the first answer of a target that it does not work, to those who want to know.
pub async fn failures(report: &mut Report) -> Result<()> {
    let server = Server::callboard_pinned()?;
    let target = Target::open(1)?;
    let (mut watched, mut answered, mut resolved) = (Vec::new(), Vec::new(), Vec::new());
    for service in 0..FAILURES {
        let [watch, answer, dns] = failure(&server, &target, service).await?;
        watched.extend(watch);
        answered.extend(answer);
        resolved.extend(dns);
    }
    if resolved.is_empty() {
        eprintln!("failure_to_dns: not measured, for this server does not answer DNS");
    }
    for (door, delays) in [("watch", watched), ("blocking_query", answered), ("dns", resolved)] {
        let delays = sorted(delays);
        for (name, share) in [("p50", 0.5), ("max", 1.0)].into_iter().filter(|_| !delays.is_empty()) {
            let note = if door == "dns" { "asked once a millisecond" } else { "" };
            report.add(format!("failure_to_{door}_{name}"), quantile(&delays, share), "ms", note);
        }
    }
    Ok(())
}

/// One failure of a service of its own: milliseconds to a watch, to a blocking query, and to DNS.
async fn failure(server: &Server, target: &Target, service: usize) -> Result<[Option<f64>; 3]> {
    target.fail(false);
    register_all(server, 1, |_| service, |_| target.check(service, "1s")).await?;
    let mut line = Line::open(server.http()?).await?;
    let works = timeout(PATIENCE, works(&mut line, service)).await;
    let known = works.context("a check never passed")??;
    let channel = connect(server.address, 1).await?.remove(0);
    let (mut watch, _) = Watch::open(&channel, service).await?;
    line.send(&passing_after(service, known)).await?;
    let resolver = match server.dns() {
        Some(address) => Some(dns::Resolver::open(address?, service).await?),
        None => None,
    };
    target.fail(true);
    let told = async {
        let watched = async { watch.changes().await.map(|_| now()) };
        let answered = async { line.answer().await.map(|_| now()) };
        let gone = async {
            match &resolver {
                Some(resolver) => resolver.gone().await.map(Some),
                None => Ok(None),
            }
        };
        tokio::try_join!(watched, answered, gone)
    };
    let (watched, answered, gone) = timeout(PATIENCE, told).await.context("a failure was never told")??;
    let failed = target.failed()?;
    let delay = |at: Instant| milliseconds(at.saturating_duration_since(failed));
    Ok([Some(delay(watched)), Some(delay(answered)), gone.map(delay)])
}

/// Waits until somebody works, and tells the index.
async fn works(line: &mut Line, service: usize) -> Result<u64> {
    loop {
        let answer = line.ask(&passing(service, false)).await?;
        if answer.length > NOBODY {
            return Ok(answer.index);
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Very many checks of targets that work.
pub async fn many(report: &mut Report) -> Result<()> {
    let server = Server::callboard_pinned()?;
    let target = Target::open(PORTS)?;
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
    report.add("checks_20000_missed", missed, "", "probes that were due and never came; must be 0");
    let late = sorted(late);
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        let note = "later than its schedule, the earliest of each being on time";
        report.add(format!("checks_20000_lag_{name}"), quantile(&late, share), "ms", note);
    }
    Ok(())
}

/// How many milliseconds after its time each probe since `start` came, and how many never did. A check is due a whole number of
/// intervals after its first probe, give or take what that one was late itself.
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
