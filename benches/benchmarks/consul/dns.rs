//! DNS: CPU time of a query, and the time at which a query no longer finds an instance.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    net::UdpSocket,
    process::Command,
    time::{sleep, timeout},
};

use super::requests::{register_all, ttl_check};
use crate::{client::service_name, now, processes::Server, report::Report};

/// The same conditions as in the measurements of Consul.
const INSTANCES: usize = 10;
const FLAGS: [&str; 6] = ["-e", "-c", "8", "-q", "64", "-l"];
const SECONDS: &str = "3";
const WARM_UP: &str = "1";
/// Time-out of a run, longer than dnsperf waits for lost answers.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Measures rate and CPU time of A and SRV queries with dnsperf.
pub async fn run(report: &mut Report) -> Result<()> {
    let server = Server::callboard_pinned()?;
    let Some(address) = server.dns().transpose()? else {
        eprintln!("dns: not measured, because this server has no DNS listener");
        return Ok(());
    };
    register_all(&server, INSTANCES, |_| 0, |_| ttl_check()).await?;
    for kind in ["A", "SRV"] {
        let queries = tempfile::NamedTempFile::new()?;
        std::fs::write(queries.path(), format!("{}.service.consul {kind}\n", service_name(0)))?;
        let queries = queries.path().to_str().context("the temporary directory is not UTF-8")?;
        if dnsperf(address, queries, WARM_UP).await?.is_none() {
            eprintln!("dns: not measured, because dnsperf is not on the PATH (Debian: apt-get install dnsperf)");
            return Ok(());
        }
        let cpu = server.cpu()?;
        let result = dnsperf(address, queries, SECONDS).await?.context("dnsperf is no longer installed")?;
        let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6 / result.completed;
        let kind = kind.to_lowercase();
        let note = format!("dnsperf, 8 clients, 64 in flight, {INSTANCES} instances");
        report.add(format!("dns_{kind}_rate"), result.rate.round(), "/s", note);
        report.add(format!("dns_{kind}_cpu"), cpu, "µs", "server CPU of a query");
        report.add(format!("dns_{kind}_lost"), result.lost, "", "queries without an answer");
    }
    Ok(())
}

/// Result of dnsperf.
#[derive(Debug)]
struct DnsperfResult {
    completed: f64,
    lost: f64,
    /// Completed queries per second.
    rate: f64,
}

/// Runs dnsperf; `None` if it is not installed.
async fn dnsperf(address: SocketAddr, queries: &str, seconds: &str) -> Result<Option<DnsperfResult>> {
    let mut command = Command::new("dnsperf");
    command.args(["-s", &address.ip().to_string(), "-p", &address.port().to_string(), "-d", queries]);
    command.args(FLAGS).arg(seconds).stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(TIMEOUT, command.output()).await.context("dnsperf does not end")? {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        output => output?,
    };
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "dnsperf: {printed}{}", String::from_utf8_lossy(&output.stderr));
    let number = |name: &str| -> Result<f64> {
        let line = printed.lines().find_map(|line| line.trim().strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.with_context(|| format!("dnsperf does not print {name:?}: {printed}"))?.parse()?)
    };
    // Errors are answered fast and must not count.
    let codes = printed.lines().find(|line| line.trim().starts_with("Response codes:")).unwrap_or_default();
    ensure!(codes.contains("NOERROR") && codes.contains("(100.00%)"), "not every query found an instance: {printed}");
    let (completed, lost) = (number("Queries completed:")?, number("Queries lost:")?);
    Ok(Some(DnsperfResult { completed, lost, rate: number("Queries per second:")? }))
}

/// DNS client that queries the addresses of a service.
#[derive(Debug)]
pub struct Resolver {
    socket: UdpSocket,
    query: Vec<u8>,
}

impl Resolver {
    /// Opens a client for a service that has addresses.
    pub async fn open(address: SocketAddr, service: usize) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(address).await?;
        // One question, recursion desired.
        let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in [&*service_name(service), "service", "consul"] {
            query.push(u8::try_from(label.len())?);
            query.extend_from_slice(label.as_bytes());
        }
        // The root, A, IN.
        query.extend_from_slice(&[0, 0, 1, 0, 1]);
        let resolver = Self { socket, query };
        ensure!(resolver.found().await? > 0, "DNS does not find a passing instance");
        Ok(resolver)
    }

    async fn found(&self) -> Result<u16> {
        self.socket.send(&self.query).await?;
        let mut answer = [0; 4_096];
        let length = timeout(Duration::from_secs(1), self.socket.recv(&mut answer)).await??;
        let [_, _, _, code, _, _, high, low, ..] = answer[..length] else { bail!("a short DNS answer") };
        ensure!(matches!(code & 15, 0 | 3), "DNS answers with code {}", code & 15);
        Ok(u16::from_be_bytes([high, low]))
    }

    /// Returns the time at which the service no longer has addresses.
    pub async fn gone(&self) -> Result<Instant> {
        while self.found().await? > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        Ok(now())
    }
}
